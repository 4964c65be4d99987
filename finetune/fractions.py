"""A share of the labels: which tiles, so that a smaller share lies within a larger one and no class is lost."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.config import TaskConfig
from finetune.legend import IGNORED, Legend
from finetune.targets import tile_class, tile_classes, value_table
from infra.errors import UsageError
from shards.reader import Corpus
from shards.tile import NO_DATA

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Fraction:
    """Some of the labelled tiles: their places in what was given, sorted, and how much of all labels they hold."""

    asked: float
    chosen: NDArray[np.int64]
    share: float
    labels: Counts

    def text(self, names: Sequence[str]) -> str:
        """Give one line for a person."""
        parts = ", ".join(f"{name} {n}" for name, n in zip(names, self.labels.tolist(), strict=True))
        return f"{len(self.chosen)} tiles hold {100 * self.share:.2f} % of the labels ({parts})"


def label_fraction(keys: Sequence[str], counts: Counts, fraction: float, seed: int) -> Fraction:
    """Choose tiles that hold ``fraction`` (0..1) of all labels, or a little more.

    ``counts`` (tiles, classes) are labels: pixels, or answers of tiles (``label_counts``). For one seed a smaller
    fraction is part of every larger one, the order of the tiles does not matter, and every class that occurs occurs
    in the choice, which for very small fractions takes more than was asked. Raises UsageError for no label at all, or
    a fraction outside of 0 < f <= 1.
    """
    if not 0 < fraction <= 1:
        raise UsageError(f"label fraction {fraction}: expected more than 0 and at most 1 (1 % is 0.01)")
    if not counts.sum():
        raise UsageError("nothing in the training tiles is labelled, so there is no fraction to choose")
    order, cover = tile_order(keys, counts, seed)
    held = np.cumsum(counts[order].sum(1))
    enough = int(np.searchsorted(held, fraction * held[-1] * (1 - 1e-12))) + 1
    number = len(order) if fraction == 1 else max(enough, cover)
    chosen = np.sort(order[:number])
    return Fraction(fraction, chosen, float(held[number - 1] / held[-1]), counts[chosen].sum(0))


def tile_order(keys: Sequence[str], counts: Counts, seed: int) -> tuple[NDArray[np.int64], int]:
    """Put tiles in the order in which they are taken, and say how many of the first are needed for every class.

    First come tiles that together show every class, the rarest class first; then all strata in proportion, evenly
    spread, where a tile's stratum is the class it has most of beyond its share of the whole.
    """
    luck = _unit(keys, seed)
    first = _cover(counts, luck)
    spread = np.lexsort((luck, _positions(counts, luck, seed)))
    return np.concatenate([first, spread[~np.isin(spread, first)]]), len(first)


def _cover(counts: Counts, luck: NDArray[np.float64]) -> NDArray[np.int64]:
    present, chosen = counts > 0, list[int]()
    for k in np.argsort(present.sum(0), kind="stable"):
        with_it = np.flatnonzero(present[:, k])
        if with_it.size and not present[chosen, k].any():
            # By luck among those with at least the usual amount: a class is not kept by three stray pixels.
            usual = with_it[counts[with_it, k] >= np.median(counts[with_it, k])]
            chosen.append(int(usual[np.argmin(luck[usual])]))
    return np.array(chosen, np.int64)


def _positions(counts: Counts, luck: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Give each tile a place 0..1 in the order, even within its stratum: every beginning has all strata's shares."""
    shares = counts.sum(0) / counts.sum()
    beyond = np.divide(counts, shares, out=np.zeros(counts.shape), where=shares > 0)
    stratum = np.where(counts.any(1), beyond.argmax(1), -1)
    position = np.ones(len(counts))  # tiles without any label come last
    for k in range(counts.shape[1]):
        inside = np.flatnonzero(stratum == k)
        ranked = inside[np.argsort(luck[inside], kind="stable")]
        position[ranked] = (np.arange(len(ranked)) + _unit([f"stratum {k}"], seed)[0]) / max(len(ranked), 1)
    return position


def _unit(names: Iterable[str], seed: int) -> NDArray[np.float64]:
    """Give a number 0 <= u < 1 for each name: the same on every machine, in any order."""
    hashed = (hashlib.blake2b(f"fraction:{seed}:{name}".encode(), digest_size=8).digest() for name in names)
    return np.array([int.from_bytes(d, "big") / 2**64 for d in hashed])


def label_counts(
    corpus: Corpus, tiles: NDArray[np.int64], legend: Legend, task: TaskConfig, threads: int = 4
) -> Counts:
    """Count the labels of each class in each tile, (tiles, classes), among pixels that are measured. Reads every tile.

    They are pixels, or where a task has one answer for a tile, that answer: its class, each class that is there, or
    for a number the commonest class, so that numbers are drawn from all classes too. Whether a tile has changed is
    known from two dates only: its pixels count.
    """
    with ThreadPoolExecutor(threads) as pool:
        rows = list(pool.map(lambda n: _count(corpus, int(n), legend, task), tiles))
    return np.array(rows, np.int64).reshape(len(tiles), len(legend.ids))


def _count(corpus: Corpus, n: int, legend: Legend, task: TaskConfig) -> Counts:
    tile, classes = corpus.tile(n), len(legend.ids)
    if tile.label is None:
        return np.zeros(classes, np.int64)
    label = legend.to_output(np.where((tile.pixels == NO_DATA).all(0), np.uint8(IGNORED), tile.label))
    if task.kind == "regression":  # a class without a value is no label
        valued = ~np.isnan(value_table(legend, task.target))
        label = np.where(np.isin(label, np.flatnonzero(valued)), label, np.uint8(IGNORED))
    if not task.tiles or task.kind == "change":
        return np.bincount(label.ravel(), minlength=IGNORED + 1)[:classes]
    one = torch.from_numpy(label)[None]
    answer = int(tile_class(one, legend, task)[0])
    if answer == IGNORED:
        return np.zeros(classes, np.int64)
    if task.kind == "multilabel":
        return np.asarray(tile_classes(one, legend, task)[0], np.int64)
    return np.bincount([answer], minlength=classes)


def percent_list(text: str) -> Iterator[float]:
    """Read ``1,5,100`` (per cent) as fractions. Raises UsageError for anything else."""
    for part in text.split(","):
        try:
            value = float(part) / 100
        except ValueError:
            value = 0.0
        if not 0 < value <= 1:
            raise UsageError(f"{part.strip()!r} is no share of labels: expected per cent above 0 and up to 100")
        yield value
