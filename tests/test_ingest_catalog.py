"""Folders, tables and collections list the same units; what is wrong with them is said in one line."""

import json
from pathlib import Path

import pytest

from infra.errors import UsageError
from ingest.catalog import read_catalog
from ingest.simulate import simulate_alos2, simulate_sentinel1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalog")
    simulate_sentinel1(folder / "s1", rows=64, cols=64, seed=1, lon=9, lat=45)
    simulate_alos2(folder / "alos2", rows=64, cols=64, seed=1, lon=9, lat=45)
    return folder


def products(folder: Path) -> list[Path]:
    return sorted([*folder.glob("s1/*.SAFE"), *(p for p in folder.glob("alos2/ALOS2*") if p.is_dir())])


def test_all_forms_list_the_same(folder: Path, tmp_path: Path) -> None:
    paths = products(folder)
    assert len(paths) == 2
    scanned = read_catalog(folder, 16)
    assert [len(unit.sources) for unit in scanned.units] == [1, 1]
    (tmp_path / "c.csv").write_text("path\n" + "".join(f"{path}\n" for path in reversed(paths)))
    features = [
        {"type": "Feature", "properties": {"path": str(paths[0])}},
        {"type": "Feature", "id": "x", "assets": {"safe-manifest": {"href": f"file://{paths[1]}/manifest.safe"}}},
    ]
    (tmp_path / "c.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    for name in ("c.csv", "c.geojson"):
        assert read_catalog(tmp_path / name, 16) == scanned


def test_a_single_product_is_a_catalog(folder: Path) -> None:
    (unit,) = read_catalog(products(folder)[0], 16).units
    assert unit.name == products(folder)[0].name.removesuffix(".SAFE")


def test_a_product_named_twice_counts_once(folder: Path, tmp_path: Path) -> None:
    path = products(folder)[0]
    (tmp_path / "c.csv").write_text(f"path\n{path}\n{path.parent}/../{path.parent.name}/{path.name}\n")
    found = read_catalog(tmp_path / "c.csv", 16)
    assert (len(found.units), found.rejects) == (1, ())


def test_what_is_listed_in_vain_is_said(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "c.csv").write_text("path\nnotes\nnowhere.SAFE\n")
    found = read_catalog(tmp_path / "c.csv", 16)
    assert [reason.split(": ")[-1] for _, reason in found.rejects] == [
        "neither a Sentinel-1 nor an ALOS-2 product",
        "no such file or folder",
    ]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("c.csv", "place\nx\n", "expected a column 'path'"),
        ("c.csv", "path,labels\n,x\n", "no path in line 2"),
        ("c.json", '{"features": [1]}', "'features'"),
        ("c.json", '{"features": [{"id": "a", "assets": {"thumbnail": {"href": "x"}}}]}', "its assets: thumbnail"),
        ("c.json", "[", "'features'"),
        ("c.txt", "x", "expected a folder"),
    ],
)
def test_faults_are_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=words):
        read_catalog(tmp_path / name, 16)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_catalog(tmp_path / "nowhere", 16)


def test_labels_of_two_legends_are_two_corpora(folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        product = simulate_sentinel1(tmp_path / name, rows=64, cols=64, seed=ord(name), lon=9, lat=45)
        assert product.is_dir()
    legend = tmp_path / "b/legend.json"
    legend.write_text(legend.read_text().replace('"water"', '"sea"'))
    with pytest.raises(UsageError, match="two legends"):
        read_catalog(tmp_path, 16)
    legend.write_text("{")
    with pytest.raises(UsageError, match="legend"):
        read_catalog(tmp_path, 16)
