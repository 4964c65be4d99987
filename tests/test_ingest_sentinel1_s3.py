"""Products that stay in a bucket: the same scenes as on a disk, and only what is needed of them travels."""

import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fault_proxy import Weather, weather_before
from s3_server import S3Server
from sentinel1_products import IPF_331, SLC_ZIP, cloud_optimised, crop, in_bucket, unpack, write_pixels, zip_product

from infra.store import Unreachable, open_store
from ingest.catalog import read_catalog
from ingest.open import open_scene, parts_of, sensor_of
from ingest.recipe import Pixels, Recipe, TileRules
from ingest.scene import SceneRejected, Window
from ingest.sentinel1 import open_sentinel1
from ingest.work import Work, build_unit

WINDOW = Window(700, 300, 100, 400)


@pytest.fixture(scope="module")
def product(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real annotation of IPF 3.31, cut to one cell of its grid, all pixels simulated; one row to a strip, unpacked."""
    product = unpack(shared_data, IPF_331, tmp_path_factory.mktemp("s3"))
    crop(product, 1, 1)
    write_pixels(product, tiled=False, compress=None, blockxsize=None, blockysize=1, zlevel=None, SPARSE_OK="FALSE")
    return product


def put(path: Path, url: str) -> str:
    """Upload a folder or file as ``url/its name``; give where it is then."""
    store = open_store(url)
    if path.is_file():
        store.put(path.name, path.read_bytes())
    else:
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            store.put(f"{path.name}/{file.relative_to(path).as_posix()}", file.read_bytes())
    return f"{url}/{path.name}"


@pytest.fixture
def proxied(s3_server: S3Server, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Weather]:
    """A proxy before the real server that counts what goes down."""
    with weather_before(s3_server.server.endpoint) as weather:
        monkeypatch.setenv("AWS_ENDPOINT_URL", weather.endpoint)
        yield weather


def test_only_the_bytes_under_a_window_travel(product: Path, s3_url: str, proxied: Weather) -> None:
    url = put(product, s3_url)
    assert sensor_of(url) == "sentinel-1"
    assert parts_of(url) == (url,)
    metadata = sum(p.stat().st_size for p in product.rglob("*") if p.suffix in (".xml", ".safe"))
    with open_sentinel1(str(product)) as local, open_scene(url, Pixels()) as scene:
        assert scene.info == local.info
        opened = proxied.answered
        assert opened < 2 * metadata + 2 * 2**20  # annotation is hashed and then read, and there are TIFF directories
        requests = len(proxied.requests)
        expected = local.power(WINDOW)
        assert scene.power(WINDOW).tobytes() == expected.tobytes()
        lines = 2 * 100 * scene.info.shape[1] * 2  # both polarisations' bytes in the lines under the window
        assert lines <= proxied.answered - opened < lines + 4 * 2**17
        assert len(proxied.requests) - requests == 2
        before = proxied.answered
        assert scene.power(WINDOW).tobytes() == expected.tobytes()
        assert proxied.answered == before  # what was read last is kept


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_in_a_bucket_is_read_in_place(
    product: Path, s3_url: str, proxied: Weather, tmp_path: Path, method: int
) -> None:
    archive = zip_product(product, tmp_path / f"{IPF_331}.zip", method)
    url = put(archive, s3_url)
    with open_sentinel1(str(product)) as local, open_scene(url, Pixels()) as scene:
        assert scene.info == local.info
        for window in (Window(5, 0, 20, 100), WINDOW, Window(150, 0, 10, 100)):  # onwards and back
            assert scene.power(window).tobytes() == local.power(window).tobytes()
        if method == zipfile.ZIP_STORED:
            pixels = sum(p.stat().st_size for p in product.rglob("*.tiff"))
            assert proxied.answered < archive.stat().st_size - 0.7 * pixels


def test_copies_of_every_layout_are_one_scene(product: Path, s3_url: str, tmp_path: Path) -> None:
    with open_sentinel1(str(product)) as scene:
        info, expected = scene.info, scene.power(WINDOW)
    with open_scene(put(in_bucket(product, tmp_path / IPF_331), s3_url), Pixels()) as scene:
        assert scene.info == info
        assert scene.power(WINDOW).tobytes() == expected.tobytes()
    source = Path(shutil.copytree(product, tmp_path / product.name))
    with open_scene(put(cloud_optimised(source), s3_url), Pixels()) as scene:
        assert scene.info.acquisition == info.acquisition
        assert scene.power(WINDOW).tobytes() == expected.tobytes()


def test_a_sub_swath_in_a_bucket(shared_data: Path, s3_url: str, tmp_path: Path) -> None:
    product = unpack(shared_data, SLC_ZIP, tmp_path)
    for file in product.rglob("*-vh-*"):
        file.unlink()
    write_pixels(product, [(1400, 9000, 200, 300)])
    url = put(product, s3_url)
    assert parts_of(url) == tuple(f"{url}#IW{n}" for n in (1, 2, 3))
    window = Window(1300, 9000, 100, 300)
    with open_scene(f"{url}#IW2", Pixels()) as scene, open_sentinel1(f"{product}#IW2") as local:
        assert scene.info == local.info
        power = scene.power(window)
        assert power.tobytes() == local.power(window).tobytes()
        assert np.isfinite(power).all()


def test_what_is_missing_is_a_rejection_and_a_silent_server_is_not(
    product: Path, s3_url: str, proxied: Weather, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SARSENSE_S3_DEADLINE_S", "1")
    url = put(product, s3_url)
    cut = tmp_path / "S1A_cut.zip"
    cut.write_bytes(zip_product(product, tmp_path / "whole.zip").read_bytes()[:-5000])
    for path, message in [
        (f"{s3_url}/S1A_nothing.SAFE", "has no manifest.safe"),
        (f"{s3_url}/S1A_nothing.zip", "does not exist"),
        (put(cut, s3_url), r"S1A_cut.zip is not a zip"),
    ]:
        with pytest.raises(SceneRejected, match=message):
            open_scene(path, Pixels())
    with open_scene(url, Pixels()) as scene:
        proxied.fault = lambda method, number: "503"
        with pytest.raises(Unreachable):
            scene.power(WINDOW)
        proxied.fault = lambda method, number: None
        assert scene.power(WINDOW).shape == (2, 100, 400)
    store = open_store(url)
    tiff = next(info.key for info in store.list("measurement/"))
    store.put(tiff, store.get(tiff)[:50_000])
    with pytest.raises(SceneRejected, match=r"tiff is truncated: its last block ends at byte"):
        open_scene(url, Pixels())
    store.delete(tiff)
    with pytest.raises(SceneRejected, match=r"tiff is missing: the product has annotation but no pixels"):
        open_scene(url, Pixels())


def test_a_catalog_of_products_in_a_bucket_gives_the_same_tiles(product: Path, s3_url: str, tmp_path: Path) -> None:
    recipe = Recipe(tiles=TileRules(size=128))
    records = []
    for name, path in (("local", str(product)), ("remote", put(product, s3_url))):
        catalog = tmp_path / f"{name}.csv"
        catalog.write_text(f"path\n{path}\n")
        (unit,) = read_catalog(catalog, 1).units
        assert unit.name == IPF_331
        records.append(build_unit(Work(unit=unit, out=str(tmp_path / name), recipe=recipe)))
    local, remote = records
    assert remote["sources"] == local["sources"]
    assert remote["rejects"] == local["rejects"] == []
    assert [shard["sha256"] for shard in remote["shards"]] == [shard["sha256"] for shard in local["shards"]]
    assert sum(source["tiles"] for source in remote["sources"]) > 20
