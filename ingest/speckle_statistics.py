"""What a filter must know of a whole scene: its number of looks and how bright its brightest pixels are.

Both come from the same blocks, which only the scene's size decides, so that they never depend on how it is cut.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ingest.scene import Scene, SceneRejected, Window

_BLOCK = 256
_MAX_BLOCKS = 64
_PERCENTILE = 98.0

# Homogeneous ground is looked for in windows of this many pixels a side.
_WINDOW = 9
# Fewer windows than this have no commonest value.
_LEAST_WINDOWS = 64
# Of the logarithm of a variance ratio: width of a bin, and of the Gaussian that smooths the histogram; half of what
# one window's ratio scatters for 4 looks.
_BIN = 0.01
_SMOOTH = 0.1
_RANGE = (-12.0, 6.0)


def sample_windows(shape: tuple[int, int]) -> list[Window]:
    """Give up to 64 blocks of 256 x 256 pixels, spread evenly over (rows, cols); all of a scene that has no more."""
    tall, wide = (-(-length // _BLOCK) for length in shape)
    down = min(tall, _MAX_BLOCKS, max(1, round((_MAX_BLOCKS * tall / wide) ** 0.5)))
    across = min(wide, _MAX_BLOCKS // down)
    down = min(tall, _MAX_BLOCKS // across)
    return [
        Window(row, col, min(_BLOCK, shape[0] - row), min(_BLOCK, shape[1] - col))
        for row in _starts(shape[0], tall, down)
        for col in _starts(shape[1], wide, across)
    ]


def sample(scene: Scene) -> Iterator[NDArray[np.float32]]:
    """Read the blocks of a scene, each (bands, rows, cols), infinite power as no data. Raises SceneRejected."""
    for window in sample_windows(scene.info.shape):
        power = scene.power(window)
        power[np.isinf(power)] = np.nan
        yield power


def bright_levels(scene: Scene) -> list[float]:
    """Give for each band the 98th percentile of the scene's power, infinity for a band without data."""
    bands = zip(*[[band[~np.isnan(band)] for band in block] for block in sample(scene)], strict=True)
    values = [np.concatenate(band) for band in bands]
    return [float(np.percentile(band, _PERCENTILE)) if band.size else np.inf for band in values]


def estimate_looks(scene: Scene) -> float:
    """Estimate the equivalent number of looks from the ground itself, all bands together.

    On homogeneous ground mean^2 / variance of a window is the number of looks; texture and edges make it less. So it
    is the commonest value that counts, taken of the logarithm, where the scatter of a variance does not shift it.
    On simulated gamma speckle of 1 to 20 looks it is within 5 %. Pixels that are not independent (resampled grids)
    look like more looks in 9 x 9 pixels than over wide fields. Raises SceneRejected where too little is valid.
    """
    ratios = np.concatenate([_variance_ratios(band) for block in sample(scene) for band in block])
    if ratios.size < _LEAST_WINDOWS:
        raise SceneRejected(
            f"{scene.info.id}: {ratios.size} windows of {_WINDOW} x {_WINDOW} valid pixels with power above zero; "
            f"{_LEAST_WINDOWS} are needed to estimate the number of looks: give it (speckle.looks)"
        )
    return round(float(np.exp(-_mode(np.log(ratios)))), 3)


def _starts(length: int, blocks: int, wanted: int) -> list[int]:
    """Give the first pixels of the blocks wanted, spread evenly, the first and last at the ends where there are two."""
    if wanted == 1:
        return [(blocks - 1) // 2 * _BLOCK]
    return [(blocks - 1) * n // (wanted - 1) * _BLOCK for n in range(wanted)]


def _variance_ratios(power: NDArray[np.float32]) -> NDArray[np.float64]:
    """Give variance / mean^2 (n - 1) of the windows that are wholly valid, side by side."""
    rows, cols = power.shape[0] // _WINDOW, power.shape[1] // _WINDOW
    cut = power[: rows * _WINDOW, : cols * _WINDOW].astype(np.float64)
    windows = cut.reshape(rows, _WINDOW, cols, _WINDOW).transpose(0, 2, 1, 3).reshape(-1, _WINDOW**2)
    mean, variance = windows.mean(axis=1), windows.var(axis=1, ddof=1)
    good = (mean > 0) & (variance > 0)  # False where anything is NaN
    return np.asarray(variance[good] / mean[good] ** 2)


def _mode(values: NDArray[np.float64]) -> float:
    """Give the commonest value: the peak of a smoothed histogram, between bins by a parabola."""
    counts, edges = np.histogram(np.clip(values, *_RANGE), bins=round((_RANGE[1] - _RANGE[0]) / _BIN), range=_RANGE)
    reach = np.arange(-4 * _SMOOTH, 4 * _SMOOTH + _BIN / 2, _BIN)
    smooth = np.convolve(counts.astype(np.float64), np.exp(-0.5 * (reach / _SMOOTH) ** 2), mode="same")
    peak = min(max(int(smooth.argmax()), 1), smooth.size - 2)
    before, here, after = smooth[peak - 1 : peak + 2]
    bend = before - 2 * here + after
    shift = 0.5 * (before - after) / bend if bend < 0 else 0.0
    return float(edges[peak] + _BIN * (0.5 + shift))
