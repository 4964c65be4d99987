"""`ingest inspect` says what a product is, with the numbers of its pixels, and shows them."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import rasterio
from alos2_rasters import mosaic, numbers
from numpy.typing import NDArray
from PIL import Image
from rasterio import Affine

from infra.command import exit_code
from infra.store import open_store
from ingest.catalog import Product, read_catalog
from ingest.cli import app
from ingest.inspect import inspect
from ingest.open import open_scene
from ingest.quicklook import glance, picture
from ingest.recipe import Pixels
from ingest.scene import Window
from ingest.simulate import simulate_alos2, simulate_sentinel1

ROWS, COLS = 700, 900


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_sentinel1(tmp_path_factory.mktemp("inspect"), rows=ROWS, cols=COLS, seed=3, lon=9, lat=45)


def power_of(product: Path) -> NDArray[np.float32]:
    with open_scene(str(product), Pixels()) as scene:
        return scene.power(Window(0, 0, *scene.info.shape))


def test_statistics_are_those_of_the_pixels(product: Path) -> None:
    """In a small scene every pixel counts: the numbers are those of plain NumPy on the whole of it."""
    found = inspect(str(product))
    for band, power in zip(found.look.bands.values(), power_of(product), strict=True):
        assert band.no_data_share == pytest.approx(np.isnan(power).mean())
        assert band.negative_share == pytest.approx(np.mean(power[~np.isnan(power)] < 0))
        low, middle, high = (10 * np.log10(value) for value in np.nanpercentile(power, (2, 50, 98)))
        assert (band.p02_db, band.median_db, band.p98_db) == pytest.approx((low, middle, high), abs=0.006)


@pytest.mark.parametrize("px", [30, 100, 300])
def test_cells_are_means_of_their_first_lines(product: Path, px: int) -> None:
    power = power_of(product)
    with open_scene(str(product), Pixels()) as scene:
        look = glance(scene, px)
    step = round(COLS / px)
    lines = min(step, 4)
    assert look.power.shape == (2, -(-ROWS // step), -(-COLS // step))
    for row, col in [(0, 0), (3, 5), (look.power.shape[1] - 1, look.power.shape[2] - 1)]:
        cell = power[:, row * step : row * step + lines, col * step : (col + 1) * step]
        expected = np.full(2, np.nan) if np.isnan(cell).all() else np.nanmean(cell.astype(np.float64), axis=(1, 2))
        assert look.power[:, row, col] == pytest.approx(expected, nan_ok=True)


def test_the_picture(product: Path) -> None:
    with open_scene(str(product), Pixels()) as scene:
        look = glance(scene, 90)
    image = Image.open(BytesIO(picture(look)))
    assert (image.mode, image.size) == ("RGB", (90, 70))
    pixels = np.asarray(image)
    empty = np.isnan(look.power).any(axis=0)
    assert (pixels[empty] == 0).all()
    assert (pixels[~empty] >= 16).all()
    level = 10 * np.log10(np.where(look.power[0] > 0, look.power[0], np.nan))
    low, high = np.nanpercentile(level, (2, 98))
    middle = ~np.isnan(level) & (level > low) & (level < high)
    expected = 16 + 239 * (level[middle] - low) / (high - low)
    assert np.abs(pixels[..., 0][middle] - expected).max() <= 1.0


def test_the_command(product: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    png = tmp_path / "look.png"
    assert exit_code(app, ["inspect", str(product), "--png", str(png)]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0] == product.name.removesuffix(".SAFE")
    for words in ("sentinel-1 (S1A)", "GRDH IW VV+VH", "Sentinel-1 IPF 003.40", "700 lines x 900 at 10 x 10 m"):
        assert words in text
    assert "sigma0; thermal noise removed" in text
    assert max(map(len, text.splitlines())) <= 80
    assert Image.open(BytesIO(png.read_bytes())).size == (900, 700)
    assert exit_code(app, ["inspect", str(product), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["polarisations"] == ["VV", "VH"]
    assert (data["shape"], data["ground_points"]) == ([700, 900], 210)
    assert 29 < data["incidence_deg"][0] < data["incidence_deg"][1] < 47
    assert data["bands"]["VV"]["median_db"] > data["bands"]["VH"]["median_db"]


def test_a_recipe_says_what_power_is(product: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("pixels: {quantity: beta0, denoise: false}")
    assert exit_code(app, ["inspect", str(product), "--recipe", str(recipe)]) == 0
    assert "beta0; thermal noise kept in, as the recipe says" in capsys.readouterr().out


def test_alos2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    product = simulate_alos2(tmp_path, rows=64, cols=96, seed=1, lon=9, lat=45)
    assert exit_code(app, ["inspect", str(product)]) == 0
    text = capsys.readouterr().out
    assert "alos-2" in text
    assert "EPSG:32632" in text


def test_what_comes_flattened_is_shown_as_it_comes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tile = mosaic(tmp_path / "tile", {"sl_HH": numbers((20, 30), 1), "sl_HV": numbers((20, 30), 2)})
    assert exit_code(app, ["inspect", str(tile)]) == 0
    assert "gamma0-terrain; noise as delivered" in capsys.readouterr().out
    assert exit_code(app, ["inspect", str(tile), "--recipe", "sarsense"]) == 1


def chips(folder: Path) -> Path:
    place = {"crs": "EPSG:32632", "transform": Affine(10, 0, 500_000, 0, -10, 5_000_000)}
    for number, level in enumerate((-20.0, -10.0)):
        with rasterio.open(
            folder / f"c{number}.tif", "w", driver="GTiff", height=8, width=12, count=1, dtype="float32", **place
        ) as file:
            file.write(np.full((8, 12), level, np.float32), 1)
    listing = folder / "chips.yaml"
    listing.write_text("name: set\nimage: '*.tif'\npolarisations: [VH]\nquantity: db\n")
    return listing


def test_a_chip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listing = chips(tmp_path)
    assert exit_code(app, ["inspect", str(listing), "--png", str(tmp_path / "c.png")]) == 0
    text = capsys.readouterr().out
    assert "set-c0" in text
    assert "2: #c0 #c1; this is #c0" in text
    assert Image.open(BytesIO((tmp_path / "c.png").read_bytes())).mode == "L"
    assert exit_code(app, ["inspect", f"{listing}#c1", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["bands"] == {
        "VH": {"no_data_share": 0.0, "negative_share": 0.0, "p02_db": -10.0, "median_db": -10.0, "p98_db": -10.0}
    }
    assert exit_code(app, ["inspect", f"{listing}#c7"]) == 2
    assert "has no chip 'c7'" in capsys.readouterr().err


def test_a_bad_product_is_one_line(product: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "S1A_IW_GRDH_1SDV_20210119T051122_20210119T051125_036202_046B50_32A1.SAFE"
    empty.mkdir()
    for path in (str(empty), str(tmp_path / "nowhere"), str(tmp_path), "https://example.net/S1A.zip"):
        assert exit_code(app, ["inspect", path]) == 1
        told = capsys.readouterr()
        assert told.err.startswith("ingest: error: ")
        assert len(told.err.splitlines()) == 1
    assert exit_code(app, ["inspect", str(product), "--png", str(tmp_path / "no/x.png")]) == 2


def test_scenes_of_an_slc_are_listed(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The real product's pixels are missing: the error is that of its first sub-swath, not of what it is."""
    (product,) = shared_data.glob("sentinel1/S1A_IW_SLC__1SDV_2020*.zip")
    assert exit_code(app, ["inspect", str(product)]) == 1
    assert "IW1".lower() in capsys.readouterr().err.lower()


def test_a_product_in_a_real_s3(product: Path, s3_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A catalog's s3:// row opens as the same scene, with the same numbers."""
    store = open_store(s3_url)
    for file in product.rglob("*"):
        if file.is_file():
            store.put(f"in/{product.name}/{file.relative_to(product).as_posix()}", file.read_bytes())
    (tmp_path / "c.csv").write_text(f"path\n{s3_url}/in/{product.name}\n")
    (unit,) = read_catalog(tmp_path / "c.csv", 16).units
    (source,) = unit.sources
    assert isinstance(source, Product)
    assert exit_code(app, ["inspect", source.path, "--json"]) == 0
    there = json.loads(capsys.readouterr().out)
    assert exit_code(app, ["inspect", str(product), "--json"]) == 0
    here = json.loads(capsys.readouterr().out)
    assert {**there, "path": None, "parts": None} == {**here, "path": None, "parts": None}


def test_noise_of_a_chip_is_as_it_was_delivered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listing = chips(tmp_path)
    listing.write_text(listing.read_text() + "\nsensor: sentinel-1\n")
    assert exit_code(app, ["inspect", str(listing)]) == 0
    assert "noise as delivered" in capsys.readouterr().out
