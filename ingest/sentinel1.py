"""Sentinel-1 products: a SAFE folder, zip, cloud-optimised copy or bucket becomes scenes of calibrated power."""

import dataclasses
import threading
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ingest.annotation import Image, Manifest, read_manifest
from ingest.border import BorderMask
from ingest.calibrate import Calibration
from ingest.geometry import GroundGrid
from ingest.href import split_part
from ingest.range_doppler import RadarGrid, read_radar_grid
from ingest.raster import RemoteRaster, open_raster, open_remote_raster, read_window
from ingest.recipe import Pixels
from ingest.safe import MANIFEST, Layout, open_layout
from ingest.scene import SceneInfo, SceneRejected, Window
from ingest.sentinel1_bursts import Mosaic
from ingest.sentinel1_channel import ORDER, PIXEL_TYPES, Channel, pairs, parse_member, read_channel
from ingest.sentinel1_names import part_of
from ingest.threads import thread_count

_PIXELS = Pixels()
_LINES = 32
"""Lines that one thread reads and calibrates at a time."""

# Nominal equivalent number of looks by mode and resolution class (Sentinel-1 Product Definition, table 5-1).
_LOOKS = MappingProxyType(
    {
        ("SM", "F"): 3.7,
        ("SM", "H"): 29.7,
        ("SM", "M"): 398.4,
        ("IW", "H"): 4.4,
        ("IW", "M"): 81.8,
        ("EW", "H"): 2.7,
        ("EW", "M"): 10.7,
        ("WV", "M"): 123.7,
    }
)


class Sentinel1Scene:
    """An open scene of a product; see :class:`ingest.scene.Scene`. Reading is safe from several threads.

    ``mosaic`` says where the rows of a scene without bursts lie in the file; None where rows are the file's lines.
    ``dirty_border`` tells to mask the border noise of old products.
    """

    def __init__(
        self,
        info: SceneInfo,
        channels: list[Channel],
        layout: Layout,
        mosaic: Mosaic | None,
        *,
        dirty_border: bool = False,
    ) -> None:
        self._info, self._mosaic = info, mosaic
        self._grid = _grid(channels[0].image, mosaic, layout.where(channels[0].annotation))
        self._layout, self._annotation = layout, channels[0].annotation
        self._lock = threading.Lock()  # GDAL datasets are not thread-safe
        self._stack = ExitStack()
        self._bands: list[tuple[Any, Calibration]] = []
        try:
            for channel in channels:
                dataset = self._stack.enter_context(_open_pixels(layout, channel.measurement))
                _check_pixels(dataset, channel.image, layout.where(channel.measurement))
                self._bands.append((dataset, channel.calibration))
            # The first band is the co-polarised one, if there is one: it tells the border of all.
            self._border = BorderMask(info.shape, self._numbers, self._bands[0][1].eta) if dirty_border else None
        except BaseException:
            self._stack.close()
            raise

    @property
    def info(self) -> SceneInfo:
        """What is known without reading pixels."""
        return self._info

    def power(self, window: Window) -> NDArray[np.float32]:
        """Read linear power, (bands, rows, cols) float32, NaN where the product has no data.

        Raises SceneRejected where the pixels are damaged, and StoreError where a store fails.
        """
        rows, cols = self._info.shape
        if min(window) < 0 or window.row + window.rows > rows or window.col + window.cols > cols:
            raise ValueError(f"{window} is not within the {rows} x {cols} pixels of {self._info.id}")
        out = np.empty((len(self._bands), window.rows, window.cols), np.float32)
        if self._mosaic is not None:
            out.fill(np.nan)  # parts need not cover the window
        for (dataset, calibration), band in zip(self._bands, out, strict=True):
            for place, part in [(slice(None), window)] if self._mosaic is None else self._mosaic.parts(window):
                self._read(dataset, calibration, part, band[place])
        if self._border is not None:
            self._border.apply(window, out)
        return out

    def _numbers(self, window: Window) -> NDArray[Any]:
        """Read digital numbers of the first band."""
        with self._lock:
            return read_window(self._bands[0][0], window)

    def _read(self, dataset: Any, calibration: Calibration, window: Window, out: NDArray[np.float32]) -> None:
        """Fill the power of a window of the file."""
        if self._mosaic is None:
            # A few lines at a time from a local file: they are calibrated before they leave the cache.
            step = window.rows if isinstance(dataset, RemoteRaster) else _LINES * thread_count()
            for top in range(0, window.rows, step):
                part = window._replace(row=window.row + top, rows=min(step, window.rows - top))
                with self._lock:
                    numbers = read_window(dataset, part)
                calibration.power(part, numbers, out[top : top + part.rows])
            return
        with self._lock:
            numbers = read_window(dataset, window)
        valid = self._mosaic.valid(window)
        calibration.power(window, numbers, out, zero_is_data=True)
        out[~valid] = np.nan

    def label(self, window: Window) -> None:
        """Give None: a product has no labels."""
        return None

    def locate(self, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give (n, 2) longitude and latitude in degrees from the geolocation grid; longitudes are unwrapped."""
        return self._grid.locate(rows, cols)

    def incidence_deg(self, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Give the (n,) incidence angle on the ellipsoid in degrees from the geolocation grid."""
        return self._grid.incidence_deg(rows, cols)

    @property
    def radar(self) -> RadarGrid:
        """What places the scene's pixels by range-Doppler. Raises SceneRejected where the annotation lacks a part."""
        root = parse_member(self._layout, self._annotation)
        grid = read_radar_grid(root, self._layout.where(self._annotation), self._grid)
        if self._mosaic is None:
            return grid
        # The file's first line is that of the first burst, and the rows follow it at even times.
        return dataclasses.replace(grid, shape=self._info.shape, rows=grid.rows + float(self._mosaic.starts[0]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


def open_sentinel1(path: str, pixels: Pixels = _PIXELS) -> Sentinel1Scene:
    """Open a GRD or SLC scene from a SAFE folder or zip, on disk or in a store (``s3://bucket/prefix/product``).

    A product that holds several scenes takes the path of one of them, as :func:`parts_of` lists them. SLC images are
    detected (I^2 + Q^2), those of IW and EW with their bursts joined. Power is what the recipe asks for, with thermal
    noise subtracted or kept in; for ``gamma0-terrain`` it is the beta0 that flattening starts from. Raises
    SceneRejected for what is no complete GRD or SLC product. Where noise cannot be removed a warning says so.
    """
    layout, part = _open_part(path)
    manifest = read_manifest(parse_member(layout, MANIFEST), layout.where(MANIFEST))
    _check_kind(layout, manifest)
    channels = [read_channel(layout, *names, manifest, pixels) for names in pairs(layout)]
    channels.sort(key=lambda c: ORDER.index(c.image.polarisation))
    _check_channels(layout, channels)
    images = [channel.image for channel in channels]
    mosaic = Mosaic.of(images, layout.path) if images[0].bursts else None
    dirty = pixels.border_noise and manifest.product_type == "GRD" and (manifest.ipf or (9, 99)) < (2, 90)
    info = _scene_info(layout, part, manifest, channels, mosaic, pixels)
    return Sentinel1Scene(info, channels, layout, mosaic, dirty_border=dirty)


def parts_of(path: str) -> tuple[str, ...]:
    """List the scenes of a product as paths of their own: ``PATH#IW1`` for sub-swaths, ``PATH#WV1-001`` for imagettes.

    A product that is one scene, and a path that names a scene already, is its own only part. Only names are read.
    """
    if split_part(path)[1] is not None:
        return (path,)
    parts = _parts(open_layout(path))
    return tuple(f"{path}#{part}" for part in parts if part) or (path,)


def _parts(layout: Layout) -> list[str | None]:
    found = {part_of(name) for name in layout.under("annotation", ".xml")}
    return sorted(found, key=lambda part: (part or "").rpartition("-")[::-1])  # imagettes by number, not by beam


def _open_part(path: str) -> tuple[Layout, str | None]:
    """Open a layout with the files of one scene alone."""
    whole, wanted = split_part(path)
    layout = open_layout(whole)
    parts = _parts(layout)
    if wanted is None and len(parts) > 1:
        raise SceneRejected(f"{path} holds {len(parts)} scenes: name one, such as {path}#{parts[0] or parts[1]}")
    if wanted is not None and wanted not in parts:
        listed = ", ".join(part for part in parts if part) or "one scene without a name of its own"
        raise SceneRejected(f"{whole} holds no {wanted}, but {listed}")
    part = wanted or (parts[0] if parts else None)
    sizes = {name: size for name, size in layout.sizes.items() if part is None or part_of(name) in (part, None)}
    return dataclasses.replace(layout, sizes=sizes), part


def _check_kind(layout: Layout, manifest: Manifest) -> None:
    """Refuse other satellites and other product types by name."""
    if not manifest.family.startswith("SENTINEL-1"):
        raise SceneRejected(f"{layout.path} is a product of {manifest.family}, expected SENTINEL-1")
    if manifest.product_type not in PIXEL_TYPES:
        raise SceneRejected(
            f"{layout.path} is a Sentinel-1 {manifest.product_type or 'unknown'} product; GRD and SLC are read: "
            "fetch one of these of the same data-take"
        )


def _check_channels(layout: Layout, channels: list[Channel]) -> None:
    """Refuse polarisations that are doubled or not on one pixel grid."""
    polarisations = [c.image.polarisation for c in channels]
    if len(set(polarisations)) < len(polarisations):
        raise SceneRejected(f"{layout.path} has several images of one polarisation: {', '.join(polarisations)}")
    shapes = {c.image.shape for c in channels}
    if len(shapes) > 1:
        raise SceneRejected(f"{layout.path} has images of different shapes: {sorted(shapes)}")
    if len({len(c.image.bursts) for c in channels}) > 1:
        raise SceneRejected(f"{layout.path} has images of different numbers of bursts")


def _open_pixels(layout: Layout, name: str) -> Any:
    place = layout.raster(name)
    return open_raster(place) if isinstance(place, str) else open_remote_raster(place, layout.where(name))


def _check_pixels(dataset: Any, image: Image, where: str) -> None:
    """Refuse a measurement that is not what its annotation describes."""
    if (dataset.height, dataset.width) != image.shape:
        raise SceneRejected(
            f"{where} has {dataset.height} x {dataset.width} pixels, its annotation says {image.shape[0]} x "
            f"{image.shape[1]}: they do not belong together"
        )
    expected = PIXEL_TYPES[image.product_type]
    if dataset.count != 1 or dataset.dtypes[0] not in expected:
        found = f"{dataset.count} bands of {dataset.dtypes[0]}"
        raise SceneRejected(f"{where} has {found}, expected one of {' or '.join(expected)}")


def _grid(image: Image, mosaic: Mosaic | None, name: str) -> GroundGrid:
    """Give the geolocation grid over the rows of the scene."""
    if mosaic is None:
        return image.grid
    lines = mosaic.rows_of(image.grid.lines)
    if (np.diff(lines) <= 0).any():
        raise SceneRejected(f"{name} has a geolocation grid whose lines overlap once bursts are joined; fetch it again")
    return dataclasses.replace(image.grid, lines=lines)


def _scene_info(
    layout: Layout,
    part: str | None,
    manifest: Manifest,
    channels: list[Channel],
    mosaic: Mosaic | None,
    pixels: Pixels,
) -> SceneInfo:
    image = channels[0].image
    grid = _grid(image, mosaic, layout.where(channels[0].annotation))
    warnings = [warning for channel in channels for warning in channel.warnings]
    if missing := set(manifest.polarisations) - {c.image.polarisation for c in channels}:
        warnings.append(f"the manifest also lists {', '.join(sorted(missing))}, which the product lacks")
    product, looks = _product(image)
    return SceneInfo(
        id=f"{layout.name}_{part}" if part else layout.name,
        sensor="sentinel-1",
        product=product,
        mode=image.mode,
        polarisations=tuple(c.image.polarisation for c in channels),
        shape=image.shape if mosaic is None else (mosaic.rows, image.shape[1]),
        spacing_m=image.spacing_m,
        looks=looks,
        time=f"{image.start}Z",
        orbit=image.orbit,
        fingerprint=layout.fingerprint(),
        footprint=grid.footprint(),
        ground=grid.points(),
        warnings=tuple(warnings),
        quantity="beta0" if pixels.quantity == "gamma0-terrain" else pixels.quantity,
        platform=image.mission,
        processing=manifest.processing,
        acquisition=_acquisition(image, product, part),
    )


def _product(image: Image) -> tuple[str, float]:
    """Give the product's type with its resolution class, which only names spell out, and its number of looks."""
    if image.product_type == "SLC":
        return "SLC", 1.0
    beam = "SM" if image.mode.startswith("S") else image.mode
    fine, high = image.spacing_m[1] < 6, image.spacing_m[1] < 30 and beam != "WV"
    resolution = "F" if fine else "H" if high else "M"
    return f"GRD{resolution}", _LOOKS.get((beam, resolution), 1.0)


def _acquisition(image: Image, product: str, part: str | None) -> str:
    """Name what was seen, as the product's name does without the processor's marks: its class and its CRC."""
    start, stop = (time[:19].replace("-", "").replace(":", "") for time in (image.start, image.stop))
    orbit = f"{image.absolute_orbit:06d}_{image.data_take:06X}"
    return "_".join([image.mission, image.mode, product, start, stop, orbit, *([part] if part else [])])
