"""Bad input to ``ingest build-sarsense``: each kind gives one clear message and its exit code."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from infra import cluster
from infra.command import exit_code
from ingest.cli import app
from ingest.simulate import simulate_sentinel1

VRT = """<VRTDataset rasterXSize="420" rasterYSize="300"><VRTRasterBand dataType="UInt16" band="1"><SimpleSource>
<SourceFilename>/etc/passwd</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"""
BOMB = '<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a "aaaa">]><product>&a;</product>'


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    return simulate_sentinel1(folder, rows=300, cols=420, seed=1, lon=9, lat=45)


@pytest.fixture(scope="module", autouse=True)
def ray():
    with cluster.session(cpus=2):
        yield


def _measurement(product: Path) -> Path:
    return next(product.glob("measurement/*vv*"))


def _annotation(product: Path) -> Path:
    return next(product.glob("annotation/*vv*.xml"))


def truncated_tiff(product: Path) -> str:
    file = _measurement(product)
    file.write_bytes(file.read_bytes()[:60_000])
    return file.name


def empty_tiff(product: Path) -> str:
    _measurement(product).write_bytes(b"")
    return _measurement(product).name


def missing_annotation(product: Path) -> str:
    _annotation(product).unlink()
    return product.name.removesuffix(".SAFE")


def missing_calibration(product: Path) -> str:
    next(product.glob("annotation/calibration/calibration-*vv*.xml")).unlink()
    return "calibration"


def dtd_in_xml(product: Path) -> str:
    _annotation(product).write_text(BOMB)
    return _annotation(product).name


def vrt_posing_as_tiff(product: Path) -> str:
    _measurement(product).write_text(VRT)
    return _measurement(product).name


def wrong_sensor(product: Path) -> str:
    for file in (*product.glob("annotation/*.xml"), product / "manifest.safe"):
        file.write_text(file.read_text().replace("SENTINEL-1", "RADARSAT-2").replace("S1A", "RS2"))
    return product.name.removesuffix(".SAFE")


@pytest.mark.parametrize(
    "spoil",
    [truncated_tiff, empty_tiff, missing_annotation, missing_calibration, dtd_in_xml, vrt_posing_as_tiff, wrong_sensor],
    ids=lambda f: f.__name__,
)
def test_bad_products(
    spoil: Callable[[Path], str], good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    product = tmp_path / "in" / good.name
    shutil.copytree(good, product)
    named = spoil(product)
    assert exit_code(app, ["build-sarsense", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err
    assert "nothing was stored" in told
    (line,) = [line for line in told.splitlines() if line.startswith("  rejected")]
    assert named in line
    assert "root:" not in told
    assert "Traceback" not in told
    assert not (tmp_path / "out/manifest.json").exists()


def test_an_empty_catalog(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(app, ["build-sarsense", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert f"catalog {tmp_path} is empty" in capsys.readouterr().err
    (tmp_path / "c.csv").write_text("path\n")
    assert exit_code(app, ["build-sarsense", str(tmp_path / "c.csv"), "--out", str(tmp_path / "out")]) == 2
    (tmp_path / "c.geojson").write_text("{}")
    assert exit_code(app, ["build-sarsense", str(tmp_path / "c.geojson"), "--out", str(tmp_path / "out")]) == 2
    assert "'features'" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert exit_code(app, ["build-sarsense", str(good.parent), "--out", str(tmp_path / "file/out")]) == 4
    assert str(tmp_path / "file") in capsys.readouterr().err
