"""The changes of :mod:`pretrain.augment` on a processor, one view after the other in its cache; compiled.

Sums are in a fixed order, so that the greys are the same on every machine and for any number of threads.
"""

import math

import numba
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]
Line = NDArray[np.float32]

_LEAST_SHARE = np.float32(1e-6)
_LEAST_WEIGHT = 1e-9


@numba.njit(cache=True, nogil=True)
def change_all(grey: Image, valid: Mask, factors: NDArray[np.float32], sigmas: Line, reach: int, out: Image) -> None:
    """Change views (N, bands, H, W) by factors (N, 4) [changed, brightness first, brightness, contrast] and sigmas.

    ``reach`` is where the kernel of a blur ends, in pixels from its middle.
    """
    bands, rows, columns = grey.shape[1:]
    work = np.empty((bands, rows, columns), np.float32)
    for n in range(len(grey)):
        changed = out[n] if sigmas[n] <= np.float32(0.0) else work
        _jitter(grey[n], valid[n], factors[n], changed)
        if sigmas[n] > np.float32(0.0):
            kernel = _gaussian(float(sigmas[n]), reach)
            for band in range(bands):
                _blur(work[band], valid[n, band], kernel, out[n, band])


@numba.njit(cache=True, nogil=True)
def grey_of(
    codes: NDArray[np.uint16], step_db: np.float32, floor_db: np.float32, lo_db: np.float32, range_db: np.float32,
    grey: Image, valid: Mask,
) -> None:  # fmt: skip
    """Fill greys and where they are valid, of as many codes, as :func:`pretrain.encoder.to_grey` does, bit for bit."""
    for i in range(len(codes)):
        level_db = (np.float32(codes[i]) - np.float32(1.0)) * step_db + floor_db
        there = codes[i] != 0
        valid[i] = there
        grey[i] = _unit((level_db - lo_db) / range_db) * np.float32(there)


@numba.njit(cache=True, nogil=True)
def _jitter(grey: Image, valid: Mask, factors: Line, out: Image) -> None:
    changed, bright, contrast = factors[0] > 0, factors[2], factors[3]
    first = bright if factors[1] > 0 else np.float32(1.0)
    then = np.float32(1.0) if factors[1] > 0 else bright
    mean = _mean(grey, valid, first) if changed else np.float32(0.0)
    for band in range(grey.shape[0]):
        for i in range(grey.shape[1]):
            line, there, made = grey[band, i], valid[band, i], out[band, i]
            if changed:
                for j in range(len(line)):
                    value = mean + contrast * (_unit(line[j] * first) - mean)
                    made[j] = _unit(_unit(value) * then) * np.float32(there[j])
            else:
                for j in range(len(line)):
                    made[j] = line[j] * np.float32(there[j])


@numba.njit(cache=True, nogil=True, inline="always")
def _unit(value: np.float32) -> np.float32:
    return min(max(value, np.float32(0.0)), np.float32(1.0))


@numba.njit(cache=True, nogil=True)
def _mean(grey: Image, valid: Mask, factor: np.float32) -> np.float32:
    """Average over valid pixels, after a change of brightness; column by column, then the columns."""
    sums, counts = np.zeros(grey.shape[2], np.float32), np.zeros(grey.shape[2], np.float32)
    for band in range(grey.shape[0]):
        for i in range(grey.shape[1]):
            line, there = grey[band, i], valid[band, i]
            for j in range(len(line)):
                share = np.float32(there[j])
                sums[j] += _unit(line[j] * factor) * share
                counts[j] += share
    total = count = 0.0
    for j in range(len(sums)):
        total += sums[j]
        count += counts[j]
    return np.float32(total / max(count, 1.0))


@numba.njit(cache=True, nogil=True)
def _gaussian(sigma: float, most: int) -> Line:
    """Give one half of a kernel that sums to 1, its middle first, as far as it has weight, at most ``most`` + 1."""
    half = np.empty(most + 1)
    reach = 0
    total = 0.0
    for k in range(most + 1):
        weight = math.exp(-0.5 * (k / max(sigma, 1e-3)) ** 2)
        if weight < _LEAST_WEIGHT:
            break
        half[k], reach = weight, k
        total += weight if k == 0 else 2 * weight
    return (half[: reach + 1] / total).astype(np.float32)


@numba.njit(cache=True, nogil=True)
def _blur(image: Image, valid: Mask, kernel: Line, out: Image) -> None:
    """Blur a band whose invalid pixels are 0; they and what lies beyond the border have no weight."""
    rows, columns = image.shape
    reach = len(kernel) - 1
    beyond, ones = np.zeros(columns, np.float32), np.ones((1, columns), np.float32)
    padded, shares = np.zeros(columns + 2 * reach, np.float32), np.zeros(columns + 2 * reach, np.float32)
    inner, inner_shares = padded[reach : reach + columns], shares[reach : reach + columns]
    total, share = np.empty(columns, np.float32), np.empty(columns, np.float32)
    whole = valid.all()
    there = valid.astype(np.float32) if not whole else ones
    inner_shares[:] = np.float32(1.0)
    _across(shares, kernel, share)
    for i in range(rows):
        _down(image, i, kernel, beyond, inner)
        _across(padded, kernel, total)
        if whole:
            inside = np.float32(0.0)
            for k in range(max(0, i - reach), min(rows, i + reach + 1)):
                inside += kernel[abs(k - i)]
            for j in range(columns):
                out[i, j] = total[j] / (share[j] * inside)
        else:
            _down(there, i, kernel, beyond, inner_shares)
            _across(shares, kernel, share)
            for j in range(columns):
                out[i, j] = total[j] / max(share[j], _LEAST_SHARE) * there[i, j]


@numba.njit(cache=True, nogil=True)
def _down(image: Image, i: int, kernel: Line, beyond: Line, out: Line) -> None:
    """Sum the columns of an image under the kernel at row ``i``; rows outside the image are ``beyond``."""
    rows, reach = len(image), len(kernel) - 1
    middle, line = kernel[0], image[i]
    for j in range(len(out)):
        out[j] = middle * line[j]
    for k in range(1, reach + 1, 2):
        above, below = image[i - k] if i >= k else beyond, image[i + k] if i + k < rows else beyond
        k2 = k + 1
        above2 = image[i - k2] if k2 <= reach and i >= k2 else beyond
        below2 = image[i + k2] if k2 <= reach and i + k2 < rows else beyond
        _add(out, kernel[k], above, below, kernel[k2] if k2 <= reach else np.float32(0.0), above2, below2)


@numba.njit(cache=True, nogil=True)
def _across(padded: Line, kernel: Line, out: Line) -> None:
    """Sum a row under the kernel; ``padded`` reaches beyond both ends."""
    reach, size = len(kernel) - 1, len(out)
    middle = kernel[0]
    for j in range(size):
        out[j] = middle * padded[reach + j]
    for k in range(1, reach + 1, 2):
        k2 = min(k + 1, reach)
        weight = kernel[k2] if k < reach else np.float32(0.0)
        left, right = padded[reach - k : reach - k + size], padded[reach + k : reach + k + size]
        _add(out, kernel[k], left, right, weight, padded[reach - k2 : reach - k2 + size], padded[reach + k2 :])


@numba.njit(cache=True, nogil=True)
def _add(out: Line, one: np.float32, a: Line, b: Line, two: np.float32, c: Line, d: Line) -> None:
    """Add what two weights see on both sides: two at a time halves the traffic with memory."""
    for j in range(len(out)):
        out[j] += one * (a[j] + b[j]) + two * (c[j] + d[j])
