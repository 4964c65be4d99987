"""Digital numbers to linear power: noise subtraction and calibration in one pass (MPC-0392, S1-RS-MDA-52-7448).

    power = (|DN|^2 - eta) / A^2

with the LUT value A and the thermal noise eta of each pixel, both interpolated linearly in range within a vector and
linearly in azimuth between vectors. Interpolation in range is done once per scene; the kernel does the rest per line.

DN^2 - eta is float64, because the two may nearly cancel; A and the division are float32: a result is within 5e-7 of
the formula, whatever is subtracted. Nothing is fused or reordered, so every processor and window gives the same bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numba
import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

from ingest.lut import Floats, Noise, NoiseBlock, Vectors
from ingest.recipe import Pixels
from ingest.scene import Window
from ingest.threads import over_lines

Power = NDArray[np.float32]

# Fewer lines than this are not worth a thread of their own.
_LINES_PER_THREAD = 32


class Burst(NamedTuple):
    """The lines of an image that a TOPS burst gave, bounds inclusive, and its azimuth time in the annotation."""

    first_line: int
    last_line: int
    time: np.datetime64


@dataclass(frozen=True, slots=True)
class _Rows:
    """Vectors over all columns, and for each line of the image which of them hold.

    Line i lies between ``table[at[i]]`` and the vector after it, which counts by ``weight[i]``; where the weight is 0
    the first counts alone.
    """

    at: NDArray[np.int32]
    weight: Floats
    table: NDArray[Any]


@dataclass(frozen=True, slots=True)
class Calibration:
    """All that the kernel needs for one image of ``shape`` (rows, cols).

    Rectangle b of ``bounds`` (k, 4) is first line, last line, first pixel, last pixel (inclusive) of a block of
    noise; ``at``, ``weight`` of ``noise`` and ``factors`` are (k, rows). No result is below ``least``.
    """

    shape: tuple[int, int]
    gain: _Rows
    noise: _Rows
    bounds: NDArray[np.int32]
    factors: Floats
    least: float

    @classmethod
    def of(
        cls,
        shape: tuple[int, int],
        gain: Vectors,
        noise: Noise | None,
        *,
        bursts: Sequence[Burst] = (),
        least: float = -np.inf,
    ) -> Self:
        """Lay the vectors out over the image of (rows, cols); without noise nothing is subtracted.

        Lines before the first vector and after the last take that one alone. ``bursts`` are those of a TOPS SLC
        image: each takes the one noise vector nearest to it in azimuth time, because the lines of such vectors are
        unreliable and noise does not change from burst to burst by degrees. ``least`` comes from :func:`least_power`.
        """
        rows, cols = shape
        table = _spread(gain, cols).astype(np.float32)
        if (table == table[0]).all():
            table = table[:1]  # as beta0: interpolating between equal vectors gives them, bit for bit
        gain_lines = gain.lines[: len(table)]
        patches = [] if noise is None else _patches(noise, shape, bursts)
        patches.sort(key=lambda patch: patch[0].first_pixel)  # the kernel goes from left to right
        lines = np.zeros(0) if noise is None else noise.vectors.lines
        held = [_brackets(lines, first, last, rows) for _, first, last in patches]
        factors = [np.interp(np.arange(rows), b.lines, b.factors) for b, _, _ in patches]
        return cls(
            shape=shape,
            gain=_Rows(*_brackets(gain_lines, 0, len(table) - 1, rows), table),
            noise=_Rows(
                np.array([at for at, _ in held], np.int32).reshape(-1, rows),
                np.array([weight for _, weight in held], np.float64).reshape(-1, rows),
                np.zeros((0, cols)) if noise is None else _spread(noise.vectors, cols),
            ),
            bounds=np.array([_edges(b) for b, _, _ in patches], np.int32).reshape(-1, 4),
            factors=np.array(factors, np.float64).reshape(-1, rows),
            least=least,
        )

    def power(
        self,
        window: Window,
        numbers: NDArray[Any],
        out: Power | None = None,
        *,
        zero_is_data: bool = False,
        threads: int | None = None,
    ) -> Power:
        """Give linear power (rows, cols) float32 of the digital numbers of a window.

        ``numbers`` is (rows, cols) uint16 for detected products; for complex ones (rows, cols) complex64, or
        (rows, cols, 2) int16 of real and imaginary parts as the file holds them. DN 0 becomes NaN, no data, unless
        ``zero_is_data``: for images whose valid pixels are known otherwise. Where eta is 0 nothing is subtracted.
        ``out`` is filled if given. ``threads`` share the lines; by default those the process may use.
        """
        out = np.empty(numbers.shape[:2], np.float32) if out is None else out
        numbers = np.ascontiguousarray(numbers, numbers.dtype.newbyteorder("="))
        if numbers.ndim == 3:
            numbers = numbers.view(np.uint32)[..., 0]
        no_data = -1.0 if zero_is_data else 0.0
        limits = np.float32(self.least), no_data

        def lines(first: int, last: int) -> None:
            _kernel(numbers, window.row, window.col, *self._tables(), *limits, first, last, out)

        over_lines(lines, window.rows, _LINES_PER_THREAD, threads)
        return out

    def eta(self, window: Window) -> Power:
        """Give the thermal noise of a window in squared digital numbers, (rows, cols) float32."""
        out = np.empty((window.rows, window.cols), np.float32)
        _eta_lines(window.row, window.col, *self._tables()[3:], out)
        return out

    def _tables(self) -> tuple[NDArray[Any], ...]:
        gain, noise = self.gain, self.noise
        return gain.at, gain.weight, gain.table, noise.at, noise.weight, noise.table, self.bounds, self.factors


def least_power(pixels: Pixels) -> float:
    """Give the least power that a recipe's rule for negative power lets through; below it power is raised to it."""
    floor = 10 ** (pixels.scale.floor_db / 10)
    return {"keep": -np.inf, "clip": 0.0, "floor": floor}[pixels.negative]


def _spread(vectors: Vectors, cols: int) -> Floats:
    """Interpolate each vector, along its own pixels, to every column; constant beyond its ends."""
    at = np.arange(cols)
    return np.stack([np.interp(at, p, v) for p, v in zip(vectors.pixels, vectors.values, strict=True)])


def _brackets(lines: Floats, first: int, last: int, rows: int) -> tuple[NDArray[np.int32], Floats]:
    """Give for each line of the image the vector before it, of those from ``first`` to ``last``, and the weight of
    the next; beyond those two vectors they are continued.
    """
    line = np.arange(rows)
    at = np.clip(np.searchsorted(lines, line, side="right") - 1, first, last)
    after = np.minimum(at + 1, last)
    inside = (after > at) & (line > lines[at])
    gap = np.where(inside, lines[after] - lines[at], 1.0)
    return at.astype(np.int32), np.where(inside, (line - lines[at]) / gap, 0.0)


def _patches(noise: Noise, shape: tuple[int, int], bursts: Sequence[Burst]) -> list[tuple[NoiseBlock, int, int]]:
    """Give rectangles of the image and the first and last noise vector that hold in each."""
    rows, cols = shape
    lines = noise.vectors.lines
    everywhere = NoiseBlock("", 0, rows - 1, 0, cols - 1, np.zeros(1), np.ones(1))
    if not bursts and not noise.blocks:
        return [(everywhere, 0, len(lines) - 1)]
    if not bursts:
        return [(_cut(b, shape), *_of_swath(b, noise.blocks, lines)) for b in noise.blocks]
    times = noise.vectors.times
    if times is None:
        raise ValueError("noise vectors without times cannot be given to bursts")
    nearest = [int(np.argmin(np.abs(times - burst.time))) for burst in bursts]
    return [
        (_cut(b, shape, u), k, k) for b in noise.blocks or (everywhere,) for u, k in zip(bursts, nearest, strict=True)
    ]


def _cut(block: NoiseBlock, shape: tuple[int, int], burst: Burst | None = None) -> NoiseBlock:
    """Give the part of a block that lies in the image, and in a burst."""
    top, bottom = (0, shape[0] - 1) if burst is None else burst[:2]
    return replace(
        block,
        first_line=max(block.first_line, top, 0),
        last_line=min(block.last_line, bottom, shape[0] - 1),
        first_pixel=max(block.first_pixel, 0),
        last_pixel=min(block.last_pixel, shape[1] - 1),
    )


def _edges(block: NoiseBlock) -> tuple[int, int, int, int]:
    """Give the bounds of a block that was cut; of one that lies outside, bounds that hold no line."""
    if block.first_line > block.last_line or block.first_pixel > block.last_pixel:
        return 0, -1, 0, -1
    return block.first_line, block.last_line, block.first_pixel, block.last_pixel


def _of_swath(block: NoiseBlock, blocks: Sequence[NoiseBlock], lines: Floats) -> tuple[int, int]:
    """Give the first and last of the noise vectors taken while a block's swath was on.

    Vectors before a swath starts or after it ends hold zeros there: interpolating towards them is wrong (up to 3
    times in EW). Where none was taken, it is the one nearest to the block.
    """
    swath = [b for b in blocks if b.swath == block.swath]
    first, last = min(b.first_line for b in swath), max(b.last_line for b in swath)
    inside = np.flatnonzero((lines >= first) & (lines <= last))
    if not len(inside):
        middle = (block.first_line + block.last_line) / 2
        inside = np.array([np.argmin(np.abs(lines - middle))])
    return int(inside[0]), int(inside[-1])


def _jit(function: Any) -> Any:
    return numba.njit(cache=True, nogil=True, error_model="numpy")(function)


@_jit
def _eta_lines(row, col, at, weight, table, bounds, factors, out):  # type: ignore[no-untyped-def]
    """Fill lines, from a column on, with noise; 0 where there is no block. The first of two blocks counts."""
    end = col + out.shape[1]
    out[:] = 0.0
    for i in range(out.shape[0]):
        line = row + i
        for b in range(bounds.shape[0] - 1, -1, -1):
            if line < bounds[b, 0] or line > bounds[b, 1]:
                continue
            k, t, factor = at[b, line], weight[b, line], factors[b, line]
            above, below = table[k], table[k + (t > 0)]
            for j in range(max(bounds[b, 2], col), min(bounds[b, 3] + 1, end)):
                out[i, j - col] = above[j] * ((1.0 - t) * factor) + below[j] * (t * factor)


def _square(number):  # type: ignore[no-untyped-def]
    """Stand for the squared magnitude of a digital number in compiled code."""
    raise NotImplementedError


@overload(_square)
def _square_of_type(number):  # type: ignore[no-untyped-def]
    if isinstance(number, types.Complex):
        return lambda number: np.float64(number.real) ** 2 + np.float64(number.imag) ** 2
    if number == types.uint32:
        # Two int16 in one word: loads of every second number would not be done in parallel.
        return lambda number: np.float64(np.int16(number)) ** 2 + np.float64(np.int32(number) >> 16) ** 2
    return lambda number: np.float64(number) ** 2


@_jit
def _noisy_part(numbers, n0, n1, w0, w1, a0, a1, t, least, no_data, out):  # type: ignore[no-untyped-def]
    for j in range(out.size):
        square = _square(numbers[j])  # type: ignore[no-untyped-call]
        a = a0[j] + (a1[j] - a0[j]) * t
        power = max(np.float32(square - (n0[j] * w0 + n1[j] * w1)) / (a * a), least)
        out[j] = np.float32(np.nan) if square == no_data else power


@_jit
def _plain_part(numbers, a0, a1, t, least, no_data, out):  # type: ignore[no-untyped-def]
    for j in range(out.size):
        square = _square(numbers[j])  # type: ignore[no-untyped-call]
        a = a0[j] + (a1[j] - a0[j]) * t
        power = max(np.float32(square) / (a * a), least)
        out[j] = np.float32(np.nan) if square == no_data else power


@_jit
def _kernel(  # type: ignore[no-untyped-def]
    numbers, row, col, gain_at, gain_weight, gain, at, weight, noise, bounds, factors, least, no_data, first, last, out
):
    """Calibrate lines first..last, each from left to right by the rectangles of noise it meets and what lies between.

    One loop does it all, so that nothing in between goes through memory.
    """
    end = col + numbers.shape[1]
    for i in range(first, last):
        line = row + i
        k, t = gain_at[line], np.float32(gain_weight[line])
        above, below = gain[k], gain[k + (t > 0)]
        done = col
        for b in range(bounds.shape[0] + 1):
            left = right = end
            if b < bounds.shape[0]:
                if line < bounds[b, 0] or line > bounds[b, 1]:
                    continue
                left, right = min(max(bounds[b, 2], done), end), min(bounds[b, 3] + 1, end)
            if done < left:
                part = slice(done - col, left - col)
                _plain_part(numbers[i, part], above[done:left], below[done:left], t, least, no_data, out[i, part])
                done = left
            if left < right:
                part = slice(left - col, right - col)
                m, w = at[b, line], weight[b, line]
                w0, w1 = (1.0 - w) * factors[b, line], w * factors[b, line]
                n0, n1 = noise[m, left:right], noise[m + (w > 0), left:right]
                a0, a1 = above[left:right], below[left:right]
                _noisy_part(numbers[i, part], n0, n1, w0, w1, a0, a1, t, least, no_data, out[i, part])
                done = right
