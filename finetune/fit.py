"""From an encoder and a labelled corpus to a model with honest scores: the same way for every encoder and seed."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.config import FinetuneRun
from finetune.datasets import LabelledCrop, balanced_weights, class_shares, shared_ground, split_scenes
from finetune.legend import Legend, read_legend
from finetune.metrics import Scores, over_seeds, scores
from finetune.model import ModelCard, build, check_bands, check_pixels, model_bytes
from finetune.predict import labelled_scenes, predictor, scene_confusion, scene_tiles, source_of
from finetune.segmenter import SegmentationLearner, Segmenter
from infra.errors import PartialError, UsageError
from infra.record import sha256
from infra.store import open_store, split_object
from infra.world import World
from pretrain.config import Reading, run_digest
from pretrain.encoder import ResNet, adapt_bands
from pretrain.export import EncoderCard, encoder_of
from pretrain.loop import train
from pretrain.reading import open_corpus, open_feed, teller
from shards.plan import Plan
from shards.reader import Corpus

RANDOM = "random"
MODEL = "model.safetensors"
SCORES = "scores.json"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Task:
    """A labelled corpus divided into scenes to learn from and scenes held out."""

    corpus: Corpus
    legend: Legend
    train: tuple[str, ...]
    held_out: tuple[str, ...]

    @property
    def bands(self) -> int:
        """Bands of every scene of the task."""
        return len(source_of(self.corpus, self.train[0]).polarisations)


@dataclass(frozen=True, slots=True)
class Start:
    """Where training starts: the encoder's file, or nothing for random weights. ``digest`` names its content."""

    url: str
    data: bytes | None
    digest: str


def open_task(data: str, hold_out: Sequence[str], say: Say, reading: Reading | None = None) -> Task:
    """Open a corpus and divide its labelled scenes. Raises UsageError where that makes no sense."""
    corpus = open_corpus(data, reading or Reading())
    legend = read_legend(corpus.manifest.legend, data)
    kept, held = split_scenes(labelled_scenes(corpus), hold_out)
    polarisations = {s: tuple(source_of(corpus, s).polarisations) for s in (*kept, *held)}
    check_bands(len(polarisations[kept[0]]), polarisations, f"a model of scene {kept[0]}")
    for a, b in shared_ground(corpus.manifest.sources, kept, held):
        say(f"warning: scene {a} (training) and scene {b} (held out) show the same ground: scores will flatter")
    return Task(corpus, legend, tuple(kept), tuple(held))


def open_start(encoder: str, corpus: Corpus, say: Say) -> Start:
    """Read an encoder's file once; refuse one that knows other pixels than the corpus has."""
    if encoder == RANDOM:
        return Start(RANDOM, None, RANDOM)
    root, key = split_object(encoder)
    data = open_store(root).get(key)
    card = encoder_of(data, encoder)[1]
    check_pixels(card.pixels_digest, f"encoder {encoder}", corpus)
    if card.manifest_digest == corpus.manifest.digest:
        say("warning: the encoder was pretrained on this very corpus, held-out scenes included: scores will flatter")
    return Start(encoder, data, sha256(data))


def fit(task: Task, start: Start, run: FinetuneRun, out: str, world: World, seeds: int, say: Say) -> dict[str, Any]:
    """Train once per seed, score each on the held-out scenes, and put models and scores under ``out``.

    The model after the last step is the model: nothing is chosen by the held-out scenes. Models lie in
    ``seed-<n>/model.safetensors``, the first also in ``model.safetensors``; ``scores.json`` has every seed's numbers
    and their mean and standard deviation. Gives what is in scores.json. Started again, it continues.
    """
    if run.batch < 2 * world.size:
        raise UsageError(f"batch {run.batch} on {world.size} ranks: batch norm needs at least 2 crops per rank")
    store = open_store(out)
    results: list[tuple[int, Scores, dict[str, Scores]]] = []
    for seed in range(run.seed, run.seed + seeds):
        model, card, overall, by_scene = fit_seed(task, start, run.model_copy(update={"seed": seed}), out, world)
        results.append((seed, overall, by_scene))
        say(f"seed {seed}: mIoU {overall.miou:.4f}, without background {overall.miou_no_background:.4f}")
        if world.lead:
            data = model_bytes(model, card)
            for key in (f"seed-{seed}/{MODEL}", *([MODEL] if seed == run.seed else [])):
                store.put(key, data)
    record = _record(task, start, run, results)
    if world.lead:
        store.put(SCORES, json.dumps(record, indent=1, allow_nan=False).encode())
    return record


def fit_seed(
    task: Task, start: Start, run: FinetuneRun, out: str, world: World
) -> tuple[Segmenter, ModelCard, Scores, dict[str, Scores]]:
    """Train and score one seed: the model, its card, its scores over all held-out scenes, and scene by scene."""
    segmenter, encoder_card = make_segmenter(task, start, run)
    learner = SegmentationLearner(
        segmenter,
        run.decoder.aux_weight,
        class_weights=_class_weights(task, run),
        encoder_lr_factor=run.encoder_lr_factor,
        seed=run.seed,
        rank=world.rank,
    )
    identity = {
        "kind": "segmentation",
        "run": run.identity(),
        "encoder": start.digest,
        "manifest": task.corpus.manifest.digest,
        "held_out": list(task.held_out),
    }
    store = open_store(f"{out.rstrip('/')}/seed-{run.seed}")
    with open_feed(run.reading, task.corpus, *_order(task, run), world) as feed:
        tell = teller(run.reading, feed, world)
        done = train(learner, feed, run, world, store, identity, title=f"finetune seed {run.seed}", tell=tell)
    if not done.finished:
        raise PartialError(
            f"stopped at step {done.step} of {run.steps} of seed {run.seed}; nothing of it was scored, the same command"
            f" continues from the checkpoint in {store.url}"
        )
    overall, by_scene = score_scenes(segmenter, task.corpus, task.legend, task.held_out, run.crop.size, world.device)
    card = ModelCard(
        encoder=encoder_card,
        encoder_url=start.url,
        legend=task.legend,
        decoder=run.decoder,
        crop_px=run.crop.size,
        pixels_digest=task.corpus.manifest.pixels_digest,
        manifest_digest=task.corpus.manifest.digest,
        run_digest=run_digest(identity),
        seed=run.seed,
        trained_on=task.train,
        held_out=task.held_out,
        scores=overall.flat(),
    )
    return segmenter, card, overall, by_scene


def make_segmenter(task: Task, start: Start, run: FinetuneRun) -> tuple[Segmenter, EncoderCard]:
    """Make the network of a seed; the head starts equal for every encoder of the same widths."""
    torch.manual_seed(run.seed)
    if start.data is None:
        encoder, card = ResNet(run.depth, task.bands), _random_card(task, run)
    else:
        loaded, card = encoder_of(start.data, start.url)
        encoder = loaded if loaded.bands == task.bands else adapt_bands(loaded, task.bands)
        # The codes are the corpus's; what a decibel means to the network stays the encoder's.
        spec = card.input.model_copy(update={"bands": task.bands})
        card = card.model_copy(update={"bands": task.bands, "input": spec, "scale": task.corpus.scale})
    torch.manual_seed(run.seed)
    return build(encoder, card, task.legend, run.decoder), card


def score_scenes(
    segmenter: Segmenter,
    corpus: Corpus,
    legend: Legend,
    scenes: Sequence[str],
    size: int,
    device: torch.device,
) -> tuple[Scores, dict[str, Scores]]:
    """Score whole scenes: all of them in one confusion matrix, and each by itself."""
    predict = predictor(segmenter, device)
    matrices: dict[str, NDArray[np.int64]] = {
        scene: scene_confusion(predict, scene_tiles(corpus, scene), legend, size=size, overlap=size // 4)
        for scene in scenes
    }
    total = np.sum(list(matrices.values()), axis=0)
    return scores(total, legend), {scene: scores(matrix, legend) for scene, matrix in matrices.items()}


def _order(task: Task, run: FinetuneRun) -> tuple[Plan, LabelledCrop]:
    tiles = task.corpus.select(scenes=task.train, labelled=True)
    plan = Plan(task.corpus.shard_counts(tiles), run.seed, run.lanes, run.batch, tiles)
    return plan, LabelledCrop(run.crop, task.legend)


def _class_weights(task: Task, run: FinetuneRun, most: int = 2000) -> Tensor | None:
    if run.class_weights == "none":
        return None
    tiles = task.corpus.select(scenes=task.train, labelled=True)
    few = tiles[:: max(1, len(tiles) // most)]
    labels = (task.corpus.tile(int(i)).label for i in few)
    shares = class_shares((label for label in labels if label is not None), task.legend)
    return torch.from_numpy(balanced_weights(shares))


def _random_card(task: Task, run: FinetuneRun) -> EncoderCard:
    manifest = task.corpus.manifest
    return EncoderCard(
        method=RANDOM,
        depth=run.depth,
        bands=task.bands,
        input=run.input.model_copy(update={"bands": task.bands}),
        scale=manifest.scale,
        pixels_digest=manifest.pixels_digest,
        manifest_digest="",
        run_digest="",
        step=0,
    )


def _record(
    task: Task, start: Start, run: FinetuneRun, results: Sequence[tuple[int, Scores, dict[str, Scores]]]
) -> dict[str, Any]:
    spread = over_seeds([overall.flat() for _, overall, _ in results])
    return {
        "format": "sarsense-scores-1",
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
