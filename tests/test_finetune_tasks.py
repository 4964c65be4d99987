"""Every task on small simulated scenes: what it learns, how it is scored, and what is left behind."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from labelled_corpus import LEGEND, SCALE, SCENES, Scene, build
from small_encoder import SmallEncoder

from finetune.change import PairCrop, pair_numbers, pair_scene, pair_tile, split_pairs
from finetune.classifier import ClassificationLearner, TileNet
from finetune.config import CropConfig, DecoderConfig, FinetuneRun, LossConfig, TargetConfig, TaskConfig
from finetune.datasets import LabelledCrop
from finetune.evaluate import Scorer, scored_scenes
from finetune.fit import CARD_TEXT, MODEL, SCORES, fit
from finetune.legend import Legend
from finetune.model import load_network
from finetune.predict import predictor, scene_tiles
from finetune.regressor import RegressionLearner, Regressor
from finetune.segmenter import SegmentationLearner, Segmenter
from finetune.start import RANDOM, Start, open_task
from finetune.targets import value_table
from finetune.value_strips import value_strips
from infra.errors import UsageError
from infra.store import open_store
from infra.world import World
from pretrain.config import InputSpec
from shards.tile import Tile

WATER = Legend.model_validate(LEGEND)
SPEC = InputSpec(bands=2)
HEAD = DecoderConfig(channels=8, aux_weight=0.0, dropout=0.0)
CPU = torch.device("cpu")
SHARE = TargetConfig(share_of=("water",))


def batch(n: int = 8, size: int = 32) -> dict[str, torch.Tensor]:
    scenes = [Scene("s", seed, (size, size)) for seed in range(n)]
    codes, label = np.stack([s.codes for s in scenes]), np.stack([s.label for s in scenes])
    return {"codes": torch.from_numpy(codes), "label": torch.from_numpy(label)}


def learned(learner, given, steps: int = 60) -> dict[str, float]:
    optimiser = torch.optim.AdamW(list(learner.parameters()), lr=0.01)
    learner.module.train()
    for step in range(steps):
        optimiser.zero_grad()
        losses = learner.losses(given, step)
        losses["loss"].backward()
        optimiser.step()
        learner.after_step(step)
    return {name: float(value.detach()) for name, value in losses.items()}


def tile_net(outputs: int, head: DecoderConfig = HEAD, dates: int = 1) -> TileNet:
    torch.manual_seed(0)
    return TileNet(SmallEncoder(), outputs, head, SCALE, SPEC, dates)


@pytest.mark.parametrize("pool", ["mean", "attention"])
@pytest.mark.parametrize("kind", ["classification", "multilabel"])
def test_classes_of_tiles_are_learned_by_heart(kind, pool):
    network = tile_net(2, HEAD.model_copy(update={"pool": pool}))
    task = TaskConfig(kind=kind, present_share=0.3)
    # One cell leaves attention nothing to choose: two by two need 64 pixels.
    given = batch(6, 64 if pool == "attention" else 32)
    assert learned(ClassificationLearner(network, task, WATER), given, 40)["accuracy"] > 0.9
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.probe.parameters())


@pytest.mark.parametrize("kind", ["mse", "rmse", "l1", "huber"])
def test_a_number_of_tiles_is_learned_by_heart_in_its_units(kind):
    task = TaskConfig(kind="regression", level="tile", target=TargetConfig(values={"land": 300.0, "water": 100.0}))
    network = Regressor(tile_net(1))
    network.scale_to(220.0, 30.0)
    learner = RegressionLearner(network, task, value_table(WATER, task.target), 0.0, loss=LossConfig(regression=kind))
    assert learned(learner, batch(), 80)["rmse"] < 15


def test_a_number_of_pixels_is_learned_by_heart_and_second_heads_count():
    torch.manual_seed(0)
    head = DecoderConfig(channels=8, aux_channels=8, dropout=0.0)
    network = Regressor(Segmenter(SmallEncoder(), 1, head, SCALE, SPEC))
    task = TaskConfig(kind="regression", target=SHARE)
    learner = RegressionLearner(network, task, value_table(WATER, SHARE), 0.4)
    assert learned(learner, batch(4), 50)["rmse"] < 0.25
    assert network(batch(2)["codes"]).shape == (2, 32, 32)


def test_a_frozen_encoder_stays_what_it_is():
    network = tile_net(2)
    before = {name: value.clone() for name, value in network.encoder.state_dict().items()}
    task = TaskConfig(kind="classification")
    learned(ClassificationLearner(network, task, WATER, encoder_lr_factor=0.0), batch(), 3)
    after = network.encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "running statistics too"


def test_unanswered_tiles_have_no_say():
    network, given = tile_net(2).eval(), batch(4)
    task = TaskConfig(kind="classification")
    half = {name: value.clone() for name, value in given.items()}
    half["label"][2:] = 255
    two = {name: value[:2] for name, value in given.items()}
    for kind in ("classification", "multilabel"):
        learner = ClassificationLearner(network, task.model_copy(update={"kind": kind}), WATER)
        assert learner.losses(half, 0)["loss"].item() == pytest.approx(learner.losses(two, 0)["loss"].item(), rel=1e-5)


def dates(url: str):
    """Two places with two dates each, and a fifth scene elsewhere."""
    made = (Scene("a0", 1, place=1), Scene("a1", 2, place=1), Scene("b0", 3, place=3), Scene("b1", 4, place=3))
    return build(url, (*made, Scene("elsewhere", 5)))


def small_tile(codes: list[int], label: list[int] | None, key: str = "k") -> Tile:
    pixels = np.array(codes, np.uint16).reshape(1, 1, -1)
    return Tile(key, pixels, {}, None if label is None else np.array(label, np.uint8).reshape(1, -1))


def test_two_dates_become_one_tile():
    before, after = (
        small_tile([1, 2, 0, 4, 5], [0, 0, 0, 255, 1]),
        small_tile([6, 7, 8, 9, 0], [0, 1, 1, 1, 1], "later"),
    )
    joined = pair_tile(before, after, "differs")
    assert joined.key == "later"
    assert joined.pixels[:, 0].tolist() == [[1, 2, 0, 4, 5], [6, 7, 8, 9, 0]]
    assert joined.label.tolist() == [[0, 1, 255, 255, 255]], "no data, no label or no data"
    assert pair_tile(before, after, "after").label.tolist() == [[0, 1, 255, 1, 255]]
    assert pair_tile(small_tile([1], None), small_tile([1], [1]), "differs").label.tolist() == [[255]]
    assert pair_tile(before, small_tile([1] * 5, None), "after").label is None
    with pytest.raises(UsageError, match="do not fit each other"):
        pair_tile(small_tile([1], [1]), before, "after")


def test_pairs_are_tiles_of_one_window():
    corpus = dates("memory://tasks-pairs")
    found = pair_numbers(corpus, "a0", "a1")
    assert len(found) == 4
    for later, earlier in found.items():
        a, b = corpus.tile(later).meta, corpus.tile(earlier).meta
        assert (a["scene"], b["scene"], a["window"]) == ("a1", "a0", b["window"])
    scene = pair_scene(corpus, "a0", "a1", "differs")
    whole = [scene_tiles(corpus, name) for name in ("a0", "a1")]
    assert (scene.pixels(0, 0, 96, 128) == np.concatenate([s.pixels(0, 0, 96, 128) for s in whole])).all()
    first, second = (s.label(0, 0, 96, 128) for s in whole)
    expected = np.where(first == 255, 255, first != second)
    assert (scene.label(0, 0, 96, 128) == expected).all()
    draw = PairCrop(
        LabelledCrop(CropConfig(size=32), WATER),
        corpus,
        {corpus.key(later): earlier for later, earlier in found.items()},
        "after",
    )
    later = next(iter(found))
    drawn = draw(corpus.tile(later), np.random.default_rng(3))
    alone = LabelledCrop(CropConfig(size=32), WATER)(corpus.tile(later), np.random.default_rng(3))
    assert (drawn["codes"][2:] == alone["codes"]).all()
    assert (drawn["label"] == alone["label"]).all()


def test_pairs_that_cannot_be_are_refused():
    corpus = dates("memory://tasks-refused")
    with pytest.raises(UsageError, match="do not lie on the same grid"):
        pair_numbers(corpus, "a0", "elsewhere")
    with pytest.raises(UsageError, match="no scene 'nowhere'"):
        pair_numbers(corpus, "nowhere", "a1")
    with pytest.raises(UsageError, match="no pair to score on"):
        split_pairs([("a0", "a1")], ["a1"], ["b1"])
    with pytest.raises(UsageError, match="scene x is in a pair to learn from and in a held-out one"):
        split_pairs([("x", "a1"), ("x", "b1")], ["a1"], ["b1"])


@pytest.mark.parametrize("whole", [False, True], ids=["pixels", "tiles"])
def test_change_is_learned_by_heart_and_does_not_know_which_date_came_first(whole):
    one, two = batch(16), {name: value.roll(3, 0) for name, value in batch(16).items()}
    differs = (one["label"] != two["label"]).to(torch.uint8)
    given = {"codes": torch.cat([one["codes"], two["codes"]], 1), "label": differs}
    task = TaskConfig(kind="change", level="tile" if whole else "pixel", pairs=(("a", "b"),), present_share=0.4)
    torch.manual_seed(0)
    if whole:
        network = tile_net(2, dates=2)
        learner = ClassificationLearner(network, task, WATER)
    else:
        network = Segmenter(SmallEncoder(), 2, HEAD, SCALE, SPEC, dates=2)
        learner = SegmentationLearner(network, 0.0)
    assert learned(learner, given, 80)["accuracy"] > 0.8
    network.eval()
    with torch.no_grad():
        turned = torch.cat([two["codes"], one["codes"]], 1)
        torch.testing.assert_close(network(turned), network(given["codes"]), rtol=1e-4, atol=1e-5)
        still = network(torch.cat([one["codes"], one["codes"]], 1))
    assert torch.allclose(still, still[:1].expand_as(still), atol=1e-5), "no difference says nothing of the place"


def test_windows_of_numbers_are_seamless_and_whole():
    """A network that gives the codes back: so must the strips, whatever the windows."""
    corpus = build("memory://tasks-strips", SCENES[:1])
    for size, overlap in ((32, 8), (64, 16), (160, 0)):
        scene = scene_tiles(corpus, "alpha")
        strips = list(value_strips(lambda codes: codes[:, 0].astype(np.float32), scene, size=size, overlap=overlap))
        found = np.concatenate([strip.values for strip in strips])
        assert found.shape == (96, 128)
        assert np.allclose(found, SCENES[0].codes[0], rtol=1e-6)


def test_numbers_are_scored_over_every_pixel_and_every_tile():
    corpus = build("memory://tasks-scores", SCENES[:2])
    task = TaskConfig(kind="regression", target=SHARE)
    network = Regressor(Segmenter(SmallEncoder(), 1, HEAD, SCALE, SPEC)).eval()
    scorer = Scorer(network, task, WATER, WATER, 32, CPU)
    scenes = scored_scenes(corpus, task, ["alpha", "beta"])
    overall, by_scene = scorer.score(scenes)
    truth, found = [], []
    for scene in scenes.values():
        values = [strip.values for strip in value_strips(predictor(network, CPU), scene, size=32, overlap=8)]
        label = scene.label(0, 0, 96, 128)
        truth.append(label[label != 255].astype(float))
        found.append(np.concatenate(values)[label != 255])
    error = np.concatenate(found) - np.concatenate(truth)
    flat = overall.flat()
    assert flat["rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-6)
    assert flat["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-6)
    assert flat["r2"] == pytest.approx(1 - (error**2).mean() / np.concatenate(truth).var())
    assert flat["values"] == len(error)
    assert by_scene["beta"].flat()["rmse"] == pytest.approx(np.sqrt(((found[1] - truth[1]) ** 2).mean()), rel=1e-6)


def test_tiles_are_scored_whole_and_once():
    corpus = build("memory://tasks-tiles", SCENES[:2])
    labels = [corpus.tile(i).label for i in range(len(corpus))]
    shares = np.array([(label == 1).sum() / (label != 255).sum() for label in labels])
    number = TaskConfig(kind="regression", level="tile", target=SHARE)
    network = Regressor(tile_net(1)).eval()
    scorer = Scorer(network, number, WATER, WATER, 32, CPU)
    flat = scorer.score(scored_scenes(corpus, number, ["alpha", "beta"]))[0].flat()
    with torch.no_grad():
        found = [float(network(torch.from_numpy(corpus.tile(i).pixels[None]))) for i in range(len(corpus))]
    assert flat["values"] == len(corpus)
    assert flat["mae"] == pytest.approx(np.abs(np.array(found) - shares).mean(), rel=1e-5)
    one = TaskConfig(kind="classification")
    plain = tile_net(2).eval()
    scores, _ = Scorer(plain, one, WATER, WATER, 32, CPU).score(scored_scenes(corpus, one, ["alpha", "beta"]))
    with torch.no_grad():
        answers = [int(plain(torch.from_numpy(corpus.tile(i).pixels[None])).argmax()) for i in range(len(corpus))]
    assert scores.oa == pytest.approx(np.mean(np.array(answers) == (shares > 0.5)))
    assert scores.pixels == len(corpus)
    several = one.model_copy(update={"kind": "multilabel", "present_share": 0.2})
    flat = (
        Scorer(plain, several, WATER, WATER, 32, CPU).score(scored_scenes(corpus, several, ["alpha", "beta"]))[0].flat()
    )
    from sklearn.metrics import average_precision_score

    with torch.no_grad():
        logits = np.concatenate([plain(torch.from_numpy(corpus.tile(i).pixels[None])) for i in range(len(corpus))])
    there = np.stack([shares <= 0.8, shares >= 0.2], 1)
    known = there.any(0)
    expected = average_precision_score(there[:, known], logits[:, known], average="macro")
    assert flat["ap_macro"] == pytest.approx(expected, abs=1e-6)


RUN = {
    "steps": 4,
    "batch": 4,
    "depth": 18,
    "decoder": DecoderConfig(channels=8, aux_channels=8, kind="fcn"),
    "crop": CropConfig(size=32),
}
TASKS = {
    "segmentation": TaskConfig(),
    "classification": TaskConfig(kind="classification"),
    "multilabel": TaskConfig(kind="multilabel"),
    "regression-pixel": TaskConfig(kind="regression", target=SHARE),
    "regression-tile": TaskConfig(kind="regression", level="tile", target=SHARE),
    "change-pixel": TaskConfig(kind="change", pairs=(("a0", "a1"), ("b0", "b1")), changed="differs"),
    "change-tile": TaskConfig(kind="change", level="tile", pairs=(("a0", "a1"), ("b0", "b1"))),
}


SLOW = ("segmentation", "classification", "regression-tile")  # their parts are covered by faster tests


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in TASKS])
def test_one_loop_trains_scores_and_describes_every_task(name, tmp_path):
    config, url = TASKS[name], f"memory://tasks-fit-{name}"
    dates(url)
    task = open_task(url, ["b1", "b0"], lambda _: None)
    weights = "balanced" if name in ("segmentation", "change-tile") else "none"
    run = FinetuneRun(task=config, class_weights=weights, **RUN)
    said: list[str] = []
    record = fit(task, Start(RANDOM, None, RANDOM), run, str(tmp_path), World(0, 1), 1, said.append)
    assert record["task"] == config.kind
    assert said[-1].startswith("seed 0: ")
    flat = record["seeds"][0]["scores"]
    assert set(record["summary"]) == set(flat)
    main = {"regression": "rmse", "multilabel": "f1_micro"}.get(config.kind, "oa")
    assert 0 <= flat[main] <= (5 if main == "rmse" else 1)
    store = open_store(str(tmp_path))
    assert json.loads(store.get(SCORES)) == record
    network, card = load_network(str(tmp_path / MODEL))
    assert (card.task, card.decoder.kind) == (config, "fcn")
    scenes = scored_scenes(task.corpus, config, task.held_out)
    assert Scorer(network, config, card.legend, task.legend, 32, CPU).score(scenes)[0].flat() == flat
    text = store.get(CARD_TEXT).decode()
    assert f"run {card.run_digest[:12]}" in text


def test_chosen_tiles_are_the_only_ones_and_part_of_the_name(tmp_path):
    from finetune.fit import identity_of
    from finetune.start import order

    corpus = build("memory://tasks-chosen")
    task = open_task("memory://tasks-chosen", ["delta-held"], lambda _: None)
    few = replace(task, tiles=task.training_tiles()[:3])
    run, start = FinetuneRun(lanes=1, **RUN), Start(RANDOM, None, RANDOM)
    plan, _ = order(few, run)
    assert {int(i) for step in range(6) for i in plan.tiles(step)} == set(few.tiles.tolist())
    assert identity_of(few, start, run) != identity_of(task, start, run)
    assert "tiles" not in identity_of(task, start, run)
    assert len(corpus) > 3
