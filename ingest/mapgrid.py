"""Pixels of an image that lies on a map: where they are on the Earth."""

import math
from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import ProjError

from ingest.geometry import ring
from ingest.scene import MapGrid, SceneRejected

Floats = NDArray[np.float64]


def ground_spacing_m(locate: Callable[[Floats, Floats], Floats], shape: tuple[int, int]) -> tuple[float, float]:
    """Measure metres on the ellipsoid from row to row and from column to column in the middle of an image."""
    row, col = shape[0] / 2, shape[1] / 2
    lon, lat = locate(np.array([row, row + 1, row]), np.array([col, col, col + 1])).T
    _, _, distance_m = Geod(ellps="WGS84").inv([lon[0]] * 2, [lat[0]] * 2, lon[1:], lat[1:])
    return float(distance_m[0]), float(distance_m[1])


class MapPlace:
    """An image of (rows, cols) pixels on a map in any coordinate reference system that pyproj knows.

    ``transform`` is (a, b, c, d, e, f) of pixel corners: x = a col + b row + c, y = d col + e row + f.
    Raises SceneRejected where the system is unknown or the image's corners are not on the Earth.
    """

    def __init__(self, crs: str | int | CRS, transform: tuple[float, ...], shape: tuple[int, int], name: str) -> None:
        self._transform = transform
        self._shape = shape
        rows, cols = shape
        a, b, _, d, e, _ = transform
        if a * e == b * d:
            raise SceneRejected(f"{name} has pixels without extent: its transform {transform} is wrong")
        try:
            self._crs = CRS.from_user_input(crs)
            self._to_degrees = Transformer.from_crs(self._crs, 4326, always_xy=True)
        except ProjError as error:
            raise SceneRejected(f"{name} has a coordinate reference system that is not understood: {error}") from error
        self._middle_lon = float(self._degrees(np.array([rows / 2]), np.array([cols / 2]))[0, 0])
        outline = self._degrees(np.array([0, 0, rows, rows]), np.array([0, cols, cols, 0]))
        if not np.isfinite([*outline.ravel(), self._middle_lon]).all() or np.abs(outline[:, 1]).max() > 90:
            raise SceneRejected(f"{name} has corners that are not on the Earth: its transform {transform} is wrong")
        self.footprint = ring(self._unwrapped(outline))

    @property
    def grid(self) -> MapGrid | None:
        """The grid by EPSG code, or None where the system has none."""
        epsg = self._crs.to_epsg()
        if epsg is not None and not CRS.from_epsg(epsg).equals(self._crs, ignore_axis_order=True):
            epsg = None  # pyproj's best guess, which may shift the map by its datum
        a, b, c, d, e, f = self._transform
        return None if epsg is None else MapGrid(epsg, (a, b, c, d, e, f))

    @cached_property
    def spacing_m(self) -> tuple[float, float]:
        """Metres from row to row and from column to column: of the map, or on the ground where it is in degrees."""
        a, b, _, d, e, _ = self._transform
        if self._crs.is_projected:
            metres = self._crs.axis_info[0].unit_conversion_factor
            return math.hypot(b, e) * metres, math.hypot(a, d) * metres
        return ground_spacing_m(self.locate, self._shape)

    def locate(self, rows: Floats, cols: Floats) -> Floats:
        """Give (n, 2) longitude and latitude in degrees of pixel centres (fractional, zero based).

        Longitudes run on past 180 or -180 degrees where the image crosses the antimeridian: they are those next
        to its middle.
        """
        return self._unwrapped(self._degrees(np.asarray(rows) + 0.5, np.asarray(cols) + 0.5))

    def _degrees(self, down: Floats, right: Floats) -> Floats:
        """Place positions that are measured from the upper left corner of the first pixel."""
        a, b, c, d, e, f = self._transform
        lon, lat = self._to_degrees.transform(a * right + b * down + c, d * right + e * down + f)
        return np.stack([lon, lat], axis=-1)

    def _unwrapped(self, degrees: Floats) -> Floats:
        turns = np.round((degrees[:, 0] - self._middle_lon) / 360.0)
        degrees[:, 0] -= 360.0 * np.where(np.isfinite(turns), turns, 0.0)
        return degrees
