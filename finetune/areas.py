"""Where the pixels of a scene lie, and how much ground each covers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Transformer

Floats = NDArray[np.float64]

WGS84_A_M, WGS84_E2 = 6378137.0, 6.69437999014e-3
"""Semi-major axis and squared eccentricity of the WGS 84 ellipsoid (NIMA TR8350.2)."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a scene lies: on a map (``epsg`` with ``transform``, pixel corners, a to f) or by ground points.

    ``ground`` holds (row, col, lon, lat): pixel centres, zero based, degrees of WGS 84. Both may be missing.
    """

    epsg: int | None = None
    transform: tuple[float, float, float, float, float, float] | None = None
    ground: tuple[tuple[float, float, float, float], ...] = ()

    @property
    def known(self) -> bool:
        """Tell whether there is any place."""
        return (self.epsg is not None and self.transform is not None) or bool(self.ground)


def pixel_areas_m2(place: Place, rows: int) -> Floats | None:
    """Give the ground area of a pixel for each row of a scene, in square metres; None without a place.

    On a map that is the pixel's area in the projection (0.1 % off in UTM), in degrees the ellipsoid's. A radar scene
    gets one mean value, by a plane fitted to its ground points in an equal-area projection (some per cent off where
    the spacing on the ground changes across the swath).
    """
    if place.epsg is not None and place.transform is not None:
        return _map_areas(CRS.from_epsg(place.epsg), place.transform, rows)
    if len(place.ground) < 4:
        return None
    row, col, lon, lat = np.array(place.ground).T
    lon = continuous(lon)
    flat = CRS.from_proj4(f"+proj=laea +lat_0={lat.mean()} +lon_0={lon.mean()} +datum=WGS84")
    x, y = Transformer.from_crs(4326, flat, always_xy=True).transform(lon, lat)
    plane = np.linalg.lstsq(np.stack([row, col, np.ones_like(row)], 1), np.stack([x, y], 1), rcond=None)[0]
    return np.full(rows, abs(float(np.linalg.det(plane[:2]))))


def _map_areas(crs: CRS, transform: Sequence[float], rows: int) -> Floats:
    a, b, _, d, e, f = transform
    size = abs(a * e - b * d)
    if not crs.is_geographic:
        return np.full(rows, size * float(crs.axis_info[0].unit_conversion_factor) ** 2)
    lat = np.radians(f + e * (np.arange(rows) + 0.5))
    bent = 1 - WGS84_E2 * np.sin(lat) ** 2
    areas: Floats = np.radians(1.0) ** 2 * size * WGS84_A_M**2 * (1 - WGS84_E2) / bent**2 * np.abs(np.cos(lat))
    return areas


def continuous(lons: Floats) -> Floats:
    """Make longitudes continuous across the antimeridian (they may pass 180), or no fit could use them."""
    return np.where(lons < 0, lons + 360, lons) if lons.size and np.ptp(lons) > 180 else lons
