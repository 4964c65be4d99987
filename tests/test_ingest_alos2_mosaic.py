import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from alos2_rasters import TILE, archive, mosaic, numbers
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.alos2 import open_alos2
from ingest.catalog import read_catalog
from ingest.open import open_scene, parts_of, sensor_of
from ingest.recipe import Pixels
from ingest.scene import SceneRejected, Window

NAME = "N23W161_20_F02DAR"
TERRAIN = Pixels(quantity="gamma0-terrain")
SHAPE = (60, 60)


@pytest.fixture(scope="module")
def real(shared_data) -> Path:
    return Path(shared_data) / "alos2" / "mosaic_25m" / "N23W161_20_MOS_F02DAR.tar.gz"


@pytest.fixture(scope="module")
def unpacked(real, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tile")
    with tarfile.open(real) as files:
        files.extractall(folder, filter="data")
    return folder


@pytest.fixture
def tile(tmp_path) -> Path:
    dn = numbers(SHAPE, 1)
    dn[0, :4] = (0, 1, 2, 65535)
    mask = np.full(SHAPE, 255, np.uint8)
    mask[1, :5] = (0, 50, 100, 150, 7)
    days = np.full(SHAPE, 2300, np.uint16)
    days[:, 0] = 1
    layers = {"sl_HH": dn, "sl_HV": dn + 3, "mask": mask, "date": days, "linci": np.full(SHAPE, 37, np.uint8)}
    return mosaic(tmp_path / "tile", layers)


@pytest.fixture(scope="module")
def power(real) -> np.ndarray:
    with open_alos2(str(real), TERRAIN) as scene:
        return scene.power(Window(0, 0, 4500, 4500))


def test_the_real_archive(real, power):
    with open_alos2(str(real), TERRAIN) as scene:
        info = scene.info
        angle = scene.incidence_deg(np.array([2.0, 2200.0]), np.array([3.0, 2200.0]))
    assert (info.id, info.product, info.mode, info.orbit) == (NAME, "mosaic-25m", "FBD", "ascending")
    assert (info.polarisations, info.shape, info.quantity) == (("HH", "HV"), (4500, 4500), "gamma0-terrain")
    assert info.time == "2020-09-09T10:44:12.406Z"
    assert info.grid.epsg == 4326
    assert info.grid.transform == pytest.approx((0.8 / 3600, 0, -161, 0, -0.8 / 3600, 23))
    assert info.spacing_m == pytest.approx((24.61, 22.87), abs=0.01)
    assert (info.platform, info.acquisition) == ("ALOS2", TILE)
    assert info.processing == "Sigma-SAR IMAGE 600-2020101700"
    assert info.warnings == ()
    assert np.isfinite(power).mean() == pytest.approx((897321 + 2461) / 4500**2, abs=1e-7)
    assert np.isnan(angle[0])


def test_medians_of_land_and_ocean(power, unpacked):
    """The figures measured on this tile: land HH -11.6, HV -19.4 dB, ocean -18.1 and -31.6 dB."""
    with rasterio.open(unpacked / f"{TILE}_mask_F02DAR.tif") as data:
        mask = data.read(1)
    for code, expected in ((255, (-11.6, -19.4)), (50, (-18.1, -31.6))):
        level = 10 * np.log10(np.median(power[:, mask == code], axis=1))
        assert level == pytest.approx(expected, abs=0.05)
    assert np.isnan(power[:, np.isin(mask, (0, 100, 150))]).all()


def test_folder_and_archive_give_the_same_pixels(real, unpacked):
    window = Window(1000, 1200, 1500, 1200)
    with open_alos2(str(real), TERRAIN) as packed, open_scene(str(unpacked), TERRAIN) as plain:
        assert packed.power(window).tobytes() == plain.power(window).tobytes()
        assert (packed.info.id, packed.info.time) == (plain.info.id, plain.info.time)
        rows, cols = np.linspace(0, 4499, 50), np.linspace(4499, 0, 50)
        np.testing.assert_array_equal(packed.incidence_deg(rows, cols), plain.incidence_deg(rows, cols))
        dense = np.arange(2000.0, 2010.0)
        np.testing.assert_array_equal(
            packed.incidence_deg(dense, dense), [packed.incidence_deg(x[None], x[None])[0] for x in dense]
        )


def test_no_copy_is_left_behind(real, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with open_alos2(str(real), TERRAIN):
        assert len(list(tmp_path.glob("sarsense-*/*.tif"))) == 5
    assert list(tmp_path.iterdir()) == []


def test_codes_and_numbers_without_data(tile):
    with open_alos2(str(tile), TERRAIN) as scene:
        power = scene.power(Window(0, 0, *SHAPE))
        assert scene.info.time == "2020-09-09T00:00:00.000000Z"
    assert np.isnan(power[0, 0, :4]).tolist() == [True, True, False, False]
    assert power[0, 0, 2:4] == pytest.approx([4 * 10**-8.3, 65535.0**2 * 10**-8.3], rel=1e-6)
    assert np.isnan(power[0, 1, :6]).tolist() == [True, False, True, True, True, False]


def test_a_tile_of_several_passes_has_the_earliest_date(tmp_path):
    days = np.array([[1, 0], [2300, 2307]], np.uint16)
    ones = np.full((2, 2), 500, np.uint16)
    folder = mosaic(tmp_path / "t", {"sl_HH": ones, "date": days, "mask": np.full((2, 2), 255, np.uint8)})
    with open_alos2(str(folder), TERRAIN) as scene:
        assert scene.info.time == "2020-09-09T00:00:00.000000Z"
        assert scene.info.warnings == (
            "the tile has passes from 2020-09-09 to 2020-09-16; its time is the earliest",
            "incidence angles are not known: linci is missing",
        )
        assert scene.incidence_deg(np.zeros(1), np.zeros(1)) is None


def test_the_ten_metre_mosaic_is_told_by_its_pixels(tmp_path):
    folder = mosaic(tmp_path / "t", {"sl_HH": np.full((11_250, 1), 500, np.uint16)})
    with pytest.raises(SceneRejected, match="has its upper left corner at"):  # a column is a degree wide
        open_alos2(str(mosaic(tmp_path / "u", {"sl_HH": np.full((2, 2), 500, np.uint16)}, west=-160)), TERRAIN)
    with open_alos2(str(folder), TERRAIN) as scene:
        assert scene.info.product == "mosaic-10m"
        assert scene.info.looks == pytest.approx(1.41, abs=0.01)
        assert "layover and shadow are not known: the mask is missing" in scene.info.warnings


@pytest.mark.parametrize("quantity", ["sigma0", "beta0", "gamma0"])
def test_another_quantity_is_refused_with_the_right_one(tile, quantity):
    with pytest.raises(SceneRejected, match=r"terrain already flattened.*use a recipe with pixels.quantity: gamma0"):
        open_alos2(str(tile), Pixels(quantity=quantity))


@given(row=st.integers(0, 59), col=st.integers(0, 59), rows=st.integers(1, 60), cols=st.integers(1, 60))
@settings(max_examples=50, deadline=None)
def test_how_windows_are_cut_never_changes_a_pixel(tmp_path_factory, row, col, rows, cols):
    folder = tmp_path_factory.getbasetemp() / "law"
    if not folder.is_dir():
        mosaic(folder, {"sl_HH": numbers(SHAPE, 5), "mask": numbers(SHAPE, 6).astype(np.uint8) | 205})
    window = Window(row, col, min(rows, 60 - row), min(cols, 60 - col))
    with open_alos2(str(folder), TERRAIN) as scene:
        whole, part = scene.power(Window(0, 0, *SHAPE)), scene.power(window)
    assert 0 < np.isfinite(whole).mean() < 1
    expect = whole[:, row : row + window.rows, col : col + window.cols]
    assert part.tobytes() == np.ascontiguousarray(expect).tobytes()


def test_several_tiles_in_one_folder_or_archive(tile, tmp_path):
    mosaic(tile, {"sl_HH": numbers(SHAPE, 2)}, "N23W162_20", west=-162)
    packed = archive(
        tmp_path / "N25W165_20_MOS_F02DAR.tar.gz", {f"N25W165/{p.name}": p.read_bytes() for p in tile.iterdir()}
    )
    for place in (tile, packed):
        assert sensor_of(place) == "alos-2"
        parts = parts_of(str(place))
        assert parts == (f"{place}#{NAME}", f"{place}#N23W162_20_F02DAR")
        for part in parts:
            with open_scene(part, TERRAIN) as scene:
                assert scene.info.id == part.rpartition("#")[2]
        with pytest.raises(SceneRejected, match="holds 2 products"):
            open_alos2(str(place), TERRAIN)


def test_a_catalog_finds_tiles(real, tile, tmp_path):
    shutil.copyfile(real, tmp_path / real.name)
    shutil.copyfile(real, tmp_path / "notes.tar.gz")
    catalog = read_catalog(tmp_path, 16)
    names = sorted(source.name for unit in catalog.units for source in unit.sources)
    assert len(names) == 2
    assert catalog.rejects == ()


def test_bands_that_do_not_lie_on_each_other_are_refused(tile):
    mosaic(tile, {"sl_HV": numbers((30, 30), 2)})
    with pytest.raises(SceneRejected, match=r"has \(30, 30\) pixels at .*, unlike HH with \(60, 60\)"):
        open_alos2(str(tile), TERRAIN)


def test_a_tile_without_bands_and_a_band_of_floats_are_refused(tile, tmp_path):
    mosaic(tile, {"sl_HH": numbers(SHAPE, 2).astype(np.float32)})
    with pytest.raises(SceneRejected, match=r"1 band\(s\) of float32, expected one of unsigned integers"):
        open_alos2(str(tile), TERRAIN)
    folder = mosaic(tmp_path / "bare", {"mask": np.ones((4, 4), np.uint8)})
    assert sensor_of(folder) is None
    with pytest.raises(SceneRejected, match="the tile has no pixels"):
        open_alos2(str(folder), TERRAIN)


def test_an_older_mosaic_of_raw_files_is_refused_in_words(tmp_path):
    packed = archive(tmp_path / "N23W161_15_MOS_F02DAR.tar.gz", {"N23W161_15_sl_HH_F02DAR": b"", "x.hdr": b"ENVI"})
    with pytest.raises(SceneRejected, match=r"holds no tile of GeoTIFFs .* as they were before 2020, are not read"):
        open_alos2(str(packed), TERRAIN)
