"""Speckle filters on linear power: no-data aware, the same pixels for any window, spread over threads.

What they compute is in ``speckle_local`` (boxcar, Lee, Kuan, enhanced Lee, Gamma-MAP), ``speckle_frost``,
``speckle_refined`` and ``speckle_sigma``; sums over windows and the rule at edges are in ``speckle_window``.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from infra.errors import UsageError
from ingest.recipe import SpeckleKind
from ingest.speckle_frost import frost_rows, rings
from ingest.speckle_local import BOXCAR, ENHANCED_LEE, GAMMA_MAP, KUAN, LEE, local_rows
from ingest.speckle_refined import REFINED_SIZE, refined_rows
from ingest.speckle_sigma import SIGMA_HALO, SIGMAS, sigma_range, sigma_rows
from ingest.speckle_window import Power
from ingest.threads import over_lines

_LOCAL = {"boxcar": BOXCAR, "lee": LEE, "kuan": KUAN, "enhanced-lee": ENHANCED_LEE, "gamma-map": GAMMA_MAP}

# Fewer rows than this are not worth a thread of their own.
_ROWS_PER_THREAD = 32


def halo(kind: SpeckleKind, size: int) -> int:
    """Give how many pixels around a window the filter needs to see; raises UsageError for a wrong size."""
    if kind == "none":
        return 0
    if size < 3 or size % 2 == 0:
        raise UsageError(f"speckle filter of {size} pixels: expected an odd size of 3 or more, such as 7")
    if kind == "refined-lee" and size != REFINED_SIZE:
        raise UsageError(f"refined Lee of {size} pixels: it is defined on {REFINED_SIZE} x {REFINED_SIZE} only")
    return max(size // 2, SIGMA_HALO) if kind == "lee-sigma" else size // 2


def filter_power(
    power: Power,
    kind: SpeckleKind,
    size: int,
    looks: float,
    threads: int | None = None,
    *,
    damping: float = 1.0,
    sigma: float = 0.9,
    bright: Sequence[float] | None = None,
) -> Power:
    """Smooth the speckle of linear power (bands, rows, cols), NaN where there is no data, into a new array.

    Beyond the edges of the array the outermost pixels are repeated. A caller that filters a window of a scene
    hands in :func:`halo` more pixels on each side that has them and crops: the result is then the same, bit
    for bit, as filtering the whole scene. Statistics count valid pixels only; a no-data pixel stays NaN.

    ``looks`` is the equivalent number of looks of the speckle; boxcar, Frost and (away from no-data) refined Lee do
    without. ``damping`` is Frost's, enhanced Frost's and enhanced Lee's. Lee sigma takes ``sigma``, the share of the
    speckle's distribution (0.5, 0.6, ... 0.9), and ``bright``, for each band the power above which a pixel may be a
    bright target (the scene's 98th percentile; without it none is). ``threads`` defaults to
    :func:`ingest.threads.thread_count`. Raises UsageError for a wrong size, number of looks, damping or sigma.
    """
    margin = halo(kind, size)
    if kind == "none":
        return power.copy()
    if not looks > 0:
        raise UsageError(f"speckle filter with {looks} looks: expected a number above 0, about 4.4 for IW GRDH")
    if not damping > 0:
        raise UsageError(f"speckle filter with a damping of {damping}: expected a number above 0, such as 1")
    if sigma not in SIGMAS:
        raise UsageError(f"Lee sigma of {sigma}: there are tables for {', '.join(map(str, SIGMAS))} only")
    power = np.ascontiguousarray(power, dtype=np.float32)
    out = np.empty_like(power)
    limits = bright if bright is not None else [np.inf] * len(power)
    # Plain floats: a kernel would be compiled anew for every other type of number.
    looks, damping = float(looks), float(damping)
    for band, limit in enumerate(map(float, limits)):
        if kind in _LOCAL:
            rows = partial(local_rows, power[band], _LOCAL[kind], margin, looks, damping)
        elif kind == "refined-lee":
            rows = partial(refined_rows, power[band], margin, looks)
        elif kind == "lee-sigma":
            rows = partial(sigma_rows, power[band], size, looks, sigma_range(looks, sigma), limit)
        else:
            rows = partial(frost_rows, power[band], rings(margin), margin, looks, damping, kind == "enhanced-frost")
        over_lines(partial(_fill, rows, out[band]), power.shape[1], _ROWS_PER_THREAD, threads)
    return out


def _fill(rows: Callable[[int, int, Power], None], out: Power, first: int, last: int) -> None:
    rows(first, last, out)
