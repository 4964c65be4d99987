"""The ground of a tile as a polygon in longitude and latitude, right across the antimeridian and over the poles."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_POLAR_DEG = 80.0
_POINTS_PER_EDGE = 16


def ground_polygon(footprint: Sequence[float] | None) -> Any:
    """Make a polygon of corners lon, lat, lon, lat, ... in degrees; None where there are none.

    An outline that crosses the antimeridian is cut there into two (RFC 7946, 3.1.9). One that goes around a pole gets
    the pole as an edge. Beyond 80 degrees of latitude, where straight edges in degrees stray from the ground's, points
    of the great circles between corners are put in.
    """
    if footprint is None:
        return None
    corners = np.array(footprint, dtype=np.float64).reshape(-1, 2)
    if np.abs(corners[:, 1]).max() > _POLAR_DEG:
        corners = _along_great_circles(corners)
    polygon = shapely.orient_polygons(shapely.polygons(_connected(corners)))
    west, _, east, _ = polygon.bounds
    return polygon if west >= -180 and east <= 180 else _split(polygon)


def _connected(corners: Floats) -> Floats:
    """Give each longitude as the one nearest to that of the corner before; lead an outline around a pole over it."""
    lon = np.unwrap(np.append(corners[:, 0], corners[0, 0]), period=360.0)
    lon -= 360.0 * np.round((lon.min() + lon.max()) / 720.0)  # the middle lies between -180 and 180
    lat = corners[:, 1]
    if round((lon[-1] - lon[0]) / 360.0) == 0:
        return np.stack([lon[:-1], lat], axis=-1)
    pole = np.copysign(90.0, lat.mean())
    ends = [[lon[-1], lat[0]], [lon[-1], pole], [lon[0], pole]]
    return np.concatenate([np.stack([lon[:-1], lat], axis=-1), ends])


def _along_great_circles(corners: Floats) -> Floats:
    """Put points on the edges of a ring, (n, 2) to (n * 16, 2)."""
    east, north = np.radians(corners).T
    here = np.stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)], axis=-1)
    share = (np.arange(_POINTS_PER_EDGE) / _POINTS_PER_EDGE)[None, :, None]
    x, y, z = (here[:, None] * (1 - share) + np.roll(here, -1, axis=0)[:, None] * share).reshape(-1, 3).T
    return np.asarray(np.degrees(np.stack([np.arctan2(y, x), np.arctan2(z, np.hypot(x, y))], axis=-1)))


def _split(polygon: Any) -> Any:
    """Cut a polygon that crosses the antimeridian into its sides."""
    parts = []
    for turn in (-360, 0, 360):
        moved = shapely.transform(polygon, lambda xy, turn=turn: xy + np.array([turn, 0.0]))
        part = shapely.clip_by_rect(moved, -180, -90, 180, 90)
        if part.geom_type == "Polygon" and not part.is_empty:
            parts.append(shapely.orient_polygons(part))
    if len(parts) > 1 and np.abs(shapely.bounds(parts)[:, [1, 3]]).max() == 90:
        return shapely.orient_polygons(shapely.union_all(parts))  # the sides of the edge that leads to the pole meet
    return parts[0] if len(parts) == 1 else shapely.multipolygons(parts)
