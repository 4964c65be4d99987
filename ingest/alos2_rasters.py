"""The rasters of an ALOS-2 product on a map: bands of digital numbers, a mask and an angle, all on one grid."""

import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingest.alos2_files import ORDER
from ingest.mapgrid import MapPlace
from ingest.raster import open_raster, read_window
from ingest.scene import SceneRejected, Window

CALIBRATION_DB = -83.0
"""Of every amplitude product since launch: JAXA EORC, Calibration Result of ALOS-2/PALSAR-2 JAXA Standard Products."""
_AT_ONCE = 1 << 22
_INTEGERS = ("uint8", "uint16")


@dataclass(frozen=True, slots=True)
class Rasters:
    """Open rasters by role (a polarisation, mask, ...) of one ``shape`` (rows, cols) and place.

    Reading is safe from several threads: GDAL datasets are not, so each read takes a lock.
    """

    datasets: Mapping[str, Any]
    shape: tuple[int, int]
    place: MapPlace
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def polarisations(self) -> tuple[str, ...]:
        """The bands there are, in the order HH, HV, VH, VV."""
        return tuple(pol for pol in ORDER if pol in self.datasets)

    @property
    def transform(self) -> tuple[float, ...]:
        """The affine (a, b, c, d, e, f) of pixel corners."""
        return tuple(next(iter(self.datasets.values())).transform)[:6]

    def read(self, role: str, window: Window) -> NDArray[Any]:
        """Read the numbers of one raster, (rows, cols)."""
        with self.lock:
            return read_window(self.datasets[role], window)

    def power(self, window: Window, calibration_db: float, lowest: int) -> NDArray[np.float32]:
        """Read DN^2 10^(CF/10) of every band, NaN where a number is less than ``lowest``."""
        gain = np.float32(10.0 ** (calibration_db / 10.0))
        out = np.empty((len(self.polarisations), window.rows, window.cols), np.float32)
        for band, polarisation in zip(out, self.polarisations, strict=True):
            numbers = self.read(polarisation, window)
            np.multiply(numbers, numbers, out=band, dtype=np.float32)
            band *= gain
            band[numbers < lowest] = np.nan
        return out


@dataclass(frozen=True, slots=True)
class RasterAngles:
    """Angles stored as numbers of ``unit_deg`` degrees in a raster; ``lowest`` is the first that is an angle."""

    rasters: Rasters
    role: str
    unit_deg: float
    lowest: int

    def at(self, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give (n,) degrees of the nearest pixels, NaN outside and where there is none."""
        row, col = (np.rint(np.asarray(a, np.float64)).astype(np.int64) for a in (rows, cols))
        inside = (row >= 0) & (col >= 0) & (row < self.rasters.shape[0]) & (col < self.rasters.shape[1])
        numbers = np.zeros(len(row), np.float64)
        if inside.any():
            numbers[inside] = self._numbers(row[inside], col[inside])
        return np.where(numbers >= self.lowest, numbers * self.unit_deg, np.nan)

    def _numbers(self, row: NDArray[np.int64], col: NDArray[np.int64]) -> NDArray[Any]:
        """Read what covers all the points at once, or point by point where that is too much."""
        top, left = int(row.min()), int(col.min())
        window = Window(top, left, int(row.max()) - top + 1, int(col.max()) - left + 1)
        if window.rows * window.cols <= _AT_ONCE:
            return np.asarray(self.rasters.read(self.role, window)[row - top, col - left])
        return np.array(
            [self.rasters.read(self.role, Window(int(r), int(c), 1, 1))[0, 0] for r, c in zip(row, col, strict=True)]
        )


def open_rasters(paths: Mapping[str, str], stack: ExitStack) -> Rasters:
    """Open rasters of unsigned integers, one band each, that ``stack`` closes.

    Raises SceneRejected where they are not that, have no map, or do not lie on each other.
    """
    datasets = {}
    for role, path in paths.items():
        datasets[role] = stack.enter_context(open_raster(path))
        _check(path, datasets[role])
    first_role = next(pol for pol in ORDER if pol in datasets)
    first = datasets[first_role]
    for role, dataset in datasets.items():
        if (dataset.shape, dataset.transform, dataset.crs) != (first.shape, first.transform, first.crs):
            raise SceneRejected(
                f"{paths[role]} has {dataset.shape} pixels at {tuple(dataset.transform)[:6]}, unlike {first_role} with "
                f"{first.shape} at {tuple(first.transform)[:6]}: they do not belong together"
            )
    shape = (int(first.height), int(first.width))
    place = MapPlace(first.crs.to_wkt(), tuple(first.transform)[:6], shape, paths[first_role])
    return Rasters({first_role: first, **datasets}, shape, place)


def _check(path: str, dataset: Any) -> None:
    if dataset.count != 1 or dataset.dtypes[0] not in _INTEGERS:
        raise SceneRejected(
            f"{path} has {dataset.count} band(s) of {dataset.dtypes[0]}, expected one of unsigned integers (amplitude)"
        )
    if dataset.crs is None or dataset.transform.is_identity:
        raise SceneRejected(f"{path} says nothing of where it lies (no map in its GeoTIFF tags): fetch it as CEOS")
