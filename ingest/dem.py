"""How high the ground is: heights over the ellipsoid from a GeoTIFF DEM, or from a product's geolocation grid.

DEM heights are over the ellipsoid or over a geoid, and the two differ by up to 107 m, which moves a pixel by as much
on the map. So the recipe says which, what the file itself says must not contradict it, and a geoid's undulation is
added from the grids of PROJ.
"""

import threading
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numba
import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError

from infra.errors import UsageError
from ingest.lattice import Lattice, cell
from ingest.raster import open_raster, read_window
from ingest.scene import SceneRejected, Window

Floats = NDArray[np.float64]
Datum = Literal["ellipsoid", "egm2008", "egm96"]

_GRIDS = MappingProxyType(
    {"egm2008": ("us_nga_egm08_25.tif", "egm08_25.gtx"), "egm96": ("us_nga_egm96_15.tif", "egm96_15.gtx")}
)
_VERTICAL_EPSG = MappingProxyType({3855: "egm2008", 5773: "egm96"})
_METRES = ("", "m", "metre", "metres", "meter", "meters")


class Heights(Protocol):
    """Heights of a map's pixels."""

    def at(self, rows: Floats, cols: Floats) -> Floats:
        """Give heights over the ellipsoid in metres, (r, c), at all pairs of rows (r,) and columns (c,) of the map.

        Both ascend and are fractional, zero-based pixel centres. NaN where the height is not known.
        """
        ...

    def close(self) -> None:
        """Release the file."""
        ...


class NodeHeights:
    """Heights that are known at a lattice's nodes, (n, m) metres."""

    def __init__(self, lattice: Lattice, nodes_m: Floats) -> None:
        self._lattice, self._nodes = lattice, nodes_m[:, :, None]

    def at(self, rows: Floats, cols: Floats) -> Floats:
        """Interpolate the nodes; see :class:`Heights`."""
        return self._lattice.at(self._nodes, rows, cols)[:, :, 0]

    def close(self) -> None:
        """Do nothing."""


class Dem:
    """Heights of a GeoTIFF in any coordinate reference system, bilinear; see :class:`Heights`.

    Raises UsageError where the file is missing or does not say where it lies, its heights are not in metres, it
    contradicts ``datum``, or PROJ lacks the geoid; SceneRejected where it does not reach the map at all, or a pole lies
    in the map of a DEM in degrees. A DEM around the whole Earth goes on over its edge. Reading is safe from threads.
    """

    def __init__(self, path: str, datum: Datum, lattice: Lattice) -> None:
        self._path, self._lattice = path, lattice
        self._lock = threading.Lock()  # GDAL datasets are not thread-safe
        self._raster = open_dem(path)
        try:
            crs = _horizontal(self._raster, datum, path)
            self._round = _columns_around_earth(self._raster, crs)
            self._nodes = self._node_pixels(crs, datum)
        except BaseException:
            self._raster.close()
            raise

    def _node_pixels(self, crs: CRS, datum: Datum) -> Floats:
        """Give the DEM's row and column of the nodes and the geoid's height there, (n, m, 3)."""
        lon, lat = np.moveaxis(self._lattice.lonlat, -1, 0)
        if crs.is_geographic and np.abs(np.diff(lon, axis=0)).max(initial=0) > 45:
            raise SceneRejected(f"{self._path} is in degrees, which cannot serve a map over a pole: give one in metres")
        x, y = Transformer.from_crs(4326, crs, always_xy=True).transform(lon, lat)
        if crs.is_geographic:
            x = x + lon - _wrapped(lon)  # as unwrapped as the nodes are
            left, right = sorted((self._raster.bounds.left, self._raster.bounds.right))
            x = x + 360.0 * np.round(((left + right) / 2 - x.mean()) / 360.0)
        inverse = ~self._raster.transform
        row = inverse.d * x + inverse.e * y + inverse.f - 0.5
        col = inverse.a * x + inverse.b * y + inverse.c - 0.5
        inside = (row > -1) & (row < self._raster.height)
        if not self._round:
            inside &= (col > -1) & (col < self._raster.width)
        if not inside.any():
            raise SceneRejected(f"{self._path} does not reach the scene: give a DEM that covers it")
        return np.stack([row, col, geoid_m(datum, lon, lat)], axis=-1)

    def at(self, rows: Floats, cols: Floats) -> Floats:
        """Interpolate the DEM; NaN beside a pixel of its no-data and beyond its outermost pixel centres."""
        step = self._lattice.step
        near = tuple(
            slice(max(int(at[0] // step), 0), max(int(at[-1] // step) + 2, 2)) for at in (rows, cols)
        )  # the nodes around: positions between them lie between theirs
        nodes = self._nodes[near] if self._nodes[near][..., 0].size > 1 else self._nodes
        values, top, left = self._read(nodes[..., 0], nodes[..., 1])
        out = np.empty((len(rows), len(cols)))
        _heights(self._nodes, float(step), rows, cols, values, top, left, out)
        return out

    def extremes(self) -> Floats:
        """Give bounds of the lowest and highest ground between neighbouring nodes of the map, (n - 1, m - 1, 2) metres.

        They are those of all DEM pixels in the rectangle around a cell; (inf, -inf) where none is known.
        """
        nodes = self._nodes
        out = np.empty((nodes.shape[0] - 1, nodes.shape[1] - 1, 2))
        for i in range(len(out)):
            row, col = (np.stack([nodes[i : i + 2, :, k] - 2, nodes[i : i + 2, :, k] + 2]) for k in (0, 1))
            _extremes(nodes[i : i + 2], *self._read(row, col), out[i])
        return out

    def _read(self, row: Floats, col: Floats) -> tuple[NDArray[np.float32], int, int]:
        """Read the heights around positions, and where the first of them lies."""
        raster = self._raster
        top, bottom = max(int(np.floor(row.min())), 0), min(int(np.floor(row.max())) + 2, raster.height)
        left, right = int(np.floor(col.min())), int(np.floor(col.max())) + 2
        if not self._round:
            left, right = max(left, 0), min(right, raster.width)
        if top >= bottom or left >= right:
            return np.full((1, 1), np.nan, np.float32), 0, 0
        with self._lock:
            parts = [read_window(raster, Window(top, c, bottom - top, n)) for c, n in _turns(left, right, raster.width)]
        values = np.concatenate(parts, axis=1)
        heights = values.astype(np.float32)
        if raster.nodata is not None:
            heights[values == raster.nodata] = np.nan
        return heights, top, left

    @property
    def posting_m(self) -> float:
        """Metres on the ground from one row or column of the DEM to the next, the smaller of both, mid-map."""
        i, j = (n // 2 - 1 for n in self._nodes.shape[:2])
        steps = np.stack([self._nodes[i + 1, j] - self._nodes[i, j], self._nodes[i, j + 1] - self._nodes[i, j]])[:, :2]
        return self._lattice.step * self._lattice.spacing_m / float(np.linalg.norm(steps, axis=0).max())

    def close(self) -> None:
        """Close the file."""
        self._raster.close()


def open_dem(path: str) -> Any:
    """Open a DEM. Raises UsageError where it is not a one-band GeoTIFF of metres that says where it lies."""
    if not Path(path).is_file():
        raise UsageError(f"grid.dem {path}: no such file; expected a GeoTIFF of heights")
    try:
        raster = open_raster(path)
    except SceneRejected as error:
        raise UsageError(f"grid.dem {error}") from error
    unit = (raster.units[0] or "").lower()
    plain = raster.scales[0] == 1 and raster.offsets[0] == 0 and unit in _METRES
    if raster.crs is None or raster.count != 1 or not plain or raster.dtypes[0].startswith("complex"):
        found = f"{raster.count} bands of {raster.dtypes[0]} in {unit or 'metres'}, system {raster.crs}"
        raster.close()
        raise UsageError(f"grid.dem {path} has {found}; expected one band of plain metres with a reference system")
    return raster


def check_dem(path: str, datum: Datum) -> None:
    """Raise UsageError for a DEM that no scene could use."""
    with open_dem(path) as raster:
        _horizontal(raster, datum, path)
    geoid_m(datum, np.zeros(1), np.zeros(1))


def geoid_m(datum: Datum, lon: Floats, lat: Floats) -> Floats:
    """Give the geoid's height over the ellipsoid in metres at places in degrees; zero for the ellipsoid itself.

    Raises UsageError where PROJ lacks the grid.
    """
    if datum == "ellipsoid":
        return np.zeros_like(lon)
    for grid in _GRIDS[datum]:
        try:
            shift = Transformer.from_pipeline(
                "+proj=pipeline +step +proj=unitconvert +xy_in=deg +xy_out=rad "
                f"+step +proj=vgridshift +grids={grid} +multiplier=1"
            )
        except ProjError:
            continue
        height = np.asarray(shift.transform(_wrapped(lon), lat, np.zeros_like(lon))[2])
        if not np.isfinite(height).all():
            raise UsageError(f"PROJ's grid {grid} does not reach the scene: install the global one")
        return height
    wanted = _GRIDS[datum][0]
    raise UsageError(
        f"grid.dem_datum {datum}: PROJ has no grid {wanted}. Fetch it (pyproj sync --file {wanted}; or proj-data of "
        "conda), or allow it to be fetched (PROJ_NETWORK=ON), or give a DEM of heights over the ellipsoid"
    )


def _wrapped(lon: Floats) -> Floats:
    return (lon + 180.0) % 360.0 - 180.0


def _horizontal(raster: Any, datum: Datum, path: str) -> CRS:
    """Give the horizontal part of a DEM's reference system; refuse a vertical part that contradicts the datum."""
    try:
        crs = CRS.from_wkt(raster.crs.to_wkt())
    except CRSError as error:
        raise UsageError(f"grid.dem {path}: its reference system is not understood: {error}") from error
    stated = None
    if crs.is_compound:
        crs, vertical = crs.sub_crs_list[:2]
        stated = _VERTICAL_EPSG.get(vertical.to_epsg() or 0, vertical.name)
    elif len(crs.axis_info) == 3:
        stated = "ellipsoid"
    if stated not in (None, datum):
        raise UsageError(
            f"grid.dem {path} says that its heights are over {stated}, the recipe's dem_datum says {datum}"
        )
    return crs


def _columns_around_earth(raster: Any, crs: CRS) -> bool:
    turn = abs(raster.transform.a) * raster.width
    return bool(crs.is_geographic and raster.transform.b == 0 and abs(turn - 360.0) < abs(raster.transform.a) / 2)


def _turns(left: int, right: int, width: int) -> list[tuple[int, int]]:
    """Split columns left..right, which may lie beyond a raster that goes around the Earth, into (column, count)."""
    parts = []
    while left < right:
        count = min(right - left, width - left % width)
        parts.append((left % width, count))
        left += count
    return parts


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _heights(nodes, step, rows, cols, values, top, left, out):  # type: ignore[no-untyped-def]
    """Find each pixel's place in the DEM between the nodes, interpolate there and add the geoid.

    A place whose neighbours are not all known is NaN.
    """
    line = np.empty((nodes.shape[1], 3))
    for r in range(len(rows)):
        i, t = cell(rows[r], step, nodes.shape[0])
        line[:] = nodes[i] + (nodes[i + 1] - nodes[i]) * t
        for c in range(len(cols)):
            j, u = cell(cols[c], step, nodes.shape[1])
            y = line[j, 0] + (line[j + 1, 0] - line[j, 0]) * u
            x = line[j, 1] + (line[j + 1, 1] - line[j, 1]) * u
            geoid = line[j, 2] + (line[j + 1, 2] - line[j, 2]) * u
            p, q = np.floor(y), np.floor(x)
            v, w = y - p, x - q
            m, n = int(p) - top, int(q) - left
            # On the last row or column itself there is no neighbour beyond, nor need of one.
            below, right = m + (v > 0), n + (w > 0)
            if m < 0 or n < 0 or below >= values.shape[0] or right >= values.shape[1]:
                out[r, c] = np.nan
                continue
            upper = values[m, n] * (1.0 - w) + values[m, right] * w
            lower = values[below, n] * (1.0 - w) + values[below, right] * w
            out[r, c] = upper * (1.0 - v) + lower * v + geoid


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _extremes(nodes, values, top, left, out):  # type: ignore[no-untyped-def]
    """Give least and greatest height around each cell between two rows of nodes."""
    for j in range(out.shape[0]):
        corners = nodes[:, j : j + 2]
        geoid_low, geoid_high = corners[:, :, 2].min(), corners[:, :, 2].max()
        first, last = int(corners[:, :, 0].min()) - 1 - top, int(corners[:, :, 0].max()) + 3 - top
        begin, end = int(corners[:, :, 1].min()) - 1 - left, int(corners[:, :, 1].max()) + 3 - left
        low, high = np.inf, -np.inf
        for m in range(max(first, 0), min(last, values.shape[0])):
            for n in range(max(begin, 0), min(end, values.shape[1])):
                if values[m, n] < low:
                    low = values[m, n]
                if values[m, n] > high:
                    high = values[m, n]
        out[j, 0] = low + geoid_low
        out[j, 1] = high + geoid_high
