"""A classified scene as a GeoTIFF that any GIS opens: placed, coloured, named, transparent where there is no data."""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.transform import Affine

from finetune.legend import IGNORED, Legend
from finetune.mosaic import Strip
from infra.errors import ResourceError

BLOCK = 256
"""Rows and columns of a stored block of the map."""

CACHE_MB = 64
"""What GDAL may keep in memory: some rows of blocks of the widest scene."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a scene lies: on a map (``epsg`` with ``transform``, pixel corners, a to f) or by ground points.

    ``ground`` holds (row, col, lon, lat): pixel centres, zero based, degrees of WGS 84. Both may be missing.
    """

    epsg: int | None = None
    transform: tuple[float, float, float, float, float, float] | None = None
    ground: tuple[tuple[float, float, float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class MapReport:
    """What a written map holds: pixels per class id, those without data, and the mean confidence of the others."""

    pixels: dict[int, int]
    no_data: int
    confidence: float | None


def write_map(
    path: Path,
    strips: Iterable[Strip],
    shape: tuple[int, int],
    legend: Legend,
    place: Place,
    tags: Mapping[str, str],
) -> MapReport:
    """Write the class ids of a scene as a compressed one-band GeoTIFF, and its legend as JSON beside it.

    Rows are written as they come, so memory does not grow with the scene. The file appears whole or not at all.
    Values are class ids, 255 is no-data; colours are in the colour table, names in the tags ``CLASS_<id>``.
    Raises ResourceError where the folder cannot be written.
    """
    counts, confident = np.zeros(256, np.int64), 0.0
    with _appearing(path) as part:
        with rasterio.open(part, "w", **_profile(shape), **_placement(place)) as file:
            _describe(file, legend, tags)
            for strip in strips:
                ids = legend.to_id(strip.outputs)
                file.write(ids, 1, window=((strip.row, strip.row + len(ids)), (0, shape[1])))
                counts += np.bincount(ids.ravel(), minlength=256)
                confident += float(strip.confidence.sum(dtype=np.float64))
        _add_overviews(part, shape)
    legend_path(path).write_text(legend.model_dump_json(indent=1) + "\n")
    mapped = int(counts[list(legend.ids)].sum())
    return MapReport(
        {i: int(counts[i]) for i in legend.ids}, int(counts[IGNORED]), confident / mapped if mapped else None
    )


def legend_path(path: Path) -> Path:
    """Give where the legend of a map lies: ``map.tif`` -> ``map.legend.json``."""
    return path.with_suffix(".legend.json")


def read_small(path: Path, rows: int, cols: int) -> NDArray[np.uint8]:
    """Read a map reduced to (rows, cols), each pixel the commonest class below it."""
    with _quiet(), rasterio.open(path) as file:
        ids: NDArray[np.uint8] = file.read(1, out_shape=(rows, cols), resampling=Resampling.mode)
    return ids


def ground_control(points: Sequence[tuple[float, float, float, float]]) -> list[GroundControlPoint]:
    """Turn ground points into GDAL's, whose pixel coordinates begin at the corner of the first pixel.

    Longitudes are made continuous across the antimeridian (they may pass 180), or no fit could use them.
    """
    lons = np.array([lon for _, _, lon, _ in points])
    if np.ptp(lons) > 180:
        lons = np.where(lons < 0, lons + 360, lons)
    return [
        GroundControlPoint(row=row + 0.5, col=col + 0.5, x=float(lon), y=lat, z=0.0, id=str(n))
        for n, ((row, col, _, lat), lon) in enumerate(zip(points, lons, strict=True))
    ]


def _profile(shape: tuple[int, int]) -> dict[str, Any]:
    return {
        "driver": "GTiff",
        "height": shape[0],
        "width": shape[1],
        "count": 1,
        "dtype": "uint8",
        "nodata": IGNORED,
        "compress": "deflate",
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "BIGTIFF": "IF_SAFER",
    }


def _placement(place: Place) -> dict[str, Any]:
    if place.epsg is not None and place.transform is not None:
        return {"crs": CRS.from_epsg(place.epsg), "transform": Affine(*place.transform)}
    if place.ground:
        return {"crs": CRS.from_epsg(4326), "gcps": ground_control(place.ground)}
    return {}


def _describe(file: rasterio.io.DatasetWriter, legend: Legend, tags: Mapping[str, str]) -> None:
    table = {i: (*map(int, colour), 255) for i, colour in enumerate(legend.colours())}
    file.write_colormap(1, table | {IGNORED: (0, 0, 0, 0)})
    file.set_band_description(1, "class")
    file.update_tags(**tags)
    file.update_tags(1, **{f"CLASS_{c.id}": c.name for c in legend.classes})
    if legend.background is not None:
        file.update_tags(1, BACKGROUND=str(legend.background))


def _add_overviews(path: Path, shape: tuple[int, int]) -> None:
    factors = [2**n for n in range(1, 12) if max(shape) // 2**n >= BLOCK]
    if factors:
        with rasterio.open(path, "r+") as file:
            file.build_overviews(factors, Resampling.mode)


@contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    part = path.with_name(f".{path.name}.{os.getpid()}.part.tif")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _quiet():
            yield part
        os.replace(part, path)
    except (OSError, rasterio.errors.RasterioIOError) as error:
        raise ResourceError(f"map {path} cannot be written: {error}") from error
    finally:
        if part.is_file():
            part.unlink()


@contextmanager
def _quiet() -> Iterator[None]:
    """Bound GDAL's cache, which would hold the whole map, and let scenes without any place pass: callers say so."""
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB), warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield
