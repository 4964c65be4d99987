"""A corpus open for reading: any tile by its number, checked before it is used."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.errors import UsageError
from infra.store import Store
from shards.cache import SpanCache
from shards.codec import RESERVED, CodecError, decode_pixels
from shards.index import OPTIONAL, read_index
from shards.manifest import Manifest, read_manifest
from shards.ranges import is_remote, retries_of
from shards.spans import Rows, ShardCorrupt, Spans, Stored
from shards.tile import DbScale, Tile

__all__ = ["Corpus", "ShardCorrupt", "Stored", "TileMeta"]


class Corpus:
    """The tiles of one manifest, numbered from 0 in the order of its index. Safe to share between threads.

    What is read from a remote store is kept in ``cache`` if there is one. ``spans`` reads without decoding.
    """

    def __init__(self, store: Store, manifest: Manifest, table: pa.Table, cache: SpanCache | None = None) -> None:
        self.store = store
        self.remote = is_remote(store)
        self.manifest = manifest
        self.table = table
        self.rows = Rows.of(table)
        self._keys = _chunk(table["key"])
        self.spans = Spans(store, manifest, self.rows, self._keys, cache if self.remote else None)

    @classmethod
    def open(cls, url: str, cache: SpanCache | None = None) -> Self:
        """Open a corpus by its root or by one version's manifest; manifest and index are checked."""
        store, manifest = read_manifest(url)
        return cls(store, manifest, read_index(store, manifest), cache)

    def __len__(self) -> int:
        return len(self.rows.shard)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.store, self.manifest, self.table, self.spans.cache))

    @property
    def retries(self) -> int:
        """How often the store has tried again so far, in this process."""
        return retries_of(self.store)

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
        ``full_meta`` it is all that the tile's JSON holds. Bytes that are bad are read once more.
        Raises ShardCorrupt.
        """
        return self.decode(i, self.spans.stored(i, full_meta), out=out, full_meta=full_meta)

    def decode(self, i: int, stored: Stored, *, out: NDArray[np.uint16] | None = None, full_meta: bool = False) -> Tile:
        """Make the tile of what is stored of it; see :meth:`tile`. Raises ShardCorrupt."""
        rows, shape = self.rows, self.shape(i)
        label, meta = None, None
        try:
            member = stored.member(rows.offset[i], rows.length[i])
            pixels = decode_pixels(member, self.manifest.codec, shape, "<u2", out)
            if rows.label_offset[i] >= 0:
                member = stored.member(rows.label_offset[i], rows.label_length[i])
                label = decode_pixels(member, "npy", shape[1:], "|u1")
        except CodecError as error:
            raise self.spans.corrupt(i, int(rows.offset[i]), str(error)) from error
        if full_meta:
            meta = _plain(stored.member(rows.meta_offset[i], rows.meta_length[i]))
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


def _plain(data: NDArray[np.uint8]) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads(data.tobytes())
    return {name: value for name, value in meta.items() if name not in RESERVED}


def _chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks()
