"""What to build from: a folder, a CSV table or a GeoJSON / STAC item collection becomes a list of units of work."""

import csv
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from infra.errors import UsageError
from infra.record import digest
from ingest.chips import ChipSource, chip_folder, read_chip_folder
from ingest.labels import legend_beside
from ingest.legend import read_legend
from ingest.open import Sensor, sensor_of

CHIPS_FILE = "chips.yaml"


class Product(BaseModel):
    """A satellite product on disk, with the label raster in its own geometry where there is one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sensor: Sensor
    path: str
    labels: str | None = None

    @property
    def name(self) -> str:
        """The product's own name."""
        return _product_name(Path(self.path))


@dataclass(frozen=True, slots=True)
class Unit:
    """What one worker does at a time: one product, or a group of chips of one data set."""

    name: str
    sources: tuple[Product | ChipSource, ...]


@dataclass(frozen=True, slots=True)
class Catalog:
    """Units in the order of their names, the legend of their labels, and what the catalog lists in vain."""

    units: tuple[Unit, ...]
    legend: Mapping[str, Any] | None
    rejects: tuple[tuple[str, str], ...]


def read_catalog(path: Path, chips_per_unit: int) -> Catalog:
    """Read a folder, ``.csv``, or ``.json``/``.geojson`` catalog. Order, place and duplicates do not matter.

    Raises UsageError where it cannot be read or lists nothing.
    """
    path = path.resolve()  # paths travel to workers that stand in other folders
    rows: list[dict[str, str]]
    if not path.exists():
        raise UsageError(f"catalog {path} does not exist")
    if sensor_of(path):
        rows = [{"path": str(path)}]
    elif path.is_dir():
        rows = list(_scan(path))
    elif path.suffix.lower() == ".csv":
        rows = _read_csv(path)
    elif path.suffix.lower() in (".json", ".geojson"):
        rows = _read_features(path)
    else:
        raise UsageError(f"catalog {path}: expected a folder, a .csv file or a .json/.geojson collection")
    if not rows:
        raise UsageError(f"catalog {path} is empty: no Sentinel-1 or ALOS-2 product and no {CHIPS_FILE} in it")
    return _assemble(rows, path if path.is_dir() else path.parent, chips_per_unit)


def _scan(folder: Path) -> Iterable[dict[str, str]]:
    """Find products and chip sets below a folder, without looking inside products."""
    for entry in sorted(folder.iterdir()):
        if sensor_of(entry) or entry.name == CHIPS_FILE:
            yield {"path": str(entry)}
        elif entry.is_dir():
            yield from _scan(entry)


def _read_csv(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="") as file:
            table = csv.DictReader(file)
            if "path" not in (table.fieldnames or ()):
                raise UsageError(f"catalog {path}: expected a column 'path', found {table.fieldnames}")
            rows = [{k: v for k, v in row.items() if k and v} for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"catalog {path} cannot be read: {error}") from error
    if empty := [number for number, row in enumerate(rows, 2) if "path" not in row]:
        raise UsageError(f"catalog {path}: no path in line {empty[0]}")
    return rows


def _read_features(path: Path) -> list[dict[str, str]]:
    try:
        data = json.loads(path.read_bytes())
        features = data["features"]
        return [_feature_row(feature, path) for feature in features]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"catalog {path}: expected a GeoJSON or STAC item collection with 'features': {error}"
        ) from error


def _feature_row(feature: Mapping[str, Any], path: Path) -> dict[str, str]:
    properties = feature.get("properties") or {}
    assets = feature.get("assets") or {}
    row: dict[str, str] = {}
    if "path" in properties:
        row["path"] = str(properties["path"])
    for name in ("product", "data", "safe-manifest", "safe_manifest"):
        if "path" not in row and name in assets:
            row["path"] = str(assets[name]["href"]).removesuffix("/manifest.safe")
    if "path" not in row:
        found = ", ".join(assets) or "none"
        raise ValueError(
            f"feature {feature.get('id', '?')} names no product: expected properties.path or an asset 'product',"
            f" 'data' or 'safe-manifest'; its assets: {found}"
        )
    labels = properties.get("labels") or (assets.get("labels") or {}).get("href")
    return {**row, **({"labels": str(labels)} if labels else {})}


def _assemble(rows: Iterable[Mapping[str, str]], base: Path, chips_per_unit: int) -> Catalog:
    products: dict[str, Product] = {}
    units: dict[str, Unit] = {}
    legends: dict[str, Mapping[str, Any]] = {}
    rejects: list[tuple[str, str]] = []
    for row in sorted(rows, key=lambda r: r["path"]):
        path = _local(row["path"], base)
        if path.name == CHIPS_FILE or path.suffix in (".yaml", ".yml"):
            for unit in _chip_units(path, chips_per_unit, legends):
                _add(units, unit, path)
            continue
        sensor = sensor_of(path)
        if sensor is None:
            why = "no such file or folder" if not path.exists() else "neither a Sentinel-1 nor an ALOS-2 product"
            rejects.append((row["path"], f"{path}: {why}"))
            continue
        product = Product(sensor=sensor, path=str(path), labels=_labels(row, path, base, legends))
        if product.name in products and products[product.name].path != product.path:
            rejects.append(
                (str(path), f"{path}: the catalog lists {product.name} twice, as {products[product.name].path} too")
            )
            continue
        products[product.name] = product
        _add(units, Unit(_key(product.name), (product,)), path)
    return Catalog(tuple(units[name] for name in sorted(units)), _one_legend(legends), tuple(rejects))


def _add(units: dict[str, Unit], unit: Unit, path: Path) -> None:
    if unit.name in units and units[unit.name] != unit:
        raise UsageError(f"{path}: the catalog has another {unit.name} already; give one of the chip sets a 'name'")
    units[unit.name] = unit


def _key(name: str) -> str:
    """Make a name fit for a key in a store; a name that has to change gets digits of its digest."""
    plain = re.sub(r"[^A-Za-z0-9._=+@-]", "_", name)
    return plain if plain == name else f"{plain}-{digest(name)[:8]}"


def _chip_units(path: Path, size: int, legends: dict[str, Mapping[str, Any]]) -> Iterable[Unit]:
    spec, folder = read_chip_folder(path)
    chips = chip_folder(folder, spec)
    if not chips:
        raise UsageError(f"{path}: no file in {folder} matches what it describes")
    if spec.legend is not None:
        legends[str(path)] = spec.legend.model_dump(mode="json")
    name = _key(spec.name or folder.name)
    for start in range(0, len(chips), size):
        yield Unit(f"{name}-{start // size:04d}", tuple(chips[start : start + size]))


def _labels(row: Mapping[str, str], path: Path, base: Path, legends: dict[str, Mapping[str, Any]]) -> str | None:
    """The label raster a row names, or ``<product>_labels.tif`` beside the product; its legend is ``legend.json``."""
    named = row.get("labels")
    raster = (
        _local(named, base)
        if named
        else path.parent / f"{Product(sensor='sentinel-1', path=str(path)).name}_labels.tif"
    )
    if not raster.is_file():
        if named:
            raise UsageError(f"the catalog names labels that are not there: {raster}")
        return None
    if legend := legend_beside(raster):
        legends[str(raster)] = read_legend(legend).model_dump(mode="json")
    return str(raster)


def _one_legend(legends: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    first: tuple[str, Mapping[str, Any]] | None = None
    for name, legend in sorted(legends.items()):
        if first and legend != first[1]:
            raise UsageError(f"labels of two legends in one catalog: {first[0]} and {name}; build them as two corpora")
        first = first or (name, legend)
    return first[1] if first else None


def _product_name(path: Path) -> str:
    return path.name.removesuffix(".zip").removesuffix(".SAFE")


def _local(path: str, base: Path) -> Path:
    plain = path.removeprefix("file://")
    return (base / plain).resolve()  # an absolute path stays what it is
