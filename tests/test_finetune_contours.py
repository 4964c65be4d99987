"""Contours and centre lines against definitions written down pixel by pixel."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import f1_score

from finetune.contours import (
    LineScore,
    Matched,
    boundary_match,
    boundary_match_rows,
    contour,
    line_match,
    within,
)
from finetune.thinning import thin


def _labels(seed: int, shape=(40, 50), classes: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=(classes, *shape)), (0, 3, 3))
    labels = field.argmax(0).astype(np.uint8)
    labels[rng.random(shape) < 0.02] = 255
    labels[:4, :6] = 255
    return labels


def _naive_contour(labels: np.ndarray, k: int) -> np.ndarray:
    out = np.zeros(labels.shape, bool)
    for r, c in np.argwhere(labels == k):
        for y, x in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
            if 0 <= y < labels.shape[0] and 0 <= x < labels.shape[1] and labels[y, x] not in (k, 255):
                out[r, c] = True
    return out


def _naive_near(line: np.ndarray, other: np.ndarray, distance: float) -> int:
    a, b = np.argwhere(line), np.argwhere(other)
    if not len(a) or not len(b):
        return 0
    return int((((a[:, None] - b[None]) ** 2).sum(-1).min(1) <= distance**2).sum())


@pytest.mark.parametrize("tolerance", [0, 1, 1.5, 2, 5])
def test_boundary_scores_equal_the_definition(tolerance):
    truth, predicted = _labels(1), _labels(2)
    predicted[20:] = truth[20:]
    predicted[predicted == 255] = 0
    found = boundary_match(truth, predicted, 3, tolerance)
    masked = np.where(truth == 255, 255, predicted)
    for k in range(3):
        t, p = _naive_contour(truth, k), _naive_contour(masked, k)
        assert (contour(truth, k) == t).all()
        assert found[k] == Matched(t.sum(), _naive_near(t, p, tolerance), p.sum(), _naive_near(p, t, tolerance))
        far = ndimage.distance_transform_edt(~t)
        assert found[k].correctness == pytest.approx((far[p] <= tolerance).mean())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.sampled_from([1, 2, 4]), st.integers(0, 9))
def test_strips_never_change_the_counts(heights, tolerance, seed):
    rows = sum(heights)
    truth, predicted = _labels(seed, (max(rows, 8), 24)), _labels(seed + 50, (max(rows, 8), 24))
    truth, predicted = truth[:rows], predicted[:rows]
    at = np.cumsum([0, *heights])
    parts = [(truth[a:b], predicted[a:b]) for a, b in itertools.pairwise(at)]
    expected = boundary_match(truth, predicted, 3, tolerance)
    assert boundary_match_rows(parts, 3, tolerance) == expected
    from finetune.contours import _with_margins

    counted = sum(len(t[inside]) for t, _, inside in _with_margins(parts, tolerance + 1, least=4))
    assert counted == rows


def test_strips_with_margins_match_the_whole():
    from finetune.contours import _with_margins, match

    truth, predicted = _labels(3, (300, 30)), _labels(4, (300, 30))
    whole = match(contour(truth, 1), contour(predicted, 1), 3)
    parts = [(truth[r : r + 7], predicted[r : r + 7]) for r in range(0, 300, 7)]
    total, most = Matched(), 0
    for t, p, inside in _with_margins(parts, 4, least=10):
        total += match(contour(t, 1), contour(p, 1), 3, inside)
        most = max(most, len(t))
    assert total == whole
    assert most <= 40


def test_perfect_shifted_and_missing_contours():
    truth = np.zeros((30, 30), np.uint8)
    truth[10:20, 10:20] = 1
    shifted = np.roll(truth, 2, axis=1)
    assert boundary_match(truth, truth, 2, 0)[1].f1 == 1
    assert boundary_match(truth, shifted, 2, 2)[1].f1 == 1
    assert boundary_match(truth, shifted, 2, 1)[1].f1 < 0.6
    none = boundary_match(truth, np.zeros_like(truth), 2, 2)[1]
    assert (none.f1, none.completeness, math.isnan(none.correctness)) == (0, 0, True)
    assert math.isnan(boundary_match(truth * 0, truth * 0, 2, 2)[1].f1)


def _naive_thin(mask: np.ndarray) -> np.ndarray:
    """Zhang and Suen, pixel by pixel."""
    image = np.pad(mask.astype(int), 1)
    changed = True
    while changed:
        changed = False
        for half in (0, 1):
            gone = []
            for r, c in np.argwhere(image == 1):
                p = [
                    image[r - 1, c], image[r - 1, c + 1], image[r, c + 1], image[r + 1, c + 1],
                    image[r + 1, c], image[r + 1, c - 1], image[r, c - 1], image[r - 1, c - 1],
                ]  # fmt: skip
                rises = sum(a == 0 and b == 1 for a, b in zip(p, [*p[1:], p[0]], strict=True))
                p2, p4, p6, p8 = p[0], p[2], p[4], p[6]
                products = (p2 * p4 * p6, p4 * p6 * p8) if half == 0 else (p2 * p4 * p8, p2 * p6 * p8)
                if 2 <= sum(p) <= 6 and rises == 1 and products == (0, 0):
                    gone.append((r, c))
            for r, c in gone:
                image[r, c] = 0
            changed |= bool(gone)
    return image[1:-1, 1:-1].astype(bool)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.5, 2.5), st.floats(-0.3, 0.5))
def test_thinning_equals_the_paper_pixel_by_pixel(seed, smooth, level):
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(24, 30)), smooth)
    mask = field > level * field.std()
    assert (thin(mask) == _naive_thin(mask)).all()


def test_thinning_keeps_pieces_together_and_leaves_lines_alone():
    mask = np.zeros((60, 80), bool)
    mask[20:27, 5:75] = True
    mask[5:55, 38:43] = True
    line = thin(mask)
    assert ndimage.label(line, np.ones((3, 3)))[1] == 1
    assert line.sum() == pytest.approx(70 + 50 - 7 - 5, abs=6)
    assert (thin(line) == line).all()
    assert not thin(np.zeros((0, 5), bool)).size


@pytest.mark.parametrize("centre_lines", [True, False])
def test_road_scores_equal_wiedemann_pixel_by_pixel(centre_lines):
    rng = np.random.default_rng(0)
    truth = ndimage.gaussian_filter(rng.normal(size=(50, 60)), 2.5) > 0.12
    predicted = np.roll(truth, (1, 2), (0, 1)) & ~(rng.random((50, 60)) < 0.01)
    found = line_match(truth, predicted, 3, centre_lines=centre_lines)
    t, p = (_naive_thin(truth), _naive_thin(predicted)) if centre_lines else (truth, predicted)
    tp, fp, fn = _naive_near(p, t, 3), p.sum() - _naive_near(p, t, 3), t.sum() - _naive_near(t, p, 3)
    assert found.completeness == pytest.approx(1 - fn / t.sum())
    assert found.correctness == pytest.approx(tp / (tp + fp))
    assert found.quality == pytest.approx(tp / (tp + fp + fn))


def test_without_buffer_the_road_scores_are_those_of_pixels():
    rng = np.random.default_rng(1)
    truth, predicted = rng.random((2, 30, 30)) < 0.3
    found = line_match(truth, predicted, 0, centre_lines=False)
    assert found.f1 == pytest.approx(f1_score(truth.ravel(), predicted.ravel()))
    assert found.quality == pytest.approx((truth & predicted).sum() / (truth | predicted).sum())
    assert not within(np.zeros((3, 3), bool), 5).any()


def test_lines_of_strips_equal_lines_of_scenes():
    truth, predicted = _labels(5, (90, 33), 2), _labels(6, (90, 33), 2)
    score, total = LineScore(1, 2.0), Matched()
    for first, last in ((0, 50), (50, 90)):  # two scenes of 50 and 40 rows
        for r in range(first, last, 10):
            score.add(truth[r : r + 10], predicted[r : r + 10])
        total += score.finish()
    expected = sum(
        (line_match(truth[a:b] == 1, (predicted[a:b] == 1) & (truth[a:b] != 255), 2.0) for a, b in ((0, 50), (50, 90))),
        Matched(),
    )
    assert total == expected
    assert score.finish() == Matched()
    with pytest.raises(ValueError, match="prediction"):
        line_match(np.zeros((2, 2), bool), np.zeros((3, 2), bool), 1)
