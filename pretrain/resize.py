"""Cutting and resizing of a tile's values: linear, antialiased, blind to pixels without data; compiled.

Sums are in single precision and in a fixed order, and loops run along rows, so that the compiler may take several
columns at once: the same values on every machine.
"""

import math
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float32]
Line = NDArray[np.float32]
Pixel = TypeVar("Pixel", bound=np.generic)

MIRRORED, UPSIDE_DOWN, TRANSPOSED = 1, 2, 4
"""Bits of an orientation; together they are the eight flips and turns of a square."""

_LEAST_SHARE = np.float32(1e-6)


def resized_crop(pixels: NDArray[Pixel], crop: NDArray[np.int64], size: int) -> NDArray[Pixel]:
    """Cut [y, x, h, w, flipped] of pixels (bands, rows, columns), resize it to (bands, size, size), and flip it.

    Linear and antialiased (the filter widens as the crop shrinks). Pixels without data (0 of uint8 and uint16, NaN of
    float32) have no weight; where no pixel has any, the result is without data. ``flipped`` is an orientation as in
    :func:`oriented`.
    """
    if crop[4] & ~MIRRORED:
        upright = np.array([*crop[:4], 0], np.int64)
        return oriented(resized_crop(pixels, upright, size), int(crop[4]))
    whole_numbers = pixels.dtype.kind == "u"
    view = np.empty((len(pixels), size, size), pixels.dtype)
    nothing, half = (np.float32(0), np.float32(0.5)) if whole_numbers else (np.float32(np.nan), np.float32(0))
    _resize(pixels, crop, view, nothing, half)
    return view


def oriented(view: NDArray[Pixel], orientation: int) -> NDArray[Pixel]:
    """Transpose an upright view (bands, size, size), mirror it top to bottom, then left to right, as the bits say."""
    if orientation & TRANSPOSED:
        view = view.swapaxes(1, 2)
    if orientation & UPSIDE_DOWN:
        view = view[:, ::-1]
    if orientation & MIRRORED:
        view = view[:, :, ::-1]
    return np.ascontiguousarray(view)


@numba.njit(cache=True, nogil=True)
def filter_weights(length: int, size: int) -> tuple[NDArray[np.int64], Weights]:
    """Give first source pixel (size,) and weights (taps, size) of an antialiased linear filter."""
    zoom = length / size
    reach = max(zoom, 1.0)
    first = np.empty(size, np.int64)
    weights = np.zeros((2 * math.ceil(reach) + 1, size), np.float32)
    taps = 0
    for i in range(size):
        centre = (i + 0.5) * zoom
        low = max(0, math.floor(centre - reach + 0.5))
        high = min(length, math.floor(centre + reach + 0.5))
        first[i] = low
        taps = max(taps, high - low)
        total = 0.0
        for k in range(low, high):
            total += max(0.0, 1.0 - abs((k + 0.5 - centre) / reach))
        for k in range(low, high):
            weights[k - low, i] = max(0.0, 1.0 - abs((k + 0.5 - centre) / reach)) / total
    return first, weights[:taps]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _resize(
    pixels: NDArray[Any], crop: NDArray[np.int64], view: NDArray[Any], nothing: np.float32, half: np.float32
) -> None:
    """Fill ``view``. Source rows are resized once, as the rows of the view need them, and kept in a ring."""
    y, x, h, w = crop[0], crop[1], crop[2], crop[3]
    size = view.shape[1]
    first_y, weights_y = filter_weights(h, size)
    first_x, weights_x = filter_weights(w, size)
    taps = weights_y.shape[0]
    # One pixel of room more than a source row has: a filter of the right border reads it with weight 0.
    line, measured = np.zeros(w + len(weights_x), np.float32), np.zeros(w + len(weights_x), np.float32)
    sums, shares = np.empty((taps, size), np.float32), np.empty((taps, size), np.float32)
    total, share = np.empty(size, np.float32), np.empty(size, np.float32)
    for band in range(pixels.shape[0]):
        cut = pixels[band, y : y + h, x : x + w]
        whole = _is_whole(cut, nothing)
        done = 0
        for i in range(size):
            last = min(first_y[i] + taps, h)
            for row in range(done, last):
                full = _read(cut[row], line, measured, nothing)
                _along(line, first_x, weights_x, sums[row % taps])
                if full:
                    shares[row % taps, :] = np.float32(1.0)
                else:
                    _along(measured, first_x, weights_x, shares[row % taps])
            done = max(done, last)
            _down(sums, first_y[i], weights_y[:, i], total)
            if not whole:
                _down(shares, first_y[i], weights_y[:, i], share)
                _divide(total, share, nothing)
            _store(total, half, crop[4] & MIRRORED, view[band, i])


@numba.njit(cache=True, nogil=True)
def _is_whole(cut: NDArray[Any], nothing: np.float32) -> bool:
    """Tell whether every pixel has data."""
    for row in range(cut.shape[0]):
        holes = 0
        for k in range(cut.shape[1]):
            value = np.float32(cut[row, k])
            holes += (value == nothing) | (value != value)
        if holes:
            return False
    return True


@numba.njit(cache=True, nogil=True)
def _read(pixels: NDArray[Any], line: Line, measured: Line, nothing: np.float32) -> bool:
    """Copy a row's values and tell where there are any (1 or 0); say whether all have."""
    holes = 0
    for k in range(len(pixels)):
        value = np.float32(pixels[k])
        hole = (value == nothing) | (value != value)
        holes += hole
        line[k] = np.float32(0.0) if hole else value
        measured[k] = np.float32(0.0) if hole else np.float32(1.0)
    return holes == 0


@numba.njit(cache=True, nogil=True)
def _along(line: Line, first: NDArray[np.int64], weights: Weights, out: Line) -> None:
    """Resize a row; two taps at a time, which halves the traffic with memory."""
    taps = weights.shape[0]
    out[:] = np.float32(0.0)
    for k in range(0, taps - 1, 2):
        near, far = weights[k], weights[k + 1]
        for j in range(len(out)):
            at = first[j] + k
            out[j] = (out[j] + near[j] * line[at]) + far[j] * line[at + 1]
    if taps % 2:
        last = weights[taps - 1]
        for j in range(len(out)):
            out[j] += last[j] * line[first[j] + taps - 1]


@numba.njit(cache=True, nogil=True)
def _down(rows: Weights, first: int, weights: Line, out: Line) -> None:
    """Sum resized rows, a ring, from the source row ``first`` on."""
    out[:] = np.float32(0.0)
    for k in range(len(weights)):
        weight = weights[k]
        if weight > np.float32(0.0):
            row = rows[(first + k) % len(rows)]
            for j in range(len(out)):
                out[j] += weight * row[j]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _divide(total: Line, share: Line, nothing: np.float32) -> None:
    for j in range(len(total)):
        total[j] = total[j] / share[j] if share[j] > _LEAST_SHARE else nothing


@numba.njit(cache=True, nogil=True)
def _store(total: Line, half: np.float32, flipped: int, out: NDArray[Any]) -> None:
    size = len(out)
    if flipped:
        for j in range(size):
            out[j] = total[size - 1 - j] + half
    else:
        for j in range(size):
            out[j] = total[j] + half
