"""A UTM map's pixels, and every so many of them as nodes between which geometry is interpolated.

Where a point of the map lies in a radar image changes so smoothly that solving it at nodes half a kilometre apart is
enough: bilinear between nodes and quadratic in height, lines are exact to 1e-4 and samples to 0.02 of a pixel; where
two range polynomials of a GRD product meet, which is a kink, to 0.15. Every value is a function of the pixel's place in
the whole map, so that how windows are cut never changes it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numba
import numpy as np
from numpy.typing import NDArray
from pyproj import Transformer

from ingest.geometry import verticals
from ingest.scene import MapGrid, SceneRejected

Floats = NDArray[np.float64]

NODE_STEP_M = 500.0
HEIGHTS_M = (-500.0, 2500.0, 8900.0)
"""The heights at which nodes are solved: from the Dead Sea to the Himalayas."""
MAX_PIXELS = 2**34
"""A larger map is refused: its spacing must be a mistake."""


@dataclass(frozen=True)
class Lattice:
    """The map of ``shape`` (rows, cols) pixels on ``grid``, with a node at every ``step``-th pixel centre."""

    grid: MapGrid
    shape: tuple[int, int]
    step: int

    @classmethod
    def around(cls, lon: Floats, lat: Floats, spacing_m: float, epsg: int | None, name: str) -> Self:
        """Make the map around places in degrees, in a UTM zone, or that of their middle (UPS beyond 84 N and 80 S).

        Pixel edges are multiples of the spacing, so that all maps of a zone share one lattice.
        """
        epsg = epsg or utm_epsg(*_middle(lon, lat))
        east, north = Transformer.from_crs(4326, epsg, always_xy=True).transform(lon, lat)
        if not np.isfinite([east, north]).all():
            raise SceneRejected(f"{name} cannot be laid on the map EPSG:{epsg}: it reaches too far from its middle")
        left, right = np.floor(np.min(east) / spacing_m), np.ceil(np.max(east) / spacing_m)
        bottom, top = np.floor(np.min(north) / spacing_m), np.ceil(np.max(north) / spacing_m)
        shape = max(int(top - bottom), 1), max(int(right - left), 1)
        if shape[0] * shape[1] > MAX_PIXELS:
            raise SceneRejected(f"{name} would be {shape[0]} x {shape[1]} pixels of {spacing_m} m: too many")
        transform = (spacing_m, 0.0, float(left * spacing_m), 0.0, -spacing_m, float(top * spacing_m))
        return cls(MapGrid(epsg, transform), shape, max(2, round(NODE_STEP_M / spacing_m)))

    @property
    def spacing_m(self) -> float:
        """Metres from pixel to pixel."""
        return self.grid.transform[0]

    def map_xy(self, rows: Floats, cols: Floats) -> tuple[Floats, Floats]:
        """Give easting and northing of pixel centres (fractional, zero based) in metres."""
        a, _, c, _, e, f = self.grid.transform
        return a * (np.asarray(cols) + 0.5) + c, e * (np.asarray(rows) + 0.5) + f

    @cached_property
    def nodes(self) -> tuple[Floats, Floats]:
        """Rows and columns of the nodes, the last beyond the map: (n, m) each."""
        down, right = (np.arange(0, length + self.step, self.step, dtype=np.float64) for length in self.shape)
        rows, cols = np.meshgrid(down, right, indexing="ij")
        return rows, cols

    @cached_property
    def lonlat(self) -> Floats:
        """Longitude and latitude of the nodes in degrees, (n, m, 2); longitudes run on past 180 degrees."""
        to_degrees = Transformer.from_crs(self.grid.epsg, 4326, always_xy=True)
        lon, lat = to_degrees.transform(*self.map_xy(*self.nodes))
        lon = np.unwrap(np.unwrap(lon, period=360.0, axis=1), period=360.0, axis=0)
        return np.stack([lon, lat], axis=-1)

    @cached_property
    def places(self) -> Floats:
        """Earth-fixed points of the nodes on the ellipsoid in metres, and the verticals there: (n, m, 6)."""
        lon, lat = np.moveaxis(self.lonlat, -1, 0)
        to_ecef = Transformer.from_crs(4979, 4978, always_xy=True)
        place = np.stack(to_ecef.transform(lon, lat, np.zeros_like(lon)), axis=-1)
        return np.concatenate([place, verticals(lon, lat)], axis=-1)

    def solve(self, locate: Callable[[Floats], Floats]) -> Floats:
        """Solve the nodes: ``locate`` takes Earth-fixed points (k, 3) to (k, 2); give coefficients (n, m, 6).

        They are those of 1, h and h^2 for the first and for the second value, h in kilometres over the ellipsoid.
        """
        flat = self.places.reshape(-1, 6)
        values = np.stack([locate(flat[:, :3] + height * flat[:, 3:]) for height in HEIGHTS_M])
        inverse = np.linalg.inv(np.vander(np.array(HEIGHTS_M) / 1000, increasing=True))
        return np.asarray(np.einsum("ph,hkv->kvp", inverse, values).reshape(*self.places.shape[:2], 6))

    def at(self, nodes: Floats, rows: Floats, cols: Floats) -> Floats:
        """Interpolate values of nodes (n, m, k) at all pairs of rows (r,) and columns (c,): (r, c, k)."""
        return interpolate(nodes, self.step, rows, cols)

    def at_points(self, nodes: Floats, rows: Floats, cols: Floats) -> Floats:
        """Interpolate values of nodes (n, m, k) at points, (p,) rows and columns: (p, k)."""
        i, j = (
            np.clip(np.floor(np.asarray(at) / self.step), 0, count - 2).astype(np.intp)
            for at, count in zip((rows, cols), nodes.shape, strict=False)
        )
        t, u = (np.asarray(rows) / self.step - i)[:, None], (np.asarray(cols) / self.step - j)[:, None]
        upper = nodes[i, j] * (1 - u) + nodes[i, j + 1] * u
        lower = nodes[i + 1, j] * (1 - u) + nodes[i + 1, j + 1] * u
        return np.asarray(upper * (1 - t) + lower * t)

    def points(self, rows: Floats, cols: Floats, height_m: Floats) -> Floats:
        """Give Earth-fixed points in metres, (r, c, 3), of the map's pixels at heights (r, c)."""
        out = np.empty((len(rows), len(cols), 3))
        _points(self.places, float(self.step), rows, cols, height_m, out)
        return out

    def image(self, solved: Floats, rows: Floats, cols: Floats, height_m: Floats) -> tuple[Floats, Floats]:
        """Give image rows and columns, (r, c) each, of the map's pixels at heights (r, c); NaN where those are."""
        out = np.empty((2, len(rows), len(cols)))
        _image(solved, float(self.step), rows, cols, height_m, out)
        return out[0], out[1]


def interpolate(nodes: Floats, step: int, rows: Floats, cols: Floats) -> Floats:
    """Give values of nodes (n, m, k), which lie ``step`` apart from 0 on, bilinear at all pairs of rows and columns."""
    out = np.empty((len(rows), len(cols), nodes.shape[-1]))
    _interpolate(nodes, float(step), rows, cols, out)
    return out


def utm_epsg(lon: float, lat: float) -> int:
    """Give the EPSG code of the UTM zone of a place (WGS 84), or of UPS beyond 84 degrees north or 80 south."""
    if lat > 84:
        return 5041
    if lat < -80:
        return 5042
    return (32600 if lat >= 0 else 32700) + int((lon + 180.0) // 6.0) % 60 + 1


def _middle(lon: Floats, lat: Floats) -> tuple[float, float]:
    x, y, z = verticals(lon.ravel(), lat.ravel()).mean(axis=0)
    return float(np.degrees(np.arctan2(y, x))), float(np.degrees(np.arctan2(z, np.hypot(x, y))))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def cell(at, step, count):  # type: ignore[no-untyped-def]
    """Give the cell of a position between nodes and the share of it that is passed."""
    cell = min(max(int(np.floor(at / step)), 0), count - 2)
    return cell, at / step - cell


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _interpolate(nodes, step, rows, cols, out):  # type: ignore[no-untyped-def]
    for r in range(len(rows)):
        i, t = cell(rows[r], step, nodes.shape[0])
        for c in range(len(cols)):
            j, u = cell(cols[c], step, nodes.shape[1])
            for k in range(nodes.shape[2]):
                upper = nodes[i, j, k] + (nodes[i, j + 1, k] - nodes[i, j, k]) * u
                lower = nodes[i + 1, j, k] + (nodes[i + 1, j + 1, k] - nodes[i + 1, j, k]) * u
                out[r, c, k] = upper + (lower - upper) * t


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _points(places, step, rows, cols, heights, out):  # type: ignore[no-untyped-def]
    line = np.empty((places.shape[1], 6))
    for r in range(len(rows)):
        i, t = cell(rows[r], step, places.shape[0])
        line[:] = places[i] + (places[i + 1] - places[i]) * t
        for c in range(len(cols)):
            j, u = cell(cols[c], step, places.shape[1])
            for k in range(3):
                vertical = line[j, k + 3] + (line[j + 1, k + 3] - line[j, k + 3]) * u
                out[r, c, k] = line[j, k] + (line[j + 1, k] - line[j, k]) * u + heights[r, c] * vertical


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _image(nodes, step, rows, cols, heights, out):  # type: ignore[no-untyped-def]
    """Interpolate the coefficients to each pixel and evaluate them at its height."""
    line = np.empty((nodes.shape[1], 6))
    for r in range(len(rows)):
        i, t = cell(rows[r], step, nodes.shape[0])
        line[:] = nodes[i] + (nodes[i + 1] - nodes[i]) * t
        for c in range(len(cols)):
            j, u = cell(cols[c], step, nodes.shape[1])
            h = heights[r, c] * 1e-3
            for v in range(2):
                k = 3 * v
                a = line[j, k] + (line[j + 1, k] - line[j, k]) * u
                b = line[j, k + 1] + (line[j + 1, k + 1] - line[j, k + 1]) * u
                d = line[j, k + 2] + (line[j + 1, k + 2] - line[j, k + 2]) * u
                out[v, r, c] = a + h * (b + h * d)
