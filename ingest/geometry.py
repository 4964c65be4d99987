"""Where pixels lie on the ground: the geolocation grid of a product in radar geometry."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ingest.scene import GroundPoint, SceneRejected

Floats = NDArray[np.float64]

_POLAR_DEG = 75.0


@dataclass(frozen=True, slots=True)
class GroundGrid:
    """A grid of ground points: ``lines`` (n,) and ``pixels`` (m,) ascending; ``lon``, ``lat`` (n, m) in degrees.

    Longitudes are unwrapped: they run on past 180 degrees where the scene crosses the antimeridian.
    ``incidence`` is the angle of the look from the ellipsoid's normal in degrees, ``height`` the terrain's height
    over the ellipsoid in metres; both (n, m), or None where the product does not tell.
    """

    lines: Floats
    pixels: Floats
    lon: Floats
    lat: Floats
    incidence: Floats | None = None
    height: Floats | None = None

    @classmethod
    def of_points(cls, points: Floats, name: str) -> Self:
        """Make a grid of (k, 4 to 6) points, in any order, of line, pixel, longitude, latitude and, if known,
        incidence angle (degrees) and height (metres).

        Raises SceneRejected where they do not fill a grid of at least 2 x 2.
        """
        lines, row = np.unique(points[:, 0], return_inverse=True)
        pixels, col = np.unique(points[:, 1], return_inverse=True)
        columns = np.full((points.shape[1] - 2, len(lines), len(pixels)), np.nan)
        columns[:, row, col] = points[:, 2:].T
        lon, lat = columns[:2]
        if min(lon.shape) < 2 or len(points) != lon.size or np.isnan(columns).any():
            raise SceneRejected(f"{name}: {len(points)} geolocation points do not fill a grid {lon.shape}")
        if np.abs(lat).max() > 90 or np.abs(lon).max() > 360:
            raise SceneRejected(f"{name}: the geolocation grid has coordinates that are not on the Earth")
        lon = np.unwrap(np.unwrap(lon, period=360.0, axis=1), period=360.0, axis=0)
        return cls(lines, pixels, lon, lat, *columns[2:])

    def locate(self, rows: Floats, cols: Floats) -> Floats:
        """Give (n, 2) longitude and latitude in degrees of fractional pixel centres (n,).

        Bilinear inside the grid; outside, the outer cell is continued (a scene's last pixel edge may lie there).
        Where the grid reaches beyond 75 degrees of latitude, meridians bend too much for that: the Earth-fixed
        direction of the vertical is interpolated instead, which knows no pole.
        """
        i, t = _cell(self.lines, np.asarray(rows, np.float64))
        j, u = _cell(self.pixels, np.asarray(cols, np.float64))
        if np.abs(self.lat).max() <= _POLAR_DEG:
            return np.stack([_bilinear(axis, i, j, t, u) for axis in (self.lon, self.lat)], axis=-1)
        vertical = [_bilinear(axis, i, j, t, u) for axis in np.moveaxis(verticals(self.lon, self.lat), -1, 0)]
        lon, lat = degrees_of(np.stack(vertical, axis=-1)).T
        return np.stack([lon + 360.0 * np.round((self._middle_lon - lon) / 360.0), lat], axis=-1)

    def incidence_deg(self, rows: Floats, cols: Floats) -> Floats | None:
        """Give the (n,) incidence angle on the ellipsoid in degrees at fractional pixel centres, or None."""
        return None if self.incidence is None else self._at(self.incidence, rows, cols)

    def height_m(self, rows: Floats, cols: Floats) -> Floats | None:
        """Give the (n,) height over the ellipsoid in metres at fractional pixel centres, or None."""
        return None if self.height is None else self._at(self.height, rows, cols)

    def points(self) -> tuple[GroundPoint, ...]:
        """Give every grid point."""
        return tuple(
            GroundPoint(float(line), float(pixel), float(self.lon[i, j]), float(self.lat[i, j]))
            for i, line in enumerate(self.lines)
            for j, pixel in enumerate(self.pixels)
        )

    def footprint(self) -> tuple[tuple[float, float], ...]:
        """Give the grid's outline as a closed ring of longitude and latitude, counter-clockwise.

        Longitudes run on past 180 degrees; an outline around a pole is closed along the pole.
        """
        outline = [np.concatenate([a[0], a[1:-1, -1], a[-1, ::-1], a[-2:0:-1, 0]]) for a in (self.lon, self.lat)]
        return ring(np.stack(outline, axis=-1))

    @property
    def _middle_lon(self) -> float:
        return float(self.lon[len(self.lines) // 2, len(self.pixels) // 2])

    def _at(self, values: Floats, rows: Floats, cols: Floats) -> Floats:
        i, t = _cell(self.lines, np.asarray(rows, np.float64))
        j, u = _cell(self.pixels, np.asarray(cols, np.float64))
        return _bilinear(values, i, j, t, u)


def ring(points: Floats) -> tuple[tuple[float, float], ...]:
    """Close (n, 2) points of an outline to a counter-clockwise ring of longitude and latitude.

    Each longitude is the one nearest to that of the point before, so that a ring over the antimeridian hangs
    together. A ring around a pole gets the pole as an edge.
    """
    lon = np.unwrap(np.append(points[:, 0], points[0, 0]), period=360.0)
    points = np.stack([lon[:-1], points[:, 1]], axis=-1)
    if round((lon[-1] - lon[0]) / 360.0):
        points = _over_pole(points, lon[-1])
    x, y = (points - points[0]).T
    twice_area = np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)
    ordered = points if twice_area > 0 else points[::-1]
    closed = np.concatenate([ordered, ordered[:1]])
    return tuple((float(lon), float(lat)) for lon, lat in closed)


def _over_pole(points: Floats, last_lon: float) -> Floats:
    """Lead an outline that goes around a pole along its first meridian to the pole, and back a turn earlier."""
    pole = math.copysign(90.0, points[:, 1].mean())
    lon, lat = points[0]
    return np.concatenate([points, [(last_lon, lat), (last_lon, pole), (lon, pole)]])


def verticals(lon: Floats, lat: Floats) -> Floats:
    """Give unit vectors (..., 3) in Earth-fixed axes of the ellipsoid's normal at places in degrees."""
    east, north = np.radians(lon), np.radians(lat)
    return np.stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)], axis=-1)


def degrees_of(vertical: Floats) -> Floats:
    """Give longitude and latitude (..., 2) in degrees of the places where the normal has these directions (..., 3)."""
    x, y, z = np.moveaxis(vertical, -1, 0)
    return np.asarray(np.degrees(np.stack([np.arctan2(y, x), np.arctan2(z, np.hypot(x, y))], axis=-1)))


def _cell(nodes: Floats, at: Floats) -> tuple[NDArray[np.intp], Floats]:
    """Give the cell each position lies in and the share of it that is passed; outside 0..1 beyond the ends."""
    cell = np.clip(np.searchsorted(nodes, at, side="right") - 1, 0, len(nodes) - 2)
    return cell, (at - nodes[cell]) / (nodes[cell + 1] - nodes[cell])


def _bilinear(values: Floats, i: NDArray[np.intp], j: NDArray[np.intp], t: Floats, u: Floats) -> Floats:
    upper = values[i, j] * (1 - u) + values[i, j + 1] * u
    lower = values[i + 1, j] * (1 - u) + values[i + 1, j + 1] * u
    return upper * (1 - t) + lower * t
