"""Where points on the ground lie in a Sentinel-1 image: the range and zero-Doppler equations, solved backwards.

A point is seen when the satellite's velocity is at right angles to the line of sight; that moment, found by Newton's
method, gives the line, and the distance at that moment gives the sample (UZH-S1-GC-AD, sections 4 and 5).

Two habits of the processor are followed. The annotated azimuth times of a line differ over range by half the change
of the pulse's travel time (the bistatic residual that the bulk correction leaves, up to 0.2 lines in IW): a line is
fitted through the annotated points. Ground range becomes slant range by the grsr polynomials, linear in time between
two of them; the srgr polynomials are a poorer fit (15 m in EW) and only start the inversion.
"""

from dataclasses import dataclass, replace
from typing import Self
from xml.etree.ElementTree import Element

import numba
import numpy as np
from numpy.typing import NDArray

from ingest.geometry import GroundGrid
from ingest.orbit import Orbit, Times, moment, read_annotated_orbit, seconds
from ingest.scene import SceneRejected
from ingest.xml import integer, number, numbers, text

SPEED_OF_LIGHT_M_S = 299_792_458.0
_DEGREE = 12
"""Polynomials of more coefficients are refused."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RangeTable:
    """Slant range in metres along a line: polynomials of ground range, or of slant range itself in an SLC.

    At ``times`` (n,) the pixel at ``spacing_m * col`` is ``sum over k of slant[n, k] (x - origin[n])^k`` away.
    ``ground`` with ``ground_origin`` is the approximate inverse.
    """

    times: Times
    origin: Floats
    slant: Floats
    ground_origin: Floats
    ground: Floats
    spacing_m: float


@dataclass(frozen=True, slots=True)
class RadarGrid:
    """All that places the pixels of one image of ``shape`` (rows, cols) by range-Doppler.

    Row ``rows[k]`` (ascending, fractional) is sensed at ``row_times[k]`` (UTC); between them time runs evenly. Two are
    enough for a GRD product; a de-burst SLC has two per burst. A pixel whose pulse travels tau seconds is annotated
    ``shift[0] + shift[1] * tau`` seconds later than its row. ``ground`` is the annotated geolocation grid.
    """

    platform: str
    shape: tuple[int, int]
    orbit: Orbit
    rows: Floats
    row_times: Times
    range: RangeTable
    shift: tuple[float, float]
    ground: GroundGrid

    def with_orbit(self, orbit: Orbit) -> Self:
        """Take another orbit. Raises SceneRejected where it does not reach over the image."""
        first, last = self.row_times[0], self.row_times[-1]
        if not orbit.covers(first, last):
            raise SceneRejected(f"{orbit.source} has no state vectors from {first} to {last}, when the image was taken")
        return replace(self, orbit=orbit)

    @property
    def line_interval_s(self) -> float:
        """Mean time between rows in seconds."""
        span = seconds(self.row_times[-1:], self.row_times[0])[0]
        return float(span / (self.rows[-1] - self.rows[0]))

    def locate(self, places: Floats) -> Floats:
        """Give (n, 2) row and column of Earth-fixed points (n, 3) in metres; both may lie outside the image."""
        return _solve(self, places)[:, :2]

    def satellite(self, places: Floats) -> Floats:
        """Give the (n, 3) Earth-fixed positions in metres from which points (n, 3) are seen."""
        return self.orbit.state(_solve(self, places)[:, 2])[0]

    def slant_range_m(self, rows: Floats, cols: Floats) -> Floats:
        """Give the slant range in metres of pixel centres (n,), and how much it grows from column to column, (2, n)."""
        table = self.range
        time_s = np.interp(rows, self.rows, seconds(self.row_times, self.orbit.epoch))
        knots = seconds(table.times, self.orbit.epoch)
        k = np.clip(np.searchsorted(knots, time_s, side="right") - 1, 0, max(len(knots) - 2, 0))
        after = np.minimum(k + 1, len(knots) - 1)
        share = np.clip((time_s - knots[k]) / np.where(after > k, knots[after] - knots[k], 1.0), 0.0, 1.0)
        sides = [_slope(table.slant[i], np.asarray(cols) * table.spacing_m - table.origin[i]) for i in (k, after)]
        slant, growth = (1 - share) * sides[0] + share * sides[1]
        return np.stack([slant, growth * table.spacing_m])


def read_radar_grid(root: Element, name: str, ground: GroundGrid) -> RadarGrid:
    """Read the geometry of a product annotation, whose geolocation grid is ``ground``.

    For TOPS SLC the rows are those of the first burst's time grid: replace ``rows``, ``row_times`` and ``shape`` by
    those of the de-burst image. Raises SceneRejected where a part is missing or the orbit does not reach the image.
    """
    info = "imageAnnotation/imageInformation/"
    shape = integer(root, info + "numberOfLines", name), integer(root, info + "numberOfSamples", name)
    first = moment(text(root, info + "productFirstLineUtcTime", name), name)
    interval_s = number(root, info + "azimuthTimeInterval", name)
    if not 1e-5 < interval_s < 1:
        raise SceneRejected(f"{name}: azimuthTimeInterval is {interval_s} s; the file is damaged")
    last = first + np.timedelta64(round((shape[0] - 1) * interval_s * 1e9), "ns")
    grid = RadarGrid(
        platform=text(root, "adsHeader/missionId", name),
        shape=shape,
        orbit=read_annotated_orbit(root, name),
        rows=np.array([0.0, shape[0] - 1.0]),
        row_times=np.array([first, last]),
        range=_read_range(root, name),
        shift=_read_shift(root, first, interval_s, name),
        ground=ground,
    )
    return grid.with_orbit(grid.orbit)


def _read_range(root: Element, name: str) -> RangeTable:
    found = root.findall("coordinateConversion/coordinateConversionList/coordinateConversion")
    if not found:
        return _slant_range(root, name)
    times = np.array([moment(text(c, "azimuthTime", name), name) for c in found])
    if (np.diff(times) <= np.timedelta64(0, "ns")).any():
        raise SceneRejected(f"{name}: the times of its coordinate conversions do not ascend")
    return RangeTable(
        times=times,
        origin=np.array([number(c, "gr0", name) for c in found]),
        slant=_polynomials([numbers(c, "grsrCoefficients", name) for c in found], name),
        ground_origin=np.array([number(c, "sr0", name) for c in found]),
        ground=_polynomials([numbers(c, "srgrCoefficients", name) for c in found], name),
        spacing_m=number(root, "imageAnnotation/imageInformation/rangePixelSpacing", name),
    )


def _slant_range(root: Element, name: str) -> RangeTable:
    """Samples of an SLC are even in slant range: by the sampling rate, not by the rounded pixel spacing."""
    near_m = number(root, "imageAnnotation/imageInformation/slantRangeTime", name) * SPEED_OF_LIGHT_M_S / 2
    rate_hz = number(root, "generalAnnotation/productInformation/rangeSamplingRate", name)
    return RangeTable(
        times=np.array([np.datetime64(0, "ns")]),
        origin=np.zeros(1),
        slant=np.array([[near_m, 1.0]]),
        ground_origin=np.array([near_m]),
        ground=np.array([[0.0, 1.0]]),
        spacing_m=SPEED_OF_LIGHT_M_S / 2 / rate_hz,
    )


def _polynomials(found: list[Floats], name: str) -> Floats:
    length = max(map(len, found))
    if not 2 <= length <= _DEGREE:
        raise SceneRejected(f"{name}: a range polynomial of {length} coefficients, expected 2 to {_DEGREE}")
    return np.stack([np.pad(c, (0, length - len(c))) for c in found])


def _read_shift(root: Element, first: np.datetime64, interval_s: float, name: str) -> tuple[float, float]:
    """Fit what the annotated times of the first line are later than the line, over the pulse's travel time."""
    points = root.findall("geolocationGrid/geolocationGridPointList/geolocationGridPoint")
    top = [p for p in points if number(p, "line", name) == 0]
    if len(top) < 2:
        return 0.0, 0.0
    late_s = seconds(np.array([moment(text(p, "azimuthTime", name), name) for p in top]), first)
    if np.abs(late_s).max() > 5 * interval_s:
        raise SceneRejected(f"{name}: its first geolocation points are {late_s.max()} s from its first line")
    slope, level = np.polyfit(np.array([number(p, "slantRangeTime", name) for p in top]), late_s, 1)
    return float(level), float(slope)


def _slope(coefficients: Floats, x: Floats) -> Floats:
    """Evaluate polynomials (n, k) at (n,), and their first derivative: (2, n)."""
    value, slope = np.zeros_like(x), np.zeros_like(x)
    for c in np.moveaxis(coefficients, -1, 0)[::-1]:
        slope = slope * x + value
        value = value * x + c
    return np.stack([value, slope])


def _solve(grid: RadarGrid, places: Floats) -> Floats:
    """Give (n, 3) row, column and time in seconds since the orbit's epoch."""
    orbit, table = grid.orbit, grid.range
    out = np.empty((len(places), 3))
    _kernel(
        np.ascontiguousarray(places, np.float64),
        orbit.knots_s,
        orbit.coefficients,
        grid.rows,
        seconds(grid.row_times, orbit.epoch),
        np.array(grid.shift),
        seconds(table.times, orbit.epoch),
        table.origin,
        table.slant,
        table.ground_origin,
        table.ground,
        table.spacing_m,
        out,
    )
    return out


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _stretch(knots, at):  # type: ignore[no-untyped-def]
    """Give the stretch between two knots that holds a value; the outer ones reach on."""
    return min(max(np.searchsorted(knots, at, side="right") - 1, 0), max(len(knots) - 2, 0))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _zero_doppler(place, start_s, knots, orbit):  # type: ignore[no-untyped-def]
    """Give the moment at which a place lies at right angles to the velocity, and its distance then."""
    t = start_s
    distance = 0.0
    for _ in range(20):
        k = _stretch(knots, t)
        s = t - knots[k]
        along, change, distance = 0.0, 0.0, 0.0
        for axis in range(3):
            a, b, c, d = orbit[k, 0, axis], orbit[k, 1, axis], orbit[k, 2, axis], orbit[k, 3, axis]
            look = place[axis] - (a + s * (b + s * (c + s * d)))
            velocity = b + s * (2 * c + s * 3 * d)
            along += look * velocity
            change += look * (2 * c + s * 6 * d) - velocity * velocity
            distance += look * look
        step = along / change
        t -= step
        if abs(step) < 1e-10:
            break
    return t, np.sqrt(distance)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _evaluate(coefficients, x):  # type: ignore[no-untyped-def]
    """Give a polynomial and its derivative."""
    value, slope = 0.0, 0.0
    for i in range(len(coefficients) - 1, -1, -1):
        slope = slope * x + value
        value = value * x + coefficients[i]
    return value, slope


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _kernel(places, knots, orbit, rows, row_s, shift, table_s, gr0, slant, sr0, ground, spacing, out):  # type: ignore[no-untyped-def]
    """Solve each place from the same start, so that its neighbours cannot change it."""
    start_s = 0.5 * (row_s[0] + row_s[-1])
    for n in range(len(places)):
        t, distance = _zero_doppler(places[n], start_s, knots, orbit)
        tau = distance / (0.5 * 299792458.0)
        at = t - shift[0] - shift[1] * tau
        k = _stretch(row_s, at)
        out[n, 0] = rows[k] + (at - row_s[k]) / (row_s[k + 1] - row_s[k]) * (rows[k + 1] - rows[k])
        i = _stretch(table_s, at)
        j = min(i + 1, len(table_s) - 1)
        share = 0.0 if i == j else min(max((at - table_s[i]) / (table_s[j] - table_s[i]), 0.0), 1.0)
        x = _evaluate(ground[i], distance - sr0[i])[0]
        for _ in range(4):
            v0, g0 = _evaluate(slant[i], x - gr0[i])
            v1, g1 = _evaluate(slant[j], x - gr0[j])
            x -= ((1 - share) * v0 + share * v1 - distance) / ((1 - share) * g0 + share * g1)
        out[n, 1] = x / spacing
        out[n, 2] = t
