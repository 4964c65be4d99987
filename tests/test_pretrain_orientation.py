"""Flips and turns of views: boxes follow, and the same box of both views shows the same ground, seen in the pixels."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from pretrain.pair_run import ViewConfig
from pretrain.resize import oriented, resized_crop
from pretrain.views import PairDraw, draw_boxes, draw_orientation, project, shared_ground
from shards.tile import Tile

SIZE = 96
STEP = 100  # codes per pixel


def places(rows: int = 200, columns: int = 240, down: int = 0, right: int = 0) -> NDArray[np.uint16]:
    """A tile whose codes tell each pixel's x (first band) and y (second)."""
    y, x = np.mgrid[down : down + rows, right : right + columns]
    return np.stack([1000 + STEP * x, 1000 + STEP * y]).astype(np.uint16)


def ground_of(view: NDArray[np.uint16], boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """The smallest and largest x and y that the corners of boxes show, as codes tell."""
    left, top, right, bottom = boxes.astype(float).T
    corners = np.array([[y, x] for y in (top, bottom) for x in (left, right)]) - 0.5
    shown = np.stack([map_coordinates(band.astype(float), corners.transpose(1, 0, 2), order=1) for band in view])
    shown = (shown - 1000) / STEP + 0.5
    return np.stack([shown[0].min(0), shown[1].min(0), shown[0].max(0), shown[1].max(0)], 1)


@pytest.mark.parametrize(("first", "second"), list(product(range(8), repeat=2)))
def test_a_box_shows_the_same_ground_in_both_views_under_all_flips_and_turns(first: int, second: int):
    pixels = places()
    crops = np.array([[20, 30, 130, 150, first], [45, 10, 110, 160, second]])
    left, top, width, height = shared_ground(crops[0], crops[1], SIZE)
    boxes = draw_boxes(np.array([first * 8 + second], np.uint64), width, height, 6, 12, 0.5, 50)
    views = [resized_crop(pixels, crop, SIZE) for crop in crops]
    seen = [project(boxes, left, top, crops[k], crops[1 - k], SIZE) for k in (0, 1)]
    inside = np.ones(len(boxes), bool)
    for both in seen:  # at the border a view repeats its last pixel
        inside &= (both[:, :2] > 1).all(1) & (both[:, 2:] < SIZE - 1).all(1)
    grounds = [ground_of(view, both)[inside] for view, both in zip(views, seen, strict=True)]
    assert inside.sum() >= 1
    np.testing.assert_allclose(grounds[0], grounds[1], atol=0.2)
    # Where the box lies was told before any view was made.
    zoom = np.array([160 / SIZE, 130 / SIZE])
    expected = np.array([left, top]) + boxes[inside, :2] * zoom
    np.testing.assert_allclose(grounds[0][:, :2], expected, atol=0.2)


def test_orientations_are_the_eight_of_numpy():
    view = np.arange(18, dtype=np.uint16).reshape(2, 3, 3)
    found = {oriented(view, code).tobytes() for code in range(8)}
    expected = {
        np.ascontiguousarray(np.rot90(start, turns, (1, 2))).tobytes()
        for start in (view, view[:, :, ::-1])
        for turns in range(4)
    }
    assert found == expected
    assert len(found) == 8
    np.testing.assert_array_equal(oriented(view, 1), view[:, :, ::-1])


@pytest.mark.parametrize(("flip", "vertical"), list(product((0.0, 1.0), repeat=2)))
def test_a_turn_is_by_quarters_of_the_flipped_view(flip: float, vertical: float):
    view = np.arange(9, dtype=np.uint16).reshape(1, 3, 3)
    state = np.array([1], np.uint64)
    found = Counter(oriented(view, draw_orientation(state, flip, vertical, 1.0)).tobytes() for _ in range(3000))
    start = view[:, :, ::-1] if flip else view
    start = start[:, ::-1] if vertical else start
    turned = {np.ascontiguousarray(np.rot90(start, k, (1, 2))).tobytes() for k in (1, 2, 3)}
    assert set(found) == turned
    assert all(abs(count - 1000) < 90 for count in found.values())


def test_a_draw_with_all_dials_on_shows_shared_ground_in_its_boxes():
    tile = Tile("a", places(), {"polarisations": ["x", "y"]})
    dials = {"flip_vertical_share": 0.5, "turn_share": 0.75, "bands": "all", "boxes": 4, "min_box_px": 12}
    draw = PairDraw(ViewConfig(size_px=SIZE, area=(0.3, 0.6), **dials))
    orientations = Counter()
    for key in range(400):
        drawn = draw(tile, np.random.default_rng(key))
        orientations.update((int(drawn["crop1"][4]), int(drawn["crop2"][4])))
        inside = np.ones(4, bool)
        for boxes in (drawn["boxes1"], drawn["boxes2"]):
            inside &= (boxes[:, :2] > 1.5).all(1) & (boxes[:, 2:] < SIZE - 1.5).all(1)
        one, other = (ground_of(drawn[f"view{k}"], drawn[f"boxes{k}"])[inside] for k in (1, 2))
        # Ground is in whole pixels of the less enlarged view: half of one on either side.
        slack = 0.6 * max(drawn["crop1"][2:4].max(), drawn["crop2"][2:4].max()) / SIZE + 0.2
        np.testing.assert_allclose(one, other, atol=slack)
    assert set(orientations) == set(range(8))
    assert all(abs(count - 100) < 40 for count in orientations.values())


def test_the_second_crop_of_a_pair_of_tiles_is_told_in_the_first_ones_pixels():
    one, other = (Tile(name, p, {}) for name, p in (("a", places()), ("b", places(160, 180, 60, 50))))
    draw = PairDraw(ViewConfig(size_px=SIZE, bands="all", boxes=3, min_box_px=12, turn_share=0.5))
    beyond = 0
    for key in range(200):
        drawn = draw.pair(one, other, (60, 50), np.random.default_rng(key))
        y, x, h, w, orientation = (int(v) for v in drawn["crop2"])
        assert y >= 60
        assert y + h <= 60 + 160
        assert x >= 50
        assert x + w <= 50 + 180
        beyond += y + h > 200
        upright = resized_crop(places(400, 400), np.array([y, x, h, w, orientation]), SIZE)
        np.testing.assert_array_equal(drawn["view2"], upright)
    assert beyond > 20


def test_tiles_that_share_too_little_for_boxes_show_all_they_share():
    one, other = (Tile(name, p, {}) for name, p in (("a", places(64, 64)), ("b", places(64, 64, 60, 58))))
    drawn = PairDraw(ViewConfig(size_px=SIZE, bands="all", area=(0.2, 0.3))).pair(
        one, other, (60, 58), np.random.default_rng(0)
    )
    assert drawn["crop1"][:4].tolist() == drawn["crop2"][:4].tolist() == [60, 58, 4, 6]


def test_turns_and_flips_are_off_unless_asked_for():
    tile = Tile("a", places(), {})
    flips = {int(PairDraw(ViewConfig(size_px=32, min_box_px=8))(tile, np.random.default_rng(k))["crop1"][4])
             for k in range(60)}  # fmt: skip
    assert flips == {0, 1}


def test_cross_shows_another_polarisation_in_each_view_where_there_is_one():
    pixels = np.stack([np.full((40, 40), 100 * (k + 1), np.uint16) for k in range(3)])
    draw = PairDraw(ViewConfig(size_px=32, min_box_px=8, bands="cross"))
    tile = Tile("a", pixels, {"polarisations": ["HH", "HV", "VV"]})
    pairs = Counter()
    for key in range(600):
        drawn = draw(tile, np.random.default_rng(key))
        pairs[drawn["view1"].max(), drawn["view2"].max()] += 1
    assert len(pairs) == 6
    assert all(a != b for a, b in pairs)
    assert all(abs(count - 100) < 35 for count in pairs.values())
    alone = draw(Tile("a", pixels[:1], {"polarisations": ["HH"]}), np.random.default_rng(1))
    assert alone["view1"].shape == alone["view2"].shape == (1, 32, 32)


def test_bands_are_dropped_and_swapped_as_often_as_asked():
    pixels = np.stack([np.full((40, 40), 100, np.uint16), np.full((40, 40), 200, np.uint16)])
    dials = {"bands": "all", "band_drop_share": 0.25, "band_swap_share": 0.5}
    draw = PairDraw(ViewConfig(size_px=32, min_box_px=8, **dials))
    tile = Tile("a", pixels, {"polarisations": ["VV", "VH"]})
    values = [tuple(draw(tile, np.random.default_rng(k))["view1"].max(axis=(1, 2)).tolist()) for k in range(1000)]
    counts = Counter(values)
    assert set(counts) == {(100, 200), (200, 100), (0, 200), (0, 100), (100, 0), (200, 0)}
    assert sum(count for pair, count in counts.items() if 0 in pair) / 1000 == pytest.approx(0.25, abs=0.04)
    assert counts[200, 100] / 1000 == pytest.approx(0.75 * 0.25, abs=0.04)  # half of the new orders are the old one
