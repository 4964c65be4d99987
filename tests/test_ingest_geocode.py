import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from pyproj import Transformer
from relief import RadarScene, cropped, radar_of, write_relief
from sentinel1_products import IPF_340, images

from infra.errors import UsageError
from ingest.catalog import Catalog, Product, Unit
from ingest.geocode import Geocoded, check_grid
from ingest.plan import plan_of
from ingest.range_doppler import RadarGrid
from ingest.recipe import GridRules, Pixels, Recipe, TileRules
from ingest.scene import SceneRejected, Window
from ingest.sentinel1 import open_sentinel1
from ingest.simulate import simulate_alos2, simulate_sentinel1
from ingest.tiling import cut
from ingest.truth import UNLABELLED
from ingest.work import open_source

Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def radar(shared_data: Path) -> RadarGrid:
    """600 x 700 pixels over Rome, in the geometry of a real IW GRD product."""
    folder = next((shared_data / "sentinel1").glob(f"{IPF_340}*"))
    return cropped(radar_of(images(folder)[0]), Window(7000, 21500, 600, 700))


def hills(east: Floats, north: Floats) -> Floats:
    return 500 + 350 * np.sin(east / 700) * np.cos(north / 900) + 120 * np.cos((east + north) / 211)


def speckle(rows: Floats, cols: Floats) -> Floats:
    return np.exp(np.sin(rows * 12.9898 + cols * 78.233) * 2)


@pytest.fixture(scope="module")
def dem(radar: RadarGrid, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_relief(tmp_path_factory.mktemp("dem") / "hills.tif", radar, hills, 20.0)


def rules(dem: str | dict[str, str] | None = None, **more: object) -> GridRules:
    fields = {"kind": "utm", **({"dem": dem, "dem_datum": "ellipsoid"} if dem else {}), **more}
    return GridRules.model_validate(fields)


def test_pixels_come_from_where_the_orbit_says(radar: RadarGrid, dem: str) -> None:
    """Against the equations solved for each pixel: rows and columns as pixel values, so their error is seen."""
    for k, pixel in enumerate((lambda r, c: r, lambda r, c: c)):
        scene = Geocoded(RadarScene(radar, pixel), rules(dem, mask="none"), radar)
        shape = scene.info.shape
        found = scene.power(Window(0, 0, *shape))[0]
        assert scene.info.grid is not None
        a, _, c, _, e, f = scene.info.grid.transform
        rows, cols = (v.ravel() for v in np.mgrid[5 : shape[0] : 37, 3 : shape[1] : 41])
        with rasterio.open(dem) as file:
            x, y = a * (cols + 0.5) + c, e * (rows + 0.5) + f
            middle = radar.ground.lon, radar.ground.lat
            to_utm = Transformer.from_crs(4326, file.crs.to_epsg(), always_xy=True)
            east, north = (v.mean() for v in to_utm.transform(*middle))
        heights = hills(x - east, y - north)
        lon, lat = scene.locate(rows.astype(float), cols.astype(float)).T
        places = np.stack(Transformer.from_crs(4979, 4978, always_xy=True).transform(lon, lat, heights), axis=-1)
        expected = radar.locate(places)
        inside = ((expected > 0) & (expected < np.array(radar.shape) - 1)).all(axis=1)
        assert inside.sum() > 150
        error = found[rows, cols][inside] - expected[inside, k]
        # Samples: bilinear heights 20 m apart miss these hills by 0.4 m, and range polynomials meet in a kink.
        assert np.abs(error).max() < (0.01, 0.15)[k]
        assert error.std() < (0.001, 0.03)[k]
        assert np.isnan(found[rows, cols][((expected < -1) | (expected > np.array(radar.shape))).any(axis=1)]).all()


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "flatten", "layover", "annotation"])
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_how_windows_are_cut_never_changes_a_pixel(radar: RadarGrid, dem: str, mode: str, data: st.DataObject) -> None:
    more = {"nearest": {"resampling": "nearest"}, "layover": {"mask": "shadow-layover"}}.get(mode, {})
    used = None if mode == "annotation" else dem
    whole_scene, scene = (
        Geocoded(RadarScene(radar, speckle, labels=True), rules(used, **more), radar, mode == "flatten")
        for _ in range(2)
    )
    rows, cols = scene.info.shape
    whole = whole_of(mode, whole_scene)
    top = data.draw(st.integers(0, rows - 2))
    left = data.draw(st.integers(0, cols - 2))
    window = Window(top, left, data.draw(st.integers(1, rows - top)), data.draw(st.integers(1, cols - left)))
    inside = np.s_[..., top : top + window.rows, left : left + window.cols]
    np.testing.assert_array_equal(scene.power(window), whole[0][inside])
    np.testing.assert_array_equal(scene.label(window), whole[1][inside])


_WHOLE: dict[str, tuple[NDArray[np.float32], NDArray[np.uint8]]] = {}


def whole_of(mode: str, scene: Geocoded) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Read a whole scene, once."""
    if mode not in _WHOLE:
        window = Window(0, 0, *scene.info.shape)
        label = scene.label(window)
        assert label is not None
        _WHOLE[mode] = scene.power(window), label
    power = _WHOLE[mode][0]
    assert 0.3 < np.isfinite(power).mean() < 0.95
    return _WHOLE[mode]


def test_only_what_a_window_needs_is_read(radar: RadarGrid) -> None:
    source = RadarScene(radar, speckle)
    scene = Geocoded(source, rules(), radar)
    scene.power(Window(200, 200, 64, 64))
    assert source.largest < 100 * 100
    assert np.isnan(scene.power(Window(0, 0, 10, 10))).all()


def test_a_simulated_product_shows_its_land_on_the_map(tmp_path: Path) -> None:
    """Labels and power of a simulated scene, put on the map, are those of the land there."""
    product = simulate_sentinel1(tmp_path, rows=500, cols=520, seed=5, lon=13.0, lat=50.0, truth=True)
    labels = str(product).removesuffix(".SAFE") + "_labels.tif"
    recipe = Recipe(grid=rules(resampling="nearest"), tiles=TileRules(size=128))
    source = Product(sensor="sentinel-1", path=str(product), labels=labels)
    with open_source(source, recipe) as scene, open_source(source, Recipe()) as native:
        assert scene.info.grid is not None
        assert scene.info.grid.epsg == 32633
        assert scene.info.shape[0] > 500
        assert scene.info.spacing_m == (10.0, 10.0)
        found = scene.label(Window(0, 0, *scene.info.shape))
        power = scene.power(Window(0, 0, *scene.info.shape))
        truth = native.label(Window(0, 0, 500, 520))
        assert found is not None
        assert truth is not None
        row, col = (v.ravel().astype(float) for v in np.mgrid[20:480:7, 20:500:7])
        lon, lat = np.array(native.locate(row, col)).T
        east, north = Transformer.from_crs(4326, 32633, always_xy=True).transform(lon, lat)
        a, _, c, _, e, f = scene.info.grid.transform
        i, j = np.floor((north - f) / e).astype(int), np.floor((east - c) / a).astype(int)
        same = found[i, j] == truth[row.astype(int), col.astype(int)]
        assert same.mean() > 0.97  # the others lie at edges between classes, half a pixel off
        assert (found == UNLABELLED).mean() == pytest.approx(np.isnan(power[0]).mean(), abs=0.01)
        angles = scene.incidence_deg(i.astype(float), j.astype(float))
        np.testing.assert_allclose(angles, native.incidence_deg(row, col), atol=2e-3)
        tiles = list(cut(scene, recipe.tiles, recipe.pixels.scale))
        assert 9 <= len(tiles) <= 25
        middle = np.array([tile.meta["footprint"] for tile in tiles]).mean(axis=(0, 1))
        np.testing.assert_allclose(middle, [13.0, 50.0], atol=0.01)
    plan = plan_of(Catalog((Unit("x", (source,)),), None, ()), recipe)
    assert plan["rejects"] == []
    assert plan["tiles"] >= 16


def test_precise_orbits_are_used_and_named(radar: RadarGrid, tmp_path: Path) -> None:
    """The annotated vectors, written as an orbit file 100 m further along the track, move the image by ten lines."""
    name = "S1B_OPER_AUX_POEORB_OPOD_20220112T000000_V20211222T225942_20211224T005942.EOF"
    folder = tmp_path / "orbits"
    folder.mkdir()
    write_eof(folder / name, radar, 0.0)
    own = Geocoded(RadarScene(radar, lambda r, c: r), rules(), radar)
    same = Geocoded(RadarScene(radar, lambda r, c: r), rules(orbits=str(folder)), radar)
    window = Window(300, 300, 50, 50)
    np.testing.assert_allclose(same.power(window), own.power(window), atol=1e-3)
    assert same.info.fingerprint != own.info.fingerprint
    moved = shutil.move(folder, tmp_path / "elsewhere")
    again = Geocoded(RadarScene(radar, lambda r, c: r), rules(orbits=str(moved)), radar)
    assert again.info.fingerprint == same.info.fingerprint
    write_eof(Path(moved) / name, radar, 100.0)
    along = Geocoded(RadarScene(radar, lambda r, c: r), rules(orbits=str(moved)), radar)
    np.testing.assert_allclose(along.power(window) - own.power(window), -100 / 7590 / radar.line_interval_s, atol=0.2)
    with pytest.raises(SceneRejected, match="none of the 0 orbit files"):
        Geocoded(RadarScene(radar, speckle), rules(orbits=str(tmp_path / "orbits")), radar)


def write_eof(path: Path, radar: RadarGrid, along_m: float) -> None:
    """Write an orbit file of the annotated vectors, each moved along the track."""
    orbit = radar.orbit
    position, velocity, _ = orbit.state(orbit.knots_s)
    position = position + along_m * velocity / np.linalg.norm(velocity, axis=1)[:, None]
    lines = []
    for second, at, speed in zip(orbit.knots_s, position, velocity, strict=True):
        time = orbit.epoch + np.timedelta64(round(second * 1e9), "ns")
        parts = [f"<UTC>UTC={time}</UTC>", "<Quality>NOMINAL</Quality>"]
        parts += [f"<{axis}>{value:+.6f}</{axis}>" for axis, value in zip("XYZ", at, strict=True)]
        parts += [f"<V{axis}>{value:+.6f}</V{axis}>" for axis, value in zip("XYZ", speed, strict=True)]
        lines.append(f"<OSV>{''.join(parts)}</OSV>")
    path.write_text(
        "<Earth_Explorer_File><Earth_Explorer_Header><Fixed_Header><Mission>Sentinel-1B</Mission></Fixed_Header>"
        "<Variable_Header><Ref_Frame>EARTH_FIXED</Ref_Frame><Time_Reference>UTC</Time_Reference></Variable_Header>"
        f"</Earth_Explorer_Header><Data_Block><List_of_OSVs>{''.join(lines)}</List_of_OSVs></Data_Block>"
        "</Earth_Explorer_File>"
    )


def test_a_scene_on_a_map_is_resampled_only(tmp_path: Path) -> None:
    product = simulate_alos2(tmp_path, rows=400, cols=420, seed=5, lon=13.0, lat=50.0)
    source = Product(sensor="alos-2", path=str(product))
    with open_source(source, Recipe()) as native, open_source(source, Recipe(grid=rules(spacing_m=6.25))) as scene:
        assert native.info.grid is not None
        assert scene.info.grid is not None
        same_zone = native.info.grid.epsg == scene.info.grid.epsg
        assert same_zone
        found = scene.power(Window(0, 0, *scene.info.shape))
        valid = np.isfinite(found[0])
        assert found[0][valid].mean() == pytest.approx(np.nanmean(native.power(Window(0, 0, 400, 420))[0]), rel=0.02)
        lonlat = scene.locate(np.array([100.0]), np.array([120.0]))
        a, _, c, _, e, f = native.info.grid.transform
        east, north = Transformer.from_crs(4326, native.info.grid.epsg, always_xy=True).transform(*lonlat[0])
        i, j = int((north - f) / e), int((east - c) / a)
        around = native.power(Window(i - 1, j - 1, 3, 3))[0]
        assert np.nanmin(around) <= found[0, 100, 120] <= np.nanmax(around)
    with pytest.raises(SceneRejected, match="terrain not flattened"):
        open_source(source, Recipe(pixels=Pixels(quantity="gamma0-terrain"), grid=rules()))


def test_flattening_without_what_it_takes_is_refused(tmp_path: Path) -> None:
    product = simulate_sentinel1(tmp_path, rows=64, cols=64, seed=5, lon=13.0, lat=50.0)
    source = Product(sensor="sentinel-1", path=str(product))
    pixels = Pixels(quantity="gamma0-terrain")
    with pytest.raises(SceneRejected, match="in its own geometry: flattening takes a Sentinel-1"):
        open_source(source, Recipe(pixels=pixels))
    with pytest.raises(SceneRejected, match="the recipe names no DEM: flattening takes"):
        open_source(source, Recipe(pixels=pixels, grid=rules()))
    with open_sentinel1(str(product)) as scene, pytest.raises(SceneRejected, match="neither an orbit model nor a map"):
        Geocoded(scene, rules(), None)


def test_level_ground_is_flattened_to_the_gamma0_of_the_product(tmp_path: Path) -> None:
    """Beta0 and areas on one way, the product's gamma LUT on the other, meet where there is no relief."""
    product = simulate_sentinel1(tmp_path, rows=300, cols=320, seed=5, lon=13.0, lat=50.0)
    level = tmp_path / "level.tif"
    with rasterio.open(
        level, "w", driver="GTiff", height=90, width=90, count=1, dtype="int16", crs="EPSG:4326",
        transform=rasterio.Affine(0.001, 0, 12.955, 0, -0.001, 50.045),
    ) as file:  # fmt: skip
        file.write(np.zeros((90, 90), np.int16), 1)
    source = Product(sensor="sentinel-1", path=str(product))
    grid = rules(str(level), resampling="nearest")
    with (
        open_source(source, Recipe(pixels=Pixels(quantity="gamma0-terrain"), grid=grid)) as flattened,
        open_source(source, Recipe(pixels=Pixels(quantity="gamma0"), grid=grid)) as plain,
    ):
        assert flattened.info.quantity == "gamma0-terrain"
        window = Window(60, 60, 200, 200)
        ratio = flattened.power(window) / plain.power(window)
    assert np.nanmedian(ratio) == pytest.approx(1.0, abs=3e-3)
    assert np.nanstd(ratio) < 0.01


def test_rules_that_serve_no_scene_are_found_before_any_is_opened(dem: str, tmp_path: Path) -> None:
    check_grid(rules(dem, orbits=str(tmp_path)))
    with pytest.raises(UsageError, match="no such folder; expected one of orbit files"):
        check_grid(rules(orbits=str(tmp_path / "none")))
    with pytest.raises(UsageError, match=r"PROJ has no grid us_nga_egm08_25\.tif"):
        check_grid(rules(dem, dem_datum="egm2008"))


def test_where_a_dem_lies_does_not_name_the_corpus(dem: str, tmp_path: Path) -> None:
    copy = shutil.copy(dem, tmp_path / "copy.tif")
    one, two = Recipe(grid=rules(dem)), Recipe(grid=rules(str(copy)))
    assert one.digest == two.digest
    assert str(tmp_path) not in json.dumps(two.model_dump(mode="json"))
    with rasterio.open(copy, "r+") as file:
        file.write(file.read(1) + 1, 1)
    assert Recipe(grid=rules(str(copy))).digest != one.digest
    assert Recipe(grid=rules()).digest != one.digest
    assert one.grid.dem is not None
    known = {"fingerprint": one.grid.dem.fingerprint}
    assert Recipe.model_validate(one.model_dump(mode="json")).digest == one.digest
    with pytest.raises(ValidationError, match="this recipe was made with"):
        rules({"path": str(copy), **known})
    assert Recipe(grid=rules(orbits="/one")).digest == Recipe(grid=rules(orbits="/two")).digest


def test_a_dem_known_by_its_fingerprint_must_be_named(radar: RadarGrid) -> None:
    nameless = rules({"fingerprint": "0" * 64})
    with pytest.raises(UsageError, match=r"name the file that has it \(grid.dem.path\)"):
        Geocoded(RadarScene(radar, speckle), nameless, radar)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "utm", "dem": "/no/such.tif", "dem_datum": "egm96"}, "there is no DEM at /no/such.tif"),
        ({"kind": "utm", "dem": __file__}, "dem without dem_datum"),
        ({"kind": "native", "dem": __file__, "dem_datum": "egm96"}, "they need kind utm"),
        ({"kind": "native", "orbits": "/x"}, "they need kind utm"),
    ],
)
def test_rules_that_cannot_be_are_refused(fields: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GridRules.model_validate(fields)


def test_scenes_over_the_antimeridian_are_laid_out_whole(radar: RadarGrid) -> None:
    """The same scene turned around the Earth's axis to 180 degrees gives the same pixels."""
    turn = 180.0 - float(radar.ground.lon.mean()) - 0.001
    angle = np.radians(turn)
    matrix = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    orbit = dataclasses.replace(radar.orbit, coefficients=radar.orbit.coefficients @ matrix.T)
    ground = dataclasses.replace(radar.ground, lon=radar.ground.lon + turn)
    turned = dataclasses.replace(radar, orbit=orbit, ground=ground)
    scene = Geocoded(RadarScene(turned, lambda r, c: r), rules(), turned)
    assert scene.info.grid is not None
    assert scene.info.grid.epsg == 32660
    assert max(scene.info.shape) < 900
    found = scene.power(Window(0, 0, *scene.info.shape))[0]
    assert np.isfinite(found).sum() == pytest.approx(600 * 700 * 10.117 * 9.97 / 100, rel=0.02)
    lons = scene.locate(np.array([0.0, 0.0]), np.array([0.0, scene.info.shape[1] - 1.0]))[:, 0]
    assert 179 < lons[0] < 180 < lons[1] < 181
