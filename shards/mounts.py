"""Shards that lie in other corpora: a merged corpus names them by digest, and says apart from that where they are.

``mounts.json`` at the root of a corpus maps the first 16 digits of a version's digest to the corpus that holds it. A
key ``@<digits>/shards/...`` is then read from there. Places are no part of a manifest: moving a corpus changes no
digest. Where a key is not mounted it is an object of the corpus itself, which is what ``shards copy`` makes.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from infra.errors import UsageError
from infra.record import canonical_json
from infra.store import NotFound, ObjectInfo, Store, open_store

KEY = "mounts.json"
_NAME = re.compile(r"@[0-9a-f]{16}")


@dataclass(frozen=True)
class MountedStore:
    """A corpus's store with others mounted in it; writes only ever go to its own objects."""

    own: Store
    mounts: Mapping[str, Store]

    @property
    def url(self) -> str:
        """The URL of the corpus itself."""
        return self.own.url

    def home(self, key: str) -> tuple[Store, str]:
        """Give the store in which a key lies, and its key there."""
        first, _, rest = key.partition("/")
        mounted = self.mounts.get(first)
        return (self.own, key) if mounted is None else (mounted, rest)

    def put(self, key: str, data: bytes) -> None:
        """Store an object of the corpus itself."""
        self._own_only(key).put(key, data)

    def put_once(self, key: str, data: bytes) -> None:
        """Store an object of the corpus itself if its key is free."""
        self._own_only(key).put_once(key, data)

    def get(self, key: str) -> bytes:
        """Read a whole object."""
        store, key = self.home(key)
        return store.get(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Read bytes of an object."""
        store, key = self.home(key)
        return store.get_range(key, start, length)

    def info(self, key: str) -> ObjectInfo:
        """Look up an object."""
        store, inner = self.home(key)
        return ObjectInfo(key, store.info(inner).size)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Go through the objects under a prefix; mounted ones only where the prefix names their mount."""
        store, inner = self.home(prefix)
        if store is self.own:
            return store.list(prefix)
        mount = prefix.partition("/")[0]
        return (ObjectInfo(f"{mount}/{found.key}", found.size) for found in store.list(inner))

    def delete(self, key: str) -> None:
        """Remove an object of the corpus itself."""
        self._own_only(key).delete(key)

    def _own_only(self, key: str) -> Store:
        if self.home(key)[0] is not self.own:
            raise UsageError(f"{key} of {self.url} belongs to another corpus, which is not written through this one")
        return self.own


def mount_name(digest: str) -> str:
    """Give the name under which a version's shards are mounted."""
    return f"@{digest[:16]}"


def write_mounts(store: Store, places: Mapping[str, str]) -> None:
    """Say where mounted corpora are, in addition to what was said before."""
    store.put(KEY, canonical_json({**_read(store), **places}))


def with_mounts(store: Store) -> Store:
    """Give the store with its mounts, or as it is where it has none. Raises UsageError for one that may not be.

    A mount has to be of the same kind of place as the corpus (bucket or folder): a corpus from elsewhere cannot make
    its reader open other kinds.
    """
    places = _read(store)
    if not places:
        return store
    kind = store.url.partition("://")[0]
    for name, url in places.items():
        if not _NAME.fullmatch(name) or url.partition("://")[0] != kind:
            raise UsageError(f"{store.url}/{KEY} mounts {name} from {url}: only other {kind}:// places can be mounted")
    return MountedStore(store, {name: open_store(url) for name, url in places.items()})


def _read(store: Store) -> dict[str, str]:
    try:
        places = json.loads(store.get(KEY))
    except NotFound:
        return {}
    except ValueError as error:
        raise UsageError(f"{store.url}/{KEY} is damaged: {error}") from error
    if not isinstance(places, dict) or not all(isinstance(url, str) for url in places.values()):
        raise UsageError(f"{store.url}/{KEY} is damaged: expected names and URLs")
    return places
