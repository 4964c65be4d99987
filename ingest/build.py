"""``ingest build-sarsense``: every unit of a catalog becomes shards, and all of them one manifest."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from infra.cluster import each, session
from infra.errors import ConflictError, ResourceError, SarsenseError, UsageError
from infra.record import canonical_json, sha256
from infra.store import Store, open_store
from ingest.catalog import Catalog, Unit
from ingest.recipe import Recipe
from ingest.report import build_report
from ingest.work import Work, build_unit, read_rows, unexpected
from shards.index import UnitRows, join_units, put_index
from shards.manifest import Manifest, Shard, Source, current_digest, publish


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a build left behind: the manifest's digest (None where nothing could be stored) and what was set aside."""

    digest: str | None
    tiles: int
    units: int
    resumed: int
    rejects: tuple[dict[str, str], ...]


def build(
    catalog: Catalog,
    out: str,
    recipe: Recipe,
    *,
    address: str | None = None,
    workers: int | None = None,
    progress: Callable[[int, int, int], None] = lambda done, tiles, rejects: None,
) -> Outcome:
    """Build a corpus at the URL ``out``; a second call takes up what an interrupted one left.

    ``workers`` limits how many units are done at once (default: the cluster's CPUs). ``progress`` is told how many
    units are done, tiles stored and sources rejected. Raises a storage error before any work where ``out`` cannot be
    written, ConflictError where another build published there meanwhile; a rejected source never stops the others.
    """
    if out.startswith("memory:"):
        raise UsageError(f"--out {out}: workers are other processes and do not share memory; give a folder or S3")
    store = open_store(out)
    before = current_digest(store)
    store.put(f"recipes/{recipe.digest}.json", canonical_json(recipe.model_dump(mode="json")))
    records: list[dict[str, Any]] = []
    rejects = [
        {"source": name, "stage": "catalog", "kind": "SceneRejected", "reason": why} for name, why in catalog.rejects
    ]
    tiles = 0
    with session(address, workers) as cpus:
        items = [Work(unit, store.url, recipe) for unit in catalog.units]
        for done in each(build_unit, items, slots=max(1, min(workers or cpus, cpus))):
            if isinstance(done.error, SarsenseError):
                raise done.error  # storage, configuration: not the scene's fault
            record = done.value if done.value is not None else _failed(done.item.unit, done.error)
            records.append(record)
            rejects.extend(record["rejects"])
            tiles += sum(shard["tiles"] for shard in record["shards"])
            progress(len(records), tiles, len(rejects))
    rejects.sort(key=lambda reject: (reject["source"], reject["stage"]))
    _quarantine(store, rejects)
    manifest = _assemble(store, recipe, catalog, records)
    digest = None
    if manifest:
        report = build_report(store, manifest, records, rejects)
        _refuse_other(store, before, manifest)
        store.put("report.html", report)
        digest = publish(store, manifest)
    resumed = sum(bool(record.get("resumed")) for record in records)
    return Outcome(digest, manifest.tiles if manifest else 0, len(records), resumed, tuple(rejects))


def _refuse_other(store: Store, before: str | None, manifest: Manifest) -> None:
    now = current_digest(store)
    if now not in (before, manifest.digest):
        raise ConflictError(
            f"another build published {str(now)[:16]} at {store.url} while this one made {manifest.digest[:16]};"
            " nothing of it was changed: run again, or build to another place"
        )


def _failed(unit: Unit, error: Exception | None) -> dict[str, Any]:
    reject = unexpected(unit, error or ResourceError("the worker gave no result"))
    return {"unit": unit.name, "shards": [], "sources": [], "rejects": [reject]}


def _quarantine(store: Store, rejects: Iterable[dict[str, str]]) -> None:
    """Write down each reject, and take back those of earlier runs that are good now."""
    keep = set()
    for reject in rejects:
        key = f"quarantine/{sha256(canonical_json([reject['source'], reject['stage']]))[:16]}.json"
        keep.add(key)
        store.put(key, canonical_json(reject))
    for old in list(store.list("quarantine/")):
        if old.key not in keep:
            store.delete(old.key)


def _assemble(store: Store, recipe: Recipe, catalog: Catalog, records: Sequence[dict[str, Any]]) -> Manifest | None:
    """Make the manifest, in the order of unit names whatever the order of their ending."""
    good = sorted((record for record in records if record["shards"]), key=lambda record: str(record["unit"]))
    if not good:
        return None
    joined = join_units([_unit_rows(store, record) for record in good])
    sources = tuple(Source.model_validate(source) for record in good for source in record["sources"])
    _refuse_twins(sources)
    return Manifest(
        format="sarsense-manifest-1",
        recipe=recipe.model_dump(mode="json"),
        recipe_digest=recipe.digest,
        pixels_digest=recipe.pixels_digest,
        scale=recipe.pixels.scale,
        codec=recipe.shards.codec,
        legend=dict(catalog.legend) if catalog.legend else None,
        shards=tuple(joined.shards),
        index=put_index(store, joined.rows),
        sources=sources,
        tiles=sum(shard.tiles for shard in joined.shards),
        bytes=sum(shard.bytes for shard in joined.shards),
    )


def _unit_rows(store: Store, record: dict[str, Any]) -> UnitRows:
    return UnitRows([Shard.model_validate(shard) for shard in record["shards"]], read_rows(store, record["name"]))


def _refuse_twins(sources: Sequence[Source]) -> None:
    seen: dict[str, int] = {}
    for source in sources:
        seen[source.id] = seen.get(source.id, 0) + 1
    twins = sorted(name for name, count in seen.items() if count > 1)
    if twins:
        raise ConflictError(f"two sources have the same name, which would mix up their tiles: {', '.join(twins[:5])}")


def log_rejects(rejects: Sequence[dict[str, str]], limit: int = 20) -> None:
    """Tell on stderr what was set aside and why."""
    for reject in rejects[:limit]:
        sys.stderr.write(f"  rejected {reject['source']} ({reject['stage']}): {reject['reason']}\n")
    if len(rejects) > limit:
        sys.stderr.write(f"  and {len(rejects) - limit} more, all in quarantine/\n")
