"""Where the pixels of a level 1.1 image lie: each line has its own time, each pixel its own slant range.

Layout: JAXA CEOS SAR Product Format Description, signal data record (type 50-10) with a prefix of 544 bytes.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from ingest.alos2_orbit import Orbit
from ingest.alos2_scene import nodes
from ingest.ceos import ImageFile
from ingest.geometry import GroundGrid
from ingest.scene import SceneRejected

_NODES = 33
_MAX_AWAY_DEG = 0.1
_PREFIX = np.dtype(
    {
        "names": ["year", "day", "milliseconds", "microseconds", "slant_range_m", "latitude", "longitude"],
        "formats": [">u4", ">u4", ">u4", ">u8", ">u4", (">i4", 3), (">i4", 3)],
        "offsets": [36, 40, 44, 84, 116, 192, 204],
        "itemsize": 544,
    }
)


@dataclass(frozen=True, slots=True)
class SlantGeometry:
    """The grid of an image's pixels on the ellipsoid and the moment of its first line."""

    grid: GroundGrid
    start: datetime


def slant_geometry(image: ImageFile, orbit: Orbit, range_spacing_m: float, right: bool) -> SlantGeometry:
    """Work out longitude and latitude of pixels by range and zero Doppler from the line prefixes and the orbit.

    Heights are those of the ellipsoid. Raises SceneRejected where the prefixes contradict each other or the orbit, or
    give coordinates of their own that are elsewhere.
    """
    shape = (image.layout.lines, image.layout.pixels)
    rows, cols = nodes(shape, _NODES)
    rows = np.unique(np.minimum(np.rint(rows), shape[0] - 1))
    prefixes = [image.prefix(int(row), _PREFIX) for row in rows]
    moments = [_moment(prefix, str(image.path)) for prefix in prefixes]
    times_s = np.array([(moment - orbit.epoch).total_seconds() for moment in moments])
    first_m = np.array([float(prefix["slant_range_m"]) for prefix in prefixes])
    _check(image, orbit, times_s, first_m)
    ranges_m = first_m[:, None] + cols[None, :] * range_spacing_m
    when_s = np.broadcast_to(times_s[:, None], ranges_m.shape)
    lonlat = orbit.ground(when_s.ravel(), ranges_m.ravel(), right)
    if not np.isfinite(lonlat).all():
        raise SceneRejected(
            f"{image.path} has slant ranges of {first_m.min():.0f} to {ranges_m.max():.0f} m, which do not reach the "
            "Earth from its orbit: the file is damaged"
        )
    places = np.stack([np.repeat(rows, len(cols)), np.tile(cols, len(rows)), *lonlat.T], axis=-1)
    grid = GroundGrid.of_points(places, str(image.path))
    _check_coordinates(image, grid, int(rows[0]), prefixes[0])
    return SlantGeometry(grid, moments[0])


def _moment(prefix: np.void, name: str) -> datetime:
    """Give the time of a line; the microseconds of the day are used where they agree with the milliseconds."""
    milliseconds, microseconds = int(prefix["milliseconds"]), int(prefix["microseconds"])
    if not (1 <= int(prefix["day"]) <= 366 and milliseconds <= 2 * 86_400_000 and 2014 <= int(prefix["year"]) <= 2100):
        raise SceneRejected(
            f"{name} has a line of year {prefix['year']}, day {prefix['day']}, {milliseconds} ms: it is damaged"
        )
    if abs(microseconds - 1000 * milliseconds) > 1000:
        microseconds = 1000 * milliseconds
    midnight = datetime(int(prefix["year"]), 1, 1, tzinfo=UTC) + timedelta(days=int(prefix["day"]) - 1)
    return midnight + timedelta(microseconds=microseconds)


def _check(image: ImageFile, orbit: Orbit, times_s: NDArray[np.float64], first_m: NDArray[np.float64]) -> None:
    if len(times_s) < 2 or not (np.diff(times_s) > 0).all():
        raise SceneRejected(f"{image.path} has lines that do not follow each other in time: it is damaged")
    if not (np.abs(times_s - orbit.middle_s) <= 1.5 * orbit.scale_s).all():
        raise SceneRejected(
            f"{image.path} has lines at times that its leader has no orbit for: they are of two products"
        )
    if not (first_m.min() > 3e5 and first_m.max() < 3e6):
        raise SceneRejected(f"{image.path} begins at a slant range of {first_m.min():.0f} m, expected 700 to 1300 km")


def _check_coordinates(image: ImageFile, grid: GroundGrid, row: int, prefix: np.void) -> None:
    """Refuse an image whose first line says that it lies elsewhere than its times and ranges do."""
    lat, lon = prefix["latitude"] / 1e6, prefix["longitude"] / 1e6
    if not (lat.any() and lon.any()):
        return
    cols = np.array([0.0, image.layout.pixels - 1.0])
    found = grid.locate(np.full(2, float(row)), cols)
    east = (found[:, 0] - lon[[0, 2]] + 180.0) % 360.0 - 180.0
    away_deg = np.hypot(east * np.cos(np.radians(found[:, 1])), found[:, 1] - lat[[0, 2]]).max()
    if not away_deg < _MAX_AWAY_DEG:
        raise SceneRejected(
            f"{image.path} contradicts itself: its first line lies from {lon[0]:.4f}, {lat[0]:.4f} to {lon[2]:.4f}, "
            f"{lat[2]:.4f} degrees, its times and slant ranges lead to {np.round(found, 4).tolist()}"
        )
