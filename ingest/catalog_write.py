"""STAC items as a catalog file: an item collection, stac-geoparquet or CSV, the same bytes for the same items."""

import csv
import json
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from infra.errors import UsageError
from ingest.stac_item import Item, rows_of

_TIMES = ("datetime", "start_datetime", "end_datetime", "created", "updated", "published", "expires", "unpublished")
_LINK = pa.struct([(name, pa.string()) for name in ("href", "rel", "type", "title")])
_BOX = pa.struct([(name, pa.float64()) for name in ("xmin", "ymin", "xmax", "ymax")])
_TYPES = {
    "stac_extensions": pa.list_(pa.string()),
    "links": pa.list_(_LINK),
    "bbox": _BOX,
    "geometry": pa.binary(),
}
_CSV_COLUMNS = ("path", "id", "platform", "mode", "product", "polarisations", "orbit", "start", "superseded_by")


def check_target(path: Path) -> None:
    """Refuse a file name that says no format, or a folder that is not there, before any work is done."""
    if path.suffix.lower() not in (".json", ".geojson", ".parquet", ".geoparquet", ".csv"):
        raise UsageError(f"--out {path}: expected a name that ends in .json, .parquet or .csv")
    if not path.resolve().parent.is_dir():
        raise UsageError(f"--out {path}: the folder {path.resolve().parent} does not exist")


def write_catalog(items: Sequence[Item], path: Path) -> None:
    """Write items to a file that appears whole or not at all; its suffix says the format."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        data = _csv(rows_of(items))
    else:
        data = _parquet(items) if suffix in (".parquet", ".geoparquet") else _collection(items)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _collection(items: Sequence[Item]) -> bytes:
    """Give an item collection with one item a line."""
    lines = (json.dumps(item, sort_keys=True, ensure_ascii=False, allow_nan=False) for item in items)
    return ('{"type": "FeatureCollection", "features": [\n' + ",\n".join(lines) + "\n]}\n").encode()


def _csv(rows: Iterable[Mapping[str, Any]]) -> bytes:
    text = StringIO()
    table = csv.DictWriter(text, _CSV_COLUMNS, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode()


def _parquet(items: Sequence[Item]) -> bytes:
    """Give stac-geoparquet: properties as columns, geometry as WKB, times as UTC timestamps (its specification 1.0)."""
    flat = [_flat(item) for item in items]
    names = [*dict.fromkeys(name for row in flat for name in sorted(row))]
    columns = {name: _array(name, [row.get(name) for row in flat]) for name in sorted(names)}
    table = pa.table({name: array for name, array in columns.items() if not pa.types.is_null(array.type)})
    sink = BytesIO()
    pq.write_table(table.replace_schema_metadata(_metadata(items)), sink, compression="zstd")
    return sink.getvalue()


def _flat(item: Item) -> dict[str, Any]:
    box, geometry = item.get("bbox"), item.get("geometry")
    row = {**item["properties"], **{k: v for k, v in item.items() if k != "properties"}}  # STAC's own names win
    row["geometry"] = shapely.to_wkb(shapely.geometry.shape(geometry), output_dimension=2) if geometry else None
    row["bbox"] = dict(zip(("xmin", "ymin", "xmax", "ymax"), _flat_box(box), strict=True)) if box else None
    row["links"] = [{name: link.get(name) for name in ("href", "rel", "type", "title")} for link in item["links"]]
    return {name: _without_empty(value) for name, value in row.items()}


def _flat_box(box: Sequence[float]) -> list[float]:
    """Leave out the heights of a box of six numbers."""
    half = len(box) // 2
    return [*box[:2], *box[half : half + 2]]


def _without_empty(value: Any) -> Any:
    """Leave out empty objects: Parquet has no struct without fields."""
    if isinstance(value, dict):
        kept = {name: _without_empty(inner) for name, inner in value.items()}
        return {name: inner for name, inner in kept.items() if inner is not None} or None
    if isinstance(value, list):
        full = [inner for inner in map(_without_empty, value) if inner is not None]
        return full or (None if value else [])
    return value


def _array(name: str, values: list[Any]) -> pa.Array:
    """Give a column; values of types that do not go together are written as JSON."""
    if name in _TYPES:
        return pa.array(values, _TYPES[name])
    try:
        if name in _TIMES:
            return pa.array([_utc(value) for value in values], pa.timestamp("us", tz="UTC"))
        return pa.array(values)
    except (ValueError, TypeError, OverflowError):  # Arrow's own errors are of these kinds
        return pa.array([None if v is None else json.dumps(v, sort_keys=True) for v in values])


def _utc(value: Any) -> Any:
    if value is None:
        return None
    moment = datetime.fromisoformat(str(value))
    return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)


def _metadata(items: Sequence[Item]) -> dict[bytes, bytes]:
    """Give the file metadata of GeoParquet 1.1 and of stac-geoparquet 1.0."""
    box = {"xmin": ["bbox", "xmin"], "ymin": ["bbox", "ymin"], "xmax": ["bbox", "xmax"], "ymax": ["bbox", "ymax"]}
    kinds = sorted({item["geometry"]["type"] for item in items if item.get("geometry")})
    column = {"encoding": "WKB", "geometry_types": kinds, "covering": {"bbox": box}}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    return {b"geo": json.dumps(geo).encode(), b"stac-geoparquet": json.dumps({"version": "1.0.0"}).encode()}
