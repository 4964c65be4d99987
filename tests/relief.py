"""Made-up relief as a GeoTIFF DEM, and scenes of made-up pixels in a real product's radar geometry."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import rasterio
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.transform import Affine

from ingest.annotation import read_image
from ingest.lattice import utm_epsg
from ingest.range_doppler import RadarGrid, read_radar_grid
from ingest.scene import SceneInfo, Window
from ingest.xml import parse

Floats = NDArray[np.float64]
Relief = Callable[[Floats, Floats], Floats]


def radar_of(annotation: Path) -> RadarGrid:
    """Read the geometry of a product annotation."""
    root = parse(annotation.read_bytes(), annotation.name)
    return read_radar_grid(root, annotation.name, read_image(root, annotation.name).grid)


def cropped(radar: RadarGrid, window: Window) -> RadarGrid:
    """Give the geometry of a window of an image: as if the rest had never been there."""
    grid, table = radar.ground, radar.range
    lines = np.array([0.0, window.rows / 2, window.rows - 1.0])
    pixels = np.array([0.0, window.cols / 2, window.cols - 1.0])
    line, pixel = (a.ravel() for a in np.meshgrid(lines + window.row, pixels + window.col, indexing="ij"))
    lon, lat = grid.locate(line, pixel).reshape(3, 3, 2).transpose(2, 0, 1)
    assert grid.incidence is not None
    ground = replace(
        grid, lines=lines, pixels=pixels, lon=lon, lat=lat, height=np.zeros((3, 3)),
        incidence=np.asarray(grid.incidence_deg(line, pixel)).reshape(3, 3),
    )  # fmt: skip
    shifted = replace(table, origin=table.origin - window.col * table.spacing_m)
    # The approximate inverse only starts Newton's method: a constant off it does not matter for that.
    return replace(radar, shape=(window.rows, window.cols), rows=radar.rows - window.row, range=shifted, ground=ground)


class RadarScene:
    """A scene in radar geometry whose pixels are a function of row and column."""

    def __init__(self, radar: RadarGrid, pixel: Callable[[Floats, Floats], Floats], labels: bool = False) -> None:
        self.radar, self._pixel, self._labels = radar, pixel, labels
        self.largest = 0

    @property
    def info(self) -> SceneInfo:
        grid = self.radar.ground
        return SceneInfo(
            id="made-up", sensor="sentinel-1", product="GRDH", mode="IW", polarisations=("VV",), shape=self.radar.shape,
            spacing_m=(10.0, 10.0), looks=4.4, time=None, orbit=None, fingerprint="0" * 64, footprint=grid.footprint(),
            ground=grid.points(), quantity="beta0",
        )  # fmt: skip

    def power(self, window: Window) -> NDArray[np.float32]:
        assert min(window[:2]) >= 0
        assert window.row + window.rows <= self.radar.shape[0]
        assert window.col + window.cols <= self.radar.shape[1]
        self.largest = max(self.largest, window.rows * window.cols)
        rows, cols = np.mgrid[: window.rows, : window.cols].astype(np.float64)
        return self._pixel(rows + window.row, cols + window.col)[None].astype(np.float32)

    def label(self, window: Window) -> NDArray[np.uint8] | None:
        return (self.power(window)[0] % 7).astype(np.uint8) if self._labels else None

    def locate(self, rows: Floats, cols: Floats) -> Floats:
        return self.radar.ground.locate(rows, cols)

    def incidence_deg(self, rows: Floats, cols: Floats) -> Floats | None:
        return self.radar.ground.incidence_deg(rows, cols)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return None


def write_relief(
    path: Path, radar: RadarGrid, relief: Relief, spacing_m: float = 10.0, margin_m: float = 4000.0
) -> str:
    """Write a DEM in the scene's UTM zone around a scene: ``relief`` takes metres east and north of its middle."""
    lon, lat = radar.ground.lon, radar.ground.lat
    epsg = utm_epsg(float(lon.mean()), float(lat.mean()))
    east, north = Transformer.from_crs(4326, epsg, always_xy=True).transform(lon, lat)
    west, top = (float(np.floor(v / spacing_m) * spacing_m) for v in (east.min() - margin_m, north.max() + margin_m))
    rows, cols = (int((np.ptp(v) + 2 * margin_m) / spacing_m) + 2 for v in (north, east))
    y, x = np.mgrid[:rows, :cols].astype(np.float64)
    heights = relief(west + (x + 0.5) * spacing_m - east.mean(), top - (y + 0.5) * spacing_m - north.mean())
    with rasterio.open(
        path, "w", driver="GTiff", height=rows, width=cols, count=1, dtype="float32", crs=f"EPSG:{epsg}",
        transform=Affine(spacing_m, 0, west, 0, -spacing_m, top),
    ) as file:  # fmt: skip
        file.write(heights.astype(np.float32), 1)
    return str(path)


def away_direction(radar: RadarGrid) -> tuple[float, float]:
    """Give the unit vector, east and north on the UTM map, that leads away from the satellite mid-scene."""
    lon, lat = radar.ground.lon[1], radar.ground.lat[1]
    epsg = utm_epsg(float(radar.ground.lon.mean()), float(radar.ground.lat.mean()))
    east, north = Transformer.from_crs(4326, epsg, always_xy=True).transform(lon, lat)
    length = float(np.hypot(east[-1] - east[0], north[-1] - north[0]))
    return float((east[-1] - east[0]) / length), float((north[-1] - north[0]) / length)
