"""A scene at a glance: few of its lines, averaged on the ground, as statistics and as a picture."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.scene import Scene, SceneInfo, Window

QUICKLOOK_PX = 1024
_LINES = 4  # of each cell, so that a 26,000 x 16,000 scene is read to a sixth
_ROWS_AT_ONCE = 64
_FLOOR = 1e-6
_BACKGROUND, _DARKEST = 0, 16


@dataclass(frozen=True, slots=True)
class BandStatistics:
    """Of some of a band's pixels: shares of no data and of negative power, and percentiles in decibels.

    A percentile is None where it is not above zero: thermal noise was all there was, and it is removed.
    """

    no_data_share: float
    negative_share: float
    p02_db: float | None
    median_db: float | None
    p98_db: float | None


@dataclass(frozen=True, slots=True)
class Glance:
    """``power`` (bands, rows, cols) averaged over cells, NaN where there is no data; statistics of single pixels."""

    power: NDArray[np.float64]
    bands: Mapping[str, BandStatistics]


def glance(scene: Scene, px: int = QUICKLOOK_PX) -> Glance:
    """Read a scene in cells of about equal sides on the ground, ``px`` on the longer side of the picture."""
    info = scene.info
    row_step, col_step = _steps(info, px)
    means, samples = [], []
    for strip, lines in _strips(scene, row_step):
        means.append(_cell_means(strip, lines, col_step))
        samples.append(strip[:, :, (col_step - 1) // 2 :: col_step].reshape(len(strip), -1))
    sample = np.concatenate(samples, axis=1)
    bands = {name: _statistics(band) for name, band in zip(info.polarisations, sample, strict=True)}
    return Glance(np.concatenate(means, axis=1), bands)


def picture(look: Glance) -> bytes:
    """Give a PNG: one band in grey; two as red, green and their ratio in blue; of four HH, HV, VV; of others the first.

    Each colour runs from the 2nd to the 98th percentile of its decibels; no data is black.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        level = 10 * np.log10(np.maximum(look.power, _FLOOR))
    names = [*look.bands]
    if len(names) == 2:
        layers = [level[0], level[1], level[0] - level[1]]
    else:
        chosen = [names.index(n) for n in ("HH", "HV", "VV")] if {"HH", "HV", "VV"} <= {*names} else range(len(names))
        layers = [level[band] for band in chosen][: 3 if len(names) > 2 else 1]
    return png(layers)


def png(layers: Sequence[NDArray[np.floating[Any]]]) -> bytes:
    """Give one layer of decibels in grey, or three as red, green and blue; NaN, no data, is black."""
    from PIL import Image

    pixels = np.stack([_stretch(layer) for layer in layers], axis=-1)
    buffer = BytesIO()
    Image.fromarray(pixels if len(layers) == 3 else pixels[..., 0]).save(buffer, format="PNG", optimize=False)
    return buffer.getvalue()


def _steps(info: SceneInfo, px: int) -> tuple[int, int]:
    """Give lines and samples per cell."""
    spacing = info.spacing_m or (1.0, 1.0)
    side = max(size * step for size, step in zip(info.shape, spacing, strict=True)) / px
    row_step, col_step = (min(max(1, round(side / step)), size) for size, step in zip(info.shape, spacing, strict=True))
    return row_step, col_step


def _strips(scene: Scene, step: int) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Read the first lines of every cell; gives strips with the number of lines of a cell in them."""
    rows, cols = scene.info.shape
    lines = min(step, _LINES)
    at_once = step * _ROWS_AT_ONCE if lines == step else step
    for row in range(0, rows, at_once):
        height = min(at_once if lines == step else lines, rows - row)
        yield scene.power(Window(row, 0, height, cols)), lines


def _cell_means(strip: NDArray[np.float32], lines: int, col_step: int) -> NDArray[np.float64]:
    valid = ~np.isnan(strip)
    rows, cols = range(0, strip.shape[1], lines), range(0, strip.shape[2], col_step)

    def sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.add.reduceat(np.add.reduceat(values, rows, axis=1), cols, axis=2))

    count = sums(valid.astype(np.float64))
    total = sums(np.where(valid, strip, 0).astype(np.float64))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _statistics(values: NDArray[np.float32]) -> BandStatistics:
    valid = values[~np.isnan(values)]
    if valid.size == 0:
        return BandStatistics(1.0, 0.0, None, None, None)
    low, middle, high = (_decibels(value) for value in np.percentile(valid, (2, 50, 98)))
    return BandStatistics(1 - valid.size / values.size, float(np.mean(valid < 0)), low, middle, high)


def _decibels(power: float) -> float | None:
    return round(float(10 * np.log10(power)), 2) if power > 0 else None


def _stretch(level: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    known = ~np.isnan(level)
    if not known.any():
        return np.full(level.shape, _BACKGROUND, np.uint8)
    low, high = np.percentile(level[known], (2, 98))
    grey = _DARKEST + (255 - _DARKEST) * (np.where(known, level, low) - low) / max(high - low, 1e-6)
    return np.where(known, np.clip(grey, _DARKEST, 255), _BACKGROUND).astype(np.uint8)
