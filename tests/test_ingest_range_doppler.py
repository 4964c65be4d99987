import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pyproj import Transformer
from sentinel1_products import EW_352, IPF_340, SLC_340, images, unpack

from ingest.annotation import read_image
from ingest.orbit import Orbit
from ingest.range_doppler import RadarGrid, read_radar_grid
from ingest.recipe import Pixels
from ingest.scene import SceneRejected
from ingest.sentinel1 import open_sentinel1
from ingest.simulate import simulate_sentinel1
from ingest.xml import parse

Floats = NDArray[np.float64]


def radar_of(annotation: Path) -> RadarGrid:
    root = parse(annotation.read_bytes(), annotation.name)
    return read_radar_grid(root, annotation.name, read_image(root, annotation.name).grid)


def annotation(shared_data: Path, product: str) -> Path:
    folder = next((shared_data / "sentinel1").glob(f"{product}*"))
    return sorted((folder / "annotation").glob("*.xml"))[0]


def earth_fixed(lon: Floats, lat: Floats, height: Floats) -> Floats:
    return np.stack(Transformer.from_crs(4979, 4978, always_xy=True).transform(lon, lat, height), axis=-1)


def off_grid(radar: RadarGrid) -> tuple[Floats, Floats]:
    """How far, in rows and columns, the annotated grid points are found from their line and pixel."""
    grid = radar.ground
    assert grid.height is not None
    places = earth_fixed(grid.lon, grid.lat, grid.height)
    found = radar.locate(places.reshape(-1, 3)).reshape(*grid.lon.shape, 2)
    return found[..., 0] - grid.lines[:, None], found[..., 1] - grid.pixels


@pytest.mark.parametrize(("product", "interpolated_px", "at_record_px"), [(IPF_340, 0.53, 0.003), (EW_352, 0.58, 0.02)])
def test_real_grid_points_are_found_where_they_are_annotated(
    shared_data: Path, product: str, interpolated_px: float, at_record_px: float
) -> None:
    """Lines within 0.002. Samples within 0.003 (IW) and 0.02 (EW) of the grid's own range polynomial.

    Each row of the annotated grid was made with the one range polynomial that is nearest in time, up to 0.1 s away
    (constant in a row). Rows between two polynomials need them interpolated, as ESA's handbook for ASAR says and other
    readers do, which moves the far end of such a row by as much as the polynomial changes: half a pixel at most.
    """
    radar = radar_of(annotation(shared_data, product))
    rows, cols = off_grid(radar)
    assert np.abs(rows).max() < 0.002
    assert np.abs(cols).max() < interpolated_px
    nearest = nearest_record(radar)
    assert np.abs(off_grid(nearest)[1]).max() < at_record_px


def nearest_record(radar: RadarGrid) -> RadarGrid:
    """Put the range polynomial that is nearest in time at each row of the annotated grid."""
    since_first_s = radar.ground.lines * radar.line_interval_s
    times = radar.row_times[0] + np.rint(since_first_s * 1e9).astype("timedelta64[ns]")
    distance = radar.range.times[:, None] - times[None, :]
    nearest = np.abs(distance).argmin(axis=0)
    table = radar.range
    picked = {name: getattr(table, name)[nearest] for name in ("origin", "slant", "ground_origin", "ground")}
    return dataclasses.replace(radar, range=dataclasses.replace(table, times=times, **picked))


def test_joined_bursts_keep_their_azimuth_time(shared_data: Path) -> None:
    product = next((shared_data / "sentinel1").glob(f"{SLC_340}*"))
    with open_sentinel1(str(product), Pixels(quantity="beta0", denoise=False)) as scene:
        radar = scene.radar
        assert radar.shape == scene.info.shape == (12198, 22694)
        rows, cols = off_grid(radar)
    assert np.abs(rows).max() < 0.0011
    assert np.abs(cols).max() < 0.00011


def test_slant_ranges_agree_with_the_orbit(shared_data: Path) -> None:
    radar = radar_of(annotation(shared_data, IPF_340))
    grid = radar.ground
    assert grid.height is not None
    places = earth_fixed(grid.lon, grid.lat, grid.height).reshape(-1, 3)
    pixels = radar.locate(places)
    slant, growth = radar.slant_range_m(*pixels.T)
    np.testing.assert_allclose(slant, np.linalg.norm(radar.satellite(places) - places, axis=1), atol=0.002)
    further = radar.slant_range_m(pixels[:, 0], pixels[:, 1] + 1)[0]
    np.testing.assert_allclose(further - slant, growth, rtol=2e-5)


def test_simulated_products_are_solved(tmp_path: Path) -> None:
    """Orbit and ranges agree by construction; rows are straight on a map, so only nearly of one time."""
    product = simulate_sentinel1(tmp_path, rows=600, cols=700, seed=3, lon=179.99, lat=-16.0)
    rows, cols = off_grid(radar_of(images(product)[0]))
    assert np.abs(rows).max() < 0.05
    assert np.abs(cols).max() < 0.02


def test_places_do_not_depend_on_their_neighbours(shared_data: Path) -> None:
    radar = radar_of(annotation(shared_data, EW_352))
    generator = np.random.default_rng(1)
    grid = radar.ground
    at = generator.integers(0, grid.lon.size, 50)
    height = generator.uniform(-400, 8000, 50)
    places = earth_fixed(grid.lon.ravel()[at], grid.lat.ravel()[at], height)
    whole = radar.locate(places)
    one_by_one = np.concatenate([radar.locate(place[None]) for place in places])
    np.testing.assert_array_equal(whole, one_by_one)


def test_an_orbit_that_does_not_reach_the_image_is_refused(shared_data: Path) -> None:
    radar = radar_of(annotation(shared_data, IPF_340))
    orbit = radar.orbit
    cut = dataclasses.replace(orbit, knots_s=orbit.knots_s[:8], coefficients=orbit.coefficients[:7])
    assert isinstance(cut, Orbit)
    with pytest.raises(SceneRejected, match=r"no state vectors from 2021-12-23T05:11:22.594441"):
        radar.with_orbit(cut)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("imageAnnotation/imageInformation/azimuthTimeInterval", "7.0", "azimuthTimeInterval is 7.0"),
        ("imageAnnotation/imageInformation/productFirstLineUtcTime", "noon", "'noon' is not a time"),
        ("imageAnnotation/imageInformation/productFirstLineUtcTime", "2021-12-23T05:15:00", "first geolocation points"),
        ("coordinateConversion/coordinateConversionList/coordinateConversion/azimuthTime", "2030-01-01T00:00:00", "as"),
        ("coordinateConversion/coordinateConversionList/coordinateConversion/grsrCoefficients", "8e5", "polynomial of"),
        ("generalAnnotation/orbitList/orbit/position/x", "1.0", "no satellite follows"),
    ],
)
def test_damaged_geometry_is_refused(shared_data: Path, tmp_path: Path, path: str, value: str, message: str) -> None:
    source = images(unpack(shared_data, IPF_340, tmp_path))[0]
    root = parse(source.read_bytes(), source.name)
    for element in root.findall(path)[: 1 if "Coefficients" not in path else None]:
        element.text = value
    with pytest.raises(SceneRejected, match=message):
        read_radar_grid(root, source.name, read_image(root, source.name).grid)
