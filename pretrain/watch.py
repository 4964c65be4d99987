"""A look at a run while it trains: how features spread, how alike queued keys are, a probe, a picture of the views.

Nothing of it changes the run: the encoder looks in evaluation mode and gets its mode back, and no random number is
drawn from a generator that training uses.
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from infra.errors import UsageError
from infra.store import Store
from infra.world import World
from pretrain.encoder import match_bands, to_input
from pretrain.inputs import encoder_input
from pretrain.learner import Pretrainer
from pretrain.pair_run import PairRun
from pretrain.parts import Queue
from pretrain.probe import Probe
from pretrain.trackers import Tracker, open_trackers, require
from pretrain.watch_picture import VIEWS, pairs_png, view_key
from shards.reader import Corpus
from shards.tile import DbScale

IMAGES = 32
"""Most images of a batch that a look sends through the encoder."""
ROWS = 1024
"""Most cells of a map of which the rank is taken."""
KEPT_PICTURES = 40


class Watch:
    """Called after every step by the loop; looks every ``config.watch.every`` steps, on the lead rank alone."""

    def __init__(self, config: PairRun, learner: Pretrainer, scale: DbScale, store: Store, world: World) -> None:
        self._config, self._learner, self._scale, self._store, self._world = config, learner, scale, store, world
        self._probe = open_probe(config) if world.lead else None

    def __call__(self, step: int, batch: Mapping[str, Tensor]) -> Mapping[str, float]:
        """Look at the state after ``step`` with its batch; gives named numbers, none where it is not time to look."""
        every = self._config.watch.every
        if not every or (step + 1) % every or not self._world.lead:
            return {}
        began = time.perf_counter()
        encoder = self._learner.encoder
        with torch.no_grad(), torch.random.fork_rng(devices=[]), evaluating(encoder):
            found = {**self._stages(batch), **queue_likeness(self._learner.module, (step + 1) * self._config.batch)}
            if self._probe is not None:
                found |= self._probe(encoder, self._world.device)
            self._draw(step, batch)
        return {**found, "watch_s": time.perf_counter() - began}

    def _stages(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        """Give deviation and rank of each stage's features of the first images, as stored, without augmentation."""
        encoder = self._learner.encoder
        codes = batch["view1"][:IMAGES]
        maps = encoder(match_bands(to_input(codes, self._scale, self._config.input), encoder.bands))
        found: dict[str, float] = {}
        for number, features in enumerate(maps, start=1):
            found[f"feature_std_stage{number}"] = deviation(features.mean((2, 3)))
            found[f"feature_rank_stage{number}"] = effective_rank(features.movedim(1, -1).flatten(0, 2))
        return found

    def _draw(self, step: int, batch: Mapping[str, Tensor]) -> None:
        count = min(self._config.watch.pictures, len(batch["view1"]))
        if not count:
            return
        sides = []
        for side in "12":
            codes, boxes = batch[f"view{side}"][:count], batch[f"boxes{side}"][:count]
            x = encoder_input(codes, batch[f"numbers{side}"][:count], self._scale, self._config)
            grey = x[:, :1].float() * self._config.input.std + self._config.input.mean
            sides.append((grey[:, 0].cpu().numpy(), (codes == 0).all(1).cpu().numpy(), boxes.cpu().numpy()))
        self._store.put(view_key(step), pairs_png(*sides))
        for old in sorted(o.key for o in self._store.list(f"{VIEWS}/"))[1:-KEPT_PICTURES]:
            self._store.delete(old)


def begin_watching(
    config: PairRun, learner: Pretrainer, scale: DbScale, store: Store, run: Mapping[str, Any], world: World, title: str
) -> tuple[Watch | None, list[Tracker]]:
    """Give what the dials ask for: the watch that the loop calls, and the trackers that are told the log's lines.

    Raises UsageError where a dial cannot work, ResourceError where a tracker's server refuses.
    """
    check_watch(config)
    watch = Watch(config, learner, scale, store, world) if config.watch.every else None
    return watch, open_trackers(config.watch, run, title) if world.lead else []


def check_watch(config: PairRun) -> None:
    """Refuse dials of watching that cannot work (UsageError), before anything is built."""
    watch = config.watch
    if watch.probe is not None and not watch.every:
        raise UsageError("a probe (--watch.probe) is made at every look: give --watch.every, the steps between two")
    if watch.every and config.sharding != "none":
        raise UsageError("a look (--watch.every) needs the whole encoder on one rank: not with --sharding fsdp")
    for package, wanted in (("mlflow", watch.mlflow), ("wandb", watch.wandb)):
        if wanted is not None:
            require(package)


def open_probe(config: PairRun) -> Probe | None:
    """Read the probe's tiles. Raises UsageError where the corpus cannot be probed with this encoder."""
    watch = config.watch
    if watch.probe is None or not watch.every:
        return None
    corpus = Corpus.open(watch.probe)
    one = config.views.bands == "one"
    bands = {1 if one else corpus.shape(int(i))[0] for i in corpus.select(labelled=True)}
    if wrong := bands - {1, config.encoder.bands}:
        raise UsageError(
            f"the tiles of {watch.probe} have {min(wrong)} bands, the encoder takes {config.encoder.bands}:"
            " expected tiles as in --data (--watch.probe)"
        )
    return Probe(corpus, watch, config.input, one_band=one)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode for a while; every part of it gets its own mode back."""
    before = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in before:
            part.training = training


def deviation(vectors: Tensor) -> float:
    """Give the mean deviation of vectors (N, D) scaled to length one, times sqrt(D): 0 where all images look alike."""
    unit = nn.functional.normalize(vectors.float(), dim=1)
    return float(unit.std(0, unbiased=False).mean() * unit.shape[1] ** 0.5)


def effective_rank(rows: Tensor) -> float:
    """Give how many directions rows (N, D) fill about their mean: exp of the entropy of the singular values' shares.

    Roy and Vetterli 2007. At most 1,024 rows are taken, evenly; 0.0 where all rows are equal, NaN where some are not
    finite: whether training goes on is not decided here.
    """
    taken = rows[torch.linspace(0, len(rows) - 1, min(len(rows), ROWS), device=rows.device).long()].double()
    taken = taken - taken.mean(0)
    if not bool(torch.isfinite(taken).all()):
        return math.nan
    gram = taken @ taken.t() if taken.shape[0] < taken.shape[1] else taken.t() @ taken
    powers = torch.linalg.eigvalsh(gram).clamp(min=0)
    # Squares below the precision of the greatest are rounding, and their roots would look like directions.
    values = powers[powers > powers.max() * 1e-12].sqrt()
    if not len(values):
        return 0.0
    shares = values / values.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))


def queue_likeness(module: nn.Module, keys: int) -> dict[str, float]:
    """Give for each queue of a module the mean cosine of its rows, and of its newest row to all others.

    Only rows that ``keys`` keys have filled count. Near 0: even on the sphere; near 1: collapsed.
    """
    found: dict[str, float] = {}
    for queue in (m for m in module.modules() if isinstance(m, Queue)):
        filled = min(keys, queue.length)
        newest = (int(queue.pointer) - 1) % queue.length
        for name, rows in queue.named_buffers(recurse=False):
            if rows.dim() != 2 or filled < 2:
                continue
            unit = nn.functional.normalize(rows[:filled].double(), dim=1)
            total = unit.sum(0)
            found[f"queue_alike_{name}"] = float((total @ total - filled) / (filled * (filled - 1)))
            found[f"queue_newest_{name}"] = float((unit[newest] @ total - 1) / (filled - 1))
    return found
