"""Crops, shared ground and boxes: the kernels against a plain port of the rule, and against geometry."""

import pickle
import random
import time

import box_reference as reference
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pretrain import views
from pretrain.pair_run import ViewConfig
from pretrain.resize import resized_crop
from pretrain.views import PairDraw, draw_boxes, draw_pair, project, shared_ground
from shards.tile import Tile

SIZE, SMALLEST = 448, 32


def philox(key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key))


def pair(seed: int, rows: int = 512, columns: int = 512, size: int = SIZE, smallest: int = SMALLEST):
    return draw_pair(np.uint64(seed), rows, columns, size, 0.2, 1.0, 0.75, 4 / 3, 0.5, 10, smallest, 0.5, 50)


def to_source(boxes: NDArray[np.float32], crop: NDArray[np.int64], size: int) -> NDArray[np.float64]:
    """Box sides in source pixels."""
    y, x, h, w, flipped = (int(v) for v in crop)
    left, top, right, bottom = boxes.astype(np.float64).T
    if flipped:
        left, right = size - right, size - left
    return np.stack([x + left * w / size, y + top * h / size, x + right * w / size, y + bottom * h / size], 1)


def test_boxes_of_both_views_lie_on_the_same_ground_under_every_flip():
    flips = set()
    for seed in range(400):
        crops, boxes1, boxes2 = pair(seed)
        flips.add((crops[0, 4], crops[1, 4]))
        # A rounded shared ground may reach half a view pixel over the crop's border, where boxes are clipped.
        slack = 0.51 * crops[:, 2:4].max() / SIZE
        np.testing.assert_allclose(to_source(boxes1, crops[0], SIZE), to_source(boxes2, crops[1], SIZE), atol=slack)
    assert flips == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_boxes_stay_inside_the_views_and_are_large_enough_in_both():
    for seed in range(400):
        _, *both = pair(seed)
        for boxes in both:
            assert boxes.shape == (10, 4)
            assert boxes.min() >= 0
            assert boxes.max() <= SIZE
            assert (boxes[:, 2:] - boxes[:, :2]).min() >= SMALLEST - 0.51


def test_boxes_of_an_image_overlap_less_than_half_but_for_a_few_that_ran_out_of_tries():
    state = np.array([5], np.uint64)
    tight = 0
    for _ in range(300):
        boxes = [tuple(int(v) for v in b) for b in draw_boxes(state, 300, 250, 10, SMALLEST, 0.5, 50)]
        tight += sum(reference.iou(a, b) >= 0.5 for i, a in enumerate(boxes) for b in boxes[:i])
    assert tight <= 3


def test_a_ground_with_room_for_one_box_still_gives_all_of_them():
    boxes = draw_boxes(np.array([1], np.uint64), 33, 33, 10, 32, 0.5, 50)
    assert (boxes[:, 2:] >= 32).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= 33).all()


def test_box_kernel_draws_from_the_same_distribution_as_the_plain_loop():
    rng, state = random.Random(3), np.array([3], np.uint64)
    plain = np.array([b for _ in range(1500) for b in reference.draw_boxes(rng, 280, 330, 10, 32, 0.5, 50)])
    fast = np.concatenate([draw_boxes(state, 280, 330, 10, 32, 0.5, 50) for _ in range(1500)])
    for column in range(4):
        values = np.sort(np.concatenate([plain[:, column], fast[:, column]]))
        ranks = [np.searchsorted(np.sort(s[:, column]), values, side="right") / len(s) for s in (plain, fast)]
        # Kolmogorov-Smirnov; boxes of one image depend on each other, so the bound is a little wide.
        assert np.abs(ranks[0] - ranks[1]).max() < 2.2 * np.sqrt(2 / len(plain))


def test_box_sizes_are_those_measured_for_the_published_code():
    widths, areas = [], []
    for seed in range(1500):
        _, boxes, _ = pair(seed)
        w, h = (boxes[:, 2:] - boxes[:, :2]).T
        widths.append(w)
        areas.append(w * h / SIZE**2)
    assert np.mean(widths) == pytest.approx(73, abs=2.5)
    assert np.median(widths) == pytest.approx(50, abs=2)
    assert np.mean(areas) == pytest.approx(0.027, abs=0.002)
    assert np.median(areas) == pytest.approx(0.015, abs=0.001)


def test_crop_pairs_overlap_as_measured_for_the_published_code():
    ious = []
    for seed in range(3000):
        a, b = (tuple(int(v) for v in c) for c in pair(seed)[0])
        ious.append(reference.iou((a[1], a[0], a[3], a[2]), (b[1], b[0], b[3], b[2])))
    assert np.mean(ious) == pytest.approx(0.507, abs=0.015)
    assert np.percentile(ious, 10) == pytest.approx(0.27, abs=0.02)


def test_ground_and_projection_equal_the_plain_port():
    for seed in range(200):
        crops, *_ = pair(seed, rows=300, columns=700)
        a, b = (tuple(int(v) for v in c) for c in crops)
        ground = reference.shared_ground(a, b, SIZE)
        assert tuple(int(v) for v in shared_ground(crops[0], crops[1], SIZE)) == ground
        boxes = draw_boxes(np.array([seed], np.uint64), ground[2], ground[3], 10, SMALLEST, 0.5, 50)
        for crop, other, plain, plain_other in ((crops[0], crops[1], a, b), (crops[1], crops[0], b, a)):
            seen = project(boxes, ground[0], ground[1], crop, other, SIZE)
            expected = [
                reference.project(tuple(int(v) for v in k), ground[0], ground[1], plain, plain_other, SIZE)
                for k in boxes
            ]
            np.testing.assert_allclose(seen, expected, rtol=1e-6, atol=1e-4)


def test_compiled_and_interpreted_kernels_agree(monkeypatch: pytest.MonkeyPatch):
    compiled = [pair(seed) for seed in range(3)]
    names = ["uniform", "integer", "draw_crop", "draw_orientation", "draw_span", "draw_boxes", "framed", "is_apart"]
    for name in [*names, "first_frame", "project", "project_axis", "shared_ground"]:
        monkeypatch.setattr(views, name, getattr(views, name).py_func)
    for seed in range(3):
        with np.errstate(over="ignore"):
            plain = views.draw_pair.py_func(
                np.uint64(seed), 512, 512, SIZE, 0.2, 1.0, 0.75, 4 / 3, 0.5, 10, SMALLEST, 0.5, 50
            )
        for one, other in zip(compiled[seed], plain, strict=True):
            np.testing.assert_array_equal(one, other)


def test_dials_that_leave_no_common_ground_show_one_crop_twice():
    crops, boxes1, _ = draw_pair(np.uint64(1), 400, 400, 64, 0.01, 0.01, 1.0, 1.0, 0.5, 4, 60, 0.5, 50)
    assert (crops[0, :4] == crops[1, :4]).all()
    assert (boxes1[:, 2:] - boxes1[:, :2]).min() >= 60


@pytest.mark.parametrize("crop", [[3, 5, 100, 140, 0], [0, 0, 256, 256, 1], [10, 200, 55, 33, 0]])
@pytest.mark.parametrize("size", [37, 96, 300])
def test_resize_equals_pillow(crop: list[int], size: int):
    pixels = np.random.default_rng(1).integers(1, 65536, (2, 256, 256)).astype(np.uint16)
    view = resized_crop(pixels, np.array(crop), size)
    y, x, h, w, flipped = crop
    for band in range(2):
        cut = Image.fromarray(pixels[band, y : y + h, x : x + w].astype(np.float32))
        expected = np.asarray(cut.resize((size, size), Image.Resampling.BILINEAR))
        expected = expected[:, ::-1] if flipped else expected
        assert np.abs(view[band] - expected).max() < 0.52


def masked_mean(pixels: NDArray[np.uint16], y: float, x: float, reach_y: float, reach_x: float) -> float:
    """The mean over valid pixels under a triangle, pixel by pixel."""
    total = weight = 0.0
    for i in range(pixels.shape[0]):
        for j in range(pixels.shape[1]):
            if pixels[i, j]:
                w = max(0, 1 - abs(i + 0.5 - y) / reach_y) * max(0, 1 - abs(j + 0.5 - x) / reach_x)
                total, weight = total + w * pixels[i, j], weight + w
    return total / weight if weight > 1e-9 else 0.0


@pytest.mark.parametrize("size", [7, 31])
def test_resize_leaves_out_pixels_without_data(size: int):
    rng = np.random.default_rng(2)
    pixels = rng.integers(1, 65536, (1, 20, 24)).astype(np.uint16)
    pixels[rng.random(pixels.shape) < 0.4] = 0
    pixels[:, :8, :8] = 0
    view = resized_crop(pixels, np.array([0, 0, 20, 24, 0]), size)[0]
    zy, zx = 20 / size, 24 / size
    for i in range(size):
        for j in range(size):
            y, x = (i + 0.5) * zy, (j + 0.5) * zx
            assert abs(view[i, j] - masked_mean(pixels[0], y, x, max(zy, 1), max(zx, 1))) < 1.0
    assert (view == 0).any()


def test_a_draw_has_static_shapes_and_follows_its_generator_alone():
    tile = Tile("a", np.random.default_rng(0).integers(1, 9999, (2, 90, 110)).astype(np.uint16), {})
    draw = pickle.loads(pickle.dumps(PairDraw(ViewConfig(size_px=64, min_box_px=8))))
    first, again, other = (draw(tile, philox(k)) for k in (4, 4, 5))
    shapes = {name: (value.shape, value.dtype.name) for name, value in first.items()}
    assert shapes == {
        "view1": ((1, 64, 64), "uint16"),
        "view2": ((1, 64, 64), "uint16"),
        "boxes1": ((10, 4), "float32"),
        "boxes2": ((10, 4), "float32"),
        "crop1": ((5,), "int64"),
        "crop2": ((5,), "int64"),
        "numbers1": ((8,), "float32"),
        "numbers2": ((8,), "float32"),
    }
    assert all((first[n] == again[n]).all() for n in first)
    assert not any((first[n] == other[n]).all() for n in first)


def test_one_band_is_taken_at_random_and_all_bands_together():
    pixels = np.stack([np.full((40, 40), 100, np.uint16), np.full((40, 40), 200, np.uint16)])
    one = PairDraw(ViewConfig(size_px=32, min_box_px=8))
    values = [int(one(Tile("a", pixels, {}), philox(k))["view1"].max()) for k in range(40)]
    assert set(values) == {100, 200}
    both = PairDraw(ViewConfig(size_px=32, min_box_px=8, bands="all"))(Tile("a", pixels, {}), philox(1))
    assert both["view2"].shape == (2, 32, 32)
    assert both["view2"].max(axis=(1, 2)).tolist() == [100, 200]


def test_views_never_change_between_releases():
    tile = Tile("a", (np.arange(64 * 64).reshape(1, 64, 64) + 1).astype(np.uint16), {})
    drawn = PairDraw(ViewConfig(size_px=32, min_box_px=8, boxes=2))(tile, philox(11))
    assert drawn["view1"][0, 0, :4].tolist() == GOLDEN_ROW
    np.testing.assert_allclose(drawn["boxes1"], GOLDEN_BOXES, atol=1e-3)


GOLDEN_ROW = [795, 793, 791, 789]
GOLDEN_BOXES = [[2.46, 3.0, 24.46, 13.0], [2.46, 1.0, 13.46, 12.0]]


def test_box_kernel_is_far_faster_than_the_plain_loop():
    state, rng = np.array([3], np.uint64), random.Random(3)

    def best(work) -> float:
        times = []
        for _ in range(5):
            begun = time.perf_counter()
            for _ in range(40):
                work()
            times.append(time.perf_counter() - begun)
        return min(times)

    draw_boxes(state, 280, 330, 10, 32, 0.5, 50)
    fast = best(lambda: draw_boxes(state, 280, 330, 10, 32, 0.5, 50))
    slow = best(lambda: reference.draw_boxes(rng, 280, 330, 10, 32, 0.5, 50))
    assert slow / fast > 10  # 48 on an idle core
