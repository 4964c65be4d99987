from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sentinel1_products import EW_352, IPF_340

from ingest.orbit import Orbit, find_orbit, moment, read_annotated_orbit, read_eof
from ingest.scene import SceneRejected
from ingest.xml import parse

RESORB = "S1A_OPER_AUX_RESORB_OPOD_20230823T162050_V20230823T123139_20230823T154909.EOF"
EPOCH = np.datetime64("2023-08-23T13:00:00", "ns")
GM_M3_S2, RADIUS_M = 3.986004418e14, 7.07e6


def circle(step_s: float, count: int = 30) -> tuple[Orbit, float]:
    """State vectors of a circular orbit, and its angular rate."""
    rate = float(np.sqrt(GM_M3_S2 / RADIUS_M**3))
    times_s = np.arange(count) * step_s
    times = EPOCH + np.rint(times_s * 1e9).astype("timedelta64[ns]")
    return Orbit.of_vectors(times, *on_circle(times_s, rate), "circle"), rate


def on_circle(time_s: NDArray[np.float64], rate: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    c, s, zero = np.cos(rate * time_s), np.sin(rate * time_s), np.zeros_like(time_s)
    return RADIUS_M * np.stack([c, s, zero], -1), RADIUS_M * rate * np.stack([-s, c, zero], -1)


@pytest.mark.parametrize(("step_s", "error_m"), [(10.0, 2.4e-4), (60.0, 0.31)])
def test_the_curve_errs_by_what_is_documented(step_s: float, error_m: float) -> None:
    orbit, rate = circle(step_s)
    time_s = np.linspace(0, 29 * step_s, 4001)
    position, velocity, acceleration = orbit.state(time_s)
    true_position, true_velocity = on_circle(time_s, rate)
    found = np.linalg.norm(position - true_position, axis=1).max()
    assert 0.9 * error_m < found < error_m
    assert np.linalg.norm(velocity - true_velocity, axis=1).max() < error_m
    np.testing.assert_allclose(acceleration, -(rate**2) * true_position, atol=8.3e-7 * step_s**2 + 1e-9)


def test_real_vectors_left_out_lie_on_the_curve_of_the_others(shared_data: Path) -> None:
    """Every second vector of a real RESORB file: 20 s apart, so 16 times the error of 10 s is found."""
    path = shared_data / "orbits" / RESORB
    orbit = read_eof(path, "S1A", EPOCH, EPOCH + np.timedelta64(1200, "s"))
    step = np.diff(orbit.knots_s)
    np.testing.assert_allclose(step, 10.0, atol=1e-6)
    assert len(orbit.knots_s) == 136  # 1200 s, with 80 s on each side
    position, velocity, _ = orbit.state(orbit.knots_s)
    times = orbit.epoch + np.rint(orbit.knots_s * 1e9).astype("timedelta64[ns]")
    thin = Orbit.of_vectors(times[::2], position[::2], velocity[::2], "thin")
    left_out = thin.state(orbit.knots_s[1:-1:2])[0] - position[1:-1:2]
    error_m = np.linalg.norm(left_out, axis=1)
    assert error_m.max() / 16 == pytest.approx(2.5e-4, abs=1e-5)
    assert not orbit.covers(EPOCH, EPOCH + np.timedelta64(1300, "s"))


@pytest.mark.parametrize(("product", "vectors"), [(IPF_340, 16), (EW_352, 20)])
def test_annotated_orbits_are_read(shared_data: Path, product: str, vectors: int) -> None:
    folder = next((shared_data / "sentinel1").glob(f"{product}*"))
    path = sorted((folder / "annotation").glob("*.xml"))[0]
    orbit = read_annotated_orbit(parse(path.read_bytes(), path.name), path.name)
    assert len(orbit.knots_s) == vectors
    assert np.linalg.norm(orbit.state(np.array([30.0]))[0]) == pytest.approx(7.07e6, abs=2e4)


def name(platform: str, kind: str, made: str, start: str, stop: str) -> str:
    return f"{platform}_OPER_AUX_{kind}_OPOD_{made}_V{start}_{stop}.EOF"


def test_the_best_fitting_file_is_chosen(tmp_path: Path) -> None:
    start, stop = moment("2023-08-23T13:00:00", "x"), moment("2023-08-23T13:00:25", "x")
    wide = ("20230823T123139", "20230823T154909")
    files = {
        "predicted": name("S1A", "PREORB", "20230823T090000", *wide),
        "restituted": name("S1A", "RESORB", "20230823T162050", *wide),
        "newer": name("S1A", "RESORB", "20230823T170000", *wide),
        "other platform": name("S1B", "POEORB", "20230912T000000", *wide),
        "too late by a second": name("S1A", "POEORB", "20230912T000000", "20230823T125901", "20230824T000000"),
        "ends too soon": name("S1A", "POEORB", "20230912T000000", "20230822T225942", "20230823T130124"),
    }
    for file in files.values():
        (tmp_path / file).write_text("")
    (tmp_path / "S1_orbit_example.EOF").write_text("")
    assert find_orbit(str(tmp_path), "S1A", start, stop).name == files["newer"]
    precise = tmp_path / "S1A" / name("S1A", "POEORB", "20230912T000000", "20230823T125900", "20230823T130125")
    precise.parent.mkdir()
    precise.write_text("")
    assert find_orbit(str(tmp_path), "S1A", start, stop) == precise
    with pytest.raises(SceneRejected, match=r"none of the 7 orbit files in .* is of S1C and valid from a minute"):
        find_orbit(str(tmp_path), "S1C", start, stop)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"Sentinel-1A", b"Sentinel-1B", "Mission is Sentinel-1B, expected Sentinel-1A"),
        (b"EARTH_FIXED", b"INERTIAL", "Ref_Frame is INERTIAL"),
        (b"NOMINAL", b"DEGRADED", "calls its vectors around the scene DEGRADED"),
        (b"UTC=2023-08-23T13:00:", b"UTC=2023-08-23T13:77:", "is not a time in ISO 8601"),
        (b"<OSV>", b"<OSW>", "not well-formed XML"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    shared_data: Path, tmp_path: Path, old: bytes, new: bytes, message: str
) -> None:
    data = (shared_data / "orbits" / RESORB).read_bytes()
    assert old in data
    path = tmp_path / RESORB
    path.write_bytes(data.replace(old, new))
    with pytest.raises(SceneRejected, match=message):
        read_eof(path, "S1A", EPOCH, EPOCH + np.timedelta64(25, "s"))


@pytest.mark.parametrize("fault", ["few", "order", "gap", "low", "jump", "fast"])
def test_vectors_that_are_no_orbit_are_refused(fault: str) -> None:
    orbit, rate = circle(10.0)
    times_s = orbit.knots_s.copy()
    position, velocity = on_circle(times_s, rate)
    if fault == "few":
        times_s, position, velocity = times_s[:3], position[:3], velocity[:3]
    elif fault == "order":
        times_s[[4, 5]] = times_s[[5, 4]]
    elif fault == "gap":
        times_s[10:] += 200
    elif fault == "low":
        position = position * 0.9
    elif fault == "jump":
        position[7, 2] += 10.0  # metres
    else:
        velocity[3] *= 1.001
    times = EPOCH + np.rint(times_s * 1e9).astype("timedelta64[ns]")
    with pytest.raises(SceneRejected, match="state vectors"):
        Orbit.of_vectors(times, position, velocity, "x.EOF")
