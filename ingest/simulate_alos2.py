"""Writes a simulated ALOS-2 acquisition as a CEOS product: VOL, LED, IMG per polarisation, TRL and summary.txt."""

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine

from infra.errors import UsageError
from ingest.simulate_alos2_scene import SPACING_M, Acquisition, MapAcquisition, MapImage, numbers
from ingest.simulate_alos2_slant import (
    SlantAcquisition,
    SlantImage,
    complex_descriptor,
    line_bytes,
    write_complex_lines,
)
from ingest.simulate_ceos import descriptor, image_descriptor, record, write_lines
from ingest.simulate_leader import LONGEST_RECORD, leader, leader_records
from ingest.simulate_scene import Strip, TruthRasters, strips
from ingest.truth import Land, Place

_CHANNELS = (("HH", "HV", "VH", "VV"), ("HH", "HV"), ("VV", "VH"), ("HH",), ("HV",), ("VV",), ("VH",))
_LEVELS = ("1.1", "1.5", "2.1", "3.1")
_PREFIX_BYTES = 192
_IMAGE_CODES = (50, 11, 18, 20)
_THUMBNAIL_STEP = 16
_POLARISATION_CODE = {"H": 0, "V": 1}
# Byte of each field in a line's prefix and its type; big-endian (CEOS processed data record).
_PREFIX = {
    "line": (12, ">u4"),
    "index": (16, ">u4"),
    "data_pixels": (24, ">u4"),
    "update": (32, ">u4"),
    "year": (36, ">u4"),
    "day": (40, ">u4"),
    "milliseconds": (44, ">u4"),
    "channel": (48, ">u2"),
    "band": (50, ">u2"),
    "transmitted": (52, ">u2"),
    "received": (54, ">u2"),
    "prf_mhz": (56, ">u4"),
    "slant_range_m": (64, (">u4", 3)),
    "latitude_microdeg": (132, (">i4", 3)),
    "longitude_microdeg": (144, (">i4", 3)),
}


def write_ceos(
    folder: Path,
    place: Place,
    shape: tuple[int, int],
    start: datetime,
    land: Land,
    polarisations: Sequence[str],
    truth: bool,
    level: str = "1.5",
) -> Path:
    """Write the product and its rasters of truth into ``folder``; give the path of the product's folder."""
    if tuple(polarisations) not in _CHANNELS:
        known = ", ".join("+".join(channels) for channels in _CHANNELS)
        raise UsageError(f"polarisations {list(polarisations)}: the fine beams of ALOS-2 deliver {known}")
    if level not in _LEVELS:
        raise UsageError(f"no level {level} is simulated: expected {', '.join(_LEVELS)}")
    of = _acquisition(place, shape, start, tuple(polarisations), level)
    name = f"{of.scene_id}-{of.product_id}"
    with tempfile.TemporaryDirectory(dir=folder, prefix=".simulated-") as temporary:
        work = Path(temporary)
        (work / "ceos").mkdir()
        _write_images(work, of, name, land, truth)
        (work / "ceos" / f"LED-{name}").write_bytes(leader(of))
        (work / "ceos" / f"TRL-{name}").write_bytes(_trailer(of))
        (work / "ceos" / f"VOL-{name}").write_bytes(_volume(of))
        (work / "ceos" / "summary.txt").write_text(_summary(of, name))
        for raster in sorted(work.glob("truth_*.tif")):
            raster.replace(folder / f"{name}{raster.name.removeprefix('truth')}")
        shutil.rmtree(folder / name, ignore_errors=True)
        (work / "ceos").replace(folder / name)
    return folder / name


def _acquisition(
    place: Place, shape: tuple[int, int], start: datetime, polarisations: tuple[str, ...], level: str
) -> MapAcquisition | SlantAcquisition:
    if level == "1.1":
        return SlantAcquisition(SlantImage(place, *shape), start, polarisations)
    return MapAcquisition(MapImage.around(place, *shape), start, polarisations, level)


def _georeference(of: MapAcquisition | SlantAcquisition) -> dict[str, Any]:
    if isinstance(of, MapAcquisition):
        return {"crs": f"EPSG:{of.grid.place.epsg}", "transform": Affine(*of.grid.transform)}
    row, col = np.array(of.corners()).T
    lon, lat = of.grid.lonlat(row, col)
    corners = zip(row.tolist(), col.tolist(), lon.tolist(), lat.tolist(), strict=True)
    return {"crs": "EPSG:4326", "gcps": [GroundControlPoint(r + 0.5, c + 0.5, x, y, 0.0) for r, c, x, y in corners]}


def _write_images(work: Path, of: MapAcquisition | SlantAcquisition, name: str, land: Land, truth: bool) -> None:
    grid = of.grid
    wanted = of.polarisations if truth else ()
    with ExitStack() as files:
        rasters = files.enter_context(TruthRasters(work / "truth", (grid.rows, grid.cols), _georeference(of), wanted))
        images = {
            polarisation: files.enter_context((work / "ceos" / f"IMG-{polarisation}-{name}").open("wb"))
            for polarisation in of.polarisations
        }
        for image in images.values():
            image.write(_image_descriptor(of) if isinstance(of, MapAcquisition) else complex_descriptor(of))
        for strip in strips(land, grid, of.valid, "L", of.polarisations, of.looks):
            rasters.write(strip)
            for polarisation, image in images.items():
                if isinstance(of, MapAcquisition):
                    _write_lines(image, of, polarisation, strip)
                else:
                    write_complex_lines(image, of, polarisation, strip)


def _line_bytes(of: MapAcquisition | SlantAcquisition) -> int:
    return line_bytes(of) if isinstance(of, SlantAcquisition) else _PREFIX_BYTES + 2 * of.grid.cols


def _image_descriptor(of: MapAcquisition) -> bytes:
    locators = {296: "  13 4PB", 304: "  49 2PB", 312: "  45 4PB", 320: "  21 4PB", 328: "  29 4PB", 368: "  97 4PB"}
    fields: dict[tuple[int, int], str | int] = {
        **{(at, at + 8): text for at, text in locators.items()},
        (400, 428): "UNSIGNED INTEGER*2",
        (428, 432): "IU2",
        (440, 448): 65_535,
    }
    return image_descriptor(of.grid.rows, of.grid.cols, _PREFIX_BYTES, (16, 1, 2), fields)


def _write_lines(image: BinaryIO, of: MapAcquisition, polarisation: str, strip: Strip) -> None:
    """Append lines: preamble, prefix with time and place, big-endian pixels."""
    cols, length = of.grid.cols, _line_bytes(of)
    layout = np.dtype(
        {
            "names": [*_PREFIX, "pixels"],
            "formats": [*(kind for _, kind in _PREFIX.values()), (">u2", cols)],
            "offsets": [*(at for at, _ in _PREFIX.values()), _PREFIX_BYTES],
            "itemsize": length,
        }
    )
    pixels = numbers(strip.power[polarisation])
    row = np.arange(strip.row, strip.row + len(pixels))
    lines = np.zeros(len(row), layout)
    lines["line"] = row + 1
    lines["index"] = 1
    lines["data_pixels"] = cols
    lines["update"] = 1
    lines["channel"] = of.polarisations.index(polarisation) + 1
    lines["transmitted"], lines["received"] = (_POLARISATION_CODE[letter] for letter in polarisation)
    lines["prf_mhz"] = 2_122_318
    _place_lines(lines, of, row)
    lines["pixels"] = pixels
    write_lines(image, lines, strip.row, _IMAGE_CODES)


def _place_lines(lines: NDArray[np.void], of: MapAcquisition, row: NDArray[np.int64]) -> None:
    """Fill in time, range and coordinates of the first, middle and last pixel of each line."""
    col = np.array([0.0, (of.grid.cols - 1) // 2, of.grid.cols - 1.0])
    rows, cols = (a.ravel() for a in np.meshgrid(row.astype(float), col, indexing="ij"))
    lon, lat = of.grid.lonlat(rows, cols)
    view = of.view(rows, cols)
    lines["slant_range_m"] = np.rint(view.slant_range_m).reshape(-1, 3)
    lines["latitude_microdeg"] = np.rint(lat * 1e6).reshape(-1, 3)
    lines["longitude_microdeg"] = np.rint(lon * 1e6).reshape(-1, 3)
    midnight = of.start.replace(hour=0, minute=0, second=0, microsecond=0)
    since_midnight_s = view.time_s.reshape(-1, 3)[:, 1] - of.of_pass(midnight)
    lines["year"], lines["day"] = of.start.year, of.start.timetuple().tm_yday
    lines["milliseconds"] = np.rint(since_midnight_s * 1000.0)


def _thumbnail_shape(of: Acquisition) -> tuple[int, int]:
    return max(1, of.grid.rows // _THUMBNAIL_STEP), max(1, of.grid.cols // _THUMBNAIL_STEP)


def _trailer(of: Acquisition) -> bytes:
    """Write the descriptor and a small mask of the data (0 and 65535, as real products have)."""
    rows, cols = _thumbnail_shape(of)
    fields: dict[tuple[int, int], str | int] = {}
    fields |= {(180 + 6 * i, 186 + 6 * i): 0 for i in range(30)}
    for i in range(5):
        fields |= {(420 + 14 * i, 426 + 14 * i): 0, (426 + 14 * i, 434 + 14 * i): 0}
    fields |= {(490, 496): 1, (496, 504): 2 * rows * cols, (504, 510): cols, (510, 516): rows, (516, 522): 2}
    row = np.arange(rows, dtype=np.float64)[:, None] * _THUMBNAIL_STEP
    col = np.arange(cols, dtype=np.float64)[None, :] * _THUMBNAIL_STEP
    mask = np.where(of.valid(row, col), 65_535, 0).astype(">u2")
    return descriptor(1, (63, 192, 18, 18), 1, "AL2 SARCSART", fields) + mask.tobytes()


def _volume(of: MapAcquisition | SlantAcquisition) -> bytes:
    """Write the volume directory: one pointer per file and a text record."""
    rows, cols = _thumbnail_shape(of)
    line_bytes, lines = _line_bytes(of), of.grid.rows + 1
    files = [(1, "SARL", "SARLEADER FILE", leader_records(of), LONGEST_RECORD)]
    files += [(2, "IMOP", "IMAGERY OPTIONS FILE", lines, line_bytes) for _ in of.polarisations]
    files += [(3, "SART", "SARTRAILER FILE", 2, 2 * rows * cols)]
    head: dict[tuple[int, int], str | int] = {
        (12, 14): "A",
        (16, 28): "CEOS-SAR",
        (28, 32): " A A",
        (32, 44): "002.012",
        (44, 60): "SARSENSE",
        (60, 76): f"AL2SAR{of.start:%Y%m%d}",
        (76, 92): "ALOS2  SAR",
        **{(92 + 2 * i, 94 + 2 * i): 1 for i in range(4)},
        (100, 104): len(files),
        (104, 108): 1,
        (108, 112): 1,
        (112, 128): of.stop.strftime("%Y%m%d%H%M%S") + "00",
        (128, 140): "SIMULATED",
        (140, 148): "NONE",
        (148, 160): "SARSENSE",
        (160, 164): len(files),
        (164, 168): 1,
    }
    pointers = [
        record(
            number,
            (219, 192, 18, 18),
            360,
            {
                (12, 14): "A",
                (16, 20): file_number,
                (20, 36): f"AL2 SARC{kind}",
                (36, 64): title,
                (64, 68): kind,
                (68, 96): "MIXED BINARY AND ASCII",
                (96, 100): "MBAA",
                (100, 108): count,
                (108, 116): 720,
                (116, 124): longest,
                (124, 136): "VARIABLE LEN",
                (136, 140): "VARE",
                (140, 142): 1,
                (142, 144): 1,
                (144, 152): 1,
                (152, 160): count,
            },
        )
        for number, (file_number, kind, title, count, longest) in enumerate(files, start=2)
    ]
    text = record(
        len(files) + 2,
        (18, 192, 18, 18),
        360,
        {
            (12, 14): "A",
            (16, 56): f"PRODUCT:{of.product_id}",
            (56, 116): f"PROCESS:SARSENSE-SIMULATION  {of.stop:%Y%m%d %H%M%S}",
            (116, 156): "TAPE ID:",
            (156, 196): f"ORBIT :{of.scene_id}",
            (196, 236): f"FRAME CENTRE: N{of.grid.place.lat:+07.2f}  E{of.grid.place.lon:+08.2f}",
        },
    )
    return record(1, (192, 192, 18, 18), 360, head) + b"".join(pointers) + text


def _summary(of: MapAcquisition | SlantAcquisition, name: str) -> str:
    grid = of.grid
    middle = of.start + (of.stop - of.start) / 2
    elevation_deg = of.view(np.array([(grid.rows - 1) / 2]), np.array([(grid.cols - 1) / 2])).elevation_deg[0]
    frame = [(0.0, 0.0), (0.0, grid.cols - 1.0), (grid.rows - 1.0, 0.0), (grid.rows - 1.0, grid.cols - 1.0)]
    files = [f"{role}-{name}" for role in ("VOL", "LED", *(f"IMG-{p}" for p in of.polarisations), "TRL")]
    kind = f"L{of.level.replace('.', '')}"
    size_mb = len(of.polarisations) * (grid.rows * _line_bytes(of)) / 2**20
    moments = zip(("Center", "Start", "End"), (middle, of.start, of.stop), strict=True)
    entries = {
        "Odi_SceneId": "SIMULATED",
        "Odi_SiteDateTime": f"PROCESS:SARSENSE-SIMULATION  {of.stop:%Y%m%d %H%M%S}",
        "Scs_SceneID": of.scene_id,
        "Scs_SceneShift": "0",
        "Pds_ProductID": of.product_id,
        "Pds_ResamplingMethod": "NN",
        **(_map_entries(of) if isinstance(of, MapAcquisition) else {}),
        "Pds_OrbitDataPrecision": "Precision",
        "Pds_AttitudeDataPrecision": "Onboard",
        **{f"Img_Scene{what}DateTime": f"{t:%Y%m%d %H:%M:%S}.{t.microsecond // 1000:03d}" for what, t in moments},
        **_corner_entries("Img_ImageScene", of, of.corners()),
        **_corner_entries("Img_FrameScene", of, frame),
        "Img_OffNadirAngle": f"{elevation_deg:.1f}",
        "Pdi_ProductDataSize": f"{size_mb:.1f}",
        f"Pdi_CntOf{kind}ProductFileName": str(len(files)),
        **{f"Pdi_{kind}ProductFileName{i:02d}": file for i, file in enumerate(files, start=1)},
        "Pdi_BitPixel": "16" if isinstance(of, MapAcquisition) else "64",
        "Pdi_NoOfPixels_0": str(grid.cols),
        "Pdi_NoOfLines_0": str(grid.rows),
        "Pdi_ProductFormat": "CEOS",
        "Rad_PracticeResultCode": "GOOD",
        "Lbi_Satellite": "ALOS2",
        "Lbi_Sensor": "SAR",
        "Lbi_ProcessLevel": of.level,
        "Lbi_ProcessFacility": "SARSENSE",
        "Lbi_ObservationDate": f"{of.start:%Y%m%d}",
    }
    return "".join(f'{key}="{value}"\n' for key, value in entries.items())


def _map_entries(of: MapAcquisition) -> dict[str, str]:
    return {
        "Pds_UTM_ZoneNo": str(of.grid.place.zone),
        "Pds_MapDirection": "MapNorth",
        "Pds_PixelSpacing": f"{SPACING_M:.6f}",
    }


def _corner_entries(prefix: str, of: Acquisition, corners: list[tuple[float, float]]) -> dict[str, str]:
    middle = ((of.grid.rows - 1) / 2, (of.grid.cols - 1) / 2)
    names = ("Center", "LeftTop", "RightTop", "LeftBottom", "RightBottom")
    found: dict[str, str] = {}
    for name, (row, col) in zip(names, [middle, *corners], strict=True):
        lon, lat = of.grid.lonlat(np.array([row]), np.array([col]))
        found |= {f"{prefix}{name}Latitude": f"{lat[0]:.3f}", f"{prefix}{name}Longitude": f"{lon[0]:.3f}"}
    return found
