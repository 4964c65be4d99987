"""A scene around another scene, which answers for it unless it knows better."""

from typing import Self

import numpy as np
from numpy.typing import NDArray

from ingest.land import GroundShares, own_shares
from ingest.scene import Scene, SceneInfo, Window


class SceneWrapper:
    """Hands every question on to the scene inside, on whose pixel grid it is; see :class:`ingest.scene.Scene`."""

    def __init__(self, scene: Scene, info: SceneInfo) -> None:
        self._scene, self._info = scene, info

    @property
    def info(self) -> SceneInfo:
        """What is known without reading pixels."""
        return self._info

    def power(self, window: Window) -> NDArray[np.float32]:
        """Read the scene's power."""
        return self._scene.power(window)

    def label(self, window: Window) -> NDArray[np.uint8] | None:
        """Read the scene's own labels."""
        return self._scene.label(window)

    def locate(self, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Give longitude and latitude as the scene does."""
        return self._scene.locate(rows, cols)

    def incidence_deg(self, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Give incidence angles as the scene does."""
        return self._scene.incidence_deg(rows, cols)

    def ground_shares(self, window: Window) -> GroundShares | None:
        """Give the shares of land and water as the scene does."""
        return own_shares(self._scene, window)

    def __enter__(self) -> Self:
        self._scene.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._scene.__exit__(*exc)
