"""A satellite passing over a place: the radar image's grid on the ground, and a circular orbit that sees it."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pyproj import Transformer

from ingest.truth import Place

SPEED_OF_LIGHT_M_S = 299_792_458.0
_EARTH_GM_M3_S2 = 3.986005e14
_EARTH_RADIUS_M = 6_378_137.0

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ImageGrid:
    """Pixels on the ground around a place: lines follow each other along the heading, samples to its right.

    ``heading_deg`` is clockwise from grid north of the place's UTM zone. Positions are pixel centres,
    zero based; the middle of the image is the place.
    """

    place: Place
    rows: int
    cols: int
    spacing_m: float
    heading_deg: float

    def metres(self, row: Vector, col: Vector) -> tuple[Vector, Vector]:
        """Give metres east and north of the place."""
        heading = math.radians(self.heading_deg)
        ahead = (row - (self.rows - 1) / 2) * self.spacing_m
        right = (col - (self.cols - 1) / 2) * self.spacing_m
        east = ahead * math.sin(heading) + right * math.cos(heading)
        north = ahead * math.cos(heading) - right * math.sin(heading)
        return east, north

    def lonlat(self, row: Vector, col: Vector) -> tuple[Vector, Vector]:
        """Give longitude and latitude in degrees."""
        easting, northing = self.place.origin()
        east, north = self.metres(row, col)
        return self.place.lonlat(easting + east, northing + north)


def earth_fixed(lon: Vector, lat: Vector) -> Vector:
    """Give Earth-fixed coordinates in metres, (n, 3), of points on the ellipsoid in degrees."""
    to_ecef = Transformer.from_crs(4979, 4978, always_xy=True)
    return np.stack(to_ecef.transform(lon, lat, np.zeros_like(lon)), axis=-1)


@dataclass(frozen=True, slots=True)
class View:
    """How the satellite sees ground points: seconds since the middle of the pass, metres, degrees; all (n,)."""

    time_s: Vector
    slant_range_m: Vector
    incidence_deg: Vector
    elevation_deg: Vector

    @property
    def slant_range_time_s(self) -> Vector:
        """Two-way travel time of the pulse in seconds."""
        return 2.0 * self.slant_range_m / SPEED_OF_LIGHT_M_S


@dataclass(frozen=True, slots=True)
class Orbit:
    """A circular orbit in a plane that stands still in the Earth-fixed frame.

    Leaving out the Earth's rotation keeps zero Doppler an equation with a closed solution; annotated times,
    ranges, state vectors and coordinates agree with each other to the rounding of their text.
    """

    radius_m: float
    rate_rad_s: float
    up: Vector
    ahead: Vector

    @classmethod
    def over(cls, lon: Vector, lat: Vector, height_m: float, incidence_deg: float) -> Self:
        """Find the orbit of a right-looking radar from the point it sees at time 0 and one further ahead (degrees)."""
        here, next_line = earth_fixed(lon, lat)
        distance_m = float(np.linalg.norm(here))
        vertical = here / distance_m
        ahead = next_line - here - np.dot(next_line - here, vertical) * vertical
        ahead = ahead / np.linalg.norm(ahead)
        right = np.cross(ahead, vertical)
        radius_m = _EARTH_RADIUS_M + height_m
        incidence = math.radians(incidence_deg)
        turn = incidence - math.asin(distance_m / radius_m * math.sin(incidence))
        up = math.cos(turn) * vertical - math.sin(turn) * right
        return cls(radius_m, math.sqrt(_EARTH_GM_M3_S2 / radius_m**3), up, ahead)

    def position(self, time_s: Vector) -> Vector:
        """Give Earth-fixed positions in metres, (n, 3)."""
        angle = np.asarray(time_s)[:, None] * self.rate_rad_s
        return self.radius_m * (np.cos(angle) * self.up + np.sin(angle) * self.ahead)

    def velocity(self, time_s: Vector) -> Vector:
        """Give Earth-fixed velocities in metres per second, (n, 3)."""
        angle = np.asarray(time_s)[:, None] * self.rate_rad_s
        return self.radius_m * self.rate_rad_s * (np.cos(angle) * self.ahead - np.sin(angle) * self.up)

    def see(self, lon: Vector, lat: Vector) -> View:
        """Solve zero Doppler for points in degrees: the look is at right angles to the velocity."""
        ground = earth_fixed(lon, lat)
        time_s = np.arctan2(ground @ self.ahead, ground @ self.up) / self.rate_rad_s
        satellite = self.position(time_s)
        look = satellite - ground
        slant_range_m = np.linalg.norm(look, axis=1)
        east, north = np.radians(lon), np.radians(lat)
        vertical = np.stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)], axis=-1)
        incidence = np.arccos((look * vertical).sum(axis=1) / slant_range_m)
        elevation = np.arccos((look * satellite).sum(axis=1) / slant_range_m / self.radius_m)
        return View(time_s, slant_range_m, np.degrees(incidence), np.degrees(elevation))
