"""A corpus open for reading: any tile by its number, checked before it is used."""

import functools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, Self

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.errors import SarsenseError, UsageError
from infra.folder import FolderStore
from infra.store import Corrupt, NotFound, Store
from shards.codec import RESERVED, CodecError, decode_pixels
from shards.index import OPTIONAL, read_index
from shards.manifest import Manifest, read_manifest
from shards.mounts import MountedStore
from shards.tile import DbScale, Tile

_OPEN_FILES = 256


class ShardCorrupt(SarsenseError):
    """A shard does not hold what the index says: corpus, shard, tile, offset and finding are in the message."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The numbers of the patch index as arrays, one element per tile; meanings as in shards.index.SCHEMA."""

    shard: NDArray[np.int32]
    bands: NDArray[np.int32]
    rows: NDArray[np.int32]
    cols: NDArray[np.int32]
    window_row: NDArray[np.int64]
    window_col: NDArray[np.int64]
    window_rows: NDArray[np.int64]
    window_cols: NDArray[np.int64]
    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    crc32c: NDArray[np.uint32]
    label_offset: NDArray[np.int64]
    label_length: NDArray[np.int64]
    label_crc32c: NDArray[np.uint32]
    meta_offset: NDArray[np.int64]
    meta_length: NDArray[np.int64]
    meta_crc32c: NDArray[np.uint32]
    valid_share: NDArray[np.float64]

    @classmethod
    def of(cls, table: pa.Table) -> Self:
        """Take the numeric columns of an index table."""
        return cls(**{field.name: table[field.name].to_numpy() for field in fields(cls)})


class Corpus:
    """The tiles of one manifest, numbered from 0 in the order of its index. Safe to share between threads."""

    def __init__(self, store: Store, manifest: Manifest, table: pa.Table) -> None:
        self.store = store
        self.manifest = manifest
        self.table = table
        self.rows = Rows.of(table)
        self._keys = _chunk(table["key"])
        self._read = _ranges(store)

    @classmethod
    def open(cls, url: str) -> Self:
        """Open a corpus by its root or by one version's manifest; manifest and index are checked."""
        store, manifest = read_manifest(url)
        return cls(store, manifest, read_index(store, manifest))

    def __len__(self) -> int:
        return len(self.rows.shard)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.store, self.manifest, self.table))

    @property
    def scale(self) -> DbScale:
        """How the codes of the tiles become decibels."""
        return self.manifest.scale

    def key(self, i: int) -> str:
        """Give the key of a tile."""
        return str(self._keys[i])

    def shape(self, i: int) -> tuple[int, int, int]:
        """Give (bands, rows, cols) of a tile."""
        return int(self.rows.bands[i]), int(self.rows.rows[i]), int(self.rows.cols[i])

    def tile_meta(self, i: int) -> "TileMeta":
        """Give what the index knows of a tile, without reading its shard."""
        return TileMeta(self, i)

    def find(self, key: str) -> int:
        """Give the number of the tile with this key. Raises UsageError where there is none."""
        if (i := pc.index(self._keys, key).as_py()) < 0:
            raise UsageError(f"no tile {key!r} in {self.store.url}")
        return int(i)

    def tile(self, i: int, *, out: NDArray[np.uint16] | None = None, full_meta: bool = False) -> Tile:
        """Read a tile in one ranged read; CRC32C is checked before anything is decoded.

        Pixels are decoded into ``out`` (bands, rows, cols) if given. ``meta`` comes from the index; with
        ``full_meta`` it is all that the tile's JSON holds. Raises ShardCorrupt.
        """
        rows = self.rows
        span = self._span(i, full_meta)
        shape = self.shape(i)
        pixels = self._checked(i, span, rows.offset, rows.length, rows.crc32c)
        label, meta = None, None
        try:
            pixels = decode_pixels(pixels, self.manifest.codec, shape, "<u2", out)
            if rows.label_offset[i] >= 0:
                stored = self._checked(i, span, rows.label_offset, rows.label_length, rows.label_crc32c)
                label = decode_pixels(stored, "npy", shape[1:], "|u1")
        except CodecError as error:
            raise self._corrupt(i, int(rows.offset[i]), str(error)) from error
        if full_meta:
            meta = _plain(self._checked(i, span, rows.meta_offset, rows.meta_length, rows.meta_crc32c))
        return Tile(self.key(i), pixels, self.tile_meta(i) if meta is None else meta, label)

    def shard_counts(self, tiles: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Give the number of tiles per shard, of all or of the given (sorted) tile numbers."""
        shard = self.rows.shard if tiles is None else self.rows.shard[tiles]
        return np.bincount(shard, minlength=len(self.manifest.shards)).astype(np.int64)

    def weights(self) -> NDArray[np.float64] | None:
        """Give how often per epoch each tile is to be read, or None where all are read once."""
        known = {source.id: source.weight for source in self.manifest.sources if source.weight is not None}
        if not known:
            return None
        scenes = self.table["scene"].combine_chunks()
        of_scene = np.array([known.get(name, 1.0) for name in scenes.dictionary.to_pylist()])
        weights: NDArray[np.float64] = of_scene[np.asarray(scenes.indices)]
        return weights

    def select(
        self,
        *,
        scenes: Iterable[str] | None = None,
        sensors: Iterable[str] | None = None,
        labelled: bool = False,
    ) -> NDArray[np.int64]:
        """Give the sorted numbers of the tiles of these scenes and sensors, or only of those with a label.

        Raises UsageError for a scene or sensor that the corpus does not have.
        """
        chosen = self.rows.label_offset >= 0 if labelled else np.ones(len(self), dtype=bool)
        for column, names in (("scene", scenes), ("sensor", sensors)):
            if names is not None:
                chosen = chosen & self._is_in(column, sorted(set(names)))
        return np.flatnonzero(chosen)

    def _is_in(self, column: str, names: list[str]) -> NDArray[np.bool_]:
        known = pc.unique(self.table[column]).to_pylist()
        if unknown := [name for name in names if name not in known]:
            raise UsageError(f"{self.store.url} has no {column} {unknown[0]!r}; it has e.g. {sorted(known)[:5]}")
        found: NDArray[np.bool_] = pc.is_in(self.table[column], pa.array(names, pa.string())).to_numpy()
        return found

    def _span(self, i: int, full_meta: bool) -> tuple[int, NDArray[np.uint8]]:
        """Read what is wanted of a tile, its members lie together: start in the shard, bytes."""
        rows, start = self.rows, int(self.rows.offset[i])
        end = start + int(rows.length[i])
        if rows.label_offset[i] >= 0:
            end = int(rows.label_offset[i] + rows.label_length[i])
        if full_meta:
            end = int(rows.meta_offset[i] + rows.meta_length[i])
        try:
            return start, self._read(self.manifest.shards[rows.shard[i]].key, start, end - start)
        except (NotFound, Corrupt) as error:
            raise self._corrupt(i, start, f"{end - start} bytes could not be read: {error}") from error

    def _checked(
        self,
        i: int,
        span: tuple[int, NDArray[np.uint8]],
        offset: NDArray[np.int64],
        length: NDArray[np.int64],
        crc32c: NDArray[np.uint32],
    ) -> NDArray[Any]:
        start, data = span
        first = int(offset[i]) - start
        member = data[first : first + int(length[i])]
        if (found := google_crc32c.value(member)) != (expected := int(crc32c[i])):
            raise self._corrupt(i, int(offset[i]), f"expected CRC32C {expected:08x}, found {found:08x}")
        return member

    def _corrupt(self, i: int, offset: int, finding: str) -> ShardCorrupt:
        shard = self.manifest.shards[self.rows.shard[i]].key
        return ShardCorrupt(
            f"{self.store.url}: shard {shard}, tile {self.key(i)}, offset {offset}: {finding}; "
            f"restore the shard (`shards verify {self.store.url} --deep` names all that are bad)"
        )


class TileMeta(Mapping[str, Any]):
    """What the index knows of a tile, looked up only when asked for: the keys that every tile has, and more.

    The further keys, shards.index.OPTIONAL, are None where the tile's own meta lacks them.
    """

    __slots__ = ("_corpus", "_i")

    def __init__(self, corpus: Corpus, i: int) -> None:
        self._corpus = corpus
        self._i = i

    def __getitem__(self, name: str) -> Any:
        if name not in _META:
            raise KeyError(f"{name!r} is not in the index; corpus.tile(i, full_meta=True) reads all")
        if name == "window":
            return [
                int(getattr(self._corpus.rows, f"window_{side}")[self._i]) for side in ("row", "col", "rows", "cols")
            ]
        value = self._corpus.table[name][self._i].as_py()
        if name == "footprint" and value is not None:
            return [value[k : k + 2] for k in range(0, len(value), 2)]
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(_META)

    def __len__(self) -> int:
        return len(_META)

    def __reduce__(self) -> tuple[Any, ...]:
        return (dict, (dict(self),))  # without the corpus behind it


_META = ("scene", "sensor", "polarisations", "window", "footprint", "time", "valid_share", "mean_db", *OPTIONAL)


class _Ranges(Protocol):
    def __call__(self, key: str, start: int, length: int) -> NDArray[np.uint8]: ...


def _ranges(store: Store) -> _Ranges:
    if isinstance(store, MountedStore):
        return _MountedRanges(store)
    return _FileRanges(store) if isinstance(store, FolderStore) else _StoreRanges(store)


class _MountedRanges:
    """Ranged reads of a corpus with others mounted in it, each in its own best way."""

    def __init__(self, store: MountedStore) -> None:
        self._own = _ranges(store.own)
        self._mounted = {name: _ranges(mounted) for name, mounted in store.mounts.items()}

    def __call__(self, key: str, start: int, length: int) -> NDArray[np.uint8]:
        first, _, rest = key.partition("/")
        mounted = self._mounted.get(first)
        return self._own(key, start, length) if mounted is None else mounted(rest, start, length)


class _StoreRanges:
    def __init__(self, store: Store) -> None:
        self._store = store

    def __call__(self, key: str, start: int, length: int) -> NDArray[np.uint8]:
        return np.frombuffer(self._store.get_range(key, start, length), np.uint8)


class _FileRanges:
    """Ranged reads of a folder's files without a copy: straight into the array that the tile will use."""

    # Not mmap: a file cut short under a mapping ends the process by SIGBUS, a short read can be named.
    def __init__(self, store: FolderStore) -> None:
        self._store = store
        self._open = functools.lru_cache(maxsize=_OPEN_FILES)(_File)

    def __call__(self, key: str, start: int, length: int) -> NDArray[np.uint8]:
        data = np.empty(length, np.uint8)
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


def _plain(data: NDArray[np.uint8]) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads(data.tobytes())
    return {name: value for name, value in meta.items() if name not in RESERVED}


def _chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks()
