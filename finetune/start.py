"""Where a fine-tuning run starts: labelled scenes divided in two, an encoder's file, and a network with a new head."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.change import PairCrop, pair_numbers, pair_tile, split_pairs
from finetune.config import FinetuneRun, TaskConfig
from finetune.datasets import LabelledCrop, shared_ground, split_scenes
from finetune.encoders import PUBLISHED, read_encoder
from finetune.legend import Legend, read_legend
from finetune.model import Network, build, check_bands, check_pixels
from finetune.predict import labelled_scenes, source_of
from finetune.targets import task_legend
from infra.record import sha256
from pretrain.config import Reading
from pretrain.encoder import ResNet, adapt_bands
from pretrain.export import EncoderCard, encoder_bytes, encoder_of
from pretrain.reading import open_corpus
from shards.draw import Draw
from shards.plan import Plan
from shards.reader import Corpus

RANDOM = "random"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Task:
    """A labelled corpus divided into scenes to learn from and scenes held out.

    ``tiles`` are the (sorted) numbers of the tiles to learn from, where those are not all labelled tiles of ``train``.
    """

    corpus: Corpus
    legend: Legend
    train: tuple[str, ...]
    held_out: tuple[str, ...]
    tiles: NDArray[np.int64] | None = field(default=None, compare=False)

    @property
    def bands(self) -> int:
        """Bands of every scene of the task."""
        return len(source_of(self.corpus, self.train[0]).polarisations)

    def training_tiles(self) -> NDArray[np.int64]:
        """Give the numbers of the tiles to learn from."""
        return self.corpus.select(scenes=self.train, labelled=True) if self.tiles is None else self.tiles


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
    """Read an encoder's file once; refuse one that knows other pixels than the corpus has.

    Published weights (torchvision, timm, torchgeo, transformers) are taken for what they are: they know no pixels.
    """
    if encoder == RANDOM:
        return Start(RANDOM, None, RANDOM)
    data, network, card = read_encoder(encoder, corpus.scale)
    check_pixels(card.pixels_digest, f"encoder {encoder}", corpus)
    if card.manifest_digest == corpus.manifest.digest:
        say("warning: the encoder was pretrained on this very corpus, held-out scenes included: scores will flatter")
    kept = encoder_bytes(network, card) if card.method == PUBLISHED else data
    return Start(encoder, kept, sha256(data))


def make_segmenter(task: Task, start: Start, run: FinetuneRun) -> tuple[Network, EncoderCard]:
    """Make the network of a seed, for any task; the head starts equal for every encoder of the same widths."""
    encoder, card = make_encoder(task, start, run)
    torch.manual_seed(run.seed)
    return build(encoder, card, task_legend(task.legend, run.task), run.decoder, run.task), card


def make_encoder(task: Task, start: Start, run: FinetuneRun) -> tuple[ResNet, EncoderCard]:
    """Make the encoder of a seed for the bands of a task; its card says what it takes as input."""
    torch.manual_seed(run.seed)
    return _random(task, run) if start.data is None else _pretrained(task, start.data, start.url, run)


def _random(task: Task, run: FinetuneRun) -> tuple[ResNet, EncoderCard]:
    manifest = task.corpus.manifest
    card = EncoderCard(
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
    return ResNet(run.depth, task.bands), card


def _pretrained(task: Task, data: bytes, url: str, run: FinetuneRun) -> tuple[ResNet, EncoderCard]:
    loaded, card = encoder_of(data, url)
    encoder = loaded if loaded.bands == task.bands else adapt_bands(loaded, task.bands)
    # The codes are the corpus's; what a decibel means to the network stays the encoder's, if it ever saw one.
    known = run.input if card.method == PUBLISHED else card.input
    spec = known.model_copy(update={"bands": task.bands})
    return encoder, card.model_copy(update={"bands": task.bands, "input": spec, "scale": task.corpus.scale})


def order(task: Task, run: FinetuneRun) -> tuple[Plan, Draw]:
    """Give the order of reading and what is drawn from a tile."""
    crop = LabelledCrop(run.crop, task_legend(task.legend, run.task))
    tiles, draw = task.training_tiles(), crop
    if run.task.kind == "change":
        earlier = earlier_tiles(task, run.task)
        tiles = np.array([i for i in tiles if int(i) in earlier], np.int64)
        names = {task.corpus.key(i): first for i, first in earlier.items()}
        pairs = PairCrop(crop, task.corpus, names, run.task.changed)
        return Plan(task.corpus.shard_counts(tiles), run.seed, run.lanes, run.batch, tiles), pairs
    return Plan(task.corpus.shard_counts(tiles), run.seed, run.lanes, run.batch, tiles), draw


def earlier_tiles(task: Task, config: TaskConfig) -> dict[int, int]:
    """Give the earlier tile of each tile of the training pairs, and check all pairs. Raises UsageError."""
    learn, held = split_pairs(config.pairs, task.train, task.held_out)
    names = {scene for pair in (*learn, *held) for scene in pair}
    check_bands(
        task.bands,
        {s: tuple(source_of(task.corpus, s).polarisations) for s in sorted(names)},
        f"a model of scene {task.train[0]}",
    )
    found: dict[int, int] = {}
    for before, after in learn:
        found |= pair_numbers(task.corpus, before, after)
    return found


def training_labels(task: Task, config: TaskConfig, most: int = 2000) -> Iterator[NDArray[np.uint8]]:
    """Give the labels of up to ``most`` training tiles, evenly chosen, as output numbers of the task's legend."""
    tiles, legend = task.training_tiles(), task_legend(task.legend, config)
    earlier = earlier_tiles(task, config) if config.kind == "change" else {}
    if config.kind == "change":
        tiles = np.array([i for i in tiles if int(i) in earlier], np.int64)
    for i in tiles[:: max(1, len(tiles) // most)]:
        tile = task.corpus.tile(int(i))
        if earlier:
            tile = pair_tile(task.corpus.tile(earlier[int(i)]), tile, config.changed)
        if tile.label is not None:
            yield legend.to_output(tile.label)
