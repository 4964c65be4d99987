"""The look-up tables of a Sentinel-1 product: calibration vectors and thermal noise (S1-RS-MDA-52-7441)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from ingest.recipe import Quantity
from ingest.scene import SceneRejected
from ingest.xml import expect, integer, number, numbers, text

Floats = NDArray[np.float64]
Times = NDArray[np.datetime64]

# Terrain flattening starts from beta0: it divides by the lit area, not by an angle (Small 2011).
_LUTS: Mapping[Quantity, str] = MappingProxyType(
    {"sigma0": "sigmaNought", "beta0": "betaNought", "gamma0": "gamma", "gamma0-terrain": "betaNought"}
)
# What noise in wave mode products of IPF 2.90 and 2.91 must be multiplied by, dB (ESA's product notice, via xsar).
_WAVE_DB: Mapping[tuple[str, str], float] = MappingProxyType(
    {("S1A", "WV1"): -38.13, ("S1A", "WV2"): -36.84, ("S1B", "WV1"): -39.30, ("S1B", "WV2"): -37.44}
)


@dataclass(frozen=True, slots=True)
class Vectors:
    """LUT vectors along range: ``lines`` (n,) ascending; each vector has its own ``pixels`` and ``values``.

    ``times`` (n,) is when the vectors hold, UTC. Lines may be negative, and go on beyond the image.
    """

    lines: Floats
    pixels: tuple[Floats, ...]
    values: tuple[Floats, ...]
    times: Times | None = None


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


def read_calibration(root: Element, name: str, quantity: Quantity = "sigma0") -> Vectors:
    """Read the vectors of the LUT that gives a quantity; every value must be positive.

    For ``gamma0-terrain`` it is that of beta0, which terrain flattening starts from.
    """
    expect(root, "calibration", name)
    found = root.findall("calibrationVectorList/calibrationVector")
    lut = _LUTS[quantity]
    vectors = _read_vectors(found, lut, name)
    if min(float(v.min()) for v in vectors.values) <= 0:
        raise SceneRejected(f"{name} has a {lut} LUT with zero or negative values, which cannot calibrate")
    return vectors


def read_noise(root: Element, name: str) -> Noise:
    """Read the noise of either layout: one list of vectors (IPF < 2.90), or range vectors and azimuth blocks."""
    expect(root, "noise", name)
    old = root.findall("noiseVectorList/noiseVector")
    if old:
        return Noise(_read_vectors(old, "noiseLut", name), ())
    found = root.findall("noiseRangeVectorList/noiseRangeVector")
    blocks = root.findall("noiseAzimuthVectorList/noiseAzimuthVector")
    return Noise(_read_vectors(found, "noiseRangeLut", name), tuple(_read_block(b, name) for b in blocks))


def mend_wave_noise(noise: Noise, platform: str, swath: str, ipf: tuple[int, int]) -> Noise:
    """Give the noise of a wave mode image as it should have been annotated.

    IPF 2.90 and 2.91 annotated it about 38 dB too high, by a constant of satellite ("S1A") and beam ("WV1").
    """
    if ipf not in ((2, 90), (2, 91)) or (platform, swath) not in _WAVE_DB:
        return noise
    factor = 10 ** (_WAVE_DB[platform, swath] / 10)
    values = tuple(v * factor for v in noise.vectors.values)
    return replace(noise, vectors=replace(noise.vectors, values=values))


def _read_vectors(found: list[Element], lut: str, name: str) -> Vectors:
    if not found:
        raise SceneRejected(f"{name} has no {lut} vectors: the file is damaged or not of this product kind")
    lines = np.array([number(v, "line", name) for v in found])
    pixels = tuple(numbers(v, "pixel", name) for v in found)
    values = tuple(numbers(v, lut, name, count=len(p)) for v, p in zip(found, pixels, strict=True))
    if (np.diff(lines) <= 0).any() or any((np.diff(p) <= 0).any() for p in pixels):
        raise SceneRejected(f"{name}: lines or pixels of the {lut} vectors do not ascend")
    return Vectors(lines, pixels, values, np.array([_time(v, name) for v in found], "datetime64[us]"))


def _time(vector: Element, name: str) -> np.datetime64:
    found = text(vector, "azimuthTime", name)
    try:
        return np.datetime64(found, "us")
    except ValueError:
        raise SceneRejected(
            f"{name}: azimuthTime is {found[:40]!r}, expected a time such as 2020-05-11T13:51:19.4"
        ) from None


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
