"""What a search asks for, read from a command's options."""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any, Literal

import shapely
from shapely.geometry import shape

from infra.errors import UsageError
from ingest.stac_item import platform_name

Box = tuple[float, float, float, float]
Level = Literal["GRD", "SLC"]
Orbit = Literal["ascending", "descending"]


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked for. Nothing in a field means anything goes.

    ``boxes`` are (west, south, east, north) in degrees, west <= east: what crosses the antimeridian is two boxes.
    ``area`` is a geometry in degrees. A product is taken that has all ``polarisations``, one of ``modes`` and
    ``platforms``. At most ``limit`` products are taken.
    """

    boxes: tuple[Box, ...] = ()
    area: Any = None
    start: datetime | None = None
    end: datetime | None = None
    modes: tuple[str, ...] = ()
    polarisations: tuple[str, ...] = ()
    product: Level | None = None
    platforms: tuple[str, ...] = ()
    orbit: Orbit | None = None
    limit: int = 10_000


def make_query(
    *,
    bbox: Box | None = None,
    intersects: Path | None = None,
    start: str | None = None,
    end: str | None = None,
    mode: str | None = None,
    polarisation: str | None = None,
    product: Level | None = None,
    platform: str | None = None,
    orbit: Orbit | None = None,
    limit: int = 10_000,
) -> Query:
    """Make a query of a command's options. Raises UsageError where they cannot be meant."""
    if bbox is not None and intersects is not None:
        raise UsageError("--bbox and --intersects both say where: give one of them")
    since, until = _moment(start, "--start", time.min), _moment(end, "--end", time.max)
    if since and until and since > until:
        raise UsageError(f"--start {start} is after --end {end}")
    return Query(
        boxes=_boxes(bbox) if bbox else (),
        area=_read_area(intersects) if intersects else None,
        start=since,
        end=until,
        modes=_words(mode),
        polarisations=_polarisations(polarisation),
        product=product,
        platforms=tuple(platform_name(name) for name in _words(platform)),
        orbit=orbit,
        limit=limit,
    )


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip().upper() for word in (text or "").split(",") if word.strip())


def _polarisations(text: str | None) -> tuple[str, ...]:
    names = _words(text)
    if strange := [name for name in names if name not in ("VV", "VH", "HH", "HV")]:
        raise UsageError(f"--polarisation {strange[0]}: expected VV, VH, HH or HV, several with commas")
    return names


def _moment(text: str | None, option: str, whole_day: time) -> datetime | None:
    """Read ISO 8601; without a zone it is UTC, and a day alone is all of that day."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        if re.fullmatch(r"[\d-]+(W\d+(-?\d)?)?", text):
            moment = datetime.combine(moment.date(), whole_day)
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{option} {text!r}: expected an ISO 8601 day or time, such as 2024-05-31") from error


def _boxes(bbox: Box) -> tuple[Box, ...]:
    west, south, east, north = bbox
    if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= north <= 90):
        raise UsageError(
            f"--bbox {west:g} {south:g} {east:g} {north:g}: expected west south east north in degrees, south below "
            "north; west may be greater than east where the box crosses the antimeridian"
        )
    return (bbox,) if west <= east else ((west, south, 180.0, north), (-180.0, south, east, north))


def _read_area(path: Path) -> Any:
    """Read a GeoJSON geometry, feature or collection as one geometry."""
    try:
        data = json.loads(path.read_bytes())
        features = data["features"] if data["type"] == "FeatureCollection" else [data]
        shapes = [shape(one["geometry"] if one["type"] == "Feature" else one) for one in features]
        area = shapely.force_2d(shapely.make_valid(shapely.union_all(shapes)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, shapely.errors.ShapelyError) as error:
        raise UsageError(f"--intersects {path}: expected a GeoJSON geometry in degrees: {error}") from error
    west, south, east, north = area.bounds
    if area.is_empty or west < -180 or south < -90 or east > 180 or north > 90:
        raise UsageError(f"--intersects {path}: the geometry is empty or leaves -180..180, -90..90 degrees")
    return area
