"""Scores of regressions and of pictures with several classes against scikit-learn; parts add up."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from finetune.scores_multilabel import average_precision, multilabel_scores
from finetune.scores_regression import RegressionSums, regression_scores


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_regression_scores_equal_scikit_learn(offset):
    rng = np.random.default_rng(0)
    truth = offset + rng.normal(50, 20, (40, 25))
    predicted = 5 + 0.9 * (truth - offset) + offset + rng.normal(0, 6, truth.shape)
    found = regression_scores(truth, predicted)
    t, p = truth.ravel(), predicted.ravel()
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(t, p), rel=1e-9)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(t, p), rel=1e-9)
    assert found["r2"] == pytest.approx(sk.r2_score(t, p), rel=1e-9)
    assert found["bias"] == pytest.approx((p - t).mean(), abs=1e-9)
    assert found["pearson"] == pytest.approx(np.corrcoef(t, p)[0, 1], rel=1e-9)
    assert found["values"] == 1000


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(0, 99))
def test_parts_add_up_like_the_whole(sizes, seed):
    rng = np.random.default_rng(seed)
    parts = [(rng.normal(1e4, 1, n), rng.normal(1e4, 2, n)) for n in sizes]
    total = sum((RegressionSums.of(*part) for part in parts), RegressionSums())
    whole = regression_scores(*(np.concatenate(side) for side in zip(*parts, strict=True)))
    assert total.scores() == pytest.approx(whole, rel=1e-9, nan_ok=True)


def test_what_was_not_measured_does_not_count_and_what_is_undefined_is_nan():
    found = regression_scores([1.0, math.nan, 3.0, 4.0], [1.0, 2.0, math.inf, 6.0])
    assert (found["values"], found["mae"], found["bias"]) == (2, 1, 1)
    assert math.isnan(regression_scores([2.0, 2.0], [1.0, 3.0])["r2"])
    assert math.isnan(regression_scores([], [])["rmse"])
    with pytest.raises(ValueError, match="prediction"):
        regression_scores([1.0], [1.0, 2.0])


@pytest.mark.parametrize("seed", range(4))
def test_multilabel_scores_equal_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    truth = rng.random((400, 7)) < np.array([0.5, 0.3, 0.2, 0.1, 0.05, 0.05, 0.02])
    truth[0] = True
    probability = np.round(np.clip(0.35 * truth + rng.random(truth.shape) * 0.6, 0, 1), 2)  # many are equal
    found = multilabel_scores(truth, probability, names="abcdefg")
    chosen = probability >= 0.5
    for mean in ("macro", "micro"):
        assert found[f"ap_{mean}"] == pytest.approx(sk.average_precision_score(truth, probability, average=mean))
        for name, score in (("f1", sk.f1_score), ("precision", sk.precision_score), ("recall", sk.recall_score)):
            expected = score(truth, chosen, average=mean, zero_division=np.nan)
            assert found[f"{name}_{mean}"] == pytest.approx(expected, rel=1e-12)
    assert found["ap/c"] == pytest.approx(sk.average_precision_score(truth[:, 2], probability[:, 2]))


def test_a_class_without_positives_is_left_out_of_the_mean():
    truth = np.array([[1, 0, 0], [0, 0, 1], [1, 0, 0]])
    probability = np.array([[0.9, 0.1, 0.8], [0.2, 0.2, 0.1], [0.7, 0.6, 0.3]])
    found = multilabel_scores(truth, probability)
    assert found["ap_macro"] == pytest.approx((1 + 1 / 3) / 2)
    assert found["f1_macro"] == pytest.approx((1 + 0 + 0) / 3)
    assert found["recall_macro"] == pytest.approx((1 + 0) / 2)
    assert math.isnan(average_precision(np.zeros(3, bool), np.arange(3.0)))
    with_gap = np.vstack([probability, [np.nan, 0, 0]])
    assert multilabel_scores(np.vstack([truth, [1, 1, 1]]), with_gap) == found
    with pytest.raises(ValueError, match="other values than 0 and 1"):
        multilabel_scores([[2]], [[0.5]])
    with pytest.raises(ValueError, match="expected equal"):
        multilabel_scores([1], [0.5])
