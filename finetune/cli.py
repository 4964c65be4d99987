"""The command `finetune`: from an encoder and labels to a model, its scores, and maps."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from finetune.cli_bench import bench
from finetune.config import FinetuneRun
from infra.command import command_app, run, say

app = command_app("finetune", "Tasks on top of an encoder: training, honest scores, and maps.")

Device = Literal["auto", "cpu", "cuda"]
Flag = Parameter(negative="", show_default=False)
Json = Annotated[bool, Parameter(name="--json", negative="", show_default=False)]

_DIALS = "Dials (options beat --config beats --run beats these defaults)"


@app.command(name="train")
def train_command(
    *,
    data: str,
    out: str,
    hold_out: str,
    validate: str = "",
    same_ground: Literal["refuse", "drop", "keep"] = "refuse",
    encoder: str = "random",
    seeds: int = 1,
    labels: Annotated[float, Parameter(validator=Number(gt=0, lte=100))] = 100,
    label_seed: int = 0,
    tries: Annotated[tuple[str, ...], Parameter(name="--try", negative="")] = (),
    choose_by: str | None = None,
    recipe: Annotated[str | None, Parameter(name="--run")] = None,
    config: str | None = None,
    device: Device = "auto",
    options: Annotated[
        FinetuneRun | None, Parameter(name="*", group=_DIALS, negative_iterable=(), negative_none=())
    ] = None,
) -> None:
    """Train a model of a task and score it on scenes that took no part in training.

    Scenes are named by id, separated by commas; by a file of ids (.txt, .csv: first column); or as @TAG, a version
    made by `shards split`, by scenes or by geographic bands. What is not named is to learn from.

    Parameters
    ----------
    data
        Corpus with labels: its URL or that of one of its manifests.
    out
        Where models, checkpoints, logs and scores.json go (URL).
    hold_out
        Scenes to test on. Nothing is chosen by them.
    validate
        Scenes to choose a model by, of those that --try makes.
    same_ground
        What to do with tiles that show ground of a part they are not in: refuse, drop them, or keep them and say so.
    encoder
        URL of encoder.safetensors from `pretrain`, or "random".
    seeds
        How many times to train: seeds --seed, --seed + 1, ...
    labels
        Per cent of the labels to learn from; every class stays, 1 % is part of 5 % of the same --label-seed.
    label_seed
        Which tiles those are.
    tries
        A dial and values to choose from, such as optim.lr=0.001,0.0003; several make every combination.
    choose_by
        Score to choose by, such as f1/water; that of the task if left out.
    recipe
        Named run to start from (see `finetune runs`).
    config
        YAML file over the named run; options beat both.
    device
        Where to compute.
    options
        Everything that makes the run.
    """
    from finetune import experiment, fit
    from finetune.start import open_start
    from finetune.tables import score_lines
    from finetune.targets import task_legend
    from infra.errors import UsageError
    from infra.world import current
    from pretrain.config import resolve

    if seeds < 1:
        raise UsageError(f"--seeds {seeds}: expected at least 1")
    if (tries or choose_by) and not validate:
        raise UsageError("--try and --choose-by need scenes to choose by: name them with --validate")
    settings = resolve(FinetuneRun, run=recipe, config=config, options=options, package="finetune.runs")
    made = experiment.open_experiment(
        data,
        settings,
        _note,
        hold_out=hold_out,
        validate=validate,
        same_ground=same_ground,
        label_percent=labels,
        label_seed=label_seed,
    )
    start = open_start(encoder, made.source, _note)
    if validate:
        runs = experiment.candidates(settings, tries)
        record = experiment.choose_and_test(made, start, runs, out, current(device), seeds, _note, choose_by)
    else:
        record = fit.fit(made.task, start, settings, out, current(device), seeds, _note, facts=made.facts)
    task = made.task
    chosen = f"validated on: {', '.join(made.validate)}; " if validate else ""
    say(f"{len(task.train)} scenes to learn from, {chosen}held out: {', '.join(task.held_out)}; encoder: {encoder}", "")
    say(*score_lines(record["summary"], task_legend(task.legend, settings.task)))
    say("", f"model {out.rstrip('/')}/{fit.MODEL}", f"scores {out.rstrip('/')}/{fit.SCORES}")


@app.command
def score(
    model: str,
    *,
    data: str,
    scenes: str,
    boundary: float | None = None,
    lines: str | None = None,
    buffer: float = 3.0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Score a model on labelled scenes, all together: of classes from one confusion matrix.

    Parameters
    ----------
    model
        URL of model.safetensors.
    data
        Corpus with labels, made by the same recipe as the model's.
    scenes
        Scene ids separated by commas, a file of ids, or @TAG (of a scene in several parts, the tagged tiles).
    boundary
        Score contours, too: the boundary F1 within so many pixels.
    lines
        Class whose centre lines are scored: completeness, correctness, quality.
    buffer
        How many pixels a centre line may lie beside the true one.
    device
        Where to compute.
    as_json
        Print every number, scene by scene, as JSON.
    """
    from finetune.legend import read_legend
    from finetune.metrics import over_seeds
    from finetune.model import load_network
    from finetune.scene_scores import ContourDials, score_model, seen_before
    from finetune.splits import named_part, scenes_of
    from finetune.tables import score_lines
    from infra.world import current
    from shards.reader import Corpus

    network, card = load_network(model)
    whole = Corpus.open(data)
    names, corpus = scenes_of(whole, scenes), named_part(whole, scenes)
    legend = read_legend(corpus.manifest.legend, data)
    dials = ContourDials(boundary, lines, buffer)
    overall, by_scene = score_model(network, card, model, corpus, legend, names, dials, current(device).device)
    pixels = overall.pop("pixels", None)
    for line in seen_before(card, names, whole=corpus is whole):
        _note(line)
    if as_json:
        say(json.dumps({"scores": overall, "scenes": by_scene}, indent=1))
        return
    spread = {name: {"mean": v.mean, "std": v.std} for name, v in over_seeds([overall]).items()}
    say(f"{len(names)} scenes" + ("" if pixels is None else f", {pixels:.0f} labelled pixels"), "")
    say(*score_lines(spread, card.legend))


@app.command(name="map")
def map_command(
    model: str,
    *,
    data: str,
    out: Path,
    scene: str | None = None,
    before: str | None = None,
    vectors: str = "",
    confidence: Annotated[bool, Parameter(negative="--no-confidence")] = True,
    overlay: Path | None = None,
    window: int | None = None,
    overlap: int | None = None,
    margin: int = 0,
    simplify: Annotated[float, Parameter(validator=Number(gte=0))] = 1.0,
    least_area: Annotated[int, Parameter(validator=Number(gte=0))] = 4,
    device: Device = "auto",
) -> None:
    """Map one scene of a corpus, or all of them, as cloud-optimised GeoTIFFs that any GIS opens.

    Beside map.tif (classes with colours and names; 255 is no data) go map.confidence.tif (0 to 100 %),
    map.legend.json, map.png and map.html (the radar image beside the classes, km2 of each), map.json (a STAC item
    that names scene, recipe, corpus and model), and map.CLASS.parquet (GeoParquet) for every class of --vectors.
    A model of numbers (regression) gives map.tif in float32, NaN is no data, with map.png, map.html and map.json.

    Parameters
    ----------
    model
        URL of model.safetensors.
    data
        Corpus that holds the scenes, made by the same recipe as the model's.
    out
        GeoTIFF to write (.tif, .tiff) for one scene; otherwise a folder, one SCENE.tif for each.
    scene
        Scene ids separated by commas, a file of ids, or @TAG; all scenes if left out.
    before
        Earlier scene of the same grid, for a model of change.
    vectors
        Classes as shapes: water=polygon,road=line.
    confidence
        Write the confidence, too.
    overlay
        Picture to write instead of map.png, for one scene.
    window
        Side of the prediction window in pixels; the size that the model learned from if left out.
    overlap
        Pixels by which windows overlap; a quarter of the window if left out.
    margin
        Outer pixels of a window that do not count; at most half of the overlap.
    simplify
        Shapes may stray by so many pixels; 0 keeps every corner.
    least_area
        Polygons of fewer pixels are left out.
    device
        Where to compute.
    """
    from finetune.mapping import LoadedModel, MapDials, check_scenes, map_scene
    from finetune.splits import scenes_of
    from finetune.tables import map_lines
    from finetune.vectors import VectorDials
    from infra.errors import UsageError
    from infra.world import current
    from shards.reader import Corpus

    loaded, corpus = LoadedModel.open(model), Corpus.open(data)
    names = scenes_of(corpus, scene) if scene is not None else sorted(s.id for s in corpus.manifest.sources)
    shapes = VectorDials(simplify_px=simplify, least_area_px=least_area)
    dials = MapDials(before, window, overlap, margin, confidence, vectors, shapes)
    check_scenes(loaded, corpus, names, dials)
    single = out.suffix.lower() in (".tif", ".tiff")
    if len(names) > 1 and (single or overlay):
        raise UsageError(f"{len(names)} scenes cannot go into one file {overlay or out}: give a folder as --out")
    world = current(device)
    for name in names:
        path = out if single else out / f"{name}.tif"
        done = map_scene(loaded, corpus, name, path, world.device, dials, overlay)
        if done.empty:
            _note(f"warning: scene {name} holds no data, the map is empty")
        if not done.placed:
            _note(f"warning: scene {name} has no place on the ground, the map is in pixels")
        say(*([f"scene {name}"] if len(names) > 1 else []), *map_lines(done.legend, done.report), "")
        say(*(f"{_SHOWN.get(what, what)} {file}" for what, file in done.files.items()))


_SHOWN = {"preview": "picture", "item": "STAC item"}


app.command(bench)


@app.command(name="leaks")
def leaks_command(
    pretraining: str,
    *,
    data: str,
    scenes: str | None = None,
    pretrained_on: str | None = None,
    least: Annotated[float, Parameter(validator=Number(gte=0, lte=100))] = 0.0,
    fail: Annotated[bool, Flag] = False,
    as_json: Json = False,
) -> int:
    """Say how much of the ground of test scenes was seen in pretraining, by which scenes, and equal products.

    Parameters
    ----------
    pretraining
        Corpus that was pretrained on; or an encoder.safetensors or its run, whose card names the version.
    data
        Corpus with the test scenes.
    scenes
        Test scenes: ids separated by commas, a file of ids, or @TAG; all scenes if left out.
    pretrained_on
        Corpus that keeps the version which the encoder's card names.
    least
        Leave out overlaps of at most so many per cent of a test scene.
    fail
        End with exit code 1 where anything was seen.
    as_json
        Print JSON for programs.
    """
    from finetune.leaks import leaks, pretraining_manifest
    from finetune.splits import scenes_of
    from finetune.tables import leak_lines
    from shards.reader import Corpus

    known = pretraining_manifest(pretraining, pretrained_on)
    corpus = Corpus.open(data)
    names = {s.id for s in corpus.manifest.sources} if scenes is None else set(scenes_of(corpus, scenes))
    tested = [source for source in corpus.manifest.sources if source.id in names]
    found = leaks(known.sources, tested, least / 100)
    if as_json:
        say(json.dumps([leak.plain() for leak in found], indent=1))
    else:
        seen = sum(leak.found for leak in found)
        say(*leak_lines(found), "", f"{seen} of {len(found)} test scenes were seen by {len(known.sources)} scenes")
    return 1 if fail and any(leak.found for leak in found) else 0


@app.command
def runs() -> None:
    """List the named runs that come with the package."""
    from pretrain.config import named_runs

    say(*named_runs("finetune.runs"))


def main() -> None:
    """Run the command line."""
    run(app)


def _note(text: str) -> None:
    sys.stderr.write(f"finetune: {text}\n")


if __name__ == "__main__":
    main()
