import shutil
from pathlib import Path

import numpy as np
import pytest
from alos2_products import PRODUCT, headers
from alos2_rasters import numbers, write
from rasterio.transform import Affine

from ingest.alos2 import open_alos2
from ingest.open import sensor_of
from ingest.recipe import Pixels
from ingest.scene import SceneRejected, Window

MAP = Affine(6.25, 0, 510_875.95, 0, -6.25, 8_819_466.1)
SHAPE = (30, 40)


@pytest.fixture
def product(shared_data, tmp_path) -> Path:
    for seed, band in enumerate(("HV", "HH")):
        dn = numbers(SHAPE, seed)
        dn[0, 0] = 0
        write(tmp_path / f"IMG-{band}-{PRODUCT}.tif", dn, MAP, 32720)
    (tmp_path / f"LUT-{PRODUCT}.txt").write_text("")
    shutil.copyfile(shared_data / "alos2" / "l15_ceos" / "summary.txt", tmp_path / "summary.txt")
    return tmp_path


def test_amplitude_on_a_map(product):
    assert sensor_of(product) == "alos-2"
    with open_alos2(str(product)) as scene:
        info, power = scene.info, scene.power(Window(0, 0, *SHAPE))
        assert scene.incidence_deg(np.zeros(1), np.zeros(1)) is None
    assert (info.id, info.product, info.mode, info.looks) == (PRODUCT, "L1.5", "FBD", 2.0)
    assert (info.polarisations, info.quantity, info.orbit) == (("HH", "HV"), "sigma0", "ascending")
    assert info.time == "2014-09-09T04:33:42.052000Z"
    assert info.grid.epsg == 32720
    assert info.processing == "JAPAN-JAXA-ALOS2-EICS"
    assert info.warnings == ("the calibration factor is JAXA's constant -83.0 dB: a GeoTIFF product does not state it",)
    dn = numbers(SHAPE, 1).astype(np.float64)
    dn[0, 0] = np.nan
    np.testing.assert_allclose(power[0], dn**2 * 10**-8.3, rtol=5e-7)


def test_a_leader_beside_it_gives_the_factor(product, shared_data, tmp_path):
    headers(shared_data, tmp_path / "ceos")
    leader = tmp_path / "ceos" / f"LED-{PRODUCT}"
    data = bytearray(leader.read_bytes())
    data[27500 + 20 : 27500 + 36] = f"{-80.0:16.7f}".encode()
    (product / leader.name).write_bytes(data)
    with open_alos2(f"{product}#{PRODUCT}") as scene:
        assert scene.info.warnings == ()
        assert scene.power(Window(1, 1, 1, 1))[0, 0, 0] == pytest.approx(
            float(numbers(SHAPE, 1)[1, 1]) ** 2 * 1e-8, rel=1e-6
        )


def rename(product: Path, old: str, new: str) -> None:
    for path in list(product.iterdir()):
        path.rename(product / path.name.replace(old, new))


def test_complex_pixels_are_refused_for_their_encoding(product):
    rename(product, "1.5GUA", "1.1__A")
    with pytest.raises(SceneRejected, match=r"how complex pixels stand in it is not known; fetch level 1\.1 in CEOS"):
        open_alos2(str(product))


def test_an_image_without_a_map_is_refused(product):
    write(product / f"IMG-HH-{PRODUCT}.tif", numbers(SHAPE, 1), None, None)
    with pytest.raises(SceneRejected, match="says nothing of where it lies"):
        open_alos2(str(product))


@pytest.mark.parametrize("quantity", ["beta0", "gamma0", "gamma0-terrain"])
def test_other_quantities_are_refused(product, quantity):
    with pytest.raises(SceneRejected, match=r"states no orbit|terrain not flattened"):
        open_alos2(str(product), Pixels(quantity=quantity))


def test_without_summary_the_time_is_not_known(product):
    (product / "summary.txt").unlink()
    with open_alos2(str(product)) as scene:
        assert scene.info.time is None
        assert "the time of sensing is not known" in scene.info.warnings[1]


def test_a_folder_without_images_is_refused(product):
    for path in product.glob("IMG-*"):
        path.unlink()
    with pytest.raises(SceneRejected, match="the product has no pixels"):
        open_alos2(str(product))
