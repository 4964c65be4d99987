"""The command, from a labelled corpus to scores and a map."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import rasterio
import torch
from labelled_corpus import LEGEND, PIXELS_DIGEST, SCALE, SCENES, build, one_band
from PIL import Image

from finetune.cli import app
from infra.command import exit_code
from pretrain.config import InputSpec
from pretrain.encoder import ResNet
from pretrain.export import EncoderCard, encoder_bytes

TRAIN = ("train", "--run", "few-labels-cpu", "--crop.size", "32", "--decoder.channels", "16", "--device", "cpu")
SHORT = (*TRAIN, "--steps", "3", "--optim.warmup-steps", "1", "--decoder.aux-channels", "8")


def _encoder(folder, name: str = "encoder.safetensors", pixels_digest: str = PIXELS_DIGEST) -> str:
    torch.manual_seed(7)
    card = EncoderCard(
        method="di3cl",
        depth=18,
        bands=1,
        input=InputSpec(lo_db=-30.0, hi_db=0.0),
        scale=SCALE,
        pixels_digest=pixels_digest,
        manifest_digest="1" * 64,
        run_digest="2" * 64,
        step=9,
    )
    (folder / name).write_bytes(encoder_bytes(ResNet(18, 1), card))
    return str(folder / name)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One corpus and one model that learned something."""
    folder = tmp_path_factory.mktemp("finetune")
    build(str(folder / "corpus"))
    argv = [*TRAIN, "--data", str(folder / "corpus"), "--out", str(folder / "out"), "--hold-out", "delta-held"]
    assert exit_code(app, [*argv, "--steps", "30", "--optim.lr", "0.003"]) == 0
    return folder


def _run(capsys, *argv: str) -> tuple[int, str, str]:
    code = exit_code(app, list(argv))
    out, err = capsys.readouterr()
    return code, out, err


def test_training_leaves_a_model_and_honest_scores(made):
    record = json.loads((made / "out" / "scores.json").read_text())
    assert record["trained_on"] == ["alpha", "beta", "gamma"]
    assert record["held_out"] == ["delta-held"]
    seed = record["seeds"][0]
    assert seed["scores"] == seed["scenes"]["delta-held"]
    assert seed["scores"]["miou"] > 0.75, "a held-out scene of the same two classes"
    assert record["summary"]["miou"] == {"mean": seed["scores"]["miou"], "std": None, "runs": 1}
    assert (made / "out" / "model.safetensors").read_bytes() == (
        made / "out" / "seed-0" / "model.safetensors"
    ).read_bytes()


def test_scoring_again_gives_the_same_numbers(made, capsys):
    model, data = str(made / "out" / "model.safetensors"), str(made / "corpus")
    code, out, err = _run(capsys, "score", model, "--data", data, "--scenes", "delta-held", "--json")
    record = json.loads((made / "out" / "scores.json").read_text())
    assert (code, err) == (0, "")
    assert json.loads(out)["scores"] == record["seeds"][0]["scores"]
    code, out, err = _run(capsys, "score", model, "--data", data, "--scenes", "alpha,delta-held")
    assert code == 0
    assert "warning: the model learned from alpha" in err
    assert "2 scenes, 23808 labelled pixels" in out
    assert "land (background)" in out


def test_the_map_of_a_scene(made, capsys, tmp_path):
    model, data = str(made / "out" / "model.safetensors"), str(made / "corpus")
    path = tmp_path / "map.tif"
    code, out, err = _run(capsys, "map", model, "--data", data, "--scene", "delta-held", "--out", str(path))
    assert (code, err) == (0, "")
    assert f"picture {tmp_path / 'map.png'}" in out
    truth = SCENES[3].truth
    with rasterio.open(path) as file:
        ids = file.read(1)
        assert file.crs.to_epsg() == 32632
        assert tuple(file.transform)[:6] == (10.0, 0.0, 540000.0, 0.0, -10.0, 5.5e6)
        assert file.tags(1)["CLASS_1"] == "water"
        assert file.tags()["SCENE"] == "delta-held"
        assert file.tags()["PIXELS"] == PIXELS_DIGEST
    assert (ids == truth).mean() > 0.9
    assert json.loads((tmp_path / "map.legend.json").read_text()) == LEGEND
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.size[0] > 800
    code, out, _ = _run(capsys, "map", model, "--data", data, "--scene", "gamma", "--out", str(path), "--overlap", "0")
    with rasterio.open(path) as file:
        points, crs = file.gcps
        assert (len(points), crs.to_epsg(), file.crs) == (16, 4326, None)


def test_several_seeds_a_pretrained_encoder_and_coming_back(made, capsys, tmp_path):
    argv = [*SHORT, "--data", str(made / "corpus"), "--out", str(tmp_path), "--hold-out", "delta-held,beta"]
    argv += [
        "--encoder",
        _encoder(tmp_path),
        "--seeds",
        "2",
        "--class-weights",
        "balanced",
        "--encoder-lr-factor",
        "0.1",
    ]
    code, out, err = _run(capsys, *argv)
    assert code == 0
    assert "2 scenes to learn from, held out: beta, delta-held" in out
    assert "±" in out
    first = json.loads((tmp_path / "scores.json").read_text())
    assert [s["seed"] for s in first["seeds"]] == [0, 1]
    values = [s["scores"]["oa"] for s in first["seeds"]]
    assert first["summary"]["oa"]["mean"] == pytest.approx(np.mean(values))
    assert first["summary"]["oa"]["std"] == pytest.approx(np.std(values, ddof=1))
    models = [(tmp_path / f"seed-{n}" / "model.safetensors").read_bytes() for n in (0, 1)]
    assert models[0] != models[1]
    assert _run(capsys, *argv)[0] == 0, "a second start finds everything done"
    assert json.loads((tmp_path / "scores.json").read_text()) == first
    assert (tmp_path / "seed-1" / "model.safetensors").read_bytes() == models[1]
    code, _, err = _run(capsys, *argv, "--optim.lr", "0.5")
    assert code == 2
    assert "another --out" in err


def test_random_and_pretrained_start_with_the_same_head(made):
    from finetune.config import FinetuneRun
    from finetune.start import Start, make_segmenter, open_start, open_task

    task = open_task(str(made / "corpus"), ["delta-held"], lambda _: None)
    run = FinetuneRun(depth=18, seed=3)
    pretrained, card = make_segmenter(task, open_start(_encoder(made), task.corpus, lambda _: None), run)
    fresh, _ = make_segmenter(task, Start("random", None, "random"), run)
    for a, b in zip(pretrained.decoder.parameters(), fresh.decoder.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(pretrained.encoder.conv1.weight, fresh.encoder.conv1.weight)
    assert (card.bands, card.input.lo_db, card.input.bands) == (2, -30.0, 2)
    kernel = pretrained.encoder.conv1.weight
    assert (kernel[0::2, 1] == 0).all(), "each filter looks at one band"
    assert (kernel[1::2, 0] == 0).all()
    assert (kernel.abs().sum((1, 2, 3)) > 0).all()


def test_every_rank_needs_two_crops(made, tmp_path):
    from finetune.config import FinetuneRun
    from finetune.fit import fit
    from finetune.start import Start, open_task
    from infra.errors import UsageError
    from infra.world import World

    task = open_task(str(made / "corpus"), ["delta-held"], lambda _: None)
    run = FinetuneRun(depth=18, batch=4)
    with pytest.raises(UsageError, match="batch 4 on 4 ranks"):
        fit(task, Start("random", None, "random"), run, str(tmp_path), World(0, 4), 1, lambda _: None)


def test_what_does_not_fit_is_refused_in_one_line(made, capsys, tmp_path):
    data, out = str(made / "corpus"), str(tmp_path / "out")
    model = str(made / "out" / "model.safetensors")
    build(str(tmp_path / "other"), pixels_digest="f" * 64)
    build(str(tmp_path / "single"), tuple(one_band(s) for s in SCENES))
    build(str(tmp_path / "mixed"), (*SCENES[:2], one_band(SCENES[3])))
    build(str(tmp_path / "plain"), legend=None)
    hostile = tmp_path / "hostile.safetensors"
    torch.save({"a": torch.zeros(1)}, hostile)
    wanted = ("--out", out, "--hold-out", "delta-held")
    cases = [
        (("train", "--data", data, "--out", out, "--hold-out", "delta"), "did you mean delta-held?"),
        (("train", "--data", str(tmp_path / "plain"), *wanted), "has no legend"),
        (("train", "--data", str(tmp_path / "none"), *wanted), "no corpus at"),
        (("train", "--data", str(tmp_path / "mixed"), *wanted), "scene delta-held has 1 (VV)"),
        (
            ("train", "--data", data, *wanted, "--encoder", _encoder(tmp_path, "e", "e" * 64)),
            "learned from pixels eeeeeeeeeeee",
        ),
        (("train", "--data", data, *wanted, "--encoder", str(hostile)), "not an encoder"),
        (("train", "--data", data, *wanted, "--run", "few-labels"), "did you mean few-labels-cpu?"),
        (("train", "--data", data, *wanted, "--seeds", "0"), "--seeds 0"),
        (("score", model, "--data", str(tmp_path / "other"), "--scenes", "alpha"), "has pixels ffffffffffff"),
        (("score", model, "--data", str(tmp_path / "single"), "--scenes", "alpha"), "reads 2 bands, scene alpha has 1"),
        (("score", str(hostile), "--data", data, "--scenes", "alpha"), "not a fine-tuned model"),
        (("map", model, "--data", data, "--scene", "nowhere", "--out", out), "no scene 'nowhere'"),
        (
            ("map", model, "--data", data, "--scene", "alpha", "--out", out, "--overlap", "32"),
            "overlap below the window",
        ),
    ]
    for argv, message in cases:
        code, printed, err = _run(capsys, *argv)
        assert (code, printed) == (2, ""), (argv, err)
        assert message in err.replace("\n", " "), (argv, err)
        assert err.count("\n") == 1, err
    assert not (tmp_path / "out").exists()


def test_the_named_runs_are_listed_and_valid(capsys):
    from finetune.config import FinetuneRun
    from pretrain.config import resolve

    assert _run(capsys, "runs") == (0, "alos2-lulc\nfew-labels-cpu\nuper-r50\n", "")
    published = resolve(FinetuneRun, run="uper-r50", package="finetune.runs")
    assert (published.decoder.channels, published.decoder.aux_weight, published.depth) == (512, 0.4, 50)
    small = resolve(FinetuneRun, run="few-labels-cpu", package="finetune.runs")
    assert (small.optim.kind, small.optim.peak_lr(8), small.batch) == ("adamw", 0.001, 8)


def test_help_is_instant():
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "finetune.cli", "map", "--help"], capture_output=True
    )
    assert done.returncode == 0
    assert b"GeoTIFF" in done.stdout
    loaded = {line.rsplit(b"|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert not loaded & {b"torch", b"rasterio", b"numba", b"pyarrow", b"matplotlib", b"ray"}
    assert time.perf_counter() - begun < 20
