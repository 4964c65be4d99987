"""A scene's map as a cloud-optimised GeoTIFF that any GIS opens: classes in colours and names, or numbers; placed."""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.transform import Affine

from finetune.areas import Place, continuous, pixel_areas_m2
from finetune.legend import IGNORED, Legend
from finetune.mosaic import Strip
from finetune.scores_regression import RegressionSums
from finetune.value_strips import ValueStrip
from infra.errors import ResourceError

BLOCK = 256
"""Rows and columns of a stored block of the map."""

CACHE_MB = 64
"""What GDAL may keep in memory: some rows of blocks of the widest scene."""


@dataclass(frozen=True, slots=True)
class MapReport:
    """What a written map holds: pixels per class id, those without data, and the mean confidence of the others.

    ``confidences`` are means by class id (None where the class does not occur), ``areas_km2`` the ground of each
    class, empty where the scene has no place.
    """

    pixels: dict[int, int]
    no_data: int
    confidence: float | None
    confidences: dict[int, float | None] = field(default_factory=dict)
    areas_km2: dict[int, float] = field(default_factory=dict)


def write_map(
    path: Path,
    strips: Iterable[Strip],
    shape: tuple[int, int],
    legend: Legend,
    place: Place,
    tags: Mapping[str, str],
    confidence: Path | None = None,
) -> MapReport:
    """Write the class ids of a scene as a one-band cloud-optimised GeoTIFF, and its legend as JSON beside it.

    Rows are written as they come, so memory does not grow with the scene. A file appears whole or not at all.
    Values are class ids, 255 is no-data; colours are in the colour table, names in the tags ``CLASS_<id>``.
    ``confidence`` gets the probability of the class in per cent, 0 to 100, 255 no-data: a file of its own, as a band
    beside a colour table would be taken for a class. Raises ResourceError where the folder cannot be written.
    """
    tally = _Tally(pixel_areas_m2(place, shape[0]))
    with ExitStack() as stack:
        classes = stack.enter_context(_appearing(path, Resampling.mode, shape))
        sure = None if confidence is None else stack.enter_context(_appearing(confidence, Resampling.average, shape))
        with ExitStack() as files:
            file = files.enter_context(rasterio.open(classes, "w", **_profile(shape), **_placement(place)))
            _describe(file, legend, tags)
            second = None if sure is None else files.enter_context(_confidence_file(sure, shape, place, tags))
            for strip in strips:
                ids, window = legend.to_id(strip.outputs), ((strip.row, strip.row + len(strip.outputs)), (0, shape[1]))
                file.write(ids, 1, window=window)
                if second is not None:
                    second.write(percent(strip), 1, window=window)
                tally.add(strip.row, ids, strip.confidence)
    legend_path(path).write_text(legend.model_dump_json(indent=1) + "\n")
    return tally.report(legend)


@dataclass(frozen=True, slots=True)
class ValueReport:
    """What a written map of numbers holds: pixels with a value and those without data, and the values' statistics.

    Mean, standard deviation, least and greatest are in ``unit``; None where there is no value.
    """

    pixels: int
    no_data: int
    mean: float | None
    deviation: float | None
    least: float | None
    most: float | None
    unit: str = ""


def write_values(
    path: Path, strips: Iterable[ValueStrip], shape: tuple[int, int], place: Place, tags: Mapping[str, str], unit: str
) -> ValueReport:
    """Write the values of a scene as a one-band float32 cloud-optimised GeoTIFF; NaN is no-data.

    Rows are written as they come. A file appears whole or not at all. Raises ResourceError where the folder cannot
    be written.
    """
    seen, empty, extremes = RegressionSums(), 0, [np.inf, -np.inf]
    profile = _profile(shape) | {"dtype": "float32", "nodata": np.nan}
    with (
        _appearing(path, Resampling.average, shape, predictor="YES") as part,
        rasterio.open(part, "w", **profile, **_placement(place)) as file,
    ):
        file.set_band_description(1, "value")
        file.set_band_unit(1, unit)
        file.update_tags(**tags)
        for strip in strips:
            file.write(strip.values, 1, window=((strip.row, strip.row + len(strip.values)), (0, shape[1])))
            known = strip.values[np.isfinite(strip.values)]
            seen, empty = seen + RegressionSums.of(known, known), empty + strip.values.size - known.size
            extremes = [min(extremes[0], known.min(initial=np.inf)), max(extremes[1], known.max(initial=-np.inf))]
    if not seen.values:
        return ValueReport(0, empty, None, None, None, None, unit)
    deviation = float(np.sqrt(seen.truth_squares / seen.values))
    return ValueReport(seen.values, empty, seen.truth_mean, deviation, float(extremes[0]), float(extremes[1]), unit)


def percent(strip: Strip) -> NDArray[np.uint8]:
    """Give confidences in whole per cent, 255 where there is no data."""
    rounded = np.rint(strip.confidence * 100).astype(np.uint8)
    return np.where(strip.outputs == IGNORED, np.uint8(IGNORED), rounded)


class _Tally:
    """Counts, confidences and areas by class id, strip by strip."""

    def __init__(self, areas_m2: NDArray[np.float64] | None) -> None:
        self.areas_m2 = areas_m2
        self.counts, self.confident, self.square_m = np.zeros(256, np.int64), np.zeros(256), np.zeros(256)

    def add(self, row: int, ids: NDArray[np.uint8], confidence: NDArray[np.float32]) -> None:
        counts = np.bincount(ids.ravel(), minlength=256)
        self.counts += counts
        self.confident += np.bincount(ids.ravel(), weights=confidence.ravel(), minlength=256)
        if self.areas_m2 is not None:
            self.square_m += counts * self.areas_m2[row : row + len(ids)].mean()

    def report(self, legend: Legend) -> MapReport:
        mapped = int(self.counts[list(legend.ids)].sum())
        return MapReport(
            {i: int(self.counts[i]) for i in legend.ids},
            int(self.counts[IGNORED]),
            float(self.confident[list(legend.ids)].sum()) / mapped if mapped else None,
            {i: float(self.confident[i] / self.counts[i]) if self.counts[i] else None for i in legend.ids},
            {} if self.areas_m2 is None else {i: float(self.square_m[i]) / 1e6 for i in legend.ids},
        )


def legend_path(path: Path) -> Path:
    """Give where the legend of a map lies: ``map.tif`` -> ``map.legend.json``."""
    return path.with_suffix(".legend.json")


def read_small(path: Path, rows: int, cols: int) -> NDArray[np.uint8]:
    """Read a map reduced to (rows, cols), each pixel the commonest class below it."""
    with bounded_gdal(), rasterio.open(path) as file:
        ids: NDArray[np.uint8] = file.read(1, out_shape=(rows, cols), resampling=Resampling.mode)
    return ids


def read_small_values(path: Path, rows: int, cols: int) -> NDArray[np.float32]:
    """Read a map of numbers reduced to (rows, cols), each pixel the mean of the values below it, NaN without any."""
    with bounded_gdal(), rasterio.open(path) as file:
        values: NDArray[np.float32] = file.read(1, out_shape=(rows, cols), resampling=Resampling.average)
    return values


def ground_control(points: Sequence[tuple[float, float, float, float]]) -> list[GroundControlPoint]:
    """Turn ground points into GDAL's, whose pixel coordinates begin at the corner of the first pixel."""
    lons = continuous(np.array([lon for _, _, lon, _ in points]))
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


def _confidence_file(
    path: Path, shape: tuple[int, int], place: Place, tags: Mapping[str, str]
) -> rasterio.io.DatasetWriter:
    file = rasterio.open(path, "w", **_profile(shape), **_placement(place))
    file.set_band_description(1, "confidence")
    file.set_band_unit(1, "%")
    file.update_tags(**tags)
    return file


@contextmanager
def _appearing(path: Path, resampling: Resampling, shape: tuple[int, int], predictor: str = "NO") -> Iterator[Path]:
    """Give a file to write; leave it at ``path`` with overviews, in the order of a cloud-optimised GeoTIFF."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part.tif")
    ordered = part.with_suffix(".cog.tif")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with bounded_gdal():
            yield part
            _add_overviews(part, shape, resampling)
            rasterio.shutil.copy(part, ordered, **_COG, predictor=predictor)
        os.replace(ordered, path)
    except (OSError, rasterio.errors.RasterioError, CPLE_BaseError) as error:
        raise ResourceError(f"map {path} cannot be written: {error}") from error
    finally:
        for file in (part, ordered):
            if file.is_file():
                file.unlink()


_COG = {
    "driver": "COG",
    "blocksize": BLOCK,
    "compress": "deflate",
    "overviews": "FORCE_USE_EXISTING",
    "BIGTIFF": "IF_SAFER",
}


def _add_overviews(path: Path, shape: tuple[int, int], resampling: Resampling) -> None:
    factors = [2**n for n in range(1, 12) if max(shape) // 2**n >= BLOCK]
    if factors:
        with rasterio.open(path, "r+") as file:
            file.build_overviews(factors, resampling)


@contextmanager
def bounded_gdal() -> Iterator[None]:
    """Bound GDAL's cache, which would hold the whole map, and let scenes without any place pass: callers say so."""
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB), warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield
