import numpy as np
import pytest
from pyproj import CRS, Transformer

from ingest.mapgrid import MapPlace
from ingest.scene import MapGrid, SceneRejected


def test_pixel_centres_on_a_utm_map():
    place = MapPlace(32633, (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0), (100, 200), "chip")
    rows, cols = np.array([0.0, 99.0, 12.25]), np.array([0.0, 199.0, 7.5])
    lon, lat = Transformer.from_crs(32633, 4326, always_xy=True).transform(500_005 + 10 * cols, 4_999_995 - 10 * rows)
    assert np.abs(place.locate(rows, cols) - np.stack([lon, lat], axis=-1)).max() == 0.0
    assert place.grid == MapGrid(32633, (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0))
    assert place.spacing_m == (10.0, 10.0)


def test_a_turned_map_keeps_its_spacing():
    a, d = 6.0 * np.cos(0.2), 6.0 * np.sin(0.2)
    place = MapPlace(32720, (a, d, 500_000.0, d, -a, 8_800_000.0), (50, 50), "scene")
    assert place.spacing_m == pytest.approx((6.0, 6.0))


def test_degrees_are_measured_on_the_ground():
    place = MapPlace(4326, (1e-4, 0.0, 11.0, 0.0, -1e-4, 60.001), (20, 20), "chip")
    assert place.spacing_m == pytest.approx((11.141, 5.580), abs=0.001)
    assert np.abs(place.locate(np.array([9.5]), np.array([9.5])) - [[11.001, 60.0]]).max() < 1e-12


def test_a_map_without_a_code_is_placed_but_has_no_grid():
    wkt = CRS.from_proj4("+proj=tmerc +lon_0=7.3 +lat_0=46.1 +x_0=100 +ellps=GRS80").to_wkt()
    place = MapPlace(wkt, (10.0, 0.0, 100.0, 0.0, -10.0, 0.0), (10, 10), "chip")
    assert place.grid is None
    assert place.locate(np.array([-0.5]), np.array([-0.5]))[0] == pytest.approx((7.3, 46.1), abs=1e-9)


def test_longitude_runs_on_over_the_antimeridian():
    east, north = Transformer.from_crs(4326, 32760, always_xy=True).transform(179.95, -17.0)
    place = MapPlace(32760, (100.0, 0.0, east, 0.0, -100.0, north), (50, 300), "scene")
    lon = place.locate(np.zeros(300), np.arange(300.0))[:, 0]
    assert (np.diff(lon) > 0).all()
    assert lon[0] < -180 < lon[-1]
    assert (lon[0] + 360, lon[-1]) == pytest.approx((179.95, -179.769), abs=1e-3)
    ring = np.array(place.footprint)
    assert np.ptp(ring[:, 0]) < 0.4
    area = np.sum(ring[:-1, 0] * ring[1:, 1] - ring[1:, 0] * ring[:-1, 1]) / 2
    assert area > 0  # counter-clockwise


@pytest.mark.parametrize(
    ("crs", "transform", "message"),
    [
        ("LOCAL_CS[]", (1, 0, 0, 0, -1, 0), "not understood"),
        (999_999, (1, 0, 0, 0, -1, 0), "not understood"),
        (4326, (1, 0, 0, 0, -1, 500), "not on the Earth"),
        (32633, (1e9, 0, 0, 0, -1e9, 0), "not on the Earth"),
        (32633, (float("nan"), 0, 0, 0, -1, 0), "not on the Earth"),
    ],
)
def test_a_place_that_cannot_be_is_refused(crs, transform, message):
    with pytest.raises(SceneRejected, match=message):
        MapPlace(crs, transform, (10, 10), "chip")


def test_pixels_without_extent_are_refused():
    for a, e in ((0.0, -10.0), (10.0, 0.0)):
        with pytest.raises(SceneRejected, match="without extent"):
            MapPlace(32633, (a, 0.0, 5e5, 0.0, e, 5e6), (8, 8), "x.tif")
