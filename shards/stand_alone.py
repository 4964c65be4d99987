"""A version in a place of its own whose tar files hold its tiles and no others, for readers that know no index."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from infra.errors import SarsenseError
from infra.record import sha256
from infra.store import Store
from shards.index import SCHEMA, put_index
from shards.keep import copy_version
from shards.manifest import Lineage, Manifest, Shard, add_version
from shards.members import cut_out, tiles_of
from shards.reader import Corpus

_OFFSETS = ("offset", "label_offset", "meta_offset")


def stand_alone(
    corpus: Corpus,
    target: Store,
    folder: str,
    *,
    threads: int = 4,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Manifest:
    """Write a version's shards to ``folder/`` of another place, with an index and a manifest kept there as a version.

    Whole shards are copied unchanged; of a shard of which the version takes only some tiles, these are packed anew,
    byte for byte. A version of whole shards that lie in ``folder`` already keeps its digest; any other becomes a
    version whose parent it is. Raises SarsenseError where a shard is damaged.
    """
    shards = corpus.manifest.shards
    if all(shard.members is None and re.fullmatch(rf"{folder}/[^/@]+\.tar", shard.key) for shard in shards):
        copy_version(corpus.store, corpus.manifest, target, current=False, threads=threads, progress=progress)
        return corpus.manifest
    moved = np.zeros(len(corpus), dtype=np.int64)

    def one(n: int) -> Shard:
        shard, data = shards[n], _checked(corpus, n)
        name = _name(shard.key)
        if shard.members is not None:
            tiles = tiles_of(corpus, n)
            data, moved[tiles.start : tiles.stop] = cut_out(data, corpus, tiles)
            name = f"{name}-part"
        digest = sha256(data)
        if digest[:12] not in name:
            name = f"{name}-{digest[:12]}"
        made = Shard(key=f"{folder}/{name}.tar", sha256=digest, bytes=len(data), tiles=shard.tiles)
        target.put(made.key, data)
        return made

    written: list[Shard] = []
    with ThreadPoolExecutor(threads) as pool:
        for shard in pool.map(one, range(len(shards))):
            written.append(shard)
            progress(len(written), len(shards))
    lineage = Lineage(made_by="export", parents=(corpus.manifest.digest,))
    changed = {
        "shards": written,
        "index": put_index(target, _moved(corpus.table, moved)),
        "bytes": sum(shard.bytes for shard in written),
        "lineage": lineage,
    }
    manifest = Manifest.model_validate(corpus.manifest.model_dump() | changed)
    add_version(target, manifest)
    return manifest


def _checked(corpus: Corpus, n: int) -> bytes:
    shard = corpus.manifest.shards[n]
    data = corpus.store.get(shard.key)
    if len(data) != shard.bytes or sha256(data) != shard.sha256:
        raise SarsenseError(f"{corpus.store.url}/{shard.key} is damaged: it is not what the manifest says; restore it")
    return data


def _name(key: str) -> str:
    """Give a file name for a shard, from anywhere."""
    return re.sub(r"[^A-Za-z0-9._+=-]", "-", re.sub(r"^@[0-9a-f]{16}/", "", key).rpartition("/")[2]).removesuffix(
        ".tar"
    )


def _moved(table: pa.Table, moved: np.ndarray) -> pa.Table:
    """Give index rows whose payloads lie nearer to the start of their shards."""
    for name in _OFFSETS:
        old = table[name].to_numpy()
        new = np.where(old < 0, old, old - moved)
        table = table.set_column(table.column_names.index(name), SCHEMA.field(name), pa.array(new))
    return table
