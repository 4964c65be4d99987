"""Writes ALOS-2 level 1.5 products: the real headers of a JAXA sample with synthetic lines behind them."""

import os
import shutil
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PRODUCT = "ALOS2015976960-140909-FBDR1.5GUA"
LINES, PIXELS, LINE_BYTES, PREFIX_BYTES, DESCRIPTOR_BYTES = 13161, 12870, 25932, 192, 720
MAP_RECORD_AT, RADIOMETRY_AT, SUMMARY_AT = 4816, 27500, 720
UPPER_LEFT_KM, SPACING_KM = (8819.4629930, 510.8790839), 0.00625
CUT_LEADER_BYTES = 38980  # the facility records that follow are not read by anyone


def numbers(polarisation: str, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> NDArray[np.uint16]:
    """Give what stands in a synthetic image: every value from 0 to 65535 occurs, different in each band."""
    step = {"HH": 40503, "HV": 30011}[polarisation]
    mixed = rows[:, None] * 12_289 + cols[None, :] * step
    return (mixed % 65536).astype(np.uint16)


def headers(shared_data: Path, folder: Path, short: bool = True) -> Path:
    """Copy the real VOL, LED and summary.txt; ``short`` leaves out the leader's calibration archives."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (f"VOL-{PRODUCT}", f"LED-{PRODUCT}", "summary.txt"):
        shutil.copyfile(shared_data / "alos2" / "l15_ceos" / name, folder / name)
    if short:
        os.truncate(folder / f"LED-{PRODUCT}", CUT_LEADER_BYTES)
    return folder


def full_size(shared_data: Path, folder: Path, rows: Iterable[int], bands: tuple[str, ...] = ("HH", "HV")) -> Path:
    """Write a product of the size that its real descriptors declare; only these lines have content."""
    headers(shared_data, folder, short=False)
    for band in bands:
        name = f"IMG-{band}-{PRODUCT}"
        shutil.copyfile(shared_data / "alos2" / "l15_ceos" / name, folder / name)
        write_lines(folder / name, band, rows, LINES, PIXELS)
    return folder


def small(shared_data: Path, folder: Path, lines: int, pixels: int) -> Path:
    """Write a complete product of another size: sizes and corners in the real headers are replaced."""
    headers(shared_data, folder)
    line_bytes = PREFIX_BYTES + 2 * pixels
    for band in ("HH", "HV"):
        image = folder / f"IMG-{band}-{PRODUCT}"
        shutil.copyfile(shared_data / "alos2" / "l15_ceos" / image.name, image)
        for at, width, value in (
            (180, 6, lines),
            (186, 6, line_bytes),
            (236, 8, lines),
            (248, 8, pixels),
            (280, 8, 2 * pixels),
        ):
            patch(image, at, f"{value:{width}d}")
        write_lines(image, band, range(lines), lines, pixels)
    leader = folder / f"LED-{PRODUCT}"
    patch(leader, MAP_RECORD_AT + 60, f"{pixels:16d}{lines:16d}")
    north, east = UPPER_LEFT_KM
    south, right = north - (lines - 1) * SPACING_KM, east + (pixels - 1) * SPACING_KM
    corners = (north, east, north, right, south, right, south, east)
    patch(leader, MAP_RECORD_AT + 944, "".join(f"{value:16.7f}" for value in corners))
    return folder


def write_lines(path: Path, band: str, rows: Iterable[int], lines: int, pixels: int) -> None:
    """Write line records of the synthetic image behind a descriptor and give the file its full length."""
    line_bytes = PREFIX_BYTES + 2 * pixels
    with path.open("r+b") as file:
        for row in rows:
            file.seek(DESCRIPTOR_BYTES + row * line_bytes)
            file.write(struct.pack(">IBBBBI", row + 2, 50, 11, 18, 20, line_bytes).ljust(PREFIX_BYTES, b"\0"))
            file.write(numbers(band, np.array([row]), np.arange(pixels)).astype(">u2").tobytes())
        file.truncate(DESCRIPTOR_BYTES + lines * line_bytes)


def patch(path: Path, at: int, text: str | bytes) -> None:
    """Overwrite bytes of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(text.encode() if isinstance(text, str) else text)
