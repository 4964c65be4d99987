"""Numbers of pixels over a whole scene, predicted from overlapping windows without seams."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.mosaic import Predict, SceneTiles, weighted_sums
from shards.tile import NO_DATA


@dataclass(frozen=True, slots=True)
class ValueStrip:
    """Some finished rows of a scene: where they begin, their codes (bands, rows, cols), and their values (rows, cols).

    Values are NaN where no band has data.
    """

    row: int
    codes: NDArray[np.uint16]
    values: NDArray[np.float32]


def value_strips(
    predict: Predict, scene: SceneTiles, *, size: int, overlap: int, batch: int = 8, margin: int = 0
) -> Iterator[ValueStrip]:
    """Predict a scene from windows of ``size`` pixels (n, size, size) and give its rows from top to bottom.

    Where windows overlap, values are averaged with weights that fall towards the edges; ``margin`` is that of
    ``class_strips``. Memory: ``size`` rows.
    """
    cols = scene.shape[1]
    total = np.zeros((1, size, max(cols, size)), np.float64)
    windows = weighted_sums(
        lambda codes: predict(codes)[:, None], scene, total, overlap=overlap, batch=batch, margin=margin
    )
    for top, sums, share in windows:
        codes = scene.pixels(top, 0, len(share), cols)
        mean = sums[0] / np.maximum(share, 1e-12)
        yield ValueStrip(top, codes, np.where((codes == NO_DATA).all(0), np.nan, mean).astype(np.float32))
