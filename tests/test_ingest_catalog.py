"""Folders, tables and collections list the same units; what is wrong with them is said in one line."""

import json
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import UsageError
from ingest.catalog import Product, read_catalog
from ingest.simulate import simulate_alos2, simulate_sentinel1

STAC = {"type": "Feature", "stac_version": "1.0.0", "geometry": None, "links": []}


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
    assets = [{"product": {"href": str(path), "roles": ["data"]}, "thumbnail": {"href": "t.png"}} for path in paths]
    pq.write_table(pa.table({"id": ["a", "b"], "assets": assets}), tmp_path / "c.parquet")
    by_name = pa.map_(pa.string(), pa.struct([("href", pa.string())]))
    pairs = [[("data", {"href": str(path)})] for path in paths]
    pq.write_table(pa.table({"assets": pa.array(pairs, by_name)}), tmp_path / "map.parquet")
    pq.write_table(pa.table({"path": [*map(str, paths)]}), tmp_path / "paths.parquet")
    for name in ("c.csv", "c.geojson", "c.parquet", "map.parquet", "paths.parquet"):
        assert read_catalog(tmp_path / name, 16) == scanned


def test_one_item_is_a_catalog(folder: Path, tmp_path: Path) -> None:
    path = products(folder)[1]
    inside = {"vv": {"href": f"{path}/measurement/x.tiff"}, "thumbnail": {"href": "https://example.net/t.png"}}
    (tmp_path / "item.json").write_text(json.dumps({**STAC, "id": "x", "properties": {}, "assets": inside}))
    assert [unit.sources[0].path for unit in read_catalog(tmp_path / "item.json", 16).units] == [str(path)]


def test_what_can_be_read_goes_before_what_is_to_download(tmp_path: Path) -> None:
    """An item of the Copernicus Data Space has the product both as a download and in its S3."""
    name = "S1A_IW_GRDH_1SDV_20240604T110100_20240604T110131_054172_069690_E33E"
    root = f"s3://eodata/Sentinel-1/SAR/IW_GRDH_1S/2024/06/04/{name}.SAFE"
    assets = {
        "product": {"href": "https://download.example.net/odata/v1/Products(5)/$value?token=canary"},
        "safe_manifest": {"href": f"{root}/manifest.safe"},
        "vv": {"href": f"{root}/measurement/a-001.tiff"},
    }
    (tmp_path / "c.json").write_text(json.dumps({"features": [{**STAC, "id": name, "assets": assets}]}))
    (unit,) = read_catalog(tmp_path / "c.json", 16).units
    assert unit.sources == (Product(sensor="sentinel-1", path=root),)
    assert unit.name == name
    del assets["safe_manifest"], assets["vv"]
    (tmp_path / "c.json").write_text(json.dumps({"features": [{**STAC, "id": name, "assets": assets}]}))
    ((source, reason),) = read_catalog(tmp_path / "c.json", 16).rejects
    assert source == "https://download.example.net/odata/v1/Products(5)/$value"
    assert reason.startswith(f"{source}: is neither on this machine nor in S3: download it first")


def test_a_download_beside_the_catalog_is_found(folder: Path, tmp_path: Path) -> None:
    product = products(folder)[1]
    (tmp_path / product.name).symlink_to(product)
    name = product.name.removesuffix(".SAFE")
    for remote in (f"https://a/b/{name}.zip", f"gs://a/{name}.SAFE", f"az://a/{name}"):
        (tmp_path / "c.csv").write_text(f"path\n{remote}\n")
        assert [unit.name for unit in read_catalog(tmp_path / "c.csv", 16).units] == [name]


def test_parts_of_products(shared_data: Path, tmp_path: Path) -> None:
    """A real SLC product is three scenes; a row may name one of them, and then it counts once."""
    (slc,) = shared_data.glob("sentinel1/S1A_IW_SLC__1SDV_2020*.zip")
    whole = read_catalog(slc, 16)
    name = slc.name.removesuffix(".zip")
    assert [unit.name for unit in whole.units] == [f"{name}_IW1", f"{name}_IW2", f"{name}_IW3"]
    assert [unit.sources[0].path for unit in whole.units] == [f"{slc.resolve()}#IW{n}" for n in (1, 2, 3)]
    (tmp_path / "c.csv").write_text(f"path\n{slc}#IW2\n{slc}\ns3://bucket/{name}.SAFE#IW1\n")
    found = read_catalog(tmp_path / "c.csv", 16)
    assert found.units == whole.units
    ((source, reason),) = found.rejects
    assert source == f"s3://bucket/{name}.SAFE#IW1"
    assert reason == f"{source}: the catalog lists {name}_IW1 twice, as {slc.resolve()}#IW1 too"


def test_a_part_has_its_own_labels(shared_data: Path, tmp_path: Path) -> None:
    (slc,) = shared_data.glob("sentinel1/S1A_IW_SLC__1SDV_2020*.zip")
    (tmp_path / "labels.tif").touch()
    (tmp_path / "c.csv").write_text(f"path,labels\n{slc}#IW2,labels.tif\n")
    (unit,) = read_catalog(tmp_path / "c.csv", 16).units
    assert unit.sources[0].labels == str(tmp_path / "labels.tif")


def test_chips_and_products_side_by_side(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.tif").touch()
    (tmp_path / "chips.yaml").write_text("image: '*.tif'\npolarisations: [VV]\nquantity: db\n")
    (tmp_path / "c.csv").write_text(f"path\n{products(folder)[0]}\nchips.yaml\ns3://b/S1A_x.SAFE/\n")
    names = [unit.name for unit in read_catalog(tmp_path / "c.csv", 16).units]
    assert sorted(names) == sorted([products(folder)[0].name, "S1A_x", f"{tmp_path.name}-0000"])


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Half of the products are in S3, a quarter on disk, a quarter still to download."""
    folder = tmp_path_factory.mktemp("many")
    hrefs = []
    for number in range(10_000):
        name = f"S1A_IW_GRDH_1SDV_20240604T110100_20240604T110131_{number:06d}_069690_E33E"
        if number % 4 == 0:
            (folder / f"{name}.zip").touch()
        hrefs.append([f"{name}.zip", f"s3://b/{name}.SAFE", f"https://a/{name}.SAFE", f"s3://b/{name}.zip"][number % 4])
    return folder, hrefs


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_ten_thousand_rows_are_read_in_two_seconds(many: tuple[Path, list[str]], suffix: str) -> None:
    folder, hrefs = many
    items = [{"id": str(i), "properties": {}, "assets": {"product": {"href": h}}} for i, h in enumerate(hrefs)]
    path = folder / f"c.{suffix}"
    if suffix == "csv":
        path.write_text("\n".join(["path", *hrefs]))
    elif suffix == "json":
        path.write_text(json.dumps({"features": items}))
    else:
        pq.write_table(pa.table({"id": [i["id"] for i in items], "assets": [i["assets"] for i in items]}), path)
    began = time.process_time()
    found = read_catalog(path, 16)
    spent = time.process_time() - began
    assert (len(found.units), len(found.rejects)) == (7_500, 2_500)
    assert spent < 2.0, f"{spent:.2f} s"


def test_a_wrong_bucket_is_one_reject(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("path\ns3://B!/S1A_IW_SLC__x.SAFE\ns3://bucket/S1A_IW_GRDH_x.SAFE\n")
    found = read_catalog(tmp_path / "c.csv", 16)
    assert [unit.name for unit in found.units] == ["S1A_IW_GRDH_x"]
    ((source, reason),) = found.rejects
    assert source == "s3://B!/S1A_IW_SLC__x.SAFE"
    assert "is not the name of a bucket" in reason


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
    assert [reason.split(": ")[-1].split(",")[0] for _, reason in found.rejects] == [
        "neither a Sentinel-1 nor an ALOS-2 product",
        "no such file or folder",
    ]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("c.csv", "place\nx\n", "expected a column 'path'"),
        ("c.csv", "path,labels\n,x\n", "no path in line 2"),
        ("c.csv", "path,labels\ns3://b/S1A_x.SAFE,y.tif\n", "line 2: the labels .*y.tif are not there"),
        ("c.json", '{"features": [1]}', "feature 1: expected an object, found 1"),
        ("c.json", '{"features": [{"properties": {"path": "a"}}, {"assets": []}]}', "feature 2: names no product"),
        (
            "c.json",
            '{"features": [{"id": "b", "assets": [1]}]}',
            r"feature 1 \(b\): expected 'properties' and",
        ),
        ("c.json", '{"type": "Catalog", "links": []}', "expected .* with 'features', found 'Catalog'"),
        ("c.json", "[" * 100_000, "is not JSON"),
        ("c.json", '{"features": [{"properties": {"path": "a\\u0000b"}}]}', "feature 1: .* is no path"),
        ("c.parquet", "PAR1", "cannot be read"),
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


def test_links_that_lead_in_circles_are_followed_once(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(folder)
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "back").symlink_to(tmp_path)
    assert read_catalog(tmp_path, 16) == read_catalog(folder, 16)


def test_a_path_that_no_disk_takes_is_wrong_alone(folder: Path, tmp_path: Path) -> None:
    good = products(folder)[0]
    (tmp_path / "c.csv").write_text(f"path\n{'x' * 6000}.SAFE\n{good}\n")
    found = read_catalog(tmp_path / "c.csv", 16)
    assert [unit.sources[0].path for unit in found.units] == [str(good)]
    assert [why.rpartition(": ")[2] for _, why in found.rejects] == ["File name too long"]
