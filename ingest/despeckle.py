"""A scene whose speckle is smoothed as it is read."""

from dataclasses import replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ingest.recipe import SpeckleRules
from ingest.scene import Scene, SceneInfo, Window
from ingest.speckle import filter_power, halo


class Despeckled:
    """A scene seen through a speckle filter; see :class:`ingest.scene.Scene`.

    A window is read with the filter's halo around it, so that how windows are cut never changes a pixel. ``threads``
    are those of the filter.
    """

    def __init__(self, scene: Scene, rules: SpeckleRules, threads: int | None = None) -> None:
        self._scene, self._rules, self._threads = scene, rules, threads
        self._info = replace(scene.info, looks=rules.looks or scene.info.looks)

    @property
    def info(self) -> SceneInfo:
        """What is known of the scene; ``looks`` is the number that the filter uses."""
        return self._info

    def power(self, window: Window) -> NDArray[np.float32]:
        """Read filtered linear power, (bands, rows, cols) float32, NaN where there is no data.

        Infinite power, which some ready-cut data sets hold, is no data: it would spread through the filter.
        """
        around = _grow(window, halo(self._rules.kind, self._rules.size), self._info.shape)
        power = self._scene.power(around)
        power[np.isinf(power)] = np.nan
        if self._rules.kind != "none":
            power = filter_power(power, self._rules.kind, self._rules.size, self._info.looks, self._threads)
        row, col = window.row - around.row, window.col - around.col
        return power[:, row : row + window.rows, col : col + window.cols]

    def label(self, window: Window) -> NDArray[np.uint8] | None:
        """Read the scene's own labels."""
        return self._scene.label(window)

    def locate(self, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Give longitude and latitude as the scene does."""
        return self._scene.locate(rows, cols)

    def incidence_deg(self, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Give incidence angles as the scene does."""
        return self._scene.incidence_deg(rows, cols)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._scene.__exit__(*exc)


def _grow(window: Window, margin: int, shape: tuple[int, int]) -> Window:
    """Widen a window by a margin on each side, as far as the scene goes."""
    row, col = max(window.row - margin, 0), max(window.col - margin, 0)
    end_row = min(window.row + window.rows + margin, shape[0])
    end_col = min(window.col + window.cols + margin, shape[1])
    return Window(row, col, end_row - row, end_col - col)
