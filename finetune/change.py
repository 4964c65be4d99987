"""Change between two dates: pairs of scenes as scenes of twice the bands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from finetune.datasets import LabelledCrop
from finetune.legend import IGNORED
from finetune.mosaic import SceneTiles
from finetune.predict import source_of
from infra.errors import UsageError
from shards.reader import Corpus
from shards.tile import NO_DATA, Tile

Changed = Literal["after", "differs"]


def pair_tile(before: Tile, after: Tile, changed: Changed) -> Tile:
    """Put two tiles of the same window into one, bands after bands; it keeps the later tile's name and place.

    Its label is the later tile's, or 1 where both are labelled and differ, else 0. Where a date has no data it is
    unlabelled.
    """
    if before.pixels.shape != after.pixels.shape:
        raise UsageError(
            f"tiles {before.key} {before.pixels.shape} and {after.key} {after.pixels.shape} do not fit each other:"
            " a pair needs equal bands and equal windows"
        )
    label = None if after.label is None else after.label.copy()
    if changed == "differs" and label is not None:
        first = np.full_like(label, IGNORED) if before.label is None else before.label
        unknown = (first == IGNORED) | (label == IGNORED)
        label = np.where(unknown, IGNORED, first != label).astype(np.uint8)
    if label is not None:
        for tile in (before, after):
            label[(tile.pixels == NO_DATA).all(0)] = IGNORED
    return Tile(after.key, np.concatenate([before.pixels, after.pixels]), after.meta, label)


@dataclass(frozen=True, slots=True)
class PairCrop:
    """A draw for the feed, which is given the later tile: the same crop of both dates and of their label.

    ``earlier`` gives the number of the earlier tile by the later tile's key.
    """

    crop: LabelledCrop
    corpus: Corpus
    earlier: Mapping[str, int]
    changed: Changed

    def __call__(self, tile: Tile, generator: np.random.Generator) -> Mapping[str, NDArray[np.generic]]:
        """Draw from one tile and its partner."""
        return self.crop(pair_tile(self.corpus.tile(self.earlier[tile.key]), tile, self.changed), generator)


def pair_numbers(corpus: Corpus, before: str, after: str) -> dict[int, int]:
    """Give the earlier tile of each later tile: the one with the same window of the scene.

    Raises UsageError where the scenes do not lie on the same grid, or share no window.
    """
    first, second = source_of(corpus, before), source_of(corpus, after)
    if first.shape != second.shape or first.grid != second.grid:
        raise UsageError(
            f"scenes {before} {first.shape} and {after} {second.shape} do not lie on the same grid: build both on one"
            " (geocoded to the same transform) before pairing them"
        )
    windows = {window: tile for tile, window in _windows(corpus, before)}
    found = {tile: windows[window] for tile, window in _windows(corpus, after) if window in windows}
    if not found:
        raise UsageError(f"scenes {before} and {after} share no tile window: build both with the same tiling")
    return found


def pair_scene(corpus: Corpus, before: str, after: str, changed: Changed) -> SceneTiles:
    """Open a pair for reading by windows, as one scene of twice the bands."""
    numbers = pair_numbers(corpus, before, after)
    tiles = np.array(sorted(numbers), np.int64)
    rows, source = corpus.rows, source_of(corpus, after)
    columns = (rows.window_row, rows.window_col, rows.window_rows, rows.window_cols)

    def load(n: int) -> Tile:
        later = int(tiles[n])
        return pair_tile(corpus.tile(numbers[later]), corpus.tile(later), changed)

    windows = np.stack([column[tiles] for column in columns], 1).astype(np.int64)
    return SceneTiles(source.shape, 2 * len(source.polarisations), windows, load)


def split_pairs(
    pairs: Sequence[tuple[str, str]], train: Sequence[str], held: Sequence[str]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Divide pairs by their later scene. Raises UsageError where a side is empty, or a scene stands on both."""
    learn = [pair for pair in pairs if pair[1] in train]
    score = [pair for pair in pairs if pair[1] in held]
    for side, name in ((learn, "learn from"), (score, "score on")):
        if not side:
            raise UsageError(f"no pair to {name}: pairs are divided by their later scene, which must be labelled")
    if shared := sorted({s for pair in learn for s in pair} & {s for pair in score for s in pair}):
        raise UsageError(f"scene {shared[0]} is in a pair to learn from and in a held-out one: scores would flatter")
    return learn, score


def _windows(corpus: Corpus, scene: str) -> list[tuple[int, tuple[int, ...]]]:
    rows = corpus.rows
    columns = (rows.window_row, rows.window_col, rows.window_rows, rows.window_cols)
    return [(int(i), tuple(int(c[i]) for c in columns)) for i in corpus.select(scenes=[scene])]
