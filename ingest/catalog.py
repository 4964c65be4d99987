"""What to build from: a folder or a catalog file becomes a list of units of work."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from infra.errors import UsageError
from infra.record import digest
from ingest.catalog_rows import FORMATS, Row, is_catalog_file, read_rows
from ingest.chip_set import chip_folder, read_chip_folder
from ingest.chips import ChipSource
from ingest.href import local_path, place_of, split_part, without_secrets
from ingest.labels import legend_beside
from ingest.legend import read_legend
from ingest.open import Sensor, parts_of, sensor_of, what_is_wrong

CHIPS_FILE = "chips.yaml"


class Product(BaseModel):
    """A satellite product, or a part of one, with the label raster in its own geometry where there is one.

    ``path`` is absolute or an ``s3://`` URI; it may end in the part of the product that is meant, ``#IW1``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sensor: Sensor
    path: str
    labels: str | None = None

    @property
    def name(self) -> str:
        """The product's own name, and that of its part."""
        whole, part = split_part(self.path)
        name = product_name(whole.rpartition("/")[2])
        return f"{name}_{part}" if part else name


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
    """Read a folder, one product, or a catalog file. Order, place and duplicates do not matter.

    Files: ``.csv`` with a column ``path``; ``.json``/``.geojson`` FeatureCollection or STAC item collection;
    ``.parquet`` stac-geoparquet. They may list products, parts of products and chip sets side by side. Raises
    UsageError where it cannot be read or lists nothing.
    """
    path = path.resolve()  # paths travel to workers that stand in other folders
    if sensor_of(path):
        rows = [Row(str(path))]
    elif not path.exists():
        raise UsageError(f"catalog {path} does not exist")
    elif path.is_dir():
        rows = list(_scan(path))
    elif path.name == CHIPS_FILE:
        rows = [Row(str(path))]
    elif is_catalog_file(path):
        rows = read_rows(path)
    else:
        raise UsageError(f"catalog {path}: expected a folder, a product, {CHIPS_FILE}, or a {FORMATS} file")
    if not rows:
        raise UsageError(f"catalog {path} is empty: no Sentinel-1 or ALOS-2 product and no {CHIPS_FILE} in it")
    return _assemble(rows, path, chips_per_unit)


def _scan(folder: Path, within: frozenset[Path] = frozenset()) -> Iterable[Row]:
    """Find products and chip sets below a folder, without looking inside products; links do not lead in circles."""
    within |= {folder.resolve()}
    for entry in sorted(folder.iterdir()):
        if sensor_of(entry) or entry.name == CHIPS_FILE:
            yield Row(str(entry))
        elif entry.is_dir() and entry.resolve() not in within:
            yield from _scan(entry, within)


def _assemble(rows: Iterable[Row], catalog: Path, chips_per_unit: int) -> Catalog:
    base = catalog if catalog.is_dir() else catalog.parent
    products: dict[str, Product] = {}
    units: dict[str, Unit] = {}
    legends: dict[str, Mapping[str, Any]] = {}
    rejects: list[tuple[str, str]] = []
    for row in sorted(rows, key=lambda r: r.path):
        path = _resolved(row.path, base)
        if path.endswith((".yaml", ".yml")):
            for unit in _chip_units(Path(path), chips_per_unit, legends):
                _add(units, unit, path)
            continue
        try:
            sensor = sensor_of(path)
            if sensor is None:
                rejects.append((without_secrets(row.path), f"{path}: {what_is_wrong(path)}"))
                continue
            parts = parts_of(path)
        except OSError as error:  # a name too long for a file, a folder that may not be entered
            rejects.append((without_secrets(row.path), f"{path:.200}: {error.strerror}"))
            continue
        except UsageError as error:  # what is wrong with a URL is wrong with this row alone
            rejects.append((path, str(error)))
            continue
        for part in parts:
            product = Product(sensor=sensor, path=part, labels=_labels(row, part, catalog, base, legends))
            earlier = products.setdefault(product.name, product)
            if earlier.path != part:
                reason = f"{part}: the catalog lists {product.name} twice, as {earlier.path} too"
                rejects.append((part, reason))
            else:
                _add(units, Unit(_key(product.name), (earlier,)), path)
    return Catalog(tuple(units[name] for name in sorted(units)), _one_legend(legends), tuple(rejects))


def _resolved(href: str, base: Path) -> str:
    """Give an absolute path or a URI without secrets. What lies elsewhere may have been fetched to the catalog's side.

    Of a product to download, ``X.zip`` say, ``X.zip``, ``X.SAFE`` or ``X`` beside the catalog is taken.
    """
    if place_of(href) == "local":
        return str(local_path(href, base))
    href = without_secrets(href)
    if place_of(href) == "s3":
        return href.rstrip("/")
    whole, part = split_part(href)
    name = whole.rstrip("/").rpartition("/")[2]
    stem = product_name(name)
    for copy in (base / name, base / f"{stem}.SAFE", base / f"{stem}.zip", base / stem):
        if name and copy.exists():
            return f"{copy}#{part}" if part else str(copy)
    return href


def _add(units: dict[str, Unit], unit: Unit, path: str) -> None:
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


def _labels(row: Row, product: str, catalog: Path, base: Path, legends: dict[str, Mapping[str, Any]]) -> str | None:
    """The label raster a row names, or ``<product>_labels.tif`` beside the product; its legend is ``legend.json``."""
    if row.labels:
        raster = local_path(row.labels, base)
        if not raster.is_file():
            raise UsageError(f"catalog {catalog}, {row.where}: the labels {raster} are not there")
    elif place_of(product) == "local":
        whole, part = split_part(product)
        name = product_name(Path(whole).name) + (f"_{part}" if part else "")
        raster = Path(whole).parent / f"{name}_labels.tif"
        if not raster.is_file():
            return None
    else:
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


def product_name(file_name: str) -> str:
    """Give a product's name without the suffixes of its packing."""
    return file_name.removesuffix(".zip").removesuffix(".SAFE")
