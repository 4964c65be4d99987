"""The command: help, options over file over named run, refusals, and a small run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pretrain_corpus import make_corpus

from infra.command import exit_code
from infra.errors import UsageError
from pretrain.cli import app
from pretrain.config import Optim, named_runs, resolve
from pretrain.di3cl_run import DI3CLRun
from pretrain.methods import RUNS, TITLES
from pretrain.pair_run import ViewConfig


def test_help_needs_no_torch_and_fits_eighty_columns():
    code = (
        "import sys; from infra.command import exit_code; from pretrain.cli import app;"
        "code = exit_code(app, sys.argv[1:]);"
        "heavy = {'torch', 'numba', 'ray', 'boto3', 'pyarrow'} & set(sys.modules); sys.exit(code or len(heavy))"
    )
    for command in (["--help"], ["di3cl", "--help"], ["pixpro", "--help"], ["show", "--help"], ["runs"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *command], capture_output=True, text=True, env={"COLUMNS": "80"}
        )
        assert done.returncode == 0, done.stderr
        assert command == ["runs"] or max(len(line) for line in done.stdout.splitlines()) <= 80
    assert (
        "pre-train"
        in subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True).stdout.lower()
    )


def test_options_beat_file_beats_named_run_beats_defaults(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"batch": 32, "seed": 3, "optim": {"lr": 0.2, "momentum": 0.8}}))
    options = DI3CLRun(seed=4, optim=Optim(lr=0.5))
    found = resolve(DI3CLRun, run="di3cl_laptop", config=str(file), options=options)
    assert (found.seed, found.optim.lr) == (4, 0.5)  # options
    assert (found.batch, found.optim.momentum) == (32, 0.8)  # file
    assert (found.encoder.depth, found.optim.warmup_steps) == (18, 10)  # named run
    assert found.views.flip_share == ViewConfig().flip_share  # default


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: {lrr: 1}", r"run\.yaml: optim\.lrr: no such field \(did you mean lr\?\)"),
        ("stepz: 1", r"stepz: no such field \(did you mean steps\?\)"),
        ("steps: 0\nbatch: many", r"steps: Input should be greater.*; batch: Input should be a valid integer"),
        ("- 1", "expected names and values, found list"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_every_fault(tmp_path: Path, text: str, message: str):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        resolve(DI3CLRun, config=str(tmp_path / "run.yaml"))


def test_an_unknown_run_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean di3cl_laptop"):
        resolve(DI3CLRun, run="di3cl_labtop")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--optim.lrr", "1"], "Did you mean --optim.lr"),
        (["--encoder.depth", "19"], "18, 34, 50 or 101"),
        (["--steps", "0"], "greater than or equal to 1"),
        (["--run", "absent"], "the named runs are"),
        (["--config", "absent.yaml"], "no configuration file absent.yaml"),
    ],
)
def test_wrong_options_end_with_code_2_and_a_reason(
    options: list[str], message: str, capfd: pytest.CaptureFixture[str]
):
    assert exit_code(app, ["di3cl", "--data", "d", "--out", "o", *options]) == 2
    assert message in " ".join(capfd.readouterr().err.split())


def test_a_run_from_the_command_line_and_its_show(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    make_corpus(f"{tmp_path}/corpus", tiles=8, size=48)
    out = f"{tmp_path}/out"
    command = [
        "di3cl", "--data", f"{tmp_path}/corpus", "--out", out, "--run", "di3cl_laptop", "--device", "cpu",
        "--threads", "1", "--steps", "2", "--batch", "4", "--views.size-px", "32", "--views.min-box-px", "8",
        "--heads.hidden", "16", "--contrast.queue", "8", "--views.area", "0.3", "1.0",
    ]  # fmt: skip
    assert exit_code(app, command) == 0
    assert capfd.readouterr().out == f"{out}/encoder.safetensors\n"
    assert exit_code(app, ["show", out]) == 0
    assert "steps 2 of 2; checkpoints at 2; encoder there" in capfd.readouterr().out
    assert exit_code(app, ["show", out, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["run"]["dials"]["views"]["area"] == [0.3, 1.0]
    # Without --views.area this is another run, and its place is taken.
    assert exit_code(app, command[:-3]) == 2
    assert "another --out" in capfd.readouterr().err


def test_show_of_nothing_and_a_missing_corpus_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert exit_code(app, ["show", str(tmp_path)]) == 2
    assert "no run at" in capfd.readouterr().err
    assert exit_code(app, ["di3cl", "--data", f"{tmp_path}/absent", "--out", f"{tmp_path}/out"]) == 2
    assert "absent" in capfd.readouterr().err


def test_named_runs_are_listed_with_method_and_a_line_each(capfd: pytest.CaptureFixture[str]):
    assert exit_code(app, ["runs"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == named_runs()
    assert {line.split()[1] for line in lines} == set(RUNS)
    (paper,) = (line for line in lines if line.startswith("di3cl_paper "))
    assert "di3cl    DI3CL as published: Ren et al." in paper


@pytest.mark.parametrize("method", RUNS)
def test_every_method_is_a_command_with_its_own_defaults(method: str, capfd: pytest.CaptureFixture[str]):
    assert exit_code(app, [method, "--help"]) == 0
    text = " ".join(capfd.readouterr().out.split())
    run = RUNS[method]()
    assert f"Pre-train with {TITLES[method]}." in text
    assert f"[default: {run.heads.hidden}]" in text.split("--heads.hidden", 1)[1][:160]  # type: ignore[attr-defined]
    assert f"[default: {run.optim.lr}]" in text.split("--optim.lr FLOAT", 1)[1][:160]
    assert exit_code(app, [method, "--data", "d", "--out", "o", "--stepz", "1"]) == 2


def test_a_run_of_another_method_is_refused_with_both_names(capfd: pytest.CaptureFixture[str]):
    assert exit_code(app, ["moco", "--data", "d", "--out", "o", "--run", "di3cl_laptop"]) == 2
    told = " ".join(capfd.readouterr().err.split())
    assert "run di3cl_laptop is for di3cl, not for moco" in told
    assert "take a run of moco: moco_laptop" in told


def test_a_baseline_runs_from_the_command_line_with_options_over_its_named_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    make_corpus(f"{tmp_path}/corpus", tiles=8, size=48)
    out = f"{tmp_path}/out"
    command = [
        "byol", "--data", f"{tmp_path}/corpus", "--out", out, "--run", "byol_laptop", "--threads", "1",
        "--steps", "1", "--batch", "4", "--views.size-px", "32", "--views.min-box-px", "8", "--heads.dim", "16",
    ]  # fmt: skip
    assert exit_code(app, command) == 0
    assert capfd.readouterr().out == f"{out}/encoder.safetensors\n"
    assert exit_code(app, ["show", out, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["method"], found["steps"], found["encoder"]) == ("byol", 1, True)
    assert found["run"]["dials"]["heads"] == {"hidden": 512, "dim": 16}  # one of the option, one of the named run
