"""Refined Lee (Lee 1981, CVGIP 17): the MMSE estimate from the half window on the pixel's side of the strongest edge.

Seven by seven pixels hold nine 3 x 3 sub-windows. The steepest of four gradients between their means is the edge; the
noise is the mean of the five least of their variance ratios. A window with no-data in it falls back to Lee's estimate
from its valid pixels and the given looks.
"""

import numpy as np
from numpy.typing import NDArray

from ingest.speckle_local import LEE, local_block
from ingest.speckle_window import Power, Sums, has_holes, kernel, load, split

REFINED_SIZE = 7
"""The filter is defined on 7 x 7 pixels only."""

Steps = tuple[int, int, int, int, int, int, int]

# The lower end of a squared mean, so that its quotient stays finite.
_LEAST_SQUARE = 1e-30
_ROWS = 96
_COLS = 1024


@kernel
def _sorted3(a: float, b: float, c: float) -> tuple[float, float, float]:
    low, high = min(a, b), max(a, b)
    top, rest = max(high, c), min(high, c)
    return min(low, rest), max(low, rest), top


@kernel
def _calm_ground(ratio: Sums, row: int, noise: Sums) -> None:
    """For one row give the noise: the mean of the five least of nine variance ratios.

    ``ratio`` is variance / mean^2 of the 3 x 3 pixels from each pixel of the block on; the nine sub-windows of a
    7 x 7 window begin 0, 2 and 4 pixels from its corner. The five least are those not above the median, which is
    the median of three: the greatest least, the middle and the least greatest of the rows once they are sorted.
    """
    a, b, c = ratio[row], ratio[row + 2], ratio[row + 4]
    for j in range(noise.size):
        a0, a1, a2 = _sorted3(a[j], a[j + 2], a[j + 4])
        b0, b1, b2 = _sorted3(b[j], b[j + 2], b[j + 4])
        c0, c1, c2 = _sorted3(c[j], c[j + 2], c[j + 4])
        _, middle, _ = _sorted3(a1, b1, c1)
        _, m, _ = _sorted3(max(max(a0, b0), c0), middle, min(min(a2, b2), c2))
        least = (min(a0, m) + min(b0, m) + min(c0, m)) + (min(a1, m) + min(b1, m) + min(c1, m))
        least += min(a2, m) + min(b2, m) + min(c2, m)
        noise[j] = (least - 4.0 * m) / 5.0


@kernel
def _add_runs(line: Sums, runs: Sums) -> None:
    """Give the sums of 1, 2, ... 7 neighbours in a row, from each pixel on: (7, pixels)."""
    runs[0] = line
    for m in range(1, REFINED_SIZE):
        width = line.size - m
        shorter, last, longer = runs[m - 1, :width], line[m:], runs[m, :width]
        for j in range(width):
            longer[j] = shorter[j] + last[j]


@kernel
def _sum7(rows: NDArray[np.float64], lengths: Steps, begins: Steps, first: int, out: Sums) -> None:
    """Add up seven runs: of the k-th row of the window that with lengths[k] pixels, beginning at begins[k]."""
    width = out.size
    a, b = rows[first % 7, lengths[0] - 1, begins[0] :], rows[(first + 1) % 7, lengths[1] - 1, begins[1] :]
    c, d = rows[(first + 2) % 7, lengths[2] - 1, begins[2] :], rows[(first + 3) % 7, lengths[3] - 1, begins[3] :]
    e, f = rows[(first + 4) % 7, lengths[4] - 1, begins[4] :], rows[(first + 5) % 7, lengths[5] - 1, begins[5] :]
    g = rows[(first + 6) % 7, lengths[6] - 1, begins[6] :]
    for j in range(width):
        out[j] = ((a[j] + b[j]) + (c[j] + d[j])) + ((e[j] + f[j]) + g[j])


@kernel
def _halves(rows: NDArray[np.float64], first: int, out: Sums) -> None:
    """Sum the 28 pixels of each half window, (8, columns): one side, then the other.

    0 and 4 left and right, 1 and 5 upper right and lower left, 2 and 6 upper and lower, 3 and 7 upper left and
    lower right; the line between the halves belongs to both. ``rows`` are the runs of seven rows, the window's
    first at ``first`` modulo 7.
    """
    width = out.shape[1]
    none, same, up, down = (0, 0, 0, 0, 0, 0, 0), (4, 4, 4, 4, 4, 4, 4), (1, 2, 3, 4, 5, 6, 7), (7, 6, 5, 4, 3, 2, 1)
    _sum7(rows, same, none, first, out[0])
    _sum7(rows, same, (3, 3, 3, 3, 3, 3, 3), first, out[4])
    _sum7(rows, down, (0, 1, 2, 3, 4, 5, 6), first, out[1])
    _sum7(rows, up, none, first, out[5])
    _sum7(rows, down, none, first, out[3])
    _sum7(rows, up, (6, 5, 4, 3, 2, 1, 0), first, out[7])
    for half, start in ((2, first), (6, first + 3)):
        a, b, c, d = rows[start % 7, 6], rows[(start + 1) % 7, 6], rows[(start + 2) % 7, 6], rows[(start + 3) % 7, 6]
        target = out[half]
        for j in range(width):
            target[j] = (a[j] + b[j]) + (c[j] + d[j])


@kernel
def _steeper(
    first: Sums, second: Sums, here: Sums, sums: tuple[Sums, Sums, Sums, Sums], best: tuple[Sums, Sums, Sums]
) -> None:
    """Where the gradient between two sub-means is steeper than any before, take the half that is more like ``here``.

    ``sums`` are the sum and the sum of squares of the half of the first sub-mean, then those of the other.
    """
    total, total2, other, other2 = sums
    slope, found, found2 = best
    for j in range(slope.size):
        a, b, c = first[j], second[j], here[j]
        steep, near = abs(a - b), abs(a - c) < abs(b - c)
        s, s2, t, t2, old, old2, known = total[j], total2[j], other[j], other2[j], found[j], found2[j], slope[j]
        s, s2 = s if near else t, s2 if near else t2
        found[j] = s if steep > known else old
        found2[j] = s2 if steep > known else old2
        slope[j] = max(steep, known)


@kernel
def _half_mmse(centre: Sums, best: tuple[Sums, Sums, Sums], noise: Sums, estimate: Sums) -> None:
    """MMSE of one row with the statistics of the half window."""
    _, total, total2 = best
    for j in range(estimate.size):
        mean = total[j] / 28.0
        variance = (total2[j] - total[j] * mean) / 27.0
        signal = (variance - mean * mean * noise[j]) / (1.0 + noise[j])
        found = mean + signal / variance * (centre[j] - mean)
        estimate[j] = mean if variance <= 0.0 or signal <= 0.0 else found


@kernel
def _choose(mean: Sums, row: int, halves: tuple[Sums, Sums], best: tuple[Sums, Sums, Sums]) -> None:
    """For one row take the half window on the centre's side of the steepest of four gradients of the sub-means."""
    width = best[0].size
    upper, middle, lower = mean[row], mean[row + 2], mean[row + 4]
    here = middle[2 : 2 + width]
    total, total2 = halves
    best[0][:] = -1.0
    _steeper(middle[:width], middle[4:], here, (total[0], total2[0], total[4], total2[4]), best)
    _steeper(upper[4:], lower[:width], here, (total[1], total2[1], total[5], total2[5]), best)
    _steeper(upper[2:], lower[2:], here, (total[2], total2[2], total[6], total2[6]), best)
    _steeper(upper[:width], lower[4:], here, (total[3], total2[3], total[7], total2[7]), best)


@kernel
def _sub_windows(value: Sums, mean: Sums, ratio: Sums) -> None:
    """Give mean and variance / mean^2 of the 3 x 3 pixels from each pixel of a block on."""
    height, width = mean.shape
    column, column2 = np.empty(width + 2), np.empty(width + 2)
    for i in range(height):
        a, b, c = value[i], value[i + 1], value[i + 2]
        for j in range(width + 2):
            column[j] = a[j] + b[j] + c[j]
            column2[j] = a[j] * a[j] + b[j] * b[j] + c[j] * c[j]
        for j in range(width):
            total = column[j] + column[j + 1] + column[j + 2]
            total2 = column2[j] + column2[j + 1] + column2[j + 2]
            mean[i, j] = total / 9.0
            variance = max((total2 - total * mean[i, j]) / 8.0, 0.0)
            ratio[i, j] = variance / max(mean[i, j] * mean[i, j], _LEAST_SQUARE)


@kernel
def _refine_block(value: Sums, incomplete: NDArray[np.bool_], out: Power) -> None:
    """Filter a block with the 3 pixels around it; windows with no-data in them are left alone."""
    height, width = out.shape
    mean, ratio = np.empty((height + 4, width + 4)), np.empty((height + 4, width + 4))
    _sub_windows(value, mean, ratio)
    calm, wide = np.empty(width), width + 6
    rows, rows2 = np.zeros((7, 7, wide)), np.zeros((7, 7, wide))
    halves, square = (np.empty((8, width)), np.empty((8, width))), np.empty(wide)
    best, estimate = (np.empty(width), np.empty(width), np.empty(width)), np.empty(width)
    for number in range(height + 6):
        line = value[number]
        for j in range(wide):
            square[j] = line[j] * line[j]
        _add_runs(line, rows[number % 7])
        _add_runs(square, rows2[number % 7])
        i = number - 6
        if i >= 0:
            _halves(rows, i, halves[0])
            _halves(rows2, i, halves[1])
            _calm_ground(ratio, i, calm)
            _choose(mean, i, halves, best)
            _half_mmse(value[i + 3, 3:], best, calm, estimate)
            for j in range(width):
                out[i, j] = out[i, j] if incomplete[i, j] else estimate[j]


@kernel
def refined_rows(power: Power, margin: int, looks: float, first: int, last: int, out: Power) -> None:
    """Filter rows first..last of (rows, cols) power into those of ``out``; ``looks`` serve beside no-data only."""
    for top in range(first, last, _ROWS):
        for left in range(0, power.shape[1], _COLS):
            block = (top, min(top + _ROWS, last), left, min(left + _COLS, power.shape[1]))
            part = out[top : block[1], left : block[3]]
            height, width = part.shape
            value, valid = np.empty((height + 6, width + 6)), np.empty(width + 6)
            incomplete = np.zeros((height, width), dtype=np.bool_)
            holes = has_holes(power, block, margin)
            if holes:
                local_block(power, LEE, margin, looks, 0.0, block, out)
            for i in range(height + 6):
                load(power, top - margin + i, left - margin, value[i])
                if holes:
                    split(value[i], valid)
                    for j in np.flatnonzero(valid == 0.0):
                        incomplete[max(i - 6, 0) : i + 1, max(j - 6, 0) : j + 1] = True
            _refine_block(value, incomplete, part)
