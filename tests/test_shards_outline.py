import json

import numpy as np
import pytest
import shapely
from pyproj import Geod, Transformer

from shards.outline import ground_polygon


def area_m2(polygon: shapely.Geometry) -> float:
    """Area on the ellipsoid of a polygon with planar edges in degrees."""
    dense = shapely.segmentize(polygon, 0.05)
    return abs(Geod(ellps="WGS84").geometry_area_perimeter(dense)[0])


@pytest.mark.parametrize(
    "corners",
    [
        [179.5, 10, -179.0, 10, -179.0, 9, 179.5, 9],
        [179.5, 10, 181.0, 10, 181.0, 9, 179.5, 9],
        [-180.5, 10, -179.0, 10, -179.0, 9, -180.5, 9],
        [539.5, 10, 541.0, 10, 541.0, 9, 539.5, 9],
    ],
)
def test_an_outline_over_the_antimeridian_has_two_sides(corners: list[float]) -> None:
    found = ground_polygon(corners)
    assert found.geom_type == "MultiPolygon"
    assert [part.bounds for part in found.geoms] == [(-180.0, 9.0, -179.0, 10.0), (179.5, 9.0, 180.0, 10.0)]
    assert all(part.exterior.is_ccw for part in found.geoms)
    assert json.loads(shapely.to_geojson(found))["type"] == "MultiPolygon"


def test_plain_outlines_stay_as_they_are() -> None:
    found = ground_polygon([5, 10, 6, 10, 6, 9, 5, 9])
    assert found.bounds == (5, 9, 6, 10)
    assert shapely.get_num_coordinates(found) == 5
    assert ground_polygon([185, 10, 186, 10, 186, 9, 185, 9]).bounds == (-175, 9, -174, 10)
    assert ground_polygon(None) is None


@pytest.mark.parametrize("lat", [88.0, -88.0])
def test_an_outline_around_a_pole_holds_it(lat: float) -> None:
    """Four corners two degrees from the pole: a square of 3.15 x 3.15 degrees with the pole in its middle."""
    found = ground_polygon([20, lat, 110, lat, 200, lat, 290, lat])
    assert found.is_valid
    cap = (89.99, 90) if lat > 0 else (-90, -89.99)
    assert found.buffer(1e-9).covers(shapely.box(-180, cap[0], 180, cap[1]))
    west, south, east, north = found.bounds
    assert (west, east) == (-180.0, 180.0)
    assert (north if lat > 0 else south) == np.copysign(90.0, lat)
    side_m = np.sqrt(2) * 2 * 111_690  # a degree of latitude is 111.69 km there
    assert area_m2(found) == pytest.approx(side_m**2, rel=0.01)


def test_an_outline_beside_a_pole_follows_the_ground() -> None:
    """A tile of 60 x 60 km, 30 km from the pole: straight edges in degrees would be off by half its area."""
    x, y = np.array([-30e3, 30e3, 30e3, -30e3]), np.array([-90e3, -90e3, -30e3, -30e3])
    lon, lat = Transformer.from_crs(3413, 4326, always_xy=True).transform(x, y)
    found = ground_polygon(np.stack([lon, lat], axis=-1).ravel())
    scale = 0.9728  # of EPSG:3413 at the pole, true at 70 degrees
    assert area_m2(found) == pytest.approx((60e3 / scale) ** 2, rel=0.01)


def test_every_crossing_is_split_wherever_it_starts() -> None:
    generator = np.random.default_rng(5)
    for _ in range(200):
        lon, lat, width = generator.uniform(-400, 400), generator.uniform(-75, 75), generator.uniform(0.01, 3)
        square = np.array([[lon, lat + 1], [lon + width, lat + 1], [lon + width, lat], [lon, lat]])
        square[:, 0] -= 360 * generator.integers(-1, 2, 4)  # each corner in its own turn
        found = ground_polygon(square.ravel())
        assert found.is_valid
        west, _, east, _ = found.bounds
        assert west >= -180
        assert east <= 180
        assert found.area == pytest.approx(width, rel=1e-9)
