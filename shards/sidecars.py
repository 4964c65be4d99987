"""Small files beside shards for readers that want an index of their own: NVIDIA DALI and wids."""

import json

from infra.errors import UsageError
from shards.manifest import Shard
from shards.members import members_of, shard_url, tiles_of
from shards.reader import Corpus

DALI_VERSION = "v1.2"


def dali_index(corpus: Corpus, shard: int) -> bytes:
    """Give the index with which ``fn.readers.webdataset`` of NVIDIA DALI finds the tiles of a shard.

    The first line is the version and the number of tiles; then each tile has a line with, for each of its members,
    extension, offset of the payload in the file, length in bytes and name (tools/wds2idx.py of DALI, version 1.2).
    Only the tiles of this version are listed, so that DALI reads a selection without a new shard.
    """
    tiles = tiles_of(corpus, shard)
    lines = [f"{DALI_VERSION} {len(tiles)}"]
    for i in tiles:
        key = corpus.key(i)
        lines.append(" ".join(f"{m.suffix} {m.offset} {m.length} {key}.{m.suffix}" for m in members_of(corpus, i)))
    return "".join(f"{line}\n" for line in lines).encode("ascii")


def index_key(shard: Shard) -> str:
    """Give where a shard's DALI index goes: the shard's key with ``.idx`` for ``.tar``."""
    return shard.key.removesuffix(".tar") + ".idx"


def wids_index(corpus: Corpus) -> bytes:
    """Give the list of shards that ``wids.ShardListDataset`` opens: URL and number of samples of each.

    Raises UsageError where the version takes only some tiles of a shard, since wids reads all.
    """
    for shard in corpus.manifest.shards:
        if shard.members is not None:
            raise UsageError(
                f"{corpus.store.url} takes {shard.tiles} of {shard.members} tiles of {shard.key}, and wids would read "
                "all of them: export the version as huggingface first, which packs such shards anew"
            )
    shards = [
        {
            "url": shard_url(corpus.store, shard.key).removeprefix("file://"),
            "nsamples": shard.tiles,
            "filesize": shard.bytes,
        }
        for n, shard in enumerate(corpus.manifest.shards)
    ]
    about = {"__kind__": "SARSense tiles", "wids_version": 1, "name": corpus.manifest.digest[:16], "shardlist": shards}
    return (json.dumps(about, indent=1) + "\n").encode()
