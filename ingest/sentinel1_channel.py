"""One polarisation of a Sentinel-1 scene: its annotation, its look-up tables, and what cannot be done with them."""

from dataclasses import dataclass
from types import MappingProxyType
from xml.etree.ElementTree import Element

from ingest.annotation import Image, Manifest, read_image
from ingest.calibrate import Calibration, least_power
from ingest.lut import Noise, mend_wave_noise, read_calibration, read_noise
from ingest.recipe import Pixels
from ingest.safe import Layout
from ingest.scene import SceneRejected
from ingest.sentinel1_bursts import bursts_of
from ingest.sentinel1_names import stem
from ingest.xml import parse

ORDER = ("VV", "VH", "HH", "HV")
"""Polarisations in the order of a scene's bands."""
PIXEL_TYPES = MappingProxyType({"GRD": ("uint16",), "SLC": ("complex_int16", "complex64")})
"""The types of pixels (rasterio's names) that an image of each product type can have."""


@dataclass(frozen=True, slots=True)
class Channel:
    """What the annotation of one polarisation says, the names of it and of its pixels, and how they become power."""

    image: Image
    annotation: str
    measurement: str
    calibration: Calibration
    warnings: tuple[str, ...]


def parse_member(layout: Layout, name: str) -> Element:
    """Parse a member that is XML."""
    return parse(layout.read(name), layout.where(name))


def pairs(layout: Layout) -> list[tuple[str, str]]:
    """Give (annotation, measurement) names; each must have the other."""
    annotations = {stem(n): n for n in layout.under("annotation", ".xml")}
    measurements = {stem(n): n for n in layout.under("measurement", ".tiff|.tif")}
    if not annotations:
        raise SceneRejected(f"{layout.where('annotation')} holds no annotation: the product is incomplete")
    for name in sorted(annotations.keys() ^ measurements.keys()):
        if name in measurements:
            raise SceneRejected(
                f"{layout.where(measurements[name])} has no annotation {layout.where(f'annotation/{name}.xml')}: "
                "the product is incomplete, fetch it again"
            )
        raise SceneRejected(
            f"{layout.where(f'measurement/{name}.tiff')} is missing: the product has annotation but no pixels"
        )
    return [(annotations[name], measurements[name]) for name in sorted(annotations)]


def read_channel(layout: Layout, annotation: str, measurement: str, manifest: Manifest, pixels: Pixels) -> Channel:
    """Read all the XML of one polarisation. Raises SceneRejected where it cannot become what the recipe asks for."""
    where = layout.where(annotation)
    image = read_image(parse_member(layout, annotation), where)
    if image.product_type != manifest.product_type or image.polarisation not in ORDER:
        raise SceneRejected(
            f"{where} is {image.product_type} {image.polarisation}, expected {manifest.product_type} VV, VH, HH or HV"
        )
    gain_name = _side_file(layout, annotation, "calibration")
    gain = read_calibration(parse_member(layout, gain_name), layout.where(gain_name), pixels.quantity)
    noise, warnings = _read_noise(layout, annotation, image, manifest) if pixels.denoise else (None, ())
    calibration = Calibration.of(image.shape, gain, noise, bursts=bursts_of(image), least=least_power(pixels))
    return Channel(image, annotation, measurement, calibration, warnings)


def _read_noise(
    layout: Layout, annotation: str, image: Image, manifest: Manifest
) -> tuple[Noise | None, tuple[str, ...]]:
    """Read the noise that can be removed, or None and a warning that says why it cannot."""
    _check_denoise(image, layout.where(annotation))
    name = _side_file(layout, annotation, "noise")
    noise = read_noise(parse_member(layout, name), layout.where(name))
    if reason := _no_noise(noise, manifest):
        return None, (f"{image.polarisation} is not denoised: {reason}",)
    return mend_wave_noise(noise, image.mission, image.swath, manifest.ipf or (0, 0)), ()


def _side_file(layout: Layout, annotation: str, kind: str) -> str:
    """Give the name of an annotation's calibration or noise file."""
    wanted = f"{kind}-{stem(annotation)}"
    for name in layout.under("annotation/calibration", ".xml"):
        if stem(name) == wanted:
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
