"""What the leader file and summary.txt of an ALOS-2 CEOS product say.

Layout: JAXA, ALOS-2/PALSAR-2 Level 1.1/1.5/2.1/3.1 CEOS SAR Product Format Description, SAR leader file; positions
were measured on a real FBDR1.5GUA product.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ingest.alos2_orbit import Orbit, read_orbit
from ingest.ceos import Fields, Kind, read_records
from ingest.scene import SceneRejected

SLANT_RANGE = "1.1"
LEVELS = (SLANT_RANGE, "1.5", "2.1", "3.1")

_SUMMARY, _MAP, _POSITION, _RADIOMETRY, _FILE_POINTER = (18, 10), (18, 20), (18, 30), (18, 50), (219, 192)
_SUMMARY_LINE = re.compile(r'(\w+)="([^"]*)"')
_SUMMARY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Leader:
    """What a leader says. ``calibration_db`` is added to 10 log10(DN^2) to give sigma0 in dB.

    ``map_fields`` is the map projection record, which level 1.1 does not have. ``orbit`` is None where it is missing.
    ``spacing_m`` is along lines' direction and along pixels. ``range_spacing_m`` is of slant range samples.
    """

    name: str
    calibration_db: float
    looks: float
    centre_time: datetime | None
    processing: str
    spacing_m: tuple[float, float] | None
    range_spacing_m: float | None
    map_fields: Fields | None
    orbit: Orbit | None


def read_leader(path: Path, level: str) -> Leader:
    """Read a leader whose product is named to be of a level. Raises SceneRejected where it is of another or damaged."""
    wanted = frozenset((_SUMMARY, _MAP, _POSITION, _RADIOMETRY))
    records = dict(read_records(path, wanted))
    needed = {_SUMMARY: "data set summary", _RADIOMETRY: "radiometric"}
    needed |= {_POSITION: "platform position"} if level == SLANT_RANGE else {_MAP: "map projection"}
    for kind, what in needed.items():
        if kind not in records:
            raise SceneRejected(f"{path} has no {what} record (type {kind[0]}-{kind[1]}): the product is not complete")
    summary = records[_SUMMARY]
    _check_kind(path, summary, level)
    centre_time = _moment(summary.text(68, 85) + "000", "%Y%m%d%H%M%S%f")
    looks = summary.number(1174, 1190, "looks in azimuth") * summary.number(1190, 1206, "looks in range")
    return Leader(
        name=str(path),
        calibration_db=_calibration_db(records[_RADIOMETRY]),
        looks=looks if looks > 0 and level != SLANT_RANGE else 1.0,
        centre_time=centre_time,
        processing=" ".join(filter(None, (summary.text(1046, 1062), summary.text(1070, 1078)))),
        spacing_m=_spacing(summary),
        range_spacing_m=_range_spacing(summary) if level == SLANT_RANGE else None,
        map_fields=records.get(_MAP) if level != SLANT_RANGE else None,
        orbit=_orbit(records, centre_time),
    )


def _check_kind(path: Path, summary: Fields, level: str) -> None:
    if (mission := summary.text(396, 412)) != "ALOS2":
        raise SceneRejected(f"{path} is of the mission {mission!r}, expected 'ALOS2'")
    if (found := summary.text(1094, 1110)) != level:
        raise SceneRejected(
            f"{path} is of level {found!r}, but its name says {level}: the files do not belong together"
        )


def _calibration_db(radiometry: Fields) -> float:
    calibration_db = radiometry.number(20, 36, "the calibration factor")
    if not -200.0 < calibration_db < 100.0:
        raise SceneRejected(f"{radiometry.name} gives a calibration factor of {calibration_db} dB, expected about -83")
    return calibration_db


def _spacing(summary: Fields) -> tuple[float, float] | None:
    """Give the spacing of lines and pixels in metres, where the record states it."""
    try:
        lines_m, pixels_m = summary.number(1686, 1702, "line spacing"), summary.number(1702, 1718, "pixel spacing")
    except SceneRejected:
        return None
    return (lines_m, pixels_m) if min(lines_m, pixels_m) > 0 else None


def _range_spacing(summary: Fields) -> float:
    """Give the metres between slant range samples from the sampling rate in MHz."""
    rate_mhz = summary.number(710, 726, "the sampling rate")
    if not 1.0 < rate_mhz < 1000.0:
        raise SceneRejected(f"{summary.name} gives a sampling rate of {rate_mhz} MHz, expected 15 to 110")
    return 299.792458 / 2 / rate_mhz


def _orbit(records: dict[Kind, Fields], around: datetime | None) -> Orbit | None:
    return read_orbit(records[_POSITION], around) if around and _POSITION in records else None


def promised_images(volume: Path) -> int:
    """Count the images that a volume directory names."""
    return sum(fields.text(64, 68) == "IMOP" for _, fields in read_records(volume, frozenset((_FILE_POINTER,))))


def read_summary(path: Path, product: str) -> dict[str, str]:
    """Read summary.txt where it is there and of this product, or give nothing."""
    if not path.is_file() or path.stat().st_size > _SUMMARY_BYTES:
        return {}
    values = dict(_SUMMARY_LINE.findall(path.read_text("ascii", errors="replace")))
    return values if f"{values.get('Scs_SceneID')}-{values.get('Pds_ProductID')}" == product else {}


def start_of(summary: dict[str, str]) -> str | None:
    """Give the start of sensing that summary.txt states, as ISO 8601."""
    start = _moment(summary.get("Img_SceneStartDateTime", ""), "%Y%m%d %H:%M:%S.%f")
    return iso(start) if start else None


def stated_time(text: str | None) -> str | None:
    """Give a time that a product's XML states in ISO 8601 (without a zone it is UTC), None where it is no time."""
    try:
        moment = datetime.fromisoformat(text or "")
        return text if (text or "").endswith("Z") else iso(moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC))
    except (ValueError, OverflowError):
        return None


def iso(moment: datetime) -> str:
    """Write a moment as ISO 8601 with microseconds and Z."""
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _moment(text: str, layout: str) -> datetime | None:
    try:
        return datetime.strptime(text, layout).replace(tzinfo=UTC)
    except ValueError:
        return None
