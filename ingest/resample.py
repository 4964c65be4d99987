"""Pixels of an image at positions between them: the nearest, or the bilinear mean of power."""

from typing import Literal

import numba
import numpy as np
from numpy.typing import NDArray

from ingest.scene import Window

Floats = NDArray[np.float64]
Resampling = Literal["nearest", "bilinear"]


def window_around(rows: Floats, cols: Floats, shape: tuple[int, int]) -> Window | None:
    """Give the window of an image of ``shape`` that holds all neighbours of positions; None where all lie outside."""
    inside = (rows >= -0.5) & (rows < shape[0] - 0.5) & (cols >= -0.5) & (cols < shape[1] - 0.5)
    if not inside.any():
        return None
    rows, cols = rows[inside], cols[inside]
    top, left = max(int(np.floor(rows.min())), 0), max(int(np.floor(cols.min())), 0)
    bottom, right = min(int(np.floor(rows.max())) + 2, shape[0]), min(int(np.floor(cols.max())) + 2, shape[1])
    return Window(top, left, bottom - top, right - left)


def resample_power(power: NDArray[np.float32], window: Window, rows: Floats, cols: Floats, how: Resampling,
                   out: NDArray[np.float32]) -> None:  # fmt: skip
    """Fill ``out`` (bands, r, c) with the power (bands, rows, cols) of a window at image positions (r, c).

    Bilinear weighs the known ones of four neighbours; where they weigh less than half, and outside the window, the
    result is NaN.
    """
    kernel = _nearest if how == "nearest" else _bilinear
    for band in range(len(power)):
        kernel(power[band], window.row, window.col, rows, cols, out[band])


def resample_labels(labels: NDArray[np.uint8], window: Window, rows: Floats, cols: Floats,
                    out: NDArray[np.uint8]) -> None:  # fmt: skip
    """Put the nearest class ids of a window into ``out`` (r, c); where there is none ``out`` stays."""
    with np.errstate(invalid="ignore"):
        i, j = np.floor(rows + 0.5) - window.row, np.floor(cols + 0.5) - window.col
        inside = (i >= 0) & (i < window.rows) & (j >= 0) & (j < window.cols)
    out[inside] = labels[i[inside].astype(np.intp), j[inside].astype(np.intp)]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _nearest(power, top, left, rows, cols, out):  # type: ignore[no-untyped-def]
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            out[r, c] = np.nan
            y, x = rows[r, c], cols[r, c]
            if np.isfinite(y) and np.isfinite(x):
                i, j = int(np.floor(y + 0.5)) - top, int(np.floor(x + 0.5)) - left
                if 0 <= i < power.shape[0] and 0 <= j < power.shape[1]:
                    out[r, c] = power[i, j]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _bilinear(power, top, left, rows, cols, out):  # type: ignore[no-untyped-def]
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            out[r, c] = np.nan
            y, x = rows[r, c], cols[r, c]
            if not (np.isfinite(y) and np.isfinite(x)):
                continue
            i, j = int(np.floor(y)), int(np.floor(x))
            t, u = y - i, x - j
            weight, total = 0.0, 0.0
            for di in range(2):
                for dj in range(2):
                    p, q = i + di - top, j + dj - left
                    if 0 <= p < power.shape[0] and 0 <= q < power.shape[1]:
                        value = power[p, q]
                        if np.isfinite(value):
                            w = (t if di else 1.0 - t) * (u if dj else 1.0 - u)
                            weight += w
                            total += w * value
            if weight >= 0.5:
                out[r, c] = total / weight
