import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from alos2_products import (
    COMPLEX_PREFIX_BYTES,
    DESCRIPTOR_BYTES,
    complex_numbers,
    patch,
    slant,
    small,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod

from ingest.alos2 import open_alos2
from ingest.alos2_orbit import earth_fixed
from ingest.open import parts_of, sensor_of
from ingest.scene import SceneRejected, Window

SHAPE = (40, 30)
NAME = "ALOS2015976960-140909-FBDR1.1__A"
SCANSAR = "ALOS2015976960-140909-WBDR1.1__A"
LINE_BYTES = COMPLEX_PREFIX_BYTES + 8 * SHAPE[1]
RANGE_SPACING_M = 299_792_458.0 / 2 / 34.9305319e6


@pytest.fixture(scope="module")
def product(shared_data, tmp_path_factory) -> Path:
    return slant(shared_data, tmp_path_factory.mktemp("l11"), *SHAPE)


@pytest.fixture
def copy(product, tmp_path) -> Path:
    return Path(shutil.copytree(product, tmp_path / "copy"))


def truth(band: str) -> np.ndarray:
    pair = complex_numbers(band, np.arange(SHAPE[0]), np.arange(SHAPE[1])).astype(np.float64)
    power = (pair**2).sum(-1) * 10.0 ** ((-83.0 - 32.0) / 10.0)
    return np.where(power == 0, np.nan, power)


def test_complex_pixels_become_power(product):
    with open_alos2(str(product)) as scene:
        info, power = scene.info, scene.power(Window(0, 0, *SHAPE))
    assert (info.id, info.product, info.mode, info.looks) == (NAME, "L1.1", "FBD", 1.0)
    assert info.polarisations == ("HH", "HV")
    assert info.time == "2014-09-09T04:33:47.000000Z"
    assert info.warnings == ()
    assert info.grid is None
    assert len(info.ground) == 33 * 30
    assert info.spacing_m == pytest.approx((3.4, 6.55), abs=0.1)
    for band, found in zip(("HH", "HV"), power, strict=True):
        assert np.isnan(found).sum() > 20
        np.testing.assert_allclose(found, truth(band), rtol=5e-7)


@given(row=st.integers(0, 39), col=st.integers(0, 29), rows=st.integers(1, 40), cols=st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_how_windows_are_cut_never_changes_a_pixel(product, row, col, rows, cols):
    window = Window(row, col, min(rows, SHAPE[0] - row), min(cols, SHAPE[1] - col))
    with open_alos2(str(product)) as scene:
        whole, part = scene.power(Window(0, 0, *SHAPE)), scene.power(window)
    expect = whole[:, row : row + window.rows, col : col + window.cols]
    assert part.tobytes() == np.ascontiguousarray(expect).tobytes()


def test_pixels_lie_at_their_range_from_a_place_abeam(product):
    """Columns are 4.29 m of slant range apart, lines 0.5 ms of flight; near the real scene's centre."""
    with open_alos2(str(product)) as scene:
        lon, lat = scene.locate(np.array([0.0, 0.0, 39.0]), np.array([0.0, 29.0, 0.0])).T
        angle = scene.incidence_deg(np.zeros(1), np.zeros(1))[0]
    geod = Geod(ellps="WGS84")
    across_m = geod.inv(lon[0], lat[0], lon[1], lat[1])[2]
    assert across_m == pytest.approx(29 * RANGE_SPACING_M / np.sin(np.radians(angle)), rel=3e-4)
    azimuth, _, along_m = geod.inv(lon[0], lat[0], lon[2], lat[2])
    assert azimuth == pytest.approx(-12.5, abs=0.5)  # the leader's heading of the scene's centre
    assert along_m / (39 * 0.0005) == pytest.approx(6933.2, rel=2e-3)  # the leader's ground speed at nadir
    centre = earth_fixed(np.array([-62.5322403]), np.array([-11.0510316]))[0]
    assert np.linalg.norm(earth_fixed(lon[:1], lat[:1])[0] - centre) < 5000.0
    assert angle == pytest.approx(40.5, abs=0.1)


def test_each_scan_of_a_scansar_image_is_a_scene(shared_data, tmp_path):
    folder = slant(shared_data, tmp_path, *SHAPE, ("HH",), scans="123")
    assert parts_of(str(folder)) == tuple(f"{folder}#F{scan}" for scan in "123")
    near = []
    for part in parts_of(str(folder)):
        with open_alos2(part) as scene:
            assert scene.info.id == f"{SCANSAR}-{part[-2:]}"
            assert scene.info.acquisition == f"ALOS2015976960-140909-WBD-{part[-2:]}"
            near.append(scene.incidence_deg(np.zeros(1), np.zeros(1))[0])
    assert np.all(np.diff(near) > 2)  # each scan begins 50 km further away
    with pytest.raises(SceneRejected, match=r"holds 3 products \(.*-F1, .*\): name the VOL file of one, or '.*#F1'"):
        open_alos2(str(folder))
    volume = folder / f"VOL-{SCANSAR}"
    assert sensor_of(volume) == "alos-2"
    assert parts_of(str(volume)) == tuple(f"{volume}#F{scan}" for scan in "123")
    with open_alos2(f"{volume}#F2") as scene:
        assert scene.info.id.endswith("-F2")


def line(number: int, at: int, layout: str, *values: int):
    def change(folder: Path) -> None:
        for image in folder.glob("IMG-*"):
            patch(image, DESCRIPTOR_BYTES + number * LINE_BYTES + at, struct.pack(layout, *values))

    return change


BAD = {
    "orbit": (lambda f: cut(f, 4816, 4816 + 4680), "has no platform position record"),
    "range zero": (line(0, 116, ">I", 0), "begins at a slant range of 0 m"),
    "range short": (line(0, 116, ">I", 400_000), "do not reach the Earth"),
    "day": (line(0, 40, ">I", 400), "a line of year 2014, day 400"),
    "another day": (lambda f: [line(n, 40, ">I", 253)(f) for n in range(40)], "lines at times that its leader has no"),
    "backwards": (line(0, 36, ">III", 2014, 253, 0), "do not follow each other in time"),
    "elsewhere": (line(0, 192, ">iiiiii", 5, 5, 5, 5, 5, 5), "contradicts itself: its first line lies from 0.0000"),
    "record type": (line(0, 5, ">B", 12), "is a record of type 12, expected 10"),
    "line length": (line(0, 8, ">I", 99), "says that it has 99 bytes"),
    "truncated": (lambda f: [os.truncate(p, 9000) for p in f.glob("IMG-*")], "is truncated: 9000 bytes"),
    "sampling": (lambda f: patch(f / f"LED-{NAME}", 720 + 710, f"{0:16.7f}"), "gives a sampling rate of 0.0 MHz"),
}


def cut(folder: Path, start: int, stop: int) -> None:
    leader = folder / f"LED-{NAME}"
    data = leader.read_bytes()
    leader.write_bytes(data[:start] + data[stop:])


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_image_is_refused_in_words(copy, fault):
    change, message = BAD[fault]
    change(copy)
    with pytest.raises(SceneRejected, match=message):
        open_alos2(str(copy))


def test_right_coordinates_in_a_line_are_no_contradiction(product, copy):
    with open_alos2(str(product)) as scene:
        lon, lat = np.rint(scene.locate(np.zeros(3), np.array([0.0, 14.0, 29.0])).T * 1e6).astype(int)
    line(0, 192, ">iiiiii", *lat.tolist(), *lon.tolist())(copy)
    with open_alos2(str(copy)) as scene:
        assert scene.info.id == NAME


def test_amplitude_named_as_complex_is_refused(shared_data, tmp_path):
    folder = small(shared_data, tmp_path, *SHAPE, ("HH",), NAME)
    with pytest.raises(SceneRejected, match=r"has pixels of 2 bytes, expected 8 at level 1\.1"):
        open_alos2(str(folder))


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_damaged_headers_open_or_are_rejected(product, data):
    """Whatever bytes are wrong, nothing but a rejection comes out."""
    name = data.draw(st.sampled_from([f"LED-{NAME}", f"IMG-HH-{NAME}"]))
    path = product / name
    whole = path.read_bytes()
    at = data.draw(st.integers(0, min(len(whole) - 8, 7000)))
    junk = data.draw(st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"9" * 8, b"     NAN", b"0" * 8])))
    try:
        patch(path, at, junk)
        with open_alos2(str(product)) as scene:
            assert scene.power(Window(0, 0, 2, 3)).shape == (2, 2, 3)
            assert scene.incidence_deg(np.zeros(1), np.zeros(1)).shape == (1,)
    except SceneRejected:
        pass
    finally:
        path.write_bytes(whole)


def test_numbers_that_are_not_finite_have_no_data(copy):
    values = np.array([np.nan, 1.0, np.inf, 1.0, 3e38, 3e38, 1.0, 1.0], ">f4").tobytes()
    patch(copy / f"IMG-HH-{NAME}", DESCRIPTOR_BYTES + COMPLEX_PREFIX_BYTES, values)
    with open_alos2(str(copy)) as scene:
        found = scene.power(Window(0, 0, 1, 4))[0, 0]
    assert np.isnan(found[:3]).all()
    assert found[3] == pytest.approx(2 * 10**-11.5, rel=1e-6)
