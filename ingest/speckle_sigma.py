"""Improved Lee sigma filter (Lee et al. 2009, TGRS 47(1)): bright targets are kept, the rest is averaged by likeness.

A pixel is averaged with those of its window that lie in the sigma range around its a-priori mean, the MMSE estimate
of its 3 x 3 pixels. Range and noise come from a table for 1 to 4 looks (intensity); other numbers of looks use the
nearest row. Bright is what exceeds the 98th percentile of the whole scene, which the caller determines once: taken
from a part of the scene it would change with how the scene is cut.
"""

from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ingest.speckle_window import Block, Power, Sums, kernel, load, split

# By looks and share of the speckle's distribution: lower and upper end of the range about a mean of 1, and the
# coefficient of variation of what lies within.
_RANGES = MappingProxyType(
    {
        1: {0.5: (0.436, 1.920, 0.4057), 0.6: (0.343, 2.210, 0.4954), 0.7: (0.254, 2.582, 0.5911),
            0.8: (0.168, 3.094, 0.6966), 0.9: (0.084, 3.941, 0.8191)},
        2: {0.5: (0.582, 1.584, 0.2763), 0.6: (0.501, 1.755, 0.3388), 0.7: (0.418, 1.972, 0.4062),
            0.8: (0.327, 2.260, 0.4810), 0.9: (0.221, 2.744, 0.5699)},
        3: {0.5: (0.652, 1.458, 0.2222), 0.6: (0.580, 1.586, 0.2736), 0.7: (0.505, 1.751, 0.3280),
            0.8: (0.419, 1.965, 0.3892), 0.9: (0.313, 2.320, 0.4624)},
        4: {0.5: (0.694, 1.385, 0.1921), 0.6: (0.630, 1.495, 0.2348), 0.7: (0.560, 1.627, 0.2825),
            0.8: (0.480, 1.804, 0.3354), 0.9: (0.378, 2.094, 0.3991)},
    }
)  # fmt: skip

SIGMAS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""The shares of the speckle's distribution that there are ranges for."""

SIGMA_HALO = 2
"""A bright target is 3 x 3 pixels about a neighbour: no filter of this kind sees less far than this."""

# More bright ones than this among 3 x 3 pixels are a target.
_TARGET = 5
_COLS = 512


def sigma_range(looks: float, sigma: float) -> tuple[float, float, float]:
    """Give the ends of the range about a mean of 1 and the coefficient of variation of what lies within."""
    return _RANGES[min(max(round(looks), 1), 4)][sigma]


@kernel
def _mmse(x: float, total: float, total2: float, count: float, noise: float) -> float:
    mean = total / max(count, 1.0)
    variance = (total2 - total * mean) / max(count - 1.0, 1.0)
    signal = (variance - mean * mean * noise) / (1.0 + noise)
    found = mean + signal / variance * (x - mean)
    return mean if variance <= 0.0 or signal <= 0.0 else found


@kernel
def _apriori(value: Sums, valid: Sums, row: int, margin: int, noise: float, mean: Sums) -> None:
    """Give the MMSE estimate of one row from 3 x 3 pixels; ``row`` is that of the centres in ``value``."""
    width = mean.size
    total, total2, count = np.zeros(width), np.zeros(width), np.zeros(width)
    for i in range(row - 1, row + 2):
        for k in range(margin - 1, margin + 2):
            line, seen = value[i, k : k + width], valid[i, k : k + width]
            for j in range(width):
                x = line[j]
                total[j] += x
                total2[j] += x * x
                count[j] += seen[j]
    centre = value[row, margin : margin + width]
    for j in range(width):
        mean[j] = _mmse(centre[j], total[j], total2[j], count[j], noise)


@kernel
def _likes(value: Sums, valid: Sums, row: int, size: int, ends: tuple[Sums, Sums], sums: Sums) -> None:
    """Sum, squares and number of those pixels of each window that lie between the ends; ``row`` is its first."""
    low, high = ends
    total, total2, count = sums[0], sums[1], sums[2]
    width = total.size
    sums[:] = 0.0
    for i in range(row, row + size):
        for k in range((valid.shape[1] - width - size + 1) // 2, (valid.shape[1] - width + size + 1) // 2):
            line, seen = value[i, k : k + width], valid[i, k : k + width]
            for j in range(width):
                x = line[j]
                keep = seen[j] if low[j] <= x <= high[j] else 0.0
                total[j] += keep * x
                total2[j] += keep * x * x
                count[j] += keep


@kernel
def _targets(value: Sums, valid: Sums, bright: float) -> NDArray[np.bool_]:
    """Mark bright pixels in 3 x 3 ones about a bright one with more than five bright; two at the rim are not known."""
    above = (value > bright) & (valid > 0.0)
    targets = np.zeros(above.shape, dtype=np.bool_)
    rows, cols = above.shape
    for i in range(1, rows - 1):
        for j in range(1, cols - 1):
            if above[i, j] and np.sum(above[i - 1 : i + 2, j - 1 : j + 2]) > _TARGET:
                targets[i - 1 : i + 2, j - 1 : j + 2] |= above[i - 1 : i + 2, j - 1 : j + 2]
    return targets


@kernel
def _sigma_block(
    power: Power,
    size: int,
    margin: int,
    noise: float,
    ends: tuple[float, float, float],
    bright: float,
    block: Block,
    out: Power,
) -> None:
    top, bottom, left, right = block
    height, width = bottom - top, right - left
    value = np.empty((height + 2 * margin, width + 2 * margin))
    valid = np.empty(value.shape)
    for i in range(value.shape[0]):
        load(power, top - margin + i, left - margin, value[i])
        split(value[i], valid[i])
    targets = _targets(value, valid, bright)
    mean, low, high, sums = np.empty(width), np.empty(width), np.empty(width), np.empty((3, width))
    least, most, variation = ends
    for i in range(height):
        _apriori(value, valid, i + margin, margin, noise, mean)
        for j in range(width):
            low[j], high[j] = least * mean[j], most * mean[j]
        _likes(value, valid, i + margin - size // 2, size, (low, high), sums)
        line = power[top + i, left:right]
        target = out[top + i, left:right]
        for j in range(width):
            x = float(line[j])
            found = _mmse(x, sums[0, j], sums[1, j], sums[2, j], variation * variation)
            keep = np.isnan(x) or sums[2, j] == 0.0 or targets[i + margin, j + margin]
            target[j] = x if keep else found


@kernel
def sigma_rows(
    power: Power,
    size: int,
    looks: float,
    ends: tuple[float, float, float],
    bright: float,
    first: int,
    last: int,
    out: Power,
) -> None:
    """Filter rows first..last of (rows, cols) power into those of ``out``.

    ``ends`` come from :func:`sigma_range`; ``bright`` is the power above which a pixel may be a target.
    """
    margin = max(size // 2, SIGMA_HALO)
    for top in range(first, last, 64):
        for left in range(0, power.shape[1], _COLS):
            block = (top, min(top + 64, last), left, min(left + _COLS, power.shape[1]))
            _sigma_block(power, size, margin, 1.0 / looks, ends, bright, block, out)
