"""What is asked of a tile, counted by hand."""

import math

import numpy as np
import pytest
import torch
from labelled_corpus import LEGEND

from finetune.config import TargetConfig, TaskConfig
from finetune.legend import Legend
from finetune.targets import (
    CHANGE_LEGEND,
    class_counts,
    enough,
    pixel_values,
    target_moments,
    task_legend,
    tile_class,
    tile_classes,
    tile_values,
    value_table,
)
from infra.errors import UsageError

WATER = Legend.model_validate(LEGEND)
THREE = Legend.model_validate(
    {"classes": [{"id": i, "name": n, "colour": [i, i, i]} for i, n in ((10, "forest"), (20, "field"), (90, "lake"))]}
)
PAIRS = (("a", "b"),)


def tiles(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.uint8).reshape(len(rows), 2, -1)


LABEL = tiles([0, 0, 0, 1, 1, 2, 2, 255], [2] * 3 + [255] * 5, [255] * 8, [1, 1, 1, 1, 0, 0, 0, 0])


def test_counts_shares_and_the_commonest_class():
    assert class_counts(LABEL, 3).tolist() == [[3, 2, 2], [0, 0, 3], [0, 0, 0], [4, 4, 0]]
    task = TaskConfig(kind="classification", labelled_share=0.5)
    assert enough(LABEL, task).tolist() == [True, False, False, True]
    assert tile_class(LABEL, THREE, task).tolist() == [0, 255, 255, 0], "of equals the first"
    few = TaskConfig(kind="classification", labelled_share=0.0)
    assert tile_class(LABEL, THREE, few).tolist() == [0, 2, 255, 0], "a tile without a label never has an answer"


def test_classes_with_their_share():
    task = TaskConfig(kind="multilabel", present_share=0.3)
    assert tile_classes(LABEL, THREE, task).tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0], [1, 1, 0]]
    low = TaskConfig(kind="multilabel", present_share=0.0)
    assert tile_classes(LABEL, THREE, low).tolist() == [[1, 1, 1], [0, 0, 1], [0, 0, 0], [1, 1, 0]]


def test_a_tile_has_changed_where_the_change_has_its_share():
    label = tiles([0] * 7 + [1], [0] * 6 + [1, 255], [255] * 8)
    for share, expected in ((0.125, [1, 1, 255]), (0.13, [0, 1, 255]), (0.2, [0, 0, 255])):
        task = TaskConfig(kind="change", level="tile", pairs=PAIRS, present_share=share)
        assert tile_class(label, WATER, task).tolist() == expected
    turned = WATER.model_copy(update={"background": 1})
    task = TaskConfig(kind="change", level="tile", pairs=PAIRS, present_share=0.9)
    assert tile_class(label, turned, task).tolist() == [1, 1, 255], "0.875 and 6 of 7 are not land enough"


def test_classes_become_numbers_in_three_ways():
    assert value_table(THREE, TargetConfig(share_of=("forest", "lake"))).tolist() == [1, 0, 1]
    assert value_table(THREE, TargetConfig(linear=(-5.0, 0.5))).tolist() == [0, 5, 40]
    values = value_table(THREE, TargetConfig(values={"forest": 120.0, "field": 15.5}))
    assert values[:2].tolist() == [120, 15.5]
    assert math.isnan(values[2])
    found = pixel_values(LABEL[0], values)
    assert found.shape == (2, 4)
    assert found[0].tolist() == [120, 120, 120, 15.5]
    assert found[1].isnan().tolist() == [False, True, True, True]
    with pytest.raises(UsageError, match="names lakes; the corpus has forest, field, lake"):
        value_table(THREE, TargetConfig(values={"lakes": 1}))


def test_a_tiles_number_is_the_mean_of_its_pixels():
    table = value_table(THREE, TargetConfig(values={"forest": 120.0, "field": 15.5}))
    task = TaskConfig(kind="regression", level="tile", target=TargetConfig(values={"forest": 1}), labelled_share=0.6)
    found = tile_values(LABEL, table, task).tolist()
    assert found[0] == pytest.approx((3 * 120 + 2 * 15.5) / 5)
    assert math.isnan(found[1])
    assert math.isnan(found[2])
    assert found[3] == pytest.approx((4 * 120 + 4 * 15.5) / 8)


def test_moments_of_the_target():
    labels = [np.asarray(one) for one in LABEL]
    table = value_table(THREE, TargetConfig(linear=(0, 1)))
    pixels = TaskConfig(kind="regression", target=TargetConfig(linear=(0, 1)))
    values = np.array([10] * 7 + [20] * 6 + [90] * 5)
    assert target_moments(labels, table, pixels) == pytest.approx((values.mean(), values.std()))
    whole = TaskConfig(kind="regression", level="tile", target=TargetConfig(linear=(0, 1)))
    means = np.array([(30 + 40 + 180) / 7, 15.0])
    assert target_moments(labels, table, whole) == pytest.approx((means.mean(), means.std()), rel=1e-5)
    assert target_moments([np.zeros((2, 2), np.uint8)], table, pixels) == (10, 1), "nothing varies"
    with pytest.raises(UsageError, match="no label of the training scenes has a value"):
        target_moments([np.full((2, 2), 255, np.uint8)], table, pixels)


def test_tasks_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="needs one of target"):
        TaskConfig(kind="regression")
    with pytest.raises(ValueError, match="found 2"):
        TaskConfig(kind="regression", target=TargetConfig(values={"a": 1}, share_of=("a",)))
    with pytest.raises(ValueError, match=r"change needs task\.pairs"):
        TaskConfig(kind="change")
    flat = TaskConfig(kind="change", pairs=["a", "b", "c", "d"])
    assert flat.pairs == (("a", "b"), ("c", "d")), "as a command line gives them"
    with pytest.raises(ValueError, match="pairs"):
        TaskConfig(kind="change", pairs=["a", "b", "c"])
    whole = TaskConfig(kind="change", level="tile", pairs=PAIRS)
    with pytest.raises(UsageError, match="needs a legend of two classes"):
        task_legend(THREE, whole)
    assert task_legend(WATER, whole) == WATER
    assert task_legend(THREE, TaskConfig(kind="change", pairs=PAIRS, changed="differs")) == CHANGE_LEGEND
