"""Damaged and incomplete Sentinel-1 products: each is refused with one clear message."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from sentinel1_products import EW_352, IPF_331, IPF_340, SLC_ZIP, crop, first_cell, images, unpack, write_pixels

from ingest.recipe import Pixels
from ingest.scene import SceneRejected
from ingest.sentinel1 import open_sentinel1


@pytest.fixture
def small(shared_data: Path, tmp_path: Path) -> Path:
    return first_cell(shared_data, tmp_path)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def remove(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def truncate_to_nothing(path: Path) -> None:
    os.truncate(path, 0)


def posing_as_tiff(path: Path) -> None:
    path.write_text("<VRTDataset rasterXSize='1' rasterYSize='1'/>")


def with_doctype(path: Path) -> None:
    edit(path, "<product>", "<!DOCTYPE product [<!ENTITY x 'y'>]><product>")


def other_size(path: Path) -> None:
    with rasterio.open(path, "w", driver="GTiff", width=30, height=20, count=1, dtype="uint16") as file:
        file.write(np.ones((20, 30), np.uint16), 1)


def zero_lut(path: Path) -> None:
    edit(path, '<sigmaNought count="650">', '<sigmaNought count="650">-')


def replaced(old: str, new: str) -> Any:
    return lambda path: edit(path, old, new)


VV, VH, GAIN, NOISE = (
    "annotation/*-vv-*.xml",
    "annotation/*-vh-*.xml",
    "annotation/calibration/calibration-*-vv-*.xml",
    "annotation/calibration/noise-*-vv-*.xml",
)
DENOISED = ("<thermalNoiseCorrectionPerformed>false", "<thermalNoiseCorrectionPerformed>true")
BAD: list[tuple[str, Any, str]] = [
    ("manifest.safe", remove, "has no manifest.safe"),
    ("manifest.safe", replaced("SENTINEL-1<", "SENTINEL-2<"), "is a product of SENTINEL-2A, expected SENTINEL-1"),
    (VH, remove, r"-vh-.*tiff has no annotation .*annotation/s1a-iw-grd-vh-.*xml"),
    (VV, truncate, r"annotation/s1a-iw-grd-vv-.*xml is not well-formed XML"),
    (VV, with_doctype, r"vv-.*xml carries a document type or entity"),
    (VV, replaced(*DENOISED), "removing it twice is refused"),
    (VV, replaced(">Slice<", ">Assembled<"), "is assembled of several slices"),
    (VV, replaced("<numberOfLines>", "<numberOfLines>9"), "has images of different shapes"),
    (VV, replaced("<numberOfLines>", "<numberOfLines>-"), "declares -.* pixels"),
    (VV, replaced("<polarisation>VV", "<polarisation>VH"), "has several images of one polarisation: VH, VH"),
    (GAIN, remove, r"calibration-s1a-iw-grd-vv-.*xml is missing"),
    (NOISE, remove, r"noise-s1a-iw-grd-vv-.*xml is missing"),
    (GAIN, zero_lut, "LUT with zero or negative values"),
    (GAIN, replaced('<sigmaNought count="650">', '<sigmaNought count="650">nan '), "NaN or infinite"),
    ("measurement/*-vv-*.tiff", remove, r"measurement/s1a-iw-grd-vv-.*tiff is missing: the product has annotation"),
    ("measurement/*-vh-*.tiff", truncate_to_nothing, r"-vh-.*tiff is empty \(0 bytes\)"),
    ("measurement/*-vv-*.tiff", truncate, r"-vv-.*tiff is truncated"),
    ("measurement/*-vv-*.tiff", posing_as_tiff, r"-vv-.*tiff is not a GTiff file"),
    ("measurement/*-vv-*.tiff", other_size, r"-vv-.*tiff has 20 x 30 pixels, its annotation says"),
]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(("pattern", "damage", "message"), BAD, ids=range(len(BAD)))
def test_a_bad_product_gives_one_clear_message(small: Path, pattern: str, damage: Any, message: str) -> None:
    damage(next(small.glob(pattern)))
    with pytest.raises(SceneRejected, match=message) as caught:
        open_sentinel1(str(small))
    assert "\n" not in str(caught.value)


def test_other_levels_and_missing_pixels_are_named(shared_data: Path) -> None:
    folder = shared_data / "sentinel1"
    for path, message in [
        (folder / f"{SLC_ZIP}.zip", r"holds 3 scenes: name one, such as .*_7768.zip#IW1"),
        (folder / f"{SLC_ZIP}.zip#IW4", r"7768.zip holds no IW4, but IW1, IW2, IW3"),
        (folder / f"{SLC_ZIP}.zip#IW2", r"measurement/s1a-iw2-slc-vv-.*tiff is empty \(0 bytes\)"),
        (folder / f"{IPF_331}.zip#IW1", r"holds no IW1, but one scene without a name of its own"),
        (folder / f"{IPF_331}.zip", r"measurement/s1a-iw-grd-vh-.*tiff is missing"),
        (folder / EW_352, r"measurement/ew-hh.tiff is empty \(0 bytes\)"),
        (folder, r"sentinel1 has no manifest.safe"),
    ]:
        with pytest.raises(SceneRejected, match=message):
            open_sentinel1(str(path))


def test_a_denoised_product_is_taken_as_it_is_on_request(small: Path) -> None:
    for annotation in images(small):
        edit(annotation, "<thermalNoiseCorrectionPerformed>false", "<thermalNoiseCorrectionPerformed>true")
    with open_sentinel1(str(small), Pixels(denoise=False)) as scene:
        assert scene.info.warnings == ()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_damaged_metadata_is_read_or_rejected(fuzzed: tuple[Path, Path], data: st.DataObject) -> None:
    source, product = fuzzed
    files = sorted(p for p in source.rglob("*") if p.suffix in (".xml", ".safe"))
    file = data.draw(st.sampled_from(files))
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content) - 1))
        content[start : start + data.draw(st.integers(0, 40))] = data.draw(
            st.sampled_from([b"", b"9", b"<", b"-1e400"])
        )
    target = product / file.relative_to(source)
    target.write_bytes(bytes(content))
    try:
        open_sentinel1(str(product)).__exit__()
    except SceneRejected:
        pass
    finally:
        shutil.copyfile(file, target)


@pytest.fixture(scope="module")
def fuzzed(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    product = unpack(shared_data, IPF_340, tmp_path_factory.mktemp("fuzz"))
    shutil.rmtree(product / "annotation" / "rfi")
    crop(product, 1, 1)
    write_pixels(product, [(0, 0, 8, 8)])
    return Path(shutil.copytree(product, product.parent / "source")), product


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<startTime>", "<startTime>soon ", "startTime is 'soon 2021.*expected a time"),
        ("<azimuthPixelSpacing>", "<azimuthPixelSpacing>0.0e", "azimuthPixelSpacing is 0.0, expected metres"),
        ("<rangePixelSpacing>", "<rangePixelSpacing>-", "rangePixelSpacing is -10.0, expected metres"),
    ],
)
def test_times_and_spacings_that_cannot_be_are_refused(small: Path, old: str, new: str, message: str) -> None:
    path = next(small.glob(VV))
    path.write_text(path.read_text().replace("PixelSpacing>1.000000e+01", "PixelSpacing>10").replace(old, new, 1))
    with pytest.raises(SceneRejected, match=message):
        open_sentinel1(str(small))


def test_a_version_of_endless_digits_is_none(small: Path) -> None:
    edit(small / "manifest.safe", 'version="003.31"', f'version="{"3" * 5000}.31"')
    with open_sentinel1(str(small), Pixels(denoise=False)) as scene:
        assert scene.info.shape[0] > 0
