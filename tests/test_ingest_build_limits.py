"""Limits and sampling in a whole build: what is left out is counted, told, and the same for any order and workers."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from infra import cluster
from infra.command import exit_code
from ingest.cli import app
from ingest.simulate import simulate_alos2, simulate_sentinel1
from shards.manifest import read_manifest
from shards.reader import Corpus
from shards.verify import verify

SHAPE = {"rows": 160, "cols": 192}
LAND = {"type": "Polygon", "coordinates": [[[0, 40], [9, 40], [9, 50], [0, 50], [0, 40]]]}  # the coast is at 9 degrees


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes across the coast, one of each sensor, and one at sea."""
    folder = tmp_path_factory.mktemp("scenes")
    simulate_sentinel1(folder / "coast", seed=1, lon=9, lat=45, **SHAPE)
    simulate_alos2(folder / "alos2", seed=1, lon=9, lat=45, **SHAPE)
    simulate_sentinel1(folder / "sea", seed=2, lon=30, lat=45, **SHAPE)
    (folder / "land.geojson").write_text(json.dumps(LAND))
    return folder


@pytest.fixture(scope="module", autouse=True)
def ray():
    with cluster.session(cpus=2):
        yield


def build(catalog: Path, out: Path, recipe: str, *options: object) -> int:
    out.parent.mkdir(parents=True, exist_ok=True)
    file = out.parent / f"{out.name}.yaml"
    file.write_text(recipe)
    return exit_code(
        app, ["build-sarsense", str(catalog), "--out", str(out), "--recipe", str(file), "--json", *map(str, options)]
    )


def test_sampling_knows_neither_order_nor_workers(scenes: Path, tmp_path: Path) -> None:
    land = scenes / "land.geojson"
    recipe = (
        f"tiles: {{size: 32, overlap: 8, min_contrast_db: 0.1, land: {land}}}\n"
        "sampling: {keep: {water: 0.5}, max_tiles_per_stratum: 9, max_tiles_per_scene: 20, seed: 3}\n"
    )
    products = sorted(str(path) for path in scenes.glob("*/*") if path.is_dir())
    assert len(products) == 3
    manifests = []
    for name, workers, listed in (("a", 1, products), ("b", 2, products[::-1])):
        catalog = tmp_path / f"{name}.csv"
        with catalog.open("w", newline="") as file:
            csv.writer(file).writerows([["path"], *[[path] for path in listed]])
        assert build(catalog, tmp_path / name, recipe, "--workers", workers) == 0
        manifests.append((tmp_path / name / "manifest.json").read_bytes())
    assert manifests[0] == manifests[1]
    assert str(scenes).encode() not in manifests[0]
    corpus = Corpus.open(str(tmp_path / "a"))
    assert verify(corpus, deep=True).ok  # the index says what every tile's JSON says
    assert max(source.tiles for source in corpus.manifest.sources) <= 20
    rows = corpus.table.to_pydict()
    assert {row for row in rows["land_share"] if 0 < row < 1}
    np.testing.assert_allclose(np.add(rows["land_share"], rows["water_share"]), 1, atol=2e-6)
    assert min(rows["contrast_db"]) >= 0.1
    low, mean, high = (np.array(rows[name]) for name in ("p02_db", "mean_db", "p98_db"))
    assert ((low < mean) & (mean < high)).all()
    page = (tmp_path / "a/report.html").read_text()
    counts = [json.loads(file.read_bytes())["tally"] for file in (tmp_path / "a/units").glob("*.json")]
    had, kept = (sum(sum(count[name].values()) for count in counts) for name in ("had", "kept"))
    dropped = sum(count["dropped"]["sampling"] for count in counts)
    assert (kept, had) == (len(corpus), len(corpus) + dropped)
    assert f'<td>sampling</td><td class="number">{dropped:,}</td>' in page


def test_a_scene_without_a_wanted_tile_is_no_reject(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = f"tiles: {{size: 64, land: {scenes / 'land.geojson'}, min_land_share: 0.2}}"
    for resumed in (0, 3):
        assert build(scenes, tmp_path / "out", recipe) == 0
        result = json.loads(capsys.readouterr().out)
        assert (result["units"], result["resumed"], result["rejects"], result["left_out"]) == (3, resumed, 0, 1)
    assert len(read_manifest(str(tmp_path / "out"))[1].sources) == 2
    page = (tmp_path / "out/report.html").read_text()
    assert "the recipe wants no tile of it: 9 for too little land" in page
    assert build(scenes / "sea", tmp_path / "sea", recipe) == 1
    assert "0 sources were rejected and the recipe wants no tile of 1" in capsys.readouterr().err


def test_land_polygons_that_cannot_be_used_stop_the_build_at_once(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "land.json").write_text('{"type": "Point", "coordinates": [1, 2]}')
    assert build(scenes, tmp_path / "out", f"tiles: {{land: {tmp_path / 'land.json'}}}") == 2
    assert "expected polygons and nothing else, found Point" in capsys.readouterr().err


def test_a_build_stands_as_many_failures_as_it_was_told(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog = tmp_path / "catalog.csv"
    paths = [str(path) for path in scenes.glob("*/*") if path.is_dir()]
    catalog.write_text("\n".join(["path", *paths, "/nowhere/S1A_X.SAFE", ""]))
    recipe, out = "tiles: {size: 64}", tmp_path / "out"
    for limit in ("0", "24%"):
        assert build(catalog, out, recipe, "--max-failures", limit) == 1
        told = capsys.readouterr().err
        assert "1 sources were rejected, more than the 0 allowed; nothing was published" in told
        assert "S1A_X" in told
        assert not (out / "manifest.json").exists()
        assert len(list((out / "quarantine").iterdir())) == 1
    assert build(catalog, out, recipe, "--max-failures", "25%") == 0
    assert build(catalog, out, recipe) == 3
    assert build(catalog, out, recipe, "--max-failures", "some") == 2
