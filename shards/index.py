"""The patch index: one row per tile in GeoParquet 1.1, the same bytes every time."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from infra.errors import SarsenseError
from infra.record import sha256
from infra.store import Store
from shards.manifest import IndexPart, Manifest, Shard
from shards.outline import ground_polygon

_BBOX = pa.struct([(side, pa.float64()) for side in ("xmin", "ymin", "xmax", "ymax")])

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.int32()),  # position in the manifest's shards
        ("scene", pa.string()),
        ("sensor", pa.string()),
        ("polarisations", pa.list_(pa.string())),
        ("bands", pa.int32()),
        ("rows", pa.int32()),
        ("cols", pa.int32()),
        ("window_row", pa.int64()),  # the window is in scene pixels
        ("window_col", pa.int64()),
        ("window_rows", pa.int64()),
        ("window_cols", pa.int64()),
        ("offset", pa.int64()),  # of the stored payload, in bytes from the start of the shard
        ("length", pa.int64()),
        ("crc32c", pa.uint32()),
        ("label_offset", pa.int64()),  # -1 without label
        ("label_length", pa.int64()),
        ("label_crc32c", pa.uint32()),
        ("meta_offset", pa.int64()),
        ("meta_length", pa.int64()),
        ("meta_crc32c", pa.uint32()),
        ("valid_share", pa.float64()),
        ("mean_db", pa.list_(pa.float64())),
        ("time", pa.string()),  # ISO 8601 UTC
        ("footprint", pa.list_(pa.float64())),  # lon, lat of the four corners in image order; null without place
        ("geometry", pa.binary()),
        ("bbox", _BBOX),
        ("platform", pa.string()),  # from here on: null where it is not known
        ("mode", pa.string()),
        ("quantity", pa.string()),  # what the pixels are: sigma0, beta0, gamma0, gamma0-terrain
        ("orbit", pa.string()),  # ascending or descending
        ("incidence_deg", pa.float64()),  # on the ellipsoid, at the middle of the tile
        ("std_db", pa.list_(pa.float64())),  # of the valid pixels of each band, as all levels
        ("p02_db", pa.list_(pa.float64())),
        ("p98_db", pa.list_(pa.float64())),
        ("contrast_db", pa.float64()),
        ("land_share", pa.float64()),
        ("water_share", pa.float64()),
    ]
)
OPTIONAL = tuple(SCHEMA.names[SCHEMA.get_field_index("bbox") + 1 :])
"""Columns whose values come from a tile's meta where it has them; an index from before they came lacks them."""

_PLACED = [SCHEMA.get_field_index(name) for name in ("geometry", "bbox")]
_RECORD = pa.schema([field for i, field in enumerate(SCHEMA) if i not in _PLACED])
_ROW_GROUP = 65536
_REPEATING = ["scene", "sensor", "time", "platform", "mode", "quantity", "orbit"]


class IndexDamaged(SarsenseError):
    """A part of the patch index is not the one that the manifest names."""


@dataclass(frozen=True, slots=True)
class UnitRows:
    """What one unit of work wrote: its shards, and its tiles' rows with ``shard`` counted from 0 in the unit."""

    shards: list[Shard]
    rows: pa.Table


def rows_table(records: Sequence[dict[str, Any]]) -> pa.Table:
    """Make index rows of records with every column but ``geometry`` and ``bbox``: these follow from ``footprint``."""
    table = pa.Table.from_pylist(list(records), schema=_RECORD)
    geometries = [ground_polygon(record["footprint"]) for record in records]
    bounds = shapely.bounds(np.array(geometries, dtype=object)).reshape(-1, 4)
    table = table.append_column(SCHEMA.field("geometry"), pa.array(_wkb(geometries), pa.binary()))
    return table.append_column(SCHEMA.field("bbox"), _bbox_column(bounds)).select(SCHEMA.names).cast(SCHEMA)


def join_units(units: Sequence[UnitRows]) -> UnitRows:
    """Put units one behind the other, with ``shard`` counted through. Raises SarsenseError where a key repeats."""
    shards = [shard for unit in units for shard in unit.shards]
    first = np.cumsum([0, *(len(unit.shards) for unit in units)])
    tables = [_shifted(unit.rows, int(start)) for unit, start in zip(units, first[:-1], strict=True)]
    rows = pa.concat_tables(tables).combine_chunks() if tables else SCHEMA.empty_table()
    if repeated := repeated_keys(rows):
        raise SarsenseError(f"{len(repeated)} tile keys name more than one tile, first {repeated[0]}")
    return UnitRows(shards, rows)


def repeated_keys(rows: pa.Table) -> list[str]:
    """Give the keys that stand in more than one row, sorted."""
    if pc.count_distinct(rows["key"]).as_py() == rows.num_rows:
        return []
    counts = rows.group_by("key").aggregate([([], "count_all")])
    return sorted(counts.filter(pc.greater(counts["count_all"], 1))["key"].to_pylist())


def put_index(store: Store, rows: pa.Table, rows_per_part: int = 1_000_000) -> tuple[IndexPart, ...]:
    """Store index rows as GeoParquet parts ``index/part-<n>-<digest>.parquet``; give what a manifest says of them."""
    starts = range(0, rows.num_rows, rows_per_part)
    return tuple(_put_part(store, n, rows.slice(start, rows_per_part)) for n, start in enumerate(starts))


def write_index(rows: pa.Table) -> bytes:
    """Encode index rows as one GeoParquet 1.1 file: WKB geometry in WGS 84 lon/lat with a bounding-box covering."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink, SCHEMA, version="2.6", compression="zstd", compression_level=3, store_schema=False
    ) as file:
        file.write_table(rows.cast(SCHEMA), row_group_size=_ROW_GROUP)
        file.add_key_value_metadata({"geo": json.dumps(_geo(rows), sort_keys=True)})
    data: bytes = sink.getvalue().to_pybytes()
    return data


def read_index(store: Store, manifest: Manifest) -> pa.Table:
    """Read the whole index of a corpus, in the order of its tiles; every part's SHA-256 is checked first.

    Raises IndexDamaged for a part that is not the manifest's, or rows that do not fit its shards.
    """
    parts = [_read_part(store, part) for part in manifest.index]
    schema = _dictionary_schema()
    table = pa.concat_tables(parts) if parts else schema.empty_table()
    _check_order(table, manifest, store.url)
    return table.unify_dictionaries().combine_chunks()


def _shifted(rows: pa.Table, start: int) -> pa.Table:
    at = SCHEMA.get_field_index("shard")
    return rows.set_column(at, SCHEMA.field(at), pc.add(rows["shard"], pa.scalar(start, pa.int32())))


def _put_part(store: Store, number: int, rows: pa.Table) -> IndexPart:
    data = write_index(rows)
    digest = sha256(data)
    key = f"index/part-{number:05d}-{digest[:12]}.parquet"
    store.put(key, data)
    return IndexPart(key=key, sha256=digest, bytes=len(data), rows=rows.num_rows)


def _read_part(store: Store, part: IndexPart) -> pa.Table:
    data = store.get(part.key)
    if len(data) != part.bytes or sha256(data) != part.sha256:
        raise IndexDamaged(
            f"{store.url}/{part.key} is damaged: expected {part.bytes} bytes with SHA-256 {part.sha256}, "
            f"found {len(data)} bytes with {sha256(data)}; restore it or build the corpus again"
        )
    try:
        table = _completed(pq.read_table(pa.BufferReader(data), read_dictionary=_REPEATING))
        return table.replace_schema_metadata(None).select(SCHEMA.names).cast(_dictionary_schema())
    except (pa.ArrowException, KeyError) as error:
        raise IndexDamaged(f"{store.url}/{part.key} is not a patch index of this format: {error}") from error


def _completed(table: pa.Table) -> pa.Table:
    for name in [name for name in OPTIONAL if name not in table.column_names]:
        field = SCHEMA.field(name)
        table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table


def _dictionary_schema() -> pa.Schema:
    kind = pa.dictionary(pa.int32(), pa.string())
    return pa.schema([(f.name, kind if f.name in _REPEATING else f.type) for f in SCHEMA])


def _check_order(table: pa.Table, manifest: Manifest, url: str) -> None:
    expected = np.repeat(np.arange(len(manifest.shards)), [shard.tiles for shard in manifest.shards])
    if not np.array_equal(table["shard"].to_numpy(), expected):
        raise IndexDamaged(f"{url}: the index does not list the tiles of the manifest's shards in order")
    ends = np.array([shard.bytes for shard in manifest.shards], dtype=np.int64)[expected]
    for prefix in ("", "label_", "meta_"):
        offset, length = (table[f"{prefix}{name}"].to_numpy() for name in ("offset", "length"))
        if (length < 0).any() or (length > ends).any() or (offset > ends - length).any():
            raise IndexDamaged(f"{url}: the index places a tile's {prefix}payload outside its shard")


def _geo(rows: pa.Table) -> dict[str, Any]:
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": _geometry_types(rows),
        "orientation": "counterclockwise",
        "edges": "planar",
        "covering": {"bbox": {f.name: ["bbox", f.name] for f in _BBOX}},
    }
    sides = rows["bbox"].combine_chunks().flatten()
    if len(sides[0]) > sides[0].null_count:
        low = [pc.min(sides[i]).as_py() for i in (0, 1)]
        column["bbox"] = low + [pc.max(sides[i]).as_py() for i in (2, 3)]
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _geometry_types(rows: pa.Table) -> list[str]:
    codes = pc.unique(pc.binary_slice(rows["geometry"], 1, 5)).to_pylist()  # the type within WKB
    return [name for code, name in ((6, "MultiPolygon"), (3, "Polygon")) if code.to_bytes(4, "little") in codes]


def _wkb(geometries: list[Any]) -> list[bytes | None]:
    return [None if g is None else shapely.to_wkb(g, byte_order=1, output_dimension=2) for g in geometries]


def _bbox_column(bounds: NDArray[np.float64]) -> pa.Array:
    missing = pa.array(np.isnan(bounds[:, 0]))
    sides = [pa.array(np.ascontiguousarray(side), from_pandas=True) for side in bounds.T]
    return pa.StructArray.from_arrays(sides, fields=list(_BBOX), mask=missing)
