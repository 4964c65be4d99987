"""Cutting and resizing of a tile's codes: linear, antialiased, blind to pixels without data; compiled."""

import math

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(cache=True, nogil=True)
def filter_weights(length: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Give first source pixel (size,) and weights (size, taps) of an antialiased linear filter."""
    zoom = length / size
    reach = max(zoom, 1.0)
    taps = 2 * math.ceil(reach) + 1
    first = np.empty(size, np.int64)
    weights = np.zeros((size, taps), np.float32)
    for i in range(size):
        centre = (i + 0.5) * zoom
        low = max(0, math.floor(centre - reach + 0.5))
        high = min(length, math.floor(centre + reach + 0.5))
        first[i] = low
        total = 0.0
        for k in range(low, high):
            total += max(0.0, 1.0 - abs((k + 0.5 - centre) / reach))
        for k in range(low, high):
            weights[i, k - low] = max(0.0, 1.0 - abs((k + 0.5 - centre) / reach)) / total
    return first, weights


@numba.njit(cache=True, nogil=True)
def resized_crop(pixels: NDArray[np.uint16], crop: NDArray[np.int64], size: int) -> NDArray[np.uint16]:
    """Cut [y, x, h, w, flipped] of pixels (bands, rows, columns), resize it to (bands, size, size), and flip it.

    Linear and antialiased (the filter widens as the crop shrinks). Pixels without data have no weight; where no
    pixel has any, the result is 0.
    """
    y, x, h, w = crop[0], crop[1], crop[2], crop[3]
    first_y, weights_y = filter_weights(h, size)
    first_x, weights_x = filter_weights(w, size)
    view = np.zeros((pixels.shape[0], size, size), np.uint16)
    sums, shares = np.empty((h, size), np.float32), np.empty((h, size), np.float32)
    sum_row, share_row = np.empty(size, np.float32), np.empty(size, np.float32)
    for band in range(pixels.shape[0]):
        whole = _rows(pixels[band], y, x, w, first_x, weights_x, sums, shares)
        for i in range(size):
            sum_row[:] = np.float32(0.0)
            share_row[:] = np.float32(0.0)
            for k in range(weights_y.shape[1]):
                weight = weights_y[i, k]
                if weight > np.float32(0.0):
                    row = first_y[i] + k
                    for j in range(size):
                        sum_row[j] += weight * sums[row, j]
                    if not whole:
                        for j in range(size):
                            share_row[j] += weight * shares[row, j]
            for j in range(size):
                value = sum_row[j]
                if not whole:
                    value = sum_row[j] / share_row[j] if share_row[j] > np.float32(1e-6) else np.float32(0.0)
                view[band, i, size - 1 - j if crop[4] else j] = np.uint16(value + np.float32(0.5))
    return view


@numba.njit(cache=True, nogil=True)
def _rows(
    band: NDArray[np.uint16],
    y: int,
    x: int,
    w: int,
    first: NDArray[np.int64],
    weights: NDArray[np.float32],
    sums: NDArray[np.float32],
    shares: NDArray[np.float32],
) -> bool:
    """Resize every row of a crop; fill weighted sums and valid shares, and tell whether all pixels are valid."""
    size, taps = weights.shape
    whole = True
    for row in range(sums.shape[0]):
        line = band[y + row]
        full = True
        for k in range(x, x + w):
            full = full and line[k] != 0
        whole = whole and full
        for j in range(size):
            total, share = np.float32(0.0), np.float32(0.0)
            at = x + first[j]
            for k in range(min(taps, w - first[j])):
                weight = weights[j, k]
                value = line[at + k]
                total += weight * np.float32(value)
                if value != 0:
                    share += weight
            sums[row, j], shares[row, j] = total, np.float32(1.0) if full else share
    return whole
