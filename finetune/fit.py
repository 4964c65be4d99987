"""From an encoder and a labelled corpus to a model with honest scores: the same way for every encoder and seed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from finetune.card import card_text
from finetune.config import FinetuneRun
from finetune.evaluate import Result, Scorer, scored_scenes
from finetune.metrics import Scores, over_seeds
from finetune.model import ModelCard, Network, model_bytes
from finetune.predict import labelled_scenes, source_of
from finetune.start import Say, Start, Task, make_segmenter, order
from finetune.targets import task_legend
from finetune.tasks import HEADLINES, make_learner
from infra.errors import PartialError, UsageError
from infra.record import sha256
from infra.store import open_store
from infra.world import World
from pretrain.config import run_digest
from pretrain.export import EncoderCard
from pretrain.loop import train
from pretrain.reading import open_feed, teller
from shards.reader import Corpus

MODEL = "model.safetensors"
SCORES = "scores.json"
CARD_TEXT = "model_card.md"


def fit(
    task: Task,
    start: Start,
    run: FinetuneRun,
    out: str,
    world: World,
    seeds: int,
    say: Say,
    *,
    final: bool = True,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train once per seed, score each on the held-out scenes, and put models and scores under ``out``.

    The model after the last step is the model: nothing is chosen by the held-out scenes. Models lie in
    ``seed-<n>/model.safetensors``, the first also in ``model.safetensors`` with ``model_card.md`` beside it;
    ``scores.json`` has every seed's numbers and their mean and standard deviation. Gives what is in scores.json.
    Started again, it continues. Without ``final``, where a choice is still to be made by these scores, there is no
    model card. ``facts`` say what was done to the corpus, for the record.
    """
    if run.batch < 2 * world.size:
        raise UsageError(f"batch {run.batch} on {world.size} ranks: batch norm needs at least 2 crops per rank")
    store = open_store(out)
    results: list[tuple[int, Result, dict[str, Result]]] = []
    first: ModelCard | None = None
    for seed in range(run.seed, run.seed + seeds):
        model, card, overall, by_scene = fit_seed(task, start, run.model_copy(update={"seed": seed}), out, world)
        results.append((seed, overall, by_scene))
        say(f"seed {seed}: {_headline(overall, run.task.kind)}")
        first = first or card
        if world.lead:
            data = model_bytes(model, card)
            for key in (f"seed-{seed}/{MODEL}", *([MODEL] if seed == run.seed else [])):
                store.put(key, data)
    record = _record(task, start, run, results) | ({} if facts is None else {"data": dict(facts)})
    if world.lead and first is not None:
        store.put(SCORES, json.dumps(record, indent=1, allow_nan=False).encode())
        if final:
            store.put(CARD_TEXT, card_text(first, record, task.corpus.manifest).encode())
    return record


def fit_seed(
    task: Task, start: Start, run: FinetuneRun, out: str, world: World
) -> tuple[Network, ModelCard, Result, dict[str, Result]]:
    """Train and score one seed: the model, its card, its scores over all held-out scenes, and scene by scene."""
    network, encoder_card = train_seed(task, start, run, out, world)
    legend = task_legend(task.legend, run.task)
    scorer = Scorer(network, run.task, legend, task.legend, run.crop.size, world.device)
    overall, by_scene = scorer.score(scored_scenes(task.corpus, run.task, task.held_out))
    card = card_of(task, start, run, encoder_card, overall)
    return network, card, overall, by_scene


def card_of(task: Task, start: Start, run: FinetuneRun, encoder: EncoderCard, overall: Result) -> ModelCard:
    """Describe the model of a seed with its scores over all held-out scenes."""
    return ModelCard(
        task=run.task,
        encoder=encoder,
        encoder_url=start.url,
        encoder_digest=start.digest,
        legend=task_legend(task.legend, run.task),
        decoder=run.decoder,
        crop_px=run.crop.size,
        pixels_digest=task.corpus.manifest.pixels_digest,
        manifest_digest=task.corpus.manifest.digest,
        run_digest=run_digest(identity_of(task, start, run)),
        seed=run.seed,
        trained_on=task.train,
        held_out=task.held_out,
        scores=overall.flat(),
    )


def train_seed(task: Task, start: Start, run: FinetuneRun, out: str, world: World) -> tuple[Network, EncoderCard]:
    """Train one seed without scoring it: the network after the last step, and the card of its encoder.

    Raises PartialError where a signal ended it before; called again, it continues.
    """
    network, encoder_card = make_segmenter(task, start, run)
    plan, draw = order(task, run)
    learner = make_learner(network, task, run, world.rank)
    identity = identity_of(task, start, run)
    store = open_store(f"{out.rstrip('/')}/seed-{run.seed}")
    with open_feed(run.reading, task.corpus, plan, draw, world) as feed:
        tell = teller(run.reading, feed, world)
        done = train(learner, feed, run, world, store, identity, title=f"finetune seed {run.seed}", tell=tell)
    if not done.finished:
        raise PartialError(
            f"stopped at step {done.step} of {run.steps} of seed {run.seed}; nothing of it was scored, the same command"
            f" continues from the checkpoint in {store.url}"
        )
    return network, encoder_card


def identity_of(task: Task, start: Start, run: FinetuneRun) -> dict[str, Any]:
    """Give everything that decides the result of a seed."""
    identity = {
        "kind": run.task.kind,
        "run": run.identity(),
        "encoder": start.digest,
        "manifest": task.corpus.manifest.digest,
        "held_out": list(task.held_out),
    }
    used = {*task.train, *task.held_out}
    # Where scenes choose a model, those of the test stand in neither part, and what teaches depends on them.
    if left_out := [name for name in labelled_scenes(task.corpus) if name not in used]:
        identity["left_out"] = left_out
    return identity if task.tiles is None else {**identity, "tiles": sha256(task.tiles.astype("<i8").tobytes())}


def _headline(overall: Result, kind: str) -> str:
    if isinstance(overall, Scores) and kind == "segmentation":
        return f"mIoU {overall.miou:.4f}, without background {overall.miou_no_background:.4f}"
    flat = overall.flat()
    return ", ".join(f"{name} {'-' if flat[name] is None else f'{flat[name]:.4f}'}" for name in HEADLINES[kind])


def _record(
    task: Task, start: Start, run: FinetuneRun, results: Sequence[tuple[int, Result, dict[str, Result]]]
) -> dict[str, Any]:
    spread = over_seeds([overall.flat() for _, overall, _ in results])
    return {
        "format": "sarsense-scores-1",
        "task": run.task.kind,
        "encoder": start.url,
        "encoder_digest": start.digest,
        "manifest_digest": task.corpus.manifest.digest,
        "trained_on": list(task.train),
        "held_out": list(task.held_out),
        "background": task.legend.background,
        "run": run.model_dump(mode="json"),
        "seeds": [
            {"seed": seed, "scores": overall.flat(), "scenes": {s: one.flat() for s, one in by_scene.items()}}
            for seed, overall, by_scene in results
        ],
        "summary": {name: asdict(value) for name, value in spread.items()},
    }


def require_labels(corpus: Corpus, scenes: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """Give the polarisations of scenes that can be scored. Raises UsageError for one that has no labels."""
    labelled = set(labelled_scenes(corpus))
    for scene in scenes:
        source_of(corpus, scene)
        if scene not in labelled:
            raise UsageError(f"scene {scene} has no labels, so it cannot be scored; `finetune map` can map it")
    return {scene: tuple(source_of(corpus, scene).polarisations) for scene in scenes}
