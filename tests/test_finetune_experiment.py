"""The commands over data: three parts, few labels, choosing on validation, leaks, contours, and maps of all scenes."""

import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
from labelled_corpus import LEGEND, PIXELS_DIGEST, SCALE, SCENES, Scene, build
from test_finetune_splits import _tag, placed

from finetune.cli import app
from finetune.config import FinetuneRun
from finetune.experiment import candidates, open_experiment
from infra.command import exit_code
from infra.errors import UsageError

TRAIN = ("train", "--run", "few-labels-cpu", "--crop.size", "32", "--decoder.channels", "16", "--device", "cpu")
SHORT = (*TRAIN, "--steps", "2", "--optim.warmup-steps", "1", "--decoder.aux-channels", "8")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A corpus, and a model chosen of two on beta and tested on the held-out scene."""
    folder = tmp_path_factory.mktemp("experiment")
    build(str(folder / "corpus"))
    argv = [
        *TRAIN,
        "--optim.warmup-steps",
        "1",
        "--data",
        str(folder / "corpus"),
        "--out",
        str(folder / "out"),
        "--hold-out",
        "delta-held",
    ]
    argv += ["--validate", "beta", "--try", "optim.lr=0.00001,0.003", "--try", "class-weights=balanced"]
    assert exit_code(app, [*argv, "--depth", "18", "--steps", "3", "--labels", "50", "--seeds", "2"]) == 0
    return folder


def _run(capsys, *argv: str) -> tuple[int, str, str]:
    code = exit_code(app, list(argv))
    out, err = capsys.readouterr()
    return code, out, err


def test_the_validation_scenes_choose_and_the_test_scenes_only_test(made, capsys):
    record = json.loads((made / "out" / "scores.json").read_text())
    assert (record["trained_on"], record["validated_on"], record["held_out"]) == (
        ["alpha", "gamma"],
        ["beta"],
        ["delta-held"],
    )
    assert set(record["tried"]) == {
        "optim.lr=1e-05-class_weights=balanced",
        "optim.lr=0.003-class_weights=balanced",
    }
    assert record["chosen"] == max(record["tried"], key=record["tried"].get)
    assert record["chosen_by"] == "miou_no_background"
    tried = json.loads((made / "out" / "try" / record["chosen"] / "scores.json").read_text())
    assert tried["held_out"] == ["beta"]
    assert record["tried"][record["chosen"]] == tried["summary"]["miou_no_background"]["mean"]
    assert record["validation"] == tried["summary"]
    assert [set(seed["scenes"]) for seed in record["seeds"]] == [{"delta-held"}] * 2
    labels = record["data"]["labels"]
    assert (labels["percent"], labels["of_tiles"]) == (50, 8)
    assert 0.5 <= labels["share"] < 0.7
    model = str(made / "out" / "model.safetensors")
    _, out, _ = _run(capsys, "score", model, "--data", str(made / "corpus"), "--scenes", "delta-held", "--json")
    assert json.loads(out)["scores"] == record["seeds"][0]["scores"]


def test_the_card_of_a_chosen_model_names_all_three_parts_and_what_was_tried(made):
    from finetune.model import load_network

    record = json.loads((made / "out" / "scores.json").read_text())
    _, card = load_network(str(made / "out" / "model.safetensors"))
    assert (card.trained_on, card.validated_on, card.held_out) == (("alpha", "gamma"), ("beta",), ("delta-held",))
    assert card.scores == record["seeds"][0]["scores"]
    text = (made / "out" / "model_card.md").read_text()
    miou = record["summary"]["miou"]
    for line in (
        "Held out: delta-held. Mean ± sample standard deviation over 2 seeds.",
        f"| miou | {100 * miou['mean']:.4g} ± {100 * miou['std']:.4g} % |",
        "Chosen by miou_no_background on beta, among 2 runs:",
        f"| {record['chosen']} (chosen) | {100 * record['tried'][record['chosen']]:.4g} % |",
        "| alpha | sentinel-1 | VV VH | 2020-01-01T00:00:00Z | training |",
        "| beta | sentinel-1 | VV VH | 2020-01-01T00:00:00Z | validation |",
        "| delta-held | sentinel-1 | VV VH | 2020-01-01T00:00:00Z | held out |",
        f"run {card.run_digest[:12]}",
        "class weights balanced",
        "Seeds: 0, 1. 50 % of the labels (",
    ):
        assert line in text, line
    assert not list((made / "out" / "try").glob("*/model_card.md")), "a candidate was scored on what chose it"


def test_other_test_scenes_are_another_run(made, capsys, tmp_path):
    """Or a model that has learned from the new test scenes would be taken for finished."""
    argv = (*SHORT, "--depth", "18", "--data", str(made / "corpus"), "--out", str(tmp_path), "--validate", "beta")
    assert _run(capsys, *argv, "--hold-out", "gamma")[0] == 0
    code, _, err = _run(capsys, *argv, "--hold-out", "delta-held")
    assert code == 2
    assert err.rstrip().endswith("give the same options as then, or another --out"), err


def test_scores_on_scenes_that_chose_the_model_come_with_a_warning(made, capsys):
    argv = ("score", str(made / "out" / "model.safetensors"), "--data", str(made / "corpus"), "--scenes")
    code, _, err = _run(capsys, *argv, "beta,delta-held")
    assert code == 0
    assert err == "finetune: warning: the model was chosen by its scores on beta: they flatter\n"


def test_parts_of_a_scene_are_known_by_the_name_of_the_scene(made, capsys, tmp_path):
    from finetune.model import load_network, model_bytes

    network, card = load_network(str(made / "out" / "model.safetensors"))
    parts = {"trained_on": ("alpha@train",), "validated_on": ("alpha@validate",), "held_out": ("alpha@test",)}
    (tmp_path / "m.safetensors").write_bytes(model_bytes(network, card.model_copy(update=parts)))
    argv = ("score", str(tmp_path / "m.safetensors"), "--data", str(made / "corpus"), "--scenes", "alpha,beta")
    code, _, err = _run(capsys, *argv)
    assert code == 0
    assert [line.split(": ")[2] for line in err.splitlines()] == [
        "the model learned from alpha",
        "the model was chosen by its scores on alpha",
    ]


def test_a_tag_of_some_tiles_scores_only_those(made, capsys, tmp_path):
    from finetune.model import load_network, model_bytes

    wide = Scene("wide", 1, shape=(80, 640))
    corpus = placed("memory://experiment-bands", (wide,))
    windows = corpus.rows.window_col + corpus.rows.window_cols
    _tag(corpus, "left", windows <= 320)
    network, card = load_network(str(made / "out" / "model.safetensors"))
    parts = {"trained_on": ("wide@train",), "validated_on": (), "held_out": ("wide@test",)}
    (tmp_path / "m.safetensors").write_bytes(model_bytes(network, card.model_copy(update=parts)))
    argv = ("score", str(tmp_path / "m.safetensors"), "--data", "memory://experiment-bands", "--scenes")
    code, out, err = _run(capsys, *argv, "@left")
    assert (code, out.splitlines()[0]) == (0, f"1 scenes, {77 * 320} labelled pixels")
    assert err == "finetune: the train part of the model has tiles of wide, too: they must not be among these\n"
    code, out, err = _run(capsys, *argv, "wide")
    assert (code, out.splitlines()[0]) == (0, f"1 scenes, {77 * 640} labelled pixels")
    assert "warning: the model learned from wide" in err


def test_what_was_done_to_the_labels_is_kept_without_validation(made, capsys, tmp_path):
    argv = (*SHORT, "--depth", "18", "--data", str(made / "corpus"), "--out", str(tmp_path), "--hold-out", "delta-held")
    assert _run(capsys, *argv, "--labels", "50", "--label-seed", "3")[0] == 0
    labels = json.loads((tmp_path / "scores.json").read_text())["data"]["labels"]
    assert (labels["percent"], labels["seed"], labels["of_tiles"]) == (50, 3, 12)
    text = (tmp_path / "model_card.md").read_text()
    assert f"50 % of the labels ({labels['tiles']} of 12 tiles)." in text
    assert "Chosen by" not in text


def test_few_labels_nest_and_name_other_runs(made):
    data, run = str(made / "corpus"), FinetuneRun(depth=18)
    tiles = {}
    for percent in (10, 30, 100):
        experiment = open_experiment(data, run, lambda _: None, hold_out="delta-held", label_percent=percent)
        tiles[percent] = set(experiment.task.training_tiles().tolist())
    assert tiles[10] < tiles[30] < tiles[100]
    other = open_experiment(data, run, lambda _: None, hold_out="delta-held", label_percent=10, label_seed=1)
    assert set(other.task.training_tiles().tolist()) != tiles[10]


def test_candidates_are_every_combination_and_wrong_dials_are_refused():
    made = candidates(FinetuneRun(), ["optim.lr=1e-3,3e-4", "batch=4,8"])
    assert [(r.optim.lr, r.batch) for r in made.values()] == [(1e-3, 4), (1e-3, 8), (3e-4, 4), (3e-4, 8)]
    assert list(candidates(FinetuneRun(), [])) == ["as-given"]
    for text, message in (
        ("optim.lr", "expected a dial"),
        ("optim.rate=1", "no such field"),
        ("steps.x=1", "no 'steps'"),
    ):
        with pytest.raises(UsageError, match=message):
            candidates(FinetuneRun(), [text])


def test_contours_are_scored_beside_the_classes(made, capsys):
    model, data = str(made / "out" / "model.safetensors"), str(made / "corpus")
    argv = ("score", model, "--data", data, "--scenes", "delta-held,alpha", "--boundary", "2", "--lines", "water")
    code, out, _ = _run(capsys, *argv, "--json")
    found = json.loads(out)["scores"]
    assert code == 0
    from finetune.contours import Matched, boundary_match, line_match
    from finetune.mapping import LoadedModel
    from finetune.mosaic import class_strips
    from finetune.predict import predictor, scene_tiles
    from shards.reader import Corpus

    corpus, loaded = Corpus.open(data), LoadedModel.open(model)
    import torch

    contours, lines = [Matched()] * 2, Matched()
    for name in ("delta-held", "alpha"):
        tiles = scene_tiles(corpus, name)
        strips = class_strips(predictor(loaded.network, torch.device("cpu")), tiles, 2, size=32, overlap=8)
        predicted = np.concatenate([s.outputs for s in strips])
        truth = scene_tiles(corpus, name).label(0, 0, *predicted.shape)
        contours = [a + b for a, b in zip(contours, boundary_match(truth, predicted, 2, 2.0), strict=True)]
        lines += line_match(truth == 1, (predicted == 1) & (truth != 255), 3.0)
    assert found["boundary_f1/water"] == pytest.approx(contours[1].f1)
    assert found["boundary_f1"] == pytest.approx((contours[0].f1 + contours[1].f1) / 2)
    assert found["quality/water"] == pytest.approx(lines.quality)
    code, out, _ = _run(capsys, *argv)
    assert "boundary F1" in out
    assert "completeness of water" in out


def test_all_scenes_are_mapped_into_a_folder_with_everything_beside(made, capsys, tmp_path):
    model, data, out = str(made / "out" / "model.safetensors"), str(made / "corpus"), tmp_path / "maps"
    argv = ("map", model, "--data", data, "--out", str(out), "--vectors", "water=polygon,land=line", "--margin", "2")
    argv += ("--simplify", "0", "--least-area", "0")
    code, printed, err = _run(capsys, *argv)
    assert (code, err) == (0, "")
    assert printed.count("STAC item") == 4
    ends = (".confidence.tif", ".html", ".json", ".land.parquet", ".legend.json", ".png", ".tif", ".water.parquet")
    assert sorted(p.name for p in out.iterdir()) == sorted(s.id + end for s in SCENES for end in ends)
    item = json.loads((out / "alpha.json").read_text())
    assert set(item["assets"]) == {
        *("map", "confidence", "legend", "preview", "page", "vectors_water", "vectors_land"),
    }
    from infra.record import sha256

    assert item["properties"]["sarsense:model"] == sha256((made / "out" / "model.safetensors").read_bytes())
    with rasterio.open(out / "alpha.tif") as file:
        water = (file.read(1) == 1).sum()
        assert file.tags()["MODEL"] == item["properties"]["sarsense:model"]
        assert file.tags()["RECIPE"] == "b" * 64
    areas = pq.read_table(out / "alpha.water.parquet")["area_m2"].to_pylist()
    assert sum(areas) == pytest.approx(100 * water)
    (tmp_path / "scenes.txt").write_text("beta\n")
    single = tmp_path / "one.tif"
    argv = (
        "map",
        model,
        "--data",
        data,
        "--scene",
        str(tmp_path / "scenes.txt"),
        "--out",
        str(single),
        "--no-confidence",
    )
    assert _run(capsys, *argv)[0] == 0
    assert sorted(p.name for p in tmp_path.glob("one*")) == [
        f"one{e}" for e in (".html", ".json", ".legend.json", ".png", ".tif")
    ]


def test_a_change_is_mapped_from_two_dates(capsys, tmp_path):
    import torch

    from finetune.config import DecoderConfig, TaskConfig
    from finetune.legend import read_legend
    from finetune.model import ModelCard, model_bytes
    from finetune.model import build as build_model
    from pretrain.config import InputSpec
    from pretrain.encoder import ResNet
    from pretrain.export import EncoderCard

    build(str(tmp_path / "corpus"), (Scene("before", 4), Scene("after", 4), SCENES[0]))
    legend, task = read_legend(LEGEND, "c"), TaskConfig(kind="change", pairs=(("before", "after"),))
    card = EncoderCard(
        method="random", depth=18, bands=2, input=InputSpec(bands=2), scale=SCALE, pixels_digest=PIXELS_DIGEST,
        manifest_digest="", run_digest="", step=0,
    )  # fmt: skip
    decoder = DecoderConfig(channels=8, aux_weight=0)
    torch.manual_seed(0)
    network = build_model(ResNet(18, 2), card, legend, decoder, task)
    whole = ModelCard(
        task=task, encoder=card, encoder_url="random", legend=legend, decoder=decoder, crop_px=32, seed=0,
        pixels_digest=PIXELS_DIGEST, manifest_digest="", run_digest="d" * 64, trained_on=(), held_out=(), scores={},
    )  # fmt: skip
    (tmp_path / "m.safetensors").write_bytes(model_bytes(network, whole))
    argv = ("map", str(tmp_path / "m.safetensors"), "--data", str(tmp_path / "corpus"), "--scene", "after")
    argv += ("--out", str(tmp_path / "change.tif"))
    code, _, err = _run(capsys, *argv)
    assert code == 2
    assert "needs an earlier scene (--before)" in err
    assert "do not lie on the same grid" in _run(capsys, *argv, "--before", "alpha")[2]
    assert _run(capsys, *argv, "--before", "before")[0] == 0
    item = json.loads((tmp_path / "change.json").read_text())
    assert (item["properties"]["sarsense:scene"], item["properties"]["sarsense:scene_before"]) == ("after", "before")
    with rasterio.open(tmp_path / "change.tif") as file:
        assert set(np.unique(file.read(1)).tolist()) <= {0, 1}
        assert file.shape == (96, 128)


def test_leaks_are_listed_with_their_share(made, capsys, tmp_path):
    build(str(tmp_path / "pretraining"), (SCENES[0], Scene("again", 4), Scene("elsewhere", 7)))
    argv = ("leaks", str(tmp_path / "pretraining"), "--data", str(made / "corpus"))
    code, out, err = _run(capsys, *argv, "--scenes", "delta-held,beta")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["beta", "0.00", "%", "by", "0", "scenes"]
    assert lines[1].split() == ["delta-held", "100.00", "%", "by", "1", "scenes"]
    assert "again" in lines[2]
    assert "THE SAME PRODUCT" in lines[2]
    assert lines[-1] == "1 of 2 test scenes were seen by 3 scenes"
    code, out, _ = _run(capsys, *argv, "--fail", "--json")
    assert code == 1
    found = {leak["scene"]: leak for leak in json.loads(out)}
    assert [found[s]["share"] for s in ("alpha", "beta", "delta-held")] == [1.0, 0.0, 1.0]
    assert _run(capsys, *argv, "--scenes", "beta", "--fail")[0] == 0


def test_what_does_not_fit_is_refused_in_one_line(made, capsys, tmp_path):
    model, data = str(made / "out" / "model.safetensors"), str(made / "corpus")
    wanted = ("--data", data, "--out", str(tmp_path / "out"))
    twice = str(tmp_path / "twice")
    build(twice, (*SCENES, Scene("again", 4)))
    cases = [
        ((*SHORT, *wanted, "--hold-out", "beta", "--try", "steps=2"), "name them with --validate"),
        ((*SHORT, *wanted, "--hold-out", "beta", "--validate", "beta"), "named for testing and for choosing"),
        ((*SHORT, *wanted, "--hold-out", "@nowhere"), "nowhere"),
        ((*SHORT, "--data", twice, "--out", "x", "--hold-out", "delta-held"), "--same-ground drop"),
        (("map", model, "--data", data, "--out", str(tmp_path / "m.tif")), "4 scenes cannot go into one file"),
        (("map", model, "--data", data, "--out", str(tmp_path), "--vectors", "sea=line"), "no class 'sea'"),
        (("map", model, "--data", data, "--out", str(tmp_path), "--margin", "5"), "at most half of the overlap"),
        (("map", model, "--data", data, "--out", str(tmp_path), "--before", "beta"), "without --before"),
        (("score", model, "--data", data, "--scenes", "beta", "--lines", "road"), "no class 'road'"),
        (("leaks", str(tmp_path / "none"), "--data", data), "no corpus, no encoder"),
    ]
    for argv, message in cases:
        code, printed, err = _run(capsys, *argv)
        assert (code, printed) == (2, ""), (argv, err)
        assert message in err, (argv, err)
        assert err.count("\n") == 1, err


@pytest.mark.parametrize("command", ["train", "score", "leaks"])
def test_help_loads_nothing_heavy(command):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "finetune.cli", command, "--help"],
        capture_output=True,
        env={"COLUMNS": "80", "PATH": ""},
    )
    assert done.returncode == 0
    assert max(map(len, done.stdout.decode().splitlines())) <= 80
    loaded = {line.rsplit(b"|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert not loaded & {b"torch", b"rasterio", b"numba", b"pyarrow", b"matplotlib", b"ray", b"scipy", b"shapely"}
