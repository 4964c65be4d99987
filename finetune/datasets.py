"""Labelled tiles: which scenes teach and which are held out, and what is drawn from a tile."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
import shapely.affinity
from numpy.typing import NDArray

from finetune.config import CropConfig
from finetune.legend import IGNORED, Legend
from infra.errors import UsageError
from shards.manifest import Source
from shards.tile import NO_DATA, Tile


@dataclass(frozen=True, slots=True)
class LabelledCrop:
    """A draw for the feed: the same random square of pixels and label, mirrored and turned alike.

    Gives ``codes`` (bands, size, size) uint16 and ``label`` (size, size) uint8 output numbers. Pixels without data
    are unlabelled, as they are in scoring. Where a tile is smaller than the square, the rest is no-data.
    """

    config: CropConfig
    legend: Legend

    def __call__(self, tile: Tile, generator: np.random.Generator) -> Mapping[str, NDArray[np.generic]]:
        """Draw from one tile."""
        size, (bands, rows, cols) = self.config.size, tile.pixels.shape
        row = int(generator.integers(max(rows - size, 0) + 1))
        col = int(generator.integers(max(cols - size, 0) + 1))
        cut = (slice(row, row + size), slice(col, col + size))
        codes = np.full((bands, size, size), NO_DATA, np.uint16)
        label = np.full((size, size), IGNORED, np.uint8)
        here = (slice(0, min(rows, size)), slice(0, min(cols, size)))
        codes[:, *here] = tile.pixels[:, *cut]
        if tile.label is not None:
            label[here] = self.legend.to_output(tile.label[cut])
        label[(codes == NO_DATA).all(0)] = IGNORED
        quarters = int(generator.integers(4)) if self.config.turns else 0
        mirrored = bool(generator.integers(2)) if self.config.flips else False
        return {"codes": _moved(codes, quarters, mirrored), "label": _moved(label, quarters, mirrored)}


def _moved(image: NDArray[np.generic], quarters: int, mirrored: bool) -> NDArray[np.generic]:
    turned = np.rot90(image, quarters, axes=(-2, -1))
    return np.ascontiguousarray(turned[..., ::-1] if mirrored else turned)


def split_scenes(scenes: Iterable[str], hold_out: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide scenes into those to learn from and those held out, both sorted.

    A split by whole scenes never shares a pixel between the two. Raises UsageError for a scene that the corpus does
    not have, for nothing held out, and for nothing left to learn from.
    """
    known = sorted(set(scenes))
    if unknown := [name for name in hold_out if name not in known]:
        close = difflib.get_close_matches(unknown[0], known, n=1)
        guess = f" (did you mean {close[0]}?)" if close else ""
        raise UsageError(f"no scene {unknown[0]!r} in the corpus{guess}; it has {_listed(known)}")
    if not hold_out:
        raise UsageError(f"no scene is held out, so nothing can be scored: choose some of {_listed(known)}")
    train = [name for name in known if name not in set(hold_out)]
    if not train:
        raise UsageError(f"all {len(known)} scenes are held out: leave at least one to learn from")
    return train, sorted(set(hold_out))


def shared_ground(sources: Iterable[Source], train: Sequence[str], held: Sequence[str]) -> list[tuple[str, str]]:
    """Find pairs of a training scene and a held-out scene whose footprints overlap: the scores would flatter."""
    areas = {s.id: shapely.Polygon(s.footprint) for s in sources if s.footprint and len(s.footprint) > 2}
    pairs = ((a, b) for a in train for b in held if a in areas and b in areas)
    return [(a, b) for a, b in pairs if _overlap(areas[a], areas[b])]


def _overlap(a: shapely.Polygon, b: shapely.Polygon) -> bool:
    """Tell whether areas in degrees share more than an edge; longitudes may be counted on past 180."""
    turned = (shapely.affinity.translate(b, turn) for turn in (-360.0, 0.0, 360.0))
    return any(a.intersection(other).area > 0 for other in turned)


def balanced_weights(shares: NDArray[np.float64]) -> NDArray[np.float32]:
    """Weigh classes by the inverse square root of their share, mean 1 over pixels; an absent class weighs 0."""
    root = np.divide(1, np.sqrt(shares), out=np.zeros_like(shares), where=shares > 0)
    weights: NDArray[np.float32] = (root / (root * shares).sum()).astype(np.float32)
    return weights


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:12])
    return shown if len(names) <= 12 else f"{shown} and {len(names) - 12} more"
