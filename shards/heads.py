"""Which version of a corpus is the current one, and what other names versions have.

``heads/<n>.json`` names the n-th version that became current; it is put once, so of several writers exactly one takes
a number. ``manifest.json`` is a copy of that version for readers; where a version follows another within the same
moment, or a writer died before its last step, it may show the one before until the slower writer's last step or the
next publication, while ``heads/`` never goes back. ``tags/<name>.json`` gives a version a name.
"""

import json
import re
from typing import Any

from infra.errors import ConflictError, UsageError
from infra.record import canonical_json
from infra.store import AlreadyExists, NotFound, Store

_HEAD = re.compile(r"heads/(\d{8})\.json")
_TAG = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def head(store: Store) -> tuple[int, str | None]:
    """Give the number and digest of the version that became current last; (0, None) where none did."""
    last = ""
    for found in store.list("heads/"):
        if _HEAD.fullmatch(found.key):
            last = found.key
    if not last:
        return 0, None
    return int(last[6:14]), _digest_in(store, last)


def take_head(store: Store, number: int, digest: str, after: str | None) -> None:
    """Make a version the ``number``-th. Raises ConflictError where another one has that number already.

    Two writers that made the same version both succeed: there is nothing to choose between.
    """
    key = f"heads/{number:08d}.json"
    try:
        store.put_once(key, canonical_json({"digest": digest, "after": after}))
    except AlreadyExists as error:
        if _digest_in(store, key) == digest:
            return
        raise ConflictError(
            f"another version was published at {store.url} at the same moment ({key}): {digest[:16]} did not become "
            "the current one; run again, or publish to another place"
        ) from error


def set_tag(store: Store, name: str, digest: str, *, move: bool = False) -> None:
    """Name a version. Raises ConflictError where the name stands for another one and ``move`` is not given."""
    key = _tag_key(name)
    data = canonical_json({"digest": digest})
    try:
        store.put_once(key, data)
    except AlreadyExists as error:
        found = _digest_in(store, key)
        if found != digest and not move:
            raise ConflictError(
                f"{store.url}@{name} is {found[:16]} already: give --move to make it another"
            ) from error
        if found != digest:
            store.put(key, data)


def tags(store: Store) -> dict[str, str]:
    """Give all tags of a corpus with their digests."""
    found = (o.key for o in store.list("tags/"))
    return {key[5:-5]: _digest_in(store, key) for key in found if key.endswith(".json")}


def drop_tag(store: Store, name: str) -> None:
    """Forget a name; the version itself stays."""
    store.delete(_tag_key(name))


def resolve(store: Store, name: str) -> str:
    """Give the digest that a tag, or the first 8 or more digits of a digest, stands for. Raises UsageError."""
    if _TAG.fullmatch(name):
        try:
            return _digest_in(store, _tag_key(name))
        except NotFound:
            pass
    if re.fullmatch(r"[0-9a-f]{8,64}", name):
        found = [o.key[10:-5] for o in store.list(f"manifests/{name}")]
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(f"{store.url}@{name} fits {len(found)} versions: give more digits")
    known = ", ".join(sorted(tags(store))) or "none"
    raise UsageError(f"no version {name!r} of {store.url}: expected a tag (there are: {known}) or 8 digits of a digest")


def _tag_key(name: str) -> str:
    if not _TAG.fullmatch(name):
        raise UsageError(f"{name!r} is not a tag: expected a letter, then up to 63 of letters, digits, '.', '_', '-'")
    return f"tags/{name}.json"


def _digest_in(store: Store, key: str) -> str:
    try:
        record: Any = json.loads(store.get(key))
        digest = str(record["digest"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConflictError(f"{store.url}/{key} is damaged: expected the digest of a version ({error!r})") from error
    if not _DIGEST.fullmatch(digest):
        raise ConflictError(f"{store.url}/{key} is damaged: {digest[:80]!r} is not a digest")
    return digest
