"""The plan of an evaluation: every data set and encoder opened once, folds dealt, a unit for every number asked for."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from finetune.bench_units import FINETUNE, FORMAT, FROZEN, USES, Bench, Fold, Job, Known, Named, Plan, Setting, Unit
from finetune.config import FinetuneRun
from finetune.experiment import Experiment, open_experiment
from finetune.legend import read_legend
from finetune.predict import labelled_scenes
from finetune.splits import SameGround, ids_of
from finetune.start import RANDOM, Say, Task, open_start
from infra.errors import SarsenseError, UsageError
from infra.record import digest
from pretrain.export import CARD, read_header
from pretrain.reading import open_corpus
from shards.reader import Corpus


def make_plan(bench: Bench, device: str, say: Say) -> Plan:
    """Open every data set and encoder once, and list what is to be done.

    Raises UsageError for data or folds that cannot be; an encoder that cannot be opened only fails its own units.
    """
    _check(bench)
    setting = Setting(bench.out, bench.run, bench.probing, bench.same_ground, bench.keep_models, device)
    plan = Plan(
        bench, [], [], {}, {}, {one.name: {"url": one.url, "digests": {}, "depth": None} for one in bench.encoders}
    )
    for data in bench.data:
        corpus = open_corpus(data.url, bench.run.reading)
        folds = _folds(bench, data, corpus)
        made = {fold.name: open_fold(data.url, corpus.manifest.digest, fold.held_out, setting) for fold in folds}
        facts = [f"fold {name}: {line}" for name, one in made.items() for line in one.facts["notes"]]
        plan.data[data.name] = {
            "url": data.url,
            "manifest": corpus.manifest.digest,
            "legend": read_legend(corpus.manifest.legend, data.url).model_dump(mode="json"),
            "folds": {fold.name: list(made[fold.name].task.held_out) for fold in folds},
            "used": {name: one.task.corpus.manifest.digest for name, one in made.items()},
            "notes": facts,
        }
        starts = _starts(bench, data, corpus, plan, say)
        for encoder in bench.encoders:
            _add(plan, setting, data, encoder, folds, made, starts[encoder.name])
    for line in _depths(plan):
        say(f"warning: {line}")
    plan.units.sort(key=_place(bench))
    # Probes of one fold after each other share what was read; fine-tuning goes seed by seed, so that pairs come soon.
    trained = [job for job in plan.jobs if job.units[0].use == FINETUNE]
    probes = [job for job in plan.jobs if job.units[0].use != FINETUNE]
    plan.jobs = sorted(probes, key=lambda job: (job.data, job.held_out)) + sorted(trained, key=_seed)
    return plan


def _seed(job: Job) -> int:
    return job.units[0].seed


def _place(bench: Bench) -> Callable[[Unit], tuple[int, ...]]:
    """Give the order of the tables: data, use, stage, fraction, encoder, seed."""
    data, encoders = [one.name for one in bench.data], [one.name for one in bench.encoders]

    def place(unit: Unit) -> tuple[int, ...]:
        task = bench.uses.index(unit.use), unit.stage, bench.fractions.index(unit.fraction)
        return data.index(unit.data), *task, encoders.index(unit.encoder), unit.seed

    return place


def _check(bench: Bench) -> None:
    if not bench.encoders or not bench.data:
        raise UsageError("an evaluation needs one encoder or more, and one data set or more (--data)")
    if bench.seeds < 1 or bench.folds < 2:
        raise UsageError(f"--seeds {bench.seeds}, --folds {bench.folds}: expected at least 1 seed and 2 folds")
    kind = bench.run.task.kind
    if wrong := [use for use in bench.uses if use not in USES[kind]]:
        known = ", ".join(USES[kind]) or "none: give segmentation, classification, multilabel or regression"
        raise UsageError(f"--use {','.join(wrong)} does not apply to the task {kind}; what applies: {known}")
    if not bench.uses:
        raise UsageError(f"--use is empty: expected some of {','.join(USES[kind])}")
    if not bench.probing.stages or not set(bench.probing.stages) <= {1, 2, 3, 4}:
        raise UsageError(f"--stages {','.join(map(str, bench.probing.stages))}: expected some of 1,2,3,4")
    if bench.probing.most_cells < 1:
        raise UsageError(f"--cells {bench.probing.most_cells}: expected 1 or more")
    if bench.probing.cell_px not in (4, 8, 16, 32):
        raise UsageError(f"--cell {bench.probing.cell_px}: expected 4, 8, 16 or 32 pixels")
    if bench.reference not in [one.name for one in bench.encoders]:
        names = ", ".join(one.name for one in bench.encoders)
        raise UsageError(f"no encoder {bench.reference!r} to compare with (--reference): there are {names}")


def _folds(bench: Bench, data: Named, corpus: Corpus) -> list[Fold]:
    """Deal the labelled scenes, sorted by name, in turn to the folds that are used."""
    if bench.hold_out:
        return [Fold("held-out", ids_of(bench.hold_out))]
    scenes = labelled_scenes(corpus)
    if len(scenes) < bench.folds:
        raise UsageError(
            f"{data.name} has {len(scenes)} labelled scenes, too few for {bench.folds} folds: give fewer (--folds), or"
            " name scenes to hold out (--hold-out)"
        )
    if odd := [name for name in scenes if "," in name or name.startswith("@")]:
        raise UsageError(f"scene {odd[0]!r} of {data.name} cannot be dealt to folds: its name has a comma or an @")
    used = range(bench.folds) if bench.all_folds else sorted({seed % bench.folds for seed in bench.seed_numbers})
    return [Fold(str(n), ",".join(scenes[n :: bench.folds])) for n in used]


@lru_cache(maxsize=16)
def _opened(data: str, manifest: str, held_out: str, same_ground: SameGround, run: str) -> Experiment:
    made = open_experiment(
        data, FinetuneRun.model_validate_json(run), lambda _: None, hold_out=held_out, same_ground=same_ground
    )
    if made.source.manifest.digest != manifest:
        raise UsageError(f"{data} has another version now than when the evaluation began: run it again")
    return made


def open_fold(data: str, manifest: str, held_out: str, setting: Setting) -> Experiment:
    """Open a corpus divided for a fold; kept, since many jobs use the same."""
    run = setting.run.model_copy(update={"seed": 0})
    return _opened(data, manifest, held_out, setting.same_ground, run.model_dump_json())


def _starts(
    bench: Bench, data: Named, corpus: Corpus, plan: Plan, say: Say
) -> dict[str, dict[int, Known | SarsenseError]]:
    """Open every encoder for a data set, seed by seed; gives what it is, or why it could not be opened."""
    found: dict[str, dict[int, Known | SarsenseError]] = {}
    for encoder in bench.encoders:
        by_url: dict[str, Known | SarsenseError] = {}
        notes = plan.data[data.name]["notes"]
        for seed in bench.seed_numbers:
            url = encoder.of_seed(seed)
            if url not in by_url:
                heard: list[str] = []
                by_url[url] = _open(url, corpus, bench.run, heard.append)
                notes.extend(f"{encoder.name}: {line}" for line in heard)
                for line in heard:
                    say(f"{line} ({encoder.name} on {data.name})")
                if isinstance(by_url[url], SarsenseError):
                    say(f"warning: {encoder.name} on {data.name}: {by_url[url]}")
            start = by_url[url]
            if isinstance(start, Known):
                plan.encoders[encoder.name]["digests"][str(seed)] = start.digest
                plan.encoders[encoder.name]["depth"] = start.depth
        found[encoder.name] = {seed: by_url[encoder.of_seed(seed)] for seed in bench.seed_numbers}
    return found


def _open(url: str, corpus: Corpus, run: FinetuneRun, say: Say) -> Known | SarsenseError:
    try:
        start = open_start(url, corpus, say)
    except SarsenseError as error:
        return error
    depth = run.depth if start.data is None else json.loads(read_header(start.data)[CARD])["depth"]
    return Known(start.digest, int(depth))


def _depths(plan: Plan) -> Iterator[str]:
    """Say where random weights are of another depth than an encoder that they are compared with."""
    depths = {name: facts["depth"] for name, facts in plan.encoders.items() if facts["depth"] is not None}
    random = [one.name for one in plan.bench.encoders if one.url == RANDOM]
    for name in random:
        if other := {n: d for n, d in depths.items() if d != depths[name]}:
            listed = ", ".join(f"{n} is a ResNet-{d}" for n, d in other.items())
            yield f"{name} is a ResNet-{depths[name]}, but {listed}: --depth makes random weights of equal depth"


def _add(
    plan: Plan,
    setting: Setting,
    data: Named,
    encoder: Named,
    folds: Iterable[Fold],
    made: Mapping[str, Experiment],
    starts: Mapping[int, Known | SarsenseError],
) -> None:
    """Add the units and jobs of one encoder on one data set."""
    bench, manifest = plan.bench, str(plan.data[data.name]["manifest"])
    held_out = {fold.name: fold.held_out for fold in folds}
    together: dict[tuple[Any, ...], list[Unit]] = {}
    for seed, fold in _draws(bench, made):
        start, task = starts[seed], made[fold].task
        url = encoder.of_seed(seed)
        known = start.digest if isinstance(start, Known) else f"unreadable: {url}"
        first = (seed, fold) == next(_draws(bench, made))
        for use, stage, fraction in _asked(bench):
            name = digest(_identity(bench, task, known, use, stage, fraction, seed))
            pictures = first and fraction == max(bench.fractions)
            unit = Unit(data.name, encoder.name, use, stage, fraction, seed, fold, name, pictures)
            plan.units.append(unit)
            if isinstance(start, SarsenseError):
                plan.failed[name] = str(start)
                continue
            # Frozen features serve all seeds that share encoder and fold; a random encoder is another for each seed.
            shared = (seed, fraction) if use == FINETUNE else (seed if url == RANDOM else -1,)
            together.setdefault((use == FINETUNE, fold, url, known, *shared), []).append(unit)
    for (_, fold, url, known, *_), units in together.items():
        plan.jobs.append(Job(setting, data.url, manifest, held_out[fold], url, known, tuple(units)))


def _draws(bench: Bench, folds: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Give every seed with the folds that it holds out."""
    names = list(folds)
    for seed in bench.seed_numbers:
        yield from (
            (seed, fold) for fold in names if bench.hold_out or bench.all_folds or seed % bench.folds == int(fold)
        )


def _asked(bench: Bench) -> Iterator[tuple[str, int, float]]:
    """Give (use, stage, fraction) of every unit of a seed and fold."""
    for use in bench.uses:
        for stage in (0,) if use == FINETUNE else bench.probing.stages:
            yield from ((use, stage, fraction) for fraction in bench.fractions)


def _identity(
    bench: Bench, task: Task, encoder: str, use: str, stage: int, fraction: float, seed: int
) -> dict[str, Any]:
    """Give everything that decides the result of a unit."""
    run = bench.run.model_copy(update={"seed": seed}).identity()
    decided: dict[str, Any] = {"run": run}
    if use in FROZEN:
        probing = asdict(bench.probing)
        kept = ("cell_px", "most_cells", "neighbours" if use == "knn" else "l2")
        decided = {"run": {name: run[name] for name in ("task", "depth", "input")}, "stage": stage}
        decided |= {"probing": {name: probing[name] for name in kept}}
    if fraction < 1 and (bench.run.task.tiles or bench.run.task.kind == "regression"):
        decided["labels"] = "answers"  # drawn otherwise than by versions that counted pixels
    return {
        "format": FORMAT,
        "use": use,
        "fraction": fraction,
        "seed": seed,
        "encoder": encoder,
        "manifest": task.corpus.manifest.digest,
        "train": list(task.train),
        "held_out": list(task.held_out),
        **decided,
    }
