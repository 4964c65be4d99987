"""The command `finetune`: from an encoder and labels to a model, its scores, and maps."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from finetune.config import FinetuneRun
from infra.command import command_app, run, say

app = command_app("finetune", "Tasks on top of an encoder: training, honest scores, and maps.")

Device = Literal["auto", "cpu", "cuda"]

_DIALS = "Dials (options beat --config beats --run beats these defaults)"


@app.command(name="train")
def train_command(
    *,
    data: str,
    out: str,
    hold_out: str,
    encoder: str = "random",
    seeds: int = 1,
    recipe: Annotated[str | None, Parameter(name="--run")] = None,
    config: str | None = None,
    device: Device = "auto",
    options: Annotated[
        FinetuneRun | None, Parameter(name="*", group=_DIALS, negative_iterable=(), negative_none=())
    ] = None,
) -> None:
    """Train a segmentation model and score it on scenes that took no part in training.

    Parameters
    ----------
    data
        Corpus with labels: its URL or that of one of its manifests.
    out
        Where models, checkpoints, logs and scores.json go (URL).
    hold_out
        Scenes to score on, by id, separated by commas.
    encoder
        URL of encoder.safetensors from `pretrain`, or "random".
    seeds
        How many times to train: seeds --seed, --seed + 1, ...
    recipe
        Named run to start from (few-labels-cpu, uper-r50).
    config
        YAML file over the named run; options beat both.
    device
        Where to compute.
    options
        Everything that makes the run.
    """
    from finetune import fit
    from infra.errors import UsageError
    from infra.world import current
    from pretrain.config import resolve

    if seeds < 1:
        raise UsageError(f"--seeds {seeds}: expected at least 1")
    settings = resolve(FinetuneRun, run=recipe, config=config, options=options, package="finetune.runs")
    task = fit.open_task(data, _names(hold_out), _note, settings.reading)
    start = fit.open_start(encoder, task.corpus, _note)
    record = fit.fit(task, start, settings, out, current(device), seeds, _note)
    say(f"{len(task.train)} scenes to learn from, held out: {', '.join(task.held_out)}; encoder: {encoder}", "")
    say(*_table(record["summary"], task.legend.names, task.legend.background_output))
    say("", f"model {out.rstrip('/')}/{fit.MODEL}", f"scores {out.rstrip('/')}/{fit.SCORES}")


@app.command
def score(
    model: str,
    *,
    data: str,
    scenes: str,
    device: Device = "auto",
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> None:
    """Score a model on labelled scenes, all in one confusion matrix.

    Parameters
    ----------
    model
        URL of model.safetensors.
    data
        Corpus with labels, made by the same recipe as the model's.
    scenes
        Scene ids separated by commas.
    device
        Where to compute.
    as_json
        Print every number, scene by scene, as JSON.
    """
    from finetune import fit
    from finetune.legend import read_legend
    from finetune.metrics import over_seeds
    from finetune.model import check_bands, check_legend, check_pixels, load_model
    from infra.world import current
    from shards.reader import Corpus

    segmenter, card = load_model(model)
    corpus, names = Corpus.open(data), _names(scenes)
    check_pixels(card.pixels_digest, f"model {model}", corpus)
    check_bands(card.encoder.bands, fit.require_labels(corpus, names), f"model {model}")
    check_legend(card.legend, read_legend(corpus.manifest.legend, data), data)
    if seen := sorted(set(names) & set(card.trained_on)):
        _note(f"warning: the model learned from {', '.join(seen)}: these scores say nothing about new scenes")
    world = current(device)
    overall, by_scene = fit.score_scenes(segmenter, corpus, card.legend, names, card.crop_px, world.device)
    if as_json:
        say(json.dumps({"scores": overall.flat(), "scenes": {s: x.flat() for s, x in by_scene.items()}}, indent=1))
        return
    spread = {name: {"mean": v.mean, "std": v.std} for name, v in over_seeds([overall.flat()]).items()}
    say(f"{len(names)} scenes, {overall.pixels} labelled pixels", "")
    say(*_table(spread, card.legend.names, card.legend.background_output))


@app.command(name="map")
def map_command(
    model: str,
    *,
    data: str,
    scene: str,
    out: Path,
    overlay: Path | None = None,
    window: int | None = None,
    overlap: int | None = None,
    device: Device = "auto",
) -> None:
    """Map a scene of a corpus: a GeoTIFF of classes, its legend as JSON, and a picture with the radar image beside.

    Parameters
    ----------
    model
        URL of model.safetensors.
    data
        Corpus that holds the scene, made by the same recipe as the model's.
    scene
        Scene id.
    out
        GeoTIFF to write; map.legend.json and map.png go beside map.tif.
    overlay
        Picture to write instead of map.png.
    window
        Side of the prediction window in pixels; the size that the model learned from if left out.
    overlap
        Pixels by which windows overlap; a quarter of the window if left out.
    device
        Where to compute.
    """
    from finetune.mapping import map_scene
    from infra.world import current

    place = map_scene(model, data, scene, out, overlay, window, overlap, current(device).device)
    if place.report.confidence is None:
        _note("warning: the scene holds no data, the map is empty")
    if not place.placed:
        _note(f"warning: scene {scene} has no place on the ground, the map is in pixels")
    pixels = place.report.pixels
    whole = max(sum(pixels.values()), 1)
    for land_class in place.legend.classes:
        say(f"{land_class.name:<20} {pixels[land_class.id]:>12} px {100 * pixels[land_class.id] / whole:6.2f} %")
    say(f"{'no data':<20} {place.report.no_data:>12} px", "")
    say(f"map {out}", f"legend {place.legend_path}", f"picture {place.picture}")


@app.command
def runs() -> None:
    """List the named runs that come with the package."""
    from pretrain.config import named_runs

    say(*named_runs("finetune.runs"))


def main() -> None:
    """Run the command line."""
    run(app)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _note(text: str) -> None:
    sys.stderr.write(f"finetune: {text}\n")


def _table(summary: Mapping[str, Mapping[str, Any]], classes: Sequence[str], background: int | None) -> list[str]:
    width = max(16, *(len(name) + 13 for name in classes))
    head = f"{'class':<{width}}" + "".join(f"{kind:>16}" for kind in ("precision", "recall", "F1", "IoU"))
    lines = [head]
    for i, name in enumerate(classes):
        shown = f"{name} (background)" if i == background else name
        cells = (_cell(summary[f"{kind}/{name}"]) for kind in ("precision", "recall", "f1", "iou"))
        lines.append(f"{shown:<{width}}" + "".join(f"{cell:>16}" for cell in cells))
    lines.append("")
    for name, key in (
        ("OA", "oa"),
        ("kappa", "kappa"),
        ("mIoU", "miou"),
        ("mIoU without background", "miou_no_background"),
        ("mean F1", "mf1"),
        ("mean F1 without background", "mf1_no_background"),
    ):
        lines.append(f"{name:<28}{_cell(summary[key]):>16}")
    return lines


def _cell(spread: Mapping[str, Any]) -> str:
    if spread["mean"] is None:
        return "-"
    deviation = "" if spread["std"] is None else f" ± {100 * spread['std']:.2f}"
    return f"{100 * spread['mean']:.2f}{deviation}"


if __name__ == "__main__":
    main()
