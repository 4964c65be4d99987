"""Where the members of a tile lie in its shard, and a shard of some of the tiles of another."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from infra.store import Store
from shards.mounts import MountedStore
from shards.reader import Corpus
from shards.writer import BLOCK, padding


class Member(NamedTuple):
    """One file within a shard: what follows the tile's key in its name, where its payload is, and its CRC32C."""

    suffix: str
    offset: int
    length: int
    crc32c: int

    @property
    def end(self) -> int:
        """Where the next header begins."""
        return self.offset + self.length + padding(self.length)


def members_of(corpus: Corpus, i: int) -> list[Member]:
    """Give a tile's members in the order of the tar file."""
    rows = corpus.rows
    members: list[tuple[str, Any, Any, Any]] = [(corpus.manifest.codec, rows.offset, rows.length, rows.crc32c)]
    if rows.label_offset[i] >= 0:
        members.append(("label.npy", rows.label_offset, rows.label_length, rows.label_crc32c))
    members.append(("json", rows.meta_offset, rows.meta_length, rows.meta_crc32c))
    return [Member(suffix, int(offset[i]), int(length[i]), int(crc[i])) for suffix, offset, length, crc in members]


def tiles_of(corpus: Corpus, shard: int) -> range:
    """Give the numbers of the tiles of a shard."""
    first, end = np.searchsorted(corpus.rows.shard, [shard, shard + 1])
    return range(int(first), int(end))


def shard_url(store: Store, key: str) -> str:
    """Give the URL of a shard, also of one that lies in a mounted corpus."""
    home = store.home(key) if isinstance(store, MountedStore) else (store, key)
    return f"{home[0].url}/{home[1]}"


def cut_out(data: bytes, corpus: Corpus, tiles: Sequence[int]) -> tuple[bytes, NDArray[np.int64]]:
    """Give a tar file of these tiles of a shard, byte for byte, and by how much each tile moved to the front."""
    parts, moved, position = [], [], 0
    for i in tiles:
        members = members_of(corpus, i)
        start, end = members[0].offset - BLOCK, members[-1].end
        parts.append(data[start:end])
        moved.append(start - position)
        position += end - start
    return b"".join([*parts, bytes(2 * BLOCK)]), np.array(moved, dtype=np.int64)
