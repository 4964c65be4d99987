"""The dark borders of Sentinel-1 GRD products made before IPF 2.90, told from dark ground (MPC-0243, section 4).

Until March 2018 the fill around an image was not cleanly zero: next to it lie faint digital numbers that are no
measurement. As in ESA's rule a pixel is dark where DN < 30 or DN^2 - eta < 0.25, judged on the co-polarised image and
masked in all. That rule alone also removes calm water, so only what begins at the edge of the image counts: the run
of dark pixels from the fill (or the edge) inward along a line, and along a column, at most ``_REACH`` pixels deep.
Water that touches the edge within that reach is still taken for border; water farther inside never is.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ingest.scene import Window

Numbers = NDArray[np.uint16]
Power = NDArray[np.float32]
Counts = NDArray[np.int64]

_DARK = 30.0
_DARK_POWER = 0.25
_CELL = 8
"""Pixels are judged by so many at a time: a run ends at the first cell of which a quarter is not dark."""
_DARK_IN_CELL = 6
_REACH = 512
_STRIP = 2048
"""Fill and border together are looked for this far from the edge, in pixels; a multiple of the cell."""
_LINES = 256
"""Lines read at a time; a multiple of the cell."""
_NEIGHBOURS = 33
"""The depth of a border is the median of so many lines, and of a single line at most 4 cells more."""
_MORE_CELLS = 4


@dataclass(frozen=True, slots=True)
class _Limits:
    """How many pixels are border: from the left and right of each line, from the top and bottom of each column."""

    left: Counts
    right: Counts
    top: Counts
    bottom: Counts


class BorderMask:
    """Where a whole image is border. Found at first use, by one pass over its edges; safe from several threads.

    ``read`` gives digital numbers of a window of the image of ``shape`` (rows, cols), ``eta`` its thermal noise in
    squared digital numbers (0 where unknown). Memory is a few lines and the cells of the strips along the edges.
    """

    def __init__(
        self, shape: tuple[int, int], read: Callable[[Window], Numbers], eta: Callable[[Window], Power]
    ) -> None:
        self._shape, self._read, self._eta = shape, read, eta
        self._lock = threading.Lock()
        self._limits: _Limits | None = None

    def apply(self, window: Window, power: Power) -> None:
        """Set the border of a window to NaN in (bands, rows, cols), the same for any window that shows a pixel."""
        limits = self._find()
        rows = slice(window.row, window.row + window.rows)
        cols = slice(window.col, window.col + window.cols)
        height, width = self._shape
        _blank(power, limits.left[rows] - window.col)
        _blank(power[:, :, ::-1], limits.right[rows] - (width - cols.stop))
        turned = power.transpose(0, 2, 1)
        _blank(turned, limits.top[cols] - window.row)
        _blank(turned[:, :, ::-1], limits.bottom[cols] - (height - rows.stop))

    def _find(self) -> _Limits:
        with self._lock:
            if self._limits is None:
                self._limits = self._look()
            return self._limits

    def _look(self) -> _Limits:
        height, width = self._shape
        if min(self._shape) < 2 * _CELL:  # too small to have an inside
            return _Limits(*(np.zeros(n, np.int64) for n in (height, height, width, width)))
        return _Limits(*self._sides(), self._end(top=True), self._end(top=False))

    def _sides(self) -> tuple[Counts, Counts]:
        """Go down the image and give the depth of the border at the left and right of each line."""
        height, width = self._shape
        strip = _strip(width)
        found: list[list[NDArray[np.int64]]] = []
        for row in range(0, height, _LINES):
            rows = min(_LINES, height - row)
            left = self._dark(Window(row, 0, rows, strip))
            right = self._dark(Window(row, width - strip, rows, strip))
            runs = [_runs(*_cells(*part)) for part in (left, (right[0][:, ::-1], right[1][:, ::-1]))]
            found.append([*runs[0], *runs[1]])
        start, run, start_right, run_right = (np.concatenate(part) for part in zip(*found, strict=True))
        return _depth(start, run), _depth(start_right, run_right)

    def _end(self, *, top: bool) -> Counts:
        """Give the depth of the border at the top or bottom of each column."""
        height, width = self._shape
        strip = _strip(height)
        order = slice(None) if top else slice(None, None, -1)
        cells = []
        for row in range(0, strip, _LINES):
            rows = min(_LINES, strip - row)
            dark, filled = self._dark(Window(row if top else height - row - rows, 0, rows, width))
            cells.append(_cells(dark[order].T, filled[order].T))
        dark, filled = (np.concatenate(part, axis=1) for part in zip(*cells, strict=True))
        return _depth(*_runs(dark, filled))

    def _dark(self, window: Window) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Tell which pixels of a window are dark, and which hold anything at all."""
        numbers = self._read(window)
        bound = np.maximum(self._eta(window) + np.float32(_DARK_POWER), np.float32(_DARK**2))
        return np.square(numbers, dtype=np.float32) < bound, numbers.astype(np.bool_)


def _strip(length: int) -> int:
    """Give how far from the edge to look: whole cells, not beyond the middle of a small image."""
    return min(_STRIP, length // 2) // _CELL * _CELL


def _cells(dark: NDArray[np.bool_], filled: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Sum up pixels (lines, n) by cells along each line."""
    shape = (dark.shape[0], -1, _CELL)
    return dark.reshape(shape).sum(axis=2) >= _DARK_IN_CELL, np.asarray(filled.reshape(shape).any(axis=2))


def _runs(dark: NDArray[np.bool_], filled: NDArray[np.bool_]) -> tuple[Counts, Counts]:
    """Give for each line of cells the first that is not fill, and how many from it on are dark, within reach."""
    count = dark.shape[1]
    seen = filled.any(axis=1)
    start = np.where(seen, filled.argmax(axis=1), 0)
    ends = ~dark & (np.arange(count) >= start[:, None])
    stop = np.where(ends.any(axis=1), ends.argmax(axis=1), count)
    return start, np.where(seen, np.minimum(stop - start, _REACH // _CELL), 0)


def _depth(start: Counts, run: Counts) -> Counts:
    """Give the pixels from the edge that are border, by runs of dark cells that agree with their neighbours'.

    The cell in which a longer run ends is partly border too.
    """
    half = _NEIGHBOURS // 2
    around = np.lib.stride_tricks.sliding_window_view(np.pad(run, half, mode="edge"), _NEIGHBOURS)
    middle = np.median(around, axis=1).astype(np.int64)
    agreed = np.where(run <= middle + _MORE_CELLS, np.maximum(run, middle), middle)
    return np.where(agreed > 0, (start + agreed + (agreed > 1)) * _CELL, 0)


def _blank(power: Power, depths: Counts) -> None:
    """Set the first pixels of each line of (bands, lines, n) to NaN."""
    deepest = min(int(depths.max(initial=0)), power.shape[2])
    if deepest > 0:
        border = np.arange(deepest) < depths[:, None]
        power[:, :, :deepest][:, border] = np.nan
