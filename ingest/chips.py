"""Ready-cut images: GeoTIFF or PNG files of any bands and type, with label rasters, become scenes of linear power."""

import hashlib
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from infra.record import digest
from ingest.geometry import GroundGrid
from ingest.label_shapes import LabelShapes, is_shapes
from ingest.legend import UNLABELLED, LabelRule, Legend, Value, check_value, several
from ingest.mapgrid import MapPlace, ground_spacing_m
from ingest.raster import Driver, open_raster, read_window
from ingest.scene import SceneInfo, SceneRejected, Window

_DRIVERS: Mapping[str, Driver] = MappingProxyType({".tif": "GTiff", ".tiff": "GTiff", ".png": "PNG"})
_TYPES = frozenset(("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"))


def _utc(value: Any) -> Any:
    """Give a date or time, as YAML or a person writes it, as ISO 8601 in UTC; without a zone it is UTC already."""
    if value is None:
        return None
    moment = datetime.fromisoformat(str(value))
    utc = moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    return utc.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


_Strings = Annotated[tuple[str, ...], BeforeValidator(several), Field(min_length=1)]
_LabelValue = Annotated[Value, BeforeValidator(check_value)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]


class ChipPixels(BaseModel):
    """What the stored numbers of chips mean, and what is known of all of them.

    Power comes from x = ``scale`` times the stored number: x for "power", x^2 for "amplitude", 10^(x/10) for "db";
    then ``offset_db``, the calibration constant, is added in decibels. ``polarisations`` names the bands in order.
    ``no_data`` marks pixels without measurement besides NaN and infinity: a stored number, or "declared" for what
    each file says of itself, or None. ``label_map`` turns values or ``#rrggbb`` of label rasters into class ids
    where they are not those of the legend already; ``label_ignore`` lists values that mean unlabelled (255 does
    unless the map names it). ``label_band`` is the band of a label raster that holds class ids, where it has several.
    A label file may also be GeoJSON polygons: ground inside them is class ``label_inside``, all else class 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    polarisations: _Strings
    quantity: Literal["power", "amplitude", "db"]
    scale: _Finite = Field(1.0, gt=0)
    offset_db: _Finite = Field(0.0, ge=-300, le=300)
    no_data: _Finite | Literal["declared"] | None = "declared"
    label_ignore: Annotated[tuple[_LabelValue, ...], BeforeValidator(several)] = ()
    label_map: dict[_LabelValue, Annotated[int, Field(ge=0, le=255)]] | None = None
    label_band: Annotated[int, Field(ge=1)] | None = None
    label_inside: Annotated[int, Field(ge=0, lt=UNLABELLED)] = 1
    legend: Legend | None = None
    sensor: str = Field("chip", min_length=1)
    product: str = Field("chip", min_length=1)
    mode: str = ""
    time: Annotated[str | None, BeforeValidator(_utc)] = None
    looks: _Finite = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.polarisations)) < len(self.polarisations):
            raise ValueError(f"a polarisation is named twice: {', '.join(self.polarisations)}")
        if self.legend and self.label_map:
            strange = sorted({*self.label_map.values()} - self.legend.ids - {UNLABELLED})
            if strange:
                raise ValueError(f"label_map leads to the class ids {strange}, which the legend does not have")
        return self


class ChipSource(ChipPixels):
    """One chip: its files and what they mean. ``images`` is one file of all bands, or a file for each band."""

    id: str = Field(min_length=1)
    images: _Strings
    label: str | None = None


class ChipScene:
    """An open chip; see :class:`ingest.scene.Scene`. Reading is safe from several threads."""

    def __init__(self, source: ChipSource) -> None:
        self._source = source
        self._lock = threading.Lock()  # GDAL datasets are not thread-safe
        with ExitStack() as stack:
            images = [stack.enter_context(_open(name)) for name in source.images]
            self._bands = _bands(source, images)
            self._shapes = None
            self._label = None
            if source.label is not None and is_shapes(source.label):
                self._shapes = LabelShapes(source.label, source.label_inside, images[0])
            elif source.label is not None:
                self._label = stack.enter_context(_open(source.label))
            _check_shapes([*images, *([self._label] if self._label else [])])
            warnings: list[str] = []
            self._place = _place(images[0], warnings)
            self._info = _scene_info(source, self._place, (images[0].height, images[0].width), warnings)
            self._rule = LabelRule.of(source.legend, source.label_map, source.label_ignore)
            self._palette = _palette(source, self._label)
            self._stack = stack.pop_all()

    @property
    def info(self) -> SceneInfo:
        """What is known without reading pixels."""
        return self._info

    def power(self, window: Window) -> NDArray[np.float32]:
        """Read linear power, (bands, rows, cols) float32, NaN where the chip has no data."""
        self._check_window(window)
        out = np.empty((len(self._bands), window.rows, window.cols), np.float32)
        for power, (dataset, band) in zip(out, self._bands, strict=True):
            with self._lock:
                stored = read_window(dataset, window, band)
            power[...] = to_power(stored, self._source, dataset.nodatavals[band - 1])
        return out

    def label(self, window: Window) -> NDArray[np.uint8] | None:
        """Read class ids, (rows, cols) uint8 with 255 for unlabelled, or None where the chip has no labels.

        Raises SceneRejected for values that neither legend nor label map knows.
        """
        self._check_window(window)
        if self._shapes is not None:
            return self._shapes.label(window)
        if self._label is None:
            return None
        chosen = self._source.label_band
        wanted = (chosen,) if chosen else (1, 2, 3) if self._label.count >= 3 else (1,)
        with self._lock:
            bands = [read_window(self._label, window, band) for band in wanted]
        if len(bands) == 3:
            return self._rule.of_colours(np.stack(bands), self._label.name)
        if self._palette is not None:
            return self._rule.of_colours(np.moveaxis(self._palette[bands[0]], -1, 0), self._label.name)
        return self._rule.of_numbers(bands[0], self._label.name)

    def locate(self, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Give (n, 2) longitude and latitude in degrees of pixel centres, or None where the chip has no place."""
        return None if self._place is None else self._place.locate(rows, cols)

    def _check_window(self, window: Window) -> None:
        rows, cols = self._info.shape
        if min(window) < 0 or window.row + window.rows > rows or window.col + window.cols > cols:
            raise ValueError(f"{window} is not within the {rows} x {cols} pixels of {self._info.id}")

    def incidence_deg(self, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> None:
        """Give None: a chip does not say from where it was seen."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


def open_chip(source: ChipSource) -> ChipScene:
    """Open a chip. Raises SceneRejected where a file is missing, unreadable, or not what the source says."""
    return ChipScene(source)


def to_power(stored: NDArray[Any], pixels: ChipPixels, declared: float | None = None) -> NDArray[np.float32]:
    """Give linear power (float32, NaN without data) of stored numbers; ``declared`` is the file's own no-data number.

    Worked out in float64, so that no machine's float32 arithmetic shows in a tile.
    """
    x = stored.astype(np.float64) * pixels.scale
    with np.errstate(over="ignore", invalid="ignore"):
        match pixels.quantity:
            case "db":
                power = np.power(10.0, (x + pixels.offset_db) / 10.0)
            case "amplitude":
                power = x * x * 10.0 ** (pixels.offset_db / 10.0)
            case "power":
                power = x * 10.0 ** (pixels.offset_db / 10.0)
        result = power.astype(np.float32)
    no_data = declared if pixels.no_data == "declared" else pixels.no_data
    missing = ~(np.isfinite(x) & np.isfinite(result))
    if isinstance(no_data, int | float):
        # A float32 file holds its no-data number rounded to float32.
        with np.errstate(over="ignore"):
            missing |= stored == (no_data if stored.dtype.kind == "f" else float(no_data))
    result[missing] = np.nan
    return result


def _open(name: str) -> Any:
    """Open an image or label file by what its suffix says it is."""
    driver = _DRIVERS.get(Path(name).suffix.lower())
    if driver is None:
        raise SceneRejected(f"{name}: chips are read from {', '.join(_DRIVERS)} files")
    dataset = open_raster(name, driver)
    if strange := sorted(set(dataset.dtypes) - _TYPES):
        dataset.close()
        raise SceneRejected(f"{name} holds {', '.join(strange)}; chips are read as one of {', '.join(sorted(_TYPES))}")
    return dataset


def _bands(source: ChipSource, images: list[Any]) -> list[tuple[Any, int]]:
    """Give dataset and band number of each polarisation."""
    bands = [(dataset, band) for dataset in images for band in range(1, dataset.count + 1)]
    per_file = 1 if len(images) > 1 else len(source.polarisations)
    if len(bands) != len(source.polarisations) or any(dataset.count != per_file for dataset in images):
        found = ", ".join(f"{dataset.name}: {dataset.count}" for dataset in images)
        raise SceneRejected(f"chip {source.id} has bands {found}; expected {', '.join(source.polarisations)}")
    return bands


def _check_shapes(datasets: list[Any]) -> None:
    first = datasets[0]
    for other in datasets[1:]:
        if (other.height, other.width) != (first.height, first.width):
            raise SceneRejected(
                f"{other.name} has {other.height} x {other.width} pixels, {first.name} has "
                f"{first.height} x {first.width}: they do not belong together"
            )


def _place(dataset: Any, warnings: list[str]) -> MapPlace | GroundGrid | None:
    """Place a chip by its map or its ground control points; where neither can be used, say so and leave it."""
    shape = (dataset.height, dataset.width)
    points, points_crs = dataset.gcps
    try:
        if dataset.crs is not None and not dataset.transform.is_identity:
            return MapPlace(dataset.crs.to_wkt(), tuple(dataset.transform)[:6], shape, dataset.name)
        if points and points_crs is not None and points_crs.is_geographic:
            # GDAL measures from the corner of the first pixel, scenes from its centre.
            rows = [(p.row - 0.5, p.col - 0.5, p.x, p.y) for p in points]
            return GroundGrid.of_points(np.array(rows), dataset.name)
    except SceneRejected as error:
        warnings.append(f"not placed: {error}")
    return None


def _scene_info(
    source: ChipSource, place: MapPlace | GroundGrid | None, shape: tuple[int, int], warnings: list[str]
) -> SceneInfo:
    placed: dict[str, Any] = {"spacing_m": None, "footprint": None}
    if isinstance(place, MapPlace):
        placed = {"spacing_m": place.spacing_m, "footprint": place.footprint, "grid": place.grid}
    elif isinstance(place, GroundGrid):
        spacing_m = ground_spacing_m(place.locate, shape)
        placed = {"spacing_m": spacing_m, "footprint": place.footprint(), "ground": place.points()}
    return SceneInfo(
        id=source.id,
        sensor=source.sensor,
        product=source.product,
        mode=source.mode,
        polarisations=source.polarisations,
        shape=shape,
        looks=source.looks,
        time=source.time,
        orbit=None,
        fingerprint=_fingerprint(source),
        warnings=tuple(warnings),
        **placed,
    )


def _palette(source: ChipSource, label: Any) -> NDArray[np.uint8] | None:
    """Give the colours (256, 3) of a label raster of one band, where the label map speaks of colours."""
    if label is None:
        return None
    if source.label_band is not None:
        if source.label_band > label.count:
            raise SceneRejected(
                f"{label.name} has {label.count} bands; chip {source.id} takes labels of band {source.label_band}"
            )
        return None
    if label.count >= 3:
        if set(label.dtypes[:3]) != {"uint8"}:
            raise SceneRejected(f"{label.name} has {label.count} bands of {label.dtypes[0]}, expected colours of uint8")
        return None
    if not any(isinstance(value, str) for value in source.label_map or ()):
        return None
    if label.dtypes[0] != "uint8":
        raise SceneRejected(f"{label.name} holds {label.dtypes[0]}, expected a palette's numbers as uint8")
    try:
        entries = label.colormap(1)
    except ValueError as error:
        raise SceneRejected(
            f"{label.name} has one band without a palette, but label_map of chip {source.id} gives colours"
        ) from error
    palette = np.zeros((256, 3), np.uint8)
    for value, colour in entries.items():
        palette[value] = colour[:3]
    return palette


def _fingerprint(source: ChipSource) -> str:
    """Name a chip by what its files hold and how they are read, wherever they are stored."""
    total = hashlib.sha256()
    meaning = source.model_dump(mode="json", exclude={"id", "images", "label"})
    ignored = source.legend.ignore if source.legend else ()
    total.update(digest([meaning, list(ignored), source.label is not None]).encode())
    for name in (*source.images, *([source.label] if source.label else [])):
        with open(name, "rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
