"""Speckle filters on any GeoTIFF: read by blocks as linear power, filtered, written as what it was."""

import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterWindow

from infra.errors import ResourceError, UsageError
from ingest.despeckle import Despeckled, grow
from ingest.raster import open_raster, read_window
from ingest.recipe import SpeckleRules
from ingest.scene import Scene, SceneInfo, Window
from ingest.speckle import halo
from ingest.speckle_multitemporal import filter_stack
from ingest.speckle_statistics import sample

Values = Literal["power", "amplitude", "db"]
Compression = Literal["deflate", "zstd", "lzw", "none"]
Progress = Callable[[int, int], None]
"""Called with the blocks that are done and their number."""

_TILE = 256
# Pixels of all bands and images that are worked on at a time.
_BLOCK_PIXELS = 1 << 23


@dataclass(frozen=True, slots=True)
class Output:
    """How a result is written."""

    compress: Compression = "deflate"
    threads: int = 1


class RasterScene:
    """A GeoTIFF of any origin as a scene: its bands as linear power, without a known number of looks.

    ``values`` says what its numbers are; ``nodata`` replaces the value that the file declares for no data. A declared
    scale and offset are applied. Raises SceneRejected for an unreadable file, UsageError for numbers that cannot be
    what they are said to be.
    """

    def __init__(self, path: Path, values: Values | None, nodata: float | None) -> None:
        self._file: Any = open_raster(str(path))
        with ExitStack() as stack:
            stack.callback(self._file.close)
            self.values = _values(path, self._file.dtypes[0], values)
            self.nodata: float | None = self._file.nodata if nodata is None else nodata
            self._info = _info(path, self._file)
            if self.values == "power":
                _refuse_decibels(path, self)
            stack.pop_all()

    @property
    def info(self) -> SceneInfo:
        """What is known without reading pixels; the number of looks is NaN."""
        return self._info

    @property
    def file(self) -> Any:
        """The open rasterio dataset."""
        return self._file

    def power(self, window: Window) -> NDArray[np.float32]:
        """Read linear power, (bands, rows, cols) float32, NaN where there is no data. Raises SceneRejected."""
        bands = [self._power(window, band) for band in self._file.indexes]
        return np.stack(bands)

    def _power(self, window: Window, band: int) -> NDArray[np.float32]:
        raw = read_window(self._file, window, band)
        missing = None if self.nodata is None or np.isnan(self.nodata) else raw == self.nodata
        scale, offset = self._file.scales[band - 1], self._file.offsets[band - 1]
        with np.errstate(over="ignore", invalid="ignore"):  # what is beyond float32 is no data, as its value for that
            if (scale, offset) != (1.0, 0.0):
                raw = raw * scale + offset
            if self.values == "amplitude":
                raw = np.square(raw, dtype=np.float64)
            elif self.values == "db":
                raw = np.power(10.0, raw / np.float64(10))
            power = np.asarray(raw).astype(np.float32)
        if missing is not None:
            power[missing] = np.nan
        return power

    def label(self, window: Window) -> NDArray[np.uint8] | None:
        """Give None: there are no labels."""
        return None

    def locate(self, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Give None: a filter does not ask where pixels lie."""
        return None

    def incidence_deg(self, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Give None: the angle is not known."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()


def despeckle_file(
    source: Path,
    target: Path,
    rules: SpeckleRules,
    values: Values | None = None,
    nodata: float | None = None,
    output: Output | None = None,
    progress: Progress = lambda done, total: None,
) -> float:
    """Filter all bands of a GeoTIFF into a tiled, compressed float32 GeoTIFF of the same kind of values and place.

    Memory does not grow with the file, which appears whole or not at all. Gives the number of looks that was used, NaN
    for filters without. Raises SceneRejected for an unreadable file, UsageError for wrong settings, ResourceError
    where the target cannot be written.
    """
    output = output or Output()
    _refuse_same(source, target)
    with RasterScene(source, values, nodata) as raw, Despeckled(raw, rules, output.threads) as scene:
        windows = _windows(raw.info.shape, len(raw.info.polarisations))
        with _writing(target, raw, _said(rules, scene.info.looks), output) as file:
            for done, window in enumerate(windows):
                _write(file, window, _back(scene.power(window), raw))
                progress(done + 1, len(windows))
        return scene.info.looks


def despeckle_stack(
    sources: Sequence[Path],
    folder: Path,
    size: int,
    values: Values | None = None,
    nodata: float | None = None,
    output: Output | None = None,
    progress: Progress = lambda done, total: None,
) -> list[Path]:
    """Filter co-registered GeoTIFFs by one another (:mod:`ingest.speckle_multitemporal`) into files of the same names.

    Raises UsageError unless they lie on one grid with as many bands each, else as :func:`despeckle_file` does.
    """
    output = output or Output()
    targets = [folder / source.name for source in sources]
    if len(set(targets)) < len(targets):
        raise UsageError(f"{len(targets)} images have {len(set(targets))} names: in one folder each needs its own")
    for source, target in zip(sources, targets, strict=True):
        _refuse_same(source, target)
    margin = halo("boxcar", size)
    with ExitStack() as stack:
        scenes = [stack.enter_context(RasterScene(source, values, nodata)) for source in sources]
        _refuse_other_grids(sources, scenes)
        shape = scenes[0].info.shape
        windows = _windows(shape, len(scenes) * len(scenes[0].info.polarisations))
        said = {"kind": "multitemporal", "size": size, "images": [source.name for source in sources]}
        files = [
            stack.enter_context(_writing(target, scene, said, output))
            for target, scene in zip(targets, scenes, strict=True)
        ]
        for done, window in enumerate(windows):
            around = grow(window, margin, shape)
            inside = np.s_[:, window.row - around.row :, window.col - around.col :]
            found = filter_stack([_finite(scene.power(around)) for scene in scenes], size, output.threads)
            for file, scene, power in zip(files, scenes, found, strict=True):
                _write(file, window, _back(power[inside][:, : window.rows, : window.cols], scene))
            progress(done + 1, len(windows))
    return targets


def _values(path: Path, dtype: str, values: Values | None) -> Values:
    if dtype.startswith("complex"):
        raise UsageError(f"{path} holds complex numbers ({dtype}): filters smooth power; detect it first (|z|^2)")
    if values is None and not dtype.startswith("float"):
        raise UsageError(
            f"{path} holds {dtype} numbers, which may be amplitude, power or decibels: say which with --values"
        )
    return values or "power"


def _refuse_decibels(path: Path, scene: Scene) -> None:
    """Refuse what is called power where most of a sample is negative: it would be filtered into nonsense."""
    below = seen = 0
    for block in sample(scene):
        below += int((block < 0).sum())
        seen += int((~np.isnan(block)).sum())
    if below > 0.5 * seen:
        raise UsageError(
            f"{path}: {below / seen:.0%} of a sample of its pixels are below zero, as decibels are and power is not: "
            "filters work on linear power; say --values db to have it converted and back"
        )


def _refuse_same(source: Path, target: Path) -> None:
    if target.exists() and source.exists() and target.samefile(source):
        raise UsageError(f"{target} is the input itself: give another name or folder for the result")


def _refuse_other_grids(sources: Sequence[Path], scenes: Sequence[RasterScene]) -> None:
    first = scenes[0].file
    for source, scene in zip(sources, scenes, strict=True):
        file = scene.file
        for what in ("height", "width", "count", "crs"):
            if getattr(file, what) != getattr(first, what):
                _refuse_grid(source, what, getattr(file, what), sources[0], getattr(first, what))
        if not file.transform.almost_equals(first.transform, 1e-6):
            _refuse_grid(source, "transform", file.transform.to_gdal(), sources[0], first.transform.to_gdal())


def _refuse_grid(source: Path, what: str, found: object, other: Path, expected: object) -> None:
    raise UsageError(f"{source} has {what} {found}, {other} has {expected}: images must be co-registered on one grid")


def _info(path: Path, file: Any) -> SceneInfo:
    names = tuple(name or f"band {n}" for n, name in zip(file.indexes, file.descriptions, strict=True))
    return SceneInfo(
        id=path.stem,
        sensor="any",
        product="GeoTIFF",
        mode="",
        polarisations=names,
        shape=(file.height, file.width),
        spacing_m=None,
        looks=float("nan"),
        time=None,
        orbit=None,
        fingerprint="",
        footprint=None,
    )


def _windows(shape: tuple[int, int], planes: int) -> list[Window]:
    """Cover a grid with blocks of whole tiles: all columns, unless too many planes make that too much."""
    rows, cols = shape
    tiles = max(1, _BLOCK_PIXELS // (_TILE * _TILE * planes))
    across = min(tiles, -(-cols // _TILE))
    height, width = _TILE * max(1, tiles // across), _TILE * across
    return [
        Window(row, col, min(height, rows - row), min(width, cols - col))
        for row in range(0, rows, height)
        for col in range(0, cols, width)
    ]


def _finite(power: NDArray[np.float32]) -> NDArray[np.float32]:
    power[np.isinf(power)] = np.nan
    return power


def _back(power: NDArray[np.float32], scene: RasterScene) -> NDArray[np.float32]:
    """Turn power into the values of the source; what has none (no data, decibels of nothing) is no-data."""
    if scene.values == "amplitude":
        power = np.sqrt(np.maximum(power, 0))
    elif scene.values == "db":
        with np.errstate(divide="ignore", invalid="ignore"):
            power = np.where(power > 0, 10 * np.log10(power), np.float32(np.nan)).astype(np.float32)
    missing = _missing(scene)
    return power if np.isnan(missing) else np.where(np.isnan(power), np.float32(missing), power)


def _missing(scene: RasterScene) -> float:
    """Give the no-data value of a result: that of the source where float32 has it, else NaN."""
    nodata = scene.nodata
    return nodata if nodata is not None and np.float32(nodata) == nodata else float("nan")


def _said(rules: SpeckleRules, looks: float) -> dict[str, Any]:
    return rules.model_dump(mode="json") | {"looks": None if np.isnan(looks) else looks}


@contextmanager
def _writing(target: Path, scene: RasterScene, said: dict[str, Any], output: Output) -> Iterator[Any]:
    """Open a result beside its name, placed and described like its source; it takes the name once it is whole."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part.tif")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _no_place_needed(), rasterio.open(part, "w", **_profile(scene, output)) as file:
            file.update_tags(**scene.file.tags(), SPECKLE_FILTER=json.dumps(said))
            for n in scene.file.indexes:
                file.set_band_description(n, scene.file.descriptions[n - 1] or "")
                file.update_tags(n, **scene.file.tags(n))
            yield file
        os.replace(part, target)
    except (OSError, RasterioError) as error:
        raise ResourceError(f"{target} cannot be written: {error}") from error
    finally:
        if part.is_file():
            part.unlink()


@contextmanager
def _no_place_needed() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def _profile(scene: RasterScene, output: Output) -> dict[str, Any]:
    file = scene.file
    points, points_crs = file.gcps
    place = {"gcps": points, "crs": points_crs} if points else {"crs": file.crs, "transform": file.transform}
    if file.rpcs is not None:
        place["rpcs"] = file.rpcs
    packed = {} if output.compress == "none" else {"compress": output.compress, "predictor": 3, "zlevel": 1}
    if output.compress == "zstd":
        packed["zstd_level"] = packed.pop("zlevel")
    elif output.compress == "lzw":
        packed.pop("zlevel")
    return {
        "driver": "GTiff",
        "height": file.height,
        "width": file.width,
        "count": file.count,
        "dtype": "float32",
        "nodata": _missing(scene),
        "tiled": True,
        "blockxsize": _TILE,
        "blockysize": _TILE,
        "interleave": "band",
        "num_threads": output.threads,
        "BIGTIFF": "IF_SAFER",
        **place,
        **packed,
    }


def _write(file: Any, window: Window, values: NDArray[np.float32]) -> None:
    file.write(values, window=RasterWindow(window.col, window.row, window.cols, window.rows))
