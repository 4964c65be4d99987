"""What lies beside a map: cloud-optimised layout, confidence, shapes, STAC item, page; and the law of windows."""

import json
import struct

import numpy as np
import pyarrow.parquet as pq
import pystac
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS, Geod, Transformer
from pystac.validation.stac_validator import JsonSchemaSTACValidator
from scipy import ndimage
from test_finetune_map import LEGEND, UTM, _pixels, _scene

from finetune.areas import Place, pixel_areas_m2
from finetune.legend import Legend
from finetune.map import MapReport, write_map
from finetune.map_item import map_item, map_outline
from finetune.mosaic import Strip, class_strips
from finetune.preview import class_table, map_page
from finetune.thinning import thin
from finetune.vectors import (
    VectorDials,
    centre_lines,
    file_words,
    on_ground,
    outlines,
    parse_wanted,
    sizes_m,
    skeleton_lines,
    write_vectors,
)
from infra.errors import UsageError
from shards.manifest import Source, SourceGrid

TILTED = np.deg2rad(12.0)


def _tilted(row, col):
    """A radar frame as a descending pass gives it: 10 m pixels, turned against the map."""
    x = 500000 + 10 * (col * np.cos(TILTED) - row * np.sin(TILTED))
    y = 5200000 - 10 * (row * np.cos(TILTED) + col * np.sin(TILTED))
    return Transformer.from_crs(32633, 4326, always_xy=True).transform(x, y)


def _radar(rows: int, cols: int) -> Place:
    grid = [(float(r), float(c)) for r in np.linspace(0, rows - 1, 8) for c in np.linspace(0, cols - 1, 10)]
    return Place(ground=tuple((r, c, *map(float, _tilted(r, c))) for r, c in grid))


def _write(path, ids: np.ndarray, place: Place = UTM, confidence=None, sure: np.ndarray | None = None) -> MapReport:
    """A map of given class ids, in strips of 50 rows."""
    table = np.full(256, 255, np.uint8)
    table[list(LEGEND.ids)] = range(len(LEGEND.ids))
    sure = np.where(ids == 255, 0, 0.5).astype(np.float32) if sure is None else sure
    strips = (
        Strip(r, np.ones((1, *ids[r : r + 50].shape), np.uint16), table[ids[r : r + 50]], sure[r : r + 50])
        for r in range(0, len(ids), 50)
    )
    return write_map(path, strips, ids.shape, LEGEND, place, {"SCENE": "s"}, confidence)


def _random_ids(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=(3, rows, cols)), (0, 4, 4)).argmax(0)
    ids = np.array(LEGEND.ids, np.uint8)[field]
    ids[: rows // 5, : cols // 6] = 255
    return ids


def _directories(data: bytes) -> list[dict[int, tuple]]:
    """The directories of a classic little-endian TIFF (TIFF 6.0, section 2), with the offset of each under 0."""
    assert data[:4] == b"II*\0"
    (at,) = struct.unpack("<I", data[4:8])
    found, sizes = [], {1: "B", 2: "c", 3: "H", 4: "I", 5: "Q", 6: "b", 11: "f", 12: "d", 16: "Q"}
    while at:
        (count,) = struct.unpack("<H", data[at : at + 2])
        tags = {0: (at,)}
        for n in range(count):
            tag, kind, number, _ = struct.unpack("<HHII", data[at + 2 + 12 * n : at + 14 + 12 * n])
            length = struct.calcsize(sizes[kind]) * number
            where = (
                at + 10 + 12 * n if length <= 4 else struct.unpack("<I", data[at + 10 + 12 * n : at + 14 + 12 * n])[0]
            )
            tags[tag] = struct.unpack(f"<{number}{sizes[kind]}", data[where : where + length])
        found.append(tags)
        (at,) = struct.unpack("<I", data[at + 2 + 12 * count : at + 6 + 12 * count])
    return found


@pytest.mark.parametrize("name", ["map.tif", "map.confidence.tif"])
@pytest.mark.parametrize("place", [UTM, _radar(1100, 700)], ids=["map", "radar"])
def test_maps_are_cloud_optimised_by_the_rules(tmp_path, name, place):
    """Tiled, overviews halve down to a block, all directories before all pixels, coarse pixels before fine ones."""
    _write(tmp_path / "map.tif", _random_ids(1100, 700), place, tmp_path / "map.confidence.tif")
    data = (tmp_path / name).read_bytes()
    assert b"LAYOUT=IFDS_BEFORE_DATA" in data[8:300], "GDAL's mark of a cloud-optimised file"
    width, offsets, compression = 256, 324, 259
    directories = _directories(data)
    assert [d[width][0] for d in directories] == [700, 350, 175]
    assert all(d[322] == d[323] == (256,) for d in directories)
    assert all(d[compression][0] in (8, 32946) for d in directories)
    starts = [d[0][0] for d in directories]
    assert starts == sorted(starts)
    firsts = [min(o for o in d[offsets] if o) for d in directories]
    assert max(starts) < min(firsts)
    assert firsts == sorted(firsts, reverse=True), "overviews lie before the full picture, the coarsest first"


def test_confidence_is_a_file_of_its_own_in_per_cent(tmp_path):
    ids = _random_ids(300, 200)
    sure = np.random.default_rng(0).random(ids.shape).astype(np.float32)
    sure[ids == 255] = 0
    report = _write(tmp_path / "m.tif", ids, UTM, tmp_path / "m.confidence.tif", sure)
    with rasterio.open(tmp_path / "m.confidence.tif") as file:
        found = file.read(1)
        assert (file.nodata, file.dtypes, file.descriptions, file.units) == (255, ("uint8",), ("confidence",), ("%",))
        assert file.crs.to_epsg() == 32633
    assert (found == np.where(ids == 255, 255, np.rint(sure * 100))).all()
    for i in LEGEND.ids:
        assert report.confidences[i] == pytest.approx(sure[ids == i].mean(dtype=float), rel=1e-6)
        assert report.areas_km2[i] == pytest.approx((ids == i).sum() * 1e-4)
    assert report.confidence == pytest.approx(sure[ids != 255].mean(dtype=float), rel=1e-6)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.confidence.tif", "m.legend.json", "m.tif"]


def test_pixel_areas_equal_the_geodesic_ones():
    degrees = Place(epsg=4326, transform=(0.001, 0, 10.0, 0, -0.002, 60.0))
    geod = Geod(ellps="WGS84")
    for row in (0, 500, 4000):
        north, south = 60 - 0.002 * row, 60 - 0.002 * (row + 1)
        area = abs(geod.polygon_area_perimeter([10, 10.001, 10.001, 10], [north, north, south, south])[0])
        assert pixel_areas_m2(degrees, 4001)[row] == pytest.approx(area, rel=1e-5)
    assert pixel_areas_m2(_radar(300, 530), 3) == pytest.approx([100, 100, 100], rel=0.002)
    assert pixel_areas_m2(Place(epsg=2263, transform=(10, 0, 0, 0, -10, 0)), 1)[0] == pytest.approx(
        100 * 0.3048**2, 1e-4
    )
    assert pixel_areas_m2(Place(), 3) is None


def test_polygons_cover_exactly_the_pixels_of_their_class(tmp_path, monkeypatch):
    ids = _random_ids(230, 170)
    _write(tmp_path / "m.tif", ids)
    for strip in (64, 1024):
        monkeypatch.setattr("finetune.vectors.STRIP", strip)
        shapes = outlines(tmp_path / "m.tif", 4, VectorDials(simplify_px=0, least_area_px=0))
        assert shapely.is_valid(shapes).all()
        assert len(shapes) == ndimage.label(ids == 4)[1], "one polygon for each connected piece, also across strips"
        painted = rasterio.features.rasterize(shapes, ids.shape)
        assert (painted == (ids == 4)).all()
        assert shapely.area(shapes).sum() == (ids == 4).sum()
    large = outlines(tmp_path / "m.tif", 4, VectorDials(simplify_px=0, least_area_px=200))
    assert len(large) == (shapely.area(shapes) >= 200).sum()
    rough = outlines(tmp_path / "m.tif", 4, VectorDials(simplify_px=1.5, least_area_px=200))
    corners = shapely.points(shapely.get_coordinates(large))
    strayed = shapely.distance(corners, shapely.union_all(rough).boundary)
    assert (strayed > 1.5).mean() < 0.005, "GEOS may take the corner where a ring begins, too"
    assert strayed.max() <= 3
    assert shapely.get_num_coordinates(rough).sum() < 0.5 * shapely.get_num_coordinates(large).sum()


def test_a_polygon_may_have_holes_of_any_number_of_corners(tmp_path):
    ids = np.full((60, 80), 4, np.uint8)
    ids[10:20, 10:20] = 1
    ids[30:50, 30:40] = ids[40:50, 30:60] = 1
    _write(tmp_path / "m.tif", ids)
    (shape,) = outlines(tmp_path / "m.tif", 4, VectorDials(simplify_px=0))
    assert sorted(len(ring.coords) - 1 for ring in shape.interiors) == [4, 6]
    assert shape.area == (ids == 4).sum()


@pytest.mark.parametrize("place", [UTM, _radar(230, 170), Place()], ids=["map", "radar", "nowhere"])
def test_polygons_as_geoparquet_lie_where_the_map_does(tmp_path, place):
    ids = np.ones((230, 170), np.uint8)
    ids[20:60, 100:150] = 4
    _write(tmp_path / "m.tif", ids, place)
    assert write_vectors(tmp_path / "m.water.parquet", tmp_path / "m.tif", 4, "water", "polygon", place) == 1
    table = pq.read_table(tmp_path / "m.water.parquet")
    geo = json.loads(table.schema.metadata[b"geo"])
    column = geo["columns"]["geometry"]
    assert (geo["version"], geo["primary_column"], column["geometry_types"]) == ("1.1.0", "geometry", ["Polygon"])
    row = table.to_pylist()[0]
    assert (row["class_id"], row["class"]) == (4, "water")
    shape = shapely.from_wkb(row["geometry"])
    assert column["bbox"] == pytest.approx(list(shape.bounds))
    if place == Place():
        assert column["crs"] is None
        assert (shape.bounds, np.isnan(row["area_m2"])) == ((100, 20, 150, 60), True)
        return
    assert row["area_m2"] == pytest.approx(40 * 50 * 100, rel=0.002)
    if place == UTM:
        assert CRS.from_json_dict(column["crs"]).to_epsg() == 32633
        assert shape.bounds == (501000, 5199400, 501500, 5199800)
        return
    assert "crs" not in column, "WGS 84, longitude first"
    to_metres = Transformer.from_crs(4326, 32633, always_xy=True).transform
    expected = shapely.polygons(
        [to_metres(*_tilted(r - 0.5, c - 0.5)) for r, c in ((20, 100), (20, 150), (60, 150), (60, 100))]
    )
    found = shapely.transform(shape, lambda xy: np.stack(to_metres(xy[:, 0], xy[:, 1]), 1))
    assert shapely.hausdorff_distance(found, expected) < 1.0, "a tenth of a pixel"


def test_classes_that_differ_in_signs_only_have_files_of_their_own():
    names = ("open water", "open/water", "open_water-1")
    classes = [{"id": n, "name": name, "colour": [n, 0, 0]} for n, name in enumerate(names)]
    words = {"open water": "0-open_water", "open/water": "1-open_water", "open_water-1": "2-open_water-1"}
    assert file_words(Legend.model_validate({"classes": classes})) == words
    assert file_words(LEGEND) == {name: name for name in LEGEND.names}


def test_roads_become_lines_along_their_middle(tmp_path):
    ids = np.ones((200, 300), np.uint8)
    ids[98:103, 10:290] = 9
    ids[20:180, 148:153] = 9
    _write(tmp_path / "m.tif", ids)
    lines = centre_lines(tmp_path / "m.tif", 9, VectorDials(least_spur_px=10))
    assert len(lines) == 4, "a crossing has four arms"
    assert shapely.length(lines).sum() == pytest.approx(280 + 160, abs=14)
    cross = shapely.multilinestrings([[[10, 100.5], [290, 100.5]], [[150.5, 20], [150.5, 180]]])
    assert shapely.distance(shapely.points(shapely.get_coordinates(lines)), cross).max() <= 1.5
    count = write_vectors(
        tmp_path / "road.parquet", tmp_path / "m.tif", 9, "city", "line", UTM, VectorDials(least_spur_px=10)
    )
    table = pq.read_table(tmp_path / "road.parquet")
    assert (count, table.column_names) == (4, ["class_id", "class", "length_m", "geometry"])
    assert sum(table["length_m"].to_pylist()) == pytest.approx(10 * (280 + 160), abs=140)
    assert write_vectors(tmp_path / "none.parquet", tmp_path / "m.tif", 4, "water", "line", UTM) == 0
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000))
def test_traced_lines_are_the_skeleton(seed):
    """Every pixel lies on a line, every line runs over pixels only, and pieces stay pieces."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(30, 40)), 1.5)
    skeleton = thin(field > 0.3 * field.std())
    pieces, count = ndimage.label(skeleton, np.ones((3, 3)))
    single = np.bincount(pieces.ravel())[1:] == 1  # a single pixel has no length
    lines = skeleton_lines(skeleton)
    cells = {tuple(np.floor(c[::-1]).astype(int)) for c in shapely.get_coordinates(lines)}
    assert cells == {tuple(at) for at in np.argwhere(skeleton) if not single[pieces[tuple(at)] - 1]}
    joined = shapely.union_all(lines).buffer(0.01)
    assert len(shapely.get_parts(joined)) == (count - single.sum() if len(lines) else 0)


def test_short_loose_ends_go_and_through_roads_stay():
    skeleton = np.zeros((40, 60), bool)
    skeleton[20, 5:55] = True
    skeleton[15:20, 30] = True
    assert len(skeleton_lines(skeleton)) == 3
    (line,) = skeleton_lines(skeleton, least_spur_px=8)
    assert line.length == pytest.approx(49)
    assert not len(skeleton_lines(np.zeros((5, 5), bool)))


def test_wanted_shapes_are_read_or_refused():
    assert parse_wanted("water=polygon, city=line", LEGEND) == {"water": "polygon", "city": "line"}
    assert parse_wanted("", LEGEND) == {}
    for text, message in (
        ("sea=polygon", "no class 'sea'"),
        ("water=dots", "water=polygon or water=line"),
        ("water", "or"),
    ):
        with pytest.raises(UsageError, match=message):
            parse_wanted(text, LEGEND)
    assert sizes_m(np.zeros(0, object), UTM, "line").size == 0
    beyond = Place(ground=tuple((r, c, lon, 10.0 - r * 1e-3) for r in (0, 9) for c, lon in ((0, 179.99), (9, -179.98))))
    moved = on_ground(np.array([shapely.box(6, 1, 8, 3), shapely.box(0, 1, 8, 3)], object), beyond)
    assert shapely.bounds(moved)[0, [0, 2]].max() < -179
    assert shapely.bounds(moved)[1, 2] > 180, "what crosses the antimeridian stays in one piece"


def _source(**change) -> Source:
    plain = Source(
        id="S1A_20200101", sensor="sentinel-1", product="GRD", mode="IW", polarisations=("VV", "VH"), shape=(230, 170),
        spacing_m=(10.0, 10.0), time="2020-01-01T05:00:00Z", orbit="descending", fingerprint="f" * 64, footprint=None,
        grid=SourceGrid(epsg=32633, transform=UTM.transform), tiles=4,
    )  # fmt: skip
    return plain.model_copy(update=change)


LINEAGE = {"scene": "S1A_20200101", "recipe": "a" * 64, "manifest": "b" * 64, "model": "c" * 64, "run": "d" * 64}


def test_the_item_is_valid_stac_and_says_where_the_map_comes_from(tmp_path):
    ids = _random_ids(230, 170)
    report = _write(tmp_path / "m.tif", ids, UTM, tmp_path / "m.confidence.tif")
    write_vectors(tmp_path / "m.water.parquet", tmp_path / "m.tif", 4, "water", "polygon", UTM)
    files = {
        "map": tmp_path / "m.tif",
        "confidence": tmp_path / "m.confidence.tif",
        "legend": tmp_path / "m.legend.json",
    }
    files |= {"vectors_water": tmp_path / "m.water.parquet", "preview": tmp_path / "not there.png"}
    plain = map_item(_source(), UTM, LEGEND, report, files, LINEAGE, tmp_path)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    item = pystac.Item.from_dict(plain)
    JsonSchemaSTACValidator().validate_core(plain, pystac.STACObjectType.ITEM, "1.1.0")
    assert (item.ext.proj.code, item.ext.proj.shape) == ("EPSG:32633", [230, 170])
    assert item.ext.proj.transform == [*UTM.transform, 0, 0, 1]
    asset = item.assets["map"]
    classes = {c.value: c for c in asset.ext.classification.classes}
    assert (classes[4].name, classes[4].color_hint) == ("water", "145AC8")
    assert classes[255].nodata
    assert plain["assets"]["map"]["classification:classes"][1]["count"] == (ids == 4).sum()
    import hashlib

    assert asset.ext.file.checksum == "1220" + hashlib.sha256((tmp_path / "m.tif").read_bytes()).hexdigest()
    assert (asset.href, asset.media_type) == ("./m.tif", "image/tiff; application=geotiff; profile=cloud-optimized")
    assert set(item.assets) == {"map", "confidence", "legend", "vectors_water"}
    assert item.properties["sarsense:recipe"] == "a" * 64
    assert "aaaaaaaaaaaa" in item.properties["processing:lineage"]
    to_degrees = Transformer.from_crs(32633, 4326, always_xy=True).transform
    lon, lat = np.array([to_degrees(x, y) for x in (500000, 501700) for y in (5200000, 5197700)]).T
    assert item.bbox == pytest.approx([lon.min(), lat.min(), lon.max(), lat.max()], abs=1e-9)
    assert shapely.geometry.shape(item.geometry).area == pytest.approx(np.ptp(lon) * np.ptp(lat), rel=0.01)


def test_items_of_scenes_without_time_or_place_or_across_the_antimeridian(tmp_path):
    report = _write(tmp_path / "m.tif", _random_ids(230, 170), Place())
    files = {"map": tmp_path / "m.tif"}
    assert map_item(_source(time=None), UTM, LEGEND, report, files, LINEAGE, tmp_path) is None
    bare = map_item(_source(grid=None), Place(), LEGEND, report, files, LINEAGE, tmp_path)
    assert (bare["geometry"], "bbox" in bare, bare["properties"]["proj:code"]) == (None, False, None)
    JsonSchemaSTACValidator().validate_core(bare, pystac.STACObjectType.ITEM, "1.1.0")
    corners = ((179.0, 1.0), (181.0, 1.0), (181.0, 0.0), (179.0, 0.0))
    across = _source(grid=None, footprint=corners)
    item = map_item(across, Place(ground=((0, 0, 179.0, 1.0),)), LEGEND, report, files, LINEAGE, tmp_path)
    assert item["bbox"] == [179.0, 0.0, -179.0, 1.0]
    assert item["geometry"]["type"] == "MultiPolygon"
    assert map_outline(_source(grid=None), Place()) is None


def test_the_page_carries_everything_in_itself(tmp_path):
    report = _write(tmp_path / "m.tif", _random_ids(230, 170))
    hostile = Legend.model_validate(LEGEND.model_dump() | {"classes": [
        {**c.model_dump(), "name": "<b>land" if c.id == 1 else c.name} for c in LEGEND.classes]})  # fmt: skip
    text = map_page("s1", "2020", b"\x89PNG", hostile, report, LINEAGE, {"water": 3}).decode()
    assert "data:image/png;base64," in text
    assert "<script" not in text
    assert "http" not in text
    assert "<b>land" not in text
    assert "background:#145ac8" in text
    assert f"{report.areas_km2[4]:,.3f}" in class_table(hostile, report)
    assert "50.0" in class_table(hostile, report)
    assert "a" * 64 in text


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(5, 80),
    cols=st.integers(5, 80),
    size=st.integers(8, 40),
    overlap=st.integers(4, 39),
    tile=st.integers(8, 64),
    batch=st.integers(1, 4),
)
def test_no_window_layout_shows_in_the_map_of_a_network_with_a_short_reach(rows, cols, size, overlap, tile, batch):
    """A network that moves with its input and sees 2 pixels far gives one map for all windows, if 2 do not count.

    Beyond the scene windows show no-data, which this network reads as 0, as it pads itself.
    """
    overlap = min(overlap, size - 1)
    pixels = np.random.default_rng([rows, cols]).integers(1, 60000, (2, rows, cols)).astype(np.uint16)
    strips = list(class_strips(_at_zero, _scene(pixels, tile, 3), 3, size=size, overlap=overlap, batch=batch, margin=2))
    outputs = np.concatenate([s.outputs for s in strips])
    confidence = np.concatenate([s.confidence for s in strips])
    assert (outputs == _at_zero(pixels[None])[0].argmax(0)).all()
    best = _at_zero(pixels[None])[0].astype(np.float64)
    probability = 1 / np.exp(best - best.max(0)).sum(0)
    np.testing.assert_allclose(confidence, probability, rtol=1e-3)


def _at_zero(codes: np.ndarray) -> np.ndarray:
    """Three classes from sums over 5 x 5 pixels, in 64ths, so that sums are exact; 0 for no-data as for its padding."""
    grey = np.floor(codes.astype(np.float32) / 1024)
    x = np.stack([grey[:, 0], grey[:, 1], np.floor((grey[:, 0] + grey[:, 1]) / 2)], 1)
    padded = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)))
    views = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(2, 3))
    return views.sum((-1, -2)).astype(np.float32) / 64


def test_without_a_margin_windows_show_and_too_wide_a_margin_is_refused():
    pixels = _pixels(70, 70, 5)
    pixels[pixels == 0] = 1
    expected = _at_zero(pixels[None])[0].argmax(0)
    found = {
        margin: np.concatenate(
            [s.outputs for s in class_strips(_at_zero, _scene(pixels, 32, 0), 3, size=16, overlap=4, margin=margin)]
        )
        for margin in (0, 2)
    }
    assert (found[2] == expected).all()
    assert 0 < (found[0] != expected).mean() < 0.3
    with pytest.raises(ValueError, match="at most half of the overlap"):
        next(class_strips(_at_zero, _scene(pixels, 32, 0), 3, size=16, overlap=4, margin=3))
