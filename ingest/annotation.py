"""What the XML files of a Sentinel-1 product say: image, calibration and noise (S1-RS-MDA-52-7441)."""

from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from ingest.geometry import GroundGrid
from ingest.scene import SceneRejected
from ingest.xml import integer, number, numbers, text

Floats = NDArray[np.float64]
MAX_PIXELS = 2**31
"""A declared image larger than this is no Sentinel-1 product."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the manifest says of the whole product; ``ipf`` is the (major, minor) version that made it."""

    family: str
    product_type: str
    polarisations: tuple[str, ...]
    ipf: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Image:
    """The annotation of one image. ``spacing_m`` is (azimuth, ground range)."""

    polarisation: str
    mode: str
    product_type: str
    start: str
    orbit: str
    shape: tuple[int, int]
    spacing_m: tuple[float, float]
    noise_removed: bool
    composition: str
    grid: GroundGrid


@dataclass(frozen=True, slots=True)
class Vectors:
    """LUT vectors along range: ``lines`` (n,) ascending; each vector has its own ``pixels`` and ``values``."""

    lines: Floats
    pixels: tuple[Floats, ...]
    values: tuple[Floats, ...]


@dataclass(frozen=True, slots=True)
class NoiseBlock:
    """A rectangle of one swath, bounds inclusive, with its noise factor along azimuth at ``lines``."""

    swath: str
    first_line: int
    last_line: int
    first_pixel: int
    last_pixel: int
    lines: Floats
    factors: Floats


@dataclass(frozen=True, slots=True)
class Noise:
    """Thermal noise power in squared digital numbers: range vectors times the factors of azimuth blocks.

    ``blocks`` is empty where the range vectors alone are the noise (IPF < 2.90, and stripmap).
    """

    vectors: Vectors
    blocks: tuple[NoiseBlock, ...]


def read_manifest(root: Element, name: str) -> Manifest:
    """Read a manifest.safe; raises SceneRejected where it names no platform."""
    family = next((e.text or "" for e in _all(root, "platform") for e in _all(e, "familyName")), "")
    number_ = next((e.text or "" for e in _all(root, "platform") for e in _all(e, "number")), "")
    if not family:
        raise SceneRejected(f"{name} names no platform: it is not the manifest of a SAFE product")
    return Manifest(
        family=f"{family}{number_}".strip(),
        product_type=next((e.text or "" for e in _all(root, "productType")), "").strip(),
        polarisations=tuple((e.text or "").strip() for e in _all(root, "transmitterReceiverPolarisation")),
        ipf=_ipf(root),
    )


def _ipf(root: Element) -> tuple[int, int] | None:
    """Give the version of the outermost processing by "Sentinel-1 IPF"; those inside made the inputs."""
    for software in _all(root, "software"):  # document order: outer before inner
        if software.get("name") == "Sentinel-1 IPF":
            major, _, minor = (software.get("version") or "").partition(".")
            if major.isdigit() and minor.isdigit():
                return int(major), int(minor)
    return None


def _all(root: Element, local_name: str) -> Iterator[Element]:
    """Give the elements of a name in any namespace, in document order."""
    return (e for e in root.iter() if e.tag.rpartition("}")[2] == local_name)


def read_image(root: Element, name: str) -> Image:
    """Read a product annotation."""
    _expect(root, "product", name)
    info, done = "imageAnnotation/imageInformation/", "imageAnnotation/processingInformation/"
    shape = integer(root, info + "numberOfLines", name), integer(root, info + "numberOfSamples", name)
    if min(shape) < 2 or shape[0] * shape[1] > MAX_PIXELS:
        raise SceneRejected(f"{name} declares {shape[0]} x {shape[1]} pixels, which no product of this kind has")
    return Image(
        polarisation=text(root, "adsHeader/polarisation", name),
        mode=text(root, "adsHeader/mode", name),
        product_type=text(root, "adsHeader/productType", name),
        start=text(root, "adsHeader/startTime", name),
        orbit=text(root, "generalAnnotation/productInformation/pass", name).lower(),
        shape=shape,
        spacing_m=(
            number(root, info + "azimuthPixelSpacing", name),
            number(root, info + "rangePixelSpacing", name),
        ),
        noise_removed=(root.findtext(done + "thermalNoiseCorrectionPerformed") or "").strip() == "true",
        composition=(root.findtext(info + "productComposition") or "").strip(),
        grid=_read_grid(root, name),
    )


def _read_grid(root: Element, name: str) -> GroundGrid:
    fields = ("line", "pixel", "longitude", "latitude")
    found = root.findall("geolocationGrid/geolocationGridPointList/geolocationGridPoint")
    points = [[number(point, field, name) for field in fields] for point in found]
    return GroundGrid.of_points(np.array(points, np.float64).reshape(-1, 4), name)


def read_calibration(root: Element, name: str, lut: str = "sigmaNought") -> Vectors:
    """Read the vectors of one calibration LUT; every value must be positive."""
    _expect(root, "calibration", name)
    found = root.findall("calibrationVectorList/calibrationVector")
    vectors = _read_vectors(found, lut, name)
    if min(float(v.min()) for v in vectors.values) <= 0:
        raise SceneRejected(f"{name} has a {lut} LUT with zero or negative values, which cannot calibrate")
    return vectors


def read_noise(root: Element, name: str) -> Noise:
    """Read the noise of either layout: one list of vectors (IPF < 2.90), or range vectors and azimuth blocks."""
    _expect(root, "noise", name)
    old = root.findall("noiseVectorList/noiseVector")
    if old:
        return Noise(_read_vectors(old, "noiseLut", name), ())
    found = root.findall("noiseRangeVectorList/noiseRangeVector")
    blocks = root.findall("noiseAzimuthVectorList/noiseAzimuthVector")
    return Noise(_read_vectors(found, "noiseRangeLut", name), tuple(_read_block(b, name) for b in blocks))


def _read_vectors(found: list[Element], lut: str, name: str) -> Vectors:
    if not found:
        raise SceneRejected(f"{name} has no {lut} vectors: the file is damaged or not of this product kind")
    lines = np.array([number(v, "line", name) for v in found])
    pixels = tuple(numbers(v, "pixel", name) for v in found)
    values = tuple(numbers(v, lut, name, count=len(p)) for v, p in zip(found, pixels, strict=True))
    if (np.diff(lines) <= 0).any() or any((np.diff(p) <= 0).any() for p in pixels):
        raise SceneRejected(f"{name}: lines or pixels of the {lut} vectors do not ascend")
    return Vectors(lines, pixels, values)


def _read_block(block: Element, name: str) -> NoiseBlock:
    lines = numbers(block, "line", name)
    if (np.diff(lines) <= 0).any():
        raise SceneRejected(f"{name}: lines of a noiseAzimuthLut do not ascend")
    return NoiseBlock(
        swath=text(block, "swath", name),
        first_line=integer(block, "firstAzimuthLine", name),
        last_line=integer(block, "lastAzimuthLine", name),
        first_pixel=integer(block, "firstRangeSample", name),
        last_pixel=integer(block, "lastRangeSample", name),
        lines=lines,
        factors=numbers(block, "noiseAzimuthLut", name, count=len(lines)),
    )


def _expect(root: Element, tag: str, name: str) -> None:
    if root.tag != tag:
        raise SceneRejected(f"{name} is a <{root.tag}>, expected a Sentinel-1 <{tag}> annotation")
