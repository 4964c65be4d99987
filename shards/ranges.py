"""Bytes of shards, read each in the best way of the place where they lie."""

import functools
import os
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from infra.folder import FolderStore
from infra.memory import MemoryStore
from infra.store import Store
from shards.mounts import MountedStore

_OPEN_FILES = 256


class Ranges(Protocol):
    """Ranged reads of one store; safe to share between threads."""

    def __call__(self, key: str, start: int, length: int, *, fresh: bool = False) -> NDArray[np.uint8]:
        """Read bytes of an object; ``fresh`` asks the store again, past anything that was kept open."""
        ...


def ranges(store: Store) -> Ranges:
    """Give the best way of reading ranges of a store."""
    if isinstance(store, MountedStore):
        return _MountedRanges(store)
    return _FileRanges(store) if isinstance(store, FolderStore) else _StoreRanges(store)


def is_remote(store: Store) -> bool:
    """Tell whether reading waits for a network: mounts are of the kind of the corpus itself."""
    own = store.own if isinstance(store, MountedStore) else store
    return not isinstance(own, FolderStore | MemoryStore)


def retries_of(store: Store) -> int:
    """Give how often a store and those mounted in it have tried again so far."""
    stores = (store.own, *store.mounts.values()) if isinstance(store, MountedStore) else (store,)
    return sum(int(getattr(each, "retries", 0)) for each in stores)


class _MountedRanges:
    """Ranged reads of a corpus with others mounted in it, each in its own best way."""

    def __init__(self, store: MountedStore) -> None:
        self._own = ranges(store.own)
        self._mounted = {name: ranges(mounted) for name, mounted in store.mounts.items()}

    def __call__(self, key: str, start: int, length: int, *, fresh: bool = False) -> NDArray[np.uint8]:
        first, _, rest = key.partition("/")
        mounted = self._mounted.get(first)
        if mounted is None:
            return self._own(key, start, length, fresh=fresh)
        return mounted(rest, start, length, fresh=fresh)


class _StoreRanges:
    def __init__(self, store: Store) -> None:
        self._store = store

    def __call__(self, key: str, start: int, length: int, *, fresh: bool = False) -> NDArray[np.uint8]:
        return np.frombuffer(self._store.get_range(key, start, length), np.uint8)


class _FileRanges:
    """Ranged reads of a folder's files without a copy: straight into the array that the tile will use."""

    # Not mmap: a file cut short under a mapping ends the process by SIGBUS, a short read can be named.
    def __init__(self, store: FolderStore) -> None:
        self._store = store
        self._open = functools.lru_cache(maxsize=_OPEN_FILES)(_File)

    def __call__(self, key: str, start: int, length: int, *, fresh: bool = False) -> NDArray[np.uint8]:
        data = np.empty(length, np.uint8)
        found = -1
        if not fresh:
            try:
                file = self._open(self._store.root / key)  # held by name: else it could be closed before it is read
                found = os.preadv(file.descriptor, [data.data], start)
            except OSError:
                found = -1
        if found != length:  # the store reads again, or says what is wrong
            return np.frombuffer(self._store.get_range(key, start, length), np.uint8)
        return data


class _File:
    """An open file, closed when the last reader lets go of it."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if (descriptor := getattr(self, "descriptor", None)) is not None:
            os.close(descriptor)
