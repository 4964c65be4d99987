"""A scene whose speckle is smoothed as it is read."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ingest.recipe import SpeckleRules
from ingest.scene import Scene, Window
from ingest.speckle import filter_power, halo
from ingest.speckle_statistics import bright_levels, estimate_looks
from ingest.wrapper import SceneWrapper

_WITHOUT_LOOKS = ("none", "boxcar", "frost")


class Despeckled(SceneWrapper):
    """A scene seen through a speckle filter; see :class:`ingest.scene.Scene`.

    A window is read with the filter's halo around it, so that how windows are cut never changes a pixel. ``threads``
    are those of the filter. What concerns the whole scene is found once, here, from a sample of its pixels: the number
    of looks, where the rules ask to "estimate" it or a filter needs it and neither the rules nor the scene (whose
    number is then NaN) say it, and for Lee sigma how bright targets are. Raises SceneRejected where the sample cannot
    be read or tells nothing.
    """

    def __init__(self, scene: Scene, rules: SpeckleRules, threads: int | None = None) -> None:
        super().__init__(scene, replace(scene.info, looks=_looks(scene, rules)))  # the number that the filter uses
        self._rules, self._threads = rules, threads
        self._bright = bright_levels(scene) if rules.kind == "lee-sigma" else None

    def power(self, window: Window) -> NDArray[np.float32]:
        """Read filtered linear power, (bands, rows, cols) float32, NaN where there is no data.

        Infinite power, which some ready-cut data sets hold, is no data: it would spread through the filter.
        """
        around = grow(window, halo(self._rules.kind, self._rules.size), self._info.shape)
        power = self._scene.power(around)
        power[np.isinf(power)] = np.nan
        if self._rules.kind != "none":
            power = self._filter(power)
        row, col = window.row - around.row, window.col - around.col
        return power[:, row : row + window.rows, col : col + window.cols]

    def _filter(self, power: NDArray[np.float32]) -> NDArray[np.float32]:
        rules, looks = self._rules, self._info.looks
        return filter_power(
            power,
            rules.kind,
            rules.size,
            1.0 if math.isnan(looks) else looks,  # of no concern to a filter that comes this far without
            self._threads,
            damping=rules.damping,
            sigma=rules.sigma,
            bright=self._bright,
        )


def _looks(scene: Scene, rules: SpeckleRules) -> float:
    if rules.looks == "estimate":
        return estimate_looks(scene)
    if rules.looks is None and rules.kind not in _WITHOUT_LOOKS and not scene.info.looks > 0:
        return estimate_looks(scene)
    return rules.looks or scene.info.looks


def grow(window: Window, margin: int, shape: tuple[int, int]) -> Window:
    """Widen a window by a margin on each side, as far as the scene goes."""
    row, col = max(window.row - margin, 0), max(window.col - margin, 0)
    end_row = min(window.row + window.rows + margin, shape[0])
    end_col = min(window.col + window.cols + margin, shape[1])
    return Window(row, col, end_row - row, end_col - col)
