"""Seasonal composites against plain NumPy over the same geocoded scenes."""

import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio.shutil
import xarray
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from s3_server import S3Server

from infra.cluster import session
from infra.command import exit_code
from infra.errors import ConflictError, UsageError
from infra.store import open_store
from ingest.catalog import Product
from ingest.cli import app
from ingest.composite import Request, composite, reduce_time
from ingest.composite_array import BLOCK
from ingest.composite_grid import CompositeGrid
from ingest.composite_scene import open_composite
from ingest.open import open_scene
from ingest.recipe import GridRules, Pixels, Recipe
from ingest.scene import SceneRejected, Window
from ingest.seasons import DIRECTIONS, SEASONS, season_of
from ingest.simulate import simulate_sentinel1
from ingest.work import open_source
from ingest.zarr_store import ZarrObjects
from shards.reader import Corpus

LON, LAT = 9.0, 45.0
BOX = (8.99, 44.992, 9.012, 45.006)
DAYS = [  # month and day of 2021 (December: of 2020), direction
    (1, 5, "Descending"),
    (12, 20, "Descending"),
    (2, 10, "Descending"),
    (7, 1, "Ascending"),
    (7, 13, "Ascending"),
    (9, 30, "Descending"),
]
OTHER_SEASONS = [(12, 28, "Ascending"), (4, 4, "Ascending"), (10, 5, "Ascending")]


def simulated(folder: Path, days: list[tuple[int, int, str]]) -> list[Product]:
    made = []
    for n, (month, day, direction) in enumerate(days):
        start = datetime(2020 if month == 12 else 2021, month, day, 5, 11, 22, tzinfo=UTC)
        path = simulate_sentinel1(
            folder, rows=170, cols=230 + n, seed=3, lon=LON + 0.001 * n, lat=LAT, start=start, direction=direction
        )
        made.append(Product(sensor="sentinel-1", path=str(path)))
    return made


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> list[Product]:
    return simulated(tmp_path_factory.mktemp("scenes"), DAYS)


@pytest.fixture(scope="module")
def whole_year(products: list[Product], tmp_path_factory: pytest.TempPathFactory) -> list[Product]:
    return [*products, *simulated(tmp_path_factory.mktemp("others"), OTHER_SEASONS)]


def request_for(out: Path | str, **changes: object) -> Request:
    grid = CompositeGrid.of_bbox(BOX, 10.0)
    recipe = Recipe(grid=GridRules(kind="utm", spacing_m=10.0, epsg=grid.epsg))
    given: dict = {"year": 2021, "statistic": "median", "polarisations": ("VV", "VH"), "recipe": recipe} | changes
    return Request(str(out), grid, **given)


@pytest.fixture(scope="module", autouse=True)
def ray_of_this_file(s3_server: S3Server):
    with pytest.MonkeyPatch.context() as patch:  # workers have the variables of the session's start
        for name, value in s3_server.environment.items():
            patch.setenv(name, value)
        with session(cpus=2):
            yield


def naive(products: list[Product], request: Request, season: int, direction: int) -> np.ndarray:
    """Stack whole scenes on the grid and take the median in linear power, in dB."""
    rows, cols = request.grid.shape
    layers = []
    for product in products:
        with open_source(product, request.recipe) as scene:
            info = scene.info
            assert info.time is not None
            if (season_of(info.time, 2021), DIRECTIONS.index(info.orbit or "")) != (season, direction):
                continue
            power = scene.power(Window(0, 0, *info.shape))
            top, left = request.grid.place(info)
        layer = np.full((2, rows + 2000, cols + 2000), np.nan, np.float32)
        layer[:, 1000 + top : 1000 + top + power.shape[1], 1000 + left : 1000 + left + power.shape[2]] = power
        layers.append(layer[:, 1000 : 1000 + rows, 1000 : 1000 + cols])
    with np.errstate(all="ignore"):
        return 10 * np.log10(np.maximum(np.ma.median(np.ma.masked_invalid(layers), axis=0).filled(np.nan), 1e-6))


def test_a_median_of_scenes_is_that_of_plain_numpy(products: list[Product], tmp_path: Path) -> None:
    request = request_for(tmp_path / "c.zarr")
    outcome = composite(products, request)
    assert (outcome.scenes, outcome.made, outcome.resumed, outcome.rejects) == (6, 1, 0, ())
    with xarray.open_zarr(str(tmp_path / "c.zarr"), consolidated=False, mask_and_scale=True) as data:
        found = data["backscatter"].values
        count = zarr.open_array(str(tmp_path / "c.zarr/count"), mode="r")[:]
        assert data["backscatter"].attrs["units"] == "dB"
        assert data["spatial_ref"].attrs["grid_mapping_name"] == "transverse_mercator"
        assert data.attrs["proj:code"] == "EPSG:32632"
        assert float(data["x"][1] - data["x"][0]) == 10.0
        assert float(data["y"][0] - data["y"][1]) == 10.0
    assert found.shape == (4, 2, 2, *request.grid.shape)
    for season, direction in [(0, 1), (2, 0), (3, 1)]:
        expected = naive(products, request, season, direction)
        assert np.isfinite(expected).mean() > 0.2
        np.testing.assert_array_equal(np.isnan(found[season, direction]), np.isnan(expected))
        np.testing.assert_allclose(found[season, direction], expected, atol=0.00101)
    assert count[0, 1].max() == 3
    assert count[2, 0].max() == 2
    assert np.isnan(found[1]).all()
    assert count[1].max() == 0


def test_a_second_run_makes_only_what_has_changed(products: list[Product], tmp_path: Path) -> None:
    request = request_for(tmp_path / "c.zarr")
    composite(products[:5], request)
    before = zarr.open_array(str(tmp_path / "c.zarr/backscatter"), mode="r")[:]
    again = composite(products[:5], request)
    assert (again.made, again.resumed) == (0, 1)
    more = composite(products, request)
    assert (more.scenes, more.made) == (6, 1)
    after = zarr.open_array(str(tmp_path / "c.zarr/backscatter"), mode="r")[:]
    np.testing.assert_array_equal(after[:3], before[:3])
    assert before[3, 1].max() == 0 < after[3, 1].max()
    fewer = composite(products[:5], request)
    assert fewer.made == 1
    np.testing.assert_array_equal(zarr.open_array(str(tmp_path / "c.zarr/backscatter"), mode="r")[:], before)
    with pytest.raises(ConflictError, match="differs in statistic"):
        composite(products, request_for(tmp_path / "c.zarr", statistic="mean"))


def test_a_bad_scene_is_set_aside_and_the_others_are_used(products: list[Product], tmp_path: Path) -> None:
    copy = tmp_path / Path(products[0].path).name
    shutil.copytree(products[0].path, copy)
    for pixels in (copy / "measurement").iterdir():
        pixels.write_bytes(pixels.read_bytes()[:2000])
    good = composite(products[1:], request_for(tmp_path / "good.zarr"))
    bad = composite([Product(sensor="sentinel-1", path=str(copy)), *products[1:]], request_for(tmp_path / "bad.zarr"))
    assert (good.scenes, bad.scenes) == (5, 5)
    assert [reject["source"] for reject in bad.rejects] == [products[0].name]
    pixels = [zarr.open_array(str(tmp_path / name / "backscatter"), mode="r")[:] for name in ("good.zarr", "bad.zarr")]
    np.testing.assert_array_equal(*pixels)


def test_scenes_elsewhere_or_of_other_years_do_not_count(products: list[Product], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none of 6 products shows the area between December 2018 and November 2019"):
        composite(products, request_for(tmp_path / "c.zarr", year=2019))


def test_a_composite_is_a_scene_of_bands_or_of_the_published_12(
    products: list[Product], whole_year: list[Product], s3_url: str
) -> None:
    url = f"{s3_url}/c.zarr"
    request = request_for(url, statistic="mean")
    composite(products, request)
    with pytest.raises(SceneRejected, match="lacks ascending passes in winter, spring, fall"):
        open_composite(f"{url}#12", Pixels())
    with open_scene(url, Pixels()) as scene:
        assert len(scene.info.polarisations) == 6
    composite(whole_year, request)
    whole = Window(0, 0, *request.grid.shape)
    with open_scene(url, Pixels()) as scene:
        names, power = scene.info.polarisations, scene.power(whole)
        inside = scene.power(Window(20, 30, 40, 50))
    assert len(names) == 12
    assert names[:5] == (
        "winter-ascending-VV",
        "winter-ascending-VH",
        "winter-descending-VV",
        "winter-descending-VH",
        "spring-ascending-VV",
    )
    np.testing.assert_array_equal(inside, power[:, 20:60, 30:80])
    with open_composite(f"{url}#12", Pixels()) as scene:
        twelve, ratio = scene.info.polarisations, scene.power(whole)
    assert twelve[0] == "winter-ascending-VV/VH"
    assert twelve[4:9] == (*(f"{season}-ascending-VV" for season in SEASONS), "winter-ascending-VH")
    vv, vh = (power[names.index(f"summer-ascending-{p}")] for p in ("VV", "VH"))
    np.testing.assert_allclose(ratio[2], vv / vh, rtol=1e-5)
    np.testing.assert_allclose(ratio[6], vv, rtol=1e-6)
    with pytest.raises(SceneRejected, match="the recipe wants gamma0"):
        open_composite(url, Pixels(quantity="gamma0"))
    with pytest.raises(SceneRejected, match="the only other layout is #12"):
        open_composite(f"{url}#13", Pixels())


def test_the_command_makes_a_composite_that_becomes_a_corpus(
    whole_year: list[Product], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "year.zarr")
    catalog = tmp_path / "catalog.csv"
    catalog.write_text("\n".join(["path", *(product.path for product in whole_year)]) + "\n")
    box = [str(side) for side in BOX]
    line = ["composite", str(catalog), "--out", out, "--bbox", *box, "--year", "2021", "--json"]
    assert exit_code(app, line) == 0, capsys.readouterr().err
    assert json.loads(capsys.readouterr().out)["scenes"] == 9
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("tiles: {size: 64, max_no_data_share: 1.0}\n")
    catalog.write_text(f"path\n{out}#12\n")
    assert exit_code(app, ["build-sarsense", str(catalog), "--out", f"{tmp_path}/corpus", "--recipe", str(recipe)]) == 0
    corpus = Corpus.open(f"{tmp_path}/corpus")
    assert corpus.shape(0) == (12, 64, 64)
    assert corpus.manifest.sources[0].sensor == "composite"


def test_an_unfinished_or_foreign_store_is_no_composite(tmp_path: Path) -> None:
    with pytest.raises(SceneRejected, match="is no finished composite"):
        open_composite(str(tmp_path / "none.zarr"), Pixels())
    zarr.create_group(str(tmp_path / "other.zarr"))
    with pytest.raises(SceneRejected, match="is no finished composite"):
        open_composite(str(tmp_path / "other.zarr"), Pixels())


# ---------------------------------------------------------------- parts


@pytest.mark.parametrize(
    ("time", "season"),
    [
        ("2020-11-30T23:59:59Z", None),
        ("2020-12-01T00:00:00Z", 0),
        ("2021-02-28T23:59:59.9Z", 0),
        ("2021-03-01T00:00:00Z", 1),
        ("2021-08-31T12:00:00Z", 2),
        ("2021-11-30T12:00:00Z", 3),
        ("2021-12-01T00:00:00Z", None),
        ("2020-12-01T00:30:00+01:00", None),
    ],
)
def test_seasons_are_those_of_the_published_data_set(time: str, season: int | None) -> None:
    assert season_of(time, 2021) == season


@settings(deadline=None)
@given(st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_reduction_in_time_is_that_of_numpy(scenes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    power = rng.exponential(size=(scenes, 3, 4)).astype(np.float32)
    power[rng.random(power.shape) < 0.4] = np.nan
    masked = np.ma.masked_invalid(power.astype(np.float64))
    for statistic, expected in (("mean", masked.mean(axis=0)), ("median", np.ma.median(masked, axis=0))):
        found, count = reduce_time(power, statistic)
        np.testing.assert_allclose(found, np.ma.filled(expected, np.nan).astype(np.float32), rtol=1e-6)
        np.testing.assert_array_equal(count, np.isfinite(power).sum(axis=0))


@settings(deadline=None, max_examples=60)
@given(
    st.floats(-179, 178),
    st.floats(-79, 83),
    st.floats(0.001, 0.5),
    st.floats(0.001, 0.5),
    st.sampled_from([10.0, 25.0, 6.25]),
)
def test_a_grid_covers_its_box_on_the_lattice(west: float, south: float, wide: float, high: float, step: float) -> None:
    from pyproj import Transformer

    grid = CompositeGrid.of_bbox((west, south, west + wide, south + high), step)
    assert grid.left_m % step == grid.top_m % step == 0
    to_map = Transformer.from_crs(4326, grid.epsg, always_xy=True)
    for u in np.linspace(0, 1, 7):
        for v in np.linspace(0, 1, 7):
            x, y = to_map.transform(west + u * wide, south + v * high)
            assert -1 <= (x - grid.left_m) / step <= grid.shape[1] + 1
            assert -1 <= (grid.top_m - y) / step <= grid.shape[0] + 1
    covered = sum(window.rows * window.cols for window in grid.blocks(BLOCK))
    assert covered == grid.shape[0] * grid.shape[1]


def test_boxes_that_cannot_be_are_refused() -> None:
    for box in ((10.0, 45.0, 9.0, 46.0), (0.0, 84.5, 1.0, 85.0), (0.0, 0.0, 40.0, 1.0)):
        with pytest.raises(UsageError, match="--bbox"):
            CompositeGrid.of_bbox(box, 10.0)


def test_zarr_on_a_store_reads_ranges_and_lists(s3_url: str) -> None:
    for url in (s3_url, "memory://zarr-objects"):
        store = open_store(url)
        group = zarr.create_group(ZarrObjects(store))
        array = group.create_array("a", shape=(64, 64), chunks=(8, 8), shards=(32, 32), dtype="int32")
        array[:] = np.arange(64 * 64).reshape(64, 64)
        read = zarr.open_group(ZarrObjects(open_store(url), read_only=True), mode="r")
        assert sorted(read.array_keys()) == ["a"]
        np.testing.assert_array_equal(read["a"][5:40, 7:9], np.arange(64 * 64).reshape(64, 64)[5:40, 7:9])
        with pytest.raises(ValueError, match="read-only"):
            read["a"][0, 0] = 1


def test_one_of_several_processings_of_an_acquisition_counts(products: list[Product], tmp_path: Path) -> None:
    old = tmp_path / f"{products[0].name[:-4]}0000.SAFE"
    shutil.copytree(products[0].path, old)
    manifest = old / "manifest.safe"
    manifest.write_text(re.sub(r'(name="Sentinel-1 IPF" version=")[\d.]+', r"\g<1>002.91", manifest.read_text()))
    found = composite([*products[:2], Product(sensor="sentinel-1", path=str(old))], request_for(tmp_path / "c.zarr"))
    assert (found.scenes, found.rejects) == (2, ())
    assert [copy["source"] for copy in found.copies] == [old.name.removesuffix(".SAFE")]
    assert zarr.open_array(str(tmp_path / "c.zarr/count"), mode="r")[:].max() == 2


def test_a_composite_of_damaged_scenes_alone_is_none(products: list[Product], tmp_path: Path) -> None:
    copy = tmp_path / Path(products[0].path).name
    shutil.copytree(products[0].path, copy)
    for pixels in (copy / "measurement").iterdir():
        rasterio.shutil.copy(pixels, tmp_path / "packed.tif", driver="GTiff", compress="deflate")
        data = bytearray((tmp_path / "packed.tif").read_bytes())
        data[len(data) // 3 : 2 * len(data) // 3] = bytes(2 * len(data) // 3 - len(data) // 3)
        pixels.write_bytes(data)
    with pytest.raises(UsageError, match="none of 1 products can be read"):
        composite([Product(sensor="sentinel-1", path=str(copy))], request_for(tmp_path / "c.zarr"))
    with pytest.raises(SceneRejected, match="is no finished composite"):
        open_composite(str(tmp_path / "c.zarr"), Pixels())


def test_a_damaged_composite_is_a_rejection(products: list[Product], tmp_path: Path) -> None:
    out = tmp_path / "a#b" / "c.zarr"
    composite(products[:1], request_for(out))
    with open_scene(str(out), Pixels()) as scene, pytest.raises(ValueError, match="is not within"):
        scene.power(Window(0, 0, 5000, 5))
    shard = max(out.glob("backscatter/c/**/*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    whole = shard.read_bytes()
    for damaged in (whole[:-200], whole[:20] + bytes(len(whole) - 60) + whole[-40:], b""):
        shard.write_bytes(damaged)
        with open_scene(str(out), Pixels()) as scene, pytest.raises(SceneRejected, match="pixels that cannot be read"):
            scene.power(Window(0, 0, *scene.info.shape))
    described = (out / "backscatter" / "zarr.json").read_text()
    (out / "backscatter" / "zarr.json").write_text(described.replace('"uint16"', '"int16"'))
    with pytest.raises(SceneRejected, match="its attributes say"):
        open_scene(str(out), Pixels())


def test_zones_and_polarisations_that_cannot_be_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for epsg, message in ((4326, "expected a UTM zone"), (99999, "expected a UTM zone"), (32601, "too far")):
        with pytest.raises(UsageError, match=message):
            CompositeGrid.of_bbox(BOX, 10.0, epsg)
    box = [str(side) for side in BOX]
    line = ["composite", str(tmp_path), "--out", f"{tmp_path}/c.zarr", "--bbox", *box, "--year", "2021"]
    assert exit_code(app, [*line, "--polarisations", "VV,WH"]) == 2
    assert "--polarisations 'VV,WH': expected VV, VH, HH or HV" in capsys.readouterr().err
