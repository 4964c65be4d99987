"""Of the copies of one acquisition the best is kept, whatever the order; if it is bad, the next takes its place."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from product_copies import blacken, copy_product, spoil

from infra import cluster
from infra.command import exit_code
from ingest.catalog import read_catalog
from ingest.cli import app
from ingest.duplicates import Copy, find_copies, group_copies, version
from ingest.recipe import Pixels
from ingest.simulate import simulate_alos2, simulate_sentinel1
from shards.manifest import read_manifest

OLDER = {"003.40": "003.39"}


def test_versions_count_as_numbers() -> None:
    assert version("Sentinel-1 IPF 003.40") == version("Sentinel-1 IPF 3.40") == (3, 40)
    assert version("Sentinel-1 IPF 002.91") < version("Sentinel-1 IPF 003.04") < version("Sentinel-1 IPF 003.40")
    assert version(None) == version("SNAP") == ()


def a_copy(name: str, seen: str = "a", processing: str | None = "IPF 3.4", labelled: bool = False) -> Copy:
    return Copy(f"unit-{name}", name, (seen,), processing, labelled)


def test_labels_come_first_then_the_newest_then_the_first_name() -> None:
    ranked = [
        a_copy("z", processing=None, labelled=True),
        a_copy("y", processing="IPF 003.10"),
        a_copy("x", processing="IPF 003.9.1"),
        a_copy("c", processing="IPF 003.9"),
        a_copy("c_COG", processing="IPF 003.9"),
        a_copy("a", processing="IPF 2.91"),
        a_copy("b", processing=None),
    ]
    (group,) = group_copies(random.Random(0).sample(ranked, len(ranked))).groups
    assert group == ranked


COPIES = st.lists(st.builds(a_copy, st.text("abc", min_size=1, max_size=3), st.sampled_from("xyz")), unique_by=repr)


@given(copies=COPIES, bad=st.sets(st.text("abc", min_size=1, max_size=3)), seed=st.integers(0, 9))
def test_one_good_copy_of_each_acquisition_is_done(copies: list[Copy], bad: set[str], seed: int) -> None:
    copies = list({copy.name: copy for copy in copies}.values())
    found = group_copies(random.Random(seed).sample(copies, len(copies)))
    assert found.groups == group_copies(copies).groups
    failing = {f"unit-{name}" for name in bad}
    waiting, tried, done = {c.unit for c in copies} - found.needless(), set(), set()
    while waiting:
        tried |= waiting
        done |= waiting - failing
        waiting = found.instead_of(tried & failing) - tried
    for seen in "xyz":
        units = {c.unit for c in copies if c.acquisition == (seen,)}
        assert len(units & done) == (1 if units - failing else 0)
        if not units - failing:
            assert units <= tried
    dropped = {entry["source"] for entry in found.dropped(done)}
    assert dropped == {c.name for c in copies if c.unit not in tried}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One acquisition three times (two processors, and packed anew), another one of each sensor."""
    folder = tmp_path_factory.mktemp("scenes")
    first = simulate_sentinel1(folder / "a", rows=64, cols=96, seed=1, lon=9, lat=45)
    simulate_sentinel1(folder / "b", rows=64, cols=96, seed=2, lon=9, lat=45)
    alos = simulate_alos2(folder / "c", rows=64, cols=96, seed=1, lon=9, lat=45)
    for labels in folder.glob("*/*_labels.tif"):
        labels.unlink()
    copy_product(first, folder / "again", {**OLDER, first.name[-9:-5]: "0A0E"})
    copy_product(first, folder / "cog", {first.name[-9:-5]: first.name[-9:-5] + "_COG"})
    assert alos.is_dir()
    return folder


@pytest.fixture(scope="module", autouse=True)
def ray():
    with cluster.session(cpus=2):
        yield


def test_products_are_looked_into_on_the_cluster(scenes: Path) -> None:
    units = read_catalog(scenes, 16).units
    (group,) = find_copies(units, Pixels(), 2).groups
    first = group[0].name
    assert [copy.name for copy in group] == [first, f"{first}_COG", f"{first[:-4]}0A0E"]
    assert [copy.processing for copy in group] == ["Sentinel-1 IPF 003.40"] * 2 + ["Sentinel-1 IPF 003.39"]
    assert find_copies(units[:1], Pixels(), 2).groups == []


def test_copies_are_left_out_and_told_apart_from_rejects(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("tiles: {size: 32}")
    build = ["build-sarsense", str(scenes), "--out", str(tmp_path / "out"), "--recipe", str(recipe), "--json"]
    assert exit_code(app, [*build, "--dry-run"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["sources"], len(plan["left_out"]), plan["rejects"]) == (3, 2, [])
    for resumed in (0, 3):
        assert exit_code(app, build) == 0
        result = json.loads(capsys.readouterr().out)
        assert (result["units"], result["resumed"], result["rejects"], result["left_out"]) == (3, resumed, 0, 2)
    _, manifest = read_manifest(str(tmp_path / "out"))
    assert not any(source.id.endswith(("0A0E", "_COG")) for source in manifest.sources)
    page = (tmp_path / "out/report.html").read_text()
    (kept,) = [p.name.removesuffix(".SAFE") for p in (scenes / "a").glob("*.SAFE")]
    assert page.count(f"shows the same acquisition as {kept}, which is kept") == 2
    assert "by Sentinel-1 IPF 003.39, that one by Sentinel-1 IPF 003.40" in page
    assert not list((tmp_path / "out").glob("quarantine/*"))

    tiff = next((scenes / "a").glob("*.SAFE/measurement/*vv*"))
    whole = tiff.read_bytes()
    blacken(tiff)  # found out only when the pixels are read
    assert exit_code(app, build) == 3
    result = json.loads(capsys.readouterr().out)
    assert (result["rejects"], result["left_out"]) == (1, 1)
    mended = read_manifest(str(tmp_path / "out"))[1]
    assert [shard.key for shard in mended.shards if "_COG-" in shard.key]
    assert len(mended.sources) == 3
    spoil(tiff, whole)
    assert exit_code(app, build) == 0
    assert read_manifest(str(tmp_path / "out"))[1].digest == manifest.digest
