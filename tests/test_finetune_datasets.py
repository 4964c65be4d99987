"""What is drawn from a labelled tile, and how scenes are divided."""

import numpy as np
import pytest
from labelled_corpus import LEGEND, SCENES, Scene, build

from finetune.config import CropConfig, TaskConfig
from finetune.datasets import LabelledCrop, balanced_weights, shared_ground, split_scenes
from finetune.legend import read_legend
from finetune.predict import labelled_scenes, scene_tiles, source_of
from finetune.tasks import answer_shares
from infra.errors import UsageError
from shards.feed import LocalFeed, generator
from shards.plan import Plan
from shards.tile import Tile

WATER = read_legend(LEGEND, "c")


def _tile(rows: int, cols: int, seed: int = 0) -> Tile:
    """Pixels that name their own place, and labels that follow from them."""
    place = 1 + np.arange(rows * cols, dtype=np.uint16).reshape(rows, cols)
    return Tile("t", np.stack([place, place]), {}, (place % 2).astype(np.uint8))


@pytest.mark.parametrize("seed", range(8))
def test_label_and_pixels_move_together(seed):
    draw = LabelledCrop(CropConfig(size=32), WATER)
    drawn = draw(_tile(64, 80), np.random.default_rng(seed))
    codes, label = drawn["codes"], drawn["label"]
    assert (codes.shape, codes.dtype, label.shape, label.dtype) == ((2, 32, 32), "uint16", (32, 32), "uint8")
    assert (codes[0] == codes[1]).all()
    assert (label == codes[0] % 2).all()
    row, col = np.divmod(codes[0].astype(int) - 1, 80)
    assert (np.ptp(row), np.ptp(col)) == (31, 31)


def test_every_place_and_all_eight_orientations_are_drawn():
    draw, tile = LabelledCrop(CropConfig(size=32), WATER), _tile(33, 34)
    seen, corners = set(), set()
    for seed in range(400):
        codes = draw(tile, np.random.default_rng(seed))["codes"][0].astype(int)
        row, col = np.divmod(codes - 1, 34)
        corners.add((int(row.min()), int(col.min())))
        seen.add(
            (
                int(np.sign(row[-1, 0] - row[0, 0])),
                int(np.sign(row[0, -1] - row[0, 0])),
                int(np.sign(col[-1, 0] - col[0, 0])),
                int(np.sign(col[0, -1] - col[0, 0])),
            )
        )
    assert corners == {(r, c) for r in range(2) for c in range(3)}
    assert len(seen) == 8
    still = LabelledCrop(CropConfig(size=32, flips=False, turns=False), WATER)
    assert all(np.diff(still(tile, np.random.default_rng(s))["codes"][0].astype(int)).min() == 1 for s in range(20))


def test_a_small_tile_is_filled_up_and_what_was_not_measured_is_unlabelled():
    tile = _tile(20, 40)
    tile.pixels[:, 5, 7] = 0
    tile.pixels[0, 6, 8] = 0  # one band measured: still labelled
    drawn = LabelledCrop(CropConfig(size=32, flips=False, turns=False), WATER)(tile, np.random.default_rng(0))
    assert (drawn["codes"][:, 20:] == 0).all()
    assert (drawn["label"][20:] == 255).all()
    assert (drawn["label"][:20] == 255).sum() == int((drawn["codes"][:, :20] == 0).all(0).sum())
    unlabelled = Tile("u", tile.pixels, {}, None)
    assert (LabelledCrop(CropConfig(size=32), WATER)(unlabelled, np.random.default_rng(0))["label"] == 255).all()


def test_the_feed_draws_only_from_the_chosen_scenes_and_equally_for_any_number_of_threads():
    corpus = build("memory://datasets-feed")
    tiles = corpus.select(scenes=["alpha", "gamma"], labelled=True)
    plan = Plan(corpus.shard_counts(tiles), 5, 4, 3, tiles)
    assert {corpus.tile(int(i)).meta["scene"] for s in range(4) for i in plan.tiles(s)} == {"alpha", "gamma"}
    draw = LabelledCrop(CropConfig(size=32), WATER)
    one, two = ([b.arrays for b in LocalFeed(corpus, plan, draw, threads=n).batches(0, 4)] for n in (1, 3))
    for step, (a, b) in enumerate(zip(one, two, strict=True)):
        assert (a["codes"] == b["codes"]).all()
        again = draw(corpus.tile(int(plan.tiles(step)[1])), generator(5, step, 1))
        assert (a["codes"][1] == again["codes"]).all()


def test_a_scene_comes_back_whole_from_its_tiles():
    corpus = build("memory://datasets-scene")
    scene = scene_tiles(corpus, "gamma")
    assert (scene.pixels(0, 0, 96, 128) == SCENES[2].codes).all()
    assert (scene.label(0, 0, 96, 128) == SCENES[2].label).all()
    with pytest.raises(UsageError, match=r"no scene 'omega'.*alpha, beta"):
        source_of(corpus, "omega")


def test_only_labelled_scenes_count():
    corpus = build("memory://datasets-labels", (SCENES[0], Scene("bare", 9, labelled=False), SCENES[1]))
    assert labelled_scenes(corpus) == ["alpha", "beta"]


def test_scenes_are_divided_by_name():
    assert split_scenes(["c", "a", "b", "a"], ["b"]) == (["a", "c"], ["b"])
    with pytest.raises(UsageError, match=r"no scene 'India_90049'.*did you mean India_900498"):
        split_scenes(["India_900498", "USA_905409"], ["India_90049"])
    with pytest.raises(UsageError, match="no scene is held out"):
        split_scenes(["a"], [])
    with pytest.raises(UsageError, match="all 2 scenes are held out"):
        split_scenes(["a", "b"], ["a", "b"])


def test_overlapping_ground_is_found():
    corpus = build("memory://datasets-ground", (*SCENES, Scene("again", 4)))
    pairs = shared_ground(corpus.manifest.sources, ["alpha", "again"], ["beta", "delta-held"])
    assert pairs == [("again", "delta-held")]


def test_weights_even_out_rare_classes():
    label = np.zeros((100, 100), np.uint8)
    label[:1] = 1
    label[50:] = 255
    shares = answer_shares([label], WATER, TaskConfig())
    assert shares.tolist() == [0.98, 0.02]
    weights = balanced_weights(shares)
    assert weights[1] / weights[0] == pytest.approx(7.0, rel=1e-6)
    assert (weights * shares).sum() == pytest.approx(1, rel=1e-6)
    assert balanced_weights(np.array([1.0, 0.0])).tolist() == [1.0, 0.0]
    with pytest.raises(UsageError, match="no label of the training scenes has an answer"):
        answer_shares([np.full((4, 4), 255, np.uint8)], WATER, TaskConfig())
