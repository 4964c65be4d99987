"""Speckle filters on linear power: Lee and refined Lee, no-data aware, the same pixels for any window.

A window sum is built by doubling (runs of 1, 2, 4, ... pixels, then the runs that make up the window):
O(log size) additions in an order that depends on nothing but the place within the window. A running sum
would be O(1), but its rounding depends on where the run began, so cutting a scene differently would change
pixels. Sums are float64 of float32 power: the square of a pixel is exact, and a bright point disturbs only
the windows that hold it.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Literal

import numba
import numpy as np
from numpy.typing import NDArray

from infra.errors import UsageError

Speckle = Literal["none", "lee", "refined-lee"]
Power = NDArray[np.float32]
Sums = NDArray[np.float64]

REFINED_SIZE = 7
"""The refined Lee filter is defined on 7 x 7 pixels only."""

# Below these a mean counts as no signal and a variance as none, as in Orfeo ToolBox (otbLeeImageFilter).
_NO_MEAN = 1e-10
_NO_VARIANCE = 1e-10
# The lower end of a squared mean, so that its quotient stays finite.
_LEAST_SQUARE = 1e-30
# Pixels worked on at a time, so that sums stay in the second-level cache.
_LEE_COLS = 1024
_REFINED_ROWS = 96
_REFINED_COLS = 256
# Fewer rows than this are not worth a thread of their own.
_ROWS_PER_THREAD = 32


def halo(kind: Speckle, size: int) -> int:
    """Give how many pixels around a window the filter needs to see; raises UsageError for a wrong size."""
    if kind == "none":
        return 0
    if size < 3 or size % 2 == 0:
        raise UsageError(f"speckle filter of {size} pixels: expected an odd size of 3 or more, such as 7")
    if kind == "refined-lee" and size != REFINED_SIZE:
        raise UsageError(f"refined Lee of {size} pixels: it is defined on {REFINED_SIZE} x {REFINED_SIZE} only")
    return size // 2


def filter_power(power: Power, kind: Speckle, size: int, looks: float, threads: int | None = None) -> Power:
    """Smooth the speckle of linear power (bands, rows, cols), NaN where there is no data, into a new array.

    Beyond the edges of the array the outermost pixels are repeated. A caller that filters a window of a scene
    hands in :func:`halo` more pixels on each side that has them and crops: the result is then the same, bit
    for bit, as filtering the whole scene. Statistics count valid pixels only; a no-data pixel stays NaN.
    ``looks`` is the equivalent number of looks of the speckle; ``threads`` defaults to what numba would use.

    Lee (1980): MMSE with the mean and variance (n-1) of the window. Refined Lee (Lee 1981): MMSE with those
    of the half window on the pixel's side of the strongest edge, the noise estimated from the five calmest of
    nine 3 x 3 sub-windows; a window with no-data in it falls back to MMSE over its valid pixels and ``looks``.
    Raises UsageError for a wrong size or number of looks.
    """
    margin = halo(kind, size)
    if kind == "none":
        return power.copy()
    if not looks > 0:
        raise UsageError(f"speckle filter with {looks} looks: expected a number above 0, about 4.4 for IW GRDH")
    kernel = _lee if kind == "lee" else _refined_lee
    power = np.ascontiguousarray(power, dtype=np.float32)
    out = np.empty_like(power)
    rows = power.shape[1]
    count = max(1, min(threads or _threads(), rows // _ROWS_PER_THREAD))
    edges = [rows * n // count for n in range(count + 1)]
    work = [(a, b, band) for band in range(power.shape[0]) for a, b in pairwise(edges)]

    def run(first: int, last: int, band: int) -> None:
        kernel(power[band], margin, 1.0 / looks, first, last, out[band])

    if count == 1:
        for part in work:
            run(*part)
    else:
        # Plain threads, not numba's: they may be used from many threads at once and survive a fork.
        with ThreadPoolExecutor(count) as pool:
            for done in [pool.submit(run, *part) for part in work]:
                done.result()
    return out


def _threads() -> int:
    limit = int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(limit, int(asked)) if asked.isdigit() and int(asked) else limit


def _kernel(function: Any) -> Any:
    return numba.njit(cache=True, nogil=True, error_model="numpy")(function)


@_kernel
def _load(power: Power, row: int, col: int, value: Sums, valid: Sums) -> None:
    """Copy pixels of a row from a column on (may lie outside: edges repeat), no-data as 0 and not valid."""
    rows, cols = power.shape
    line = power[min(max(row, 0), rows - 1)]
    before, inside = max(-col, 0), min(cols - col, value.size)
    value[:before] = line[0]
    value[before:inside] = line[col + before : col + inside]
    value[inside:] = line[cols - 1]
    for j in range(value.size):
        missing = np.isnan(value[j])
        valid[j] = 0.0 if missing else 1.0
        value[j] = 0.0 if missing else value[j]


@_kernel
def _sum(a: Sums, b: Sums, out: Sums) -> None:
    for j in range(out.size):
        out[j] = a[j] + b[j]


@_kernel
def _add(more: Sums, out: Sums) -> None:
    # Not _sum with out twice: overlapping arrays are not added in parallel.
    for j in range(out.size):
        out[j] += more[j]


@_kernel
def _run_rows(size: int) -> int:
    """Rows to keep of runs of 1, 2, 4, ... rows: of a run of n rows the last n + 1 are still needed."""
    span, rows = 1, 0
    while span <= size:
        rows += span + 1
        span *= 2
    return rows


@_kernel
def _add_rows(runs: Sums, number: int, size: int, out: Sums) -> None:
    """Sum the last ``size`` rows, of which row ``number`` (from 0) was just put at ``runs[number % 2]``.

    ``runs`` holds the runs of 1 row, then those of 2, of 4, ...; a run of n rows that begins at row t lies at
    place t modulo n + 1 among its like.
    """
    span, base = 1, 0
    while 2 * span <= size:
        start, longer = number - 2 * span + 1, base + span + 1
        if start >= 0:
            first, second = runs[base + start % (span + 1)], runs[base + (start + span) % (span + 1)]
            _sum(first, second, runs[longer + start % (2 * span + 1)])
        span, base = 2 * span, longer
    start, rest = number - size + 1, size
    while span and start >= 0:
        if rest >= span:
            run = runs[base + start % (span + 1)]
            if rest == size:
                out[:] = run
            else:
                _add(run, out)
            start, rest = start + span, rest - span
        span //= 2
        base -= span + 1


@_kernel
def _add_cols(runs: Sums, longer: Sums, size: int, out: Sums) -> None:
    """Sum ``size`` neighbours in a row, from each pixel on; uses up ``runs`` and the spare row ``longer``."""
    width = out.size
    rest, span, start = size, 1, 0
    while rest:
        if rest & 1:
            # Slices, because numba checks a computed index for its sign, and then nothing runs in parallel.
            run = runs[start : start + width]
            if start == 0:
                out[:] = run
            else:
                _add(run, out)
            start += span
        rest >>= 1
        if rest:
            left = width + size - 2 * span
            _sum(runs[:left], runs[span : span + left], longer[:left])
            runs, longer = longer, runs
            span *= 2


@_kernel
def _mmse(line: Power, total: Sums, total2: Sums, count: Sums, noise: float, out: Power) -> None:
    """Lee's estimate of a row: Ci <= Cu gives the mean, else the mean and 1 - Cu^2/Ci^2 of what differs from it."""
    for j in range(out.size):
        x = float(line[j])
        n = max(count[j], 1.0)
        mean = total[j] / n
        variance = (total2[j] - total[j] * mean) / max(n - 1.0, 1.0)
        expected = noise * mean * mean
        calm = variance < _NO_VARIANCE or variance <= expected
        estimate = mean if calm else mean + (1.0 - expected / variance) * (x - mean)
        estimate = 0.0 if abs(mean) < _NO_MEAN else estimate
        out[j] = x if np.isnan(x) else estimate


@_kernel
def _has_holes(power: Power, block: tuple[int, int, int, int], margin: int) -> bool:
    """Tell whether there is a pixel without data in a block or around it."""
    top, bottom, left, right = block
    for i in range(max(top - margin, 0), min(bottom + margin, power.shape[0])):
        missing = 0
        for x in power[i, max(left - margin, 0) : right + margin]:
            missing += np.isnan(x)
        if missing:
            return True
    return False


@_kernel
def _lee_block(power: Power, margin: int, noise: float, block: tuple[int, int, int, int], out: Power) -> None:
    """Filter the block of rows top..bottom and columns left..right."""
    top, bottom, left, right = block
    width, size = right - left, 2 * margin + 1
    wide = width + 2 * margin
    holes = _has_holes(power, block, margin)
    runs = np.empty((3, _run_rows(size), wide))
    column, spare = np.empty(wide), np.empty(wide)
    total, total2, count = np.empty(width), np.empty(width), np.full(width, float(size * size))
    for number in range(bottom - top + 2 * margin):
        value, square, valid = runs[0, number % 2], runs[1, number % 2], runs[2, number % 2]
        _load(power, top - margin + number, left - margin, value, valid)
        for j in range(wide):
            square[j] = value[j] * value[j]
        _add_rows(runs[0], number, size, column)
        if number >= 2 * margin:
            _add_cols(column, spare, size, total)
        _add_rows(runs[1], number, size, column)
        if number >= 2 * margin:
            _add_cols(column, spare, size, total2)
        if holes:
            _add_rows(runs[2], number, size, column)
            if number >= 2 * margin:
                _add_cols(column, spare, size, count)
        if number >= 2 * margin:
            i = top + number - 2 * margin
            _mmse(power[i, left:right], total, total2, count, noise, out[i, left:right])


@_kernel
def _lee(power: Power, margin: int, noise: float, first: int, last: int, out: Power) -> None:
    for left in range(0, power.shape[1], _LEE_COLS):
        block = (first, last, left, min(left + _LEE_COLS, power.shape[1]))
        _lee_block(power, margin, noise, block, out)


def _half_windows() -> NDArray[np.int64]:
    """List the rows and columns (0..6) of the 28 pixels of each half window, (8, 28, 2): one side, then the other.

    0 and 4 left and right, 1 and 5 upper right and lower left, 2 and 6 upper and lower, 3 and 7 upper left and
    lower right; the line between the halves belongs to both.
    """
    i, j = np.mgrid[:REFINED_SIZE, :REFINED_SIZE]
    sides = [j - 3, i - j, i - 3, i + j - 6]
    return np.array([np.argwhere(sign * side <= 0) for sign in (1, -1) for side in sides])


_HALVES = _half_windows()


@_kernel
def _calm_ground(ratio: Sums, row: int, sorted_ratio: Sums, noise: Sums) -> None:
    """For one row give the noise: the mean of the five least of nine variance ratios.

    ``ratio`` is variance / mean^2 of the 3 x 3 pixels from each pixel of the block on; the nine sub-windows of a
    7 x 7 window begin 0, 2 and 4 pixels from its corner. Bubbles the four greatest out, a row at a time.
    """
    width = noise.size
    for k in range(9):
        sorted_ratio[k] = ratio[row + 2 * (k // 3), 2 * (k % 3) : 2 * (k % 3) + width]
    for k in range(8, 4, -1):
        for m in range(k):
            a = sorted_ratio[m]
            b = sorted_ratio[m + 1]
            for j in range(width):
                low, high = min(a[j], b[j]), max(a[j], b[j])
                a[j] = low
                b[j] = high
    for j in range(width):
        noise[j] = (
            sorted_ratio[0, j] + sorted_ratio[1, j] + sorted_ratio[2, j] + sorted_ratio[3, j] + sorted_ratio[4, j]
        ) / 5.0


@_kernel
def _side_of_edge(mean: Sums, row: int, side: NDArray[np.int8]) -> None:
    """For one row give the half window: the steepest of four gradients of the sub-means, the side like the centre."""
    width = side.size
    upper, middle, lower = mean[row], mean[row + 2], mean[row + 4]
    for j in range(width):
        here = middle[j + 2]
        steepest = abs(middle[j] - middle[j + 4])
        found = 0 if abs(middle[j] - here) < abs(middle[j + 4] - here) else 4
        slope = abs(upper[j + 4] - lower[j])
        if slope > steepest:
            steepest = slope
            found = 1 if abs(upper[j + 4] - here) < abs(lower[j] - here) else 5
        slope = abs(upper[j + 2] - lower[j + 2])
        if slope > steepest:
            steepest = slope
            found = 2 if abs(upper[j + 2] - here) < abs(lower[j + 2] - here) else 6
        slope = abs(upper[j] - lower[j + 4])
        if slope > steepest:
            found = 3 if abs(upper[j] - here) < abs(lower[j + 4] - here) else 7
        side[j] = found


@_kernel
def _half_mmse(value: Sums, corner: int, centre: float, places: NDArray[np.int64], noise: float) -> float:
    """MMSE of the centre of a 7 x 7 window with the statistics of one half window.

    ``value`` is a block, flat; ``places`` are those of the 28 pixels, counted from the window's ``corner``.
    """
    # Two sums at a time: additions that wait for each other are what this filter spends its time on.
    total, total_b, total2, total2_b = 0.0, 0.0, 0.0, 0.0
    for k in range(0, 28, 2):
        x, y = value[corner + places[k]], value[corner + places[k + 1]]
        total += x
        total_b += y
        total2 += x * x
        total2_b += y * y
    total += total_b
    mean = total / 28.0
    variance = (total2 + total2_b - total * mean) / 27.0
    signal = (variance - mean * mean * noise) / (1.0 + noise)
    if variance <= 0.0 or signal <= 0.0:
        return mean
    return mean + signal / variance * (centre - mean)


@_kernel
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


@_kernel
def _refine_block(value: Sums, incomplete: NDArray[np.bool_], out: Power) -> None:
    """Filter a block with the 3 pixels around it; windows with no-data in them are left alone."""
    height, width = out.shape
    mean, ratio = np.empty((height + 4, width + 4)), np.empty((height + 4, width + 4))
    _sub_windows(value, mean, ratio)
    sorted_ratio, calm, side = np.empty((9, width)), np.empty(width), np.empty(width, dtype=np.int8)
    places = _HALVES[:, :, 0] * (width + 6) + _HALVES[:, :, 1]
    flat = value.ravel()
    for i in range(height):
        _calm_ground(ratio, i, sorted_ratio, calm)
        _side_of_edge(mean, i, side)
        for j in range(width):
            if not incomplete[i, j]:
                corner = i * (width + 6) + j
                out[i, j] = _half_mmse(flat, corner, value[i + 3, j + 3], places[side[j]], calm[j])


@_kernel
def _refined_lee(power: Power, margin: int, noise: float, first: int, last: int, out: Power) -> None:
    for top in range(first, last, _REFINED_ROWS):
        for left in range(0, power.shape[1], _REFINED_COLS):
            block = (top, min(top + _REFINED_ROWS, last), left, min(left + _REFINED_COLS, power.shape[1]))
            part = out[top : block[1], left : block[3]]
            height, width = part.shape
            value, valid = np.empty((height + 6, width + 6)), np.empty((height + 6, width + 6))
            for i in range(height + 6):
                _load(power, top - margin + i, left - margin, value[i], valid[i])
            incomplete = np.zeros((height, width), dtype=np.bool_)
            if _has_holes(power, block, margin):
                _lee_block(power, margin, noise, block, out)
                for i, j in np.argwhere(valid == 0.0):
                    incomplete[max(i - 6, 0) : i + 1, max(j - 6, 0) : j + 1] = True
            _refine_block(value, incomplete, part)
