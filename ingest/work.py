"""One unit of a build, done by one worker: open, cut, write shards, and leave a record that it is done."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.record import canonical_json, digest, sha256
from infra.store import Corrupt, NotFound, Store, open_store
from ingest.catalog import Product, Unit
from ingest.chips import ChipSource, open_chip
from ingest.despeckle import Despeckled
from ingest.geocode import placed
from ingest.href import place_of, split_part
from ingest.labels import Labelled
from ingest.open import open_scene
from ingest.quarantine import Reject, rejected
from ingest.recipe import Recipe
from ingest.sampling import Tally, sample
from ingest.scene import Scene, SceneRejected
from ingest.summary import SceneSummary
from ingest.tiling import cut
from shards.manifest import Source, SourceGrid
from shards.tile import Tile
from shards.writer import write_unit


@dataclass(frozen=True, slots=True)
class Work:
    """A unit, where its result goes, and how it is made. Plain data: it travels to another machine."""

    unit: Unit
    out: str
    recipe: Recipe


_Opened = tuple[Product | ChipSource, Scene]


@dataclass(slots=True)
class _Gathered:
    sources: list[Source] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    left_out: list[Reject] = field(default_factory=list)
    quicklooks: dict[str, bytes] = field(default_factory=dict)
    histograms: list[dict[str, Any]] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)


def open_source(source: Product | ChipSource, recipe: Recipe) -> Scene:
    """Open any source of a catalog as the recipe wants it. Raises SceneRejected."""
    scene: Scene
    with ExitStack() as stack:
        if isinstance(source, ChipSource):
            scene = stack.enter_context(open_chip(source))
        else:
            scene = stack.enter_context(open_scene(source.path, recipe.pixels))
            product = scene
            if source.labels is not None:
                scene = Labelled(scene, source.labels)
        scene = Despeckled(scene, recipe.pixels.speckle)
        if isinstance(source, Product):
            scene = placed(scene, product, recipe)
        stack.pop_all()
    return scene


def build_unit(work: Work) -> dict[str, Any]:
    """Do one unit and give its record, or the record of an earlier run of the same unit.

    A record lists shards, sources, counts and scenes of which the recipe wants no tile, and is put last: without it
    the unit was never done. A unit with rejects leaves none, so that it is done again.
    """
    gathered = _Gathered()
    with ExitStack() as stack:
        opened = [(source, stack.enter_context(scene)) for source, scene in _open_all(work, gathered)]
        return _build_opened(work, open_store(work.out), opened, gathered)


def _build_opened(work: Work, store: Store, opened: list[_Opened], gathered: _Gathered) -> dict[str, Any]:
    name = _record_name(work, [scene for _, scene in opened])
    if not gathered.rejects and (earlier := _whole_record(store, name)):
        return {**earlier, "resumed": True}
    written = write_unit(
        store,
        work.unit.name,
        _tiles(opened, work.recipe, gathered, whole=len(work.unit.sources) > 1),
        work.recipe.shards.codec,
        round(work.recipe.shards.max_mb * 1e6),
    )
    record = {
        "unit": work.unit.name,
        "name": name,
        "shards": [shard.model_dump(mode="json") for shard in written.shards],
        "sources": [source.model_dump(mode="json") for source in gathered.sources],
        "histograms": gathered.histograms,
        "tally": gathered.tally.as_json(),
        "left_out": gathered.left_out,
        "rejects": gathered.rejects,
    }
    if gathered.rejects and not gathered.sources:
        return record
    for scene, png in gathered.quicklooks.items():
        store.put(quicklook_key(name, scene), png)
    store.put(f"units/{name}.parquet", _parquet(written.rows))
    if not gathered.rejects:
        store.put(f"units/{name}.json", canonical_json(record))
    return record


def quicklook_key(record: str, scene: str) -> str:
    """Give the key of a scene's quicklook; chips may be called anything, so their digest stands for them."""
    return f"quicklooks/{record}/{sha256(scene.encode())[:16]}.png"


def read_rows(store: Store, name: str) -> pa.Table:
    """Read the index rows that a unit left beside its record; ``shard`` counts from 0 within the unit."""
    return pq.read_table(BytesIO(store.get(f"units/{name}.parquet")))


def _parquet(rows: pa.Table) -> bytes:
    sink = BytesIO()
    pq.write_table(rows, sink, compression="zstd")
    return sink.getvalue()


def _open_all(work: Work, gathered: _Gathered) -> Iterator[_Opened]:
    for source in work.unit.sources:
        try:
            scene = open_source(source, work.recipe)
        except SceneRejected as error:
            gathered.rejects.append(rejected(source, "open", error))
        else:
            yield source, scene


def _tiles(opened: list[_Opened], recipe: Recipe, gathered: _Gathered, whole: bool) -> Iterator[Tile]:
    """Tiles of all scenes. In a group (``whole``) a scene's tiles are held back until all of them are good."""
    for source, scene in opened:
        info = scene.info
        summary = SceneSummary(info.shape, info.polarisations, recipe.pixels.scale)
        count, tally = 0, Tally()
        try:
            tiles = sample(cut(scene, recipe.tiles, recipe.pixels.scale, tally.dropped), recipe.sampling, tally)
            for tile in list(tiles) if whole else tiles:
                summary.add(tile)
                count += 1
                yield tile
            gathered.tally.add(tally)
            if count == 0:
                _leave_out(source, info.id, tally, gathered)
                continue
            gathered.sources.append(_source(scene, count))
            gathered.quicklooks[info.id] = summary.quicklook()
            gathered.histograms.append({"scene": info.id, "sensor": info.sensor, "bands": summary.histograms()})
        except SceneRejected as error:
            gathered.rejects.append(rejected(source, "read", error))


def _leave_out(source: Product | ChipSource, name: str, tally: Tally, gathered: _Gathered) -> None:
    """Set a scene without tiles aside: as bad where it holds no data, apart where the recipe wants none of it."""
    if set(tally.dropped) == {"no-data"}:
        error = SceneRejected(f"{name}: no tile keeps to the recipe's limit of no-data; nothing to store")
        gathered.rejects.append(rejected(source, "tiles", error))
    else:
        why = f"the recipe wants no tile of it: {tally.reasons()}"
        gathered.left_out.append({"source": name, "stage": "tiles", "kind": "LeftOut", "reason": why})


def _source(scene: Scene, tiles: int) -> Source:
    info = scene.info
    return Source(
        id=info.id,
        sensor=info.sensor,
        product=info.product,
        mode=info.mode,
        polarisations=info.polarisations,
        shape=info.shape,
        spacing_m=info.spacing_m,
        time=info.time,
        orbit=info.orbit,
        fingerprint=info.fingerprint,
        footprint=info.footprint,
        grid=SourceGrid(epsg=info.grid.epsg, transform=info.grid.transform) if info.grid else None,
        ground=tuple((point.row, point.col, point.lon, point.lat) for point in info.ground),
        tiles=tiles,
        warnings=info.warnings,
    )


def _record_name(work: Work, scenes: list[Scene]) -> str:
    """Name a unit by all that its result depends on. A product's files also count by size and time of change:
    fingerprints look at the ends of large files only, and a mended download must be read again.
    """
    prints = [scene.info.fingerprint for scene in scenes]
    stamps = [_stamps(source) for source in work.unit.sources if isinstance(source, Product)]
    made_of = {"recipe": work.recipe.digest, "unit": work.unit.name, "sources": prints, "files": stamps}
    return f"{work.unit.name}-{digest(made_of)[:16]}"


def _stamps(product: Product) -> list[tuple[str, int, int]]:
    whole, _ = split_part(product.path)
    if place_of(whole) != "local":
        return []  # objects appear whole or not at all, and their sizes are in the fingerprint
    path = Path(whole)
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    return [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files]


def _whole_record(store: Store, name: str) -> dict[str, Any] | None:
    """Read the record of a unit that was done before; None where it or anything it names is missing or damaged."""
    try:
        record: dict[str, Any] = json.loads(store.get(f"units/{name}.json"))
        store.info(f"units/{name}.parquet")
        whole = all(store.info(shard["key"]).size == shard["bytes"] for shard in record["shards"])
    except (NotFound, Corrupt, ValueError, KeyError, TypeError):
        return None
    return record if whole else None
