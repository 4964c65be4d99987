"""What the manifest and the annotation of a Sentinel-1 product say (S1-RS-MDA-52-7441)."""

from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from ingest.geometry import GroundGrid
from ingest.scene import SceneRejected
from ingest.xml import expect, integer, moment, number, numbers, text

Floats = NDArray[np.float64]
_IPF = "Sentinel-1 IPF"
MAX_PIXELS = 2**31
"""A declared image larger than this is no Sentinel-1 product."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the manifest says of the whole product; ``ipf`` is the (major, minor) version that made it.

    ``processing`` names that processor and its version as the manifest writes it.
    """

    family: str
    product_type: str
    polarisations: tuple[str, ...]
    ipf: tuple[int, int] | None
    processing: str | None


@dataclass(frozen=True, slots=True)
class BurstTiming:
    """One burst of a TOPS image: when its first line was seen (zero Doppler, UTC), and which samples are valid.

    ``first_valid`` and ``last_valid`` (lines of a burst,) are inclusive; -1 in both where a line has none.
    """

    time: np.datetime64
    first_valid: NDArray[np.int64]
    last_valid: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Image:
    """The annotation of one image. ``spacing_m`` is (azimuth, range): along the ground, or for SLC the slant.

    ``bursts`` is empty but for SLC images of the TOPS modes, IW and EW. Times are UTC.
    """

    polarisation: str
    mission: str
    mode: str
    swath: str
    product_type: str
    start: str
    stop: str
    absolute_orbit: int
    data_take: int
    line_interval_s: float
    bursts: tuple[BurstTiming, ...]
    orbit: str
    shape: tuple[int, int]
    spacing_m: tuple[float, float]
    noise_removed: bool
    composition: str
    grid: GroundGrid


def read_manifest(root: Element, name: str) -> Manifest:
    """Read a manifest.safe; raises SceneRejected where it names no platform."""
    family = next((e.text or "" for e in _all(root, "platform") for e in _all(e, "familyName")), "")
    number_ = next((e.text or "" for e in _all(root, "platform") for e in _all(e, "number")), "")
    if not family:
        raise SceneRejected(f"{name} names no platform: it is not the manifest of a SAFE product")
    ipf = _ipf(root)
    return Manifest(
        family=f"{family}{number_}".strip(),
        product_type=next((e.text or "" for e in _all(root, "productType")), "").strip(),
        polarisations=tuple((e.text or "").strip() for e in _all(root, "transmitterReceiverPolarisation")),
        ipf=_version(ipf),
        processing=f"{_IPF} {ipf}" if ipf else None,
    )


def _ipf(root: Element) -> str | None:
    """Give the version of the outermost processing by the IPF; those inside made the inputs."""
    versions = (e.get("version") for e in _all(root, "software") if e.get("name") == _IPF)  # outer before inner
    return next((version.strip() for version in versions if version), None)


def _version(text_: str | None) -> tuple[int, int] | None:
    """Give "003.40" as (3, 40)."""
    major, _, minor = (text_ or "").partition(".")
    known = major.isdecimal() and minor.isdecimal() and len(text_ or "") < 20
    return (int(major), int(minor)) if known else None


def _all(root: Element, local_name: str) -> Iterator[Element]:
    """Give the elements of a name in any namespace, in document order."""
    return (e for e in root.iter() if e.tag.rpartition("}")[2] == local_name)


def read_image(root: Element, name: str) -> Image:
    """Read a product annotation."""
    expect(root, "product", name)
    info, done = "imageAnnotation/imageInformation/", "imageAnnotation/processingInformation/"
    shape = integer(root, info + "numberOfLines", name), integer(root, info + "numberOfSamples", name)
    if min(shape) < 2 or shape[0] * shape[1] > MAX_PIXELS:
        raise SceneRejected(f"{name} declares {shape[0]} x {shape[1]} pixels, which no product of this kind has")
    return Image(
        polarisation=text(root, "adsHeader/polarisation", name),
        mission=text(root, "adsHeader/missionId", name),
        mode=text(root, "adsHeader/mode", name),
        swath=text(root, "adsHeader/swath", name),
        product_type=text(root, "adsHeader/productType", name),
        start=str(moment(root, "adsHeader/startTime", name)),
        stop=str(moment(root, "adsHeader/stopTime", name)),
        absolute_orbit=integer(root, "adsHeader/absoluteOrbitNumber", name),
        data_take=integer(root, "adsHeader/missionDataTakeId", name),
        line_interval_s=_line_interval(root, info + "azimuthTimeInterval", name),
        bursts=_read_bursts(root, shape, name),
        orbit=text(root, "generalAnnotation/productInformation/pass", name).lower(),
        shape=shape,
        spacing_m=(
            _spacing_m(root, info + "azimuthPixelSpacing", name),
            _spacing_m(root, info + "rangePixelSpacing", name),
        ),
        noise_removed=(root.findtext(done + "thermalNoiseCorrectionPerformed") or "").strip() == "true",
        composition=(root.findtext(info + "productComposition") or "").strip(),
        grid=_read_grid(root, name),
    )


def _line_interval(root: Element, path: str, name: str) -> float:
    found = number(root, path, name)
    if not 1e-5 < found < 1:
        raise SceneRejected(f"{name}: {path} is {found}, expected some milliseconds; the file is damaged")
    return found


def _spacing_m(root: Element, path: str, name: str) -> float:
    found = number(root, path, name)
    if not 0.1 < found < 1000:
        raise SceneRejected(f"{name}: {path} is {found}, expected metres between pixels; the file is damaged")
    return found


def _read_grid(root: Element, name: str) -> GroundGrid:
    fields = ("line", "pixel", "longitude", "latitude", "incidenceAngle", "height")
    found = root.findall("geolocationGrid/geolocationGridPointList/geolocationGridPoint")
    points = [[number(point, field, name) for field in fields] for point in found]
    return GroundGrid.of_points(np.array(points, np.float64).reshape(-1, len(fields)), name)


def _read_bursts(root: Element, shape: tuple[int, int], name: str) -> tuple[BurstTiming, ...]:
    """Read the bursts, which follow each other in the image; ground range and stripmap products have none."""
    found = root.findall("swathTiming/burstList/burst")
    if not found:
        return ()
    lines = integer(root, "swathTiming/linesPerBurst", name)
    if lines * len(found) != shape[0]:
        raise SceneRejected(
            f"{name} has {len(found)} bursts of {lines} lines, which do not make an image of {shape[0]} lines"
        )
    return tuple(_read_burst(burst, lines, shape[1], name) for burst in found)


def _read_burst(burst: Element, lines: int, samples: int, name: str) -> BurstTiming:
    first, last = (numbers(burst, f"{end}ValidSample", name, count=lines) for end in ("first", "last"))
    none = (first < 0) | (last < 0)
    if ((first > last) & ~none).any() or last.max() >= samples:
        raise SceneRejected(f"{name}: the valid samples of a burst do not lie in its {samples} samples")
    return BurstTiming(
        time=moment(burst, "azimuthTime", name),
        first_valid=np.where(none, -1, first).astype(np.int64),
        last_valid=np.where(none, -1, last).astype(np.int64),
    )
