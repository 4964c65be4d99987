"""The rows of a catalog file: CSV, GeoJSON, STAC item collection or stac-geoparquet; each names a product."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.errors import UsageError
from ingest.href import is_member, place_of, product_of

FORMATS = ".csv, .json/.geojson or .parquet/.geoparquet"
_PRODUCT_ASSETS = ("product", "data", "safe-manifest", "safe_manifest", "manifest")
_ORDER = ("local", "s3", "remote")


@dataclass(frozen=True, slots=True)
class Row:
    """A product's path or URI as the catalog writes it, its label raster, and where in the file that stands."""

    path: str
    labels: str | None = None
    where: str = ""


def is_catalog_file(path: Path) -> bool:
    """Tell from its name whether a file is a catalog."""
    return path.suffix.lower() in _READERS


def read_rows(path: Path) -> list[Row]:
    """Read a catalog file. Raises UsageError that names the file, the row, what was found and what was expected.

    STAC item collections: STAC 1.x, GeoJSON FeatureCollection with ``assets``. stac-geoparquet: its specification 1.x,
    properties as columns and ``assets`` as a struct (radiantearth/stac-geoparquet-spec).
    """
    try:
        read = _READERS[path.suffix.lower()]
        for row in (rows := read(path)):
            if "\0" in row.path + (row.labels or ""):
                raise UsageError(f"catalog {path}, {row.where}: {row.path!r:.80} is no path")
        return rows
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise UsageError(f"catalog {path} cannot be read: {error}") from error


def _read_csv(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        if "path" not in (table.fieldnames or ()):
            raise UsageError(f"catalog {path}: expected a column 'path', found {table.fieldnames}")
        rows = []
        for record in table:
            where = f"line {table.line_num}"
            if not record["path"]:
                raise UsageError(f"catalog {path}: no path in {where}")
            rows.append(Row(record["path"], record.get("labels") or None, where))
        return rows


def _read_features(path: Path) -> list[Row]:
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"catalog {path} is not JSON: {error}; expected a collection with 'features'") from error
    kind = data.get("type") if isinstance(data, dict) else type(data).__name__
    features = [data] if kind == "Feature" else data.get("features") if isinstance(data, dict) else None
    if not isinstance(features, list):
        raise UsageError(f"catalog {path}: expected a GeoJSON or STAC item collection with 'features', found {kind!r}")
    return [_feature_row(feature, path, number) for number, feature in enumerate(features, 1)]


def _feature_row(feature: Any, path: Path, number: int) -> Row:
    where = f"feature {number}"
    if not isinstance(feature, dict):
        raise UsageError(f"catalog {path}, {where}: expected an object, found {feature!r:.60}")
    where = f"{where} ({feature['id']})" if "id" in feature else where
    properties, assets = feature.get("properties") or {}, feature.get("assets") or {}
    if not isinstance(properties, dict) or not isinstance(assets, dict):
        raise UsageError(f"catalog {path}, {where}: expected 'properties' and 'assets' to be objects")
    return _row(properties.get("path"), properties.get("labels"), _item_hrefs(assets), path, where)


def item_product(item: Mapping[str, Any]) -> str | None:
    """Give where the product of a STAC item is, as a catalog reads it."""
    named = (item.get("properties") or {}).get("path")
    return str(named) if named else _product_asset(_item_hrefs(item.get("assets") or {}))


def _item_hrefs(assets: Mapping[str, Any]) -> dict[str, Any]:
    return {name: asset.get("href") for name, asset in assets.items() if isinstance(asset, dict)}


def _row(named: Any, labels: Any, hrefs: Mapping[str, Any], path: Path, where: str) -> Row:
    """Make a row of a ``path`` or else of the asset that leads to the product."""
    product = str(named) if named else _product_asset(hrefs)
    if product is None:
        raise UsageError(
            f"catalog {path}, {where}: names no product: expected properties.path or an asset 'product', 'data' or "
            f"'safe-manifest'; its assets: {', '.join(map(str, hrefs)) or 'none'}"
        )
    labels = labels or hrefs.get("labels")
    return Row(product, str(labels) if labels else None, where)


def _product_asset(hrefs: Mapping[str, Any]) -> str | None:
    """Give the product that the assets belong to; one that can be read where it lies goes before one to download."""
    named = [hrefs[name] for name in _PRODUCT_ASSETS if isinstance(hrefs.get(name), str)]
    inside = sorted(href for href in hrefs.values() if isinstance(href, str) and is_member(href))
    found = sorted([*named, *inside], key=lambda href: _ORDER.index(place_of(href)))  # keeps the order of equals
    return product_of(found[0]) if found else None


def _read_parquet(path: Path) -> list[Row]:
    with pq.ParquetFile(path) as file:
        columns = [name for name in ("id", "path", "labels", "assets") if name in file.schema_arrow.names]
        if "assets" not in columns and "path" not in columns:
            raise UsageError(
                f"catalog {path}: expected stac-geoparquet with a column 'assets' (or a column 'path'),"
                f" found the columns {', '.join(file.schema_arrow.names)}"
            )
        table = file.read(columns=columns)
    ids, named, labels = (_column(table, name) for name in ("id", "path", "labels"))
    hrefs = _asset_hrefs(table["assets"].combine_chunks(), path) if "assets" in columns else [{}] * len(table)
    return [
        _row(named[i], labels[i], hrefs[i], path, f"row {i + 1}" + (f" ({ids[i]})" if ids[i] else ""))
        for i in range(len(table))
    ]


def _column(table: pa.Table, name: str) -> list[Any]:
    return table[name].to_pylist() if name in table.column_names else [None] * len(table)


def _asset_hrefs(assets: pa.Array, path: Path) -> list[dict[str, Any]]:
    """Give asset name -> href of each row, of a struct (a field per asset) or of a map."""
    if pa.types.is_map(assets.type):
        return [{name: (asset or {}).get("href") for name, asset in row or ()} for row in assets.to_pylist()]
    if not pa.types.is_struct(assets.type):
        raise UsageError(f"catalog {path}: expected 'assets' to be a struct, found {assets.type!s:.60}")
    hrefs = {field.name: _hrefs(assets, field) for field in assets.type}
    return [{name: values[i] for name, values in hrefs.items() if values[i]} for i in range(len(assets))]


def _hrefs(assets: pa.StructArray, asset: pa.Field) -> list[Any]:
    if not pa.types.is_struct(asset.type) or asset.type.get_field_index("href") < 0:
        return [None] * len(assets)
    return list(pc.struct_field(assets, [asset.name, "href"]).to_pylist())


_READERS = MappingProxyType(
    {
        ".csv": _read_csv,
        ".json": _read_features,
        ".geojson": _read_features,
        ".parquet": _read_parquet,
        ".geoparquet": _read_parquet,
    }
)
