"""What a report shows of a scene, gathered while its tiles pass: a quicklook and a histogram per polarisation."""

import numpy as np
from numpy.typing import NDArray

from ingest.quality import add_to_summary
from ingest.quicklook import png
from shards.tile import MOST_CODE, DbScale, Tile

QUICKLOOK_PX = 384
BIN_DB = 0.5
FIRST_DB, LAST_DB = -50.0, 20.0


class SceneSummary:
    """Block means of all tiles of one scene on a small canvas, and counts per half decibel: sums of whole numbers,
    so that they are exact in any order.
    """

    def __init__(self, shape: tuple[int, int], polarisations: tuple[str, ...], scale: DbScale) -> None:
        self.factor = max(1, -(-max(shape) // QUICKLOOK_PX))
        self.polarisations = polarisations
        self.scale = scale
        canvas = (len(polarisations), -(-shape[0] // self.factor), -(-shape[1] // self.factor))
        self._sum: NDArray[np.int64] = np.zeros(canvas, np.int64)
        self._count: NDArray[np.int64] = np.zeros(canvas, np.int64)
        self._codes: NDArray[np.int64] = np.zeros((canvas[0], MOST_CODE + 1), np.int64)

    def add(self, tile: Tile) -> None:
        """Take the tile's pixels into account."""
        row, col, rows, cols = tile.meta["window"]
        rows, cols = min(rows, tile.pixels.shape[1]), min(cols, tile.pixels.shape[2])
        pixels = np.ascontiguousarray(tile.pixels)
        add_to_summary(pixels, row, col, rows, cols, self.factor, self._sum, self._count, self._codes)

    def histograms(self) -> dict[str, list[int]]:
        """Give counts per half decibel from -50 to 20 dB, per polarisation; the ends take what lies beyond."""
        number = round((LAST_DB - FIRST_DB) / BIN_DB)
        level = self.scale.floor_db + np.arange(MOST_CODE) * self.scale.step_db
        # Levels lie on a raster of their own: a hair is added so that rounding never moves one over an edge.
        at = np.clip(np.floor((level - FIRST_DB) / BIN_DB + 1e-6), 0, number - 1)
        bins = [np.bincount(at.astype(np.intp), codes[1:], number).astype(np.int64) for codes in self._codes]
        return {name: bins[band].tolist() for band, name in enumerate(self.polarisations)}

    def quicklook(self) -> bytes:
        """Give a PNG: one band in grey, two as (first, second, first - second) in red, green and blue."""
        with np.errstate(invalid="ignore"):
            code = np.where(self._count > 0, self._sum / np.maximum(self._count, 1), np.nan)
        level = self.scale.floor_db + (code - 1) * self.scale.step_db
        return png([level[0], level[1], level[0] - level[1]] if len(level) > 1 else [level[0]])
