"""Is a corpus whole? Sizes and index in seconds, or every bit."""

import json
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from infra.record import sha256
from infra.store import Corrupt, NotFound
from shards.codec import CodecError, decode_pixels
from shards.index import repeated_keys
from shards.manifest import Shard
from shards.members import members_of
from shards.reader import Corpus
from shards.writer import BLOCK, padding


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a shard, or with one of its tiles."""

    shard: str
    tile: str | None
    found: str

    def __str__(self) -> str:
        return f"{self.shard}: " + (f"tile {self.tile}: " if self.tile else "") + self.found


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a verification: what was looked at, and every fault in the order of the shards."""

    digest: str
    deep: bool
    shards: int
    tiles: int
    bytes: int
    faults: tuple[Fault, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults


def verify(
    corpus: Corpus, deep: bool = False, threads: int = 4, progress: Callable[[int], None] = lambda _: None
) -> Report:
    """Check the shards of an open corpus (opening it has checked manifest and index by their digests).

    Shallow: every shard is there with its size, tile keys are unique, and the index lays each shard's members out
    as a tar file without gap or overlap (gaps are right where a version takes only some tiles of a shard, or another
    program wrote it). Deep: also SHA-256 of each shard, its tar structure member by member, CRC32C and decoding of
    every payload, and the key in every JSON. Several shards are read at once, each whole in memory; ``progress`` gets
    the number of shards done.
    """
    manifest = corpus.manifest
    faults = [Fault("index", key, "this key names more than one tile") for key in repeated_keys(corpus.table)]
    folders = {shard.key.rpartition("/")[0] for shard in manifest.shards}
    sizes = {info.key: info.size for folder in folders if folder for info in corpus.store.list(f"{folder}/")}
    sizes |= {shard.key: _size(corpus, shard.key) for shard in manifest.shards if "/" not in shard.key}
    ends = np.cumsum([shard.tiles for shard in manifest.shards]).tolist()
    plain = _plain_layouts(corpus)

    def check(n: int) -> list[Fault]:
        tiles = range(ends[n] - manifest.shards[n].tiles, ends[n])
        found = list(_shard_faults(corpus, n, sizes.get(manifest.shards[n].key, -1)))
        if found and found[0].found == _MISSING:
            return found
        found += [] if plain[n] else _layout_faults(corpus, n, tiles)
        return found + (list(_content_faults(corpus, n, tiles)) if deep else [])

    with ThreadPoolExecutor(threads if deep else 1) as pool:
        for done, found in enumerate(pool.map(check, range(len(ends)))):
            faults += found
            progress(done + 1)
    return Report(manifest.digest, deep, len(ends), manifest.tiles, manifest.bytes, tuple(faults))


def _size(corpus: Corpus, key: str) -> int:
    try:
        return corpus.store.info(key).size
    except NotFound:
        return -1


_MISSING = "missing"


def _shard_faults(corpus: Corpus, n: int, size: int) -> Iterator[Fault]:
    shard = corpus.manifest.shards[n]
    if size < 0:
        yield Fault(shard.key, None, _MISSING)
    elif size != shard.bytes:
        yield Fault(shard.key, None, f"has {size} bytes, the manifest says {shard.bytes}")


def _is_own(shard: Shard) -> bool:
    """Whether this project packed the shard: its name then ends with its digest, and nothing lies between members."""
    return shard.key.endswith(f"-{shard.sha256[:12]}.tar")


def _plain_layouts(corpus: Corpus) -> NDArray[np.bool_]:
    """Say of each shard whether its members follow one another as the index's numbers have it, all at once."""
    rows = corpus.rows
    ends = rows.offset + _padded(rows.length)
    labelled = rows.label_offset >= 0
    odd = labelled & (rows.label_offset != ends + BLOCK)
    ends = np.where(labelled, rows.label_offset + _padded(rows.label_length), ends)
    odd |= rows.meta_offset != ends + BLOCK
    ends = rows.meta_offset + _padded(rows.meta_length)
    first = np.diff(rows.shard, prepend=-1) != 0
    partial = np.array([shard.members is not None for shard in corpus.manifest.shards], dtype=bool)
    gap = rows.offset - np.where(first, 0, np.roll(ends, 1)) - BLOCK
    odd |= np.where(partial[rows.shard], (gap < 0) | (rows.offset % BLOCK != 0), gap != 0)
    last = np.flatnonzero(np.roll(first, -1))
    sizes = np.array([shard.bytes for shard in corpus.manifest.shards], dtype=np.int64)
    odd[last] |= ~partial[rows.shard[last]] & (sizes[rows.shard[last]] != ends[last] + 2 * BLOCK)
    plain: NDArray[np.bool_] = np.bincount(rows.shard, odd, minlength=len(partial)) == 0
    return plain


def _padded(length: NDArray[np.int64]) -> NDArray[np.int64]:
    return length + -length % BLOCK


def _layout_faults(corpus: Corpus, n: int, tiles: range) -> Iterator[Fault]:
    shard, end = corpus.manifest.shards[n], 0
    partial, own = shard.members is not None, _is_own(shard)
    for i in tiles:
        for place, member in enumerate(members_of(corpus, i)):
            if not own or (partial and place == 0):  # what this version leaves out, or another program wrote between
                end = max(end, member.offset - BLOCK)
            if member.offset != end + BLOCK or member.offset % BLOCK:
                at = f"the index has {member.suffix} at {member.offset}, a tar file at {end + BLOCK}"
                yield _fault(corpus, n, i, at)
                return
            end = member.end
    if not partial and (shard.bytes < end + 2 * BLOCK or (own and shard.bytes > end + 2 * BLOCK)):
        yield Fault(shard.key, None, f"the index ends at {end + 2 * BLOCK}, the shard at {shard.bytes}")


def _content_faults(corpus: Corpus, n: int, tiles: range) -> Iterator[Fault]:
    shard = corpus.manifest.shards[n]
    try:
        data = corpus.store.get(shard.key)
    except (NotFound, Corrupt) as error:
        yield Fault(shard.key, None, str(error))
        return
    if (found := sha256(data)) != shard.sha256:
        yield Fault(shard.key, None, f"has SHA-256 {found}, the manifest says {shard.sha256}")
    end, own = 0, _is_own(shard)
    for i in tiles:
        for suffix, offset, length, crc in members_of(corpus, i):
            fault = _header_fault(data, offset - BLOCK, f"{corpus.key(i)}.{suffix}", length)
            fault = fault or _payload_fault(corpus, i, suffix, data[offset : offset + length], crc)
            end = offset + length + padding(length)
            if not fault and any(data[offset + length : end]):
                fault = f"the padding of {suffix} at {offset + length} is not zero"
            if fault:
                yield _fault(corpus, n, i, fault)
                end = -1  # unknown from here on, at this tile
                break
    if shard.members is None and end >= 0 and not _is_end(data, end, own):
        yield Fault(shard.key, None, f"expected two empty blocks at {end} as the end, found {len(data) - end} bytes")


def _is_end(data: bytes, at: int, own: bool) -> bool:
    """Whether two empty blocks end a tar file here; other programs fill up to 20 blocks, or add what is not ours."""
    return data[at:] == bytes(2 * BLOCK) if own else data[-2 * BLOCK :] == bytes(2 * BLOCK)


def _header_fault(data: bytes, at: int, name: str, length: int) -> str | None:
    try:
        header = tarfile.TarInfo.frombuf(data[at : at + BLOCK], "ascii", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        return f"no tar header for {name} at {at}: {error}"
    if header.name != name or header.size != length or header.type != tarfile.REGTYPE:
        return f"expected member {name} of {length} bytes at {at}, found {header.name!r} of {header.size}"
    return None


def _payload_fault(corpus: Corpus, i: int, suffix: str, payload: bytes, crc: int) -> str | None:
    if (found := google_crc32c.value(payload)) != crc:
        return f"{suffix} has CRC32C {found:08x}, the index says {crc:08x}"
    if suffix == "json":
        return _json_fault(corpus, i, payload)
    try:
        shape, dtype = corpus.shape(i), "<u2"
        if suffix == "label.npy":
            decode_pixels(payload, "npy", shape[1:], "|u1")
        else:
            decode_pixels(payload, corpus.manifest.codec, shape, dtype)
    except CodecError as error:
        return f"{suffix}: {error}"
    return None


def _json_fault(corpus: Corpus, i: int, payload: bytes) -> str | None:
    own = _is_own(corpus.manifest.shards[corpus.rows.shard[i]])
    try:
        meta: Any = json.loads(payload)
        key = meta["key"] if own else meta.get("key", corpus.key(i))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return f"json has no key: {type(error).__name__}: {error}"
    if key != corpus.key(i):
        return f"json has the key {key!r}"
    known = corpus.tile_meta(i)
    wrong = [name for name, value in known.items() if (own or name in meta) and meta.get(name) != value]
    return f"json and index disagree on {', '.join(wrong)}" if wrong else None


def _fault(corpus: Corpus, n: int, i: int, found: str) -> Fault:
    return Fault(corpus.manifest.shards[n].key, corpus.key(i), found)
