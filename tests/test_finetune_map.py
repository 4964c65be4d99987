"""The map: the same from every layout of tiles, seamless, where it should be, and readable by any GIS."""

import json

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from rasterio.transform import GCPTransformer

from finetune.legend import Legend
from finetune.map import MapReport, Place, ground_control, legend_path, read_small, write_map
from finetune.mosaic import SceneTiles, Strip, class_strips, edge_weights, starts
from finetune.overlay import Quicklook, draw_overlay
from infra.errors import ResourceError
from shards.tile import Tile

LEGEND = Legend.model_validate(
    {
        "classes": [
            {"id": 1, "name": "land", "colour": [190, 170, 110]},
            {"id": 4, "name": "water", "colour": [20, 90, 200]},
            {"id": 9, "name": "city", "colour": [200, 30, 40]},
        ],
        "background": 1,
    }
)


def _scene(pixels: np.ndarray, tile: int, overlap: int, label: np.ndarray | None = None) -> SceneTiles:
    """Cut as ingest does: even steps, ragged tiles at the lower and right edges."""
    rows, cols = pixels.shape[1:]
    windows = [
        (r, c, min(tile, rows - r), min(tile, cols - c))
        for r in range(0, rows, tile - overlap)
        for c in range(0, cols, tile - overlap)
    ]

    def load(n: int) -> Tile:
        r, c, h, w = windows[n]
        cut = (slice(r, r + h), slice(c, c + w))
        return Tile(f"t{n}", pixels[:, *cut], {}, None if label is None else label[cut])

    return SceneTiles((rows, cols), len(pixels), np.array(windows, np.int64), load)


def _pixels(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(1, 60000, (2, rows, cols)).astype(np.uint16)
    pixels[:, : rows // 4, : cols // 5] = 0
    return pixels


def _pixelwise(codes: np.ndarray) -> np.ndarray:
    """Three classes from each pixel alone; eighths, so that every sum below is exact."""
    grey = np.floor(codes.astype(np.float32) / 1024)
    return np.stack([grey[:, 0], grey[:, 1], 20 + (grey[:, 0] - grey[:, 1]) / 8], 1)


def _blurred(codes: np.ndarray) -> np.ndarray:
    """Logits that depend on the neighbours and on the whole window."""
    x = _pixelwise(codes)
    padded = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)))
    views = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(2, 3))
    return (views.mean((-1, -2)) + x.mean((2, 3), keepdims=True)).astype(np.float32)


def _whole(strips) -> tuple[np.ndarray, np.ndarray]:
    strips = list(strips)
    at = np.cumsum([0, *(len(s.outputs) for s in strips)])[:-1]
    assert [s.row for s in strips] == at.tolist()
    return np.concatenate([s.outputs for s in strips]), np.concatenate([s.confidence for s in strips])


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(5, 90),
    cols=st.integers(5, 90),
    tile=st.integers(8, 64),
    tile_overlap=st.integers(0, 7),
    size=st.integers(4, 48),
    share=st.floats(0, 0.9),
    batch=st.integers(1, 5),
)
def test_a_pixelwise_predictor_gives_one_map_for_every_layout(rows, cols, tile, tile_overlap, size, share, batch):
    pixels = _pixels(rows, cols)
    scene = _scene(pixels, tile, tile_overlap)
    outputs, _ = _whole(class_strips(_pixelwise, scene, 3, size=size, overlap=int(size * share), batch=batch))
    expected = np.where((pixels == 0).all(0), 255, _pixelwise(pixels[None])[0].argmax(0))
    assert (outputs == expected).all()
    assert not scene._held, "every tile was let go"


@pytest.mark.parametrize(("size", "overlap"), [(32, 0), (32, 12), (64, 63), (200, 20)])
def test_any_tiling_of_a_scene_gives_the_argmax_of_the_blended_logits(size, overlap):
    pixels = _pixels(70, 83)
    weight = np.outer(edge_weights(size), edge_weights(size)).astype(np.float64)
    padded = np.zeros((2, max(70, size), max(83, size)), np.uint16)
    padded[:, :70, :83] = pixels
    total, share = np.zeros((3, *padded.shape[1:])), np.zeros(padded.shape[1:])
    for r in starts(70, size, overlap):
        for c in starts(83, size, overlap):
            cut = (slice(r, r + size), slice(c, c + size))
            total[:, *cut] += weight * _blurred(padded[None, :, *cut])[0]
            share[cut] += weight
    logits = (total / share)[:, :70, :83]
    probability = np.exp(logits - logits.max(0))
    probability /= probability.sum(0)
    empty = (pixels == 0).all(0)
    for tile, tile_overlap in ((16, 0), (40, 9), (100, 0)):
        outputs, confidence = _whole(
            class_strips(_blurred, _scene(pixels, tile, tile_overlap), 3, size=size, overlap=overlap)
        )
        assert (outputs == np.where(empty, 255, logits.argmax(0))).all()
        np.testing.assert_allclose(confidence, np.where(empty, 0, probability.max(0)), rtol=2e-4)


def test_memory_is_a_strip_of_tiles_and_each_is_read_once():
    pixels, read, most = _pixels(400, 60), [], 0
    scene = _scene(pixels, 20, 0)
    inner = scene.load
    scene.load = lambda n: (read.append(n), inner(n))[1]
    for _ in class_strips(_pixelwise, scene, 3, size=32, overlap=8):
        most = max(most, len(scene._held))
    assert len(read) == len(set(read)) == 60
    assert most <= 9, "three tiles across, three down"


def test_labels_come_back_from_tiles_and_gaps_are_unlabelled():
    label = np.random.default_rng(0).integers(0, 4, (50, 40)).astype(np.uint8)
    scene = _scene(_pixels(50, 40), 16, 3, label)
    assert (scene.label(0, 0, 50, 40) == label).all()
    assert (scene.label(45, 30, 20, 20)[5:] == 255).all()
    assert (_scene(_pixels(50, 40), 16, 3).label(0, 0, 50, 40) == 255).all()


def test_windows_that_cannot_advance_are_refused():
    with pytest.raises(ValueError, match="overlap 32"):
        next(class_strips(_pixelwise, _scene(_pixels(9, 9), 8, 0), 3, size=32, overlap=32))


def _written(path, place: Place, rows: int = 300, cols: int = 530) -> MapReport:
    scene = _scene(_pixels(rows, cols), 128, 0)
    strips = class_strips(_pixelwise, scene, 3, size=96, overlap=24)
    return write_map(path, strips, (rows, cols), LEGEND, place, {"SCENE": "s1", "MODEL": "m"})


UTM = Place(epsg=32633, transform=(10.0, 0.0, 500000.0, 0.0, -10.0, 5200000.0))


def test_the_map_reads_back_with_colours_names_and_no_data(tmp_path):
    path = tmp_path / "deep" / "map.tif"
    report = _written(path, UTM)
    pixels = _pixels(300, 530)
    expected = np.array([1, 4, 9])[_pixelwise(pixels[None])[0].argmax(0)]
    expected[(pixels == 0).all(0)] = 255
    with rasterio.open(path) as file:
        ids = file.read(1)
        assert (file.nodata, file.count, file.dtypes) == (255, 1, ("uint8",))
        assert file.colorinterp[0] == rasterio.enums.ColorInterp.palette
        table = file.colormap(1)
        assert [table[i][:3] for i in (1, 4, 9)] == [(190, 170, 110), (20, 90, 200), (200, 30, 40)]
        assert table[255][3] == 0
        assert {k: v for k, v in file.tags(1).items() if not k.startswith("STAT")} == {
            "CLASS_1": "land",
            "CLASS_4": "water",
            "CLASS_9": "city",
            "BACKGROUND": "1",
        }
        assert file.tags()["SCENE"] == "s1"
        assert (file.descriptions, file.overviews(1)) == (("class",), [2])
        assert (file.read_masks(1) == np.where(expected == 255, 0, 255)).all()
    assert (ids == expected).all()
    assert report.pixels == {i: int((expected == i).sum()) for i in (1, 4, 9)}
    assert report.no_data == (expected == 255).sum() == 75 * 106
    assert 0.5 < report.confidence <= 1
    assert json.loads(legend_path(path).read_text()) == json.loads(LEGEND.model_dump_json())
    assert sorted(p.name for p in path.parent.iterdir()) == ["map.legend.json", "map.tif"]


def test_a_projected_scene_lies_where_it_should(tmp_path):
    _written(tmp_path / "map.tif", UTM)
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.crs.to_epsg() == 32633
        x, y = file.xy(120, 340)  # the pixel's centre
        assert (x, y) == (500000 + 3405, 5200000 - 1205)
        row, col = file.index(503401.0, 5198799.0)
        assert (row, col) == (120, 340)


def test_a_radar_scene_lies_where_its_ground_points_say(tmp_path):
    """The truth is a tilted UTM frame, as a descending pass gives; the map must find it to a tenth of a pixel."""
    to_ground = Transformer.from_crs(32633, 4326, always_xy=True)
    turn = np.deg2rad(12.0)

    def truth(row, col):
        x = 500000 + 10 * (col * np.cos(turn) - row * np.sin(turn))
        y = 5200000 - 10 * (row * np.cos(turn) + col * np.sin(turn))
        return to_ground.transform(x, y)

    grid = [(float(r), float(c)) for r in np.linspace(0, 299, 8) for c in np.linspace(0, 529, 10)]
    _written(tmp_path / "map.tif", Place(ground=tuple((r, c, *truth(r, c)) for r, c in grid)))
    with rasterio.open(tmp_path / "map.tif") as file:
        points, crs = file.gcps
        assert (len(points), crs.to_epsg()) == (80, 4326)
        assert (points[0].row, points[0].col) == (0.5, 0.5), "a centre, counted from the corner"
    with GCPTransformer(points, tps=True) as transformer:
        for row, col in [(10, 20), (150, 265), (280, 500), (77, 333)]:
            lon, lat = truth(row, col)
            found_row, found_col = transformer.rowcol([lon], [lat], op=lambda v: v)
            assert (found_row[0] - 0.5, found_col[0] - 0.5) == pytest.approx((row, col), abs=0.1)


def test_a_scene_without_a_place_gives_a_map_in_pixels(tmp_path):
    _written(tmp_path / "map.tif", Place())
    assert read_small(tmp_path / "map.tif", 30, 53).shape == (30, 53)
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(tmp_path / "map.tif") as file:
        assert (file.crs, file.gcps[0]) == (None, [])


def test_ground_points_across_the_antimeridian_are_made_continuous():
    points = ground_control([(0, 0, 179.5, 10), (0, 9, -179.5, 10)])
    assert [p.x for p in points] == [179.5, 180.5]


def test_a_map_that_fails_half_way_leaves_nothing(tmp_path):
    def broken():
        yield Strip(0, np.zeros((1, 4, 8), np.uint16), np.zeros((4, 8), np.uint8), np.zeros((4, 8), np.float32))
        raise RuntimeError("tile lost")

    with pytest.raises(RuntimeError, match="tile lost"):
        write_map(tmp_path / "map.tif", broken(), (8, 8), LEGEND, Place(), {})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot be written"):
        write_map(tmp_path / "file" / "map.tif", [], (8, 8), LEGEND, Place(), {})


def test_the_quicklook_is_the_block_mean_of_what_was_measured():
    pixels = _pixels(101, 67)
    look = Quicklook((101, 67), most=30)
    for strip in class_strips(_pixelwise, _scene(pixels, 40, 0), 3, size=32, overlap=5):
        look.add(strip)
    assert look.factor == 4
    mean = np.full((26, 17), np.nan)
    for r in range(26):
        for c in range(17):
            block = pixels[0, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4]
            if block.any():
                mean[r, c] = block[block > 0].mean()
    low, high = np.nanpercentile(mean, (2, 98))
    np.testing.assert_allclose(look.grey(), np.clip((mean - low) / (high - low), 0, 1), rtol=1e-12)


def test_the_picture_shows_the_classes_in_their_colours(tmp_path):
    import io

    from PIL import Image

    path = tmp_path / "map.tif"
    scene, look = _scene(_pixels(300, 530), 128, 0), Quicklook((300, 530))
    strips = list(class_strips(_pixelwise, scene, 3, size=96, overlap=24))
    for strip in strips:
        look.add(strip)
    write_map(path, strips, (300, 530), LEGEND, UTM, {})
    picture = draw_overlay(look.grey(), read_small(path, 300, 530), LEGEND, "scene s1", opacity=1.0)
    image = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).reshape(-1, 3)
    counts = {c.name: int((image == c.colour).all(1).sum()) for c in LEGEND.classes}
    assert counts["water"] > 5000
    assert counts["city"] > 5000
    assert 50 < counts["land"] < 2000, "only in the legend: the background is not painted"
