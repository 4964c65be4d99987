import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from infra.errors import UsageError
from ingest.legend import LabelRule, Legend, read_legend
from ingest.scene import SceneRejected

FLEVOLAND = {
    "ff0000": "stem beans",
    "8000ff": "peas",
    "008000": "forest",
    "00ffff": "lucerne",
    "ff80ff": "wheat",
    "800080": "beet",
    "ffff00": "potatoes",
    "808000": "bare soil",
    "00ff00": "grass",
    "ff8000": "rapeseed",
    "800000": "barley",
    "8080ff": "wheat 2",
    "80ff80": "wheat 3",
    "0000ff": "water",
    "ffc880": "buildings",
}


def flevoland() -> Legend:
    classes = [{"id": i, "name": n, "colour": f"#{c}"} for i, (c, n) in enumerate(FLEVOLAND.items())]
    return Legend.model_validate({"classes": classes, "ignore": "#ffffff"})


WATER = {"classes": [{"id": 0, "name": "land", "colour": [1, 2, 3]}, {"id": 1, "name": "water", "colour": "#0000ff"}]}


def test_real_ground_truth_colours_become_ids(shared_data):
    path = shared_data / "land_cover" / "flevoland_airsar" / "F15_GroundTruth.png"
    colours = np.moveaxis(np.asarray(Image.open(path).convert("RGB")), -1, 0)
    ids = LabelRule.of(flevoland(), None, ()).of_colours(colours, path.name)
    assert ids.shape == (736, 1024)
    for class_id, code in enumerate(FLEVOLAND):
        here = (colours == np.array(list(bytes.fromhex(code)))[:, None, None]).all(axis=0)
        assert here.any()
        np.testing.assert_array_equal(ids == class_id, here)
    assert (ids == 255).sum() == (colours == 255).all(axis=0).sum()


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_legend_file(tmp_path, suffix):
    path = tmp_path / f"legend.{suffix}"
    path.write_text(json.dumps({**WATER, "ignore": [-1, 7], "background": 0}))
    legend = read_legend(path)
    assert [(c.id, c.name, c.colour) for c in legend.classes] == [(0, "land", (1, 2, 3)), (1, "water", (0, 0, 255))]
    assert legend.ignore == (-1, 7)


def test_what_the_corpus_records_is_what_finetune_reads():
    from finetune.legend import Legend as Classes

    legend = Legend.model_validate({**WATER, "ignore": -1})
    recorded = legend.model_dump(mode="json")
    assert recorded == {
        "classes": [{"id": 0, "name": "land", "colour": [1, 2, 3]}, {"id": 1, "name": "water", "colour": [0, 0, 255]}]
    }
    assert Classes.model_validate(recorded).names == ("land", "water")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": []}, "classes: Tuple should have at least 2 items"),
        ({"classes": WATER["classes"] * 2}, "class id given twice: 0, 1"),
        ({"background": 5}, "background 5 is not one of the class ids"),
        ({"colours": {}}, "colours: Extra inputs"),
        ({"ignore": "white"}, "'white' is not a colour"),
        ({"classes": [{"id": 255, "name": "x", "colour": "#000000"}]}, "classes.0.id: Input should be less than 255"),
        ({"classes": [{"id": 1, "name": "x", "colour": "#00000"}]}, "'#00000' is not a colour, expected #rrggbb"),
        ({"classes": [{"id": 1, "name": "x", "colour": "#gg0000"}]}, "classes.0.colour"),
        ({"classes": [{"id": 1, "name": "x", "colour": [0, 0, 256]}]}, "classes.0.colour.2"),
    ],
)
def test_a_wrong_legend_is_named_by_field(tmp_path, change, message):
    path = tmp_path / "legend.json"
    path.write_text(json.dumps({**WATER, **change}))
    with pytest.raises(UsageError, match=message):
        read_legend(path)


@pytest.mark.parametrize("text", ["{", "", "[1]"])
def test_a_legend_that_is_none(tmp_path, text):
    for name in ("legend.json", "legend.yaml"):
        (tmp_path / name).write_text(text)
        with pytest.raises(UsageError, match=name):
            read_legend(tmp_path / name)
    with pytest.raises(UsageError, match="No such file"):
        read_legend(tmp_path / "absent.json")


def test_a_legend_cannot_change():
    with pytest.raises(ValidationError):
        flevoland().background = 1


def test_numbers_of_any_type_become_ids():
    rule = LabelRule.of(Legend.model_validate({**WATER, "ignore": -1}), None, (9,))
    for dtype in (np.int16, np.int32, np.float32, np.float64):
        ids = rule.of_numbers(np.array([[0, 1, -1], [9, 255, 1]], dtype), "x")
        assert ids.dtype == np.uint8
        assert ids.tolist() == [[0, 1, 255], [255, 255, 1]]
    assert rule.of_numbers(np.array([np.nan, 1.0, np.nan]), "x").tolist() == [255, 1, 255]


def test_a_map_goes_before_the_legend():
    rule = LabelRule.of(Legend.model_validate(WATER), {10: 0, 20: 1, 30: 255, "#ff0000": 1}, ())
    assert rule.of_numbers(np.array([10, 20, 30]), "x").tolist() == [0, 1, 255]
    assert rule.of_colours(np.array([[[255]], [[0]], [[0]]], np.uint8), "x").tolist() == [[1]]
    with pytest.raises(SceneRejected, match=r"a\.tif holds the label 1, which neither"):
        rule.of_numbers(np.array([1]), "a.tif")


@pytest.mark.parametrize(
    ("value", "words"), [(2, "label 2,"), (-1, "label -1,"), (0.5, r"label 0\.5,"), (256, "label 256,")]
)
def test_an_unknown_number_is_named(value, words):
    with pytest.raises(SceneRejected, match=words):
        LabelRule.of(Legend.model_validate(WATER), None, ()).of_numbers(np.array([value]), "a.tif")


def test_an_unknown_colour_is_named():
    with pytest.raises(SceneRejected, match="label #0a0b0c,"):
        LabelRule.of(flevoland(), None, ()).of_colours(np.array([[[10]], [[11]], [[12]]], np.uint8), "a.png")


@given(st.lists(st.integers(0, 255), min_size=1, max_size=50))
def test_without_a_legend_every_number_is_its_own_class(values):
    rule = LabelRule.of(None, None, ())
    assert rule.of_numbers(np.array(values, np.uint8), "x").tolist() == values
    with pytest.raises(SceneRejected):
        rule.of_numbers(np.array([*values, -1]), "x")


def test_the_simulated_land_has_a_legend_that_reads():
    from ingest.truth import legend

    assert Legend.model_validate(legend()).model_dump(mode="json") == legend()
