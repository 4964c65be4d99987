import math
import os
import shutil
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from alos2_products import (
    LINES,
    MAP_RECORD_AT,
    PIXELS,
    POSITION_AT,
    PRODUCT,
    RADIOMETRY_AT,
    SUMMARY_AT,
    full_size,
    numbers,
    patch,
    small,
    write_corners,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.alos2 import open_alos2
from ingest.open import parts_of, sensor_of
from ingest.recipe import Pixels
from ingest.scene import SceneRejected, Window

SHAPE = (61, 47)
GAIN = 10.0**-8.3
LEADER = f"LED-{PRODUCT}"


@pytest.fixture(scope="module")
def product(shared_data, tmp_path_factory) -> Path:
    return small(shared_data, tmp_path_factory.mktemp("alos2"), *SHAPE)


@pytest.fixture(scope="module")
def real_size(shared_data, tmp_path_factory) -> Path:
    rows = [*range(20), *range(6000, 6700), LINES - 1]
    return full_size(shared_data, tmp_path_factory.mktemp("alos2_full"), rows)


@pytest.fixture
def copy(product, tmp_path) -> Path:
    return Path(shutil.copytree(product, tmp_path / "copy"))


def expected(window: Window) -> np.ndarray:
    rows, cols = np.arange(window.row, window.row + window.rows), np.arange(window.col, window.col + window.cols)
    dn = np.stack([numbers(band, rows, cols) for band in ("HH", "HV")]).astype(np.float64)
    return np.where(dn == 0, np.nan, dn**2 * GAIN)


def test_what_the_real_headers_say(real_size):
    with open_alos2(str(real_size)) as scene:
        info = scene.info
    assert info.id == PRODUCT
    assert (info.sensor, info.product, info.mode) == ("alos-2", "L1.5", "FBD")
    assert info.polarisations == ("HH", "HV")
    assert info.shape == (13161, 12870)
    assert info.spacing_m == (6.25, 6.25)
    assert info.looks == 2.0
    assert info.time == "2014-09-09T04:33:42.052000Z"
    assert info.orbit == "ascending"
    assert info.warnings == ()
    assert info.ground == ()
    assert (info.quantity, info.platform, info.processing) == ("sigma0", "ALOS2", "EICS 002.012")
    assert info.acquisition == "ALOS2015976960-140909-FBD"
    assert info.grid is not None
    assert info.grid.epsg == 32720
    assert info.grid.transform == pytest.approx((6.25, 0, 510879.0839 - 3.125, 0, -6.25, 8819462.993 + 3.125), abs=1e-6)
    assert len(info.footprint) == 5
    assert info.footprint[0] == info.footprint[-1]
    lon, lat = np.array(info.footprint[:4]).T
    assert (lon.min(), lon.max()) == pytest.approx((-62.9006, -62.1620), abs=1e-3)
    assert (lat.min(), lat.max()) == pytest.approx((-11.4231, -10.6783), abs=1e-3)


def test_pixels_lie_where_the_leader_says_its_corners_are(real_size):
    rows, cols = np.array([0, 0, LINES - 1, LINES - 1.0]), np.array([0, PIXELS - 1, PIXELS - 1, 0.0])
    with open_alos2(str(real_size)) as scene:
        found = scene.locate(rows, cols)
    leader = [
        (-62.9005207, -10.6794393),
        (-62.1650802, -10.6783401),
        (-62.1629744, -11.4221274),
        (-62.9002697, -11.4233051),
    ]
    assert np.abs(found - leader).max() < 1e-7


def test_power_at_the_real_size(real_size):
    with open_alos2(str(real_size)) as scene:
        for window in (
            Window(0, 0, 2, PIXELS),
            Window(LINES - 1, PIXELS - 3, 1, 3),
            Window(6010, 5000, 690, 11),  # longer than one reading block
        ):
            power = scene.power(window)
            assert power.dtype == np.float32
            np.testing.assert_allclose(power, expected(window), rtol=2e-7)


def test_every_number_becomes_its_power(product):
    dn = np.concatenate([numbers(band, np.arange(61), np.arange(47)).ravel() for band in ("HH", "HV")])
    assert (dn == 0).sum() >= 2
    with open_alos2(str(product)) as scene:
        power = scene.power(Window(0, 0, *SHAPE)).ravel()
    assert np.isnan(power[dn == 0]).all()
    brightest = dn.argmax()
    assert 10 * math.log10(power[brightest]) == pytest.approx(20 * math.log10(dn[brightest]) - 83.0, abs=1e-5)
    np.testing.assert_allclose(power[dn > 0], dn[dn > 0].astype(np.float64) ** 2 * GAIN, rtol=2e-7)


@given(
    row=st.integers(0, SHAPE[0] - 1), col=st.integers(0, SHAPE[1] - 1), rows=st.integers(1, 61), cols=st.integers(1, 47)
)
@settings(max_examples=200, deadline=None)
def test_how_windows_are_cut_never_changes_a_pixel(product, row, col, rows, cols):
    window = Window(row, col, min(rows, SHAPE[0] - row), min(cols, SHAPE[1] - col))
    with open_alos2(str(product)) as scene:
        whole = scene.power(Window(0, 0, *SHAPE))
        part = scene.power(window)
    expect = whole[:, row : row + window.rows, col : col + window.cols]
    assert part.tobytes() == np.ascontiguousarray(expect).tobytes()


def test_threads_may_share_a_scene(product):
    window = Window(0, 0, *SHAPE)
    with open_alos2(str(product)) as scene, ThreadPoolExecutor(4) as pool:
        results = [p.tobytes() for p in pool.map(lambda _: scene.power(window), range(32))]
    assert len(set(results)) == 1


@pytest.mark.parametrize("window", [Window(-1, 0, 2, 2), Window(0, 0, 62, 1), Window(0, 40, 1, 8), Window(0, 0, -1, 1)])
def test_a_window_outside_is_a_mistake_of_the_caller(product, window):
    with open_alos2(str(product)) as scene, pytest.raises(ValueError, match="is not within the 61 x 47 pixels"):
        scene.power(window)


def test_memory_does_not_grow_with_the_scene(shared_data, tmp_path):
    folder = full_size(shared_data, tmp_path, range(2500), bands=("HH",))
    with open_alos2(str(folder)) as scene:
        tracemalloc.start()
        for row in range(0, 2500, 100):
            scene.power(Window(row, 0, 100, PIXELS))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    (folder / f"IMG-HH-{PRODUCT}").unlink()
    assert peak < 30e6  # one strip is 5 MB as power; all that was read is 129 MB
    assert "the volume directory lists 1 more image file(s) than the product has" in scene.info.warnings


def test_gdal_reads_the_same_numbers(real_size):
    """GDAL's SAR_CEOS driver is another reader of the same layout; it runs apart, as ingest switches it off."""
    script = (
        "import sys, warnings, rasterio\n"
        "warnings.simplefilter('ignore')\n"
        "with rasterio.open(sys.argv[1], driver='SAR_CEOS') as d:\n"
        "    assert (d.height, d.width) == (13161, 12870)\n"
        "    sys.stdout.buffer.write(d.read(1, window=((6100, 6103), (12000, 12870))).astype('<u2').tobytes())\n"
    )
    image = real_size / f"IMG-HV-{PRODUCT}"
    done = subprocess.run([sys.executable, "-c", script, str(image)], capture_output=True, check=True)
    dn = np.frombuffer(done.stdout, "<u2").reshape(3, 870)
    with open_alos2(str(real_size)) as scene:
        power = scene.power(Window(6100, 12000, 3, 870))[1]
    np.testing.assert_allclose(power, np.where(dn == 0, np.nan, dn.astype(np.float64) ** 2 * GAIN), rtol=2e-7)


def test_the_volume_file_names_one_of_two_products(copy):
    for name in [p.name for p in copy.iterdir() if PRODUCT in p.name]:
        shutil.copyfile(copy / name, copy / name.replace("-140909-", "-140923-"))
    with pytest.raises(SceneRejected, match=r"holds 2 products .*name the VOL file of one"):
        open_alos2(str(copy))
    with open_alos2(str(copy / f"VOL-{PRODUCT}")) as scene:
        assert (scene.info.id, scene.info.time) == (PRODUCT, "2014-09-09T04:33:42.052000Z")
    with open_alos2(str(copy / f"VOL-{PRODUCT.replace('140909', '140923')}")) as scene:
        assert scene.info.time == "2014-09-09T04:33:47.052000Z"
        assert "time is that of the scene's centre" in scene.info.warnings[0]


def test_the_northern_hemisphere(copy):
    patch(copy / LEADER, MAP_RECORD_AT + 496, f"{0:16.7f}")
    write_corners(copy / LEADER, "EPSG:32620", (510_879.0839, 10_000_000 - 8_819_462.993), SHAPE)
    with open_alos2(str(copy)) as scene:
        assert scene.info.grid.epsg == 32620
        assert scene.locate(np.zeros(1), np.zeros(1))[0] == pytest.approx((-62.9005207, 10.6794393), abs=1e-6)


def test_the_fingerprint_names_the_content_not_the_place(product, copy):
    def fingerprint(folder):
        with open_alos2(str(folder)) as scene:
            return scene.info.fingerprint

    first = fingerprint(product)
    assert fingerprint(copy) == first
    (copy / "preview.jpg").write_bytes(b"not part of the product")
    assert fingerprint(copy) == first
    patch(copy / f"IMG-HV-{PRODUCT}", 5000, b"\x01\x02")
    assert fingerprint(copy) != first


def cut_image(folder: Path) -> None:
    path = folder / f"IMG-HV-{PRODUCT}"
    os.truncate(path, path.stat().st_size - 1)


def other_shape(folder: Path) -> None:
    path = folder / f"IMG-HV-{PRODUCT}"
    patch(path, 180, "    60")
    patch(path, 236, "      60")


def rename(old: str, new: str):
    def change(folder: Path) -> None:
        for path in list(folder.iterdir()):
            path.rename(folder / path.name.replace(old, new))

    return change


def leader(at: int, text: str):
    return lambda folder: patch(folder / LEADER, at, text)


BAD = {
    "nothing": (lambda f: [p.unlink() for p in f.iterdir()], "is not an ALOS-2 CEOS product: expected a folder with"),
    "alos-1": (
        rename("ALOS2015976960-140909-FBDR1.5GUA", "ALPSRP123450720-H1.5GUA"),
        "not named like a file of an ALOS-2",
    ),
    "level 1.0": (rename("R1.5GUA", "R1.0__A"), "of level 1.0, which is not an image; fetch it as level 1.5"),
    "level 2.1": (rename("R1.5GUA", "R2.1GUA"), "is of level '1.5', but its name says 2.1: the files do not"),
    "level inside": (leader(SUMMARY_AT + 1094, "1.1"), "is of level '1.1', but its name says 1.5"),
    "mission": (leader(SUMMARY_AT + 396, "ALOS "), "is of the mission 'ALOS', expected 'ALOS2'"),
    "no leader": (lambda f: (f / LEADER).unlink(), f"{LEADER} is missing: without its leader"),
    "no images": (lambda f: [p.unlink() for p in f.glob("IMG-*")], "the product has no pixels"),
    "truncated image": (cut_image, "IMG-HV-.* is truncated: 18165 bytes"),
    "truncated leader": (lambda f: os.truncate(f / LEADER, 30000), "a record of 9860 bytes at byte 27500 where 2500"),
    "cut leader": (lambda f: os.truncate(f / LEADER, RADIOMETRY_AT), "has no radiometric record"),
    "no factor": (leader(RADIOMETRY_AT + 20, " " * 16), "gives the calibration factor as ''"),
    "factor nan": (leader(RADIOMETRY_AT + 20, f"{'NAN':>16}"), "gives the calibration factor as 'NAN'"),
    "factor wild": (leader(RADIOMETRY_AT + 20, f"{83000:16.7f}"), "a calibration factor of 83000.0 dB"),
    "shapes": (other_shape, "IMG-HV.*contradicts|images of different shapes"),
    "map size": (leader(MAP_RECORD_AT + 60, f"{46:16d}"), "they do not belong together"),
    "projection": (leader(MAP_RECORD_AT + 412, "XYZ-PROJECTION"), "'XYZ-PROJECTION'; known are UTM-, UPS-"),
    "mercator": (leader(MAP_RECORD_AT + 412, "MER-PROJECTION"), "gives the centre's longitude as ''"),
    "zone 61": (leader(MAP_RECORD_AT + 476, "  61"), "gives UTM zone 61"),
    "zone 21": (leader(MAP_RECORD_AT + 476, "  21"), r"its UTM-PROJECTION corners lie at \[\[-56.90"),
    "hemisphere": (leader(MAP_RECORD_AT + 496, f"{0:16.7f}"), "contradicts itself: its UTM-PROJECTION corners lie at"),
    "corner": (leader(MAP_RECORD_AT + 960, f"{500:16.7f}"), "contradicts itself: corners"),
    "corner degrees": (
        leader(MAP_RECORD_AT + 1104, f"{-10.5:16.7f}"),
        "contradicts itself: its UTM-PROJECTION corners",
    ),
    "orbit count": (leader(POSITION_AT + 140, "  99"), "has 99 state vectors, expected 8 to 64"),
    "orbit jumps": (leader(POSITION_AT + 386 + 22 * 6 * 13, f"{2e6:22.15E}"), "its positions move at other velocities"),
    "orbit elsewhen": (leader(POSITION_AT + 152, "  10"), "is not among them"),
    "orbit date": (leader(POSITION_AT + 148, "  13"), "gives no moment for its first vector"),
    "corner nan": (leader(MAP_RECORD_AT + 960, f"{'NAN':>16}"), "gives a corner in km as 'NAN'"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_product_is_rejected_in_words(copy, fault):
    change, message = BAD[fault]
    change(copy)
    with pytest.raises(SceneRejected, match=message):
        open_alos2(str(copy))


def test_what_is_no_product_is_rejected(tmp_path):
    for path in (tmp_path / "absent" / "VOL-x", tmp_path):
        with pytest.raises(SceneRejected):
            open_alos2(str(path))


def test_a_product_without_summary_and_volume_opens(copy):
    (copy / "summary.txt").unlink()
    (copy / f"VOL-{PRODUCT}").unlink()
    with open_alos2(str(copy)) as scene:
        assert scene.info.time == "2014-09-09T04:33:47.052000Z"


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_headers_open_or_are_rejected(product, data):
    """Whatever bytes are wrong, nothing but a rejection comes out, and pixels have the declared shape."""
    name = data.draw(st.sampled_from([LEADER, f"IMG-HH-{PRODUCT}", f"VOL-{PRODUCT}"]))
    path = product / name
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 8))
    junk = data.draw(
        st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 8, b"9" * 8, b"     NAN"]))
    )
    try:
        patch(path, at, junk)
        with open_alos2(str(product)) as scene:
            assert scene.power(Window(0, 0, 1, 1)).shape == (2, 1, 1)
    except SceneRejected:
        pass
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("name", "bands"),
    [
        ("ALOS2015976960-140909-FBQR2.1GUA", ("HH", "HV", "VH", "VV")),
        ("ALOS2015976960-140909-HBQR1.5GUA", ("HH", "HV", "VH", "VV")),
        ("ALOS2015976960-140909-SBSR3.1GUA", ("HH",)),
        ("ALOS2015976960-140909-WWDR1.5GUD", ("VH", "VV")),
        ("ALOS2015976960-140909-UBSL2.1GUD", ("VV",)),
    ],
)
def test_levels_modes_and_polarisations(shared_data, tmp_path, name, bands):
    folder = small(shared_data, tmp_path, 11, 9, bands, name)
    with open_alos2(str(folder)) as scene:
        info, power = scene.info, scene.power(Window(0, 0, 11, 9))
    assert (info.id, info.mode, info.product) == (name, name[22:25], f"L{name[26:29]}")
    assert info.polarisations == bands
    assert info.orbit == ("descending" if name.endswith("D") else "ascending")
    assert info.time == "2014-09-09T04:33:42.052000Z"
    for band, found in zip(bands, power, strict=True):
        dn = numbers(band, np.arange(11), np.arange(9)).astype(np.float64)
        np.testing.assert_allclose(found, np.where(dn == 0, np.nan, dn**2 * GAIN), rtol=2e-7)


def test_incidence_angles_agree_with_the_leader(real_size):
    """The leader states 40.573 degrees at the scene's centre; the orbit and the ellipsoid give 0.05 less."""
    with open_alos2(str(real_size)) as scene:
        centre = scene.incidence_deg(np.array([6580.0]), np.array([6435.0]))
    assert centre == pytest.approx(40.573, abs=0.06)


@pytest.mark.parametrize("quantity", ["beta0", "gamma0"])
def test_other_quantities_follow_from_sigma0(product, quantity):
    rows, cols = (a.ravel().astype(float) for a in np.mgrid[: SHAPE[0], : SHAPE[1]])
    with open_alos2(str(product)) as plain, open_alos2(str(product), Pixels(quantity=quantity)) as other:
        sigma0, found = plain.power(Window(0, 0, *SHAPE)), other.power(Window(0, 0, *SHAPE))
        angle = np.radians(plain.incidence_deg(rows, cols)).reshape(SHAPE)
        assert other.info.quantity == quantity
        part = other.power(Window(7, 11, 30, 20))
    factor = np.sin(angle) if quantity == "beta0" else np.cos(angle)
    np.testing.assert_allclose(found * factor, sigma0, rtol=1e-6)
    assert part.tobytes() == np.ascontiguousarray(found[:, 7:37, 11:31]).tobytes()


def test_quantities_that_cannot_be_made_are_refused(copy):
    with pytest.raises(SceneRejected, match=r"sigma0 with the terrain not flattened.*pixels.quantity: gamma0"):
        open_alos2(str(copy), Pixels(quantity="gamma0-terrain"))
    patch(copy / LEADER, POSITION_AT + 204, "ECI")
    with open_alos2(str(copy)) as scene:
        assert scene.incidence_deg(np.zeros(1), np.zeros(1)) is None
        assert "incidence angles are not known" in scene.info.warnings[0]
    with pytest.raises(SceneRejected, match=r"states no orbit.*beta0 cannot be made.*pixels.quantity: sigma0"):
        open_alos2(str(copy), Pixels(quantity="beta0"))


def test_each_product_of_a_folder_has_a_path_of_its_own(copy):
    assert parts_of(str(copy)) == (str(copy),)
    for name in [p.name for p in copy.iterdir() if PRODUCT in p.name]:
        shutil.copyfile(copy / name, copy / name.replace("-140909-", "-140923-"))
    parts = parts_of(str(copy))
    assert parts == (f"{copy}#{PRODUCT}", f"{copy}#{PRODUCT.replace('140909', '140923')}")
    assert [sensor_of(part) for part in parts] == ["alos-2", "alos-2"]
    for part in parts:
        with open_alos2(part) as scene:
            assert scene.info.id == part.rpartition("#")[2]
    with pytest.raises(SceneRejected, match=r"has no part 'F1': it holds ALOS2015976960-140909-FBDR1\.5GUA, ALOS2"):
        open_alos2(f"{copy}#F1")
