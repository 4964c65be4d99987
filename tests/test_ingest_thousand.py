"""The promise about bad scenes: of a thousand with 37 bad ones, 963 are built and 37 set aside with their reasons."""

import csv
import itertools
import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
from product_copies import blacken, copy_product, spoil
from test_ingest_hostile import BOMB, VRT

from infra import cluster
from infra.command import exit_code
from ingest.cli import app
from ingest.quarantine import content_digest
from ingest.simulate import simulate_alos2, simulate_sentinel1
from shards.reader import Corpus
from shards.verify import verify

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]
RECIPE = "tiles: {size: 32}\nsampling: {max_tiles_per_scene: 4}\n"


def _measurement(product: Path) -> Path:
    return next(product.glob("measurement/*vv*"))


def _change(file: Path, pattern: str, wanted: str) -> None:
    text, count = re.subn(pattern, wanted, file.read_text())
    assert count
    spoil(file, text.encode())


def _calibration(product: Path) -> Path:
    return next(product.glob("annotation/calibration/calibration-*vv*.xml"))


def _zip(product: Path, extra: dict[str, bytes] | None = None) -> Path:
    packed = product.with_suffix(".zip")
    with zipfile.ZipFile(packed, "w") as archive:
        for file in sorted(product.rglob("*")):
            archive.write(file, file.relative_to(product.parent))
        for name, data in (extra or {}).items():
            archive.writestr(name, data, zipfile.ZIP_DEFLATED)
    shutil.rmtree(product)
    return packed


def truncated_tiff(product: Path) -> Path:
    spoil(_measurement(product), _measurement(product).read_bytes()[:12_000])
    return product


def empty_tiff(product: Path) -> Path:
    spoil(_measurement(product), b"")
    return product


def missing_annotation(product: Path) -> Path:
    next(product.glob("annotation/*vv*.xml")).unlink()
    return product


def nan_calibration(product: Path) -> Path:
    _change(_calibration(product), r"(<sigmaNought[^>]*>)[^<]*", r"\1nan nan nan nan")
    return product


def zero_calibration(product: Path) -> Path:
    _change(_calibration(product), r"(<sigmaNought[^>]*>)[^<]*", r"\g<1>0 0 0 0")
    return product


def wrong_polarisation(product: Path) -> Path:
    _change(next(product.glob("annotation/*vh*.xml")), "<polarisation>VH<", "<polarisation>VV<")
    return product


def xml_bomb(product: Path) -> Path:
    spoil(next(product.glob("annotation/*vv*.xml")), BOMB.encode())
    return product


def vrt_as_tiff(product: Path) -> Path:
    spoil(_measurement(product), VRT.encode())
    return product


def no_data(product: Path) -> Path:
    for file in product.glob("measurement/*"):
        blacken(file)
    return product


def zip_bomb(product: Path) -> Path:
    return _zip(product, {f"{product.name}/measurement/more.tiff": bytes(32 * 2**20)})


def path_traversal(product: Path) -> Path:
    return _zip(product, {"../../evil.txt": b"evil"})


def damaged_zip(product: Path) -> Path:
    packed = _zip(product)
    data = packed.read_bytes()
    at = data.index(b"<sigmaNought")
    packed.write_bytes(data[:at] + b"<sigmaN0ught" + data[at + 12 :])
    return packed


def gone(product: Path) -> Path:
    shutil.rmtree(product)
    return product


CLASSES: dict[Callable[[Path], Path], tuple[int, str]] = {
    truncated_tiff: (4, "open"),
    empty_tiff: (3, "open"),
    missing_annotation: (3, "open"),
    nan_calibration: (3, "open"),
    zero_calibration: (3, "open"),
    wrong_polarisation: (3, "open"),
    xml_bomb: (3, "open"),
    vrt_as_tiff: (3, "open"),
    no_data: (3, "tiles"),
    zip_bomb: (3, "open"),
    path_traversal: (2, "open"),
    damaged_zip: (3, "open"),
    gone: (1, "catalog"),
}


def _sentinel1(base: Path, folder: Path) -> Iterator[Path]:
    """Copies of a product, each acquired on another day."""
    found = re.search(r"_(\d{8})T", base.name)
    assert found
    first = date.fromisoformat(found[1])
    for day in itertools.count(1):
        moved = first + timedelta(days=day)
        changes = {f"{first:%Y%m%d}": f"{moved:%Y%m%d}", f"{first:%Y-%m-%d}": f"{moved:%Y-%m-%d}"}
        yield copy_product(base, folder, changes)


def _alos2(base: Path, folder: Path) -> Iterator[Path]:
    scene = re.search(r"ALOS2(\d{9})", base.name)
    assert scene
    for number in itertools.count(1):
        yield copy_product(base, folder, {scene[1]: f"{int(scene[1]) + 10 * number:09d}"})


@pytest.fixture(scope="module")
def listing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Path, tuple[str, str]]]:
    """A catalog of 1,000 scenes and three copies, and what is wrong with which."""
    folder = tmp_path_factory.mktemp("thousand")
    small = {"rows": 64, "cols": 96, "lat": 45.0}
    base = simulate_sentinel1(folder / "base", seed=1, lon=9.0, **small)
    turn = simulate_sentinel1(folder / "turn", seed=2, lon=180.0, mission="S1B", **small)
    alos = simulate_alos2(folder / "alos", seed=1, lon=9.0, **small)
    made = _sentinel1(base, folder / "products")
    bad = {}
    for spoiled, (count, stage) in CLASSES.items():
        for product in itertools.islice(made, count):
            bad[spoiled(product)] = (spoiled.__name__, stage)
    good = [*itertools.islice(made, 903), *itertools.islice(_sentinel1(turn, folder / "turned"), 10)]
    good += itertools.islice(_alos2(alos, folder / "palsar"), 50)
    older = {"003.40": "003.10", f"_{base.name[-9:-5]}": "_0A0E"}
    copies = [copy_product(product, folder / "older", older) for product in good[:3]]
    assert (len(good), len(bad)) == (963, 37)
    paths = sorted([*good, *bad, *copies], key=lambda path: path.name[::-1])  # bad ones lie among good ones
    listing = folder / "catalog.csv"
    with listing.open("w", newline="") as file:
        csv.writer(file).writerows([["path"], *[[str(path)] for path in paths]])
    return listing, bad


@pytest.fixture(scope="module", autouse=True)
def ray():
    with cluster.session(cpus=2):
        yield


def test_of_a_thousand_scenes_the_37_bad_ones_are_set_aside(
    listing: tuple[Path, dict[Path, tuple[str, str]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog, bad = listing
    out, recipe = tmp_path / "out", tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)

    def build(*options: str) -> tuple[int, dict[str, object]]:
        code = exit_code(
            app, ["build-sarsense", str(catalog), "--out", str(out), "--recipe", str(recipe), "--json", *options]
        )
        told = capsys.readouterr().out
        return code, json.loads(told) if told else {}

    code, first = build()
    assert (code, first["resumed"], first["rejects"], first["left_out"]) == (3, 0, 37, 3)
    corpus = Corpus.open(str(out))
    assert len(corpus.manifest.sources) == 963
    assert {source.tiles for source in corpus.manifest.sources} == {4}
    assert verify(corpus).ok

    kept = [json.loads(file.read_bytes()) for file in (out / "quarantine").iterdir()]
    by_name = {path.name.removesuffix(".zip").removesuffix(".SAFE"): path for path in bad}
    assert {Path(reject["source"]).name.removesuffix(".SAFE") for reject in kept} == set(by_name)
    for reject in kept:
        path = by_name[Path(reject["source"]).name.removesuffix(".SAFE")]
        name, stage = bad[path]
        assert (name, reject["stage"], reject["kind"]) == (name, stage, "SceneRejected")
        assert path.stem in reject["reason"]
        assert reject.get("sha256") == content_digest(str(path))
        assert (reject.get("sha256") is None) == (name == "gone")
    page = (out / "report.html").read_text()
    assert all(name in page for name in by_name)

    code, second = build()  # only what is in quarantine is done again
    assert (code, second["resumed"], second["manifest"]) == (3, 963, first["manifest"])

    mended = sorted(path for path, (name, _) in bad.items() if name == "empty_tiff")
    for path in mended:
        spoil(_measurement(path), _measurement(next(catalog.parent.glob("base/*.SAFE"))).read_bytes())
    code, third = build("--max-failures", "3.4%")  # of 1,003 listed
    assert (code, third["resumed"], third["rejects"]) == (0, 963, 34)
    assert len(Corpus.open(str(out)).manifest.sources) == 966
    assert len(list((out / "quarantine").iterdir())) == 34
