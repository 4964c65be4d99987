"""Frost and enhanced Frost: the mean of a window, weighed by exp(-alpha d) at the distance d from the centre.

Frost et al. 1982 (PAMI 4): alpha is ``damping`` Ci^2, as in Orfeo ToolBox, whose ``deramp`` it is. Enhanced (Lopes et
al. 1990, TGRS 28): the mean where Ci <= Cu, the pixel where Ci >= Cmax = sqrt(1 + 2 / looks), between them alpha is
``damping`` (Ci - Cu) / (Cmax - Ci). Distances are Euclidean, in pixels.

Pixels at the same distance share a weight, so they are added first: rows that lie alike above and below the centre,
then columns. A distance is a whole number of times the root of a square-free number; its weight is that power of
the weight of the root, so that a 7 x 7 window takes five exponentials and not forty-eight.
"""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ingest.speckle_window import (
    LEAST_MEAN,
    LEAST_VARIANCE,
    Block,
    Power,
    Sums,
    advance,
    exp_minus,
    has_holes,
    kernel,
    load,
    moments,
    split,
    stream,
)

Rings = NDArray[np.int64]

# Fewer columns than other filters: a window's rows, folded, and the weights lie beside one another in the cache.
_COLS = 512


@cache
def rings(margin: int) -> Rings:
    """List the places of a window but its centre in rings of one distance: (n, 4) columns root, times, far, near.

    The squared distance is ``times``^2 ``root``, ``root`` square-free; ``far`` >= ``near`` are the distances in rows
    and columns, either way round. In the order of root and times.
    """
    found = []
    for far in range(1, margin + 1):
        for near in range(far + 1):
            root, times = far * far + near * near, 1
            for factor in range(far + near, 1, -1):
                if root % (factor * factor) == 0:
                    root, times = root // (factor * factor), factor
                    break
            found.append((root, times, far, near))
    return np.array(sorted(found), dtype=np.int64)


@kernel
def _ring(folded: Sums, far: int, near: int, fresh: bool, out: Sums) -> None:
    """Add the pixels ``far`` and ``near`` from the centre, each way round; ``folded`` are pairs of rows alike."""
    width, margin = out.size, (folded.shape[1] - out.size) // 2
    a, b = folded[near], folded[far]
    a_left, a_right = a[margin - far : margin - far + width], a[margin + far : margin + far + width]
    b_left, b_right = b[margin - near : margin - near + width], b[margin + near : margin + near + width]
    if near == 0:
        for j in range(width):
            found = a_left[j] + a_right[j] + b_left[j]
            out[j] = found if fresh else out[j] + found
    elif near == far:
        for j in range(width):
            found = a_left[j] + a_right[j]
            out[j] = found if fresh else out[j] + found
    else:
        for j in range(width):
            found = (a_left[j] + a_right[j]) + (b_left[j] + b_right[j])
            out[j] = found if fresh else out[j] + found


@kernel
def _fold(rows: Sums, number: int, margin: int, out: Sums) -> None:
    """Add the rows that lie alike above and below the centre; ``number`` is that of the window's last row."""
    size, wide = 2 * margin + 1, rows.shape[1]
    out[0] = rows[(number - margin) % size]
    for k in range(1, margin + 1):
        above, below, pair = rows[(number - margin - k) % size], rows[(number - margin + k) % size], out[k]
        for j in range(wide):
            pair[j] = above[j] + below[j]


@kernel
def _exps(alpha: Sums, distance: float, out: Sums) -> None:
    for j in range(out.size):
        out[j] = exp_minus(alpha[j] * distance)


@kernel
def _next_power(base: Sums, out: Sums) -> None:
    for j in range(out.size):
        out[j] *= base[j]


@kernel
def _weigh(weight: Sums, ring: Sums, count: Sums, above: Sums, below: Sums) -> None:
    for j in range(weight.size):
        above[j] += weight[j] * ring[j]
        below[j] += weight[j] * count[j]


@kernel
def _weigh_all(weight: Sums, ring: Sums, count: float, above: Sums, below: Sums) -> None:
    for j in range(weight.size):
        above[j] += weight[j] * ring[j]
        below[j] += weight[j] * count


@kernel
def _decay(sums: tuple[Sums, Sums, Sums], noise: float, damping: float, enhanced: bool, alpha: Sums) -> None:
    """Give how fast the weights fall off: 0 is the mean of the window, infinity the pixel itself."""
    total, total2, count = sums
    least, most = math.sqrt(noise), math.sqrt(1.0 + 2.0 * noise)
    for j in range(alpha.size):
        mean, variance = moments(total[j], total2[j], count[j])
        ratio2 = variance / max(mean * mean, LEAST_MEAN * LEAST_MEAN)
        calm = variance < LEAST_VARIANCE
        if enhanced:
            ratio = math.sqrt(max(ratio2, 0.0))
            found = damping * (ratio - least) / max(most - ratio, 1e-12)
            found = np.inf if ratio >= most else found
            calm = calm or ratio <= least
        else:
            found = damping * ratio2
        alpha[j] = 0.0 if calm else found


@kernel
def _settle(
    line: Power, sums: tuple[Sums, Sums, Sums], alpha: Sums, weighed: tuple[Sums, Sums], enhanced: bool, out: Power
) -> None:
    total, total2, count = sums
    above, below = weighed
    for j in range(out.size):
        x = float(line[j])
        mean, _ = moments(total[j], total2[j], count[j])
        estimate = mean if alpha[j] == 0.0 else above[j] / below[j]
        estimate = x if enhanced and alpha[j] == np.inf else estimate
        estimate = 0.0 if abs(mean) < LEAST_MEAN else estimate
        out[j] = x if np.isnan(x) else estimate


@kernel
def _weighed_row(
    pixels: Sums, valid: Sums, table: Rings, alpha: Sums, spare: Sums, holes: bool, weighed: tuple[Sums, Sums]
) -> None:
    """Sum the weighed pixels of each window, and the weights of the valid ones, ring by ring."""
    above, below = weighed
    base, weight, ring, count = spare[0], spare[1], spare[2], spare[3]
    width, margin = alpha.size, pixels.shape[0] - 1
    above[:] = pixels[0, margin : margin + width]
    below[:] = 1.0
    done_root, done_times, places = 0, 0, 0.0
    for k in range(table.shape[0]):
        root, times, far, near = table[k, 0], table[k, 1], table[k, 2], table[k, 3]
        if root != done_root:
            _exps(alpha, math.sqrt(root), base)
            weight[:] = base
            done_root, done_times = root, 1
        while done_times < times:
            _next_power(base, weight)
            done_times += 1
        fresh = k == 0 or table[k - 1, 0] != root or table[k - 1, 1] != times
        _ring(pixels, far, near, fresh, ring)
        places = (0.0 if fresh else places) + (4.0 if near in (0, far) else 8.0)
        if holes:
            _ring(valid, far, near, fresh, count)
        if k + 1 < table.shape[0] and table[k + 1, 0] == root and table[k + 1, 1] == times:
            continue
        if holes:
            _weigh(weight, ring, count, above, below)
        else:
            _weigh_all(weight, ring, places, above, below)


@kernel
def _frost_block(
    power: Power, table: Rings, margin: int, noise: float, damping: float, enhanced: bool, block: Block, out: Power
) -> None:
    top, bottom, left, right = block
    width, size = right - left, 2 * margin + 1
    wide = width + 2 * margin
    holes = has_holes(power, block, margin)
    planes = 3 if holes else 2
    memory, found = stream(size, width, planes), np.empty((planes, wide))
    sums = found[0, :width], found[1, :width], found[2, :width] if holes else np.full(width, float(size * size))
    pixels, valid = np.empty((size, wide)), np.ones((size, wide))
    folded, folded_valid = np.empty((margin + 1, wide)), np.empty((margin + 1, wide))
    alpha, spare, weighed = np.empty(width), np.empty((4, width)), (np.empty(width), np.empty(width))
    for number in range(bottom - top + 2 * margin):
        row = number % size
        load(power, top - margin + number, left - margin, pixels[row])
        if holes:
            split(pixels[row], valid[row])
        if not advance(memory, power, (top - margin, left - margin), number, size, found):
            continue
        _decay(sums, noise, damping, enhanced, alpha)
        _fold(pixels, number, margin, folded)
        if holes:
            _fold(valid, number, margin, folded_valid)
        _weighed_row(folded, folded_valid, table, alpha, spare, holes, weighed)
        i = top + number - 2 * margin
        _settle(power[i, left:right], sums, alpha, weighed, enhanced, out[i, left:right])


@kernel
def frost_rows(
    power: Power,
    table: Rings,
    margin: int,
    looks: float,
    damping: float,
    enhanced: bool,
    first: int,
    last: int,
    out: Power,
) -> None:
    """Filter rows first..last of (rows, cols) power into those of ``out``; ``table`` are the :func:`rings`."""
    for left in range(0, power.shape[1], _COLS):
        block = (first, last, left, min(left + _COLS, power.shape[1]))
        _frost_block(power, table, margin, 1.0 / looks, damping, enhanced, block, out)
