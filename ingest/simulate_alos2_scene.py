"""The simulated ALOS-2 acquisition: a map grid in UTM, the pass that sees it, and its digital numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ingest.simulate_pass import Orbit, Vector, View
from ingest.truth import Place

LOOKS = 3.0
"""Equivalent number of looks: two nominal looks, smoothed a little further by resampling to the map grid."""

SPACING_M = 6.25
CALIBRATION_FACTOR_DB = -83.0
HEIGHT_M = 628_000.0
INCIDENCE_DEG = 40.6
HEADING_DEG = 349.5
# One known acquisition (ALOS2015976960-140909) and the orbits of a cycle of 14 days.
_KNOWN_TIME, _KNOWN_ORBIT = datetime(2014, 9, 9, 4, 33, 47, tzinfo=UTC), 1597
_ORBITS_PER_SECOND = 207 / (14 * 86_400)
_INCLINATION_DEG = 97.9


@dataclass(frozen=True, slots=True)
class MapImage:
    """Pixels on a UTM grid, north up; the pixel centres of row 0 and column 0 lie at ``north_m`` and ``west_m``."""

    place: Place
    rows: int
    cols: int
    west_m: float
    north_m: float

    @classmethod
    def around(cls, place: Place, rows: int, cols: int) -> Self:
        """Centre a grid on a place, on whole multiples of the spacing."""
        easting, northing = place.origin()
        west_m = round((easting - (cols - 1) / 2 * SPACING_M) / SPACING_M) * SPACING_M
        north_m = round((northing + (rows - 1) / 2 * SPACING_M) / SPACING_M) * SPACING_M
        return cls(place, rows, cols, west_m, north_m)

    def utm(self, row: Vector, col: Vector) -> tuple[Vector, Vector]:
        """Give easting and northing of pixel centres in metres."""
        return self.west_m + col * SPACING_M, self.north_m - row * SPACING_M

    def metres(self, row: Vector, col: Vector) -> tuple[Vector, Vector]:
        """Give metres east and north of the place."""
        easting, northing = self.utm(row, col)
        origin_east, origin_north = self.place.origin()
        east, north = np.broadcast_arrays(easting - origin_east, northing - origin_north)
        return east, north

    def lonlat(self, row: Vector, col: Vector) -> tuple[Vector, Vector]:
        """Give longitude and latitude in degrees."""
        return self.place.lonlat(*self.utm(row, col))

    @property
    def transform(self) -> tuple[float, float, float, float, float, float]:
        """Affine numbers of the grid, from pixel corners (rasterio order)."""
        half = SPACING_M / 2
        return (SPACING_M, 0.0, self.west_m - half, 0.0, -SPACING_M, self.north_m + half)


class Image(Protocol):
    """Where the pixels of an image lie, on a map or in slant range."""

    @property
    def place(self) -> Place:
        """The middle."""
        ...

    @property
    def rows(self) -> int:
        """Number of lines."""
        ...

    @property
    def cols(self) -> int:
        """Number of samples."""
        ...

    def metres(self, row: Vector, col: Vector) -> tuple[Vector, Vector]:
        """Give metres east and north of the place."""
        ...

    def lonlat(self, row: Vector, col: Vector) -> tuple[Vector, Vector]:
        """Give longitude and latitude in degrees."""
        ...


@dataclass(frozen=True)
class Acquisition:
    """One ascending pass of ALOS-2 in fine-beam mode: what maps and slant-range images have in common."""

    grid: Image
    start: datetime
    polarisations: Sequence[str]
    level: str = "1.5"

    heading_deg = HEADING_DEG - 360.0

    @cached_property
    def orbit(self) -> Orbit:
        """The circular orbit that sees the grid's middle."""
        heading = math.radians(HEADING_DEG)
        row, col = (self.grid.rows - 1) / 2, (self.grid.cols - 1) / 2
        ahead_row, ahead_col = row - math.cos(heading), col + math.sin(heading)
        lon, lat = self.grid.lonlat(np.array([row, ahead_row]), np.array([col, ahead_col]))
        return Orbit.over(lon, lat, HEIGHT_M, INCIDENCE_DEG)

    def view(self, row: Vector, col: Vector) -> View:
        """Tell how the satellite sees pixels."""
        return self.orbit.see(*self.grid.lonlat(row, col))

    @cached_property
    def _ends_s(self) -> tuple[float, float]:
        row, col = zip(*self.corners(), strict=True)
        times_s = self.view(np.array(row), np.array(col)).time_s
        return float(times_s.min()), float(times_s.max())

    @property
    def stop(self) -> datetime:
        """Time of the last pixel."""
        return self.start + timedelta(seconds=self._ends_s[1] - self._ends_s[0])

    def of_pass(self, time: datetime) -> float:
        """Give the moment on the orbit of a time, in seconds."""
        return (time - self.start).total_seconds() + self._ends_s[0]

    @property
    def orbit_number(self) -> int:
        """Number of the orbit since launch."""
        return max(1, _KNOWN_ORBIT + round((self.start - _KNOWN_TIME).total_seconds() * _ORBITS_PER_SECOND))

    @property
    def frame(self) -> int:
        """Number of the frame: the angle from the ascending node in twentieths of a degree, in steps of ten."""
        lat = math.radians(self.grid.place.lat)
        angle = math.asin(max(-1.0, min(1.0, math.sin(lat) / math.sin(math.radians(_INCLINATION_DEG)))))
        return round(math.degrees(angle) * 2) * 10 % 7200

    @property
    def scene_id(self) -> str:
        """Name of the scene."""
        return f"ALOS2{self.orbit_number:05d}{self.frame:04d}-{self.start:%y%m%d}"

    @property
    def product_id(self) -> str:
        """Name of the product: fine beam, single, dual or quad, right, level, geocoded UTM or neither, ascending."""
        channels = {1: "S", 2: "D", 4: "Q"}[len(self.polarisations)]
        return f"FB{channels}R{self.level}{'__' if self.level == '1.1' else 'GU'}A"

    @property
    def looks(self) -> float:
        """Equivalent number of looks of the speckle."""
        return 1.0 if self.level == "1.1" else LOOKS

    @property
    def _tilt(self) -> tuple[float, float]:
        """How far the data's edges lean against the map, in pixels over the whole height and width."""
        return math.ceil(0.03 * self.grid.rows), math.ceil(0.03 * self.grid.cols)

    def valid(self, row: NDArray[np.float64], col: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Tell which pixels hold data: a rectangle turned a little against the map, black fill around it."""
        rise, lean = self._tilt
        rows, cols = self.grid.rows, self.grid.cols
        inside = (col >= lean * (row + 1) / rows) & (col < cols - lean + lean * row / rows)
        return inside & (row >= rise * (1 - col / cols)) & (row < rows - rise * (col + 1) / cols)

    def corners(self) -> list[tuple[float, float]]:
        """Give row and column of the data's corners: left top, right top, left bottom, right bottom."""
        rise, lean = self._tilt
        last_row, last_col = self.grid.rows - 1.0, self.grid.cols - 1.0
        return [(float(rise), 0.0), (0.0, last_col - lean), (last_row, float(lean)), (last_row - rise, last_col)]


@dataclass(frozen=True)
class MapAcquisition(Acquisition):
    """One pass on a UTM map, north up."""

    grid: MapImage


def numbers(power: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Digital numbers of sigma0 (sigma0 = DN^2 * 10^(CF/10), JAXA); 0 where NaN, at least 1 elsewhere."""
    valid = ~np.isnan(power)
    squared = np.where(valid, power, 0.0) * 10.0 ** (-CALIBRATION_FACTOR_DB / 10.0)
    return np.where(valid, np.clip(np.rint(np.sqrt(squared)), 1, 65_535), 0).astype(np.uint16)
