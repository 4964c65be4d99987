"""Numbers of pixels over a whole scene, predicted from overlapping windows without seams."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.mosaic import Predict, SceneTiles, edge_weights, starts
from shards.tile import NO_DATA


@dataclass(frozen=True, slots=True)
class ValueStrip:
    """Some finished rows of a scene: where they begin, and their values (rows, cols), NaN where no band has data."""

    row: int
    values: NDArray[np.float32]


def value_strips(predict: Predict, scene: SceneTiles, *, size: int, overlap: int) -> Iterator[ValueStrip]:
    """Predict a scene from windows of ``size`` pixels (n, size, size) and give its rows from top to bottom.

    Where windows overlap, values are averaged with weights that fall towards the edges. Memory: ``size`` rows.
    """
    if not 0 <= overlap < size:
        raise ValueError(f"overlap {overlap} must be at least 0 and less than the window size {size}")
    rows, cols = scene.shape
    tops, lefts = starts(rows, size, overlap), starts(cols, size, overlap)
    ramp = edge_weights(size)
    weight = ramp[:, None] * ramp[None]
    total, share = np.zeros((2, size, max(cols, size)), np.float64)
    for top, following in zip(tops, [*tops[1:], rows], strict=True):
        for left in lefts:
            codes = scene.pixels(top, left, size, size)
            if (codes != NO_DATA).any():
                total[:, left : left + size] += predict(codes[None])[0] * weight
                share[:, left : left + size] += weight
        done = following - top
        empty = (scene.pixels(top, 0, done, cols) == NO_DATA).all(0)
        mean = total[:done, :cols] / np.maximum(share[:done, :cols], 1e-12)
        yield ValueStrip(top, np.where(empty, np.nan, mean).astype(np.float32))
        for array in (total, share):
            array[: size - done] = array[done:].copy()
            array[max(size - done, 0) :] = 0
        scene.forget(following)
