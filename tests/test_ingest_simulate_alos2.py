from pathlib import Path

import numpy as np
import pytest
import rasterio
from pyproj import Geod, Transformer

from infra.errors import UsageError
from ingest.alos2 import open_alos2
from ingest.recipe import Pixels
from ingest.scene import Window
from ingest.simulate import simulate_alos2

SIZE = {"rows": 300, "cols": 200, "seed": 3, "lon": 12.4, "lat": 41.9}
WHOLE = Window(0, 0, 300, 200)
QUAD = ("HH", "HV", "VH", "VV")


def beside(product: Path, what: str) -> np.ndarray:
    with rasterio.open(product.with_name(f"{product.name}_{what}.tif")) as raster:
        return raster.read()


@pytest.fixture(scope="module")
def slant(tmp_path_factory) -> Path:
    return simulate_alos2(tmp_path_factory.mktemp("slc"), level="1.1", polarisations=QUAD, truth=True, **SIZE)


def test_complex_pixels_give_back_their_power(slant):
    with open_alos2(str(slant)) as scene:
        info, power = scene.info, scene.power(WHOLE)
    assert info.id.endswith("-FBQR1.1__A")
    assert (info.polarisations, info.shape, info.looks, info.warnings) == (QUAD, (300, 200), 1.0, ())
    np.testing.assert_allclose(power, beside(slant, "sigma0"), rtol=1e-6)


def test_pixels_are_found_where_the_simulation_put_them(slant):
    """The simulated orbit is a circle with a closed solution; the reader has vectors, times and ranges only."""
    rows, cols = (a.ravel().astype(float) for a in np.mgrid[0:300:37, 0:200:23])
    with open_alos2(str(slant)) as scene:
        lon, lat = scene.locate(rows, cols).T
        angle = scene.incidence_deg(rows, cols)
        middle = scene.locate(np.array([149.5]), np.array([99.5]))[0]
    assert Geod(ellps="WGS84").inv(*middle, SIZE["lon"], SIZE["lat"])[2] < 1.5  # near range is whole metres
    from ingest.simulate_alos2_slant import SlantImage
    from ingest.truth import Place

    image = SlantImage(Place(SIZE["lon"], SIZE["lat"]), 300, 200)
    true_lon, true_lat = image.lonlat(rows, cols)
    away_m = Geod(ellps="WGS84").inv(lon, lat, true_lon, true_lat)[2]
    assert np.abs(away_m).max() < 0.05
    assert np.abs(angle - image.orbit.see(true_lon, true_lat).incidence_deg).max() < 1e-4


def test_slant_range_and_map_show_the_same_ground(slant, tmp_path):
    mapped = simulate_alos2(tmp_path, level="2.1", **SIZE)
    labels, theirs = beside(slant, "labels")[0], beside(mapped, "labels")[0]
    rows, cols = (a.ravel() for a in np.mgrid[0:300:5, 0:200:5])
    with open_alos2(str(slant)) as scene:
        lon, lat = scene.locate(rows.astype(float), cols.astype(float)).T
    with rasterio.open(mapped.with_name(f"{mapped.name}_labels.tif")) as raster:
        east, north = Transformer.from_crs(4326, raster.crs, always_xy=True).transform(lon, lat)
        i, j = (np.asarray(a, int) for a in rasterio.transform.rowcol(raster.transform, east, north, op=np.floor))
    inside = (i >= 0) & (j >= 0) & (i < 300) & (j < 200)
    there = theirs[i[inside], j[inside]]
    known = there != 255
    assert known.sum() > 500
    assert (labels[rows, cols][inside] == there)[known].mean() > 0.95


@pytest.mark.parametrize("level", ["1.5", "2.1", "3.1"])
def test_levels_on_a_map_and_their_angles(tmp_path, level):
    product = simulate_alos2(tmp_path, level=level, polarisations=QUAD, truth=True, **SIZE)
    sigma0 = beside(product, "sigma0").astype(np.float64)
    with open_alos2(str(product), Pixels(quantity="gamma0")) as scene:
        info, power = scene.info, scene.power(WHOLE)
        rows, cols = (a.ravel().astype(float) for a in np.mgrid[:300, :200])
        angle = scene.incidence_deg(rows, cols).reshape(300, 200)
    assert (info.product, info.quantity, info.id[-10:]) == (f"L{level}", "gamma0", f"FBQR{level}GUA")
    assert 40.0 < angle.min() < 40.6 < angle.max() < 41.5
    back = power * np.cos(np.radians(angle))
    inside = ~np.isnan(sigma0)
    assert np.array_equal(inside, np.isfinite(power))
    rounding = (np.sqrt(sigma0 * 10**8.3) + 0.25) * 10**-8.3
    assert (np.abs(back - sigma0)[inside] <= (rounding + 1e-6 * sigma0)[inside]).all()


def test_an_unknown_level_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no level 1\.0 is simulated: expected 1\.1, 1\.5, 2\.1, 3\.1"):
        simulate_alos2(tmp_path, level="1.0", **SIZE)
