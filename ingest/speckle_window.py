"""Sums over square windows, the same bits for any cut of a scene: what all speckle filters begin with.

A window sum is built by doubling (runs of 1, 2, 4, ... pixels, then the runs that make up the window):
O(log size) additions in an order that depends on nothing but the place within the window. A running sum
would be O(1), but its rounding depends on where the run began, so cutting a scene differently would change
pixels. Sums are float64 of float32 power: the square of a pixel is exact, and a bright point disturbs only
the windows that hold it. No-data counts for nothing: it adds 0 to the sums and 0 to the number of pixels.

Beyond the edges of an array the outermost pixels are repeated, as Orfeo ToolBox does (zero-flux Neumann).
"""

import hashlib
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Power = NDArray[np.float32]
Sums = NDArray[np.float64]
Block = tuple[int, int, int, int]
"""Top, bottom, left, right: rows top..bottom - 1, columns left..right - 1."""
Memory = tuple[Sums, Sums, Sums, NDArray[np.int64]]

BLOCK_COLS = 1024
"""Columns worked on at a time, so that the rows of a window stay in the nearest caches."""

LEAST_MEAN = 1e-10
"""A mean nearer to zero than this counts as no signal, as in Orfeo ToolBox."""
LEAST_VARIANCE = 1e-10
"""A variance below this counts as none, as in Orfeo ToolBox."""


def _stamp() -> str:
    """Name the state of all speckle kernels: numba looks for changes only in the file of the kernel that it cached,
    not in the files of those that the kernel calls.
    """
    files = sorted(Path(__file__).parent.glob("speckle_*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


_STAMP = _stamp()


def kernel(function: Any) -> Any:
    """Compile a function of the speckle filters, once for all processes; it runs without the interpreter's lock."""
    function.__qualname__ = f"{function.__qualname__}_{_STAMP}"
    return numba.njit(cache=True, nogil=True, error_model="numpy")(function)


@kernel
def load(power: Power, row: int, col: int, value: Sums) -> None:
    """Copy pixels of a row from a column on; either may lie outside: edges repeat."""
    rows, cols = power.shape
    line = power[min(max(row, 0), rows - 1)]
    before, inside = max(-col, 0), min(cols - col, value.size)
    value[:before] = line[0]
    value[before:inside] = line[col + before : col + inside]
    value[inside:] = line[cols - 1]


@kernel
def split(value: Sums, valid: Sums) -> None:
    """Turn no-data into 0 that is not valid."""
    for j in range(value.size):
        missing = np.isnan(value[j])
        valid[j] = 0.0 if missing else 1.0
        value[j] = 0.0 if missing else value[j]


@kernel
def has_holes(power: Power, block: Block, margin: int) -> bool:
    """Tell whether there is a pixel without data in a block or around it."""
    top, bottom, left, right = block
    for i in range(max(top - margin, 0), min(bottom + margin, power.shape[0])):
        missing = 0
        for x in power[i, max(left - margin, 0) : right + margin]:
            missing += np.isnan(x)
        if missing:
            return True
    return False


@kernel
def _sum(a: Sums, b: Sums, out: Sums) -> None:
    for j in range(out.size):
        out[j] = a[j] + b[j]


@kernel
def _sum3(a: Sums, b: Sums, c: Sums, out: Sums) -> None:
    for j in range(out.size):
        out[j] = a[j] + b[j] + c[j]


@kernel
def _add(more: Sums, out: Sums) -> None:
    # Not _sum with out twice: overlapping arrays are not added in parallel.
    for j in range(out.size):
        out[j] += more[j]


@kernel
def _run_rows(size: int) -> int:
    """Rows to keep of runs of 1, 2, 4, ... rows: of a run of n rows the last n + 1 are still needed."""
    span, rows = 1, 0
    while span <= size:
        rows += span + 1
        span *= 2
    return rows


@kernel
def _add_rows(runs: Sums, number: int, size: int, parts: NDArray[np.int64], out: Sums) -> None:
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
    start, rest, found = number - size + 1, size, 0
    if start < 0:
        return
    while span:
        if rest >= span:
            parts[found] = base + start % (span + 1)
            start, rest, found = start + span, rest - span, found + 1
        span //= 2
        base -= span + 1
    # An odd size of 3 or more is made of at least two runs.
    if found == 2:
        _sum(runs[parts[0]], runs[parts[1]], out)
    else:
        _sum3(runs[parts[0]], runs[parts[1]], runs[parts[2]], out)
    for k in range(3, found):
        _add(runs[parts[k]], out)


@kernel
def _add_cols(runs: Sums, longer: Sums, size: int, out: Sums) -> None:
    """Sum ``size`` neighbours in a row, from each pixel on; ``longer`` is room for the runs of 2, 4, ..."""
    width = out.size
    # Slices, because numba checks a computed index for its sign, and then nothing runs in parallel.
    first = runs[:width]
    second = first
    rest, span, start, level, found = size >> 1, 1, 1, 0, 1
    while rest:
        left = width + size - 2 * span
        _sum(runs[:left], runs[span : span + left], longer[level, :left])
        runs, span, level = longer[level], 2 * span, level + 1
        if rest & 1:
            run = runs[start : start + width]
            start, found = start + span, found + 1
            if found == 2:
                second = run
            elif found == 3:
                _sum3(first, second, run, out)
            else:
                _add(run, out)
        rest >>= 1
    if found == 2:
        _sum(first, second, out)


@kernel
def stream(size: int, width: int, planes: int) -> Memory:
    """Give the memory of :func:`advance` for windows around ``width`` neighbouring columns.

    ``planes`` is 1 for sums of pixels, 2 for their squares too, 3 for the number of valid pixels besides. All lie
    behind one another in each row, so that one addition of rows serves them all.
    """
    wide = planes * (width + size - 1)
    return np.empty((_run_rows(size), wide)), np.empty(wide), np.empty((8, wide)), np.empty(8, np.int64)


@kernel
def advance(memory: Memory, power: Power, corner: tuple[int, int], number: int, size: int, sums: Sums) -> bool:
    """Take up one more row, the ``number``-th (from 0, in order) from the corner of the first window on.

    Once there are as many as a window has, gives True and the sums of the windows in ``sums`` (planes, columns of
    the block and ``size`` - 1 more that mean nothing).
    """
    runs, column, spare, parts = memory
    planes, wide = sums.shape
    newest = runs[number % 2]
    value = newest[:wide]
    load(power, corner[0] + number, corner[1], value)
    if planes == 3:
        split(value, newest[2 * wide :])
    if planes > 1:
        square = newest[wide : 2 * wide]
        for j in range(wide):
            square[j] = value[j] * value[j]
    _add_rows(runs, number, size, parts, column)
    if number < size - 1:
        return False
    flat = sums.ravel()
    _add_cols(column, spare, size, flat[: flat.size - size + 1])
    return True


@kernel
def moments(total: float, total2: float, count: float) -> tuple[float, float]:
    """Give mean and variance (n - 1) of a window; 0 and 0 where nothing is valid."""
    mean = total * (1.0 / max(count, 1.0))
    return mean, (total2 - total * mean) * (1.0 / max(count - 1.0, 1.0))


@kernel
def exp_minus(x: float) -> float:
    """Give exp(-x) of x >= 0, to 1e-7 or better (to 1e-12 below 8), in plain arithmetic that runs in parallel.

    Taken from x / 512 by a polynomial, then squared nine times. Beyond 64 (1.6e-28) it falls no further.
    """
    u = min(max(x, 0.0), 64.0) / 512.0
    y = 1.0 - u * (1.0 - u / 2.0 * (1.0 - u / 3.0 * (1.0 - u / 4.0 * (1.0 - u / 5.0 * (1.0 - u / 6.0)))))
    y *= y
    y *= y
    y *= y
    y *= y
    y *= y
    y *= y
    y *= y
    y *= y
    y *= y
    return y
