"""Filters that know a window by its mean and variance: boxcar, Lee, Kuan, enhanced Lee, Gamma-MAP.

Ci is the coefficient of variation of the window, Cu = 1 / sqrt(looks) that of speckle alone. Where Ci <= Cu all agree
on the mean. Sources: Lee 1980 (PAMI 2); Kuan et al. 1985 (PAMI 7); Lopes et al. 1990 (TGRS 28), enhanced Lee and
Gamma-MAP. The formulas, and what counts as no mean or no variance, are those of Orfeo ToolBox where it has the filter.
"""

import math

import numpy as np

from ingest.speckle_window import (
    BLOCK_COLS,
    LEAST_MEAN,
    LEAST_VARIANCE,
    Block,
    Power,
    Sums,
    advance,
    exp_minus,
    has_holes,
    kernel,
    moments,
    stream,
)

BOXCAR, LEE, KUAN, ENHANCED_LEE, GAMMA_MAP = range(5)


@kernel
def _settle(x: float, mean: float, estimate: float) -> float:
    """What all share: no data stays no data, no signal is 0."""
    estimate = 0.0 if abs(mean) < LEAST_MEAN else estimate
    return x if np.isnan(x) else estimate


@kernel
def _boxcar(line: Power, sums: tuple[Sums, Sums, Sums], out: Power) -> None:
    total, _, count = sums
    for j in range(out.size):
        x = float(line[j])
        out[j] = x if np.isnan(x) else total[j] * (1.0 / max(count[j], 1.0))


@kernel
def _mmse(line: Power, sums: tuple[Sums, Sums, Sums], noise: float, gain: float, out: Power) -> None:
    """The mean, and of what differs from it the share 1 - Cu^2 / Ci^2 (Lee: ``gain`` 1), / (1 + Cu^2) for Kuan."""
    total, total2, count = sums
    for j in range(out.size):
        x = float(line[j])
        mean, variance = moments(total[j], total2[j], count[j])
        expected = noise * mean * mean
        calm = variance < LEAST_VARIANCE or variance <= expected
        estimate = mean if calm else mean + (1.0 - expected / variance) * gain * (x - mean)
        out[j] = _settle(x, mean, estimate)


@kernel
def _enhanced_lee(line: Power, sums: tuple[Sums, Sums, Sums], noise: float, damping: float, out: Power) -> None:
    """The mean weighs exp(-damping (Ci - Cu) / (Cmax - Ci)); from Cmax = sqrt(1 + 2 / looks) on a pixel is kept."""
    total, total2, count = sums
    least, most = math.sqrt(noise), math.sqrt(1.0 + 2.0 * noise)
    for j in range(out.size):
        x = float(line[j])
        mean, variance = moments(total[j], total2[j], count[j])
        ratio = math.sqrt(max(variance, 0.0)) / max(abs(mean), LEAST_MEAN)
        weight = exp_minus(damping * (ratio - least) / max(most - ratio, 1e-12))
        estimate = mean if ratio <= least or variance < LEAST_VARIANCE else x + weight * (mean - x)
        estimate = x if ratio >= most else estimate
        out[j] = _settle(x, mean, estimate)


@kernel
def _gamma_map(line: Power, sums: tuple[Sums, Sums, Sums], noise: float, looks: float, out: Power) -> None:
    """The most likely gamma distributed ground under gamma speckle; from Cmax = sqrt(2) Cu on a pixel is kept."""
    total, total2, count = sums
    for j in range(out.size):
        x = float(line[j])
        mean, variance = moments(total[j], total2[j], count[j])
        square = max(mean * mean, LEAST_MEAN * LEAST_MEAN)
        ratio2 = variance / square
        alpha = (1.0 + noise) / max(ratio2 - noise, 1e-12)
        b = alpha - looks - 1.0
        root = math.sqrt(max(square * b * b + 4.0 * alpha * looks * mean * x, 0.0))
        estimate = (b * mean + root) / (2.0 * alpha)
        estimate = mean if ratio2 <= noise or variance < LEAST_VARIANCE else estimate
        estimate = x if ratio2 >= 2.0 * noise and variance >= LEAST_VARIANCE else estimate
        out[j] = _settle(x, mean, estimate)


@kernel
def local_block(power: Power, kind: int, margin: int, looks: float, damping: float, block: Block, out: Power) -> None:
    """Filter the rows top..bottom and columns left..right of ``power`` into those of ``out``."""
    top, bottom, left, right = block
    width, size, noise = right - left, 2 * margin + 1, 1.0 / looks
    # Squares are of no use to a mean; valid pixels are counted only where some are missing.
    planes = 3 if has_holes(power, block, margin) else 1 if kind == BOXCAR else 2
    memory, found = stream(size, width, planes), np.empty((planes, width + 2 * margin))
    whole = np.full(width, float(size * size))
    sums = found[0, :width], found[min(1, planes - 1), :width], found[2, :width] if planes == 3 else whole
    for number in range(bottom - top + 2 * margin):
        if not advance(memory, power, (top - margin, left - margin), number, size, found):
            continue
        i = top + number - 2 * margin
        line, target = power[i, left:right], out[i, left:right]
        if kind == BOXCAR:
            _boxcar(line, sums, target)
        elif kind == LEE:
            _mmse(line, sums, noise, 1.0, target)
        elif kind == KUAN:
            _mmse(line, sums, noise, 1.0 / (1.0 + noise), target)
        elif kind == ENHANCED_LEE:
            _enhanced_lee(line, sums, noise, damping, target)
        else:
            _gamma_map(line, sums, noise, looks, target)


@kernel
def local_rows(
    power: Power, kind: int, margin: int, looks: float, damping: float, first: int, last: int, out: Power
) -> None:
    """Filter rows first..last of (rows, cols) power into those of ``out``; ``kind`` is one of this file's numbers."""
    for left in range(0, power.shape[1], BLOCK_COLS):
        block = (first, last, left, min(left + BLOCK_COLS, power.shape[1]))
        local_block(power, kind, margin, looks, damping, block, out)
