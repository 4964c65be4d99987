"""The page of a run, the record of its environment, and how both treat what is damaged, unfinished or secret."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from pretrain_corpus import make_corpus

from infra.command import command_app, exit_code
from infra.errors import UsageError
from infra.log import left_text, rate_text
from infra.store import open_store
from pretrain.cli_report import export, report
from pretrain.di3cl_run import DI3CLRun
from pretrain.environment import machine, read_starts, record_start, redacted
from pretrain.launch import Job, launch
from pretrain.report import report as page_of
from pretrain.report_figures import MOST_POINTS, panels, thinned
from pretrain.watch_config import WatchConfig

APP = command_app("pretrain", "test")
APP.command(report)
APP.command(export)
SMALL = DI3CLRun.model_validate(
    {
        "steps": 3, "batch": 4, "log_every": 1, "lanes": 2, "checkpoint": {"every": 2},
        "encoder": {"depth": 18}, "views": {"size_px": 32, "min_box_px": 8, "boxes": 4},
        "heads": {"hidden": 16, "dim": 8}, "contrast": {"queue": 8},
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    make_corpus(f"{folder}/corpus", tiles=8, size=48)
    watched = SMALL.model_copy(update={"watch": WatchConfig(every=2, pictures=2)})
    launch(Job("di3cl", watched, f"{folder}/corpus", f"{folder}/run", "cpu", 1))
    return folder


def test_a_page_has_everything_and_needs_nothing(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = run / "page.html"
    assert exit_code(APP, ["report", f"{run}/run", "--out", str(out), "--tiles", "2"]) == 0
    assert capfd.readouterr().out == f"{out}\n"
    text = out.read_text()
    assert page_of(f"{run}/run", tiles=2) == out.read_bytes()
    assert not re.search(r"<script|https?://|src=\"(?!data:)|@import|url\(", text)
    assert text.count("data:image/png") == 1 + 1 + 2  # curves, one look, two tiles
    record = json.loads((run / "run/run.json").read_text())
    for wanted in (record["digest"], record["run"]["manifest"], "3 of 3, finished", "after step 1",
                   "the exported encoder", "views.size_px", "checkpoints/step-000000003", "Python 3"):  # fmt: skip
        assert wanted in text


def test_an_unfinished_run_shows_its_newest_checkpoint_and_exports_nothing(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import shutil

    shutil.copytree(run / "run", tmp_path / "run")
    (tmp_path / "run/encoder.safetensors").unlink()
    text = page_of(f"{tmp_path}/run").decode()
    assert "the encoder after 3 steps" in text
    assert "not yet: it is left at the end" in text
    command = ["export", f"{tmp_path}/run", "--format", "timm", "--out", f"{tmp_path}/out"]
    assert exit_code(APP, command) == 2
    assert "has not left an encoder yet: it has done 3 of 3 steps" in capfd.readouterr().err
    for key in ("environment.json", "metrics/000000000.jsonl"):
        (tmp_path / "run" / key).write_text("{")
    shutil.rmtree(tmp_path / "run/checkpoints")
    with pytest.raises(UsageError, match="cannot be read"):
        page_of(f"{tmp_path}/run")
    shutil.rmtree(tmp_path / "run/metrics")
    text = page_of(f"{tmp_path}/run", data=f"{run}/corpus").decode()
    for said in ("Nothing is logged yet", "Not shown: there is no checkpoint yet", "Not recorded", "None yet"):
        assert said in text
    (tmp_path / "run/run.json").write_text("[]")
    with pytest.raises(UsageError, match="cannot be read"):
        page_of(f"{tmp_path}/run")
    with pytest.raises(UsageError, match="no run at"):
        page_of(f"{tmp_path}/absent")


def test_a_finished_run_is_exported_with_what_it_was(run: Path, tmp_path: Path) -> None:
    assert exit_code(APP, ["export", f"{run}/run", "--format", "timm", "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out/README.md").read_text()
    assert "learned on 32 px" in text
    assert "8 tiles of 1 scenes: chip" in text
    assert "| views.size_px | 32 |" in text
    item = json.loads((tmp_path / "out/mlm.json").read_text())
    assert item["properties"]["mlm:hyperparameters"]["dials"]["views"]["size_px"] == 32


def test_every_start_is_recorded_without_secrets(run: Path, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for _ in range(2):
        record_start(store, place="rank 0", command=["pretrain", "--api-key", "abc123"], data="s3://b/c", ranks=2)
    starts = read_starts(store)
    assert len(starts) == 2
    assert starts[1]["command"] == ["pretrain", "--api-key", "(hidden)"]
    assert set(machine()) <= set(starts[0])
    (recorded,) = read_starts(open_store(f"{run}/run"))
    assert recorded["versions"]["torch"] == machine()["versions"]["torch"]
    assert recorded["data"].endswith("/corpus")
    store.put("environment.json", b"[1")
    assert read_starts(store) == []


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["x", "--token", "t0p", "--out", "o"], ["x", "--token", "(hidden)", "--out", "o"]),
        (["x", "--password=t0p"], ["x", "--password=(hidden)"]),
        (["AWS_SECRET_ACCESS_KEY=t0p"], ["AWS_SECRET_ACCESS_KEY=(hidden)"]),
        (["https://me:t0p@host/a"], ["https://(hidden)@host/a"]),
        (["https://host/a?X-Amz-Signature=t0p"], ["https://host/a?(hidden)"]),
        (["AKIAABCDEFGHIJKLMNOP"], ["(hidden)"]),
        ([f"{Path.home()}/data"], ["~/data"]),
        (["--data", "s3://bucket/corpus", "--steps", "3"], ["--data", "s3://bucket/corpus", "--steps", "3"]),
    ],
)
def test_command_lines_are_shown_without_secrets(given: list[str], shown: list[str]) -> None:
    assert redacted(given) == shown
    assert "t0p" not in json.dumps(redacted(given))


def test_numbers_find_their_panel_and_infinite_ones_are_left_out() -> None:
    lines = [
        {"step": 0, "loss": 2.0, "loss_region": float("nan"), "lr": 0.1, "new": 5, "word": "x"},
        {"step": 9, "loss": 1.0, "loss_region": 3.0, "lr": 0.2},
    ]
    found = panels(lines)
    assert set(found) == {"losses", "learning rate", "other numbers"}
    assert {n: [a.tolist() for a in pair] for n, pair in found["losses"].items()} == {
        "loss": [[0, 9], [2, 1]],
        "loss_region": [[9], [3]],
    }
    assert list(found["other numbers"]) == ["new"]


def test_long_curves_are_averaged_over_equal_stretches() -> None:
    steps = np.arange(10_000.0)
    thin_steps, values = thinned(steps, 2 * steps)
    assert len(values) <= MOST_POINTS
    assert values[0] == 2 * np.mean(steps[:7])
    assert values[-1] == 2 * thin_steps[-1]


def test_rates_and_times_left_read_well() -> None:
    assert (rate_text(0), rate_text(12.345), rate_text(0.25)) == ("", "12.3/s", "4 s each")
    assert left_text(60, 130, 100, 160) == "0:01:00 left"
    assert left_text(3600, 1, 0, 26) == "25:00:00 left"
    assert left_text(60, 100, 100, 160) == left_text(60, 160, 100, 160) == ""
