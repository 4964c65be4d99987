"""Legends: ids to outputs and back, and what a wrong legend says."""

import numpy as np
import pytest

from finetune.legend import IGNORED, read_legend
from infra.errors import UsageError

WATER = {
    "classes": [
        {"id": 10, "name": "land", "colour": [200, 180, 120]},
        {"id": 80, "name": "water", "colour": [0, 90, 200]},
    ],
    "background": 10,
}


def test_ids_become_outputs_and_come_back():
    legend = read_legend(WATER, "c")
    label = np.array([[10, 80, 255], [80, 80, 10]], np.uint8)
    output = legend.to_output(label)
    assert output.tolist() == [[0, 1, 255], [1, 1, 0]]
    assert (legend.to_id(output) == label).all()
    assert (legend.ids, legend.names, legend.background_output) == ((10, 80), ("land", "water"), 0)
    assert legend.colours()[80].tolist() == [0, 90, 200]
    assert legend.to_output(np.full((3, 3), IGNORED, np.uint8)).tolist() == [[255] * 3] * 3


def test_an_unknown_id_names_itself_and_the_legend():
    with pytest.raises(UsageError, match=r"ids \[3, 7\].*legend has \[10, 80\]"):
        read_legend(WATER, "c").to_output(np.array([10, 7, 3], np.uint8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "corpus s3://b/c has no legend"),
        ({"background": 3}, "background 3 is not one of"),
        ({"classes": WATER["classes"][:1]}, "classes"),
        ({"classes": [WATER["classes"][0]] * 2}, "class id given twice: 10"),
        ({"classes": [{"id": 255, "name": "x", "colour": [0, 0, 0]}, *WATER["classes"]]}, "classes.0.id"),
        ({"classes": [{"id": 1, "name": "x", "colour": [0, 0, 256]}, *WATER["classes"]]}, "classes.0.colour"),
        ({"clases": []}, "clases"),
    ],
)
def test_a_wrong_legend_is_refused(change, message):
    with pytest.raises(UsageError, match=message):
        read_legend(None if change is None else WATER | change, "s3://b/c")
