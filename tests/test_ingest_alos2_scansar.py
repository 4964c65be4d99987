import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from alos2_rasters import numbers, write
from rasterio.transform import Affine

from ingest.alos2 import open_alos2
from ingest.open import open_scene, parts_of, sensor_of
from ingest.recipe import Pixels
from ingest.scene import SceneRejected, Window

NAME = "ALOS2437590500-220630_WWDR2.2GUA"
TERRAIN = Pixels(quantity="gamma0-terrain")
MAP = Affine(25, 0, 374_612.5, 0, -25, 3_087_012.5)


@pytest.fixture(scope="module")
def real(shared_data) -> Path:
    return Path(shared_data) / "alos2" / "scansar_l22"


@pytest.fixture
def made(real, tmp_path) -> Path:
    codes = np.tile(np.arange(6, dtype=np.uint8), (50, 10))
    write(tmp_path / f"{NAME}_HH_SLP.tif", numbers((50, 60), 1), MAP, 32651)
    dark = numbers((50, 60), 2)
    dark[0] = 0
    write(tmp_path / f"{NAME}_HV_SLP.tif", dark, MAP, 32651)
    write(tmp_path / f"{NAME}_MSK.tif", codes, MAP, 32651)
    write(tmp_path / f"{NAME}_LIN.tif", np.full((50, 60), 4567, np.uint16), MAP, 32651)
    shutil.copyfile(real / f"{NAME}_summary.xml", tmp_path / f"{NAME}_summary.xml")
    return tmp_path


def test_the_real_sample(real):
    assert sensor_of(real) == "alos-2"
    assert parts_of(str(real)) == (str(real),)
    with open_scene(str(real), TERRAIN) as scene:
        info = scene.info
        where = scene.locate(np.array([-0.5, 15915.5]), np.array([-0.5, 16233.5]))
    assert (info.id, info.product, info.mode, info.orbit) == (NAME, "L2.2", "WWD", "ascending")
    assert (info.shape, info.spacing_m, info.quantity) == ((15916, 16234), (25.0, 25.0), "gamma0-terrain")
    assert info.grid.epsg == 32651
    assert info.time == "2022-06-30T15:58:00.078Z"
    assert info.processing == "JAXA/EORC EGAS-APR Ver.1.0.0"
    assert info.looks == pytest.approx(1.48, abs=0.01)
    assert where[0] == pytest.approx((121.726, 27.902), abs=1e-3)  # of the summary, upper left
    assert where[1] == pytest.approx((125.763, 24.290), abs=1e-3)
    assert info.warnings == (
        "incidence angles are not known: *_LIN.tif is missing",
        "summary.xml lists HV, which the product has no *_SLP.tif of",
    )


def test_the_real_mask_is_honoured(real):
    seen: set[int] = set()
    with rasterio.open(real / f"{NAME}_MSK.tif") as data, open_alos2(str(real), TERRAIN) as scene:
        for corner in ((0, 0), (13_500, 13_800), (15_340, 5000), (10_080, 1300), (1450, 5050)):
            window = Window(*corner, 100, 300)
            codes = data.read(
                1, window=((window.row, window.row + window.rows), (window.col, window.col + window.cols))
            )
            seen |= set(np.unique(codes).tolist())
            found = scene.power(window)
            np.testing.assert_array_equal(np.isfinite(found[0]), np.isin(codes, (1, 4)))
    assert seen == {0, 1, 2, 3, 4, 5}


def test_pixels_codes_and_angles(made):
    with open_alos2(str(made), TERRAIN) as scene:
        power, info = scene.power(Window(0, 0, 50, 60)), scene.info
        assert scene.incidence_deg(np.array([3.0]), np.array([5.0]))[0] == pytest.approx(45.67)
    assert info.polarisations == ("HH", "HV")
    assert info.warnings == ()
    signal = np.isin(np.tile(np.arange(6), (50, 10)), (1, 4))
    dn = numbers((50, 60), 1).astype(np.float64)
    np.testing.assert_allclose(power[0], np.where(signal, dn**2 * 10**-8.3, np.nan), rtol=5e-7)
    assert np.isnan(power[1, 0]).all()
    np.testing.assert_array_equal(np.isfinite(power[1, 1:]), signal[1:])


def test_without_mask_and_summary_it_opens_with_warnings(made):
    (made / f"{NAME}_MSK.tif").unlink()
    (made / f"{NAME}_summary.xml").unlink()
    with open_alos2(str(made), TERRAIN) as scene:
        assert np.isfinite(scene.power(Window(1, 0, 49, 60))).all()
        assert [w.split(":")[0] for w in scene.info.warnings] == [
            "layover, shadow and invalid pixels are not known",
            "the time of sensing is not known",
        ]
        assert scene.info.looks == 1.0


def test_it_is_never_flattened_or_turned_back(made):
    with pytest.raises(SceneRejected, match="terrain already flattened"):
        open_alos2(str(made))


def test_a_summary_with_an_entity_is_refused(made):
    (made / f"{NAME}_summary.xml").write_text('<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>')
    with pytest.raises(SceneRejected, match="document type or entity"):
        open_alos2(str(made), TERRAIN)


def test_two_scenes_in_a_folder_have_paths_of_their_own(made):
    for path in list(made.glob(f"{NAME}*")):
        shutil.copyfile(path, made / path.name.replace("-220630_", "-220714_"))
    parts = parts_of(str(made))
    assert parts == (f"{made}#{NAME}", f"{made}#{NAME.replace('220630', '220714')}")
    with open_alos2(parts[1], TERRAIN) as scene:
        assert scene.info.id == NAME.replace("220630", "220714")


@pytest.mark.parametrize(
    ("stated", "time"),
    [
        ("noon", None),
        ("2022-06-30T17:58:00+02:00", "2022-06-30T15:58:00.000000Z"),
        ("2022-06-30T15:58:00", "2022-06-30T15:58:00.000000Z"),
    ],
)
def test_a_time_is_utc_or_not_known(made, stated, time):
    summary = made / f"{NAME}_summary.xml"
    summary.write_text(summary.read_text().replace("2022-06-30T15:58:00.078Z", stated))
    with open_alos2(str(made), TERRAIN) as scene:
        assert scene.info.time == time
        assert any("time of sensing is not known" in warning for warning in scene.info.warnings) == (time is None)


def test_a_product_in_a_store_is_refused_in_words():
    with pytest.raises(SceneRejected, match="not read from stores: copy it to a disk"):
        open_scene(f"s3://bucket/{NAME}", TERRAIN)
