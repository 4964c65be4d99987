"""``finetune bench``: encoders side by side on every data set at hand."""

import sys
from typing import Annotated, Literal

from cyclopts import Parameter

from finetune.config import FinetuneRun
from infra.command import say

Several = Parameter(negative="")


def bench(
    *encoders: str,
    data: Annotated[tuple[str, ...], Several],
    out: str,
    fractions: str = "1,10,100",
    seeds: int = 5,
    folds: int = 4,
    all_folds: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    hold_out: str = "",
    same_ground: Literal["refuse", "drop", "keep"] = "refuse",
    use: str = "knn,linear,finetune",
    reference: str | None = None,
    stages: str = "1,2,3,4",
    cell: int = 16,
    cells: int = 20_000,
    keep_models: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    ray_address: str | None = None,
    workers: int = 1,
    recipe: Annotated[str | None, Parameter(name="--run")] = None,
    config: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    options: Annotated[
        FinetuneRun | None,
        Parameter(
            name="*",
            group="Dials (options beat --config beats --run beats these defaults)",
            negative_iterable=(),
            negative_none=(),
        ),
    ] = None,
) -> None:
    """Compare encoders on labelled data: neighbours, linear probes, few labels, fine-tuning; tables and one page.

    Leaves runs.csv, table.csv, bench.html and bench.json under --out. Started again, it does only what is missing.
    Each encoder is "random", or a file or URL of any kind that `train` takes, with a name of its own before it if
    wished: NAME=URL. {seed} in it stands for the seed, so that every seed has an encoder of its own pretraining.

    Parameters
    ----------
    encoders
        Encoders to compare.
    data
        Corpus with labels, as URL or NAME=URL; several: --data A --data B.
    out
        Where results go (URL).
    fractions
        Per cent of the training labels, drawn by the seed, equal for all encoders.
    seeds
        How many seeds: --seed, --seed + 1, ...
    folds
        Labelled scenes, sorted by name, are dealt in turn to so many folds; seed s holds out fold s mod folds.
    all_folds
        Every seed holds out every fold in turn.
    hold_out
        Scenes to hold out instead, one fold for all: ids, a file of ids, or @TAG.
    same_ground
        What to do with tiles that show ground of a held-out scene: refuse, drop them, or keep them and say so.
    use
        What to do with an encoder: knn and linear (frozen features), finetune (everything is trained).
    reference
        Name of the encoder that the others are compared with; random if it is among them, else the first.
    stages
        Stages whose frozen features are probed.
    cell
        Pixels of a side of a probed cell: 4, 8, 16 or 32.
    cells
        Most cells that teach a probe, and that score it.
    keep_models
        Keep the models that are fine-tuned now under models/; what was done before is not done again for it.
    ray_address
        Ray cluster to work on, one CPU for each task.
    workers
        Tasks at once; 1 without an address: all in this process.
    recipe
        Named run of the fine-tuning to start from (see `finetune runs`).
    config
        YAML file over the named run; options beat both.
    device
        Where to compute; tasks on Ray use a CPU.
    options
        Everything that makes a fine-tuning.
    """
    from finetune.bench import run_bench
    from finetune.bench_report import failures
    from finetune.bench_tables import bench_lines
    from finetune.bench_units import Bench, Probing, named
    from finetune.fractions import percent_list
    from finetune.start import RANDOM
    from infra.errors import PartialError, SarsenseError
    from infra.store import absolute
    from pretrain.config import resolve

    known = named(encoders, "encoder")
    names = [one.name for one in known]
    asked = Bench(
        encoders=known,
        data=named(data, "data set"),
        out=absolute(out),
        run=resolve(FinetuneRun, run=recipe, config=config, options=options, package="finetune.runs"),
        fractions=tuple(sorted(set(percent_list(fractions)))),
        seeds=seeds,
        folds=folds,
        all_folds=all_folds,
        hold_out=hold_out,
        same_ground=same_ground,
        uses=_words(use),
        probing=Probing(stages=_numbers(stages), cell_px=cell, most_cells=cells),
        reference=reference or (RANDOM if RANDOM in names else names[0] if names else RANDOM),
        keep_models=keep_models,
    )
    found = run_bench(asked, device=device, address=ray_address, workers=workers, say=_note)
    say(*bench_lines(found.plan, found.lines))
    root = asked.out.rstrip("/")
    say("", f"{found.done} of {len(found.plan.units)} units were done now")
    say(f"page   {root}/bench.html", f"tables {root}/table.csv, {root}/runs.csv")
    if found.failed:
        for encoder, name, units, reason in failures(found.plan, found.failed):
            _note(f"{units} units of {encoder} on {name} failed: {reason}")
        count = f"{len(found.failed)} of {len(found.plan.units)} units failed"
        text = f"{count}: see {root}/failed; the same command tries them again"
        raise PartialError(text) if found.runs else SarsenseError(text)


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _numbers(text: str) -> tuple[int, ...]:
    from infra.errors import UsageError

    try:
        return tuple(sorted({int(part) for part in _words(text)}))
    except ValueError:
        raise UsageError(f"--stages {text}: expected numbers of stages, such as 3,4") from None


def _note(text: str) -> None:
    sys.stderr.write(f"finetune: {text}\n")
