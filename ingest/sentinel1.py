"""Sentinel-1 ground range detected products: a SAFE folder or zip becomes a scene of calibrated power."""

import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any, Self
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from ingest.annotation import Image, Manifest, Noise, read_calibration, read_image, read_manifest, read_noise
from ingest.calibrate import Calibration
from ingest.raster import open_raster, read_window
from ingest.recipe import Pixels
from ingest.safe import MANIFEST, Layout, open_layout
from ingest.scene import SceneInfo, SceneRejected, Window
from ingest.xml import parse

_PIXELS = Pixels()
_ORDER = ("VV", "VH", "HH", "HV")

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
    }
)


@dataclass(frozen=True, slots=True)
class _Channel:
    """One polarisation: what its annotation says, the name of its pixels and how they become power."""

    image: Image
    measurement: str
    calibration: Calibration
    warnings: tuple[str, ...]


class Sentinel1Scene:
    """An open GRD product; see :class:`ingest.scene.Scene`. Reading is safe from several threads."""

    def __init__(self, info: SceneInfo, channels: list[_Channel], layout: Layout) -> None:
        self._info = info
        self._grid = channels[0].image.grid
        self._lock = threading.Lock()  # GDAL datasets are not thread-safe
        self._stack = ExitStack()
        self._bands: list[tuple[Any, Calibration]] = []
        try:
            for channel in channels:
                dataset = self._stack.enter_context(open_raster(layout.raster_path(channel.measurement)))
                _check_pixels(dataset, channel.image.shape, layout.where(channel.measurement))
                self._bands.append((dataset, channel.calibration))
        except BaseException:
            self._stack.close()
            raise

    @property
    def info(self) -> SceneInfo:
        """What is known without reading pixels."""
        return self._info

    def power(self, window: Window) -> NDArray[np.float32]:
        """Read sigma0 in linear power, (bands, rows, cols) float32, NaN where the product has no data."""
        rows, cols = self._info.shape
        if min(window) < 0 or window.row + window.rows > rows or window.col + window.cols > cols:
            raise ValueError(f"{window} is not within the {rows} x {cols} pixels of {self._info.id}")
        out = np.empty((len(self._bands), window.rows, window.cols), np.float32)
        for band, (dataset, calibration) in enumerate(self._bands):
            with self._lock:
                numbers = read_window(dataset, window)
            calibration.power(window, numbers, out[band])
        return out

    def label(self, window: Window) -> None:
        """Give None: a product has no labels."""
        return None

    def locate(self, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give (n, 2) longitude and latitude in degrees from the geolocation grid; longitudes are unwrapped."""
        return self._grid.locate(rows, cols)

    def incidence_deg(self, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Give None: incidence angles are not read yet."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


def open_sentinel1(path: str, pixels: Pixels = _PIXELS) -> Sentinel1Scene:
    """Open a GRD product from its SAFE folder or zip.

    Power is sigma0 with thermal noise subtracted, or kept in where the recipe does not denoise. Raises SceneRejected
    for what is not a complete Sentinel-1 GRD product. Where noise cannot be removed the scene's warnings say so.
    """
    layout = open_layout(path)
    manifest = read_manifest(_parse(layout, MANIFEST), layout.where(MANIFEST))
    _check_kind(layout, manifest)
    channels = [_read_channel(layout, *names, manifest, pixels.denoise) for names in _pairs(layout)]
    channels.sort(key=lambda c: _ORDER.index(c.image.polarisation))
    _check_channels(layout, channels)
    return Sentinel1Scene(_scene_info(layout, manifest, channels), channels, layout)


def _parse(layout: Layout, name: str) -> Element:
    return parse(layout.read(name), layout.where(name))


def _check_kind(layout: Layout, manifest: Manifest) -> None:
    """Refuse other satellites and other product types by name."""
    if not manifest.family.startswith("SENTINEL-1"):
        raise SceneRejected(f"{layout.path} is a product of {manifest.family}, expected SENTINEL-1")
    if manifest.product_type != "GRD":
        raise SceneRejected(
            f"{layout.path} is a Sentinel-1 {manifest.product_type or 'unknown'} product; only GRD is read so far: "
            "fetch the GRD product of the same data-take"
        )


def _pairs(layout: Layout) -> list[tuple[str, str]]:
    """Give (annotation, measurement) names; each must have the other."""
    annotations = {_stem(n): n for n in layout.under("annotation", ".xml")}
    measurements = {_stem(n): n for n in layout.under("measurement", ".tiff|.tif")}
    if not annotations:
        raise SceneRejected(f"{layout.where('annotation')} holds no annotation: the product is incomplete")
    for stem in sorted(annotations.keys() ^ measurements.keys()):
        if stem in measurements:
            raise SceneRejected(
                f"{layout.where(measurements[stem])} has no annotation {layout.where(f'annotation/{stem}.xml')}: "
                "the product is incomplete, fetch it again"
            )
        raise SceneRejected(
            f"{layout.where(f'measurement/{stem}.tiff')} is missing: the product has annotation but no pixels"
        )
    return [(annotations[stem], measurements[stem]) for stem in sorted(annotations)]


def _stem(name: str) -> str:
    """Give the part of a name that an image's files share; cloud-optimised copies add -cog."""
    return PurePosixPath(name).stem.lower().removesuffix("-cog")


def _read_channel(layout: Layout, annotation: str, measurement: str, manifest: Manifest, denoise: bool) -> _Channel:
    """Read all the XML of one polarisation."""
    where = layout.where(annotation)
    image = read_image(_parse(layout, annotation), where)
    if image.product_type != "GRD" or image.polarisation not in _ORDER:
        raise SceneRejected(f"{where} is {image.product_type} {image.polarisation}, expected GRD VV, VH, HH or HV")
    gain_name, noise_name = (_side_file(layout, annotation, kind) for kind in ("calibration", "noise"))
    gain = read_calibration(_parse(layout, gain_name), layout.where(gain_name))
    noise: Noise | None = None
    warnings: tuple[str, ...] = ()
    if denoise:
        _check_denoise(image, where)
        noise = read_noise(_parse(layout, noise_name), layout.where(noise_name))
        if reason := _no_noise(noise, manifest):
            noise, warnings = None, (f"{image.polarisation} is not denoised: {reason}",)
    return _Channel(image, measurement, Calibration.of(image.shape, gain, noise), warnings)


def _side_file(layout: Layout, annotation: str, kind: str) -> str:
    """Give the name of an annotation's calibration or noise file."""
    wanted = f"{kind}-{_stem(annotation)}"
    for name in layout.under("annotation/calibration", ".xml"):
        if _stem(name) == wanted:
            return name
    raise SceneRejected(
        f"{layout.where(f'annotation/calibration/{wanted}.xml')} is missing: the product cannot be calibrated, "
        "fetch it again"
    )


def _check_denoise(image: Image, where: str) -> None:
    """Refuse to subtract noise that is gone already, or that is described for one slice of several."""
    if image.noise_removed:
        raise SceneRejected(
            f"{where} says that thermal noise was removed by the processor: removing it twice is refused; "
            "use the original product or a recipe without denoising"
        )
    if image.composition == "Assembled":
        raise SceneRejected(
            f"{where} is assembled of several slices, whose noise vectors do not describe it; use the slices"
        )


def _no_noise(noise: Noise, manifest: Manifest) -> str | None:
    """Say why the noise annotation cannot be used, or None."""
    if not any(values.any() for values in noise.vectors.values):
        return "the product's noise LUT is all zero"
    if manifest.ipf is None or manifest.ipf <= (2, 50):
        return "the unit of noise LUTs before IPF 2.51 is not documented"
    return None


def _check_channels(layout: Layout, channels: list[_Channel]) -> None:
    """Refuse polarisations that are doubled or not on one pixel grid."""
    polarisations = [c.image.polarisation for c in channels]
    if len(set(polarisations)) < len(polarisations):
        raise SceneRejected(f"{layout.path} has several images of one polarisation: {', '.join(polarisations)}")
    shapes = {c.image.shape for c in channels}
    if len(shapes) > 1:
        raise SceneRejected(f"{layout.path} has images of different shapes: {sorted(shapes)}")


def _check_pixels(dataset: Any, shape: tuple[int, int], where: str) -> None:
    """Refuse a measurement that is not what its annotation describes."""
    if (dataset.height, dataset.width) != shape:
        raise SceneRejected(
            f"{where} has {dataset.height} x {dataset.width} pixels, its annotation says {shape[0]} x {shape[1]}: "
            "they do not belong together"
        )
    if dataset.count != 1 or dataset.dtypes[0] != "uint16":
        raise SceneRejected(f"{where} has {dataset.count} bands of {dataset.dtypes[0]}, expected one of uint16")


def _scene_info(layout: Layout, manifest: Manifest, channels: list[_Channel]) -> SceneInfo:
    image = channels[0].image
    warnings = [warning for channel in channels for warning in channel.warnings]
    if missing := set(manifest.polarisations) - {c.image.polarisation for c in channels}:
        warnings.append(f"the manifest also lists {', '.join(sorted(missing))}, which the product lacks")
    resolution = _resolution(image.spacing_m[1])
    beam = "SM" if image.mode.startswith("S") else image.mode
    return SceneInfo(
        id=layout.name,
        sensor="sentinel-1",
        product=f"GRD{resolution}",
        mode=image.mode,
        polarisations=tuple(c.image.polarisation for c in channels),
        shape=image.shape,
        spacing_m=image.spacing_m,
        looks=_LOOKS.get((beam, resolution), 1.0),
        time=f"{image.start}Z",
        orbit=image.orbit,
        fingerprint=layout.fingerprint(),
        footprint=image.grid.footprint(),
        ground=image.grid.points(),
        warnings=tuple(warnings),
    )


def _resolution(spacing_m: float) -> str:
    """Give the resolution class, which only the product's name spells out, from the pixel spacing."""
    return "F" if spacing_m < 6 else "H" if spacing_m < 30 else "M"
