"""Writes ALOS-2 CEOS products: the real headers of a JAXA sample, changed where they must, with synthetic lines."""

import os
import shutil
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS, Transformer

PRODUCT = "ALOS2015976960-140909-FBDR1.5GUA"
LINES, PIXELS, LINE_BYTES, PREFIX_BYTES, DESCRIPTOR_BYTES = 13161, 12870, 25932, 192, 720
MAP_RECORD_AT, POSITION_AT, RADIOMETRY_AT, SUMMARY_AT = 4816, 6436, 27500, 720
UPPER_LEFT_KM, SPACING_KM = (8819.4629930, 510.8790839), 0.00625
CUT_LEADER_BYTES = 38980  # the facility records that follow are not read by anyone
UTM = "EPSG:32720"

# A complex image: 800 km away at the scene's centre, 4.291 m and 0.5 ms from pixel to pixel and line to line.
COMPLEX_PREFIX_BYTES, NEAR_RANGE_M, FIRST_MS, LINE_MICROSECONDS = 544, 811_000, 16_427_000, 500


def numbers(polarisation: str, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> NDArray[np.uint16]:
    """Give what stands in a synthetic image: every value from 0 to 65535 occurs, different in each band."""
    step = {"HH": 40503, "HV": 30011, "VH": 20011, "VV": 50021}[polarisation]
    mixed = rows[:, None] * 12_289 + cols[None, :] * step
    return (mixed % 65536).astype(np.uint16)


def complex_numbers(polarisation: str, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> NDArray[np.float32]:
    """Give in phase and quadrature (n, m, 2) of a synthetic complex image; some pixels are zero in both."""
    dn = numbers(polarisation, rows, cols).astype(np.float32)
    pair = np.stack([dn - 30_000.0, 1000.5 - dn % 3000], axis=-1)
    pair[dn % 17 == 0] = 0.0
    return pair


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


def small(
    shared_data: Path, folder: Path, lines: int, pixels: int, bands: tuple[str, ...] = ("HH", "HV"), name: str = PRODUCT
) -> Path:
    """Write a complete product of another size: sizes and corners in the real headers are replaced.

    ``name`` may be that of another mode or level on a map.
    """
    headers(shared_data, folder)
    line_bytes = PREFIX_BYTES + 2 * pixels
    for band in bands:
        image = folder / f"IMG-{band}-{name}"
        shutil.copyfile(shared_data / "alos2" / "l15_ceos" / f"IMG-HH-{PRODUCT}", image)
        _resize(image, lines, pixels, line_bytes, 2)
        write_lines(image, band, range(lines), lines, pixels)
    leader = folder / f"LED-{PRODUCT}"
    patch(leader, MAP_RECORD_AT + 60, f"{pixels:16d}{lines:16d}")
    patch(leader, SUMMARY_AT + 1094, name.rpartition("-")[2][4:7])
    north, east = UPPER_LEFT_KM
    write_corners(leader, UTM, (east * 1000, north * 1000), (lines, pixels))
    _rename(folder, name)
    return folder


def write_corners(
    leader: Path, crs: str | CRS, upper_left_m: tuple[float, float], shape: tuple[int, int], turned_deg: float = 0.0
) -> None:
    """Put corners into a leader: of a grid of 6.25 m from a corner (east, north), turned clockwise around it."""
    turn, side_m = np.radians(turned_deg), SPACING_KM * 1000
    across = side_m * (shape[1] - 1) * np.array([np.cos(turn), -np.sin(turn)])
    down = side_m * (shape[0] - 1) * np.array([-np.sin(turn), -np.cos(turn)])
    first = np.array(upper_left_m)
    corners_m = np.stack([first, first + across, first + across + down, first + down])
    lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(*corners_m.T)
    patch(leader, MAP_RECORD_AT + 944, "".join(f"{n:16.7f}{e:16.7f}" for e, n in corners_m / 1000))
    patch(leader, MAP_RECORD_AT + 1072, "".join(f"{n:16.7f}{e:16.7f}" for e, n in zip(lon, lat, strict=True)))


def write_projection(leader: Path, designator: str, fields: Mapping[int, float]) -> None:
    """Replace the projection of a leader's map record: its name and numbers by their byte; all others are blank."""
    patch(leader, MAP_RECORD_AT + 412, f"{designator:<32}" + " " * (944 - 444))
    for at, value in fields.items():
        patch(leader, MAP_RECORD_AT + at, f"{value:16.7f}")


def slant(
    shared_data: Path, folder: Path, lines: int, pixels: int, bands: tuple[str, ...] = ("HH", "HV"), scans: str = ""
) -> Path:
    """Write a level 1.1 product behind the real leader, without its map record; ``scans`` ("123") makes it ScanSAR."""
    headers(shared_data, folder)
    name = f"ALOS2015976960-140909-{'WBD' if scans else 'FBD'}R1.1__A"
    line_bytes = COMPLEX_PREFIX_BYTES + 8 * pixels
    for scan in scans or [""]:
        for band in bands:
            image = folder / (f"IMG-{band}-{name}-F{scan}" if scan else f"IMG-{band}-{name}")
            shutil.copyfile(shared_data / "alos2" / "l15_ceos" / f"IMG-HH-{PRODUCT}", image)
            _resize(image, lines, pixels, line_bytes, 8)
            for at, text in ((216, "  32"), (220, "   2"), (224, "   8"), (276, " 544"), (428, "C*8 ")):
                patch(image, at, text)
            _write_complex(image, band, lines, pixels, near_m=NEAR_RANGE_M + 50_000 * int(scan or 0))
    leader = folder / f"LED-{PRODUCT}"
    patch(leader, SUMMARY_AT + 1094, "1.1")
    data = leader.read_bytes()
    leader.write_bytes(data[:MAP_RECORD_AT] + data[POSITION_AT:])
    _rename(folder, name)
    return folder


def _resize(image: Path, lines: int, pixels: int, line_bytes: int, pixel_bytes: int) -> None:
    for at, width, value in (
        (180, 6, lines),
        (186, 6, line_bytes),
        (236, 8, lines),
        (248, 8, pixels),
        (280, 8, pixel_bytes * pixels),
    ):
        patch(image, at, f"{value:{width}d}")


def _rename(folder: Path, name: str) -> None:
    """Give the headers another product's name."""
    if name != PRODUCT:
        for kind in ("VOL", "LED"):
            (folder / f"{kind}-{PRODUCT}").rename(folder / f"{kind}-{name}")
        text = (folder / "summary.txt").read_text().replace(PRODUCT.rpartition("-")[2], name.rpartition("-")[2])
        (folder / "summary.txt").write_text(text)


def write_lines(path: Path, band: str, rows: Iterable[int], lines: int, pixels: int) -> None:
    """Write line records of the synthetic image behind a descriptor and give the file its full length."""
    line_bytes = PREFIX_BYTES + 2 * pixels
    with path.open("r+b") as file:
        for row in rows:
            file.seek(DESCRIPTOR_BYTES + row * line_bytes)
            file.write(struct.pack(">IBBBBI", row + 2, 50, 11, 18, 20, line_bytes).ljust(PREFIX_BYTES, b"\0"))
            file.write(numbers(band, np.array([row]), np.arange(pixels)).astype(">u2").tobytes())
        file.truncate(DESCRIPTOR_BYTES + lines * line_bytes)


def _write_complex(path: Path, band: str, lines: int, pixels: int, near_m: int) -> None:
    line_bytes = COMPLEX_PREFIX_BYTES + 8 * pixels
    with path.open("r+b") as file:
        file.seek(DESCRIPTOR_BYTES)
        for row in range(lines):
            microseconds = FIRST_MS * 1000 + row * LINE_MICROSECONDS
            prefix = bytearray(COMPLEX_PREFIX_BYTES)
            struct.pack_into(">IBBBBI", prefix, 0, row + 2, 50, 10, 18, 20, line_bytes)
            struct.pack_into(">III", prefix, 36, 2014, 252, microseconds // 1000)
            struct.pack_into(">Q", prefix, 84, microseconds)
            struct.pack_into(">I", prefix, 116, near_m)
            file.write(prefix)
            file.write(complex_numbers(band, np.array([row]), np.arange(pixels)).astype(">f4").tobytes())
        file.truncate(DESCRIPTOR_BYTES + lines * line_bytes)


def patch(path: Path, at: int, text: str | bytes) -> None:
    """Overwrite bytes of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(text.encode() if isinstance(text, str) else text)
