"""The map of an ALOS-2 CEOS product: coordinate reference system and transform from its map projection record.

Layout: JAXA CEOS SAR Product Format Description, map projection data record (type 18-20). UTM was measured on a real
product. The fields of the others (UPS- from byte 592, MER- and LCC-PROJECTION from 672) are as two independent open
readers have them; how their numbers are meant is not stated there, so every reading of them is tried, and the one
that puts the corners where the record's own degrees say is taken. A record that none of them fits is refused.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS
from pyproj.exceptions import ProjError

from ingest.ceos import Fields
from ingest.mapgrid import MapPlace
from ingest.scene import SceneRejected

_TOLERANCE_DEG = 1e-3
_FARTHEST_KM = 50_000.0


def map_place(fields: Fields, shape: tuple[int, int]) -> MapPlace:
    """Place an image of (rows, cols) pixels by its map projection record, whose corners are pixel centres.

    Geocoded images lie north up, georeferenced ones are turned. Raises SceneRejected for what contradicts itself.
    """
    described = (fields.integer(76, 92, "the number of lines"), fields.integer(60, 76, "the number of pixels"))
    if described != shape or min(shape) < 2:
        raise SceneRejected(
            f"{fields.name} describes {described} lines and pixels, the images have {shape}: "
            "they do not belong together"
        )
    transform = _transform(fields, shape)
    first: tuple[float, NDArray[np.float64]] | None = None
    for crs in _systems(fields):
        try:
            place = MapPlace(crs, transform, shape, fields.name)
        except SceneRejected:
            continue
        away_deg, found = _away(fields, place, shape)
        if away_deg < _TOLERANCE_DEG:
            return place
        first = first or (away_deg, found)
    where = "are not on the Earth" if first is None else f"lie at {np.round(first[1], 5).tolist()} degrees"
    raise SceneRejected(
        f"{fields.name} contradicts itself: its {fields.text(412, 444)} corners {where}, "
        f"not at {np.round(_corners_deg(fields), 5).tolist()}"
    )


def _systems(fields: Fields) -> Iterator[CRS | int]:
    """Give the systems that the record may mean, the likeliest first."""
    projection = fields.text(412, 444)
    if projection == "UTM-PROJECTION":
        zone = fields.integer(476, 480, "the UTM zone")
        if not 1 <= zone <= 60:
            raise SceneRejected(f"{fields.name} gives UTM zone {zone}, expected 1 to 60")
        south = fields.number(496, 512, "the false northing") > 0
        yield (32700 if south else 32600) + zone
        return
    readings = {"UPS-PROJECTION": _polar, "MER-PROJECTION": _mercator, "LCC-PROJECTION": _conic}.get(projection)
    if readings is None:
        raise SceneRejected(
            f"{fields.name} is on a map of {projection!r}; known are UTM-, UPS- (polar stereographic), MER- and "
            "LCC-PROJECTION"
        )
    for parameters in readings(fields):
        try:
            yield CRS.from_dict({"datum": "WGS84", "units": "m", "no_defs": True, **parameters})
        except ProjError:
            continue


def _polar(fields: Fields) -> Iterator[dict[str, float | str]]:
    """Polar stereographic: scale at the pole, or true scale at the given latitude; from the pole or by UPS' offsets."""
    lon, lat = fields.number(624, 640, "the centre's longitude"), fields.number(640, 656, "the centre's latitude")
    scale = _optional(fields, 656, 672)
    pole = math.copysign(90.0, lat)
    latitudes = [{"lat_0": pole, "lat_ts": lat}] if abs(lat) < 90.0 else []
    scales = [{"lat_0": pole, "k_0": k} for k in dict.fromkeys((scale or 1.0, 0.994, 1.0))]
    for offset_m in (0.0, 2_000_000.0):
        for reading in [*latitudes, *scales]:
            yield {"proj": "stere", "lon_0": lon, "x_0": offset_m, "y_0": offset_m, **reading}


def _mercator(fields: Fields) -> Iterator[dict[str, float | str]]:
    """Mercator: true scale at the centre's latitude, at a standard parallel, or at the equator."""
    lon, lat, x_m, y_m = _national(fields)
    parallels = (lat, _optional(fields, 768, 784), 0.0)
    for parallel in dict.fromkeys(p for p in parallels if p is not None and abs(p) < 89.0):
        yield {"proj": "merc", "lon_0": lon, "lat_ts": parallel, "x_0": x_m, "y_0": y_m}


def _conic(fields: Fields) -> Iterator[dict[str, float | str]]:
    """Lambert conformal conic of two standard parallels."""
    lon, lat, x_m, y_m = _national(fields)
    one, two = (fields.number(at, at + 16, "a standard parallel") for at in (768, 784))
    yield {"proj": "lcc", "lon_0": lon, "lat_0": lat, "lat_1": one, "lat_2": two, "x_0": x_m, "y_0": y_m}


def _national(fields: Fields) -> tuple[float, float, float, float]:
    """Give the centre's longitude and latitude and the false easting and northing of a national system."""
    lon, lat = fields.number(736, 752, "the centre's longitude"), fields.number(752, 768, "the centre's latitude")
    return lon, lat, _optional(fields, 704, 720) or 0.0, _optional(fields, 720, 736) or 0.0


def _optional(fields: Fields, start: int, stop: int) -> float | None:
    """Give a number, or None where the field is not used."""
    return None if fields.text(start, stop) in ("", "NAN") else fields.number(start, stop, "a map parameter")


def _transform(fields: Fields, shape: tuple[int, int]) -> tuple[float, ...]:
    """Give the affine numbers from the corners (upper left, upper right, lower right, lower left)."""
    values_km = [fields.number(944 + 16 * i, 960 + 16 * i, "a corner in km") for i in range(8)]
    if np.abs(values_km).max() > _FARTHEST_KM:
        raise SceneRejected(f"{fields.name} gives corners of {values_km} km, which are not on the Earth: it is damaged")
    # The text has tenths of millimetres; rounding takes away what the division by 1000 adds.
    corners_m = np.round(np.reshape(values_km, (4, 2))[:, ::-1] * 1000.0, 4)
    upper_left, upper_right, lower_right, lower_left = corners_m
    across = np.round((upper_right - upper_left) / (shape[1] - 1), 9)
    down = np.round((lower_left - upper_left) / (shape[0] - 1), 9)
    spacing_m = fields.number(108, 124, "the pixel spacing")
    error_m = np.abs(upper_right + lower_left - upper_left - lower_right).max()
    if not (math.isclose(np.hypot(*across), spacing_m, rel_tol=0.01) and error_m < spacing_m):
        raise SceneRejected(
            f"{fields.name} contradicts itself: corners {corners_m.tolist()} m for {shape} pixels of {spacing_m} m"
        )
    origin = upper_left - (across + down) / 2
    columns = np.stack([across, down, origin], axis=1)
    return tuple(float(value) for value in columns.ravel())


def _corners_deg(fields: Fields) -> NDArray[np.float64]:
    """Give (4, 2) longitude and latitude of the corners as the record has them."""
    values = [fields.number(1072 + 16 * i, 1088 + 16 * i, "a corner in degrees") for i in range(8)]
    return np.reshape(values, (4, 2))[:, ::-1]


def _away(fields: Fields, place: MapPlace, shape: tuple[int, int]) -> tuple[float, NDArray[np.float64]]:
    """Give by how many degrees of arc the corners miss the record's own, and where they lie."""
    rows, cols = shape[0] - 1.0, shape[1] - 1.0
    found = place.locate(np.array([0.0, 0.0, rows, rows]), np.array([0.0, cols, cols, 0.0]))
    stated = _corners_deg(fields)
    east = (found[:, 0] - stated[:, 0] + 180.0) % 360.0 - 180.0
    error = np.hypot(east * np.cos(np.radians(stated[:, 1])), found[:, 1] - stated[:, 1])
    return float(np.where(np.isfinite(error), error, np.inf).max()), found
