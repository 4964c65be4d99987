"""The grid of a composite: UTM pixels snapped to one lattice, and where a scene lies in it."""

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from pyproj import CRS, Transformer
from pyproj.aoi import AreaOfInterest
from pyproj.database import query_utm_crs_info

from infra.errors import UsageError
from ingest.scene import MapGrid, SceneInfo, SceneRejected, Window

MAX_SIDE = 200_000
_FARTHEST_DEG = 20.0
"""East or west of a zone's middle: pixels there are larger by up to 6 % than they say."""


@dataclass(frozen=True, slots=True)
class CompositeGrid:
    """``shape`` (rows, cols) pixels of ``spacing_m`` in UTM zone ``epsg``; (``left_m``, ``top_m``) is the corner.

    Both corners are multiples of the spacing, so that every grid of a zone and spacing shares one lattice.
    """

    epsg: int
    left_m: float
    top_m: float
    spacing_m: float
    shape: tuple[int, int]

    @classmethod
    def of_bbox(cls, bbox: tuple[float, float, float, float], spacing_m: float, epsg: int | None = None) -> Self:
        """Cover west, south, east, north (degrees) in the UTM zone of the middle, or in the zone asked for.

        Raises UsageError for a box that is empty, crosses the antimeridian, or is larger than a UTM zone can show.
        """
        west, south, east, north = bbox
        if not (-180 <= west < east <= 180 and -80 <= south < north <= 84):
            raise UsageError(f"--bbox {bbox}: expected west < east and south < north in degrees, within -80 to 84")
        epsg = epsg or _utm_zone((west + east) / 2, (south + north) / 2)
        if not (epsg // 100 in (326, 327) and 1 <= epsg % 100 <= 60):
            raise UsageError(f"--epsg {epsg}: expected a UTM zone, 32601 to 32660 (north) or 32701 to 32760 (south)")
        away = np.array([west, east]) - (6 * (epsg % 100) - 183)
        if np.abs((away + 180) % 360 - 180).max() > _FARTHEST_DEG:
            raise UsageError(f"--bbox {bbox} reaches too far from the middle of EPSG:{epsg} to be mapped there")
        edge = np.linspace(0, 1, 21)
        lon = np.concatenate([west + (east - west) * edge] * 2 + [np.full(21, west), np.full(21, east)])
        lat = np.concatenate([np.full(21, south), np.full(21, north)] + [south + (north - south) * edge] * 2)
        x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(lon, lat)
        left, right = math.floor(min(x) / spacing_m), math.ceil(max(x) / spacing_m)
        bottom, top = math.floor(min(y) / spacing_m), math.ceil(max(y) / spacing_m)
        if max(right - left, top - bottom) > MAX_SIDE:
            raise UsageError(f"--bbox {bbox} is {top - bottom} x {right - left} pixels; at most {MAX_SIDE} a side")
        return cls(epsg, left * spacing_m, top * spacing_m, spacing_m, (top - bottom, right - left))

    @property
    def map_grid(self) -> MapGrid:
        """The grid as scenes describe theirs."""
        return MapGrid(self.epsg, (self.spacing_m, 0.0, self.left_m, 0.0, -self.spacing_m, self.top_m))

    def place(self, info: SceneInfo) -> tuple[int, int]:
        """Give the (row, col) of the grid at which a scene's first pixel lies. Raises SceneRejected off the lattice."""
        found = info.grid
        if found is None or found.epsg != self.epsg:
            raise SceneRejected(
                f"{info.id} lies on {'no map' if found is None else f'EPSG {found.epsg}'}, the composite on EPSG "
                f"{self.epsg}: geocode it (grid: kind: utm in the recipe)"
            )
        a, b, left, d, e, top = found.transform
        col, row = (left - self.left_m) / self.spacing_m, (self.top_m - top) / self.spacing_m
        aligned = (a, b, d, e) == (self.spacing_m, 0.0, 0.0, -self.spacing_m)
        if not aligned or max(abs(col - round(col)), abs(row - round(row))) > 1e-6:
            raise SceneRejected(
                f"{info.id} has pixels of {a} x {-e} m from ({left}, {top}), which do not fall on the composite's "
                f"multiples of {self.spacing_m} m: build it with the same spacing and grid kind utm"
            )
        return round(row), round(col)

    def blocks(self, side: int) -> list[Window]:
        """Cut the grid into squares of ``side`` pixels (smaller at the lower and right edges), in reading order."""
        rows, cols = self.shape
        return [
            Window(top, left, min(side, rows - top), min(side, cols - left))
            for top in range(0, rows, side)
            for left in range(0, cols, side)
        ]

    def record(self) -> dict[str, Any]:
        """Give the grid as plain values."""
        return {
            "epsg": self.epsg,
            "left_m": self.left_m,
            "top_m": self.top_m,
            "spacing_m": self.spacing_m,
            "shape": list(self.shape),
        }

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> Self:
        """Read a grid from what :meth:`record` gave."""
        return cls(**{**record, "shape": tuple(record["shape"])})


def _utm_zone(lon: float, lat: float) -> int:
    found = query_utm_crs_info("WGS 84", AreaOfInterest(lon, lat, lon, lat))
    return int(CRS.from_authority("EPSG", found[0].code).to_epsg() or 0)
