import pickle
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from rasterio.errors import NotGeoreferencedWarning

from infra.errors import UsageError
from ingest.chip_set import ChipFolder, chip_folder, read_chip_folder
from ingest.chips import ChipPixels, ChipSource, open_chip, to_power
from ingest.quicklook import BandStatistics, glance
from ingest.scene import SceneRejected, Window

FD5B = "S1A_IW_GRDH_1SDV_20180716T004042_20180716T004107_022812_02792A_FD5B"
WATER = {
    "classes": [{"id": 0, "name": "land", "colour": "#a0a0a0"}, {"id": 1, "name": "water", "colour": "#0000ff"}],
    "background": 0,
    "ignore": -1,
}
SEN1FLOODS11 = """
image: "*_S1Hand.tif"
label: "{stem}_LabelHand.tif"
polarisations: [VV, VH]
quantity: db
sensor: sentinel-1
product: GRDH
mode: IW
looks: 4.4
legend:
  classes: [{id: 0, name: land, colour: "#a0a0a0"}, {id: 1, name: water, colour: "#0000ff"}]
  ignore: -1
"""


def raw(path: Path | str) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read()


def whole(scene) -> Window:
    return Window(0, 0, *scene.info.shape)


def write(path: Path, bands: np.ndarray, palette: dict | None = None, **options) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, rows, cols = bands.shape
    profile = {"count": count, "height": rows, "width": cols, "dtype": bands.dtype, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="PNG" if path.suffix == ".png" else "GTiff", **profile) as file:
            file.write(bands)
            if palette:
                file.write_colormap(1, palette)
    return str(path)


def chip(image: str | tuple[str, ...], **fields) -> ChipSource:
    given = {"id": "x", "polarisations": ("VH",), "quantity": "amplitude", **fields}
    return ChipSource.model_validate({"images": image, **given})


# ---------------------------------------------------------------- real data sets


@pytest.fixture(scope="module")
def floods(shared_data, tmp_path_factory) -> list[ChipSource]:
    path = tmp_path_factory.mktemp("floods") / "chips.yaml"
    path.write_text(f"folder: {shared_data / 'water' / 'sen1floods11'}\n{SEN1FLOODS11}")
    spec, folder = read_chip_folder(path)
    return chip_folder(folder, spec)


def test_sen1floods11(shared_data, floods):
    assert [source.id for source in floods] == [
        "Ghana_53713",
        "India_900498",
        "Mekong_333434",
        "Nigeria_812045",
        "Pakistan_849790",
        "Somalia_699062",
        "Sri-Lanka_534068",
        "USA_905409",
    ]
    water = {}
    for source in floods:
        with open_chip(source) as scene:
            info, power, label = scene.info, scene.power(whole(scene)), scene.label(whole(scene))
        stem = shared_data / "water" / "sen1floods11" / info.id
        level = raw(f"{stem}_S1Hand.tif").astype(np.float64)
        np.testing.assert_allclose(power, 10.0 ** (level / 10.0), rtol=1e-7)
        stored = raw(f"{stem}_LabelHand.tif")[0]
        np.testing.assert_array_equal(label, np.where(stored == -1, 255, stored))
        assert (info.shape, info.polarisations, info.sensor, info.looks) == (
            (512, 512),
            ("VV", "VH"),
            "sentinel-1",
            4.4,
        )
        assert info.grid.epsg == 4326
        assert info.warnings == ()
        water[info.id] = int((label == 1).sum())
    assert water["India_900498"] == 123_953
    assert water["Ghana_53713"] == 0
    assert sum(water.values()) == 724_288


def test_nan_of_a_real_chip_stays_no_data(floods):
    with open_chip(floods[3]) as scene:
        power = scene.power(whole(scene))
    assert np.isnan(power).sum() == 1158
    assert np.nanmean(power, axis=(1, 2)) == pytest.approx((0.0529901, 0.0119466), rel=1e-4)


def test_sen1floods11_lies_where_its_file_says(floods):
    with open_chip(floods[0]) as scene:
        found = scene.locate(np.array([0.0, 511.0]), np.array([0.0, 511.0]))
    step = 8.983152841195215e-05
    lon, lat = -1.6097809891421826, 10.348592073056887
    expected = [[lon + step / 2, lat - step / 2], [lon + 511.5 * step, lat - 511.5 * step]]
    assert np.abs(found - expected).max() < 1e-12


def test_the_48_los_angeles_tiles(shared_data):
    folder = shared_data / "sentinel1_iw_vh_tiles"
    spec = ChipFolder(
        image=("*.tif",),
        polarisations=("VH",),
        quantity="amplitude",
        offset_db=-45.0,
        time="2020-11-07T13:52:41Z",
        looks=4.4,
    )
    sources = chip_folder(folder, spec)
    assert len(sources) == 48
    shares = []
    for source in sources:
        with open_chip(source) as scene:
            window = Window(100, 200, 64, 1024 - 200)
            power = scene.power(window)
            info = scene.info
        with rasterio.open(folder / f"{info.id}.tif") as file:
            stored = file.read(window=((100, 164), (200, 1024)))
        np.testing.assert_allclose(power, stored.astype(np.float64) ** 2 * 10.0**-4.5, rtol=1e-7)
        assert (info.shape, info.grid.epsg, info.time) == ((1024, 1024), 3395, "2020-11-07T13:52:41.000000Z")
        assert info.spacing_m == pytest.approx((10.0, 10.0), abs=1e-3)
        assert scene.label(window) is None
        shares.append(float(np.isnan(power).mean()))
    assert max(shares) == 0.0
    assert len({source.id for source in sources}) == 48


def test_a_real_pair_of_band_files_with_control_points(shared_data):
    spec = ChipFolder(
        image=("*/measurement/iw-vv.tiff", "*/measurement/iw-vh.tiff"),
        polarisations=("VV", "VH"),
        quantity="amplitude",
        no_data=0,
        sensor="sentinel-1",
    )
    (source,) = chip_folder(shared_data / "sentinel1", spec)
    assert source.id == FD5B
    with open_chip(source) as scene:
        info, power = scene.info, scene.power(whole(scene))
        corners = scene.locate(np.array([-0.5, 836.45]), np.array([-0.5, 1279.45]))
    folder = shared_data / "sentinel1" / FD5B / "measurement"
    for band, name in zip(power, ("iw-vv", "iw-vh"), strict=True):
        dn = raw(folder / f"{name}.tiff")[0].astype(np.float64)
        np.testing.assert_allclose(band, np.where(dn == 0, np.nan, dn**2), rtol=1e-7)
    assert info.shape == (837, 1280)
    assert (info.grid, len(info.ground)) == (None, 210)
    # The catalogue's own footprint of the product (productInfo.json).
    assert np.abs(corners - [[78.203903, 10.737548], [75.605247, 9.682624]]).max() < 1e-4
    assert info.spacing_m == pytest.approx((203.6, 200.1), abs=0.1)
    lon, lat = np.array(info.footprint).T
    assert (lon.min(), lon.max(), lat.min(), lat.max()) == pytest.approx((75.605, 78.204, 9.226, 11.190), abs=1e-3)
    assert np.isnan(power[0]).mean() == pytest.approx(0.0200726, abs=1e-6)
    assert np.nanmean(power, axis=(1, 2)) == pytest.approx((57497.97, 12175.70), rel=1e-5)


@given(row=st.integers(0, 511), col=st.integers(0, 511), rows=st.integers(1, 512), cols=st.integers(1, 512))
@settings(max_examples=40, deadline=None)
def test_how_windows_are_cut_never_changes_a_pixel(floods, row, col, rows, cols):
    window = Window(row, col, min(rows, 512 - row), min(cols, 512 - col))
    inside = np.s_[..., row : row + window.rows, col : col + window.cols]
    with open_chip(floods[3]) as scene:
        power, label = scene.power(whole(scene)), scene.label(whole(scene))
        assert scene.power(window).tobytes() == np.ascontiguousarray(power[inside]).tobytes()
        assert scene.label(window).tobytes() == np.ascontiguousarray(label[inside]).tobytes()


# ---------------------------------------------------------------- types and meanings of pixels


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
def test_every_type_of_number(tmp_path, dtype):
    stored = np.array([[[0, 1, 2, 100], [127, 3, 4, 5]]]).astype(dtype)
    with open_chip(chip(write(tmp_path / "a.tif", stored), no_data=0)) as scene:
        power = scene.power(Window(0, 0, 2, 4))
    expected = np.where(stored == 0, np.nan, stored.astype(np.float64) ** 2)
    np.testing.assert_array_equal(power, expected.astype(np.float32))


@pytest.mark.parametrize("bands", [1, 3, 5])
def test_any_number_of_bands(tmp_path, bands):
    stored = np.arange(bands * 6, dtype=np.float32).reshape(bands, 2, 3)
    names = tuple(f"B{i}" for i in range(bands))
    with open_chip(chip(write(tmp_path / "a.tif", stored), polarisations=names, quantity="power")) as scene:
        np.testing.assert_array_equal(scene.power(Window(0, 0, 2, 3)), stored)
        assert scene.info.polarisations == names


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_png(tmp_path, dtype):
    stored = np.array([[[0, 200], [np.iinfo(dtype).max, 7]]], dtype)
    with open_chip(chip(write(tmp_path / "a.png", stored), no_data=7)) as scene:
        power, info = scene.power(Window(0, 0, 2, 2)), scene.info
    assert power.ravel()[:3].tolist() == [0.0, 40000.0, float(np.float32(float(np.iinfo(dtype).max) ** 2))]
    assert np.isnan(power[0, 1, 1])
    assert (info.grid, info.ground, info.footprint, info.spacing_m) == (None, (), None, None)
    assert scene.locate(np.zeros(1), np.zeros(1)) is None


@pytest.mark.parametrize(
    ("quantity", "scale", "offset_db", "stored", "power"),
    [
        ("power", 1.0, 0.0, 0.25, 0.25),
        ("power", 2.0, 10.0, 0.25, 5.0),
        ("amplitude", 1.0, -83.0, 1000.0, 10**-2.3),
        ("amplitude", 0.5, 0.0, -4.0, 4.0),
        ("db", 1.0, 0.0, -20.0, 0.01),
        ("db", 0.01, 3.0, -1300.0, 0.1),
        ("db", 1.0, 0.0, -3000.0, 0.0),
    ],
)
def test_what_a_number_means(quantity, scale, offset_db, stored, power):
    pixels = ChipPixels(polarisations=("VV",), quantity=quantity, scale=scale, offset_db=offset_db)
    assert to_power(np.array([stored], np.float32), pixels)[0] == pytest.approx(power, rel=1e-6)


@pytest.mark.parametrize("quantity", ["power", "amplitude", "db"])
def test_what_is_not_finite_is_no_data(quantity):
    pixels = ChipPixels(polarisations=("VV",), quantity=quantity, no_data=None)
    stored = np.array([np.nan, np.inf, -np.inf, 1e300])
    assert np.isnan(to_power(stored, pixels)).all()


def test_no_data_of_the_file_or_of_the_user(tmp_path):
    stored = np.array([[[-9999.9, 0.0, 5.0]]], np.float32)
    path = write(tmp_path / "a.tif", stored, nodata=-9999.9)

    def missing(**fields) -> list[bool]:
        with open_chip(chip(path, quantity="power", **fields)) as scene:
            return np.isnan(scene.power(Window(0, 0, 1, 3)))[0, 0].tolist()

    assert missing() == [True, False, False]
    assert missing(no_data="declared") == [True, False, False]
    assert missing(no_data=0) == [False, True, False]
    assert missing(no_data=None) == [False, False, False]
    assert missing(no_data=-9999.9) == [True, False, False]


def test_no_data_beyond_the_type_matches_nothing():
    pixels = ChipPixels(polarisations=("VV",), quantity="power", no_data=-9999.5)
    assert to_power(np.array([0, 241], np.uint8), pixels).tolist() == [0.0, 241.0]


def test_control_points_that_are_no_grid_leave_a_chip_unplaced_and_say_so(tmp_path):
    points = [rasterio.control.GroundControlPoint(r, c, 10 + c / 100, 50) for r, c in ((0, 0), (3, 1), (5, 9))]
    path = write(tmp_path / "a.tif", np.ones((1, 6, 10), np.uint8), gcps=points, crs="EPSG:4326")
    with open_chip(chip(path)) as scene:
        assert scene.locate(np.zeros(1), np.zeros(1)) is None
        assert "3 geolocation points do not fill a grid" in scene.info.warnings[0]


# ---------------------------------------------------------------- labels


def test_labels_in_colours(tmp_path):
    image = write(tmp_path / "a.png", np.ones((1, 1, 3), np.uint8))
    label = write(tmp_path / "a_gt.png", np.array([[[0, 160, 9]], [[0, 160, 9]], [[255, 160, 9]]], np.uint8))
    with open_chip(chip(image, label=label, legend={**WATER, "ignore": "#090909"})) as scene:
        assert scene.label(Window(0, 0, 1, 3)).tolist() == [[1, 0, 255]]
        assert scene.label(Window(0, 1, 1, 1)).tolist() == [[0]]


def test_labels_in_a_palette(tmp_path):
    image = write(tmp_path / "a.tif", np.ones((1, 1, 3), np.uint8))
    palette = {3: (255, 0, 0, 255), 4: (0, 255, 0, 255)}
    label = write(tmp_path / "gt.tif", np.array([[[3, 4, 3]]], np.uint8), palette, photometric="palette")
    with open_chip(chip(image, label=label, label_map={"#ff0000": 7, "#00ff00": 255})) as scene:
        assert scene.label(Window(0, 0, 1, 3)).tolist() == [[7, 255, 7]]
    with open_chip(chip(image, label=label)) as scene:
        assert scene.label(Window(0, 0, 1, 3)).tolist() == [[3, 4, 3]]
    plain = write(tmp_path / "plain.tif", np.ones((1, 1, 3), np.uint8))
    with pytest.raises(SceneRejected, match="one band without a palette"):
        open_chip(chip(image, label=plain, label_map={"#ff0000": 7}))


def test_a_label_nobody_knows_rejects_the_chip(tmp_path):
    image = write(tmp_path / "a.tif", np.ones((1, 1, 3), np.uint8))
    label = write(tmp_path / "l.tif", np.array([[[0, 1, 2]]], np.int16))
    with open_chip(chip(image, label=label, legend=WATER)) as scene:
        assert scene.label(Window(0, 0, 1, 2)).tolist() == [[0, 1]]
        with pytest.raises(SceneRejected, match=r"l\.tif holds the label 2"):
            scene.label(Window(0, 0, 1, 3))


# ---------------------------------------------------------------- what is refused


def test_bad_chips_are_rejected_in_words(tmp_path, shared_data):
    good = write(tmp_path / "good.tif", np.ones((1, 4, 4), np.uint8))
    larger = write(tmp_path / "larger.tif", np.ones((1, 4, 5), np.uint8))
    pair = write(tmp_path / "pair.tif", np.ones((2, 4, 4), np.uint8))
    deep = write(tmp_path / "deep.tif", np.ones((3, 4, 4), np.uint16))
    complex_ = write(tmp_path / "complex.tif", np.ones((1, 4, 4), np.complex64))
    (tmp_path / "text.tif").write_text("<VRTDataset rasterXSize='4' rasterYSize='4'/>")
    (tmp_path / "empty.png").write_bytes(b"")
    for source, message in (
        (chip(str(tmp_path / "absent.tif")), "absent.tif cannot be opened"),
        (chip(str(tmp_path / "text.tif")), "is not a GTiff file"),
        (chip(str(tmp_path / "empty.png")), "is empty"),
        (chip(str(tmp_path / "chip.jpg")), "read from .tif, .tiff, .png files"),
        (chip(complex_), "holds complex64"),
        (chip(pair), "pair.tif: 2; expected VH"),
        (chip(good, polarisations=("VV", "VH")), "good.tif: 1; expected VV, VH"),
        (chip((good, pair), polarisations=("A", "B", "C")), "expected A, B, C"),
        (chip((pair, good), polarisations=("A", "B")), "expected A, B"),
        (chip((good, larger), polarisations=("A", "B")), "larger.tif has 4 x 5 pixels, .*good.tif has 4 x 4"),
        (chip(good, label=larger), "larger.tif has 4 x 5 pixels"),
        (chip(good, label=str(tmp_path / "gone.tif")), "gone.tif cannot be opened"),
        (chip(good, label=deep), "expected colours of uint8"),
    ):
        with pytest.raises(SceneRejected, match=message):
            open_chip(source)


def test_a_truncated_chip_is_rejected_when_it_is_read(tmp_path, shared_data):
    real = shared_data / "water" / "sen1floods11" / "Ghana_53713_S1Hand.tif"
    (tmp_path / "cut.tif").write_bytes(real.read_bytes()[:900_000])
    source = chip(str(tmp_path / "cut.tif"), polarisations=("VV", "VH"), quantity="db")
    with pytest.raises(SceneRejected, match=r"cut\.tif"), open_chip(source) as scene:
        scene.power(whole(scene))


def test_a_window_outside_is_a_mistake_of_the_caller(floods):
    with open_chip(floods[0]) as scene:
        for window in (Window(0, 0, 513, 1), Window(-1, 0, 1, 1), Window(0, 500, 1, 13)):
            with pytest.raises(ValueError, match="is not within the 512 x 512 pixels"):
                scene.power(window)
            with pytest.raises(ValueError, match="is not within"):
                scene.label(window)


# ---------------------------------------------------------------- folders and their descriptions


def test_a_chip_that_lacks_a_file_is_listed_and_the_others_open(tmp_path):
    for name in ("a_vv", "a_vh", "b_vh"):
        write(tmp_path / "img" / f"{name}.tif", np.full((1, 2, 2), 2, np.uint16))
    spec = ChipFolder(
        image=("img/*_vv.tif", "img/*_vh.tif"), polarisations=("VV", "VH"), quantity="amplitude", name="set"
    )
    good, bad = chip_folder(tmp_path, spec)
    assert (good.id, bad.id) == ("set-a", "set-b")
    with open_chip(good) as scene:
        assert scene.power(Window(0, 0, 2, 2)).tolist() == [[[4.0, 4.0]] * 2] * 2
    with pytest.raises(SceneRejected, match=r"b_vv\.tif cannot be opened"):
        open_chip(bad)


def test_names_with_signs_of_patterns_are_plain_names(tmp_path):
    folder = tmp_path / "a[1] {x}"
    write(folder / "c[2].tif", np.ones((1, 2, 2), np.uint8))
    (source,) = chip_folder(folder, ChipFolder(image=("*.tif",), polarisations=("VV",), quantity="power"))
    assert source.id == "c[2]"
    with open_chip(source) as scene:
        assert scene.info.shape == (2, 2)


def test_a_description_with_a_legend_file_and_a_folder_elsewhere(tmp_path):
    (tmp_path / "sets").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "sets" / "legend.yaml").write_text(
        "classes: [{id: 0, name: land, colour: '#a0a0a0'}, {id: 1, name: water, colour: '#0000ff'}]"
    )
    (tmp_path / "sets" / "chips.yaml").write_text(
        "folder: ../data\nimage: '*.png'\npolarisations: VV\nquantity: amplitude\nlegend: legend.yaml\n"
        "time: 2020-11-07T13:52:41+01:00\nlabel_map: {10: 0, '#00ff00': 1}\n"
    )
    spec, folder = read_chip_folder(tmp_path / "sets" / "chips.yaml")
    assert folder.resolve() == (tmp_path / "data").resolve()
    assert spec.legend is not None
    assert [c.name for c in spec.legend.classes] == ["land", "water"]
    assert spec.time == "2020-11-07T12:52:41.000000Z"
    assert spec.label_map == {10: 0, "#00ff00": 1}
    assert chip_folder(folder, spec) == []


BASE = "image: '*.tif'\npolarisations: [VV]\nquantity: db\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found NoneType, expected fields"),
        ("{", "chips.yaml"),
        ("image: '*.tif'", "polarisations: Field required; quantity: Field required"),
        (BASE + "offset: 3", "offset: Extra inputs"),
        (BASE + "folder: none", "its folder .*none is not there"),
        (BASE + "legend: none.json", "none.json: .*No such file"),
        (BASE + "label: labels.tif", r"expected fields among stem in it"),
        (BASE + "time: yesterday", "time: Value error"),
        (BASE + "label_map: {white: 1}", "'white' is not a colour"),
        (BASE + "label_map: {1: 300}", "label_map.1"),
        (BASE + "no_data: zero", "no_data"),
        (BASE + "looks: 0", "looks: Input should be greater than 0"),
        (BASE + "offset_db: .nan", "offset_db"),
        (BASE.replace("*.tif", "a.tif"), r"with a \* or \{field\}"),
        (BASE.replace("*.tif", "/x/*.tif"), "within the folder"),
        (BASE.replace("[VV]", "[VV, VV]"), "a polarisation is named twice: VV, VV"),
        (BASE.replace("'*.tif'", "['*a.tif', '*b.tif']"), "2 image patterns for 1 polarisations"),
        (BASE.replace("db", "decibel"), "quantity: Input should be 'power', 'amplitude' or 'db'"),
        (
            BASE
            + "label_map: {1: 4}\n"
            + "legend: {classes: [{id: 0, name: a, colour: '#000000'}, {id: 1, name: b, colour: [1, 1, 1]}]}",
            r"leads to the class ids \[4\]",
        ),
    ],
)
def test_a_wrong_description_is_named_by_field(tmp_path, text, message):
    path = tmp_path / "chips.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_chip_folder(path)


def test_a_source_travels_and_cannot_change(floods):
    assert pickle.loads(pickle.dumps(floods[0])) == floods[0]
    with pytest.raises(ValidationError):
        floods[0].scale = 2.0


def test_the_fingerprint_names_content_and_meaning_not_the_place(floods, tmp_path):
    def fingerprint(source: ChipSource) -> str:
        with open_chip(source) as scene:
            return scene.info.fingerprint

    first = floods[1]
    moved = tmp_path / "moved.tif"
    shutil.copyfile(first.images[0], moved)
    seen = fingerprint(first)
    assert fingerprint(first.model_copy(update={"images": (str(moved),), "id": "other"})) == seen
    for change in ({"offset_db": 1.0}, {"label": None}, {"label_ignore": (-1, 7)}, {"looks": 1.0}):
        assert fingerprint(first.model_copy(update=change)) != seen
    legend = first.legend.model_copy(update={"ignore": (-1, 9)})
    assert fingerprint(first.model_copy(update={"legend": legend})) != seen
    data = bytearray(moved.read_bytes())
    data[-1] ^= 1
    moved.write_bytes(data)
    assert fingerprint(first.model_copy(update={"images": (str(moved),)})) != seen


def test_threads_may_share_a_scene(floods):
    with open_chip(floods[0]) as scene, ThreadPoolExecutor(4) as pool:
        results = [p.tobytes() for p in pool.map(lambda _: scene.power(whole(scene)), range(8))]
    assert len(set(results)) == 1


def test_a_map_without_a_transform_places_nothing(tmp_path):
    ones = np.ones((1, 8, 8), np.float32)
    with open_chip(chip(write(tmp_path / "a.tif", ones, crs="EPSG:32633"))) as scene:
        assert (scene.info.footprint, scene.info.spacing_m, scene.info.grid) == (None, None, None)


def test_a_palette_of_other_numbers_than_bytes_is_refused(tmp_path):
    image = write(tmp_path / "a.tif", np.ones((1, 8, 8), np.uint16))
    label = write(tmp_path / "l.tif", np.full((1, 8, 8), 300, np.uint16), palette={300: (255, 0, 0, 255)})
    with pytest.raises(SceneRejected, match="holds uint16, expected a palette's numbers as uint8"):
        open_chip(chip(image, label=label, label_map={"#ff0000": 1}))


def test_polygons_nested_without_end_are_refused(tmp_path):
    place = rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)
    image = write(tmp_path / "a.tif", np.ones((1, 8, 8), np.uint16), crs="EPSG:32633", transform=place)
    (tmp_path / "l.geojson").write_text("[" * 200_000)
    with pytest.raises(SceneRejected, match="expected a GeoJSON feature collection"):
        open_chip(chip(image, label=str(tmp_path / "l.geojson")))


def test_a_glance_at_a_line_of_pixels_sees_them(tmp_path):
    with open_chip(chip(write(tmp_path / "a.tif", np.full((1, 3000, 1), 10, np.uint16)))) as scene:
        look = glance(scene, 500)
    assert look.bands["VH"] == BandStatistics(0.0, 0.0, 20.0, 20.0, 20.0)
    assert look.power.shape == (1, 500, 1)
