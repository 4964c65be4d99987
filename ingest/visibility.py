"""What relief hides from a side-looking radar, and where it lays different ground over each other.

Seen from the satellite, all ground of one image line lies on a profile. A point is in shadow where the profile
nearer to the satellite reaches up to its line of sight, and in layover where other ground of the profile has the same
slant range: nearer ground that is imaged at its sample or beyond, or farther ground that is imaged at or before it.
"""

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_BLOCK = 16
LEAST_TAN, MOST_TAN = 0.3, 1.2
"""Tangents of incidence angles of 17 and 50 degrees, within which Sentinel-1 looks (18.3 to 47): they bound how far
relief reaches."""


def steepness(heights_m: Floats, spacing_m: float) -> float:
    """Give an upper bound of the slope between neighbouring pixels."""
    down, right = (np.nanmax(np.abs(np.diff(heights_m, axis=a)), initial=0.0) for a in (0, 1))
    return float(np.hypot(down, right)) / spacing_m


def find_hidden(
    heights_m: Floats, samples: Floats, cosines: Floats, away: Floats, spacing_m: float, at: tuple[int, int],
    layover: bool,
) -> NDArray[np.bool_]:  # fmt: skip
    """Say which pixels of a part of a map are in shadow, or also in layover.

    ``heights_m``, ``samples`` (image columns) and ``cosines`` (of the angle between the satellite's vertical and the
    line of sight) are of the map's pixels around; the part begins ``at`` a row and column of them. ``away`` (r, c, 2),
    of the part's pixels, are steps of one pixel down and right that lead away from the satellite.
    """
    out = np.zeros(away.shape[:2], np.bool_)
    _march(heights_m, samples, cosines, away, spacing_m, at[0], at[1], *_bounds(heights_m), layover, out)
    return out


def _bounds(heights_m: Floats) -> tuple[Floats, Floats]:
    """Give least and greatest height within a block of 16 x 16 pixels and the eight around it: (i, j) each."""
    padded = [-n % _BLOCK for n in heights_m.shape]
    found = []
    for fill, reduce in ((np.inf, np.minimum), (-np.inf, np.maximum)):
        known = np.where(np.isnan(heights_m), fill, heights_m)
        known = np.pad(known, [(0, n) for n in padded], constant_values=fill)
        blocks = reduce.reduce(known.reshape(known.shape[0] // _BLOCK, _BLOCK, -1, _BLOCK), axis=(1, 3))
        around = np.pad(blocks, 1, constant_values=fill)
        for axis in (0, 1):
            n = blocks.shape[axis]
            around = reduce.reduce([np.take(around, np.arange(k, k + n), axis) for k in range(3)])
        found.append(around)
    return found[0], found[1]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _between(values, y, x):  # type: ignore[no-untyped-def]
    """Interpolate bilinearly; NaN outside."""
    i, j = int(np.floor(y)), int(np.floor(x))
    if i < 0 or j < 0 or i + 1 >= values.shape[0] or j + 1 >= values.shape[1]:
        return np.nan
    t, u = y - i, x - j
    upper = values[i, j] * (1.0 - u) + values[i, j + 1] * u
    lower = values[i + 1, j] * (1.0 - u) + values[i + 1, j + 1] * u
    return upper * (1.0 - t) + lower * t


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _met(heights, values, least, limit, rise, y, x, dy, dx, bounds, steps):  # type: ignore[no-untyped-def]
    """Step from a pixel until ground is met whose value is not above a limit (``least``), or not below it.

    Ground s steps away must be ``rise * s`` metres higher than the pixel (lower, where that is negative) to count:
    sixteen steps are skipped where no ground around is.
    """
    height = heights[int(y), int(x)]
    s = 1
    while s <= steps:
        at_y, at_x = y + s * dy, x + s * dx
        if at_y < 0 or at_x < 0 or at_y > heights.shape[0] - 1 or at_x > heights.shape[1] - 1:
            return False
        bound = bounds[int(at_y) // _BLOCK, int(at_x) // _BLOCK] - height
        if (rise > 0 and bound < rise * s) or (rise < 0 and bound > rise * s):
            s += _BLOCK - 1
            continue
        value = _between(values, at_y, at_x)
        if (least and value <= limit) or (not least and value >= limit):
            return True
        s += 1
    return False


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _march(heights, samples, cosines, away, spacing, top, left, low, high, layover, out):  # type: ignore[no-untyped-def]
    steep, shallow = spacing * LEAST_TAN, spacing / MOST_TAN
    lowest, highest = low.min(), high.max()
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            y, x = top + r, left + c
            h, dy, dx = heights[y, x], away[r, c, 0], away[r, c, 1]
            if not np.isfinite(h):
                continue
            steps = int((highest - h) / shallow) + 1
            hidden = _met(heights, cosines, True, cosines[y, x], shallow, y, x, -dy, -dx, high, steps)
            if layover and not hidden:
                steps = int((h - lowest) / steep) + 1
                hidden = _met(heights, samples, False, samples[y, x], -steep, y, x, -dy, -dx, low, steps)
            if layover and not hidden:
                steps = int((highest - h) / steep) + 1
                hidden = _met(heights, samples, True, samples[y, x], steep, y, x, dy, dx, high, steps)
            out[r, c] = hidden
