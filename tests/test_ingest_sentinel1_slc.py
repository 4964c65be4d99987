"""Single look complex products: real annotation of two processor versions with simulated pixels behind it."""

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.windows import Window as RasterWindow
from sentinel1_products import SLC_340, SLC_ZIP, images, unpack, write_pixels

from ingest.recipe import Pixels
from ingest.scene import Scene, SceneRejected, Window
from ingest.sentinel1 import Sentinel1Scene, open_sentinel1, parts_of

RAW = Pixels(denoise=False)
# Over the cut between the first two bursts, in the middle, over the last cut, at the near and far edge of the image.
BLOCKS = [(1400, 500, 200, 300), (6300, 9000, 128, 300), (11900, 20800, 180, 300)]


@pytest.fixture(scope="module")
def dual(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first sub-swath, IPF 3.20."""
    product = unpack(shared_data, SLC_ZIP, tmp_path_factory.mktemp("slc"))
    for swath in ("iw2", "iw3"):
        for file in sorted(product.rglob(f"*-{swath}-*")):
            file.unlink()
    write_pixels(product, BLOCKS)
    return product


@pytest.fixture(scope="module")
def single(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    product = unpack(shared_data, SLC_340, tmp_path_factory.mktemp("slc"))
    write_pixels(product, BLOCKS)
    return product


@pytest.fixture(scope="module")
def scene(dual: Path) -> Iterator[Sentinel1Scene]:
    with open_sentinel1(str(dual)) as opened:
        yield opened


def timing(product: Path) -> tuple[NDArray[np.int64], int, list[NDArray[np.int64]]]:
    """Read anew, without our code: first line of each burst in line intervals, lines per burst, valid lines."""
    root = ElementTree.parse(images(product)[0]).getroot()
    interval = float(root.findtext("imageAnnotation/imageInformation/azimuthTimeInterval") or 0)
    bursts = root.findall("swathTiming/burstList/burst")
    times = np.array([b.findtext("azimuthTime") for b in bursts], "datetime64[us]")
    starts = np.round((times - times[0]) / np.timedelta64(1, "s") / interval).astype(np.int64)
    valid = [np.flatnonzero(np.array((b.findtext("firstValidSample") or "").split(), int) >= 0) for b in bursts]
    return starts, int(root.findtext("swathTiming/linesPerBurst") or 0), valid


def test_what_is_known_of_a_sub_swath(scene: Sentinel1Scene, dual: Path) -> None:
    typed: Scene = scene
    info = typed.info
    assert info.id == f"{SLC_ZIP}_IW1"
    assert (info.product, info.mode, info.looks, info.orbit) == ("SLC", "IW", 1.0, "descending")
    assert info.polarisations == ("VV", "VH")
    assert info.spacing_m == (13.96269, 2.329562)
    assert info.acquisition == "S1A_IW_SLC_20200511T135119_20200511T135144_032518_03C421_IW1"
    assert (info.processing, info.warnings) == ("Sentinel-1 IPF 003.20", ())
    starts, _, valid = timing(dual)
    assert info.shape == (starts[-1] + valid[-1][-1] - valid[0][0] + 1, 21444)
    assert info.shape[0] == 12196


def test_scenes_of_a_product_are_listed(shared_data: Path, dual: Path) -> None:
    path = str(shared_data / "sentinel1" / f"{SLC_ZIP}.zip")
    assert parts_of(path) == tuple(f"{path}#IW{n}" for n in (1, 2, 3))
    assert parts_of(f"{path}#IW2") == (f"{path}#IW2",)
    assert parts_of(str(dual)) == (f"{dual}#IW1",)
    with open_sentinel1(f"{dual}#IW1") as named, open_sentinel1(str(dual)) as found:
        assert named.info == found.info


def test_every_row_is_one_moment(dual: Path, tmp_path: Path) -> None:
    """The ground is a function of time alone, so bursts agree where they overlap, and every row is the next moment."""
    product = Path(shutil.copytree(dual, tmp_path / dual.name))
    starts, lines, valid = timing(product)
    moments = np.concatenate([start + np.arange(lines) for start in starts])
    for annotation in images(product):
        path = product / "measurement" / f"{annotation.stem}.tiff"
        with rasterio.open(path, "r+") as file:
            numbers = np.repeat((1000 + moments % 20000 + 1j * (moments // 20000))[:, None], 256, axis=1)
            file.write(numbers.astype(np.complex64), 1, window=RasterWindow(9000, 0, 256, len(moments)))
    with open_sentinel1(str(product), Pixels(denoise=False, quantity="beta0")) as scene:
        rows = scene.info.shape[0]
        power = scene.power(Window(0, 9100, rows, 2))
    expected = valid[0][0] + np.arange(rows)
    assert 237.0**2 * power[1, :, 0] == pytest.approx((1000.0 + expected) ** 2, rel=1e-6)  # beta0 of SLC is constant


def test_cuts_lie_in_the_middle_of_overlaps(scene: Sentinel1Scene, dual: Path) -> None:
    starts, lines, valid = timing(dual)
    assert scene._mosaic is not None
    pieces = scene._mosaic.pieces
    assert [p.rows for p in pieces] == np.diff([p.row for p in pieces] + [scene.info.shape[0]]).tolist()
    for n, (piece, following) in enumerate(itertools.pairwise(pieces)):
        last, first = piece.line + piece.rows - 1 - n * lines, following.line - (n + 1) * lines
        assert abs((valid[n][-1] - last) - (first - valid[n + 1][0])) <= 1
        assert starts[n] + last + 1 == starts[n + 1] + first
        assert 100 < valid[n][-1] - last + first - valid[n + 1][0] + 1 < 130  # what is left out of both, in lines


@pytest.mark.filterwarnings("ignore")  # of the peer and what it stands on
@pytest.mark.parametrize(("name", "polarisation"), [("dual", "VH"), ("single", "VV")])
def test_bursts_agree_with_xarray_sentinel(request: pytest.FixtureRequest, name: str, polarisation: str) -> None:
    import xarray_sentinel

    product: Path = request.getfixturevalue(name)
    tables = xarray_sentinel.open_sentinel1_dataset(str(product), group=f"IW1/{polarisation}/calibration")
    whole = xarray_sentinel.open_sentinel1_dataset(str(product), group=f"IW1/{polarisation}")
    _, lines, _ = timing(product)
    for quantity, lut in (("sigma0", "sigmaNought"), ("beta0", "betaNought"), ("gamma0", "gamma")):
        with open_sentinel1(str(product), RAW.model_copy(update={"quantity": quantity})) as scene:
            band = scene.info.polarisations.index(polarisation)
            assert scene._mosaic is not None
            compared = []
            for (row, col, rows, cols), (n, piece) in itertools.product(BLOCKS, enumerate(scene._mosaic.pieces)):
                first, last = max(row, piece.line), min(row + rows, piece.line + piece.rows)
                if first >= last:
                    continue
                burst = xarray_sentinel.crop_burst_dataset(whole, burst_index=n)
                numbers = burst.measurement[first - n * lines : last - n * lines, col : col + cols].astype("c16")
                expected = xarray_sentinel.calibrate_intensity(numbers, tables[lut], rtol=1e-9, atol=0).values
                found = scene.power(Window(piece.row + first - piece.line, col, last - first, cols))[band]
                inside = ~np.isnan(found)
                np.testing.assert_allclose(found[inside], expected[inside], rtol=1e-6, atol=1e-12)
                compared.append((n, int(inside.sum())))
            assert {n for n, _ in compared} > {0, 1, 4}
            assert sum(count for _, count in compared) > 50_000


def test_samples_outside_the_valid_ones_are_no_data_and_zeros_inside_are_data(scene: Sentinel1Scene) -> None:
    """The first valid sample of a burst is 546, the last 21000."""
    row = 1400 - 20
    near, far = scene.power(Window(row, 0, 9, 800)), scene.power(Window(row, 20990, 9, 454))
    assert np.isnan(near[:, :, :546]).all()
    assert not np.isnan(near[:, :, 546:]).any()
    assert np.flatnonzero(np.isnan(far[0, 0]))[0] == 11
    with open_sentinel1(scene_path(scene), RAW) as raw:
        power = raw.power(Window(row, 546, 40, 250))
    assert 0.0 == power.min() < 1e-9 < np.median(power)
    assert 10 < (power < 1e-30).sum() < 1000


def scene_path(scene: Sentinel1Scene) -> str:
    return str(Path(scene._bands[0][0].name).parents[1])


def test_noise_is_that_of_the_burst(scene: Sentinel1Scene, dual: Path) -> None:
    """Noise vectors of SLC have unreliable lines: the fifth burst (line 6300) takes the one of its own time."""
    block = Window(6300 - 1497 * 4 + 5368 - 20, 9000, 100, 200)
    with (
        open_sentinel1(str(dual), RAW) as raw,
        open_sentinel1(str(dual), Pixels(denoise=False, quantity="sigma0")) as s,
    ):
        removed = raw.power(block)[0].astype(np.float64) - scene.power(block)[0]
        gain = s._bands[0][1].power(Window(6300, 9000, 100, 200), np.full((100, 200), 1000 + 0j, np.complex64))
    root = ElementTree.parse(next((dual / "annotation/calibration").glob("noise-*-vv-*.xml"))).getroot()
    vector = root.findall("noiseRangeVectorList/noiseRangeVector")[4]
    pixel, lut = (np.array((vector.findtext(f) or "").split(), float) for f in ("pixel", "noiseRangeLut"))
    azimuth = root.find("noiseAzimuthVectorList/noiseAzimuthVector")
    assert azimuth is not None
    line, factor = (np.array((azimuth.findtext(f) or "").split(), float) for f in ("line", "noiseAzimuthLut"))
    eta = np.interp(np.arange(9000, 9200), pixel, lut) * np.interp(np.arange(6300, 6400), line, factor)[:, None]
    np.testing.assert_allclose(removed * 1e6 / gain, eta, rtol=1e-2)
    assert 100 < eta.mean() < 1000


def test_rows_are_placed_by_their_time(scene: Sentinel1Scene, dual: Path) -> None:
    root = ElementTree.parse(images(dual)[0]).getroot()
    points = list(root.iter("geolocationGridPoint"))
    fields = ("line", "pixel", "longitude", "latitude", "incidenceAngle")
    line, pixel, lon, lat, angle = np.array([[float(p.findtext(f) or 0) for f in fields] for p in points]).T
    starts, lines, valid = timing(dual)
    burst = np.minimum(line // lines, len(starts) - 1).astype(int)
    rows = starts[burst] + line - burst * lines - valid[0][0]
    np.testing.assert_allclose(scene.locate(rows, pixel), np.stack([lon, lat], axis=1), atol=1e-10)
    np.testing.assert_allclose(scene.incidence_deg(rows, pixel), angle, atol=1e-10)


def test_the_real_pixels_of_a_product_without_noise_annotation(shared_data: Path) -> None:
    """This product was cut to one polarisation of one sub-swath; all its pixels are 0, and valid."""
    product = shared_data / "sentinel1" / f"{SLC_340}.SAFE"
    with pytest.raises(SceneRejected, match=r"annotation/calibration/noise-s1a-iw1-slc-vv.*xml is missing"):
        open_sentinel1(str(product))
    with open_sentinel1(str(product), RAW) as scene:
        power = scene.power(Window(5000, 0, 8, 2000))
        assert np.isnan(power[0, 0, :623]).all()
        assert np.all(power[0, :, 623:] == 0)
        assert scene.info.warnings == ("the manifest also lists VH, which the product lacks",)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_windows_never_change_a_pixel(scene: Sentinel1Scene, whole: NDArray[np.float32], data: st.DataObject) -> None:
    row, col = data.draw(st.integers(0, 299)), data.draw(st.integers(0, 299))
    rows, cols = data.draw(st.integers(1, 300 - row)), data.draw(st.integers(1, 300 - col))
    part = scene.power(Window(1250 + row, 500 + col, rows, cols))
    assert part.tobytes() == whole[:, row : row + rows, col : col + cols].tobytes()


@pytest.fixture(scope="module")
def whole(scene: Sentinel1Scene) -> NDArray[np.float32]:
    return scene.power(Window(1250, 500, 300, 300))  # over the first cut


def edited(old: str, new: str, count: int = -1) -> Any:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new, count)

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (edited("<linesPerBurst>1497", "<linesPerBurst>1496"), "has 9 bursts of 1496 lines, which do not make"),
        (edited("2020-05-11T13:51:22.179387", "2020-05-11T13:51:18.179387"), "bursts .* do not follow each other|grid"),
        (edited("2020-05-11T13:51:41.489283", "2020-05-11T14:51:41.489283"), "bursts that do not follow each other"),
        (edited("2020-05-11T13:51:22.179387", "yesterday"), "azimuthTime is 'yesterday', expected a time"),
        (edited(" 21000 ", " 31000 ", 1), "the valid samples of a burst do not lie in its 21444 samples"),
        (
            edited("<azimuthTimeInterval>2", "<azimuthTimeInterval>-2"),
            "azimuthTimeInterval is -.*, expected some",
        ),
        (edited("<productType>SLC", "<productType>GRD", 1), "is GRD V., expected SLC"),
    ],
)
def test_damaged_bursts_are_refused(dual: Path, tmp_path: Path, damage: Any, message: str) -> None:
    product = Path(shutil.copytree(dual, tmp_path / dual.name))
    for annotation in images(product):
        annotation.write_text(damage(annotation.read_text()))
    with pytest.raises(SceneRejected, match=message):
        open_sentinel1(str(product))


def test_polarisations_must_share_their_bursts(dual: Path, tmp_path: Path) -> None:
    product = Path(shutil.copytree(dual, tmp_path / dual.name))
    annotation = images(product)[0]
    annotation.write_text(annotation.read_text().replace("13:51:22.179387", "13:51:22.189387"))
    with pytest.raises(SceneRejected, match="has polarisations whose bursts are of different times"):
        open_sentinel1(str(product))


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_damaged_metadata_is_read_or_rejected(fuzzed: tuple[Path, bytes], data: st.DataObject) -> None:
    product, whole = fuzzed
    content = bytearray(whole)
    end = content.index(b"<geolocationGrid>")
    begin = content.index(b"<swathTiming>") if data.draw(st.booleans()) else 0
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(begin, end if begin < end else len(content) - 1))
        content[start : start + data.draw(st.integers(0, 40))] = data.draw(
            st.sampled_from([b"", b"9", b"<", b"-1e300 ", b"1e-300"])
        )
    images(product)[0].write_bytes(bytes(content))
    try:
        with open_sentinel1(str(product), RAW) as opened:
            opened.power(Window(0, 0, 9, 9))
    except SceneRejected:
        pass


@pytest.fixture(scope="module")
def fuzzed(single: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    product = Path(shutil.copytree(single, tmp_path_factory.mktemp("fuzz") / single.name))
    return product, images(product)[0].read_bytes()
