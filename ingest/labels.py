"""A scene with a label raster of the same geometry beside it."""

import hashlib
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infra.record import digest
from ingest.legend import LabelRule, read_legend
from ingest.raster import open_raster, read_window
from ingest.scene import Scene, SceneRejected, Window
from ingest.wrapper import SceneWrapper


class Labelled(SceneWrapper):
    """A scene that takes its labels from a one-band uint8 GeoTIFF, pixel for pixel.

    ``legend.json`` beside the raster says which class ids there may be. Reading is safe from several threads.
    Raises SceneRejected where the raster does not fit the scene.
    """

    def __init__(self, scene: Scene, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()  # GDAL datasets are not thread-safe
        legend = legend_beside(Path(path))
        self._rule = LabelRule.of(read_legend(legend) if legend else None, None, ())
        with open(path, "rb") as file:
            labels = hashlib.file_digest(file, "sha256").hexdigest()
        # Other labels make another scene: what was built with the old ones must not be taken up.
        super().__init__(scene, replace(scene.info, fingerprint=digest([scene.info.fingerprint, labels])))
        self._raster = open_raster(path)
        try:
            self._check()
        except SceneRejected:
            self._raster.close()
            raise

    def _check(self) -> None:
        raster, info = self._raster, self._info
        found = (raster.height, raster.width)
        if found != info.shape or raster.count != 1 or raster.dtypes[0] != "uint8":
            raise SceneRejected(
                f"labels {self._path}: found {raster.count} band(s) of {raster.dtypes[0]}, {found} pixels; expected one"
                f" band of uint8 in the scene's own geometry, {info.shape}"
            )
        if info.grid and not raster.transform.almost_equals(type(raster.transform)(*info.grid.transform), 1e-3):
            raise SceneRejected(
                f"labels {self._path} lie elsewhere: found the transform {tuple(raster.transform)[:6]}, expected the"
                f" scene's own, {info.grid.transform}"
            )

    def label(self, window: Window) -> NDArray[np.uint8]:
        """Read class ids, (rows, cols) uint8. Raises SceneRejected for an id that the legend does not have."""
        with self._lock:
            values = read_window(self._raster, window)
        return self._rule.of_numbers(values, f"labels {self._path}")

    def __exit__(self, *exc: object) -> None:
        self._raster.close()
        super().__exit__(*exc)


def legend_beside(raster: Path) -> Path | None:
    """Find the legend of a label raster."""
    legend = raster.parent / "legend.json"
    return legend if legend.is_file() else None
