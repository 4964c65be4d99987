"""Where pixels lie on the ground: the geolocation grid of a product in radar geometry."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ingest.scene import GroundPoint, SceneRejected

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GroundGrid:
    """A grid of ground points: ``lines`` (n,) and ``pixels`` (m,) ascending; ``lon``, ``lat`` (n, m) in degrees.

    Longitudes are unwrapped: they run on past 180 degrees where the scene crosses the antimeridian.
    """

    lines: Floats
    pixels: Floats
    lon: Floats
    lat: Floats

    @classmethod
    def of_points(cls, points: Floats, name: str) -> Self:
        """Make a grid of (k, 4) points of line, pixel, longitude, latitude, in any order.

        Raises SceneRejected where they do not fill a grid of at least 2 x 2.
        """
        lines, row = np.unique(points[:, 0], return_inverse=True)
        pixels, col = np.unique(points[:, 1], return_inverse=True)
        lon, lat = np.full((2, len(lines), len(pixels)), np.nan)
        lon[row, col], lat[row, col] = points[:, 2], points[:, 3]
        if min(lon.shape) < 2 or len(points) != lon.size or np.isnan(lon).any():
            raise SceneRejected(f"{name}: {len(points)} geolocation points do not fill a grid {lon.shape}")
        if np.abs(lat).max() > 90 or np.abs(lon).max() > 360:
            raise SceneRejected(f"{name}: the geolocation grid has coordinates that are not on the Earth")
        lon = np.unwrap(np.unwrap(lon, period=360.0, axis=1), period=360.0, axis=0)
        return cls(lines, pixels, lon, lat)

    def locate(self, rows: Floats, cols: Floats) -> Floats:
        """Give (n, 2) longitude and latitude in degrees of fractional pixel centres (n,).

        Bilinear inside the grid; outside, the outer cell is continued (a scene's last pixel edge may lie there).
        """
        i, t = _cell(self.lines, np.asarray(rows, np.float64))
        j, u = _cell(self.pixels, np.asarray(cols, np.float64))
        return np.stack([_bilinear(axis, i, j, t, u) for axis in (self.lon, self.lat)], axis=-1)

    def points(self) -> tuple[GroundPoint, ...]:
        """Give every grid point."""
        return tuple(
            GroundPoint(float(line), float(pixel), float(self.lon[i, j]), float(self.lat[i, j]))
            for i, line in enumerate(self.lines)
            for j, pixel in enumerate(self.pixels)
        )

    def footprint(self) -> tuple[tuple[float, float], ...]:
        """Give the grid's outline as a closed ring of longitude and latitude, counter-clockwise."""
        outline = [np.concatenate([a[0], a[1:-1, -1], a[-1, ::-1], a[-2:0:-1, 0]]) for a in (self.lon, self.lat)]
        return ring(np.stack(outline, axis=-1))


def ring(points: Floats) -> tuple[tuple[float, float], ...]:
    """Close (n, 2) points of an outline to a counter-clockwise ring of longitude and latitude."""
    x, y = (points - points[0]).T
    twice_area = np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)
    ordered = points if twice_area > 0 else points[::-1]
    closed = np.concatenate([ordered, ordered[:1]])
    return tuple((float(lon), float(lat)) for lon, lat in closed)


def _cell(nodes: Floats, at: Floats) -> tuple[NDArray[np.intp], Floats]:
    """Give the cell each position lies in and the share of it that is passed; outside 0..1 beyond the ends."""
    cell = np.clip(np.searchsorted(nodes, at, side="right") - 1, 0, len(nodes) - 2)
    return cell, (at - nodes[cell]) / (nodes[cell + 1] - nodes[cell])


def _bilinear(values: Floats, i: NDArray[np.intp], j: NDArray[np.intp], t: Floats, u: Floats) -> Floats:
    upper = values[i, j] * (1 - u) + values[i, j + 1] * u
    lower = values[i + 1, j] * (1 - u) + values[i + 1, j + 1] * u
    return upper * (1 - t) + lower * t
