"""CEOS files: chains of records, each with twelve bytes that say what it is and how long, then fixed columns of text.

Byte positions count from the first byte of a record, zero based. Layout: JAXA, ALOS-2/PALSAR-2 Level 1.1/1.5/2.1/3.1
CEOS SAR Product Format Description.
"""

import os
import re
import struct
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ingest.scene import SceneRejected, Window

PREAMBLE = struct.Struct(">IBBBBI")
"""Sequence number, four type codes (the first two tell records apart), length in bytes."""
DESCRIPTOR_BYTES = 720
Kind = tuple[int, int]

MAX_RECORDS = 256
MAX_RECORD_BYTES = 1 << 16
"""A record of header text may not be longer than this to be read; data records are never read as text."""
MAX_LINE_BYTES = 1 << 22
MAX_LINES = 1 << 20
# Lines are read this many bytes at a time, so that memory does not grow with the window.
_BLOCK_BYTES = 1 << 23
_LINE_TYPES = (10, 11)
"""Second type code of a line: of complex and of amplitude images."""

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[EeDd][+-]?[0-9]{1,3})?")


@dataclass(frozen=True, slots=True)
class Fields:
    """The text columns of one record; ``name`` says for messages where it stands."""

    name: str
    data: bytes | bytearray

    def text(self, start: int, stop: int) -> str:
        """Give the text in bytes start to stop without padding; raises SceneRejected where the record is shorter."""
        if stop > len(self.data):
            raise SceneRejected(f"{self.name} has {len(self.data)} bytes, expected at least {stop}: it is damaged")
        return self.data[start:stop].decode("ascii", errors="replace").strip(" \0")

    def integer(self, start: int, stop: int, what: str) -> int:
        """Give an integer; raises SceneRejected naming ``what`` where there is none."""
        found = self.text(start, stop)
        if not _INTEGER.fullmatch(found):
            self._refuse(start, stop, what, found, "an integer")
        return int(found)

    def number(self, start: int, stop: int, what: str) -> float:
        """Give a finite number; blank columns and the text NAN raise SceneRejected naming ``what``."""
        found = self.text(start, stop)
        value = float(re.sub("[dD]", "E", found)) if _NUMBER.fullmatch(found) else np.nan
        if not np.isfinite(value):
            self._refuse(start, stop, what, found, "a number")
        return value

    def _refuse(self, start: int, stop: int, what: str, found: str, expected: str) -> None:
        raise SceneRejected(
            f"{self.name} gives {what} as {found!r} (bytes {start} to {stop - 1}), expected {expected}: "
            "the product is damaged or of an unknown kind, fetch it again"
        )


def read_records(path: Path, kinds: frozenset[Kind]) -> list[tuple[Kind, Fields]]:
    """Walk the records of a file and give (kind, fields) of those whose first two type codes are asked for.

    Only those are read; the others are stepped over. Raises SceneRejected where the chain of lengths is broken.
    """
    found: list[tuple[Kind, Fields]] = []
    with _File(path) as file:
        size, at = os.fstat(file.fileno).st_size, 0
        for _ in range(MAX_RECORDS):
            if at == size:
                return found
            kind, length = _preamble(file, at, size)
            if kind in kinds:
                found.append(
                    (kind, Fields(f"{path} record {kind[0]}-{kind[1]} at byte {at}", file.read(at, length, limit=True)))
                )
            at += length
    raise SceneRejected(f"{path} has more than {MAX_RECORDS} records; a product has about twenty: it is refused")


def _preamble(file: "_File", at: int, size: int) -> tuple[Kind, int]:
    """Give kind and length of the record at a byte."""
    if size - at < PREAMBLE.size:
        raise SceneRejected(f"{file.path} ends within a record at byte {at}: it is truncated, fetch it again")
    _, first, second, _, _, length = PREAMBLE.unpack(file.read(at, PREAMBLE.size))
    if length < PREAMBLE.size or length > size - at:
        raise SceneRejected(
            f"{file.path} has a record of {length} bytes at byte {at} where {size - at} bytes remain: "
            "it is truncated or damaged, fetch it again"
        )
    return (first, second), length


@dataclass(frozen=True, slots=True)
class Sample:
    """How one pixel is stored: bytes, NumPy type of its numbers, and how many numbers it has."""

    bytes: int
    dtype: str
    numbers: int


AMPLITUDE = Sample(2, ">u2", 1)
"""Levels 1.5, 2.1 and 3.1."""
COMPLEX = Sample(8, ">f4", 2)
"""Level 1.1: in phase and quadrature."""
# Format code and bits per number as descriptors have them; of complex pixels some count the bits of both parts.
_SAMPLES: Mapping[tuple[str, str], Sample] = MappingProxyType(
    {("IU2", "16"): AMPLITUDE, ("C*8", "32"): COMPLEX, ("C*8", "64"): COMPLEX}
)


@dataclass(frozen=True, slots=True)
class ImageLayout:
    """How an image file is laid out: after a descriptor, ``lines`` records of ``line_bytes``, each with a prefix."""

    lines: int
    pixels: int
    line_bytes: int
    prefix_bytes: int
    sample: Sample = AMPLITUDE


def read_layout(path: Path) -> ImageLayout:
    """Read the descriptor of an image of one band. Raises SceneRejected for unknown pixels or impossible sizes."""
    with _File(path) as file:
        fields = Fields(f"{path} descriptor", file.read(0, DESCRIPTOR_BYTES))
    layout = ImageLayout(
        lines=fields.integer(236, 244, "the number of lines"),
        pixels=fields.integer(248, 256, "the number of pixels"),
        line_bytes=fields.integer(186, 192, "the record length"),
        prefix_bytes=fields.integer(276, 280, "the prefix length"),
        sample=_sample(fields),
    )
    _check_layout(fields, layout)
    return layout


def _sample(fields: Fields) -> Sample:
    code, interleave, bits = fields.text(428, 432), fields.text(268, 272), fields.text(216, 220)
    sample = _SAMPLES.get((code, bits))
    if sample is None or interleave != "BSQ":
        raise SceneRejected(
            f"{fields.name} says format {code!r}, {interleave!r}, {bits} bits; expected 'BSQ' (one band per file) of "
            "'IU2', 16 bits (unsigned amplitude) or 'C*8', 32 bits (complex)"
        )
    return sample


def _check_layout(fields: Fields, layout: ImageLayout) -> None:
    """Refuse lengths that contradict each other or are out of all reason."""
    records, data_bytes, suffix_bytes = (
        fields.integer(start, stop, what)
        for start, stop, what in (
            (180, 186, "the number of records"),
            (280, 288, "the bytes of data per line"),
            (288, 292, "the suffix length"),
        )
    )
    sane = 0 < layout.lines <= MAX_LINES and 0 < layout.line_bytes <= MAX_LINE_BYTES
    if not sane or min(layout.pixels, layout.prefix_bytes - PREAMBLE.size + 1, suffix_bytes + 1) < 1:
        raise SceneRejected(f"{fields.name} gives impossible sizes: {layout}; the product is damaged, fetch it again")
    pixel_bytes = layout.sample.bytes * layout.pixels
    parts = layout.prefix_bytes + pixel_bytes + suffix_bytes
    if data_bytes != pixel_bytes or parts != layout.line_bytes or records != layout.lines:
        raise SceneRejected(
            f"{fields.name} contradicts itself: {records} records for {layout.lines} lines; record length "
            f"{layout.line_bytes} for {layout.prefix_bytes} + {data_bytes} + {suffix_bytes} bytes"
        )


class ImageFile:
    """The lines of an open image file. Reading is safe from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.layout = read_layout(path)
        self._file = _File(path)
        needed = DESCRIPTOR_BYTES + self.layout.lines * self.layout.line_bytes
        size = os.fstat(self._file.fileno).st_size
        if size < needed:
            self._file.close()
            raise SceneRejected(
                f"{path} is truncated: {size} bytes for {self.layout.lines} lines of {self.layout.line_bytes} bytes, "
                f"expected {needed}; fetch it again"
            )

    def blocks(self, window: Window) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Read a window some lines at a time: rows of the window and its numbers, big-endian.

        Amplitude is (n, cols) uint16, complex (n, cols, 2) float32. Raises SceneRejected where a line's own preamble
        is not what the descriptor promises.
        """
        layout, sample = self.layout, self.layout.sample
        step = max(1, _BLOCK_BYTES // layout.line_bytes)
        first_byte = layout.prefix_bytes + sample.bytes * window.col
        for row in range(0, window.rows, step):
            lines = self._lines(window.row + row, min(step, window.rows - row))
            columns = np.ascontiguousarray(lines[:, first_byte : first_byte + sample.bytes * window.cols])
            numbers = columns.view(sample.dtype)
            if sample.numbers > 1:
                numbers = numbers.reshape(len(lines), window.cols, sample.numbers)
            yield slice(row, row + len(lines)), numbers

    def prefix(self, row: int, fields: np.dtype[np.void]) -> np.void:
        """Read the prefix of one line as a record whose dtype gives the byte of each field within the line.

        Raises SceneRejected where the prefix is too short for it.
        """
        if fields.itemsize > self.layout.prefix_bytes:
            raise SceneRejected(
                f"{self.path} has line prefixes of {self.layout.prefix_bytes} bytes, expected at least "
                f"{fields.itemsize}: it is of an unknown kind"
            )
        line = self._lines(row, 1)[0, : fields.itemsize]
        found: np.void = np.frombuffer(line.tobytes(), fields)[0]
        return found

    def _lines(self, row: int, count: int) -> NDArray[np.uint8]:
        layout = self.layout
        data = self._file.read(DESCRIPTOR_BYTES + row * layout.line_bytes, count * layout.line_bytes)
        lines = np.frombuffer(data, np.uint8).reshape(count, layout.line_bytes)
        self._check_lines(lines, row)
        return lines

    def _check_lines(self, lines: NDArray[np.uint8], first: int) -> None:
        lengths = np.ascontiguousarray(lines[:, 8:12]).view(">u4")[:, 0]
        wrong = np.flatnonzero(lengths != self.layout.line_bytes)
        if len(wrong):
            raise SceneRejected(
                f"{self.path} line {first + wrong[0]} says that it has {lengths[wrong[0]]} bytes, expected a "
                f"record length of {self.layout.line_bytes}: the file has a hole or is damaged, fetch it again"
            )
        strange = np.flatnonzero(~np.isin(lines[:, 5], _LINE_TYPES))
        if len(strange):
            raise SceneRejected(
                f"{self.path} line {first + strange[0]} is a record of type {lines[strange[0], 5]}, expected "
                f"{_LINE_TYPES[0]} (signal) or {_LINE_TYPES[1]} (processed): the file is damaged, fetch it again"
            )

    def close(self) -> None:
        """Close the file; again is fine."""
        self._file.close()


class _File:
    """An open file that is read at positions, and whose every failure is a rejection that names it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.fileno = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise SceneRejected(f"{path} cannot be opened: {error.strerror}; the product is incomplete") from error
        self.close = weakref.finalize(self, os.close, self.fileno)

    def read(self, start: int, length: int, limit: bool = False) -> bytearray:
        """Read exactly ``length`` bytes; with ``limit`` no more than a header record may have."""
        if limit and length > MAX_RECORD_BYTES:
            raise SceneRejected(f"{self.path} has a header of {length} bytes; at most {MAX_RECORD_BYTES} are read")
        data = bytearray(length)
        done = 0
        while done < length:
            try:
                count = os.preadv(self.fileno, [memoryview(data)[done:]], start + done)
            except OSError as error:
                raise SceneRejected(f"{self.path} cannot be read: {error.strerror}") from error
            if count == 0:
                raise SceneRejected(
                    f"{self.path} ends after {start + done} bytes, expected {start + length}: it is truncated, "
                    "fetch it again"
                )
            done += count
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
