"""Scores against scikit-learn, and the identities they must keep."""

import json
import math

import numpy as np
import pytest
from sklearn import metrics as sk

from finetune.legend import Legend
from finetune.metrics import confusion_matrix, over_seeds, scores


def _legend(classes: int, background: int | None = 0) -> Legend:
    listed = [{"id": i, "name": f"c{i}", "colour": [i, i, i]} for i in range(classes)]
    return Legend.model_validate({"classes": listed, "background": background})


@pytest.mark.parametrize("seed", range(5))
def test_scores_equal_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    truth = rng.choice(6, 5000, p=[0.5, 0.2, 0.15, 0.1, 0.04, 0.01]).astype(np.uint8)
    predicted = np.where(rng.random(5000) < 0.7, truth, rng.integers(0, 6, 5000)).astype(np.uint8)
    matrix = confusion_matrix(truth, predicted, 6)
    assert (matrix == sk.confusion_matrix(truth, predicted)).all()
    found = scores(matrix, _legend(6))
    precision, recall, f1, support = sk.precision_recall_fscore_support(truth, predicted)
    iou = sk.jaccard_score(truth, predicted, average=None)
    assert [c.precision for c in found.classes] == pytest.approx(precision, rel=1e-12)
    assert [c.recall for c in found.classes] == pytest.approx(recall, rel=1e-12)
    assert [c.f1 for c in found.classes] == pytest.approx(f1, rel=1e-12)
    assert [c.iou for c in found.classes] == pytest.approx(iou, rel=1e-12)
    assert [c.pixels for c in found.classes] == support.tolist()
    assert found.oa == pytest.approx(sk.accuracy_score(truth, predicted), rel=1e-12)
    assert found.kappa == pytest.approx(sk.cohen_kappa_score(truth, predicted), rel=1e-12)
    assert found.miou == pytest.approx(iou.mean(), rel=1e-12)
    assert found.miou_no_background == pytest.approx(iou[1:].mean(), rel=1e-12)
    assert found.mf1_no_background == pytest.approx(f1[1:].mean(), rel=1e-12)
    assert all(c.iou == pytest.approx(c.f1 / (2 - c.f1), rel=1e-12) for c in found.classes)


def test_the_parts_of_a_scene_add_up_and_255_never_counts():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (40, 50), dtype=np.uint8)
    predicted = rng.integers(0, 3, (40, 50), dtype=np.uint8)
    truth[rng.random(truth.shape) < 0.3] = 255
    predicted[:, :5] = 255
    whole = confusion_matrix(truth, predicted, 3)
    parts = sum(confusion_matrix(truth[r : r + 7], predicted[r : r + 7], 3) for r in range(0, 40, 7))
    assert (whole == parts).all()
    assert whole.sum() == ((truth != 255) & (predicted != 255)).sum()


def test_a_wrong_pixel_of_a_class_that_is_not_there_costs_a_class_only_where_that_is_said():
    found = scores(np.array([[90, 9, 1], [0, 100, 0], [0, 0, 0]]), _legend(3))
    present = (90 / 100 + 100 / 109) / 2
    assert found.miou_present == pytest.approx(present)
    assert found.miou == pytest.approx(present * 2 / 3)


def test_an_easy_background_lifts_the_mean_and_is_left_out():
    matrix = np.array([[9900, 50, 50], [50, 50, 0], [50, 0, 50]])
    found = scores(matrix, _legend(3))
    assert found.miou == pytest.approx((9900 / 10100 + 2 * 50 / 150) / 3)
    assert found.miou_no_background == pytest.approx(1 / 3)
    assert found.miou_present == found.miou
    assert scores(matrix, _legend(3, background=None)).miou_no_background == found.miou


def test_a_class_that_never_occurs_is_undefined_and_one_only_predicted_scores_zero():
    found = scores(np.array([[8, 2, 0], [0, 0, 0], [0, 0, 0]]), _legend(3, None))
    assert (found.classes[1].f1, found.classes[1].iou, found.classes[1].precision) == (0, 0, 0)
    assert math.isnan(found.classes[1].recall)
    assert math.isnan(found.classes[2].f1)
    assert found.miou == pytest.approx((0.8 + 0) / 2)
    assert json.dumps(found.flat(), allow_nan=False).count("null") == 5
    empty = scores(np.zeros((3, 3), np.int64), _legend(3))
    assert (empty.pixels, empty.flat()["oa"], empty.flat()["kappa"]) == (0, None, None)


def test_seeds_are_summarised_by_mean_and_sample_deviation():
    spread = over_seeds([{"oa": 0.5, "x": None}, {"oa": 0.7, "x": 0.2}, {"oa": 0.9, "x": 0.4}])
    assert (spread["oa"].mean, spread["oa"].std, spread["oa"].runs) == pytest.approx((0.7, 0.2, 3))
    assert (spread["x"].mean, spread["x"].runs) == (pytest.approx(0.3), 2)
    assert over_seeds([{"oa": 0.5}])["oa"].std is None


def test_shapes_and_ids_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(2,\) and the prediction \(3,\)"):
        confusion_matrix(np.zeros(2, np.uint8), np.zeros(3, np.uint8), 2)
    with pytest.raises(ValueError, match="beyond the 2 classes"):
        confusion_matrix(np.full(2, 2, np.uint8), np.zeros(2, np.uint8), 2)
