import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Geod, Transformer

from ingest.geometry import GroundGrid, ring
from ingest.scene import GroundPoint, SceneRejected


def grid(lon0: float = 10.0, wrap: bool = False) -> GroundGrid:
    """A 3 x 4 grid that is linear in line and pixel; 0.1 degrees per 100 pixels, lines running south."""
    points = [
        (line, pixel, lon0 + pixel / 1000 - line / 4000, 45 - line / 1000 + pixel / 8000)
        for line in (0, 100, 250)
        for pixel in (0, 300, 600, 899)
    ]
    table = np.array(points[::-1], np.float64)
    if wrap:
        table[:, 2] = (table[:, 2] + 180) % 360 - 180
    return GroundGrid.of_points(table, "vv.xml")


@given(st.floats(-20, 270), st.floats(-20, 920))
def test_a_linear_grid_is_reproduced_inside_and_just_outside(row: float, col: float) -> None:
    found = grid().locate(np.array([row]), np.array([col]))
    expected = [10 + col / 1000 - row / 4000, 45 - row / 1000 + col / 8000]
    np.testing.assert_allclose(found, [expected], rtol=0, atol=1e-12)


def test_bilinear_in_a_cell_that_is_not_linear() -> None:
    points = np.array([[0, 0, 0, 0], [0, 10, 1, 0], [10, 0, 0, 1], [10, 10, 3, 1]], np.float64)
    found = GroundGrid.of_points(points, "x").locate(np.array([5.0, 10.0]), np.array([5.0, 5.0]))
    np.testing.assert_allclose(found, [[1.0, 0.5], [1.5, 1.0]])


def test_longitudes_run_on_over_the_antimeridian() -> None:
    crossing = grid(179.5, wrap=True)
    assert crossing.lon.max() > 180.3
    found = crossing.locate(np.array([0.0, 0.0]), np.array([0.0, 800.0]))
    np.testing.assert_allclose(found[:, 0], [179.5, 180.3], atol=1e-12)
    lons = [lon for lon, _ in crossing.footprint()]
    assert max(lons) - min(lons) < 1.0


def test_footprint_is_a_closed_counter_clockwise_ring() -> None:
    outline = grid().footprint()
    assert len(outline) == 2 * (3 + 4) - 4 + 1
    assert outline[0] == outline[-1]
    x, y = np.array(outline).T
    area = 0.5 * np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])
    assert area == pytest.approx(0.899 * 0.25 * (1 - 1 / 32), rel=1e-9)
    clockwise = np.array([[0, 0], [0, 1], [1, 1], [1, 0]], np.float64)
    assert ring(clockwise) == ((1, 0), (1, 1), (0, 1), (0, 0), (1, 0))


def test_points_give_the_grid() -> None:
    points = grid().points()
    assert len(points) == 12
    assert points[5] == GroundPoint(100.0, 300.0, 10.275, 44.9375)


@pytest.mark.parametrize("fault", ["missing", "line", "nan", "far"])
def test_a_broken_grid_is_rejected(fault: str) -> None:
    points = np.array([(i, j, 1.0 + j, 2.0 + i) for i in (0, 5) for j in (0, 5, 9)], np.float64)
    if fault == "missing":
        points = points[1:]
    if fault == "line":
        points = points[:3]
    if fault == "nan":
        points[2, 2] = np.nan
    if fault == "far":
        points[2, 3] = 200.0
    with pytest.raises(SceneRejected, match=r"vv.xml: .*geolocation"):
        GroundGrid.of_points(points, "vv.xml")
    with pytest.raises(SceneRejected, match="0 geolocation points"):
        GroundGrid.of_points(np.zeros((0, 4)), "vv.xml")


def test_incidence_and_height_are_bilinear() -> None:
    points = [
        (line, pixel, pixel / 100, -line / 100, 30 + pixel / 10, line * 2.0) for line in (0, 50) for pixel in (0, 90)
    ]
    found = GroundGrid.of_points(np.array(points), "vv.xml")
    at = np.array([25.0, 50.0]), np.array([45.0, 95.0])
    np.testing.assert_allclose(found.incidence_deg(*at), [34.5, 39.5])
    np.testing.assert_allclose(found.height_m(*at), [50.0, 100.0])
    assert grid().incidence_deg(*at) is None
    assert grid().height_m(*at) is None


def polar_grid(lat_offset_m: float, sign: float) -> tuple[GroundGrid, Transformer]:
    """A grid that is linear in polar stereographic metres, and what places it."""
    to_degrees = Transformer.from_crs(3413 if sign > 0 else 3031, 4326, always_xy=True)
    line, pixel = (v.ravel().astype(float) for v in np.meshgrid(np.arange(0, 4001, 500), np.arange(0, 4001, 400)))
    lon, lat = to_degrees.transform((pixel - 2000) * 40, (line - 2000) * 40 + lat_offset_m)
    return GroundGrid.of_points(np.stack([line, pixel, lon, lat], axis=-1), "polar.xml"), to_degrees


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("offset_m", [0.0, 100e3, 1000e3])
def test_polar_grids_are_interpolated_on_the_ground(offset_m: float, sign: float) -> None:
    """Cells of 20 x 16 km: places are right to 15 m, over the pole too; degrees would be kilometres off."""
    found, to_degrees = polar_grid(offset_m, sign)
    row, col = (v.ravel() for v in np.meshgrid(np.linspace(-2, 4002, 39), np.linspace(-2, 4002, 41)))
    lon, lat = to_degrees.transform((col - 2000) * 40, (row - 2000) * 40 + offset_m)
    placed = found.locate(row, col)
    _, _, off_m = Geod(ellps="WGS84").inv(placed[:, 0], placed[:, 1], lon, lat)
    assert np.max(off_m) < 15.0


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_footprint_around_a_pole_runs_along_it(sign: float) -> None:
    outline = np.array(polar_grid(0.0, sign)[0].footprint())
    assert np.ptp(outline[:, 0]) == pytest.approx(360.0)
    assert (outline[:, 1] == 90 * sign).sum() >= 2
    assert np.abs(np.diff(outline[:, 0])).max() <= 360.0
    beside = np.array(polar_grid(100e3, sign)[0].footprint())
    assert np.ptp(beside[:, 0]) < 180
    assert np.abs(beside[:, 1]).max() < 90


def test_a_ring_over_the_antimeridian_hangs_together() -> None:
    found = np.array(ring(np.array([[179.0, 0], [-179.0, 0], [-179.0, 1], [179.0, 1]])))
    np.testing.assert_allclose(found[:, 0], [179, 181, 181, 179, 179])
