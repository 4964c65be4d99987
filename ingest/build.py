"""``ingest build-sarsense``: every unit of a catalog becomes shards, and all of them one manifest."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import pyarrow as pa

from infra.cluster import each, session
from infra.errors import ConflictError, ResourceError, SarsenseError, UsageError
from infra.record import canonical_json
from infra.store import Store, open_store
from ingest.catalog import Catalog, Unit
from ingest.duplicates import Copies, find_copies
from ingest.geocode import check_grid
from ingest.land import open_land
from ingest.quarantine import Reject, TooManyFailures, failures_allowed, unexpected, write_quarantine
from ingest.recipe import Recipe
from ingest.report import build_report
from ingest.work import Work, build_unit, read_rows
from shards.index import UnitRows, join_units, put_index
from shards.manifest import Manifest, Shard, Source, current_digest, publish


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a build left behind: the manifest's digest (None where nothing could be stored) and what was set aside.

    ``rejects`` could not be used; ``left_out`` are good scenes that the corpus does without: copies of others, and
    those of which the recipe wants no tile.
    """

    digest: str | None
    tiles: int
    units: int
    resumed: int
    rejects: tuple[Reject, ...]
    left_out: tuple[Reject, ...]


@dataclass(slots=True)
class _Progress:
    """What is done so far, told and held against the limit of rejects."""

    tell: Callable[[int, int, int], None]
    allowed: int | None
    rejects: list[Reject]
    records: list[dict[str, Any]] = field(default_factory=list)
    tiles: int = 0

    def add(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        self.rejects.extend(record["rejects"])
        self.tiles += sum(shard["tiles"] for shard in record["shards"])
        self.tell(len(self.records), self.tiles, len(self.rejects))
        self.check()

    def check(self) -> None:
        if self.allowed is not None and len(self.rejects) > self.allowed:
            last = self.rejects[-1]
            raise TooManyFailures(
                f"{len(self.rejects)} sources were rejected, more than the {self.allowed} allowed; nothing was"
                f" published, and what is done is taken up by the next run. The last one: {last['reason']}"
            )


def build(
    catalog: Catalog,
    out: str,
    recipe: Recipe,
    *,
    address: str | None = None,
    workers: int | None = None,
    max_failures: str | None = None,
    progress: Callable[[int, int, int], None] = lambda done, tiles, rejects: None,
) -> Outcome:
    """Build a corpus at the URL ``out``; a second call takes up what an interrupted one left.

    ``workers`` limits how many units are done at once (default: the cluster's CPUs). ``progress`` is told how many
    units are done, tiles stored and sources rejected. Raises a storage error before any work where ``out`` cannot be
    written, ConflictError where another build published there meanwhile, of which nothing is then changed; a rejected
    source never stops the others, unless there are more than ``max_failures`` ("20", "5%"): then TooManyFailures, and
    nothing is published. SIGTERM ends it as Ctrl-C does, by KeyboardInterrupt.
    """
    if out.startswith("memory:"):
        raise UsageError(f"--out {out}: workers are other processes and do not share memory; give a folder or S3")
    if recipe.tiles.land is not None:
        open_land(recipe.tiles.land)  # a file that cannot be used is the user's fault, not that of every scene
    check_grid(recipe.grid)
    listed = sum(len(unit.sources) for unit in catalog.units) + len(catalog.rejects)
    allowed = None if max_failures is None else failures_allowed(max_failures, listed)
    store = open_store(out)
    before = current_digest(store)
    store.put(f"recipes/{recipe.digest}.json", canonical_json(recipe.model_dump(mode="json")))
    rejects = [
        {"source": name, "stage": "catalog", "kind": "SceneRejected", "reason": why} for name, why in catalog.rejects
    ]
    so_far = _Progress(progress, allowed, rejects)
    try:
        so_far.check()
        with session(address, workers) as cpus, _stoppable(so_far, len(catalog.units)):
            slots = max(1, min(workers or cpus, cpus))
            copies = find_copies(catalog.units, recipe.pixels, slots)
            _run(catalog.units, copies, recipe, store, slots, so_far)
            return _finish(catalog, copies, recipe, store, before, so_far)
    except TooManyFailures:
        write_quarantine(store, rejects, forget=False)
        raise


@contextmanager
def _stoppable(so_far: _Progress, units: int) -> Iterator[None]:
    """Let SIGTERM stop the work as Ctrl-C does, with a word on what is done; a second one ends the process at once.

    To be entered after a session is open: Ray takes the signal for itself then.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return

    def stop(number: int, frame: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt as error:
        done = f"{len(so_far.records)} of {units} units are done and stay; run the same command again for the others"
        raise KeyboardInterrupt(done) from error
    finally:
        if signal.getsignal(signal.SIGTERM) is stop:  # else it came, and another one must not wait for what is left
            signal.signal(signal.SIGTERM, before)


def _finish(
    catalog: Catalog, copies: Copies, recipe: Recipe, store: Store, before: str | None, so_far: _Progress
) -> Outcome:
    """Publish what was done. What else lies in the corpus's place follows: it belongs to the build that published."""
    records, rejects = so_far.records, sorted(so_far.rejects, key=lambda reject: (reject["source"], reject["stage"]))
    left_out = _left_out(copies, records)
    rows, manifest = _assemble(store, recipe, catalog, records)
    digest = None
    if manifest:
        report = build_report(store, manifest, rows, records, rejects, left_out)
        _refuse_other(store, before, manifest)
        digest = publish(store, manifest, after=before)
        if current_digest(store) == digest:  # else the next build was faster than this line
            store.put("report.html", report)
    write_quarantine(store, rejects, forget=True)
    resumed = sum(bool(record.get("resumed")) for record in records)
    tiles = manifest.tiles if manifest else 0
    return Outcome(digest, tiles, len(records), resumed, tuple(rejects), tuple(left_out))


def _run(units: Sequence[Unit], copies: Copies, recipe: Recipe, store: Store, slots: int, so_far: _Progress) -> None:
    """Do all units but needless copies; where a copy turns out to be bad, the next one takes its place."""
    by_name = {unit.name: unit for unit in units}
    waiting = [unit for unit in units if unit.name not in copies.needless()]
    failed: set[str] = set()
    while waiting:
        items = [Work(unit, store.url, recipe) for unit in waiting]
        for done in each(build_unit, items, slots=slots):
            if isinstance(done.error, SarsenseError):
                raise done.error  # storage, configuration: not the scene's fault
            record = done.value if done.value is not None else _failed(done.item.unit, done.error)
            if record["rejects"]:
                failed.add(record["unit"])
            so_far.add(record)
        tried = {record["unit"] for record in so_far.records}
        waiting = [by_name[name] for name in sorted(copies.instead_of(failed) - tried)]


def _left_out(copies: Copies, records: Sequence[dict[str, Any]]) -> list[Reject]:
    done = {record["unit"] for record in records if not record["rejects"]}
    left_out = [*copies.dropped(done), *(entry for record in records for entry in record.get("left_out", ()))]
    return sorted(left_out, key=lambda entry: (entry["stage"], entry["source"]))


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


def _assemble(
    store: Store, recipe: Recipe, catalog: Catalog, records: Sequence[dict[str, Any]]
) -> tuple[pa.Table, Manifest | None]:
    """Make index and manifest, in the order of unit names whatever the order of their ending."""
    good = sorted((record for record in records if record["shards"]), key=lambda record: str(record["unit"]))
    joined = join_units([_unit_rows(store, record) for record in good])
    if not good:
        return joined.rows, None
    sources = tuple(Source.model_validate(source) for record in good for source in record["sources"])
    _refuse_twins(sources)
    return joined.rows, Manifest(
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
