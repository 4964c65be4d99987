"""What lies in a corpus's place: copies of versions, and what no version needs any more."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from infra.errors import SarsenseError
from infra.record import canonical_json, sha256
from infra.store import Corrupt, NotFound, Store
from shards.heads import head, tags
from shards.manifest import ANY, Manifest, add_version, parse, publish, version_key

_MARKS = "garbage.json"


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy did: objects and bytes moved, and objects that were there already."""

    digest: str
    objects: int
    bytes: int
    there: int


def copy_version(
    source: Store,
    manifest: Manifest,
    target: Store,
    *,
    current: bool = True,
    threads: int = 4,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Copied:
    """Copy a version with all it names to another place, checked on the way; a second call takes up what is left.

    Mounted shards become objects of the copy, so it stands alone. With ``current`` the copy becomes the target's
    current version. Raises SarsenseError where an object of the source is damaged.
    """
    parts = [(s.key, s.sha256, s.bytes) for s in manifest.shards] + [(p.key, p.sha256, p.bytes) for p in manifest.index]

    def one(part: tuple[str, str, int]) -> int:
        key, digest, size = part
        if _size(target, key) == size and sha256(target.get(key)) == digest:
            return 0
        data = source.get(key)
        if len(data) != size or sha256(data) != digest:
            raise SarsenseError(
                f"{source.url}/{key} is damaged: it is not what the manifest says; nothing was published"
            )
        target.put(key, data)
        return size

    moved: list[int] = []
    with ThreadPoolExecutor(threads) as pool:
        for size in pool.map(one, parts):
            moved.append(size)
            progress(len(moved), len(parts))
    if current:
        publish(target, manifest, ANY)
    else:
        add_version(target, manifest)
    count = sum(size > 0 for size in moved)
    return Copied(manifest.digest, count, sum(moved), len(parts) - count)


def _size(store: Store, key: str) -> int:
    try:
        return store.info(key).size
    except NotFound:
        return -1


@dataclass(frozen=True, slots=True)
class Garbage:
    """What could be deleted: ``versions`` (digests) that nothing names, and ``objects`` (key, bytes) nobody needs."""

    versions: tuple[str, ...]
    objects: tuple[tuple[str, int], ...]

    @property
    def bytes(self) -> int:
        """How much room the objects take."""
        return sum(size for _, size in self.objects)


def garbage(store: Store, *, versions: bool = False, unfinished: bool = False) -> Garbage:
    """Find what no version needs; nothing is deleted.

    Kept are all objects that any version under ``manifests/`` names. With ``versions``, versions count only where
    they are the current one, have a tag, or are ancestors of one that counts; the others become garbage with what
    only they name. Shards of units that were built but never published are kept for the build that takes them up,
    unless ``unfinished``. Raises SarsenseError for a version that cannot be read: what it needs is then unknown.
    """
    known = {o.key[10:-5]: _read(store, o.key) for o in store.list("manifests/") if o.key.endswith(".json")}
    kept = _kept(store, known) if versions else set(known)
    needed = {key for digest in kept for key in _named(known[digest])}
    if not unfinished:
        needed |= set(_unit_keys(store))
    objects = [(o.key, o.size) for folder in ("shards/", "index/") for o in store.list(folder) if o.key not in needed]
    dropped = tuple(sorted(set(known) - kept))
    records = [(version_key(digest), store.info(version_key(digest)).size) for digest in dropped]
    return Garbage(dropped, (*records, *objects))  # versions first: none may outlive its shards


def mark(store: Store, found: Garbage, now: float) -> None:
    """Remember what was garbage at a time (seconds since 1970), for a later :func:`sweep`."""
    marked = _marked(store)
    store.put(_MARKS, canonical_json({key: marked.get(key, now) for key, _ in found.objects}))


def sweep(store: Store, found: Garbage, now: float, after_s: float) -> Garbage:
    """Delete what is garbage and was marked as such at least ``after_s`` ago; give what was deleted.

    A running build has shards that no version names yet: an object is young garbage, and no store tells its age. So
    only what was garbage at two times, far enough apart for every build to have ended or begun anew, is deleted.
    """
    marked = _marked(store)
    old = tuple((key, size) for key, size in found.objects if marked.get(key, now) <= now - after_s)
    for key, _ in old:
        store.delete(key)
    gone = {key for key, _ in old}
    return Garbage(tuple(d for d in found.versions if version_key(d) in gone), old)


def _marked(store: Store) -> dict[str, float]:
    try:
        found: Any = json.loads(store.get(_MARKS))
        return {str(key): float(time) for key, time in found.items()}
    except (NotFound, ValueError, AttributeError, TypeError):
        return {}


def _kept(store: Store, known: dict[str, Manifest]) -> set[str]:
    current = head(store)[1]
    waiting = {digest for digest in (current, *tags(store).values()) if digest in known}
    if not waiting:
        return set(known)
    kept: set[str] = set()
    while waiting:
        digest = waiting.pop()
        kept.add(digest)
        lineage = known[digest].lineage
        waiting |= {p for p in (lineage.parents if lineage else ()) if p in known and p not in kept}
    return kept


def _read(store: Store, key: str) -> Manifest:
    manifest = parse(store.get(key), f"{store.url}/{key}")
    if version_key(manifest.digest) != key:
        raise SarsenseError(f"{store.url}/{key} is damaged: what it needs is unknown, so nothing is called garbage")
    return manifest


def _named(manifest: Manifest) -> Iterator[str]:
    yield from (shard.key for shard in manifest.shards)
    yield from (part.key for part in manifest.index)


def _unit_keys(store: Store) -> Iterator[str]:
    """Give the shards of units that were finished, published or not."""
    for found in store.list("units/"):
        if found.key.endswith(".json"):
            try:
                record: Any = json.loads(store.get(found.key))
                yield from (str(shard["key"]) for shard in record["shards"])
            except (NotFound, Corrupt, ValueError, KeyError, TypeError):
                continue
