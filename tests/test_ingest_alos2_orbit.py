from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
from alos2_products import PRODUCT
from pyproj import Geod

from ingest.alos2_orbit import Orbit, earth_fixed, read_orbit
from ingest.ceos import Fields, read_records
from ingest.scene import SceneRejected

CENTRE = datetime(2014, 9, 9, 4, 33, 47, 52_000, tzinfo=UTC)
RECORD = (18, 30)


@pytest.fixture(scope="module")
def fields(shared_data) -> Fields:
    leader = shared_data / "alos2" / "l15_ceos" / f"LED-{PRODUCT}"
    return dict(read_records(leader, frozenset((RECORD,))))[RECORD]


@pytest.fixture(scope="module")
def orbit(fields) -> Orbit:
    return read_orbit(fields, CENTRE)


@pytest.fixture(scope="module")
def vectors(fields) -> np.ndarray:
    return np.array([float(fields.data[386 + 22 * i : 408 + 22 * i]) for i in range(6 * 28)]).reshape(28, 6)


def test_the_real_vectors_are_met(orbit, vectors):
    assert orbit.epoch == datetime(2014, 9, 9, 4, 20, tzinfo=UTC)
    times_s = 60.0 * np.arange(10, 18)
    np.testing.assert_allclose(orbit.position(times_s), vectors[10:18, :3], atol=1e-3)
    np.testing.assert_allclose(orbit.velocity(times_s), vectors[10:18, 3:], atol=0.02)


def test_incidence_agrees_with_a_search_for_the_closest_approach(orbit, vectors):
    """Plain reference: cubic Hermite pieces between the two vectors around, closest of a million moments."""
    lon, lat = np.array([-62.9, -62.53, -62.17]), np.array([-10.68, -11.05, -11.42])
    u = np.linspace(0, 1, 200_001)[:, None]
    h = np.concatenate([2 * u**3 - 3 * u**2 + 1, u**3 - 2 * u**2 + u, 3 * u**2 - 2 * u**3, u**3 - u**2], axis=1)
    for x, y, found in zip(lon, lat, orbit.incidence_deg(lon, lat), strict=True):
        ground = earth_fixed(np.array([x]), np.array([y]))[0]
        path = np.concatenate([h @ [a[:3], 60 * a[3:], b[:3], 60 * b[3:]] for a, b in pairwise(vectors[12:15])])
        satellite = path[np.linalg.norm(path - ground, axis=1).argmin()]
        above = earth_fixed(np.array([x]), np.array([y]))[0] / np.array([6378137.0, 6378137.0, 6356752.3142]) ** 2
        look = satellite - ground
        angle = np.degrees(np.arccos(look @ above / np.linalg.norm(look) / np.linalg.norm(above)))
        assert found == pytest.approx(angle, abs=1e-4)


def test_ground_points_are_at_their_range_and_abeam(orbit):
    time_s, range_m = np.array([820.0, 827.0, 834.0]), np.array([790e3, 811_678.0, 830e3])
    for right in (True, False):
        lon, lat = orbit.ground(time_s, range_m, right).T
        look = earth_fixed(lon, lat) - orbit.position(time_s)
        assert np.abs(np.linalg.norm(look, axis=1) - range_m).max() < 1e-3
        assert np.abs((look * orbit.velocity(time_s)).sum(1) / 7600).max() < 1e-3
        ahead, up = orbit.velocity(time_s), orbit.position(time_s)
        assert ((np.cross(ahead, up) * look).sum(1) > 0).tolist() == [right] * 3


def test_a_pixel_of_the_real_scene_is_found_again(orbit):
    """The leader's centre, time and slant range belong together within the 1 ms of its time."""
    time_s = np.array([(CENTRE - orbit.epoch).total_seconds()])
    range_m = np.linalg.norm(
        earth_fixed(np.array([-62.5322403]), np.array([-11.0510316])) - orbit.position(time_s), axis=1
    )
    lon, lat = orbit.ground(time_s, range_m, True)[0]
    assert Geod(ellps="WGS84").inv(lon, lat, -62.5322403, -11.0510316)[2] < 15.0


def test_ranges_that_miss_the_earth_have_no_place(orbit):
    assert np.isnan(orbit.ground(np.array([820.0, 820.0]), np.array([100e3, 9e6]), True)).all()


def test_an_inertial_frame_is_left_alone(fields):
    data = bytearray(fields.data)
    data[204:207] = b"ECI"
    assert read_orbit(Fields("LED", data), CENTRE) is None


def test_a_moment_outside_is_refused(fields):
    with pytest.raises(SceneRejected, match=r"28 state vectors over 1620 s from 2014-09-09 04:20.* is not among them"):
        read_orbit(fields, CENTRE + timedelta(hours=1))


@pytest.mark.parametrize(
    ("at", "text", "message"),
    [
        (140, "   3", "has 3 state vectors"),
        (182, f"{0:22d}", "gives 0.0 s between"),
        (160, f"{1e300:22.1e}", "no moment"),
        (182, f"{61.0:22.15E}", "moves? at other velocities"),
    ],
)
def test_impossible_orbits_are_refused(fields, at, text, message):
    data = bytearray(fields.data)
    data[at : at + len(text)] = text.encode()
    with pytest.raises(SceneRejected, match=message):
        read_orbit(Fields("LED", data), CENTRE)
