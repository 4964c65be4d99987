"""A scene that is an array, for what takes scenes."""

from dataclasses import replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ingest.scene import SceneInfo, Window


class ArrayScene:
    """Linear power (bands, rows, cols) as a scene; counts the windows that are read."""

    def __init__(self, power: NDArray[np.float32], looks: float = 4.4) -> None:
        self.pixels, self.reads = power, 0
        names = tuple(f"B{n}" for n in range(len(power)))
        self._info = SceneInfo(
            id="ARRAY", sensor="any", product="array", mode="", polarisations=names, shape=power.shape[1:],
            spacing_m=None, looks=looks, time=None, orbit=None, fingerprint="0" * 64, footprint=None,
        )  # fmt: skip

    @property
    def info(self) -> SceneInfo:
        return replace(self._info)

    def power(self, window: Window) -> NDArray[np.float32]:
        self.reads += 1
        row, col, rows, cols = window
        return self.pixels[:, row : row + rows, col : col + cols].copy()

    def label(self, window: Window) -> NDArray[np.uint8] | None:
        return None

    def locate(self, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.float64] | None:
        return None

    def incidence_deg(self, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.float64] | None:
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass
