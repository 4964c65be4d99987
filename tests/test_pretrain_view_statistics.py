"""The kernels draw from the distribution of the plain loops, and from that measured for the published code."""

import random

import box_reference as reference
import numpy as np
import pytest
from scipy import stats

from pretrain.views import draw_boxes, draw_crop, draw_pair, shared_ground

SIZE, SMALLEST, BOXES = 448, 32, 10
GOLDEN_RATIO = 0x9E3779B97F4A7C15
LEAST_P = 1e-3


def fast_pairs(count: int, rows: int, columns: int, mixed: bool = False):
    """Crops (count, 2, 5) and boxes of both views (count, 2, 10, 4)."""
    drawn = [
        draw_pair(np.uint64(k), rows, columns, SIZE, 0.2, 1.0, 0.75, 4 / 3, 0.5, BOXES, SMALLEST, 0.5, 50, 0.0, 0.0,
                  mixed)
        for k in range(count)
    ]  # fmt: skip
    return np.array([d[0] for d in drawn]), np.array([d[1:] for d in drawn])


def plain_pairs(count: int, rows: int, columns: int):
    rng = random.Random(1)
    drawn = [reference.draw_pair(rng, rows, columns, SIZE, BOXES, SMALLEST) for _ in range(count)]
    return np.array([d[0] for d in drawn]), np.array([d[1:3] for d in drawn]), np.array([d[3] for d in drawn])


def same_distribution(one: np.ndarray, other: np.ndarray) -> float:
    return float(stats.ks_2samp(one, other).pvalue)


def same_shares(one: np.ndarray, other: np.ndarray) -> float:
    kinds = np.unique(np.concatenate([one, other]))
    table = [[(x == kind).sum() for kind in kinds] for x in (one, other)]
    rare = np.sum(table, 0) < 20
    table = np.concatenate([np.array(table)[:, ~rare], np.array(table)[:, rare].sum(1, keepdims=True)], 1)
    return float(stats.chi2_contingency(table[:, table.sum(0) > 0]).pvalue)


@pytest.mark.parametrize(
    ("count", "rows", "columns"),
    [(1500, 512, 512), pytest.param(20_000, 512, 512, marks=pytest.mark.slow),
     pytest.param(20_000, 300, 700, marks=pytest.mark.slow)],
)  # fmt: skip
def test_pairs_and_boxes_have_the_distribution_of_the_plain_loop(count: int, rows: int, columns: int):
    crops, boxes = fast_pairs(count, rows, columns)
    plain_crops, plain_boxes, _ = plain_pairs(count, rows, columns)
    chances = {}
    for view in (0, 1):
        for column, name in enumerate("yxhw"):
            chances[f"crop {view} {name}"] = same_distribution(crops[:, view, column], plain_crops[:, view, column])
        # Boxes of one pair depend on each other: take one of each pair, in turn.
        one, other = (b[np.arange(count), view, np.arange(count) % BOXES] for b in (boxes, plain_boxes))
        sizes, plain_sizes = one[:, 2:] - one[:, :2], other[:, 2:] - other[:, :2]
        for column in range(2):
            chances[f"box {view} start {column}"] = same_distribution(one[:, column], other[:, column])
            chances[f"box {view} size {column}"] = same_distribution(sizes[:, column], plain_sizes[:, column])
    flips = crops[:, :, 4] @ [1, 2], plain_crops[:, :, 4] @ [1, 2]
    chances["flips"] = same_shares(*flips)
    assert len(chances) == 17
    assert min(chances.values()) > LEAST_P, chances


@pytest.mark.parametrize("count", [1500, pytest.param(20_000, marks=pytest.mark.slow)])
def test_boxes_take_as_many_tries_as_in_the_plain_loop(count: int):
    tries, plain_tries = [], []
    rng = random.Random(2)
    drawn = 0
    original = reference.draw_box

    def counting(*arguments):
        nonlocal drawn
        drawn += 1
        return original(*arguments)

    inverse = pow(GOLDEN_RATIO, -1, 2**64)
    state = np.array([7], np.uint64)
    reference.draw_box = counting
    try:
        for _ in range(count):
            drawn = 0
            reference.draw_boxes(rng, 260, 200, BOXES, SMALLEST, 0.5, 50)
            plain_tries.append(drawn)
            before = int(state[0])
            draw_boxes(state, 260, 200, BOXES, SMALLEST, 0.5, 50)
            # The state grows by a constant with every number, and a try takes eight.
            tries.append((int(state[0]) - before) * inverse % 2**64 / 8)
    finally:
        reference.draw_box = original
    assert min(tries) >= BOXES
    assert np.mean(tries) == pytest.approx(np.mean(plain_tries), rel=0.02)
    assert same_shares(np.array(tries), np.array(plain_tries)) > LEAST_P


def test_pairs_without_room_for_boxes_are_as_rare_as_measured():
    state = np.array([3], np.uint64)
    apart = small = 0
    count = 60_000
    for _ in range(count):
        a, b = (draw_crop(state, 512, 512, 0.2, 1.0, 0.75, 4 / 3, 0.5) for _ in range(2))
        width, height = shared_ground(a, b, SIZE)[2:]
        apart += width == 0
        small += width > 0 and (width <= SMALLEST or height <= SMALLEST)
    assert 0.0002 < apart / count < 0.0008  # 0.03 to 0.06 % were measured
    assert 0.0002 < small / count < 0.0013  # 0.03 to 0.11 %


@pytest.mark.slow
def test_twenty_thousand_pairs_have_the_published_sizes():
    crops, boxes = fast_pairs(20_000, 512, 512)
    y, x, h, w, _ = crops.transpose(2, 0, 1)
    across = np.minimum(*(x + w).T) - np.maximum(*x.T)
    down = np.minimum(*(y + h).T) - np.maximum(*y.T)
    both = across.clip(0) * down.clip(0)
    iou = both / ((h * w).sum(1) - both)
    assert iou.mean() == pytest.approx(0.507, abs=0.004)
    assert np.median(iou) == pytest.approx(0.50, abs=0.006)
    assert np.percentile(iou, 10) == pytest.approx(0.27, abs=0.01)
    widths = boxes[:, 0, :, 2] - boxes[:, 0, :, 0]
    heights = boxes[:, 0, :, 3] - boxes[:, 0, :, 1]
    assert widths.mean() == pytest.approx(73, abs=1)
    assert np.median(widths) == pytest.approx(50, abs=1)
    assert (widths * heights / SIZE**2).mean() == pytest.approx(0.027, abs=0.0007)
    assert np.median(widths * heights / SIZE**2) == pytest.approx(0.015, abs=0.0005)


def tight_share(boxes: np.ndarray) -> float:
    """Pairs of boxes of one view that overlap by half or more."""
    left, top, right, bottom = boxes.transpose(2, 0, 1)[..., None]
    across = np.minimum(right, right.transpose(0, 2, 1)) - np.maximum(left, left.transpose(0, 2, 1))
    down = np.minimum(bottom, bottom.transpose(0, 2, 1)) - np.maximum(top, top.transpose(0, 2, 1))
    both = across.clip(0) * down.clip(0)
    area = (right - left) * (bottom - top)
    one, other = np.triu_indices(boxes.shape[1], 1)
    iou = both / (area + area.transpose(0, 2, 1) - both)
    return float((iou[:, one, other] >= 0.5).mean())


def test_mixed_frames_let_through_as_many_tight_pairs_as_the_published_code():
    same, mixed = (tight_share(fast_pairs(4000, 512, 512, mixed)[1][:, 0]) for mixed in (False, True))
    assert same < 2e-4
    assert mixed == pytest.approx(0.0022, abs=0.0007)  # 0.22 % were measured
