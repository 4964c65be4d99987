"""CEOS records: twelve binary bytes that name a record, then text fields at fixed columns."""

import struct
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

Codes = tuple[int, int, int, int]
Fields = Mapping[tuple[int, int], str | int]
"""What stands from one byte up to another: text is set to the left, integers to the right."""


def preamble(sequence: int, codes: Codes, length: int) -> bytes:
    """Write the start of a record: its number in the file, its four type codes, its length in bytes."""
    return struct.pack(">I4BI", sequence, *codes, length)


def record(sequence: int, codes: Codes, length: int, fields: Fields) -> bytes:
    """Write a record of blanks and fields, ``length`` bytes."""
    content = bytearray(b" " * length)
    content[:12] = preamble(sequence, codes, length)
    for (start, stop), value in fields.items():
        width = stop - start
        text = f"{value:>{width}}" if isinstance(value, int) else f"{value:<{width}}"
        if len(text) != width or stop > length:
            raise ValueError(f"field {start}:{stop} of a record of {length} bytes cannot hold {text!r}")
        content[start:stop] = text.encode("ascii")
    return bytes(content)


def descriptor(sequence: int, codes: Codes, file_number: int, file_name: str, fields: Fields) -> bytes:
    """Write the 720 bytes that open every file of a volume."""
    common: dict[tuple[int, int], str | int] = {
        (12, 14): "A",
        (16, 28): "CEOS-SAR",
        (28, 32): " A A",
        (32, 44): "002.012",
        (44, 48): file_number,
        (48, 64): file_name,
        (64, 68): "FSEQ",
        (68, 76): 1,
        (76, 80): 4,
        (80, 84): "FTYP",
        (84, 92): 5,
        (92, 96): 4,
        (96, 100): "FLGT",
        (100, 108): 9,
        (108, 112): 4,
    }
    return record(sequence, codes, 720, {**common, **fields})


def image_descriptor(rows: int, cols: int, prefix_bytes: int, pixel: tuple[int, int, int], fields: Fields) -> bytes:
    """Write the descriptor of an image file; ``pixel`` is bits per sample, samples and bytes per pixel."""
    bits, samples, size = pixel
    common: dict[tuple[int, int], str | int] = {
        (180, 186): rows,
        (186, 192): prefix_bytes + size * cols,
        (216, 220): bits,
        (220, 224): samples,
        (224, 228): size,
        (232, 236): 1,
        (236, 244): rows,
        (244, 248): 0,
        (248, 256): cols,
        (256, 260): 0,
        (260, 264): 0,
        (264, 268): 0,
        (268, 272): "BSQ",
        (272, 274): 1,
        (274, 276): 1,
        (276, 280): prefix_bytes,
        (280, 288): size * cols,
        (288, 292): 0,
        (432, 436): 0,
        (436, 440): 0,
    }
    return descriptor(1, (50, 192, 18, 18), 1, "AL2 SARCIMOP", {**common, **fields})


def write_lines(image: BinaryIO, lines: NDArray[np.void], first_row: int, codes: Codes) -> None:
    """Append a record for each line of an image, from ``first_row`` on; ``lines`` has room for their preambles."""
    length = lines.dtype.itemsize
    raw = lines.view(np.uint8).reshape(len(lines), length)
    for number, line in enumerate(raw, first_row + 2):
        line[:12] = np.frombuffer(preamble(number, codes, length), np.uint8)
    image.write(raw.tobytes())


def fixed(value: float, width: int = 16, digits: int = 7) -> str:
    """Write a number as Fortran's F format does."""
    return f"{value:{width}.{digits}f}"


def scientific(value: float, width: int = 20, digits: int = 10) -> str:
    """Write a number as Fortran's E format does."""
    return f"{value:{width}.{digits}E}"
