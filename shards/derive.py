"""Versions made of versions: a selection by query, a split, a merger. No pixel is written again: shards are shared."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.errors import ConflictError, UsageError
from infra.record import digest
from infra.store import Store
from shards.index import UnitRows, join_units, put_index
from shards.manifest import Lineage, Manifest, Shard, Source
from shards.mounts import mount_name
from shards.reader import Corpus


def where(table: pa.Table, query: str) -> NDArray[np.bool_]:
    """Say of each row of the patch index whether an SQL condition holds (DuckDB; columns of shards.index.SCHEMA).

    Nothing outside the index can be read by the query. Raises UsageError with the database's own words.
    """
    import duckdb

    numbered = table.append_column("_row", pa.array(np.arange(table.num_rows)))
    with duckdb.connect(config={"enable_external_access": "false", "lock_configuration": "true"}) as base:
        base.register("tiles", numbered)
        try:
            rows = base.sql(f"SELECT _row FROM tiles WHERE ({query})").fetchnumpy()["_row"]  # noqa: S608
        except duckdb.Error as error:
            columns = ", ".join(table.column_names)
            what = " ".join(str(error).split())
            raise UsageError(f"the query cannot be used: {what}; the columns are {columns}") from error
    chosen = np.zeros(table.num_rows, dtype=bool)
    chosen[np.asarray(rows, dtype=np.int64)] = True
    return chosen


def hash_unit(names: Sequence[str], seed: int) -> NDArray[np.float64]:
    """Give a number in 0 <= u < 1 for each name: the same on every machine, in any order."""
    prefix = f"{seed}:".encode()
    digests = (hashlib.blake2b(prefix + name.encode(), digest_size=8).digest() for name in names)
    return np.array([int.from_bytes(d, "big") / 2**64 for d in digests])


def balanced(table: pa.Table, column: str, most: int, seed: int) -> NDArray[np.bool_]:
    """Keep at most ``most`` tiles for each value of a column, drawn by the hash of their keys. Raises UsageError."""
    if column not in table.column_names:
        raise UsageError(f"no column {column!r} to balance by: there are {', '.join(table.column_names)}")
    values = pc.dictionary_encode(table[column].combine_chunks().cast(pa.string()), null_encoding="encode").indices
    group = np.asarray(values)
    order = np.lexsort((hash_unit(table["key"].to_pylist(), seed), group))
    first = np.concatenate([[True], group[order][1:] != group[order][:-1]]) if len(order) else np.zeros(0, bool)
    start = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    keep = np.zeros(len(order), dtype=bool)
    keep[order] = np.arange(len(order)) - start < most
    return keep


def first_of_twins(table: pa.Table) -> NDArray[np.bool_]:
    """Keep one of the tiles whose pixels are the same byte for byte: the one with the first key."""
    crc, length = table["crc32c"].to_numpy(), table["length"].to_numpy()
    place = pc.rank(table["key"].combine_chunks(), tiebreaker="first").to_numpy()
    order = np.lexsort((place, length, crc))
    keep = np.ones(len(order), dtype=bool)
    same = (crc[order][1:] == crc[order][:-1]) & (length[order][1:] == length[order][:-1])
    keep[order[1:][same]] = False
    return keep


def take(corpus: Corpus, chosen: NDArray[np.bool_], lineage: Lineage) -> Manifest:
    """Make the version that holds only the chosen tiles, in their order; its index is stored, its shards are shared.

    Raises UsageError where nothing is chosen.
    """
    if not chosen.any():
        raise UsageError(f"no tile of {corpus.store.url} is chosen: there is nothing to make a version of")
    whole = corpus.manifest
    counts = corpus.shard_counts(np.flatnonzero(chosen))
    number = np.cumsum(counts > 0) - 1  # new number of each shard that stays
    rows = corpus.table.filter(pa.array(chosen))
    rows = rows.set_column(
        rows.column_names.index("shard"),
        corpus.table.schema.field("shard"),
        pa.array(number[rows["shard"].to_numpy()].astype(np.int32)),
    )
    shards = tuple(_part_of(whole.shards[n], int(count)) for n, count in enumerate(counts) if count)
    return Manifest(
        **{name: getattr(whole, name) for name in _SAME},
        shards=shards,
        index=put_index(corpus.store, rows),
        sources=_sources(whole.sources, rows),
        tiles=int(chosen.sum()),
        bytes=sum(shard.bytes for shard in shards),
        lineage=lineage,
    )


_SAME = ("recipe", "recipe_digest", "pixels_digest", "scale", "codec", "legend")


def _part_of(shard: Shard, count: int) -> Shard:
    members = shard.members or shard.tiles
    return shard.model_copy(update={"tiles": count, "members": None if count == members else members})


def _sources(sources: Sequence[Source], rows: pa.Table) -> tuple[Source, ...]:
    """Count each scene's tiles anew and leave out those that have none."""
    counted = pc.value_counts(rows["scene"].combine_chunks().cast(pa.string()))
    counts = {entry["values"]: entry["counts"] for entry in counted.to_pylist()}
    return tuple(s.model_copy(update={"tiles": counts[s.id]}) for s in sources if s.id in counts)


def weigh(corpus: Corpus, column: str, weights: Mapping[str, float], lineage: Lineage) -> Manifest:
    """Make the version in which the scenes of a sensor (or of one id, mode, product) are read so often per epoch.

    ``column`` is "sensor", "id", "mode" or "product"; scenes of no listed value keep their weight. Nothing but the
    manifest is new. Raises UsageError for a value that no scene has, or a weight that cannot be.
    """
    if column not in ("sensor", "id", "mode", "product"):
        raise UsageError(f"scenes cannot be weighed by {column!r}: expected sensor, id, mode or product")
    known = {getattr(source, column) for source in corpus.manifest.sources}
    if unknown := sorted(weights.keys() - known):
        raise UsageError(f"no scene of {corpus.store.url} has {column} {unknown[0]!r}; there are {sorted(known)[:10]}")
    if wrong := [f"{name}={weight}" for name, weight in weights.items() if not 0 < weight <= 1000]:
        raise UsageError(f"weight {wrong[0]}: expected more than 0 and at most 1000; leave scenes out with select")
    sources = tuple(
        source.model_copy(update={"weight": weights.get(getattr(source, column), source.weight)})
        for source in corpus.manifest.sources
    )
    plain = corpus.manifest.model_dump() | {"sources": sources, "lineage": lineage}
    return Manifest.model_validate(plain)


def parts_by_scene(corpus: Corpus, shares: Mapping[str, float], seed: int) -> dict[str, NDArray[np.bool_]]:
    """Deal scenes, whole, to named parts in about these shares of the tiles.

    Scenes go in the order of their hash to the part that lacks most: a scene more does not move the others far.
    """
    sources = corpus.manifest.sources
    order = np.argsort(hash_unit([s.id for s in sources], seed), kind="stable")
    total = sum(shares.values())
    want = {name: share / total * corpus.manifest.tiles for name, share in shares.items()}
    part_of: dict[str, int] = {}
    names = list(shares)
    for n in order:
        name = max(want, key=lambda part: want[part])
        part_of[sources[n].id] = names.index(name)
        want[name] -= sources[n].tiles
    scenes = corpus.table["scene"].combine_chunks()
    parts = np.array([part_of.get(s, -1) for s in scenes.dictionary.to_pylist()])[np.asarray(scenes.indices)]
    return {name: parts == number for number, name in enumerate(names)}


def parts_by_band(
    corpus: Corpus, shares: Mapping[str, float], angle_rad: float, bands: int
) -> dict[str, NDArray[np.bool_]]:
    """Deal tiles to named parts in stripes across the corpus's bounding box ("geographic banding").

    Stripes are at right angles to the direction (x, y) that ``angle_rad`` stands for, ``bands`` of them are not
    empty, and the parts take turns in the pattern of their shares (60, 20, 20: three, one, one). Phi-lab, geetiles,
    partitions. Tiles without a place are in no part. Raises UsageError where so many bands cannot be had.
    """
    points = corpus.table["footprint"].combine_chunks()
    placed = np.asarray(points.is_valid())
    if not placed.any():
        raise UsageError(f"no tile of {corpus.store.url} has a place: split it by scene")
    corners = np.asarray(points.drop_null().flatten()).reshape(-1, 4, 2)
    centre = corners.mean(axis=1)
    along = _along(centre, angle_rad)
    band = _band_numbers(along, bands)
    least = min(share for share in shares.values() if share > 0)
    pattern = [name for name, share in shares.items() for _ in range(round(share / least))]
    owner = np.array([pattern[b % len(pattern)] for b in range(bands)])[band]
    result = {}
    for name in shares:
        chosen = np.zeros(len(placed), dtype=bool)
        chosen[np.flatnonzero(placed)[owner == name]] = True
        result[name] = chosen
    return result


def _along(centre: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """Give how far each place lies along the direction of the bands, 0..2."""
    low, high = centre.min(axis=0), centre.max(axis=0)
    unit = (centre - low) / np.where(high > low, high - low, 1.0)
    if angle < 0:
        unit = 1 - unit
    quarter = np.pi / 4
    if abs(angle) < quarter:
        x, y = abs(angle) / quarter, 1.0
    else:
        x, y = float(np.sign(angle)), (np.pi / 2 - abs(angle)) / quarter
    result: NDArray[np.float64] = unit[:, 0] * x + unit[:, 1] * y
    return result


def _band_numbers(along: NDArray[np.float64], bands: int) -> NDArray[np.int64]:
    """Cut a line into equal pieces of which exactly ``bands`` are not empty; number those from 0."""
    ordered = np.sort(along)
    for k in np.linspace(0.1, 50, 10000):
        edges = np.arange(np.floor(ordered[-1] / (k / bands)) + 2) * (k / bands)
        filled = np.count_nonzero(np.diff(np.searchsorted(ordered, edges)))
        if abs(filled - bands) > 2:  # far cheaper than to number all tiles, and right to a place on an edge
            continue
        number = np.floor(along / (k / bands)).astype(np.int64)
        kinds, place = np.unique(number, return_inverse=True)
        if len(kinds) == bands:
            return place
    raise UsageError(f"the corpus cannot be cut into exactly {bands} bands: ask for fewer, or split by scene")


def merge(corpora: Sequence[Corpus], out: Store) -> tuple[Manifest, dict[str, str]]:
    """Join versions of equal pixels into one at ``out``; its shards stay where they are.

    Gives the manifest, whose index is stored at ``out``, and the places to mount. Raises ConflictError where the
    versions differ in what a pixel means, or share scenes or tiles. The order in which they are given does not matter.
    """
    corpora = sorted(corpora, key=lambda corpus: corpus.manifest.digest)
    first = corpora[0].manifest
    for other in corpora[1:]:
        _refuse_unlike(corpora[0], other)
    units = []
    for corpus in corpora:
        name = mount_name(corpus.manifest.digest)
        shards = [s.model_copy(update={"key": _mounted(name, s.key)}) for s in corpus.manifest.shards]
        units.append(UnitRows(shards, corpus.table))
    _refuse_same_scenes(corpora)
    joined = join_units(units)
    recipes = {c.manifest.recipe_digest: c.manifest.recipe for c in corpora}
    recipe: dict[str, Any] = first.recipe if len(recipes) == 1 else {"merged": [recipes[d] for d in sorted(recipes)]}
    manifest = Manifest(
        recipe=recipe,
        recipe_digest=first.recipe_digest if len(recipes) == 1 else digest(recipe),
        pixels_digest=first.pixels_digest,
        scale=first.scale,
        codec=first.codec,
        legend=first.legend,
        shards=tuple(joined.shards),
        index=put_index(out, joined.rows),
        sources=tuple(source for corpus in corpora for source in corpus.manifest.sources),
        tiles=sum(c.manifest.tiles for c in corpora),
        bytes=sum(c.manifest.bytes for c in corpora),
        lineage=Lineage(made_by="merge", parents=tuple(c.manifest.digest for c in corpora)),
    )
    return manifest, {mount_name(c.manifest.digest): c.store.url for c in corpora}


def _mounted(name: str, key: str) -> str:
    if re.match(r"@[0-9a-f]{16}/", key):
        raise UsageError(f"{key} is a shard of a merged corpus: copy that corpus first (shards copy), then merge")
    return f"{name}/{key}"


def _refuse_unlike(one: Corpus, other: Corpus) -> None:
    for what in ("pixels_digest", "scale", "codec", "legend"):
        a, b = getattr(one.manifest, what), getattr(other.manifest, what)
        if a != b:
            raise ConflictError(
                f"{one.store.url} and {other.store.url} differ in {what} ({a} and {b}): their tiles do not mean the "
                "same, or are not stored alike; build one of them again with the other's recipe"
            )


def _refuse_same_scenes(corpora: Sequence[Corpus]) -> None:
    owner: dict[str, str] = {}
    for corpus in corpora:
        for source in corpus.manifest.sources:
            if source.id in owner:
                raise ConflictError(
                    f"{owner[source.id]} and {corpus.store.url} both hold the scene {source.id}: leave it out of one "
                    f"(shards select --query \"scene <> '{source.id}'\")"
                )
            owner[source.id] = corpus.store.url
