import itertools
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from infra.store import Unreachable
from ingest.raster import open_raster, open_remote_raster, read_window
from ingest.scene import SceneRejected, Window

ROWS, COLS = 330, 277
_draw = np.random.default_rng(0)
NUMBERS = _draw.integers(1, 600, (ROWS, COLS)).astype(np.uint16)
COMPLEX = (NUMBERS - 300.0 + 1j * _draw.integers(-300, 300, (ROWS, COLS))).astype(np.complex64)


class Bytes:
    """A source that knows what was read of it."""

    def __init__(self, data: bytes) -> None:
        self.data, self.size = data, len(data)
        self.read: list[tuple[int, int]] = []
        self.gone = False

    def read_at(self, start: int, length: int) -> bytes:
        if self.gone:
            raise Unreachable("the store is gone")
        self.read.append((start, length))
        return self.data[start : start + length]

    def prefetch(self, spans: Iterable[tuple[int, int]]) -> None:
        pass


def write(path: Path, pixels: NDArray[Any] = NUMBERS, **options: Any) -> bytes:
    profile = {"driver": "GTiff", "width": COLS, "height": ROWS, "count": 1, "dtype": pixels.dtype.name} | options
    with rasterio.open(path, "w", transform=rasterio.Affine(2, 0, 0, 0, 2, 0), **profile) as file:
        file.write(pixels, 1)
    return path.read_bytes()


ENCODINGS: list[dict[str, Any]] = [
    {},
    {"blockysize": 1},
    {"blockysize": ROWS},
    {"compress": "zstd", "blockysize": 7},
    {"compress": "lzw", "bigtiff": "yes", "tiled": True, "blockxsize": 64, "blockysize": 32},
    {"compress": "deflate", "endianness": "big"},
    {"compress": "deflate", "predictor": 2, "tiled": True, "blockxsize": 128, "blockysize": 64},
    {"driver": "COG", "compress": "zstd", "blocksize": 128, "nodata": 0},
]


@pytest.mark.parametrize(
    ("options", "pixels"),
    [
        *[(options, "uint16") for options in ENCODINGS],
        *[(options, pixels) for options in ENCODINGS[:-2] for pixels in ("complex_int16", "complex64")],
    ],
    ids=str,
)
def test_windows_are_those_of_gdal(tmp_path: Path, options: dict[str, Any], pixels: str) -> None:
    whole = NUMBERS if pixels == "uint16" else COMPLEX
    source = Bytes(write(tmp_path / "a.tif", whole, dtype=pixels, **options))
    with open_remote_raster(source, "a.tif") as remote, open_raster(str(tmp_path / "a.tif")) as local:
        assert (remote.height, remote.width, remote.count) == (ROWS, COLS, 1)
        assert remote.dtypes == local.dtypes
        for row, col in itertools.product((0, 31, 200), (0, 100)):
            window = Window(row, col, min(77, ROWS - row), COLS - col)
            found = read_window(remote, window)
            np.testing.assert_array_equal(found, read_window(local, window))
            assert found.dtype == whole.dtype
        np.testing.assert_array_equal(read_window(remote, Window(0, 0, ROWS, COLS)), whole)


def test_blocks_that_are_not_stored_are_zero(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=900, height=900, count=1, dtype="uint16", tiled=True, SPARSE_OK="TRUE",
        blockxsize=256, blockysize=256, compress="zstd", transform=rasterio.Affine(2, 0, 0, 0, 2, 0),
    ) as file:  # fmt: skip
        file.write(NUMBERS[:100, :200], 1, window=rasterio.windows.Window(300, 280, 200, 100))
    expected = np.zeros((900, 900), np.uint16)
    expected[280:380, 300:500] = NUMBERS[:100, :200]
    with open_remote_raster(Bytes(path.read_bytes()), "sparse.tif") as remote:
        np.testing.assert_array_equal(read_window(remote, Window(0, 0, 900, 900)), expected)
        assert not read_window(remote, Window(600, 600, 9, 9)).any()


def test_only_the_blocks_under_a_window_are_read(tmp_path: Path) -> None:
    source = Bytes(write(tmp_path / "a.tif", compress="zstd", blockysize=10))
    with open_remote_raster(source, "a.tif") as remote:
        assert sum(length for _, length in source.read) < 1500
        source.read.clear()
        read_window(remote, Window(95, 10, 10, 4))
        sizes = remote.tiff.sizes
        assert sum(length for _, length in source.read) == int(sizes[9] + sizes[10])


def test_a_store_that_fails_is_not_a_damaged_file(tmp_path: Path) -> None:
    source = Bytes(write(tmp_path / "a.tif"))
    with open_remote_raster(source, "a.tif") as remote:
        source.gone = True
        with pytest.raises(Unreachable, match="the store is gone"):
            read_window(remote, Window(0, 0, 9, 9))


def test_damaged_blocks_are_named_when_read(tmp_path: Path) -> None:
    data = bytearray(write(tmp_path / "a.tif", compress="deflate", blockysize=10))
    with open_remote_raster(Bytes(bytes(data)), "a.tif") as whole:
        start = int(whole.tiff.offsets[4])
    data[start : start + 40] = b"\xff" * 40
    with open_remote_raster(Bytes(bytes(data)), "s3://bucket/a.tif") as remote:
        np.testing.assert_array_equal(read_window(remote, Window(0, 0, 40, COLS)), NUMBERS[:40])
        with pytest.raises(SceneRejected, match=r"s3://bucket/a.tif has pixels that cannot be read \(rows 44 to 45\)"):
            read_window(remote, Window(44, 0, 2, 5))


def test_what_is_no_tiff_of_one_band_is_named(tmp_path: Path) -> None:
    packed = Bytes(write(tmp_path / "packed.tif", compress="packbits"))
    for source, message in [
        (Bytes(b""), r"x is empty \(0 bytes\)"),
        (Bytes(b"<VRTDataset/>" * 9), r"x is not a GTiff file: it starts with b'<VRTData'"),
        (Bytes(b"II*\0" + bytes(100)), r"x has a directory of 18761 entries"),
        (Bytes(b"II*\0\xff\xff\xff\xff"), r"x cannot be read as GTiff"),
        (Bytes(write(tmp_path / "a.tif")[:-100]), r"x is truncated: its last block ends at byte|cannot be read"),
        (packed, r"compression 32773 and uint16 pixels; from a store one band is read"),
    ]:
        with pytest.raises(SceneRejected, match=message):
            open_remote_raster(source, "x")


def tiff(**tags: tuple[int, int, int]) -> bytes:
    """Write a directory without an image: tag number to (type, count, value)."""
    entries = sorted((int(tag[1:]), *entry) for tag, entry in tags.items())
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + packed + bytes(400)


def test_declared_sizes_are_checked_before_pixels() -> None:
    image = {"t256": (4, 1, 100_000), "t257": (4, 1, 100_000), "t258": (3, 1, 16), "t277": (3, 1, 1)}
    strip = {"t273": (4, 1, 8), "t279": (4, 1, 9), "t278": (4, 1, 100_000)}
    for tags, message in [
        (image | strip, r"declares 100000 x 100000 pixels in 1 bands, 20000000000 bytes"),
        (image | strip | {"t257": (4, 1, 5000)}, r"has blocks of 1000000000 bytes"),
        (image | strip | {"t278": (4, 1, 1)}, r"lists 1 blocks, which do not make 100000 x 100000 pixels"),
        (image | strip | {"t273": (4, 2**31, 8)}, r"has a tag of 2147483648 values"),
        (image | strip | {"t257": (4, 1, 1), "t256": (4, 1, 1), "t279": (4, 1, 2**31)}, r"stores 2147483648 bytes in"),
        (image | strip | {"t257": (4, 1, 0)}, r"declares 0 x 100000 pixels"),
    ]:
        with pytest.raises(SceneRejected, match=message):
            open_remote_raster(Bytes(tiff(**tags)), "bomb.tif")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_read_or_rejected(fuzzed: bytes, data: st.DataObject) -> None:
    content = bytearray(fuzzed)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 400))] = data.draw(st.integers(0, 255))
    try:
        with open_remote_raster(Bytes(bytes(content)), "fuzzed.tif") as remote:
            read_window(remote, Window(0, 0, min(remote.height, 50), min(remote.width, 50)))
    except SceneRejected:
        pass


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("fuzz") / "a.tif", compress="deflate", blockysize=50)


def test_a_tag_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    data = bytearray(write(tmp_path / "x.tif"))
    (at,) = struct.unpack("<I", data[4:8])
    data[at + 14 : at + 26] = data[at + 2 : at + 14]
    with pytest.raises(SceneRejected, match="has TIFF tag 256 twice"):
        open_remote_raster(Bytes(bytes(data)), "x.tif")
