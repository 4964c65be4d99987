"""How much of a tile's ground is land: exact shares by area, from polygons or from the product's own mask."""

import functools
import json
import math
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from infra.errors import UsageError
from infra.record import sha256
from ingest.recipe import LandFile
from ingest.scene import Window

_MOST_POINTS = 256
# WGS 84: half axis and flattening are those of NIMA TR8350.2, table 3.1; here only the eccentricity matters.
_E = math.sqrt((2 - 1 / 298.257223563) / 298.257223563)
_NODES, _WEIGHTS = ((1 + np.polynomial.legendre.leggauss(5)[0]) / 2, np.polynomial.legendre.leggauss(5)[1] / 2)


class GroundShares(NamedTuple):
    """Shares of a tile's ground from 0 to 1; what is neither land nor water is not known."""

    land: float
    water: float


@runtime_checkable
class KnowsLand(Protocol):
    """A scene whose product tells land from water itself."""

    def ground_shares(self, window: Window) -> GroundShares | None:
        """Give the shares of land and water among a window's pixels, or None where the product does not say."""
        ...


def own_shares(scene: object, window: Window) -> GroundShares | None:
    """Give the shares by the product's own mask, if it has one."""
    return scene.ground_shares(window) if isinstance(scene, KnowsLand) else None


class Land:
    """Land polygons, ready to be asked about many small footprints."""

    def __init__(self, polygons: NDArray[np.object_]) -> None:
        pieces = [piece for polygon in shapely.get_parts(shapely.make_valid(polygons)) for piece in _split(polygon)]
        self._pieces = np.array(pieces, dtype=object)
        self._tree = shapely.STRtree(self._pieces)

    @classmethod
    def read(cls, file: LandFile) -> Self:
        """Read a GeoJSON or GeoParquet file. Raises UsageError where it is not one of polygons in WGS 84."""
        if file.path is None:
            raise UsageError(f"the recipe names land polygons only by their SHA-256 {file.sha256}: give their path too")
        try:
            data = Path(file.path).read_bytes()
        except OSError as error:
            raise UsageError(f"land polygons {file.path} cannot be read: {error}; workers need the file too") from error
        if sha256(data) != file.sha256:
            raise UsageError(f"land polygons {file.path} have changed since the recipe was read: run again")
        polygons = _read_parquet(data, file.path) if data[:4] == b"PAR1" else _read_geojson(data, file.path)
        return cls(_checked(polygons, file.path))

    def shares(self, corners: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give the land share of footprints, (n, 4, 2) longitude and latitude of corners in the order of a ring.

        Lines between points are straight in longitude and latitude (RFC 7946, 3.1.1); areas are those on the
        ellipsoid. Longitudes may run on past 180 degrees or jump there.
        """
        tiles = np.asarray(shapely.polygons(_unwrapped(corners)), dtype=object)
        pieces: list[list[Any]] = [[] for _ in tiles]
        for turn in (-360.0, 0.0, 360.0):
            east = np.array([turn, 0.0])
            moved = shapely.transform(tiles, lambda xy, east=east: xy + east) if turn else tiles
            tile, piece = self._tree.query(moved, predicate="intersects")
            found = shapely.intersection(moved[tile], self._pieces[piece])
            found = shapely.transform(found, lambda xy, east=east: xy - east) if turn else found
            for i, cut in zip(tile, found, strict=True):
                pieces[i].append(cut)
        land = np.array([found[0] if len(found) == 1 else shapely.union_all(found) for found in pieces], dtype=object)
        return np.clip(_areas(land) / _areas(tiles), 0.0, 1.0)


@functools.lru_cache(maxsize=2)
def open_land(file: LandFile) -> Land:
    """Read land polygons once in each worker."""
    return Land.read(file)


def _areas(geometries: NDArray[np.object_]) -> NDArray[np.float64]:
    """Areas of polygons whose edges are straight in longitude and latitude, on the ellipsoid in units of its own.

    Green's theorem on the cylindrical equal-area projection: the sum over edges of the mean ordinate times the step
    in longitude, the mean by Gauss-Legendre quadrature. Orientation makes holes count against their shells.
    """
    parts, number = shapely.get_parts(geometries, return_index=True)
    parts, part = shapely.get_parts(parts, return_index=True)  # a collection may hold a multi-polygon
    rings, ring = shapely.get_rings(shapely.orient_polygons(parts), return_index=True)
    points, point = shapely.get_coordinates(rings, return_index=True)
    edge = np.flatnonzero(point[1:] == point[:-1])
    start, end = points[edge], points[edge + 1]
    lat = start[:, 1:] + (end[:, 1:] - start[:, 1:]) * _NODES
    pieces = (start[:, 0] - end[:, 0]) * (_ordinate(lat) @ _WEIGHTS)
    return np.bincount(number[part[ring[point[edge]]]], pieces, len(geometries)).astype(np.float64)


def _ordinate(lat: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give q of the cylindrical equal-area projection (Snyder, USGS PP 1395, equation 3-12), latitude in degrees."""
    s = np.sin(np.radians(lat))
    q: NDArray[np.float64] = (1 - _E**2) * (s / (1 - (_E * s) ** 2) + np.arctanh(_E * s) / _E)
    return q


def _unwrapped(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    lon = np.unwrap(corners[..., 0], period=360.0, axis=1)
    lon -= 360.0 * np.round(lon[:, :1] / 360.0)
    return np.stack([lon, corners[..., 1]], axis=-1)


def _split(polygon: Any) -> Iterator[Any]:
    """Cut a polygon in halves until every piece has few points: asking a continent about a tile takes seconds."""
    if shapely.get_type_id(polygon) != shapely.GeometryType.POLYGON:
        return  # a line or point that a repaired polygon left behind
    if shapely.get_num_coordinates(polygon) <= _MOST_POINTS:
        yield polygon
        return
    west, south, east, north = polygon.bounds
    if east - west > north - south:
        middle = (west + east) / 2
        halves = ((west, south, middle, north), (middle, south, east, north))
    else:
        middle = (south + north) / 2
        halves = ((west, south, east, middle), (west, middle, east, north))
    for half in halves:
        for part in shapely.get_parts(shapely.intersection(polygon, shapely.box(*half))):
            yield from _split(part)


def _read_geojson(data: bytes, name: str) -> list[Any]:
    try:
        value = json.loads(data)
        crs = (value.get("crs") or {}).get("properties", {}).get("name", "CRS84")
        found: list[Any] = shapely.get_parts(shapely.from_geojson(data)).tolist()
    except (ValueError, AttributeError, TypeError, RecursionError, shapely.errors.ShapelyError) as error:
        raise UsageError(f"land polygons {name}: expected GeoJSON or GeoParquet: {error}") from error
    if not str(crs).endswith(("CRS84", "EPSG::4326", "EPSG:4326")):
        raise UsageError(f"land polygons {name} are in {crs}: expected longitude and latitude of WGS 84 (RFC 7946)")
    return found


def _read_parquet(data: bytes, name: str) -> list[Any]:
    try:
        file = pq.ParquetFile(BytesIO(data))
        geo = json.loads((file.metadata.metadata or {})[b"geo"])
        column = geo["columns"][geo["primary_column"]]
        crs = column.get("crs", {"id": {"authority": "OGC", "code": "CRS84"}})
        known = crs is not None and f"{crs['id']['authority']}:{crs['id']['code']}" in ("OGC:CRS84", "EPSG:4326")
        found: list[Any] = shapely.from_wkb(file.read([geo["primary_column"]]).column(0).to_pylist()).tolist()
    except (ValueError, KeyError, TypeError, pa.ArrowException, shapely.errors.ShapelyError) as error:
        raise UsageError(f"land polygons {name}: not GeoParquet with WKB geometry: {error}") from error
    if not known or column.get("edges", "planar") != "planar":
        raise UsageError(f"land polygons {name}: expected planar longitude and latitude of WGS 84, found {crs}")
    return found


def _checked(geometries: list[Any], name: str) -> NDArray[np.object_]:
    polygons = np.array(shapely.get_parts([g for g in geometries if g is not None]), dtype=object)
    if not len(polygons) or (shapely.get_type_id(polygons) != shapely.GeometryType.POLYGON).any():
        raise UsageError(f"land polygons {name}: expected polygons and nothing else, found {_kinds(polygons)}")
    xy = shapely.get_coordinates(polygons)
    if not np.isfinite(xy).all() or np.abs(xy[:, 1]).max() > 90 or np.abs(xy[:, 0]).max() > 360:
        raise UsageError(f"land polygons {name} have coordinates that are not degrees of longitude and latitude")
    return polygons


def _kinds(geometries: NDArray[np.object_]) -> str:
    return ", ".join(sorted({g.geom_type for g in geometries})) or "no geometry"
