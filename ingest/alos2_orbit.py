"""Where ALOS-2 flew, and what follows from it: incidence angles, and where slant-range pixels lie on the ellipsoid.

Everything is in the Earth-fixed frame and of zero Doppler, to which PALSAR-2 is steered and processed.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

import numpy as np
from numpy.polynomial import polynomial
from numpy.typing import NDArray
from pyproj import Transformer

from ingest.ceos import Fields
from ingest.scene import SceneRejected

Floats = NDArray[np.float64]

_A_M, _B_M = 6_378_137.0, 6_356_752.3142
"""Axes of the WGS 84 ellipsoid; those of GRS 80, which leaders name, differ by 0.1 mm."""
_MAX_VECTORS = 64
_VECTORS = 8
_ITERATIONS = 12
_TOLERANCE_M = 1e-3
_VELOCITY_TOLERANCE_M_S = 1.0


@dataclass(frozen=True, slots=True)
class Orbit:
    """A stretch of orbit as one polynomial per axis: ``coefficients`` (degree + 1, 3) of metres.

    Time counts in seconds from ``epoch``; the polynomial's own variable is (t - middle_s) / scale_s.
    """

    epoch: datetime
    middle_s: float
    scale_s: float
    coefficients: Floats

    @classmethod
    def of_vectors(cls, epoch: datetime, times_s: Floats, states: Floats, around: datetime, name: str) -> Self:
        """Fit the vectors (n, 6: metres, metres per second) nearest to a moment.

        Raises SceneRejected where the moment lies outside of them or positions and velocities contradict each other.
        """
        at_s = (around - epoch).total_seconds()
        if len(times_s) < _VECTORS or not times_s[0] <= at_s <= times_s[-1]:
            raise SceneRejected(
                f"{name} has {len(times_s)} state vectors over {times_s[-1] - times_s[0]:.0f} s from {epoch}; the "
                f"scene's centre {around} is not among them: the product is damaged"
            )
        near = np.sort(np.argsort(np.abs(times_s - at_s), kind="stable")[:_VECTORS])
        middle_s, scale_s = float(times_s[near].mean()), float(np.ptp(times_s[near]) / 2)
        coefficients = polynomial.polyfit((times_s[near] - middle_s) / scale_s, states[near, :3], _VECTORS - 1)
        orbit = cls(epoch, middle_s, scale_s, np.asarray(coefficients, np.float64))
        error_m_s = np.abs(orbit.velocity(times_s[near]) - states[near, 3:]).max()
        if not error_m_s < _VELOCITY_TOLERANCE_M_S:
            raise SceneRejected(
                f"{name} contradicts itself: its positions move at other velocities than it states, by up to "
                f"{error_m_s:.1f} m/s"
            )
        return orbit

    def position(self, time_s: Floats) -> Floats:
        """Give positions in metres, (n, 3)."""
        return self._derivative(time_s, 0)

    def velocity(self, time_s: Floats) -> Floats:
        """Give velocities in metres per second, (n, 3)."""
        return self._derivative(time_s, 1)

    def _derivative(self, time_s: Floats, order: int) -> Floats:
        found = polynomial.polyder(self.coefficients, order, scl=1 / self.scale_s)
        return np.asarray(polynomial.polyval((time_s - self.middle_s) / self.scale_s, found).T)

    def incidence_deg(self, lon: Floats, lat: Floats) -> Floats:
        """Give the angle (n,) between the line of sight and the ellipsoid's normal at points in degrees."""
        ground = earth_fixed(lon, lat)
        time_s = np.full(len(ground), self.middle_s)
        for _ in range(_ITERATIONS):
            look, velocity = ground - self.position(time_s), self.velocity(time_s)
            time_s = time_s + (look * velocity).sum(1) / (velocity * velocity).sum(1)
        look = self.position(time_s) - ground
        east, north = np.radians(lon), np.radians(lat)
        normal = np.stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)], axis=-1)
        cosine = (look * normal).sum(1) / np.linalg.norm(look, axis=1)
        return np.asarray(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))

    def ground(self, time_s: Floats, slant_range_m: Floats, right: bool) -> Floats:
        """Give (n, 2) longitude and latitude in degrees of points of the ellipsoid at a time and range, or NaN.

        Newton's method on three equations: range, zero Doppler, ellipsoid.
        """
        satellite, velocity = self.position(time_s), self.velocity(time_s)
        velocity = velocity / np.linalg.norm(velocity, axis=1, keepdims=True)
        point = _first_guess(satellite, velocity, slant_range_m, right)
        axes = np.array([_A_M, _A_M, _B_M])
        for _ in range(_ITERATIONS):
            look = point - satellite
            length = np.linalg.norm(look, axis=1)
            flat = point / axes
            height = np.linalg.norm(flat, axis=1)
            misses = np.stack([length - slant_range_m, (look * velocity).sum(1), (height - 1.0) * _A_M], axis=-1)
            slopes = np.stack(
                [look / length[:, None], velocity, flat / axes / height[:, None] * _A_M],
                axis=1,
            )
            try:
                point = point - np.linalg.solve(slopes, misses[..., None])[..., 0]
            except np.linalg.LinAlgError:  # the look lies in the ellipsoid's tangent: there is no such point
                return np.full((len(point), 2), np.nan)
        hidden = ((point - satellite) * point / axes**2).sum(1) > 0  # beyond the horizon
        wrong = ~(np.abs(misses).max(1) < _TOLERANCE_M) | hidden
        degrees = Transformer.from_crs(4978, 4979, always_xy=True).transform(point[:, 0], point[:, 1], point[:, 2])
        return np.where(wrong[:, None], np.nan, np.stack(degrees[:2], axis=-1))


def _first_guess(satellite: Floats, ahead: Floats, slant_range_m: Floats, right: bool) -> Floats:
    """Look sideways at a sphere of the Earth's mean radius."""
    radius_m = (2 * _A_M + _B_M) / 3
    distance_m = np.linalg.norm(satellite, axis=1)
    up = satellite / distance_m[:, None]
    up = up - (up * ahead).sum(1, keepdims=True) * ahead
    up /= np.linalg.norm(up, axis=1, keepdims=True)
    cosine = (slant_range_m**2 + distance_m**2 - radius_m**2) / (2 * slant_range_m * distance_m)
    cosine = np.clip(cosine, -0.999, 0.999)
    side = np.cross(ahead, up) * (1.0 if right else -1.0)
    down = -cosine[:, None] * up + np.sqrt(1 - cosine**2)[:, None] * side
    return np.asarray(satellite + slant_range_m[:, None] * down)


def earth_fixed(lon: Floats, lat: Floats) -> Floats:
    """Give (n, 3) Earth-fixed metres of points of the ellipsoid in degrees."""
    to_ecef = Transformer.from_crs(4979, 4978, always_xy=True)
    return np.stack(to_ecef.transform(lon, lat, np.zeros_like(lon)), axis=-1)


def read_orbit(fields: Fields, around: datetime) -> Orbit | None:
    """Read the platform position record (type 18-30), or give None where it is not in the Earth-fixed frame.

    CEOS format description, platform position data record: count at byte 140, first moment at 144 to 181, interval
    at 182, frame at 204, vectors of six numbers from 386.
    """
    if fields.text(204, 268) != "ECR":
        return None
    count = fields.integer(140, 144, "the number of state vectors")
    if not _VECTORS <= count <= _MAX_VECTORS:
        raise SceneRejected(f"{fields.name} has {count} state vectors, expected {_VECTORS} to {_MAX_VECTORS}")
    year, month, day = (fields.integer(at, at + 4, "a date") for at in (144, 148, 152))
    try:
        epoch = datetime(year, month, day, tzinfo=UTC)
        epoch += timedelta(seconds=fields.number(160, 182, "the first second"))
    except (ValueError, OverflowError) as error:
        raise SceneRejected(f"{fields.name} gives no moment for its first vector: {error}") from error
    interval_s = fields.number(182, 204, "the interval")
    if not 0.1 < interval_s < 1000.0:
        raise SceneRejected(f"{fields.name} gives {interval_s} s between state vectors, expected about 60")
    values = [fields.number(386 + 22 * i, 408 + 22 * i, "a state vector") for i in range(6 * count)]
    states = np.array(values, np.float64).reshape(count, 6)
    times_s = np.arange(count, dtype=np.float64) * interval_s
    return Orbit.of_vectors(epoch, times_s, states, around, fields.name)
