import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import orfeo_calibration
from sentinel1_products import (
    EW_352,
    IPF_236,
    IPF_270,
    IPF_331,
    IPF_340,
    Block,
    cloud_optimised,
    crop,
    first_cell,
    in_bucket,
    unpack,
    write_pixels,
    zip_product,
)

from ingest.calibrate import Calibration
from ingest.lut import Noise, Vectors, read_calibration, read_noise
from ingest.raster import open_raster, read_window
from ingest.recipe import Pixels
from ingest.scene import Scene, Window
from ingest.sentinel1 import Sentinel1Scene, open_sentinel1
from ingest.xml import parse

# Near-range corner, over both seams between swaths, over a noise vector, the last lines, the far-range corner.
FAR_RANGE: Block = (16640, 25000, 48, 512)
BLOCKS: dict[str, list[Block]] = {
    IPF_340: [
        (0, 0, 64, 512),
        (640, 8640, 64, 512),
        (9300, 17451, 64, 512),
        (16641, 13000, 64, 512),
        (16641, 25590, 64, 512),
    ],
    IPF_331: [(16790, 8500, 64, 512), (1340, 17300, 16, 512)],
    IPF_270: [(0, 0, 64, 512), (16648, 5000, 64, 512)],
}


@pytest.fixture(scope="module")
def products(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Real annotation of three processor versions with simulated pixels in some blocks."""
    folder = tmp_path_factory.mktemp("products")
    found = {name: unpack(shared_data, name, folder) for name in BLOCKS}
    for name, product in found.items():
        write_pixels(product, [*BLOCKS[name], FAR_RANGE])
    return found


@pytest.fixture
def small(shared_data: Path, tmp_path: Path) -> Path:
    return first_cell(shared_data, tmp_path)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # of what the ToolBox writes
@pytest.mark.parametrize(
    ("name", "polarisation", "denoise"),
    [(IPF_340, "VV", True), (IPF_331, "VH", True), (IPF_270, "VV", False), (IPF_270, "VV", True)],
)
def test_sigma0_agrees_with_orfeo_toolbox(
    products: dict[str, Path], tmp_path: Path, name: str, polarisation: str, denoise: bool
) -> None:
    product = products[name]
    measurement = next((product / "measurement").glob(f"*-{polarisation.lower()}-*.tiff"))
    raw = Pixels(denoise=False, border_noise=False)
    with (
        open_sentinel1(str(product), raw) as plain,
        open_sentinel1(str(product), raw.model_copy(update={"denoise": denoise})) as scene,
    ):
        band = scene.info.polarisations.index(polarisation)
        for number, box in enumerate(BLOCKS[name]):
            expected = orfeo_calibration(measurement, box, "sigma", denoise, tmp_path / f"{number}.tif")
            found = scene.power(Window(*box))[band]
            valid = ~np.isnan(found)
            np.testing.assert_array_equal(expected[~valid], 0.0)
            assert_close_to_otb(found[valid], expected[valid], plain.power(Window(*box))[band][valid])
            assert (found[valid] < 0).any() == denoise


def assert_close_to_otb(found: Any, expected: Any, plain: Any) -> None:
    """Assert 1e-5; OTB writes 0 for negative power and subtracts in float32, which costs a rounding of DN^2."""
    error = np.abs(np.maximum(found, 0) - expected)
    assert np.all(error <= 1e-5 * np.abs(found) + 2.0**-22 * plain)
    assert np.median(error / np.maximum(expected, 1e-9)) < 2e-7


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # of what the ToolBox writes
def test_noise_vectors_keep_their_own_pixels_where_orfeo_toolbox_mixes_them(
    products: dict[str, Path], tmp_path: Path
) -> None:
    """In IPF 2.70 neighbouring noise vectors have different pixels; OTB reads the second at those of the first."""
    product, window = products[IPF_270], Window(*FAR_RANGE)
    measurement = next((product / "measurement").glob("*-vv-*.tiff"))
    expected = orfeo_calibration(measurement, FAR_RANGE, "sigma", True, tmp_path / "x.tif")
    pixels = Pixels(denoise=False, border_noise=False)
    with open_sentinel1(str(product), pixels) as scene, open_raster(str(measurement)) as dataset:
        plain, shape, numbers = scene.power(window)[0], scene.info.shape, read_window(dataset, window)
    gain = read_calibration(metadata(product, "calibration"), "calibration")
    own = read_noise(metadata(product, "noise"), "noise").vectors
    k = int(np.searchsorted(own.lines, window.row)) - 1
    assert own.lines[k + 1] > window.row + window.rows
    assert np.any(own.pixels[k] != own.pixels[k + 1])
    mixed = Vectors(own.lines[k : k + 2], (own.pixels[k],) * 2, own.values[k : k + 2])
    ours, as_otb = (Calibration.of(shape, gain, Noise(v, ())).power(window, numbers) for v in (own, mixed))
    valid = (expected > 0) & (ours > 0)
    assert_close_to_otb(as_otb[valid], expected[valid], plain[valid])
    difference = np.abs(ours - as_otb)[valid] / (plain - ours)[valid].clip(1e-4)
    assert 1e-4 < np.median(difference) < 1e-3  # of the noise


def metadata(product: Path, kind: str) -> Any:
    return parse(next((product / "annotation" / "calibration").glob(f"{kind}-*-vv-*.xml")).read_bytes(), kind)


@pytest.mark.filterwarnings("ignore")  # of the peer and what it stands on
@pytest.mark.parametrize(
    ("name", "polarisation", "quantity", "lut"),
    [
        (IPF_340, "VV", "sigma0", "sigmaNought"),
        (IPF_331, "VV", "beta0", "betaNought"),
        (IPF_331, "VH", "gamma0", "gamma"),
        (IPF_270, "VH", "sigma0", "sigmaNought"),
    ],
)
def test_power_agrees_with_xarray_sentinel(
    products: dict[str, Path], name: str, polarisation: str, quantity: Any, lut: str
) -> None:
    import xarray_sentinel

    group = f"IW/{polarisation}"
    image = xarray_sentinel.open_sentinel1_dataset(str(products[name]), group=group)
    table = xarray_sentinel.open_sentinel1_dataset(str(products[name]), group=f"{group}/calibration")[lut]
    with open_sentinel1(str(products[name]), Pixels(denoise=False, border_noise=False, quantity=quantity)) as scene:
        assert scene.info.quantity == quantity
        band = scene.info.polarisations.index(polarisation)
        for row, col, rows, cols in BLOCKS[name]:
            numbers = image.measurement[row : row + rows, col : col + cols].astype("float64")
            expected = xarray_sentinel.calibrate_intensity(numbers, table).values
            found = scene.power(Window(row, col, rows, cols))[band]
            valid = ~np.isnan(found)
            np.testing.assert_array_equal(expected[~valid], 0.0)
            np.testing.assert_allclose(found[valid], expected[valid], rtol=1e-6)


def test_terrain_flattening_starts_from_beta0(small: Path) -> None:
    with (
        open_sentinel1(str(small), Pixels(quantity="gamma0-terrain")) as flat,
        open_sentinel1(str(small), Pixels(quantity="beta0")) as beta,
    ):
        assert flat.info.quantity == "beta0"
        assert flat.power(Window(0, 0, 9, 99)).tobytes() == beta.power(Window(0, 0, 9, 99)).tobytes()


def test_what_is_known_of_a_real_product(products: dict[str, Path]) -> None:
    with open_sentinel1(str(products[IPF_340])) as scene:
        typed: Scene = scene
        info = typed.info
    assert info.id == IPF_340
    assert (info.sensor, info.product, info.mode, info.orbit) == ("sentinel-1", "GRDH", "IW", "descending")
    assert info.polarisations == ("VV",)
    assert (info.shape, info.spacing_m, info.looks) == ((16705, 26102), (10.0, 10.0), 4.4)
    assert info.time == "2021-12-23T05:11:22.594441Z"
    assert (info.platform, info.processing, info.quantity) == ("S1B", "Sentinel-1 IPF 003.40", "sigma0")
    assert info.acquisition == "S1B_IW_GRDH_20211223T051122_20211223T051147_030148_039993"
    assert info.warnings == ("the manifest also lists VH, which the product lacks",)
    assert len(info.ground) == 210
    assert info.ground[0][:2] == (0.0, 0.0)
    assert info.ground[-1][:2] == (16704.0, 26101.0)
    assert info.ground[0][2:] == pytest.approx((15.32209672548896, 42.37675280764677), abs=1e-12)
    assert info.footprint is not None
    assert len(info.footprint) == 2 * (10 + 21) - 4 + 1
    with open_sentinel1(str(products[IPF_331])) as scene:
        assert scene.info.polarisations == ("VV", "VH")
        assert scene.info.shape == (16854, 25931)
        assert scene.info.warnings == ()


def test_pixels_are_placed_by_the_geolocation_grid(products: dict[str, Path]) -> None:
    with open_sentinel1(str(products[IPF_340])) as scene:
        ground = scene.info.ground
        points = np.array(ground)
        np.testing.assert_allclose(scene.locate(points[:, 0], points[:, 1]), points[:, 2:], rtol=0, atol=1e-11)
        middle = scene.locate(np.array([(points[0, 0] + points[21, 0]) / 2]), np.array([0.0]))
        np.testing.assert_allclose(middle, [(points[0, 2:] + points[21, 2:]) / 2], atol=1e-11)
        assert scene.label(Window(0, 0, 4, 4)) is None
        angle = scene.incidence_deg(np.array([0.0, 16704.0]), np.array([0.0, 26101.0]))
        np.testing.assert_allclose(angle, [30.3094492457, 46.0780305598], atol=1e-9)


def test_folder_and_zip_are_the_same_scene(small: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "other" / IPF_331
    shutil.copytree(small, renamed)
    archive = zip_product(small, tmp_path / f"{IPF_331}.zip")
    stored = zip_product(small, tmp_path / "download.zip", zipfile.ZIP_STORED)
    window = Window(5, 100, 60, 333)
    with open_sentinel1(str(small)) as scene:
        info, expected = scene.info, scene.power(window)
        assert expected.shape == (2, 60, 333)
        assert 0.001 < np.isnan(expected).mean() < 0.003
    for path in (renamed, archive, stored):
        with open_sentinel1(str(path)) as scene:
            assert scene.info == info
            assert scene.power(window).tobytes() == expected.tobytes()


def test_cloud_optimised_copies_are_paired_with_their_annotation(small: Path) -> None:
    with open_sentinel1(str(small)) as scene:
        expected = scene.power(Window(0, 0, 64, 64))
    for file in list((small / "measurement").iterdir()):
        file.rename(file.with_name(f"{file.stem}-cog.tiff"))
    copy = small.rename(small.with_name(f"{IPF_331}_COG.SAFE"))
    with open_sentinel1(str(copy)) as scene:
        assert scene.info.id == IPF_331
        assert scene.power(Window(0, 0, 64, 64)).tobytes() == expected.tobytes()


def test_a_cloud_optimised_copy_is_the_same_scene(small: Path) -> None:
    """Copies are made anew: another name in the end, tiles, overviews, and 0 declared to be no data."""
    with open_sentinel1(str(small)) as scene:
        info, expected = scene.info, scene.power(Window(3, 5, 64, 300))
    copy = cloud_optimised(small)
    assert copy.name.endswith("_097D_COG.SAFE")
    with open_sentinel1(str(copy)) as scene:
        assert scene.info.id == IPF_331.replace("_8255", "_097D")
        assert scene.info.acquisition == info.acquisition == "S1A_IW_GRDH_20210119T031653_20210119T031718_036201_043ED0"
        assert scene.power(Window(3, 5, 64, 300)).tobytes() == expected.tobytes()


def test_a_bucket_with_short_names_is_the_same_scene(small: Path, tmp_path: Path) -> None:
    with open_sentinel1(str(small)) as scene:
        info, expected = scene.info, scene.power(Window(3, 5, 64, 300))
    with open_sentinel1(str(in_bucket(small, tmp_path / "8255"))) as scene:
        assert scene.info == info
        assert scene.power(Window(3, 5, 64, 300)).tobytes() == expected.tobytes()


def test_several_threads_read_the_same_pixels(open_small: Sentinel1Scene) -> None:
    windows = [Window(600 + 10 * n, 8600 + 7 * n, 40, 200) for n in range(16)]
    expected = [open_small.power(window).tobytes() for window in windows]
    with ThreadPoolExecutor(4) as pool:
        found = [power.tobytes() for power in pool.map(open_small.power, windows)]
    assert found == expected


@pytest.fixture(scope="module")
def open_small(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Sentinel1Scene:
    product = unpack(shared_data, IPF_340, tmp_path_factory.mktemp("small"))
    crop(product, 1, 8)  # over the seam between the first two swaths, over four vectors
    write_pixels(product, [(600, 8600, 300, 600)])
    return open_sentinel1(str(product))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_windows_never_change_a_pixel(open_small: Sentinel1Scene, data: st.DataObject) -> None:
    whole = open_small.power(Window(600, 8600, 300, 600))
    row, col = data.draw(st.integers(0, 299)), data.draw(st.integers(0, 599))
    rows, cols = data.draw(st.integers(1, 300 - row)), data.draw(st.integers(1, 600 - col))
    part = open_small.power(Window(600 + row, 8600 + col, rows, cols))
    assert part.tobytes() == whole[:, row : row + rows, col : col + cols].tobytes()


def test_a_window_outside_the_scene_is_an_error(open_small: Sentinel1Scene) -> None:
    rows, cols = open_small.info.shape
    for window in (Window(0, 0, rows + 1, 5), Window(-1, 0, 5, 5), Window(0, cols - 4, 5, 5)):
        with pytest.raises(ValueError, match="is not within"):
            open_small.power(window)


def test_all_zero_noise_is_reported(shared_data: Path, tmp_path: Path) -> None:
    product = unpack(shared_data, IPF_236, tmp_path)
    box = (0, 0, 64, 64)
    write_pixels(product, [box])
    with (
        open_sentinel1(str(product), Pixels(border_noise=False)) as scene,
        open_sentinel1(str(product), Pixels(denoise=False, border_noise=False)) as plain,
    ):
        assert scene.info.warnings == (
            "VV is not denoised: the product's noise LUT is all zero",
            "VH is not denoised: the product's noise LUT is all zero",
        )
        assert plain.info.warnings == ()
        assert scene.power(Window(*box)).tobytes() == plain.power(Window(*box)).tobytes()


def test_cloud_bucket_names_and_ew_are_read(shared_data: Path, tmp_path: Path) -> None:
    product = unpack(shared_data, EW_352, tmp_path).rename(tmp_path / "renamed")  # productInfo.json has its name
    write_pixels(product, [(120, 3000, 64, 512)])
    with open_sentinel1(str(product)) as scene:
        info = scene.info
        assert (info.id, info.product, info.mode, info.looks) == (EW_352, "GRDM", "EW", 10.7)
        assert info.polarisations == ("HH", "HV")
        assert (info.platform, info.processing) == ("S1A", "Sentinel-1 IPF 003.52")
        assert np.isfinite(scene.power(Window(120, 3000, 64, 512))).mean() > 0.99
