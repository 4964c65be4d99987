import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.transform import Affine
from scipy.ndimage import map_coordinates

from infra.errors import UsageError
from ingest.dem import Dem, NodeHeights, check_dem, geoid_m
from ingest.lattice import Lattice, utm_epsg
from ingest.scene import SceneRejected

Floats = NDArray[np.float64]


def placed(west: float, north: float, step: float) -> Affine:
    return Affine(step, 0.0, west, 0.0, -step, north)


def write_dem(
    path: Path, heights: NDArray[np.generic], transform: Affine, crs: str = "EPSG:4326", **more: object
) -> str:
    with rasterio.open(
        path, "w", driver="GTiff", height=heights.shape[0], width=heights.shape[1], count=1, dtype=heights.dtype,
        transform=transform, crs=crs, **more,
    ) as file:  # fmt: skip
        file.write(heights, 1)
    return str(path)


def lattice(lon: float, lat: float, spacing_m: float = 30.0, half_deg: float = 0.05) -> Lattice:
    square = np.array([-half_deg, half_deg])
    return Lattice.around(lon + square / np.cos(np.radians(lat)), lat + square, spacing_m, None, "scene")


def test_heights_are_bilinear_between_pixel_centres(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    heights = generator.uniform(0, 900, (200, 220)).astype(np.float32)
    transform = placed(12.4, 42.1, 0.001)
    on = lattice(12.5, 42.0)
    dem = Dem(write_dem(tmp_path / "dem.tif", heights, transform), "ellipsoid", on)
    rows, cols = np.arange(40.0, 300.0), np.arange(11.0, 250.0)
    found = dem.at(rows, cols)
    y, x = np.meshgrid(rows, cols, indexing="ij")
    lon, lat = Transformer.from_crs(on.grid.epsg, 4326, always_xy=True).transform(*on.map_xy(y, x))
    col, row = (lon - transform.c) / transform.a, (lat - transform.f) / transform.e
    expected = map_coordinates(heights.astype(float), [row - 0.5, col - 0.5], order=1)
    np.testing.assert_allclose(found, expected, atol=0.1)  # 10 mm off, where pixels 82 m apart differ by up to 900 m
    assert dem.posting_m == pytest.approx(82.86, abs=0.01)
    part = dem.at(rows[100:117], cols[7:19])
    np.testing.assert_array_equal(part, found[100:117, 7:19])
    extremes = dem.extremes()
    cell = dem.at(np.arange(2 * on.step, 3 * on.step + 1.0), np.arange(3 * on.step, 4 * on.step + 1.0))
    assert extremes[2, 3, 0] <= cell.min()
    assert extremes[2, 3, 1] >= cell.max()
    dem.close()


def test_no_data_and_the_outside_are_unknown(tmp_path: Path) -> None:
    heights = np.full((60, 60), 7, np.int16)
    heights[20, 30] = -32768
    transform = placed(12.47, 42.03, 0.001)
    on = lattice(12.5, 42.0)
    dem = Dem(write_dem(tmp_path / "dem.tif", heights, transform, nodata=-32768), "ellipsoid", on)
    found = dem.at(np.arange(float(on.shape[0])), np.arange(float(on.shape[1])))
    np.testing.assert_allclose(found[np.isfinite(found)], 7.0, rtol=1e-15)
    inside = np.isfinite(found)
    # 59 x 59 cells of 82.6 x 111.1 m lie between pixel centres; four of them touch the gap.
    assert inside.sum() * 900 == pytest.approx((59 * 59 - 4) * 82.86 * 111.1, rel=0.01)


def test_a_dem_around_the_earth_goes_on_over_the_antimeridian(tmp_path: Path) -> None:
    lon = np.arange(-180, 180, 0.25) + 0.125
    wave = 500 + 100 * np.cos(np.radians(lon) * 40)  # the same on both sides of 180 degrees
    heights = np.tile(wave, (80, 1)).astype(np.float32)
    transform = placed(-180, 10, 0.25)
    path = write_dem(tmp_path / "dem.tif", heights, transform)
    across = lattice(179.98, 0.5, 100.0, 0.8)
    assert across.grid.epsg == 32660
    found = Dem(path, "ellipsoid", across).at(np.array([50.0, 900.0]), np.arange(0.0, across.shape[1]))
    assert np.isfinite(found).all()
    to_degrees = Transformer.from_crs(32660, 4326, always_xy=True)
    there = to_degrees.transform(*across.map_xy(np.full(across.shape[1], 50.0), np.arange(across.shape[1])))[0]
    assert there.max() > 179.9
    assert there.min() < -179.9
    np.testing.assert_allclose(found[0], 500 + 100 * np.cos(np.radians(there) * 40), atol=0.5)
    with pytest.raises(SceneRejected, match="does not reach the scene"):
        Dem(path, "ellipsoid", lattice(10.0, 60.0))


def test_a_dem_given_in_turned_longitudes_is_found(tmp_path: Path) -> None:
    heights = np.full((40, 60), 3.0, np.float32)
    path = write_dem(tmp_path / "dem.tif", heights, placed(179, 2, 0.05))
    found = Dem(path, "ellipsoid", lattice(-179.5, 1.0, 100.0)).at(np.arange(50.0), np.arange(50.0))
    np.testing.assert_allclose(found, 3.0, rtol=1e-15)


def test_poles_need_a_dem_in_metres(tmp_path: Path) -> None:
    lon, lat = np.meshgrid(np.arange(-180.0, 180.0, 30.0), [89.5, 89.8])
    polar = Lattice.around(lon, lat, 100.0, None, "polar")
    assert polar.grid.epsg == 5041
    degrees = np.full((40, 720), 5.0, np.float32)
    path = write_dem(tmp_path / "degrees.tif", degrees, placed(-180, 90, 0.5))
    with pytest.raises(SceneRejected, match="over a pole"):
        Dem(path, "ellipsoid", polar)
    x, y = np.meshgrid(np.arange(-99.5, 100), np.arange(99.5, -100, -1))
    metres = (1000 + x + 2 * y).astype(np.float32)
    transform = placed(-1e5, 1e5, 1000)
    path = write_dem(tmp_path / "metres.tif", metres, transform, "EPSG:3413")
    rows, cols = np.meshgrid(np.arange(3.0, 1000, 97), np.arange(5.0, 1000, 83), indexing="ij")
    found = Dem(path, "ellipsoid", polar).at(rows[:, 0], cols[0])
    east, north = Transformer.from_crs(5041, 3413, always_xy=True).transform(*polar.map_xy(rows, cols))
    np.testing.assert_allclose(found, 1000 + (east + 2 * north) / 1000, atol=1e-3)


@pytest.mark.parametrize(
    ("crs", "datum", "message"),
    [
        ("EPSG:9707", "ellipsoid", r"heights are over egm96, .*dem_datum says ellipsoid"),
        ("EPSG:9518", "egm96", r"heights are over egm2008, .*dem_datum says egm96"),
        ("EPSG:4979", "egm2008", r"heights are over ellipsoid, .*dem_datum says egm2008"),
        ("EPSG:9707", "egm96", r"PROJ has no grid us_nga_egm96_15.tif. Fetch it \(pyproj sync"),
        ("EPSG:4326", "egm2008", r"PROJ has no grid us_nga_egm08_25.tif"),
    ],
)
def test_a_datum_that_cannot_be_is_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crs: str, datum: str, message: str
) -> None:
    monkeypatch.setenv("PROJ_NETWORK", "OFF")
    transform = placed(12, 43, 0.01)
    path = write_dem(tmp_path / "dem.tif", np.zeros((100, 100), np.float32), transform, crs)
    with pytest.raises(UsageError, match=message):
        check_dem(path, datum)  # type: ignore[arg-type]


def test_other_faults_of_a_dem_are_mistakes_too(tmp_path: Path) -> None:
    zeros, transform = np.zeros((9, 9), np.float32), placed(12, 43, 0.01)
    with pytest.raises(UsageError, match="no such file"):
        check_dem(str(tmp_path / "none.tif"), "ellipsoid")
    (tmp_path / "text.tif").write_text("heights")
    with pytest.raises(UsageError, match="not a GTiff"):
        check_dem(str(tmp_path / "text.tif"), "ellipsoid")
    path = write_dem(tmp_path / "feet.tif", zeros, transform)
    with rasterio.open(path, "r+") as file:
        file.units = ("ft",)
    with pytest.raises(UsageError, match=r"1 bands of float32 in ft, .*expected one band of plain metres"):
        check_dem(path, "ellipsoid")
    with pytest.raises(UsageError, match="system None"):
        check_dem(write_dem(tmp_path / "nowhere.tif", zeros, transform, None), "ellipsoid")  # type: ignore[arg-type]


GEOID = """
import sys
import numpy as np, pyproj, rasterio
from rasterio.transform import from_origin
lon, lat = np.arange(-180, 180, 0.5), np.arange(90, -90.1, -0.5)
undulation = (30 + lat[:, None] / 3 + 0 * lon).astype(np.float32)
profile = dict(driver="GTX", height=361, width=720, count=1, dtype="float32", crs="EPSG:4326")
with rasterio.open(sys.argv[1] + "/egm08_25.gtx", "w", transform=from_origin(-180.25, 90.25, 0.5, 0.5), **profile) as f:
    f.write(undulation, 1)
pyproj.datadir.append_data_dir(sys.argv[1])
from ingest.dem import geoid_m
print(*geoid_m("egm2008", np.array([12.5, 179.9, 190.0]), np.array([42.0, -21.0, 0.0])))
"""


def test_a_geoid_is_added_where_proj_has_it(tmp_path: Path) -> None:
    """A made-up geoid under the name of EGM2008's, in a process of its own: PROJ remembers what it has not found."""
    done = subprocess.run([sys.executable, "-c", GEOID, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [float(x) for x in done.stdout.split()]
    assert found == pytest.approx([30 + 42 / 3, 30 - 21 / 3, 30.0], abs=1e-4)
    assert geoid_m("ellipsoid", np.zeros(2), np.ones(2)).tolist() == [0.0, 0.0]


def test_maps_of_a_zone_share_one_lattice() -> None:
    one, two = lattice(12.5, 42.0, 20.0), lattice(13.1, 42.3, 20.0)
    assert one.grid.epsg == two.grid.epsg == 32633
    for a, b in zip(one.grid.transform, two.grid.transform, strict=True):
        assert (a - b) % 20.0 == 0.0
        assert a % 20.0 == 0.0
    with pytest.raises(SceneRejected, match="too many"):
        lattice(12.5, 42.0, 0.01)


@pytest.mark.parametrize(
    ("lon", "lat", "epsg"),
    [(12.5, 42, 32633), (-180, 10, 32601), (179.99, -10, 32760), (180.5, 10, 32601), (0, 85, 5041), (0, -81, 5042)],
)
def test_zones(lon: float, lat: float, epsg: int) -> None:
    assert utm_epsg(lon, lat) == epsg


def test_node_heights_are_bilinear() -> None:
    on = lattice(12.5, 42.0)
    rows, cols = on.nodes
    heights = NodeHeights(on, 3 * rows - 2 * cols)
    at = np.array([0.0, 5.5, 100.0])
    np.testing.assert_allclose(heights.at(at, at), 3 * at[:, None] - 2 * at[None, :], atol=1e-9)
    np.testing.assert_allclose(on.at_points((3 * rows - 2 * cols)[:, :, None], at, at)[:, 0], at, atol=1e-9)
    heights.close()
