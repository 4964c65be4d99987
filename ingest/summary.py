"""What a report shows of a scene, gathered while its tiles pass: a quicklook and a histogram per polarisation."""

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.tile import NO_DATA, DbScale, Tile

QUICKLOOK_PX = 384
BIN_DB = 0.5
FIRST_DB, LAST_DB = -50.0, 20.0


class SceneSummary:
    """Block means of all tiles of one scene on a small canvas, and counts per half decibel."""

    def __init__(self, shape: tuple[int, int], polarisations: tuple[str, ...], scale: DbScale) -> None:
        self.factor = max(1, -(-max(shape) // QUICKLOOK_PX))
        self.polarisations = polarisations
        self.scale = scale
        canvas = (len(polarisations), -(-shape[0] // self.factor), -(-shape[1] // self.factor))
        self._sum: NDArray[np.float64] = np.zeros(canvas)
        self._count: NDArray[np.int64] = np.zeros(canvas, np.int64)
        self._bins: NDArray[np.int64] = np.zeros((canvas[0], round((LAST_DB - FIRST_DB) / BIN_DB)), np.int64)

    def add(self, tile: Tile) -> None:
        """Take the tile's pixels into account."""
        level = self.scale.decode(tile.pixels)
        valid = tile.pixels != NO_DATA
        row, col, rows, cols = tile.meta["window"]
        rows, cols = min(rows, level.shape[1]), min(cols, level.shape[2])
        level, valid = level[:, :rows, :cols], valid[:, :rows, :cols]
        row_cells, row_starts = self._cells(row, rows)
        col_cells, col_starts = self._cells(col, cols)
        where = np.ix_(np.arange(level.shape[0]), row_cells, col_cells)
        self._sum[where] += _block_sums(np.where(valid, level, 0.0).astype(np.float64), row_starts, col_starts)
        self._count[where] += _block_sums(valid.astype(np.int64), row_starts, col_starts)
        for band in range(level.shape[0]):
            bins = ((level[band][valid[band]] - FIRST_DB) / BIN_DB).astype(np.int64)
            self._bins[band] += np.bincount(np.clip(bins, 0, self._bins.shape[1] - 1), minlength=self._bins.shape[1])

    def _cells(self, start: int, length: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        cells, starts = np.unique((start + np.arange(length)) // self.factor, return_index=True)
        return cells, starts

    def histograms(self) -> dict[str, list[int]]:
        """Give counts per half decibel from -50 to 20 dB, per polarisation."""
        return {name: self._bins[band].tolist() for band, name in enumerate(self.polarisations)}

    def quicklook(self) -> bytes:
        """Give a PNG: one band in grey, two as (first, second, first - second) in red, green and blue."""
        from PIL import Image

        with np.errstate(invalid="ignore"):
            level = np.where(self._count > 0, self._sum / np.maximum(self._count, 1), np.nan)
        layers = [_stretch(band) for band in level[:2]]
        if len(layers) == 2:
            layers.append(_stretch(level[0] - level[1]))
        picture = np.stack(layers, axis=-1) if len(layers) == 3 else layers[0]
        buffer = BytesIO()
        Image.fromarray(picture).save(buffer, format="PNG", optimize=False)
        return buffer.getvalue()


def _block_sums(values: NDArray[Any], rows: NDArray[np.intp], cols: NDArray[np.intp]) -> NDArray[Any]:
    return np.add.reduceat(np.add.reduceat(values, rows, axis=1), cols, axis=2)


def _stretch(level: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Map the 2nd to 98th percentile to 16..255; no-data is 0."""
    valid = level[~np.isnan(level)]
    if valid.size == 0:
        return np.zeros(level.shape, np.uint8)
    low, high = np.percentile(valid, (2, 98))
    scaled = 16 + 239 * (level - low) / max(high - low, 1e-6)
    return np.where(np.isnan(level), 0, np.clip(scaled, 16, 255)).astype(np.uint8)
