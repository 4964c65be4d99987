"""A scene seen through a filter: no cut changes a pixel, and what concerns the whole scene is found once."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scenes import ArrayScene
from speckle_reference import speckled

from ingest.despeckle import Despeckled
from ingest.recipe import SpeckleRules
from ingest.scene import SceneRejected, Window
from ingest.speckle import filter_power

KINDS = ["none", "boxcar", "lee", "enhanced-lee", "refined-lee", "lee-sigma", "kuan", "frost", "enhanced-frost",
         "gamma-map"]  # fmt: skip
ROWS, COLS = 150, 190


@pytest.fixture(scope="module")
def scenes():
    """Each filter's scene twice: to be read by windows, and read at once."""
    power = speckled((2, ROWS, COLS), seed=9)
    power[0, 70:72, 80:90] = np.inf
    out = {}
    for kind in KINDS:
        scene = Despeckled(ArrayScene(power), SpeckleRules(kind=kind, damping=1.5, looks="estimate"))
        out[kind] = scene, scene.power(Window(0, 0, ROWS, COLS))
    return out


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_any_layout_of_windows_gives_the_same_pixels_bit_for_bit(scenes, data) -> None:
    scene, whole = scenes[data.draw(st.sampled_from(KINDS))]
    rows = data.draw(st.lists(st.integers(1, ROWS - 1), max_size=2, unique=True))
    cols = data.draw(st.lists(st.integers(1, COLS - 1), max_size=2, unique=True))
    tops, lefts = [0, *sorted(rows), ROWS], [0, *sorted(cols), COLS]
    windows = [
        Window(top, left, bottom - top, right - left)
        for top, bottom in pairwise(tops)
        for left, right in pairwise(lefts)
    ]
    for row, col, height, width in data.draw(st.permutations(windows)):
        found = scene.power(Window(row, col, height, width))
        expected = whole[:, row : row + height, col : col + width]
        np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


def test_a_fresh_reader_of_one_window_gives_the_same_pixels(scenes) -> None:
    """A worker that sees one tile only finds the same looks and the same bright level."""
    for kind in ("lee", "lee-sigma"):
        scene, whole = scenes[kind]
        fresh = Despeckled(ArrayScene(scene._scene.pixels), SpeckleRules(kind=kind, damping=1.5, looks="estimate"))
        assert fresh.info.looks == scene.info.looks
        np.testing.assert_array_equal(fresh.power(Window(101, 57, 20, 30)), whole[:, 101:121, 57:87])


def test_lee_sigma_takes_its_level_from_the_whole_scene() -> None:
    rng = np.random.default_rng(7)
    power = (0.01 * rng.gamma(4, 0.25, (1, 200, 300))).astype(np.float32)
    power[:, :, 150:] *= 50  # a town: within a tile of sea or of town alone other pixels would be bright
    everything = Window(0, 0, 200, 300)
    scene = Despeckled(ArrayScene(power), SpeckleRules(kind="lee-sigma", looks=4.0))
    level = float(np.percentile(power, 98))
    np.testing.assert_array_equal(scene.power(everything), filter_power(power, "lee-sigma", 7, 4.0, bright=[level]))


def test_looks_are_those_of_the_rules_of_the_scene_or_measured() -> None:
    power = np.random.default_rng(0).gamma(3, 1 / 3, (1, 300, 300)).astype(np.float32)

    def looks(rules: SpeckleRules, stated: float) -> float:
        return Despeckled(ArrayScene(power, looks=stated), rules).info.looks

    assert looks(SpeckleRules(kind="lee", looks=2.0), 4.4) == 2.0
    assert looks(SpeckleRules(kind="lee"), 4.4) == 4.4
    assert looks(SpeckleRules(kind="lee", looks="estimate"), 4.4) == pytest.approx(3, rel=0.05)
    assert looks(SpeckleRules(kind="none", looks="estimate"), 4.4) == pytest.approx(3, rel=0.05)
    assert looks(SpeckleRules(kind="lee"), float("nan")) == pytest.approx(3, rel=0.05)
    for kind in ("none", "boxcar", "frost"):
        scene = Despeckled(ArrayScene(power, looks=float("nan")), SpeckleRules(kind=kind))
        assert np.isnan(scene.info.looks)
        assert np.isfinite(scene.power(Window(0, 0, 50, 50))).all()


def test_filters_that_need_nothing_read_nothing_beforehand() -> None:
    scene = ArrayScene(speckled((1, 60, 60)))
    Despeckled(scene, SpeckleRules(kind="gamma-map"))
    assert scene.reads == 0


def test_a_scene_that_tells_nothing_is_rejected() -> None:
    scene = ArrayScene(np.full((1, 100, 100), np.nan, np.float32), looks=float("nan"))
    with pytest.raises(SceneRejected, match="give it"):
        Despeckled(scene, SpeckleRules(kind="lee"))


def test_wrong_rules_are_refused() -> None:
    for wrong, words in [
        ({"kind": "lee", "size": 6}, "no middle"),
        ({"kind": "refined-lee", "size": 9}, "7 x 7 only"),
        ({"kind": "lee-sigma", "sigma": 0.95}, "tables for"),
        ({"kind": "lee", "looks": 0}, "greater than 0"),
        ({"kind": "leee"}, "gamma-map"),
    ]:
        with pytest.raises(ValidationError, match=words):
            SpeckleRules(**wrong)
