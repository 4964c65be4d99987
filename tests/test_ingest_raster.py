import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from ingest.raster import open_raster, read_window, zip_raster_path
from ingest.scene import SceneRejected, Window

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

PIXELS = np.random.default_rng(0).integers(1, 600, (300, 500)).astype(np.uint16)
VRT = """<VRTDataset rasterXSize="500" rasterYSize="300"><VRTRasterBand dataType="UInt16" band="1">
<SimpleSource><SourceFilename relativeToVRT="0">{}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>
</VRTRasterBand></VRTDataset>"""


def write(path: Path, pixels: Any = PIXELS, driver: str = "GTiff", **options: Any) -> Path:
    height, width = pixels.shape
    profile = {"width": width, "height": height, "count": 1, "dtype": pixels.dtype} | options
    with rasterio.open(path, "w", driver=driver, **profile) as file:
        file.write(pixels, 1)
    return path


@pytest.mark.parametrize("driver", ["GTiff", "PNG"])
def test_a_raster_is_read_by_windows(tmp_path: Path, driver: Any) -> None:
    path = write(tmp_path / "a.raster", driver=driver)
    with open_raster(str(path), driver) as dataset:
        assert (dataset.height, dataset.width) == (300, 500)
        np.testing.assert_array_equal(read_window(dataset, Window(17, 40, 60, 99)), PIXELS[17:77, 40:139])


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_of_a_zip_is_read_in_place(tmp_path: Path, method: int) -> None:
    path = write(tmp_path / "a.tif")
    archive = tmp_path / "pro duct.zip"
    with zipfile.ZipFile(archive, "w", method) as zipped:
        zipped.write(path, "x.SAFE/measurement/a.tif")
    with open_raster(zip_raster_path(archive, "x.SAFE/measurement/a.tif")) as dataset:
        np.testing.assert_array_equal(read_window(dataset, Window(0, 0, 300, 500)), PIXELS)


def test_vrt_posing_as_tiff_is_refused(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.tif")
    fake = tmp_path / "s1a-iw-grd-vv.tiff"
    fake.write_text(VRT.format(secret))
    with pytest.raises(SceneRejected, match=r"s1a-iw-grd-vv.tiff is not a GTiff file: it starts with b'<VRTData'"):
        open_raster(str(fake))


def test_side_cars_are_not_read(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.tif")
    path = write(tmp_path / "b.tiff")
    for side in ("ovr", "msk", "aux.xml"):
        (tmp_path / f"b.tiff.{side}").write_text(VRT.format(secret))

    def check() -> None:
        with open_raster(str(path)) as dataset:
            assert dataset.overviews(1) == []
            assert dataset.read_masks(1).min() == 255
            assert dataset.files == [str(path)]

    check()
    with ThreadPoolExecutor(1) as pool:  # GDAL has options per thread, too
        pool.submit(check).result()


def test_drivers_that_follow_references_are_off() -> None:
    code = (
        "import rasterio, pytest\nfrom ingest.raster import open_raster\n"
        "try: open_raster('/does/not/exist')\nexcept Exception: pass\n"
        "with rasterio.Env() as env: names = set(env.drivers())\n"
        "assert {'GTiff', 'PNG', 'COG', 'MEM'} <= names, names\n"
        "assert not names & {'VRT', 'WMS', 'HTTP', 'STACIT', 'GTI', 'netCDF', 'SENTINEL2', 'SAFE'}, names\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("size", [100_000, 60_000])
def test_declared_size_is_checked_before_pixels(tmp_path: Path, size: int) -> None:
    path = tmp_path / "bomb.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=size, height=size, count=1, dtype="uint16", tiled=True,
        compress="zstd", SPARSE_OK="TRUE", bigtiff="YES",
    ):  # fmt: skip
        pass
    assert path.stat().st_size < 3_000_000
    if size == 60_000:  # 7.2 GB decoded, within what a product may hold: opened, never decoded as a whole
        open_raster(str(path)).close()
        return
    with pytest.raises(SceneRejected, match=r"declares 100000 x 100000 pixels in 1 bands, 20000000000 bytes"):
        open_raster(str(path))


def test_one_huge_block_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "block.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=20_000, height=20_000, count=1, dtype="uint16", blockysize=20_000,
        compress="zstd", SPARSE_OK="TRUE",
    ):  # fmt: skip
        pass
    with pytest.raises(SceneRejected, match="has blocks of 800000000 bytes"):
        open_raster(str(path))


@pytest.mark.parametrize("keep", [0.5, 0.999])
@pytest.mark.parametrize("options", [{}, {"tiled": True, "compress": "deflate", "blockxsize": 64, "blockysize": 64}])
def test_truncated_tiff_is_refused_on_opening(tmp_path: Path, keep: float, options: dict[str, Any]) -> None:
    path = write(tmp_path / "cut.tif", **options)
    os.truncate(path, int(path.stat().st_size * keep))
    with pytest.raises(SceneRejected, match=r"cut.tif is truncated: its last block ends at byte"):
        open_raster(str(path))


def test_damaged_block_is_named_when_read(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.tif", tiled=True, compress="deflate", blockxsize=64, blockysize=64)
    with open_raster(str(path)) as dataset:
        offset = int(dataset.get_tag_item("BLOCK_OFFSET_1_2", "TIFF", bidx=1))
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 200)
    with open_raster(str(path)) as dataset:
        np.testing.assert_array_equal(read_window(dataset, Window(0, 0, 128, 500)), PIXELS[:128])
        with pytest.raises(SceneRejected, match=r"bad.tif has pixels that cannot be read \(rows 128 to 191\)"):
            read_window(dataset, Window(128, 64, 64, 64))


def test_files_that_are_no_raster_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.tiff").touch()
    write(tmp_path / "picture.png", driver="PNG")
    with pytest.raises(SceneRejected, match=r"empty.tiff is empty \(0 bytes\)"):
        open_raster(str(tmp_path / "empty.tiff"))
    with pytest.raises(SceneRejected, match=r"picture.png is not a GTiff file"):
        open_raster(str(tmp_path / "picture.png"))
    with pytest.raises(SceneRejected, match=r"gone.tiff cannot be opened"):
        open_raster(str(tmp_path / "gone.tiff"))
    with pytest.raises(SceneRejected, match=r"is not a local file"):
        open_raster("/vsicurl/http://169.254.169.254/latest.tif")
    with pytest.raises(SceneRejected, match=r"is not a local file"):
        open_raster("https://example.com/a.tif")
    garbage = tmp_path / "garbage.tiff"
    garbage.write_bytes(b"II*\0" + bytes(100))
    with pytest.raises(SceneRejected, match=r"garbage.tiff cannot be read as GTiff"):
        open_raster(str(garbage))
