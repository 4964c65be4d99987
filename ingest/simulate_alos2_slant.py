"""The simulated slant-range image of ALOS-2: where its lines and samples lie, and its complex pixels."""

from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from pyproj import Transformer

from ingest.simulate_alos2_scene import (
    CALIBRATION_FACTOR_DB,
    HEADING_DEG,
    HEIGHT_M,
    INCIDENCE_DEG,
    Acquisition,
)
from ingest.simulate_ceos import image_descriptor, write_lines
from ingest.simulate_pass import SPEED_OF_LIGHT_M_S, Orbit, Vector
from ingest.simulate_scene import Strip
from ingest.truth import Place

SAMPLING_MHZ = 34.9305319
RANGE_SPACING_M = SPEED_OF_LIGHT_M_S / 2 / (SAMPLING_MHZ * 1e6)
LINE_INTERVAL_S = 0.0005
PREFIX_BYTES = 544
_IMAGE_CODES = (50, 10, 18, 20)
_COMPLEX_DB = -32.0
_AXES_M = np.array([6_378_137.0, 6_378_137.0, 6_356_752.314245])
_STEPS = 12
_PREFIX = {
    "line": (12, ">u4"),
    "data_pixels": (24, ">u4"),
    "year": (36, ">u4"),
    "day": (40, ">u4"),
    "milliseconds": (44, ">u4"),
    "channel": (48, ">u2"),
    "transmitted": (52, ">u2"),
    "received": (54, ">u2"),
    "prf_mhz": (56, ">u4"),
    "microseconds": (84, ">u8"),
    "slant_range_m": (116, ">u4"),
    "latitude_microdeg": (192, (">i4", 3)),
    "longitude_microdeg": (204, (">i4", 3)),
}


@dataclass(frozen=True)
class SlantImage:
    """Lines of equal time and samples of equal slant range; the middle of the image is the place."""

    place: Place
    rows: int
    cols: int

    @cached_property
    def orbit(self) -> Orbit:
        """The circular orbit that sees the place."""
        heading = np.radians(HEADING_DEG)
        easting, northing = self.place.origin()
        ahead_east, ahead_north = np.array([0.0, np.sin(heading)]), np.array([0.0, np.cos(heading)])
        lon, lat = self.place.lonlat(easting + ahead_east, northing + ahead_north)
        return Orbit.over(lon, lat, HEIGHT_M, INCIDENCE_DEG)

    @cached_property
    def near_m(self) -> float:
        """Slant range of the first sample, a whole number of metres as prefixes have it."""
        middle_m = self.orbit.see(np.array([self.place.lon]), np.array([self.place.lat])).slant_range_m[0]
        return float(np.rint(middle_m - (self.cols - 1) / 2 * RANGE_SPACING_M))

    def time_s(self, row: Vector) -> Vector:
        """Give the moment of lines on the orbit: 0 in the middle."""
        return (np.asarray(row) - (self.rows - 1) / 2) * LINE_INTERVAL_S

    def lonlat(self, row: Vector, col: Vector) -> tuple[Vector, Vector]:
        """Give longitude and latitude in degrees of pixels: each line's look is turned until it meets the ellipsoid."""
        shape = np.broadcast_shapes(np.shape(row), np.shape(col))
        time_s = np.broadcast_to(self.time_s(row), shape).ravel()
        range_m = np.broadcast_to(self.near_m + np.asarray(col) * RANGE_SPACING_M, shape).ravel()
        satellite, ahead = self.orbit.position(time_s), self.orbit.velocity(time_s)
        up = satellite / np.linalg.norm(satellite, axis=1, keepdims=True)
        side = np.cross(ahead / np.linalg.norm(ahead, axis=1, keepdims=True), up)
        angle = np.full(len(time_s), np.radians(36.0))
        for _ in range(_STEPS):
            point, slope = (
                satellite + _turned(range_m, angle, up, side),
                _turned(range_m, angle + np.pi / 2, up, side),
            )
            scaled = point / _AXES_M
            angle = angle - ((scaled**2).sum(1) - 1.0) / (2 * (scaled * slope / _AXES_M).sum(1))
        lon, lat, _ = Transformer.from_crs(4978, 4979, always_xy=True).transform(point[:, 0], point[:, 1], point[:, 2])
        return np.reshape(lon, shape), np.reshape(lat, shape)

    def metres(self, row: Vector, col: Vector) -> tuple[Vector, Vector]:
        """Give metres east and north of the place."""
        lon, lat = self.lonlat(row, col)
        easting, northing = Transformer.from_crs(4326, self.place.epsg, always_xy=True).transform(lon, lat)
        origin_east, origin_north = self.place.origin()
        return np.asarray(easting) - origin_east, np.asarray(northing) - origin_north


@dataclass(frozen=True)
class SlantAcquisition(Acquisition):
    """One pass in slant range: every pixel has data."""

    grid: SlantImage
    level: str = "1.1"

    @cached_property
    def orbit(self) -> Orbit:
        """The orbit that the image's lines are taken from."""
        return self.grid.orbit

    def valid(self, row: Vector, col: Vector) -> NDArray[np.bool_]:
        """Tell that every pixel holds data."""
        return np.ones(np.broadcast_shapes(np.shape(row), np.shape(col)), np.bool_)

    def corners(self) -> list[tuple[float, float]]:
        """Give row and column of left top, right top, left bottom, right bottom."""
        last_row, last_col = self.grid.rows - 1.0, self.grid.cols - 1.0
        return [(0.0, 0.0), (0.0, last_col), (last_row, 0.0), (last_row, last_col)]


def _turned(range_m: Vector, angle: Vector, up: Vector, side: Vector) -> Vector:
    """Give the look vector that leans by an angle from straight down to the side."""
    return range_m[:, None] * (-np.cos(angle)[:, None] * up + np.sin(angle)[:, None] * side)


def complex_descriptor(of: SlantAcquisition) -> bytes:
    """Write the descriptor of an image of complex pixels."""
    fields = {(400, 428): "COMPLEX REAL*8", (428, 432): "C*8"}
    return image_descriptor(of.grid.rows, of.grid.cols, PREFIX_BYTES, (32, 2, 8), fields)


def line_bytes(of: SlantAcquisition) -> int:
    """Give the length of a line's record."""
    return PREFIX_BYTES + 8 * of.grid.cols


def write_complex_lines(image: BinaryIO, of: SlantAcquisition, polarisation: str, strip: Strip) -> None:
    """Append lines: preamble, prefix with time, range and place, big-endian pairs of a phase that means nothing."""
    cols, length = of.grid.cols, line_bytes(of)
    layout = np.dtype(
        {
            "names": [*_PREFIX, "pixels"],
            "formats": [*(kind for _, kind in _PREFIX.values()), (">f4", (cols, 2))],
            "offsets": [*(at for at, _ in _PREFIX.values()), PREFIX_BYTES],
            "itemsize": length,
        }
    )
    power = strip.power[polarisation]
    row = np.arange(strip.row, strip.row + len(power))
    lines = np.zeros(len(row), layout)
    lines["line"] = row + 1
    lines["data_pixels"] = cols
    lines["channel"] = of.polarisations.index(polarisation) + 1
    lines["transmitted"], lines["received"] = ("HV".index(letter) for letter in polarisation)
    lines["prf_mhz"] = round(1e3 / LINE_INTERVAL_S)
    _place_lines(lines, of, row)
    lines["pixels"] = _pairs(power, strip.row, of.polarisations.index(polarisation))
    write_lines(image, lines, strip.row, _IMAGE_CODES)


def _place_lines(lines: NDArray[np.void], of: SlantAcquisition, row: NDArray[np.int64]) -> None:
    col = np.array([0.0, (of.grid.cols - 1) // 2, of.grid.cols - 1.0])
    lon, lat = of.grid.lonlat(row[:, None].astype(float), col[None, :])
    lines["latitude_microdeg"], lines["longitude_microdeg"] = np.rint(lat * 1e6), np.rint(lon * 1e6)
    midnight = of.start.replace(hour=0, minute=0, second=0, microsecond=0)
    since_midnight_s = (of.start - midnight).total_seconds() + row * LINE_INTERVAL_S
    lines["year"], lines["day"] = of.start.year, of.start.timetuple().tm_yday
    lines["microseconds"] = np.rint(since_midnight_s * 1e6)
    lines["milliseconds"] = lines["microseconds"] // 1000
    lines["slant_range_m"] = of.grid.near_m


def _pairs(power: NDArray[np.float32], row: int, channel: int) -> NDArray[np.float32]:
    """Give (rows, cols, 2) of in phase and quadrature whose squares add up to calibrated power; 0 where it is NaN."""
    gain = 10.0 ** (-(CALIBRATION_FACTOR_DB + _COMPLEX_DB) / 10.0)
    amplitude = np.sqrt(np.where(np.isnan(power), 0.0, power).astype(np.float64) * gain)
    phase = np.random.default_rng((row, channel)).uniform(0.0, 2 * np.pi, power.shape)
    return np.stack([amplitude * np.cos(phase), amplitude * np.sin(phase)], axis=-1).astype(np.float32)
