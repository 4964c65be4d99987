from pathlib import Path

import numpy as np
import pytest
from alos2_products import MAP_RECORD_AT, POSITION_AT, PRODUCT, UTM, patch, small, write_corners, write_projection
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS, Transformer

from ingest.alos2 import open_alos2
from ingest.scene import SceneRejected, Window

SHAPE = (40, 30)
NORTH, SOUTH, ICELAND, BRAZIL = (30.0, 82.0), (100.0, -75.0), (-19.0, 65.0), (-62.5, -11.0)

# Designator, numbers by their byte in the map record, the same system in PROJ's words, a place in it.
MAPS = {
    "UPS north": ("UPS", {624: 0.0, 640: 90.0, 656: 0.994}, "+proj=stere +lat_0=90 +k=0.994", NORTH),
    "UPS south": ("UPS", {624: 0.0, 640: -90.0, 656: 0.994}, "+proj=stere +lat_0=-90 +k=0.994", SOUTH),
    "UPS offsets": ("UPS", {624: 0.0, 640: 90.0, 656: 0.994}, "EPSG:32661", NORTH),
    "NSIDC": ("UPS", {624: -45.0, 640: 70.0, 656: 1.0}, "EPSG:3413", NORTH),
    "Antarctic": ("UPS", {624: 0.0, 640: -71.0, 656: 1.0}, "EPSG:3031", SOUTH),
    "Mercator": ("MER", {736: -62.0, 752: 0.0}, "+proj=merc +lon_0=-62", BRAZIL),
    "Mercator true at 11 S": ("MER", {736: -62.0, 752: -11.0}, "+proj=merc +lon_0=-62 +lat_ts=-11", BRAZIL),
    "Lambert": (
        "LCC",
        {736: -19.0, 752: 65.0, 768: 64.25, 784: 65.75, 704: 500_000.0, 720: 500_000.0},
        "+proj=lcc +lat_1=64.25 +lat_2=65.75 +lat_0=65 +lon_0=-19 +x_0=500000 +y_0=500000",
        ICELAND,
    ),
}


def on_map(shared_data: Path, folder: Path, name: str, turned_deg: float = 0.0) -> Path:
    designator, fields, words, place = MAPS[name]
    product = small(shared_data, folder, *SHAPE, ("HH",))
    leader = product / f"LED-{PRODUCT}"
    crs = CRS.from_user_input(words if words.startswith("EPSG") else f"{words} +datum=WGS84")
    corner = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(*place)
    write_projection(leader, f"{designator}-PROJECTION", fields)
    write_corners(leader, crs, corner, SHAPE, turned_deg)
    return product


@pytest.mark.parametrize("name", MAPS)
def test_every_projection_puts_pixels_where_its_own_degrees_are(shared_data, tmp_path, name):
    product = on_map(shared_data, tmp_path, name)
    words, place = MAPS[name][2:]
    crs = CRS.from_user_input(words if words.startswith("EPSG") else f"{words} +datum=WGS84")
    east, north = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(*place)
    to_degrees = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    rows, cols = np.array([0.0, 39.0, 17.5]), np.array([0.0, 29.0, 3.25])
    expect = np.stack(to_degrees.transform(east + 6.25 * cols, north - 6.25 * rows), axis=-1)
    with open_alos2(str(product)) as scene:
        assert np.abs(scene.locate(rows, cols) - expect).max() < 1e-7
        assert scene.info.spacing_m == pytest.approx((6.25, 6.25))
        assert (scene.info.grid is None) == (len(scene.info.ground) > 0)
        for point in scene.info.ground:
            where = to_degrees.transform(east + 6.25 * point.col, north - 6.25 * point.row)
            assert (point.lon, point.lat) == pytest.approx(where, abs=1e-7)


def test_a_georeferenced_image_is_turned_on_its_map(shared_data, tmp_path):
    product = small(shared_data, tmp_path, *SHAPE, ("HH",), "ALOS2015976960-140909-FBDR1.5RUA")
    corner = (510_879.0839, 8_819_462.993)
    write_corners(product / "LED-ALOS2015976960-140909-FBDR1.5RUA", UTM, corner, SHAPE, turned_deg=-10.5)
    turn = np.radians(-10.5)
    with open_alos2(str(product)) as scene:
        grid = scene.info.grid
        assert scene.info.spacing_m == pytest.approx((6.25, 6.25))
        found = scene.locate(np.array([39.0]), np.array([29.0]))
        assert scene.power(Window(0, 0, *SHAPE)).shape == (1, *SHAPE)
    a, b, _, d, e, _ = grid.transform
    assert (a, d) == pytest.approx((6.25 * np.cos(turn), -6.25 * np.sin(turn)), abs=1e-5)
    assert (b, e) == pytest.approx((-6.25 * np.sin(turn), -6.25 * np.cos(turn)), abs=1e-5)
    east = corner[0] + 29 * a + 39 * b
    north = corner[1] + 29 * d + 39 * e
    expect = Transformer.from_crs(UTM, "EPSG:4326", always_xy=True).transform(east, north)
    assert found[0] == pytest.approx(expect, abs=1e-7)


@pytest.mark.parametrize("name", ["UPS north", "NSIDC", "Mercator", "Lambert"])
def test_a_system_that_contradicts_its_degrees_is_refused(shared_data, tmp_path, name):
    product = on_map(shared_data, tmp_path, name)
    at = 624 if MAPS[name][0] == "UPS" else 736
    patch(product / f"LED-{PRODUCT}", MAP_RECORD_AT + at, f"{MAPS[name][1][at] + 5:16.7f}")
    with pytest.raises(SceneRejected, match=r"contradicts itself: its ...-PROJECTION corners lie at"):
        open_alos2(str(product))


@pytest.mark.parametrize(("at", "value"), [(768, "NAN"), (784, " "), (752, "x")])
def test_a_missing_parameter_is_named(shared_data, tmp_path, at, value):
    product = on_map(shared_data, tmp_path, "Lambert")
    patch(product / f"LED-{PRODUCT}", MAP_RECORD_AT + at, f"{value:>16}")
    with pytest.raises(SceneRejected, match="expected a number"):
        open_alos2(str(product))


def test_parameters_out_of_range_are_refused(shared_data, tmp_path):
    product = on_map(shared_data, tmp_path, "Lambert")
    patch(product / f"LED-{PRODUCT}", MAP_RECORD_AT + 768, f"{95.0:16.7f}{-95.0:16.7f}")
    with pytest.raises(SceneRejected, match="contradicts itself"):
        open_alos2(str(product))


def test_a_leader_without_orbit_opens(shared_data, tmp_path):
    product = small(shared_data, tmp_path, *SHAPE, ("HH",))
    leader = product / f"LED-{PRODUCT}"
    data = leader.read_bytes()
    leader.write_bytes(data[:POSITION_AT] + data[POSITION_AT + 4680 :])
    with open_alos2(str(product)) as scene:
        assert scene.incidence_deg(np.zeros(1), np.zeros(1)) is None


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_map_records_open_or_are_rejected(shared_data, tmp_path_factory, data):
    name = data.draw(st.sampled_from(["NSIDC", "Mercator", "Lambert"]))
    product = tmp_path_factory.getbasetemp() / f"damaged-{name}"
    if not product.is_dir():
        on_map(shared_data, product, name)
    leader = product / f"LED-{PRODUCT}"
    whole = leader.read_bytes()
    at = MAP_RECORD_AT + data.draw(st.one_of(st.integers(600, 810), st.integers(940, 1200)))
    junk = data.draw(
        st.sampled_from([b"9" * 8, b"     NAN", b"-", b"1e300  ", b"     360.0000000", b"0" * 16, b"\xff"])
    )
    try:
        patch(leader, at, junk)
        with open_alos2(str(product)) as scene:
            assert np.isfinite(scene.locate(np.zeros(1), np.zeros(1))).all()
    except SceneRejected:
        pass
    finally:
        leader.write_bytes(whole)
