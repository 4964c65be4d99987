"""What is stored of tiles, read in few requests and checked: past a cache, and once more where it is bad."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import google_crc32c
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.errors import SarsenseError
from infra.store import Corrupt, NotFound, Store
from shards.cache import SpanCache
from shards.manifest import Manifest
from shards.metrics import Counts
from shards.ranges import ranges

_GAP = 64 << 10  # bytes between two tiles that cost less to read than another request
_TOGETHER = 4 << 20  # bytes that one request reads at most, where one tile alone is not longer


class ShardCorrupt(SarsenseError):
    """A shard does not hold what the index says: corpus, shard, tile, offset and finding are in the message."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The members of a tile as they lie in its shard, from byte ``start`` on; their CRC32C was right."""

    start: int
    data: NDArray[np.uint8]

    def member(self, offset: np.int64, length: np.int64) -> NDArray[np.uint8]:
        """Give the bytes of one member."""
        first = int(offset) - self.start
        return self.data[first : first + int(length)]


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


class Spans:
    """Reads the stretches of shards that hold tiles. Safe to share between threads; ``counts`` sums up what it took.

    What comes from the store is kept in ``cache`` if there is one. Bytes that do not fit their CRC32C are read once
    more, past the cache; those that still do not raise ShardCorrupt.
    """

    def __init__(
        self, store: Store, manifest: Manifest, rows: Rows, keys: pa.Array, cache: SpanCache | None = None
    ) -> None:
        self.cache = cache
        self.counts = Counts()
        self._url, self._shards, self._rows, self._keys = store.url, manifest.shards, rows, keys
        self._read = ranges(store)

    def stored(self, i: int, full_meta: bool = False) -> Stored:
        """Give what is stored of a tile, with its JSON if ``full_meta``. Raises ShardCorrupt."""
        return self._kept(i, full_meta) or self._fetched(i, full_meta)

    def together(self, tiles: Sequence[int]) -> dict[int, Stored | ShardCorrupt]:
        """Give what is stored of several tiles; of one that is bad, the error."""
        found: dict[int, Stored | ShardCorrupt] = {}
        for i in tiles:
            if (kept := self._kept(i, False)) is not None:
                found[i] = kept
        for group in self.near([i for i in tiles if i not in found]):
            found |= self._group(group) if len(group) > 1 else {group[0]: self._alone(group[0])}
        return found

    def near(self, tiles: Sequence[int]) -> list[list[int]]:
        """Put tiles that lie close together in a shard into groups for one request of at most 4 MiB each.

        Groups come in the order of their first tile in ``tiles``; a tile that is named twice comes once.
        """
        place = {i: n for n, i in enumerate(dict.fromkeys(tiles))}
        groups: list[list[int]] = []
        begin = end = shard = -1
        for i in sorted(place, key=lambda i: (self._rows.shard[i], self._rows.offset[i])):
            start, length = self._place(i)
            if self._rows.shard[i] != shard or start > end + _GAP or start + length > begin + _TOGETHER:
                groups.append([])
                begin, shard = start, int(self._rows.shard[i])
            groups[-1].append(i)
            end = start + length
        return sorted(groups, key=lambda group: min(place[i] for i in group))

    def corrupt(self, i: int, offset: int, finding: str) -> ShardCorrupt:
        """Make the error that says what is wrong with a tile, and where."""
        return ShardCorrupt(
            f"{self._url}: shard {self._shards[self._rows.shard[i]].key}, tile {self._keys[i]}, offset {offset}: "
            f"{finding}; restore the shard (`shards verify {self._url} --deep` names all that are bad)"
        )

    def _place(self, i: int, full_meta: bool = False) -> tuple[int, int]:
        """Give first byte and number of bytes of what is wanted of a tile: its members lie together."""
        rows, start = self._rows, int(self._rows.offset[i])
        end = start + int(rows.length[i])
        if rows.label_offset[i] >= 0:
            end = int(rows.label_offset[i] + rows.label_length[i])
        if full_meta:
            end = int(rows.meta_offset[i] + rows.meta_length[i])
        return start, end - start

    def _fetched(self, i: int, full_meta: bool = False) -> Stored:
        """Read a tile from the store, once more where it is bad."""
        try:
            return self._once(i, full_meta)
        except ShardCorrupt:
            self.counts.add(rereads=1)
            return self._once(i, full_meta, fresh=True)

    def _once(self, i: int, full_meta: bool = False, fresh: bool = False) -> Stored:
        start, length = self._place(i, full_meta)
        return self._keep(i, self._checked(i, Stored(start, self._bytes(i, start, length, fresh)), full_meta))

    def _alone(self, i: int) -> Stored | ShardCorrupt:
        try:
            return self._fetched(i)
        except ShardCorrupt as error:
            return error

    def _group(self, tiles: Sequence[int]) -> dict[int, Stored | ShardCorrupt]:
        """Read neighbours at once, and one by one what is bad of them."""
        found: dict[int, Stored | ShardCorrupt] = {}
        begin = self._place(tiles[0])[0]
        try:
            data = self._bytes(tiles[0], begin, sum(self._place(tiles[-1])) - begin)
        except ShardCorrupt:
            return {i: self._alone(i) for i in tiles}
        for i in tiles:
            start, length = self._place(i)
            try:
                # A copy: else one late tile would hold the bytes of all.
                found[i] = self._keep(i, self._checked(i, Stored(start, data[start - begin :][:length].copy())))
            except ShardCorrupt:
                self.counts.add(rereads=1)
                found[i] = self._last(i)
        return found

    def _last(self, i: int) -> Stored | ShardCorrupt:
        try:
            return self._once(i, fresh=True)
        except ShardCorrupt as error:
            return error

    def _bytes(self, i: int, start: int, length: int, fresh: bool = False) -> NDArray[np.uint8]:
        try:
            data = self._read(self._shards[self._rows.shard[i]].key, start, length, fresh=fresh)
        except (NotFound, Corrupt) as error:
            raise self.corrupt(i, start, f"{length} bytes could not be read: {error}") from error
        self.counts.add(reads=1, bytes_read=length)
        return data

    def _kept(self, i: int, full_meta: bool) -> Stored | None:
        """Give a tile's bytes from the cache, if they are there and right."""
        if self.cache is None:
            return None
        digest, place = self._shards[self._rows.shard[i]].sha256, self._place(i, full_meta)
        if (data := self.cache.get(digest, *place)) is None:
            self.counts.add(cache_misses=1)
            return None
        try:
            stored = self._checked(i, Stored(place[0], data), full_meta)
        except ShardCorrupt:
            self.cache.drop(digest, *place)
            self.counts.add(cache_misses=1, rereads=1)
            return None
        self.counts.add(cache_hits=1)
        return stored

    def _keep(self, i: int, stored: Stored) -> Stored:
        if self.cache is not None:
            kept = self.cache.put(self._shards[self._rows.shard[i]].sha256, stored.start, stored.data)
            self.counts.add(cache_failures=not kept)
        return stored

    def _checked(self, i: int, stored: Stored, full_meta: bool = False) -> Stored:
        rows = self._rows
        self._check(i, stored, rows.offset, rows.length, rows.crc32c)
        if rows.label_offset[i] >= 0:
            self._check(i, stored, rows.label_offset, rows.label_length, rows.label_crc32c)
        if full_meta:
            self._check(i, stored, rows.meta_offset, rows.meta_length, rows.meta_crc32c)
        return stored

    def _check(
        self, i: int, stored: Stored, offset: NDArray[np.int64], length: NDArray[np.int64], crc32c: NDArray[np.uint32]
    ) -> None:
        found = google_crc32c.value(stored.member(offset[i], length[i]))
        if found != (expected := int(crc32c[i])):
            raise self.corrupt(i, int(offset[i]), f"expected CRC32C {expected:08x}, found {found:08x}")
