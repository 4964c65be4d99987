"""The README's own commands, one after the other: from simulated scenes to a map, small enough for every run."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

from finetune.cli import app as finetune
from infra.command import exit_code
from infra.log import read_lines
from infra.store import open_store
from ingest.cli import app as ingest
from pretrain.cli import app as pretrain
from pretrain.run_folder import METRICS
from shards.cli import app as shards
from shards.manifest import read_manifest

RECIPE = "tiles: {size: 96}\nshards: {codec: blosc2}\n"
TINY_PRETRAINING = """\
steps: 3
batch: 8
log_every: 1
encoder: {depth: 18}
views: {size_px: 64, min_box_px: 16}
heads: {hidden: 32, dim: 16}
contrast: {queue: 32}
"""
TINY_TASK = """\
steps: 3
batch: 4
depth: 18
decoder: {channels: 16, aux_channels: 16}
crop: {size: 64}
"""


def test_from_scene_to_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in (("recipe", RECIPE), ("pretraining", TINY_PRETRAINING), ("task", TINY_TASK)):
        (tmp_path / f"{name}.yaml").write_text(text)
    at = {name: str(tmp_path / name) for name in ("scenes", "corpus", "di3cl", "landcover", "map.tif")}
    yaml = {name: str(tmp_path / f"{name}.yaml") for name in ("recipe", "pretraining", "task")}

    def run(app, *command: str) -> str:
        assert exit_code(app, list(command)) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    run(ingest, "simulate", "catalog", at["scenes"], "--scenes", "4", "--rows", "200", "--cols", "300")
    catalog = f"{at['scenes']}/catalog.csv"
    run(ingest, "build-sarsense", catalog, "--out", at["corpus"], "--recipe", yaml["recipe"], "--workers", "1")
    assert "whole" in run(shards, "verify", at["corpus"], "--deep")

    _, manifest = read_manifest(at["corpus"])
    assert [source.sensor for source in manifest.sources] == ["alos-2", "alos-2", "sentinel-1", "sentinel-1"]
    last = manifest.sources[-1]
    twin = manifest.sources[1]

    tiny = ("--config", yaml["pretraining"], "--device", "cpu")
    run(pretrain, "di3cl", "--data", at["corpus"], "--out", at["di3cl"], *tiny)
    logged = read_lines(open_store(at["di3cl"]), METRICS)
    assert [line["step"] for line in logged] == [0, 1, 2]
    assert all(np.isfinite(line["loss"]) for line in logged)

    run(
        finetune, "train", "--data", at["corpus"], "--encoder", f"{at['di3cl']}/encoder.safetensors",
        "--out", at["landcover"], "--hold-out", f"{last.id},{twin.id}", "--config", yaml["task"], "--device", "cpu",
    )  # fmt: skip
    record = json.loads((tmp_path / "landcover/scores.json").read_bytes())
    assert set(record["summary"]) >= {"miou", "miou_no_background", "oa", "kappa"}

    model = f"{at['landcover']}/model.safetensors"
    run(finetune, "map", model, "--data", at["corpus"], "--scene", last.id, "--out", at["map.tif"], "--device", "cpu")
    with rasterio.open(at["map.tif"], driver="GTiff") as file:
        assert (file.height, file.width) == last.shape == (200, 300)
        assert file.gcps[0], "a scene in radar geometry is placed by ground control points"
        classes = {c["id"] for c in manifest.legend["classes"]} if manifest.legend else set()
        assert set(np.unique(file.read(1)).tolist()) <= classes | {255}
    assert (tmp_path / "map.png").stat().st_size > 1000
