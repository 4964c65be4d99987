"""The build: one corpus whatever the order, the workers and the interruptions; bad scenes are set aside, not fatal."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import webdataset
from PIL import Image

from infra import cluster
from infra.command import exit_code
from infra.errors import ConflictError
from ingest.build import build as run_build
from ingest.catalog import read_catalog
from ingest.cli import app
from ingest.recipe import Recipe
from ingest.simulate import simulate_alos2, simulate_sentinel1
from shards.manifest import read_manifest
from shards.reader import Corpus
from shards.verify import verify

SHAPE = {"rows": 300, "cols": 420}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two products of both sensors with labels, and a folder of plain 8-bit chips."""
    folder = tmp_path_factory.mktemp("scenes")
    simulate_sentinel1(folder / "s1", seed=1, lon=9, lat=45, **SHAPE)
    simulate_alos2(folder / "alos2", seed=1, lon=9, lat=45, **SHAPE)
    chips = folder / "chips"
    chips.mkdir()
    noise = np.random.default_rng(0)
    for number in range(5):
        Image.fromarray(noise.integers(1, 255, (256, 256), np.uint8)).save(chips / f"chip_{number}.png")
    (chips / "chips.yaml").write_text(
        "name: plain\nimage: '*.png'\npolarisations: [VH]\nquantity: amplitude\noffset_db: -50.0\n"
    )
    return folder


@pytest.fixture(scope="module", autouse=True)
def ray():
    with cluster.session(cpus=2):
        yield


def build(*arguments: object) -> int:
    return exit_code(app, ["build-sarsense", *map(str, arguments)])


@pytest.fixture(scope="module")
def corpus(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus")
    assert build(scenes, "--out", out) == 0
    return out


def test_everything_promised_is_there(corpus: Path) -> None:
    store, manifest = read_manifest(str(corpus))
    assert manifest.recipe_digest == Recipe().digest
    assert {s.sensor for s in manifest.sources} == {"sentinel-1", "alos-2", "chip"}
    assert len(manifest.sources) == 7
    assert manifest.tiles == sum(s.tiles for s in manifest.sources) == 5 + 2 * 4
    assert manifest.legend is not None
    assert len(manifest.index) == 1
    assert store.info(manifest.index[0].key).size == manifest.index[0].bytes
    page = (corpus / "report.html").read_text()
    for source in manifest.sources:
        assert source.id in page
    assert page.count("data:image/png;base64,") == 3 + 7


# webdataset leaves its files to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_plain_webdataset_reads_it(corpus: Path) -> None:
    opened = Corpus.open(str(corpus))
    urls = [str(corpus / shard.key) for shard in opened.manifest.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert len(samples) == len(opened)
    for sample in samples:
        tile = opened.tile(opened.find(sample["__key__"]))
        np.testing.assert_array_equal(sample["npy"], tile.pixels)
        assert sample["json"]["scene"] == tile.meta["scene"]


def test_order_and_workers_do_not_change_a_byte(scenes: Path, corpus: Path, tmp_path: Path) -> None:
    found = read_catalog(scenes, 16)
    paths = [s.path for u in found.units for s in u.sources if hasattr(s, "path")] + [str(scenes / "chips/chips.yaml")]
    for workers, order in ((1, sorted(paths)), (2, sorted(paths, reverse=True))):
        listing = tmp_path / f"{workers}.csv"
        with listing.open("w", newline="") as file:
            csv.writer(file).writerows([["path"], *[[path] for path in order]])
        assert build(listing, "--out", tmp_path / str(workers), "--workers", workers) == 0
        assert (tmp_path / str(workers) / "manifest.json").read_bytes() == (corpus / "manifest.json").read_bytes()


def test_a_second_run_resumes(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for resumed in (0, 3):
        assert build(scenes, "--out", tmp_path, "--json") == 0
        assert json.loads(capsys.readouterr().out)["resumed"] == resumed


def test_dry_run_shows_the_plan_and_touches_nothing(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(scenes, "--out", tmp_path / "new", "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["sources"], plan["tiles"], plan["rejects"]) == (7, 5 + 2 * 4, [])
    assert not (tmp_path / "new").exists()


def test_a_bad_scene_is_set_aside_and_taken_back_when_mended(
    scenes: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "scenes"
    shutil.copytree(scenes, copy)
    (tiff,) = copy.glob("s1/*.SAFE/measurement/*vv*.tiff")
    whole = tiff.read_bytes()
    tiff.write_bytes(whole[: len(whole) // 2])
    (copy / "chips/chip_2.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    out = tmp_path / "out"
    assert build(copy, "--out", out) == 3
    told = capsys.readouterr().err
    assert "2 sources were rejected; the manifest holds the others" in told
    _, manifest = read_manifest(str(out))
    assert len(manifest.sources) == 5
    kept = [json.loads(file.read_bytes()) for file in sorted((out / "quarantine").iterdir())]
    assert {reject["kind"] for reject in kept} == {"SceneRejected"}
    assert any("chip_2" in reject["reason"] for reject in kept)
    assert any(tiff.name in reject["reason"] for reject in kept)
    assert "chip_2" in (out / "report.html").read_text()

    tiff.write_bytes(whole)
    shutil.copy(scenes / "chips/chip_2.png", copy / "chips/chip_2.png")
    assert build(copy, "--out", out) == 0
    assert (out / "manifest.json").read_bytes() == (corpus / "manifest.json").read_bytes()
    assert not list((out / "quarantine").iterdir())


def test_labels_reach_the_tiles(corpus: Path, scenes: Path) -> None:
    opened = Corpus.open(str(corpus))
    (source,) = [s for s in opened.manifest.sources if s.sensor == "alos-2"]
    (raster,) = scenes.glob("alos2/*_labels.tif")
    with rasterio.open(raster, driver="GTiff") as file:
        truth = file.read(1)
    for number in opened.select(scenes=[source.id]):
        tile = opened.tile(int(number))
        row, col, rows, cols = tile.meta["window"]
        assert tile.label is not None
        np.testing.assert_array_equal(tile.label[:rows, :cols], truth[row : row + rows, col : col + cols])


def _built(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    return dict(json.loads(capsys.readouterr().out))


def test_a_relative_folder_is_a_catalog_too(
    scenes: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scenes.parent)
    assert build(scenes.name, "--out", tmp_path / "out") == 0
    assert (tmp_path / "out/manifest.json").read_bytes() == (corpus / "manifest.json").read_bytes()


def test_what_an_earlier_run_lost_is_made_again(
    scenes: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(corpus, out)
    next((out / "shards").glob("S1*.tar")).unlink()
    next((out / "units").glob("ALOS2*.json")).write_text("{")
    next((out / "units").glob("plain*.parquet")).unlink()
    assert build(scenes, "--out", out, "--json") == 0
    assert _built(capsys)["resumed"] == 0
    assert (out / "manifest.json").read_bytes() == (corpus / "manifest.json").read_bytes()
    assert verify(Corpus.open(str(out)), deep=True).ok


def test_other_labels_and_mended_files_are_not_taken_for_the_old(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, out = tmp_path / "scenes", tmp_path / "out"
    shutil.copytree(scenes / "alos2", copy)
    assert build(copy, "--out", out, "--json") == 0
    first = _built(capsys)
    (raster,) = copy.glob("*_labels.tif")
    with rasterio.open(raster, "r+", driver="GTiff") as file:
        file.write(np.zeros((300, 420), np.uint8), 1)
    assert build(copy, "--out", out, "--json") == 0
    second = _built(capsys)
    assert (second["resumed"], second["manifest"] == first["manifest"]) == (0, False)
    image = next(copy.glob("*/IMG-HH*"))
    data = bytearray(image.read_bytes())
    data[len(data) // 2] ^= 1
    image.write_bytes(data)
    assert build(copy, "--out", out, "--json") == 0
    assert _built(capsys)["resumed"] == 0


def test_labels_that_do_not_fit_are_a_reject(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "scenes"
    shutil.copytree(scenes / "alos2", copy)
    (raster,) = copy.glob("*_labels.tif")
    with rasterio.open(raster, "r+", driver="GTiff") as file:
        file.write(np.full((300, 420), 77, np.uint8), 1)
    assert build(copy, "--out", tmp_path / "out") == 1
    assert "holds the label 77" in capsys.readouterr().err


def test_two_chip_sets_of_one_name_are_refused(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        shutil.copytree(scenes / "chips", tmp_path / "in" / name)
    assert build(tmp_path / "in", "--out", tmp_path / "out") == 2
    assert "give one of the chip sets a 'name'" in capsys.readouterr().err


def test_names_with_spaces_are_no_obstacle(scenes: Path, tmp_path: Path) -> None:
    shutil.copytree(scenes / "chips", tmp_path / "in/my chips")
    spec = tmp_path / "in/my chips/chips.yaml"
    spec.write_text(spec.read_text().replace("name: plain", "name: my chips (1)"))
    assert build(tmp_path / "in", "--out", tmp_path / "out") == 0
    assert len(Corpus.open(str(tmp_path / "out"))) == 5


def test_a_build_that_was_overtaken_is_a_conflict(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, out = read_catalog(scenes / "chips", 16), tmp_path / "out"

    def other_publishes(done: int, tiles: int, rejects: int) -> None:
        (out / "manifest.json").write_text("{}")

    with pytest.raises(ConflictError, match="another build published"):
        run_build(found, str(out), Recipe(), progress=other_publishes)
    assert (out / "manifest.json").read_text() == "{}"


def test_workers_are_at_least_one(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(scenes, "--out", tmp_path / "out", "--workers", "0") == 2
    assert not (tmp_path / "out").exists()


def test_clock_time_zone_hash_seed_language_and_place_do_not_change_a_byte(
    scenes: Path, corpus: Path, tmp_path: Path
) -> None:
    """Another process on another machine, as far as one machine can be another: its clock is 26 hours ahead."""
    (tmp_path / "sitecustomize.py").write_text(
        "import time\nreal = time.time\ntime.time = lambda: real() + 26 * 3600\n"
    )
    shutil.copytree(scenes, tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    elsewhere = {
        "PYTHONPATH": str(tmp_path), "PYTHONHASHSEED": "77", "TZ": "Pacific/Kiritimati", "LC_ALL": "C",
        "HOSTNAME": "elsewhere", "USER": "nobody", "RAY_ADDRESS": "",
    }  # fmt: skip
    command = [sys.executable, "-c", "from ingest.cli import main; main()", "build-sarsense", "../moved"]
    ended = subprocess.run(
        [*command, "--out", "../out", "--workers", "7"],
        cwd=tmp_path / "elsewhere",
        env=os.environ | elsewhere,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "out/manifest.json").read_bytes() == (corpus / "manifest.json").read_bytes()
