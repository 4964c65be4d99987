"""Encoders side by side: the command, what it leaves, going on after a stop, and what it refuses."""

import io
import json
import re
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from labelled_corpus import PIXELS_DIGEST, SCALE, SCENES, Scene, build

from finetune.bench import run_bench
from finetune.bench_frozen import features
from finetune.bench_plan import make_plan, open_fold
from finetune.bench_units import Bench, Named, Probing, named
from finetune.bench_work import _rounds, do_job, labels_of
from finetune.cli import app
from finetune.config import CropConfig, DecoderConfig, FinetuneRun, TargetConfig, TaskConfig
from finetune.model import model_of
from finetune.statistics import read_runs_csv
from infra.command import exit_code
from infra.errors import UsageError
from infra.store import open_store
from pretrain.config import InputSpec
from pretrain.encoder import ResNet
from pretrain.export import EncoderCard, encoder_bytes, encoder_of
from shards.reader import Corpus

DIALS = ("--run", "few-labels-cpu", "--crop.size", "32", "--decoder.channels", "8", "--decoder.aux-weight", "0")
SHORT = (*DIALS, "--steps", "1", "--batch", "2", "--device", "cpu")
ALL = ("--stages", "2", "--fractions", "100")
QUIET = {"say": lambda _: None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus, and an encoder of each of two pretraining seeds."""
    made = tmp_path_factory.mktemp("bench")
    build(str(made / "corpus"))
    for seed in (0, 1):
        torch.manual_seed(7 + seed)
        card = EncoderCard(
            method="di3cl", depth=18, bands=1, input=InputSpec(lo_db=-30.0, hi_db=0.0), scale=SCALE,
            pixels_digest=PIXELS_DIGEST, manifest_digest="1" * 64, run_digest="2" * 64, step=9,
        )  # fmt: skip
        (made / f"ours-{seed}.safetensors").write_bytes(encoder_bytes(ResNet(18, 1), card))
    return made


def _argv(folder, out, *more: str) -> list[str]:
    argv = ["bench", "random", f"ours={folder}/ours-{{seed}}.safetensors"]
    return [*argv, "--data", f"water={folder}/corpus", "--out", str(out), "--seeds", "2", *SHORT, *more]


@dataclass(frozen=True)
class Done:
    """What the command left and said."""

    out: Path
    code: int
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def made(folder) -> Done:
    """An evaluation with an encoder that is not there among good ones."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = exit_code(app, _argv(folder, folder / "out", f"bad={folder}/none.pth", *ALL))
    return Done(folder / "out", code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def whole(folder):
    """Linear probes, with few and with all labels, in memory."""
    return run_bench(_bench(folder, out="memory://bench-whole"))


def _bench(folder, **more) -> Bench:
    run = FinetuneRun(
        depth=18, steps=1, batch=2, crop=CropConfig(size=32), decoder=DecoderConfig(channels=8, aux_weight=0)
    )
    given = {
        "encoders": (Named("random", "random"), Named("ours", f"{folder}/ours-{{seed}}.safetensors")),
        "data": (Named("water", f"{folder}/corpus"),),
        "out": "memory://bench",
        "run": run,
        "fractions": (0.3, 1.0),
        "seeds": 2,
        "uses": ("linear",),
        "probing": Probing(stages=(2,)),
    }
    return Bench(**(given | more))


def _records(url) -> dict[str, dict]:
    store = open_store(str(url))
    return {info.key: json.loads(store.get(info.key)) for info in store.list("units/")}


def test_a_bad_encoder_fails_alone_and_the_others_stand_in_the_tables(made):
    assert made.code == 3, made.stderr
    runs = read_runs_csv((made.out / "runs.csv").read_text())
    tasks = ("knn-2", "linear-2", "finetune")
    assert {(r.encoder, r.task) for r in runs} == {(e, t) for e in ("random", "ours") for t in tasks}
    assert len(runs) == 2 * 3 * 2
    assert {(r.seed, r.fold) for r in runs} == {(0, "0"), (1, "1")}
    assert "6 units of bad on water failed: no encoder at" in made.stderr
    assert made.stderr.splitlines()[-1].startswith("finetune: error: 6 of 18 units failed")
    assert len(list((made.out / "failed").iterdir())) == 6
    assert max(map(len, made.stdout.splitlines()[:-3])) <= 80
    table = (made.out / "table.csv").read_text().splitlines()
    assert len(table) == 1 + 3 * 3 * 2, "three scores, three uses, two encoders"
    assert not list((made.out / "work").iterdir()), "checkpoints go when a unit is done"


def test_probes_find_the_water_that_is_there(made):
    runs = read_runs_csv((made.out / "runs.csv").read_text())
    assert min(r.metrics["miou"] for r in runs if r.task == "linear-2") > 0.6
    records = _records(made.out).values()
    probes, trained = ([r for r in records if r["task"] == task] for task in ("linear-2", "finetune"))
    assert {sum(map(sum, r["matrix"])) for r in probes} == {48}, "cells of 16 px of one scene of 96 x 128"
    assert {sum(map(sum, r["matrix"])) for r in trained} == {93 * 128}, "three rows are unlabelled"
    assert {tuple(r["scenes"]) for r in trained} == {("alpha",), ("beta",)}


def test_draws_are_paired_and_smaller_shares_lie_within_larger_ones(whole):
    records = _records("memory://bench-whole")
    drawn: dict[tuple, set[str]] = {}
    for unit in whole.plan.units:
        key = unit.fraction, unit.seed, unit.fold
        drawn.setdefault(key, set()).add(json.dumps(records[unit.key]["labels"]))
    assert len(drawn) == 4
    assert all(len(labels) == 1 for labels in drawn.values()), "the same tiles for every encoder"
    assert len(set.union(*drawn.values())) == 4
    shares = {key[0]: json.loads(next(iter(labels)))["share"] for key, labels in drawn.items()}
    assert 0.3 <= shares[0.3] < 0.5
    assert shares[1.0] == 1
    job = whole.plan.jobs[0]
    fold = open_fold(job.data, job.manifest, job.held_out, job.setting)
    few, many = (labels_of(fold, replace(job.units[0], fraction=share), TaskConfig()).chosen for share in (0.3, 0.7))
    assert set(few.tolist()) < set(many.tolist())


def test_every_seed_has_the_encoder_of_its_own_pretraining(made, folder):
    asked = json.loads((made.out / "bench.json").read_text())
    assert len(set(asked["encoders"]["ours"]["digests"].values())) == 2
    alone = _bench(folder, encoders=(Named("x", f"{folder}/ours-1.safetensors"),), reference="x")
    single = {u.digest: u.seed for u in make_plan(alone, "cpu", **QUIET).units}
    both = {u.digest: u.seed for u in make_plan(_bench(folder), "cpu", **QUIET).units if u.encoder == "ours"}
    assert {seed for name, seed in both.items() if name in single} == {1}
    assert len(set(both) & set(single)) == len(both) // 2


def test_only_what_is_missing_is_done_again(made, folder, capsys):
    before = {path: path.read_bytes() for path in (made.out / "units").iterdir()}
    tables = {name: (made.out / name).read_bytes() for name in ("runs.csv", "table.csv")}
    gone = next(path for path in before if json.loads(before[path])["task"] == "linear-2")
    gone.unlink()
    times = {path: path.stat().st_mtime_ns for path in before if path != gone}
    assert exit_code(app, _argv(folder, made.out, *ALL)) == 0
    assert "1 of 12 units were done now" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in times} == times
    again, first = json.loads(gone.read_bytes()), json.loads(before[gone])
    assert again | {"seconds": 0} == first | {"seconds": 0}
    assert {name: (made.out / name).read_bytes() for name in tables} == tables


def test_a_stop_in_the_middle_loses_only_what_was_running(folder, whole):
    told = []

    def stopping(unit):
        told.append(unit)
        if len(told) == 1:
            raise KeyboardInterrupt

    cut = _bench(folder, out="memory://bench-cut")
    with pytest.raises(KeyboardInterrupt):
        do_job(make_plan(cut, "cpu", **QUIET).jobs[0], stopping)
    again = run_bench(cut)
    assert (whole.done, again.done) == (8, 7)
    assert again.runs == whole.runs
    assert again.lines == whole.lines


def test_a_worker_that_begins_again_does_only_what_is_left(folder, whole):
    job, told = whole.plan.jobs[0], []
    assert do_job(replace(job, encoder="memory://nowhere/at.all"), told.append) == {}, "nothing is opened"
    assert told == list(job.units)


def test_seeds_that_do_not_fit_into_memory_together_are_probed_in_turn(folder, monkeypatch):
    fixed = {"encoders": (Named("x", f"{folder}/ours-0.safetensors"),), "reference": "x", "hold_out": "alpha"}
    together = run_bench(_bench(folder, out="memory://bench-together", **fixed))
    assert [len(job.units) for job in together.plan.jobs] == [4], "two seeds share their features"
    read = []
    monkeypatch.setattr("finetune.bench_work.MOST_KNOWN", 1)
    monkeypatch.setattr("finetune.bench_work.features", lambda *args: read.append(len(args[3])) or features(*args))
    assert run_bench(_bench(folder, out="memory://bench-in-turn", **fixed)).runs == together.runs
    assert len(read) == 3, "the held-out cells, and those of each seed"


def test_a_share_without_cells_fails_alone(folder, monkeypatch):
    asked = _bench(folder, out="memory://bench-cells", hold_out="alpha", encoders=(Named("random", "random"),))
    units, cells = make_plan(asked, "cpu", **QUIET).jobs[0].units, np.arange(10)
    few, all_ = ((u.fraction, u.seed) for u in units[:2])
    assert next(_rounds(units, {few: cells[:0], all_: cells}, 5))[1].tolist() == cells.tolist()
    job = replace(make_plan(asked, "cpu", **QUIET).jobs[0], units=units[:1])
    monkeypatch.setattr("finetune.bench_work.draw_cells", lambda *given: np.arange(0 if given[3][0] else 9))
    (reason,) = do_job(job).values()
    assert "labelled by half: a smaller --cell" in reason


def test_notes_of_failures_and_work_left_behind_are_cleared(folder, tmp_path):
    missing, out = tmp_path / "later.safetensors", f"{tmp_path}/out"
    asked = _bench(folder, out=out, encoders=(Named("random", "random"), Named("later", str(missing))), seeds=1)
    store = open_store(out)
    store.put("failed/of-another.json", b'{"encoder": "other", "data": "water", "task": "knn-2"}')
    assert len(run_bench(asked).failed) == 2
    assert len(list(store.list("failed/"))) == 3
    missing.write_bytes((folder / "ours-0.safetensors").read_bytes())
    done = next(info.key for info in store.list("units/")).split("/")[1].removesuffix(".json")
    for name in (done, "still-running"):
        store.put(f"work/{name}/checkpoints/step-1", b"x")
    assert not run_bench(asked).failed
    assert [info.key for info in store.list("failed/")] == ["failed/of-another.json"]
    assert [info.key for info in store.list("work/")] == ["work/still-running/checkpoints/step-1"]


def test_the_page_carries_everything_itself(made):
    text = (made.out / "bench.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", text)
    assert "<script" not in text
    for words in ("Encoders side by side", "water: scores", "water: confusion", "ours, finetune: pixels of 2 runs",
                  "alpha: backscatter", "ours: prediction, and errors", "Held-out cells of stage 2"):  # fmt: skip
        assert words in text, words
    assert text.count("data:image/png;base64,") == 3 + 2 + 2 + 1, "curves, scene and truth, a map each, features"


def test_scenes_are_dealt_in_turn(folder):
    plan = make_plan(_bench(folder, seeds=3, folds=2), "cpu", **QUIET)
    assert plan.data["water"]["folds"] == {"0": ["alpha", "delta-held"], "1": ["beta", "gamma"]}
    assert {(u.seed, u.fold) for u in plan.units} == {(0, "0"), (1, "1"), (2, "0")}
    plan = make_plan(_bench(folder, seeds=3, folds=2, all_folds=True), "cpu", **QUIET)
    assert len({(u.seed, u.fold) for u in plan.units}) == 6
    plan = make_plan(_bench(folder, hold_out="gamma"), "cpu", **QUIET)
    assert plan.data["water"]["folds"] == {"held-out": ["gamma"]}
    # One job for a file and a fold, however many seeds; random weights are others for each seed.
    one = (Named("random", "random"), Named("one", f"{folder}/ours-0.safetensors"))
    plan = make_plan(_bench(folder, hold_out="gamma", encoders=one), "cpu", **QUIET)
    assert sorted((job.encoder.split("/")[-1], len(job.units)) for job in plan.jobs) == [
        ("ours-0.safetensors", 4), ("random", 2), ("random", 2),
    ]  # fmt: skip


def test_a_file_of_ids_is_read_once_and_travels_as_ids(folder, tmp_path):
    (tmp_path / "held.txt").write_text("gamma,chosen by hand\nbeta\n")
    plan = make_plan(_bench(folder, hold_out=f"{tmp_path}/held.txt"), "cpu", **QUIET)
    assert {job.held_out for job in plan.jobs} == {"gamma,beta"}
    same = make_plan(_bench(folder, hold_out="beta,gamma"), "cpu", **QUIET)
    assert [u.digest for u in plan.units] == [u.digest for u in same.units]


def test_the_same_weights_under_two_names_are_done_once(folder):
    twice = tuple(Named(name, f"{folder}/ours-0.safetensors") for name in ("one", "two"))
    found = run_bench(_bench(folder, out="memory://bench-twice", encoders=twice, reference="one", hold_out="beta"))
    assert (len(found.plan.units), found.done) == (8, 4)
    assert {line.encoder: line.versus and line.versus.difference for line in found.lines} == {"one": None, "two": 0.0}


def test_random_weights_of_another_depth_are_told(folder):
    said: list[str] = []
    plan = make_plan(_bench(folder, run=_bench(folder).run.model_copy(update={"depth": 34})), "cpu", said.append)
    assert said == [
        "warning: random is a ResNet-34, but ours is a ResNet-18: --depth makes random weights of equal depth"
    ]
    assert [facts["depth"] for facts in plan.encoders.values()] == [34, 18]


def test_an_encoder_that_has_seen_the_corpus_is_told(folder, tmp_path):
    network, card = encoder_of((folder / "ours-0.safetensors").read_bytes(), "ours")
    card = card.model_copy(update={"manifest_digest": Corpus.open(f"{folder}/corpus").manifest.digest})
    (tmp_path / "seen.safetensors").write_bytes(encoder_bytes(network, card))
    said: list[str] = []
    asked = {"encoders": (Named("seen", f"{tmp_path}/seen.safetensors"),), "reference": "seen"}
    plan = make_plan(_bench(folder, **asked), "cpu", said.append)
    assert len(said) == 1
    assert said[0].endswith("held-out scenes included: scores will flatter (seen on water)")
    assert plan.data["water"]["notes"] == [f"seen: {said[0].removesuffix(' (seen on water)')}"]


def test_whole_tiles_are_probed_too(folder):
    run = _bench(folder).run.model_copy(update={"task": TaskConfig(kind="classification")})
    asked = {"run": run, "uses": ("knn", "linear"), "seeds": 1, "encoders": (Named("random", "random"),)}
    found = run_bench(_bench(folder, out="memory://bench-tiles", **asked))
    assert {(r.task, r.fraction) for r in found.runs} == {
        (f"{u}-2", share) for u in asked["uses"] for share in (0.3, 1)
    }
    tiles = [r["cells"]["scored"] for r in _records("memory://bench-tiles").values()]
    assert tiles == [4] * 4, "the held-out scene has 2 x 2 tiles"
    assert b"costs its whole share of the mean" in open_store("memory://bench-tiles").get("bench.html")
    assert all(line.metric in ("oa", "mf1") for line in found.lines)


def test_names_of_encoders():
    given = [
        "random",
        "a=/x/y.pth",
        "/runs/good/encoder.safetensors",
        "s3://b/r50.pth",
        "/other/good/model.safetensors",
    ]
    assert [one.name for one in named(given, "e")] == ["random", "a", "good", "r50", "other-good"]
    assert named(["x=/e-{seed}.pt"], "e")[0].of_seed(3) == "/e-3.pt"
    with pytest.raises(UsageError, match="name a is given twice"):
        named(["a=/x", "a=/y"], "encoder")


def test_what_cannot_be_is_refused_in_one_line(folder, tmp_path, capsys):
    twice = tmp_path / "twice"
    build(str(twice), (*SCENES, Scene("again", 4)))
    cases = [
        ((*_argv(folder, tmp_path / "o"), "--folds", "5"), "4 labelled scenes, too few for 5 folds"),
        ((*_argv(folder, tmp_path / "o"), "--use", "knn,guess"), "--use guess does not apply"),
        ((*_argv(folder, tmp_path / "o"), "--stages", "5"), "expected some of 1,2,3,4"),
        ((*_argv(folder, tmp_path / "o"), "--stages", ","), "expected some of 1,2,3,4"),
        ((*_argv(folder, tmp_path / "o"), "--use", ","), "--use is empty: expected some of knn,linear,finetune"),
        ((*_argv(folder, tmp_path / "o"), "--cell", "20"), "expected 4, 8, 16 or 32"),
        ((*_argv(folder, tmp_path / "o"), "--cells", "-5"), "--cells -5: expected 1 or more"),
        ((*_argv(folder, tmp_path / "o"), "--workers", "0"), "--workers 0: expected 1 or more"),
        ((*_argv(folder, tmp_path / "o"), "--reference", "theirs"), "there are random, ours"),
        ((*_argv(folder, tmp_path / "o"), "--fractions", "0"), "no share of labels"),
        (_argv(folder, tmp_path / "o", "ours=random"), "name ours is given twice"),
        (("bench", "random", "--data", str(twice), "--out", str(tmp_path / "o"), *SHORT), "scores would flatter"),
        (
            (*_argv(folder, tmp_path / "o"), "--task.kind", "regression", "--task.target.share-of", "water"),
            "--use knn,linear does not apply to the task regression; what applies: finetune",
        ),
    ]
    for argv, message in cases:
        code = exit_code(app, list(argv))
        out, err = capsys.readouterr()
        assert (code, out) == (2, ""), (argv, err)
        assert message in err, (argv, err)
        assert err.count("\n") == 1, err
    assert not (tmp_path / "o").exists()


def test_nothing_but_failures_is_an_error(folder, tmp_path, capsys):
    argv = ("bench", f"{folder}/none.pth", "--data", f"{folder}/corpus", "--out", str(tmp_path / "o"), *SHORT, *ALL)
    assert exit_code(app, list(argv)) == 1
    assert "15 of 15 units failed" in capsys.readouterr().err
    assert (tmp_path / "o" / "bench.html").read_text().count("could not be opened") == 1


def test_numbers_of_a_regression_stand_side_by_side(folder, capsys):
    task = TaskConfig(kind="regression", target=TargetConfig(share_of=("water",)))
    run = _bench(folder).run.model_copy(update={"task": task})
    asked = {"encoders": (Named("random", "random"),), "uses": ("finetune",), "fractions": (1.0,), "seeds": 1}
    found = run_bench(_bench(folder, run=run, out="memory://bench-values", keep_models=True, **asked))
    assert [line.metric for line in found.lines] == ["rmse", "r2"]
    assert found.runs[0].metrics["values"] == 93 * 128
    store, (unit,) = open_store("memory://bench-values"), found.plan.units
    assert b"Maps come with fine-tuning of segmentation" in store.get("bench.html")
    _, card = model_of(store.get(f"models/{unit.digest}.safetensors"), "model")
    assert (card.held_out, card.scores) == (("alpha",), found.runs[0].metrics)


def test_ground_that_is_shared_can_be_left_out(tmp_path, folder):
    build(str(tmp_path / "twice"), (*SCENES, Scene("again", 4)))
    data = (Named("twice", str(tmp_path / "twice")),)
    plan = make_plan(_bench(folder, data=data, hold_out="again", same_ground="drop"), "cpu", **QUIET)
    assert "they are left out" in plan.data["twice"]["notes"][0]


def test_help_loads_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "finetune.cli", "bench", "--help"],
        capture_output=True,
        env={"COLUMNS": "80", "PATH": ""},
    )
    assert done.returncode == 0
    assert max(map(len, done.stdout.decode().splitlines())) <= 80
    loaded = {line.rsplit(b"|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert not loaded & {b"torch", b"rasterio", b"numba", b"pyarrow", b"matplotlib", b"ray", b"scipy", b"shapely"}


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_and_ends_with_the_same_tables(made, folder, tmp_path):
    argv = [sys.executable, "-m", "finetune.cli", *_argv(folder, tmp_path / "cut", *ALL)]
    units = tmp_path / "cut" / "units"
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        while running.poll() is None and not (units.is_dir() and len(list(units.glob("*.json"))) > 8):
            time.sleep(0.05)
        running.kill()
    done = len(list(units.glob("*.json")))
    assert 8 < done < 12
    assert exit_code(app, _argv(folder, tmp_path / "cut", *ALL)) == 0
    for name in ("runs.csv", "table.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (made.out / name).read_bytes()


@pytest.mark.slow
def test_in_a_bucket_all_is_the_same(made, folder, s3_url, capsys):
    build(f"{s3_url}/corpus")
    store = open_store(s3_url)
    for seed in (0, 1):
        store.put(f"ours-{seed}.safetensors", (folder / f"ours-{seed}.safetensors").read_bytes())
    assert exit_code(app, _argv(s3_url, f"{s3_url}/out", *ALL)) == 0, capsys.readouterr().err
    for name in ("runs.csv", "table.csv"):
        assert store.get(f"out/{name}") == (made.out / name).read_bytes()
    assert b"alpha: backscatter" in store.get("out/bench.html")
    assert not list(store.list("out/work/")), "checkpoints go when a unit is done"
    assert exit_code(app, _argv(s3_url, f"{s3_url}/out", *ALL)) == 0
    assert "0 of 12 units were done now" in capsys.readouterr().out


@pytest.mark.slow
def test_workers_on_ray_find_the_same_numbers(made, folder, tmp_path):
    assert exit_code(app, _argv(folder, tmp_path / "ray", *ALL, "--workers", "2")) == 0
    for name in ("runs.csv", "table.csv"):
        assert (tmp_path / "ray" / name).read_bytes() == (made.out / name).read_bytes()
