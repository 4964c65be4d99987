"""What a tile is worth, as numbers: its valid share, its contrast, and how its decibels are spread.

Contrast is that of the ground, not of the speckle: the standard deviation, in decibels, of mean power over blocks of
16 x 16 px (160 m in Sentinel-1 IW), in the brightest band, where thermal noise disturbs least. Speckle alone gives
(10 / ln 10) / sqrt(256 looks), 0.13 dB at 4.4 looks; calm water and dense forest lie below 1 dB, fields at 2 to 4 dB.
"""

import math
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from ingest.scene import Window
from shards.tile import MOST_CODE, NO_DATA, DbScale

BLOCK_PX = 16
"""Edge of the blocks between which contrast is measured; one counts where half of its pixels are valid."""

_LOW, _HIGH = 0.02, 0.98


@dataclass(frozen=True, slots=True)
class Content:
    """What the power of a tile says: pixels with data in every band, mean of each band, contrast or None.

    A band's mean is that of power, in decibels, over its own valid pixels; the floor of the scale where it is not
    positive, NaN where there are none. Contrast needs two blocks.
    """

    valid: int
    mean_db: list[float]
    contrast_db: float | None


@dataclass(frozen=True, slots=True)
class Spread:
    """How the decibels of each band are spread: standard deviation, 2nd and 98th percentile, None without data.

    Exact for the stored codes; a percentile is the least level that the share of valid pixels does not exceed
    (inverted distribution function).
    """

    std_db: list[float | None]
    p02_db: list[float | None]
    p98_db: list[float | None]


def content(power: NDArray[np.float32], inside: Window, scale: DbScale) -> Content:
    """Measure a window of C-contiguous power (bands, rows, cols); ``inside`` counts from the array's first pixel."""
    down, across = (-(-length // BLOCK_PX) for length in (inside.rows, inside.cols))
    sums = np.zeros((power.shape[0], down, across))
    counts = np.zeros(sums.shape, np.int64)
    valid = _block_sums(power, inside.row, inside.col, inside.rows, inside.cols, sums, counts)
    least = 10 ** (scale.floor_db / 10)
    with np.errstate(invalid="ignore"):
        means = sums.sum(axis=(1, 2)) / counts.sum(axis=(1, 2))
    mean_db = [round(10 * math.log10(max(mean, least)), 3) if mean == mean else mean for mean in means.tolist()]
    if not valid:
        return Content(0, mean_db, None)
    brightest = int(np.nanargmax(means))
    return Content(valid, mean_db, _contrast_db(sums[brightest], counts[brightest], least))


def spread(codes: NDArray[np.uint16], scale: DbScale) -> Spread:
    """Measure the codes of a tile, (bands, rows, cols) C-contiguous."""
    found: list[tuple[float | None, float | None, float | None]] = []
    scratch = np.zeros(MOST_CODE + 1, np.uint32)
    for band in codes:
        valid, mean, square, low, high = _spread(band, scratch, _LOW, _HIGH)
        if not valid:
            found.append((None, None, None))
            continue
        std = math.sqrt(max(square / valid - (mean / valid) ** 2, 0.0)) * scale.step_db
        low_db, high_db = (scale.floor_db + (code - 1) * scale.step_db for code in (low, high))
        found.append((round(std, 3), round(low_db, 3), round(high_db, 3)))
    stds, lows, highs = zip(*found, strict=True)
    return Spread(list(stds), list(lows), list(highs))


def _contrast_db(sums: NDArray[np.float64], counts: NDArray[np.int64], least: float) -> float | None:
    full = counts >= BLOCK_PX**2 // 2
    if np.count_nonzero(full) < 2:
        return None
    level = 10 * np.log10(np.maximum(sums[full] / counts[full], least))
    return round(float(level.std()), 3)


# Sums are kept by column, and each column of a block is added up at its end: so the inner loop has no carried
# dependency and the compiler vectorises it. The order of additions is fixed, so the sums are the same everywhere.
@numba.njit(cache=True, nogil=True, error_model="numpy")
def _block_sums(power: Any, row: int, col: int, rows: int, cols: int, sums: Any, counts: Any) -> int:
    """Add up valid power by band and block of 16 x 16; give the number of pixels that are valid in every band."""
    column = np.zeros(cols, np.float64)
    number = np.zeros(cols, np.int32)
    missing = np.zeros(cols, np.int32)
    valid = 0
    for i in range(sums.shape[1]):
        first = row + i * BLOCK_PX
        last = min(first + BLOCK_PX, row + rows)
        for band in range(power.shape[0]):
            column[:] = 0.0
            number[:] = 0
            for y in range(first, last):
                line = power[band, y, col : col + cols]
                for x in range(cols):
                    value = line[x]
                    good = abs(value) < np.inf
                    column[x] += np.float64(value) if good else 0.0
                    number[x] += 1 if good else 0
            for x in range(cols):
                sums[band, i, x // BLOCK_PX] += column[x]
                counts[band, i, x // BLOCK_PX] += number[x]
        for y in range(first, last):
            missing[:] = 0
            for band in range(power.shape[0]):
                line = power[band, y, col : col + cols]
                for x in range(cols):
                    missing[x] |= 0 if abs(line[x]) < np.inf else 1
            valid += cols - missing.sum()
    return valid


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _spread(codes: Any, histogram: Any, low_share: float, high_share: float) -> Any:
    """Give number, sum, sum of squares and two percentiles of the valid codes; the histogram is left empty."""
    least, most = MOST_CODE, 0
    for y in range(codes.shape[0]):
        for x in range(codes.shape[1]):
            code = codes[y, x]
            histogram[code] += 1
            most = max(most, code)
            if code != NO_DATA:
                least = min(least, code)
    valid = codes.size - np.int64(histogram[NO_DATA])
    histogram[NO_DATA] = 0
    low_rank, high_rank = max(np.ceil(low_share * valid), 1.0), max(np.ceil(high_share * valid), 1.0)
    total, passed, square, low, high = np.int64(0), np.int64(0), 0.0, 0, 0
    for code in range(least, most + 1):
        count = np.int64(histogram[code])
        if count == 0:
            continue
        histogram[code] = 0
        if passed < low_rank <= passed + count:
            low = code
        if passed < high_rank <= passed + count:
            high = code
        passed += count
        total += count * code
        square += np.float64(count) * np.float64(code) * np.float64(code)
    return valid, total, square, low, high


@numba.njit(cache=True, nogil=True, error_model="numpy")
def add_to_summary(
    codes: Any, row: int, col: int, rows: int, cols: int, factor: int, sums: Any, counts: Any, histogram: Any
) -> None:
    """Add a tile's codes (bands, rows, cols) that lie from (row, col) of a scene to sums and counts of valid codes by
    cell of ``factor`` px, (bands, cells down, cells across) int64, and to counts by code, (bands, 65536) int64.
    """
    for band in range(codes.shape[0]):
        for y in range(rows):
            x = 0
            while x < cols:
                cell = (col + x) // factor
                end = min((cell + 1) * factor - col, cols)
                total, valid = 0, 0
                for k in range(x, end):
                    code = codes[band, y, k]
                    histogram[band, code] += 1
                    total += code
                    valid += 1 if code != NO_DATA else 0
                sums[band, (row + y) // factor, cell] += total
                counts[band, (row + y) // factor, cell] += valid
                x = end
