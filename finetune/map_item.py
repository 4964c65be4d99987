"""A map as a STAC item: what it shows, where and when, and from which scene, recipe, corpus and model it comes."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from pyproj import Transformer

from finetune.areas import Place
from finetune.legend import IGNORED, Legend
from finetune.map import MapReport, ValueReport
from shards.manifest import Source
from shards.outline import ground_polygon

CLASSIFICATION = "https://stac-extensions.github.io/classification/v2.0.0/schema.json"
EXTENSIONS = (
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    CLASSIFICATION,
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
)

COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
PARQUET_TYPE = "application/vnd.apache.parquet"
_SQUARE = ((0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 0.0))


def map_item(
    source: Source,
    place: Place,
    legend: Legend,
    report: MapReport,
    files: Mapping[str, Path],
    lineage: Mapping[str, str],
    folder: Path,
) -> dict[str, Any] | None:
    """Describe a written map as a STAC 1.1 item; None where the scene has no time, without which there is no item.

    ``files`` are the assets by name: ``map``, ``confidence``, ``legend``, ``preview``, ``page``, and
    ``vectors_<class>``; links to them are relative to ``folder``. ``lineage`` holds flat text such as the digests of
    model, run, manifest and recipe; it stands among the properties as ``sarsense:<name>``.
    """
    made = f"{', '.join(legend.names)}, by a model of run {lineage.get('run', '')[:12]}"
    item = _item(source, place, ("Classes", made, "classified"), files, lineage, folder)
    if item is not None:
        classes = {"data_type": "uint8", "nodata": IGNORED, "classification:classes": _classes(legend, report)}
        item["stac_extensions"] = list(EXTENSIONS)
        item["assets"]["map"] |= classes
        if "confidence" in item["assets"]:
            item["assets"]["confidence"] |= {"data_type": "uint8", "nodata": IGNORED, "unit": "%"}
    return item


def value_item(
    source: Source,
    place: Place,
    report: ValueReport,
    files: Mapping[str, Path],
    lineage: Mapping[str, str],
    folder: Path,
) -> dict[str, Any] | None:
    """Describe a written map of numbers as ``map_item`` does one of classes."""
    made = f"A number for every pixel, by a model of run {lineage.get('run', '')[:12]}"
    item = _item(source, place, ("Values", made, "estimated"), files, lineage, folder)
    if item is not None:
        named = {"mean": report.mean, "stddev": report.deviation, "minimum": report.least, "maximum": report.most}
        known = {name: value for name, value in named.items() if value is not None}
        known["valid_percent"] = round(100 * report.pixels / max(report.pixels + report.no_data, 1), 4)
        values = {"data_type": "float32", "nodata": "nan", "statistics": known}
        item["assets"]["map"] |= values | ({"unit": report.unit} if report.unit else {})
    return item


def _item(
    source: Source,
    place: Place,
    words: tuple[str, str, str],
    files: Mapping[str, Path],
    lineage: Mapping[str, str],
    folder: Path,
) -> dict[str, Any] | None:
    """Give what items of all maps share; ``words`` are what is shown, its description, and what the model did."""
    if source.time is None:
        return None
    what, description, verb = words
    outline = map_outline(source, place)
    rows, cols = source.shape
    projection: dict[str, Any] = {"proj:shape": [rows, cols], "proj:code": None}
    if place.epsg is not None and place.transform is not None:
        projection |= {"proj:code": f"EPSG:{place.epsg}", "proj:transform": [*place.transform, 0.0, 0.0, 1.0]}
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [name for name in EXTENSIONS if name != CLASSIFICATION],
        "id": f"{source.id}-map",
        "geometry": None if outline is None else json.loads(shapely.to_geojson(outline)),
        "properties": {
            "datetime": _utc(source.time),
            "title": f"{what} of {source.id}",
            "description": description,
            **({} if source.spacing_m is None else {"gsd": float(max(source.spacing_m))}),
            "processing:software": {"sarsense": version("sarsense")},
            "processing:lineage": _sentence(source, lineage, verb),
            **projection,
            **{f"sarsense:{name}": value for name, value in sorted(lineage.items())},
        },
        "links": [],
        "assets": {name: _asset(name, path, folder) for name, path in files.items() if path.is_file()},
    }
    if outline is not None:
        item["bbox"] = _bbox(outline)
    return item


def map_outline(source: Source, place: Place) -> Any:
    """Give the ground of a map as a polygon in longitude and latitude; None without a place."""
    if place.epsg is not None and place.transform is not None:
        a, b, c, d, e, f = place.transform
        rows, cols = source.shape
        row, col = np.array(_SQUARE).T * [[rows], [cols]]
        lon, lat = Transformer.from_crs(place.epsg, 4326, always_xy=True).transform(
            a * col + b * row + c, d * col + e * row + f
        )
        return ground_polygon(np.stack([lon, lat], 1).ravel().tolist())
    if source.footprint is not None and len(source.footprint) > 2:
        return ground_polygon([x for corner in source.footprint for x in corner])
    return None


def _bbox(outline: Any) -> Sequence[float]:
    """Give west, south, east, north; west is above east where the outline crosses the antimeridian (RFC 7946, 5.2)."""
    west, south, east, north = (float(v) for v in outline.bounds)
    parts = shapely.get_parts(outline)
    if len(parts) > 1 and west == -180 and east == 180:
        bounds = shapely.bounds(parts)
        west, east = float(bounds[bounds[:, 2] == 180, 0].min()), float(bounds[bounds[:, 0] == -180, 2].max())
    return [west, south, east, north]


_TYPES = {
    ".tif": COG_TYPE,
    ".json": "application/json",
    ".png": "image/png",
    ".html": "text/html",
    ".parquet": PARQUET_TYPE,
}
_ROLES = {
    "map": ["data"],
    "confidence": ["data", "confidence"],
    "legend": ["metadata"],
    "preview": ["overview"],
    "page": ["overview"],
}


def _asset(name: str, path: Path, folder: Path) -> dict[str, Any]:
    return {
        "href": f"./{Path(os.path.relpath(path, folder)).as_posix()}",
        "type": _TYPES.get(path.suffix, "application/octet-stream"),
        "title": name.replace("_", " "),
        "roles": _ROLES.get(name, ["data"]),
        "file:size": path.stat().st_size,
        "file:checksum": _multihash(path),
    }


def _multihash(path: Path) -> str:
    """Give the file's SHA-256 as a multihash: 0x12 names the function, 0x20 the length of 32 bytes."""
    with path.open("rb") as file:
        return "1220" + hashlib.file_digest(file, "sha256").hexdigest()


def _classes(legend: Legend, report: MapReport) -> list[dict[str, Any]]:
    whole = max(sum(report.pixels.values()), 1)
    classes = [
        {
            "value": c.id,
            "name": "".join(x if (x.isalnum() and x.isascii()) or x in "-_" else "_" for x in c.name),
            "title": c.name,
            "description": f"{c.name}{' (background)' if c.id == legend.background else ''}",
            "color_hint": "".join(f"{level:02X}" for level in c.colour),
            "count": report.pixels[c.id],
            "percentage": round(100 * report.pixels[c.id] / whole, 4),
        }
        for c in legend.classes
    ]
    return [*classes, {"value": IGNORED, "name": "no_data", "description": "no measurement", "nodata": True}]


def _sentence(source: Source, lineage: Mapping[str, str], verb: str) -> str:
    return (
        f"Scene {source.id} ({source.sensor} {source.product}), pixels by recipe {lineage.get('recipe', '')[:12]}, read"
        f" from corpus version {lineage.get('manifest', '')[:12]}, {verb} by model {lineage.get('model', '')[:12]}"
        f" of run {lineage.get('run', '')[:12]}"
    )


def _utc(time: str) -> str:
    return time if time.endswith("Z") or "+" in time[10:] else f"{time}Z"
