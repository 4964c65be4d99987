"""TIFF images that are read in pieces: the directory and the wanted blocks are fetched by us, GDAL only decodes them.

The blocks under a window are put, as they are stored, into a small TIFF in memory. So GDAL never waits for a network,
and what a store answers is an error of ours and not one of GDAL's. (TIFF 6.0, and BigTIFF.)
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from infra.store import Corrupt
from ingest.ranged import Source
from ingest.scene import SceneRejected, Window

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_OFFSETS, _SAMPLES, _STRIP_ROWS, _SIZES, _PREDICTOR = 273, 277, 278, 279, 317
_TILE_COLS, _TILE_ROWS, _TILE_OFFSETS, _TILE_SIZES, _FORMAT = 322, 323, 324, 325, 339
_PIXEL_SCALE, _TIE_POINT = 33550, 33922
_KEPT = (_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PREDICTOR, _FORMAT)
_PLAIN = (1, 5, 8, 32946, 50000)  # none, LZW, deflate (twice), zstd
_MAX_BLOCKS = 2**22
_TYPES = MappingProxyType({1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"})
_DTYPES = MappingProxyType(
    {
        (1, 8): "uint8",
        (1, 16): "uint16",
        (2, 16): "int16",
        (3, 32): "float32",
        (5, 32): "complex_int16",
        (6, 64): "complex64",
    }
)

Tags = Mapping[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Tiff:
    """The first image of a TIFF: where its blocks lie in the file, and how they are encoded. It has one band."""

    source: Source
    name: str
    order: str
    tags: Tags
    block: tuple[int, int]
    offsets: NDArray[np.uint64]
    sizes: NDArray[np.uint64]

    @classmethod
    def open(cls, source: Source, name: str) -> Self:
        """Read the directory. Raises SceneRejected for what is not a TIFF of one band in a plain encoding."""
        try:
            order, tags = _directory(source, name)
        except (struct.error, Corrupt) as error:
            raise SceneRejected(f"{name} cannot be read as GTiff: {error}; the file is damaged") from error
        height, width = (_one(tags, tag, name) for tag in (_HEIGHT, _WIDTH))
        tiled = _TILE_OFFSETS in tags
        rows = _one(tags, _TILE_ROWS, name) if tiled else min(tags.get(_STRIP_ROWS, (height,))[0], height)
        cols = _one(tags, _TILE_COLS, name) if tiled else width
        if min(height, width, rows, cols) < 1:
            raise SceneRejected(f"{name} declares {height} x {width} pixels in blocks of {rows} x {cols}")
        stored = (_TILE_OFFSETS, _TILE_SIZES) if tiled else (_OFFSETS, _SIZES)
        offsets, sizes = (np.array(tags.get(tag, ()), np.uint64) for tag in stored)
        if len(offsets) != len(sizes) or len(offsets) != -(-height // rows) * -(-width // cols):
            raise SceneRejected(f"{name} lists {len(offsets)} blocks, which do not make {height} x {width} pixels")
        found = cls(source, name, order, tags, (rows, cols), offsets, sizes)
        found._check_encoding()
        most = 2 * rows * cols * np.dtype(found.dtype.replace("complex_int16", "complex64")).itemsize + 2**16
        if int(sizes.max()) > most:
            raise SceneRejected(f"{name} stores {int(sizes.max())} bytes in a block of {rows} x {cols} pixels")
        return found

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.tags[_HEIGHT][0]

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.tags[_WIDTH][0]

    @property
    def dtype(self) -> str:
        """Rasterio's name of the pixels' type; "unknown" for one that is not read here."""
        return _DTYPES.get((self.tags.get(_FORMAT, (1,))[0], self.tags.get(_BITS, (1,))[0]), "unknown")

    @property
    def end(self) -> int:
        """The byte after the last block."""
        stored = [(int(at), int(size)) for at, size in zip(self.offsets, self.sizes, strict=True) if at and size]
        return max((at + size for at, size in stored), default=0)  # in integers that cannot overflow

    def read(self, window: Window) -> NDArray[Any]:
        """Fetch the blocks under a window and decode it, (rows, cols); raises SceneRejected where they are damaged.

        A store that fails raises StoreError.
        """
        (rows, cols), across = self.block, -(-self.width // self.block[1])
        first_row, first_col = window.row // rows, window.col // cols
        down = range(first_row, -(-(window.row + window.rows) // rows))
        right = range(first_col, -(-(window.col + window.cols) // cols))
        numbers = [i * across + j for i in down for j in right]
        shape = (
            min(down.stop * rows, self.height) - first_row * rows,
            min(right.stop * cols, self.width) - first_col * cols,
        )
        places = [(int(self.offsets[n]), int(self.sizes[n])) for n in numbers]
        inner = Window(window.row - first_row * rows, window.col - first_col * cols, window.rows, window.cols)
        try:
            self.source.prefetch(place for place in places if all(place))
            blocks = [self.source.read_at(*place) if all(place) else b"" for place in places]
            return _decode(self._small(shape, blocks), inner)
        except (RasterioError, Corrupt) as error:
            last = window.row + window.rows - 1
            raise SceneRejected(
                f"{self.name} has pixels that cannot be read (rows {window.row} to {last}): "
                f"{error.__cause__ or error}; the file is truncated or damaged: fetch the product again"
            ) from error

    def _check_encoding(self) -> None:
        compression, samples = (self.tags.get(tag, (1,))[0] for tag in (_COMPRESSION, _SAMPLES))
        if compression not in _PLAIN or samples != 1 or self.dtype == "unknown":
            raise SceneRejected(
                f"{self.name} has {samples} bands, compression {compression} and {self.dtype} pixels; from a store one "
                "band is read, without compression or with LZW, deflate or zstd: copy the product to a disk"
            )

    def _small(self, shape: tuple[int, int], blocks: Sequence[bytes]) -> bytes:
        """Write a TIFF of some blocks, in the byte order of the whole one."""
        tiled = _TILE_OFFSETS in self.tags
        tags: dict[int, tuple[int, ...]] = {tag: self.tags[tag] for tag in _KEPT if tag in self.tags}
        tags |= {_HEIGHT: (shape[0],), _WIDTH: (shape[1],)}
        tags |= {_TILE_ROWS: (self.block[0],), _TILE_COLS: (self.block[1],)} if tiled else {_STRIP_ROWS: self.block[:1]}
        sizes = [len(block) for block in blocks]
        # A place on a map, which only keeps rasterio from warning that there is none.
        place = struct.pack(f"{self.order}9d", 1, 1, 0, *(0,) * 6)
        where, how_long = (_TILE_OFFSETS, _TILE_SIZES) if tiled else (_OFFSETS, _SIZES)
        # Header, then every list of values, then the blocks, then the directory: each place is known when it is used.
        lists, start = 8 + len(place), 8 + len(place) + 8 * len(blocks)
        ends = np.cumsum([start, *sizes])
        offsets = [int(at) if size else 0 for at, size in zip(ends, sizes, strict=False)]
        body = place + struct.pack(f"{self.order}{2 * len(blocks)}I", *offsets, *sizes)
        entries = [(tag, 4, 1, value[0]) for tag, value in tags.items()]
        entries += [(_PIXEL_SCALE, 12, 3, 8), (_TIE_POINT, 12, 6, 8 + 24)]
        if len(blocks) == 1:
            entries += [(where, 4, 1, offsets[0]), (how_long, 4, 1, sizes[0])]
        else:
            entries += [(where, 4, len(blocks), lists), (how_long, 4, len(blocks), lists + 4 * len(blocks))]
        directory = struct.pack(f"{self.order}H", len(entries))
        directory += b"".join(struct.pack(f"{self.order}HHII", *entry) for entry in sorted(entries)) + bytes(4)
        magic = b"II" if self.order == "<" else b"MM"
        return magic + struct.pack(f"{self.order}HI", 42, int(ends[-1])) + body + b"".join(blocks) + directory


def _decode(tiff: bytes, window: Window) -> NDArray[Any]:
    place = rasterio.windows.Window(window.col, window.row, window.cols, window.rows)
    with rasterio.MemoryFile(tiff) as memory, memory.open(driver="GTiff") as dataset:
        return np.asarray(dataset.read(1, window=place))


def _directory(source: Source, name: str) -> tuple[str, Tags]:
    """Read the first directory: byte order and the integer values of the tags that matter."""
    magic = source.read_at(0, 16)
    order = {b"II": "<", b"MM": ">"}.get(magic[:2])
    version = struct.unpack(f"{order}H", magic[2:4])[0] if order else 0
    if order is None or version not in (42, 43):
        raise SceneRejected(f"{name} is not a GTiff file: it starts with {magic[:8]!r}")
    big = version == 43
    (at,) = struct.unpack(f"{order}Q", magic[8:16]) if big else struct.unpack(f"{order}I", magic[4:8])
    (count,) = struct.unpack(f"{order}Q" if big else f"{order}H", source.read_at(at, 8 if big else 2))
    if count > 4096:
        raise SceneRejected(f"{name} has a directory of {count} entries; the file is damaged")
    entry, first = ("HHQ8s", at + 8) if big else ("HHI4s", at + 2)
    size = struct.calcsize(f"{order}{entry}")
    packed = source.read_at(first, count * size)
    tags: dict[int, tuple[int, ...]] = {}
    for number in range(count):
        tag, kind, length, value = struct.unpack_from(f"{order}{entry}", packed, number * size)
        if tag in tags:
            raise SceneRejected(f"{name} has TIFF tag {tag} twice; the file is damaged")
        if tag in _WANTED and kind in _TYPES:
            tags[tag] = _values(source, order, _TYPES[kind], length, value, name)
    return order, tags


_WANTED = frozenset(
    (*_KEPT, _WIDTH, _HEIGHT, _OFFSETS, _SIZES, _STRIP_ROWS, _TILE_COLS, _TILE_ROWS, _TILE_OFFSETS, _TILE_SIZES)
)


def _values(source: Source, order: str, kind: str, length: int, value: bytes, name: str) -> tuple[int, ...]:
    """Give the values of an entry, which lie in it where they fit and elsewhere where not."""
    if not 1 <= length <= _MAX_BLOCKS:
        raise SceneRejected(f"{name} has a tag of {length} values; the file is damaged")
    size = length * struct.calcsize(kind)
    if size > len(value):
        (at,) = struct.unpack(f"{order}{'Q' if len(value) == 8 else 'I'}", value)
        value = source.read_at(at, size)
    return struct.unpack_from(f"{order}{length}{kind}", value)


def _one(tags: Tags, tag: int, name: str) -> int:
    if tag not in tags:
        raise SceneRejected(f"{name} lacks TIFF tag {tag}; the file is damaged")
    return tags[tag][0]
