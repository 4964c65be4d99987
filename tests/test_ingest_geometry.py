import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
