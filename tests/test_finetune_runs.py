"""Named runs: what they name is there, and a small network under their losses learns a simulated scene by heart."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from labelled_corpus import LEGEND, SCALE, build
from small_encoder import SmallEncoder

from finetune.config import FinetuneRun
from finetune.legend import IGNORED, read_legend
from finetune.losses import scaled_alpha
from finetune.metrics import confusion_matrix, scores
from finetune.refine import Refined
from finetune.segmenter import SegmentationLearner, Segmenter
from finetune.start import open_task
from finetune.tasks import class_weights
from pretrain.config import InputSpec, resolve, validate


def _run(**change) -> FinetuneRun:
    plain = resolve(FinetuneRun, run="alos2-lulc", package="finetune.runs").model_dump(mode="json")
    plain["decoder"] |= change
    return validate(FinetuneRun, plain, "alos2-lulc")


def test_the_land_cover_run_holds_what_was_published():
    run = _run()
    loss = run.loss
    assert (loss.cross_entropy, loss.focal, loss.dice, loss.gamma) == (0.0, 0.5, 0.5, 2.0)
    assert (loss.alpha, loss.alpha_scale, run.class_weights) == ("multiply", 0.5, "complement")
    decoder = run.decoder
    assert (decoder.channels, decoder.dropout, decoder.refine, decoder.inject) == (256, 0.5, True, "stage1")


def test_a_small_network_of_the_land_cover_run_learns_a_scene_by_heart():
    corpus = build("memory://runs-alos2")
    task = open_task("memory://runs-alos2", ["delta-held"], lambda _: None)
    run = _run(channels=16, dropout=0.0)
    weights = class_weights(task, run)
    water = np.mean([(label == 1).sum() / (label != IGNORED).sum() for label in _labels(corpus, task.train)])
    assert weights.tolist() == pytest.approx([water, 1 - water], abs=1e-3), "two classes: the other one's share"
    torch.manual_seed(0)
    network = Segmenter(SmallEncoder(), 2, run.decoder, SCALE, InputSpec(bands=2)).train()
    assert isinstance(network.decoder, Refined)
    assert len(network.decoder.rise) == 2
    assert network.decoder.lateral is not None
    learner = SegmentationLearner(network, run.decoder.aux_weight, class_weights=weights, loss=run.loss)
    tiles = [corpus.tile(int(i)) for i in task.training_tiles()[:4]]
    codes = torch.from_numpy(np.stack([tile.pixels for tile in tiles]))
    label = torch.from_numpy(np.stack([tile.label for tile in tiles]))
    optimiser = torch.optim.AdamW(learner.parameters(), lr=0.003)
    curve = []
    for step in range(24):
        losses = learner.losses({"codes": codes, "label": label}, step)
        assert set(losses) == {"loss", "focal", "dice", "accuracy"}
        assert losses["loss"].item() == pytest.approx(0.5 * (losses["focal"] + losses["dice"]).item())
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
        curve.append(losses["loss"].item())
    first, second, third = (np.mean(part) for part in np.split(np.array(curve), 3))
    assert first > second > third, curve
    assert curve[-1] < curve[0] / 10
    with torch.no_grad():
        found = network.eval()(codes).argmax(1).numpy().astype(np.uint8)
    matrix = confusion_matrix(label.numpy(), found, 2)
    assert scores(matrix, read_legend(LEGEND, "c")).miou > 0.9


def _ablation(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module("ablate_alpha")


def test_readings_of_alpha_differ_in_alpha_alone(monkeypatch):
    ablation = _ablation(monkeypatch)
    runs = {name: ablation.run_of(name, 7, 3) for name in ablation.READINGS}
    assert len({run.model_copy(update={"loss": runs["power"].loss}).model_dump_json() for run in runs.values()}) == 1
    weights = torch.tensor([0.25, 0.75])
    alphas = {name: scaled_alpha(weights, run.loss).tolist() for name, run in runs.items()}
    assert alphas == {
        "multiply": pytest.approx([0.125, 0.375]),
        "power": pytest.approx([0.5, 0.75**0.5]),
        "blend": pytest.approx([0.625, 0.875]),
        "none": [1.0, 1.0],
    }


def test_readings_are_paired_by_seeds_that_have_all_folds(monkeypatch):
    ablation = _ablation(monkeypatch)
    assert ablation.folds_of(["d", "b", "a", "e", "c"], 2) == [["a", "c", "e"], ["b", "d"]]
    with pytest.raises(SystemExit, match="expected 2 to 5"):
        ablation.folds_of("abcde", 6)
    gain = {"multiply": 0.0, "power": 0.1, "blend": -0.05}
    rows = [
        {"seed": seed, "fold": fold, "reading": name, "scores": {"miou": 0.5 + 0.1 * fold + 0.01 * seed + more + bump}}
        for seed in range(3)
        for fold in range(2)
        for name, more in gain.items()
        for bump in [0.002 * seed if name == "power" else 0.0]
    ]
    rows.append({"seed": 3, "fold": 0, "reading": "power", "scores": {"miou": 9.0}})  # ended early
    monkeypatch.setattr(ablation, "SCORES", ("miou",))
    found = ablation.comparison(rows, 2)["miou"]
    assert set(found) == {"multiply", "power", "blend"}
    assert found["multiply"]["mean"] == pytest.approx(0.56)
    assert (found["power"]["runs"], found["power"]["over_multiply"]["pairs"]) == (3, 3)
    assert found["power"]["over_multiply"]["difference"] == pytest.approx(0.102)
    assert found["blend"]["over_multiply"]["difference"] == pytest.approx(-0.05)
    assert found["power"]["over_multiply"]["corrected_p"] < 0.01


def _labels(corpus, scenes):
    return [corpus.tile(int(i)).label for i in corpus.select(scenes=list(scenes), labelled=True)]
