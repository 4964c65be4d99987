"""Shares of land are exact by area on the ellipsoid, wherever a tile lies."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod
from test_ingest_tiling import SCALE, ComputedScene

from infra.errors import UsageError
from ingest.despeckle import Despeckled
from ingest.land import GroundShares, Land, open_land
from ingest.recipe import LandFile, Recipe, SpeckleRules, TileRules, load_recipe
from ingest.scene import Window
from ingest.tiling import cut

WGS84 = Geod(ellps="WGS84")
TURN = [[179.9, 1.0], [-179.9, 1.0], [-179.9, 0.0], [179.9, 0.0]]


def land_of(*polygons: shapely.Polygon) -> Land:
    return Land(np.array(polygons, dtype=object))


def corners(west: float, south: float, east: float, north: float) -> list[list[float]]:
    return [[west, north], [east, north], [east, south], [west, south]]


def area(polygon: shapely.Geometry) -> float:
    """Area on the ellipsoid by geodesics, an independent way; lines in degrees are cut into short pieces first."""
    return abs(WGS84.geometry_area_perimeter(shapely.segmentize(polygon, 0.002))[0])


def share(land: Land, *tiles: list[list[float]]) -> list[float]:
    return land.shares(np.array(tiles)).tolist()


@pytest.mark.parametrize(("south", "size"), [(0.0, 1.0), (45.0, 0.03), (59.0, 2.0), (84.0, 1.0), (-75.5, 0.5)])
def test_shares_are_those_of_geodesic_areas(south: float, size: float) -> None:
    lake = shapely.Polygon([[10.0, south], [10 + size, south + size / 3], [10.3 * 1.0, south + size]])
    coast = shapely.Polygon(
        [[9, south - 1], [10 + size / 2, south - 1], [10 + size / 4, south + size + 1], [9, south + 2]]
    )
    tile = shapely.box(10, south, 10 + size, south + size)
    for polygon in (lake, coast):
        expected = area(shapely.intersection(polygon, tile)) / area(tile)
        (found,) = share(land_of(polygon), corners(*tile.bounds))
        assert found == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(
    "tile", [TURN, corners(179.9, 0, 180.1, 1), corners(-180.1, 0, -179.9, 1), corners(539.9, 0, 540.1, 1)]
)
def test_every_way_to_write_a_tile_across_the_antimeridian(tile: list[list[float]]) -> None:
    east_of_it = land_of(shapely.box(-180, -5, -170, 5))
    west_of_it = land_of(shapely.box(170, -5, 180, 5))
    both = land_of(shapely.box(170, -5, 180, 5), shapely.box(-180, -5, -170, 5))
    beyond = land_of(shapely.box(170, -5, 190, 5))
    found = [share(land, tile)[0] for land in (east_of_it, west_of_it, both, beyond, land_of(shapely.box(0, 0, 9, 9)))]
    assert found == pytest.approx([0.5, 0.5, 1.0, 1.0, 0.0], abs=1e-9)


def test_polygons_that_overlap_count_once_and_holes_are_water() -> None:
    island = shapely.Polygon(shapely.box(0, 0, 1, 1).exterior, [shapely.box(0.25, 0.25, 0.5, 0.75).exterior])
    assert share(land_of(island, island, shapely.box(0.9, 0, 2, 1)), corners(0, 0, 1, 1)) == pytest.approx(
        [1 - area(shapely.box(0.25, 0.25, 0.5, 0.75)) / area(shapely.box(0, 0, 1, 1))], abs=1e-6
    )


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), points=st.integers(3, 3000))
def test_a_coast_of_many_points_is_cut_up_without_a_trace(seed: int, points: int) -> None:
    noise = np.random.default_rng(seed)
    angle = np.sort(noise.random(points)) * 2 * np.pi
    radius = 1 + 0.3 * noise.random(points)
    coast = shapely.make_valid(shapely.Polygon(np.column_stack([radius * np.cos(angle), 50 + radius * np.sin(angle)])))
    tile = shapely.box(-0.2, 50.1, 1.2, 51.0)
    (found,) = share(land_of(*shapely.get_parts(coast)), corners(*tile.bounds))
    assert found == pytest.approx(area(shapely.intersection(coast, tile)) / area(tile), abs=1e-5)


def write_geojson(path: Path, polygons: list[shapely.Geometry], **extra: object) -> Path:
    features = [
        {"type": "Feature", "properties": {}, "geometry": json.loads(shapely.to_geojson(polygon))}
        for polygon in polygons
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features, **extra}))
    return path


def write_geoparquet(path: Path, polygons: list[shapely.Geometry], **column: object) -> Path:
    geo = {"version": "1.1.0", "primary_column": "g", "columns": {"g": {"encoding": "WKB", **column}}}
    table = pa.table({"g": pa.array([shapely.to_wkb(p) for p in polygons], pa.binary())})
    pq.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), path)
    return path


def read(path: Path) -> Land:
    return Land.read(LandFile.model_validate(str(path)))


def test_both_formats_are_read(tmp_path: Path) -> None:
    polygons = [shapely.box(0, 0, 1, 1), shapely.multipolygons([shapely.box(2, 0, 3, 1), shapely.box(4, 0, 5, 1)])]
    tiles = np.array([corners(x, 0.25, x + 0.5, 0.75) for x in (0.75, 2.25, 3.25, 4.9)])
    for path in (write_geojson(tmp_path / "a.geojson", polygons), write_geoparquet(tmp_path / "a.parquet", polygons)):
        assert read(path).shares(tiles).tolist() == pytest.approx([0.5, 1.0, 0.0, 0.2], abs=1e-9)


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    box = shapely.box(0, 0, 1, 1)
    utm = {"crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32632"}}}
    (tmp_path / "text").write_text("land")
    (tmp_path / "cut").write_bytes(write_geoparquet(tmp_path / "whole", [box]).read_bytes()[:50])
    refused = {
        "in urn:ogc:def:crs:EPSG::32632": write_geojson(tmp_path / "1", [box], **utm),
        "found Point": write_geojson(tmp_path / "2", [shapely.Point(0, 0)]),
        "found no geometry": write_geojson(tmp_path / "3", []),
        "not degrees": write_geojson(tmp_path / "4", [shapely.box(5e5, 4e6, 6e5, 5e6)]),
        "planar longitude and latitude": write_geoparquet(tmp_path / "5", [box], edges="spherical"),
        "WGS 84, found": write_geoparquet(tmp_path / "6", [box], crs=None),
        "expected GeoJSON or GeoParquet": tmp_path / "text",
        "not GeoParquet": tmp_path / "cut",
    }
    for said, path in refused.items():
        with pytest.raises(UsageError, match=said):
            read(path)


def test_the_content_names_a_recipe_and_the_place_does_not(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    box = shapely.box(0, 0, 1, 1)
    first, moved = (write_geojson(tmp_path / name, [box]) for name in ("a.geojson", "b/c.json"))
    other = write_geojson(tmp_path / "other", [shapely.box(0, 0, 1, 2)])
    digests = []
    for path in (first, moved, other):
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(f"tiles: {{land: {path}, min_land_share: 0.1}}")
        digests.append(load_recipe(str(recipe)).digest)
    assert digests[0] == digests[1]
    assert len({*digests, Recipe().digest}) == 3
    stored = load_recipe(str(recipe)).model_dump(mode="json")
    assert str(tmp_path) not in json.dumps(stored)
    assert Recipe.model_validate(stored).digest == digests[2]
    with pytest.raises(UsageError, match="give their path"):
        open_land(Recipe.model_validate(stored).tiles.land)
    with pytest.raises(ValueError, match="there is no file of land polygons"):
        TileRules(land=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="this recipe was made with"):
        TileRules(land={"path": str(first), "sha256": stored["tiles"]["land"]["sha256"]})


def tiles_of(scene: ComputedScene, **rules: object) -> tuple[dict[tuple[int, int], tuple], dict[str, int]]:
    dropped: Counter[str] = Counter()
    wanted = TileRules.model_validate({"size": 64, **rules})
    found = cut(Despeckled(scene, SpeckleRules()), wanted, SCALE, dropped)
    places = {tuple(t.meta["window"][:2]): (t.meta["land_share"], t.meta["water_share"]) for t in found}
    return places, dict(dropped)


def test_limits_on_land_leave_tiles_out_before_they_are_read(tmp_path: Path) -> None:
    west = write_geojson(tmp_path / "west.json", [shapely.box(0, 0, 9.99995 + 0.0096, 60)])  # 96 of 192 columns
    scene = ComputedScene(128, 192)
    places, dropped = tiles_of(scene, land=str(west))
    assert dropped == {}
    shares = [share for col in (0, 64, 128) for share in places[0, col]]
    assert shares == pytest.approx([1, 0, 0.5, 0.5, 0, 1], abs=1e-5)
    assert tiles_of(scene, land=str(west), min_land_share=0.4)[1] == {"too little land": 2}
    scene.read.clear()
    places, dropped = tiles_of(scene, land=str(west), max_water_share=0.1)
    assert (set(places), dropped) == ({(0, 0), (64, 0)}, {"too much water": 4})
    assert [window.cols for window in scene.read] == [64]
    assert tiles_of(ComputedScene(128, 192, placed=False), land=str(west), min_land_share=0.1) == (
        {},
        {"land unknown": 6},
    )
    crossing = tiles_of(ComputedScene(64, 64, west=179.99), land=str(west))[0]
    assert crossing[0, 0] == (0.0, 1.0)


def test_a_product_with_a_mask_of_its_own_is_asked_first(tmp_path: Path) -> None:
    class Masked(ComputedScene):
        def ground_shares(self, window: Window) -> GroundShares | None:
            return GroundShares(0.25, 0.5) if window.col == 0 else None

    land = write_geojson(tmp_path / "land.json", [shapely.box(0, 0, 20, 60)])
    places, _ = tiles_of(Masked(64, 128), land=str(land))
    assert places == {(0, 0): (0.25, 0.5), (0, 64): (1.0, 0.0)}
    assert tiles_of(Masked(64, 128), max_water_share=0.4)[1] == {"too much water": 1, "land unknown": 1}
