"""Digital numbers to linear power: noise subtraction and calibration in one pass (MPC-0392, S1-RS-MDA-52-7448).

    power = (DN^2 - eta) / A^2

with the LUT value A and the thermal noise eta of each pixel, both interpolated linearly in range within a vector and
linearly in azimuth between vectors. Interpolation in range is done once per scene; the kernel does the rest per line.
"""

from dataclasses import dataclass
from typing import Self

import numba
import numpy as np
from numpy.typing import NDArray

from ingest.annotation import Noise, NoiseBlock, Vectors
from ingest.scene import Window

Floats = NDArray[np.float64]


_EVERYWHERE = NoiseBlock("", -(2**31), 2**31, -(2**31), 2**31, np.zeros(1), np.ones(1))


@dataclass(frozen=True, slots=True)
class Calibration:
    """All that the kernel needs for one image of ``shape`` (rows, cols).

    ``gain`` (n, cols) holds A at the lines ``gain_lines`` (n,). ``noise`` (m, cols) holds the noise vectors at
    ``noise_lines`` (m,). Block b of ``blocks`` (k, 6) is first line, last line, first pixel, last pixel (inclusive)
    and the first and last noise vector that belong to it; ``factors`` (k, rows) is its azimuth factor per line.
    Float64 throughout: where DN^2 is close to eta, float32 would lose what is left.
    """

    shape: tuple[int, int]
    gain_lines: Floats
    gain: Floats
    noise_lines: Floats
    noise: Floats
    blocks: NDArray[np.int64]
    factors: Floats

    @classmethod
    def of(cls, shape: tuple[int, int], gain: Vectors, noise: Noise | None) -> Self:
        """Lay the vectors out over the columns of the image; without noise nothing is subtracted."""
        rows, cols = shape
        noise_lines, table = np.zeros(0), np.zeros((0, cols))
        blocks: tuple[NoiseBlock, ...] = ()
        if noise is not None:
            noise_lines, table = noise.vectors.lines, _spread(noise.vectors, cols)
            blocks = noise.blocks or (_EVERYWHERE,)
        bounds = [_bounds(b, blocks, noise_lines, shape) for b in blocks]
        factors = [np.interp(np.arange(rows), b.lines, b.factors) for b in blocks]
        return cls(
            shape=shape,
            gain_lines=gain.lines,
            gain=_spread(gain, cols),
            noise_lines=noise_lines,
            noise=table,
            blocks=np.array(bounds, np.int64).reshape(-1, 6),
            factors=np.array(factors, np.float64).reshape(-1, rows),
        )

    def power(
        self, window: Window, numbers: NDArray[np.uint16], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Give linear power (rows, cols) float32 of the digital numbers of a window; DN 0 becomes NaN.

        Where eta is 0 nothing is subtracted; elsewhere the result may be negative. ``out`` is filled if given.
        """
        out = np.empty(numbers.shape, np.float32) if out is None else out
        columns = slice(window.col, window.col + window.cols)
        _kernel(
            np.ascontiguousarray(numbers),
            window.row,
            window.col,
            self.gain_lines,
            self.gain[:, columns],
            self.noise_lines,
            self.noise[:, columns],
            self.blocks,
            self.factors,
            out,
        )
        return out


def _spread(vectors: Vectors, cols: int) -> Floats:
    """Interpolate each vector, along its own pixels, to every column; constant beyond its ends."""
    at = np.arange(cols)
    return np.stack([np.interp(at, p, v) for p, v in zip(vectors.pixels, vectors.values, strict=True)])


def _bounds(block: NoiseBlock, blocks: tuple[NoiseBlock, ...], lines: Floats, shape: tuple[int, int]) -> list[int]:
    """Give a block's rectangle cut to the image, and the range of noise vectors taken while its swath was on.

    Vectors before a swath starts or after it ends hold zeros there: interpolating towards them is wrong (up to 3
    times in EW). Beyond the first and last vector of the swath those two are continued.
    """
    swath = [b for b in blocks if b.swath == block.swath]
    first, last = min(b.first_line for b in swath), max(b.last_line for b in swath)
    inside = np.flatnonzero((lines >= first) & (lines <= last))
    if not len(inside):
        middle = (block.first_line + block.last_line) / 2
        inside = np.array([np.argmin(np.abs(lines - middle))])
    return [
        max(block.first_line, 0),
        min(block.last_line, shape[0] - 1),
        max(block.first_pixel, 0),
        min(block.last_pixel, shape[1] - 1),
        int(inside[0]),
        int(inside[-1]),
    ]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _bracket(lines, line, first, last):  # type: ignore[no-untyped-def]
    """Give the vectors on either side of a line, within first..last, and the weight of the second."""
    if line <= lines[first]:
        return first, first, 0.0
    if line >= lines[last]:
        return last, last, 0.0
    k = first
    while lines[k + 1] <= line:
        k += 1
    return k, k + 1, (line - lines[k]) / (lines[k + 1] - lines[k])


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _kernel(dn, row, col, gain_lines, gain, noise_lines, noise, blocks, factors, out):  # type: ignore[no-untyped-def]
    """Calibrate line by line; eta of one line stays in the first-level cache between the two inner loops."""
    rows, cols = dn.shape
    eta = np.zeros(cols)
    for i in range(rows):
        line = row + i
        eta[:] = 0.0
        for b in range(blocks.shape[0]):
            if line < blocks[b, 0] or line > blocks[b, 1]:
                continue
            k0, k1, t = _bracket(noise_lines, line, blocks[b, 4], blocks[b, 5])
            factor = factors[b, line]
            n0, n1 = noise[k0], noise[k1]
            for j in range(max(blocks[b, 2] - col, 0), min(blocks[b, 3] + 1 - col, cols)):
                eta[j] = (n0[j] + (n1[j] - n0[j]) * t) * factor
        k0, k1, t = _bracket(gain_lines, line, 0, len(gain_lines) - 1)
        a0, a1 = gain[k0], gain[k1]
        for j in range(cols):
            number = np.float64(dn[i, j])
            a = a0[j] + (a1[j] - a0[j]) * t
            power = (number * number - eta[j]) / (a * a)
            out[i, j] = np.nan if dn[i, j] == 0 else power
