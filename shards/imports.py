"""A WebDataset that other programs wrote, as a corpus: its tar files get an index and a manifest, pixels stay."""

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from infra.errors import SarsenseError, UsageError
from infra.record import digest, sha256
from infra.store import Store, open_store
from shards.codec import Codec
from shards.foreign import BUILD, Meaning, codec_of, describe, is_plain, packed, place_of
from shards.index import UnitRows, join_units, put_index, rows_table
from shards.manifest import Lineage, Manifest, Shard, Source, check_key, publish
from shards.tarscan import BadTar, scan

MOST_FAULTS = 20


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did with the tar files: left in place, copied byte for byte, packed anew (payloads unchanged)."""

    manifest: Manifest
    in_place: int
    copied: int
    packed: int
    left_out: tuple[str, ...]
    """Suffixes of members that are no part of a tile; they stay in the tar files that were not packed anew."""


class ImportRefused(SarsenseError):
    """Some tar files cannot become shards; nothing was published. The message names each with its fault."""


def import_webdataset(
    source: str,
    target: Store,
    meaning: Meaning,
    *,
    threads: int = 2,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Imported:
    """Make the tar files of a place (or one file, or a pattern such as ``data/train-*.tar``) a corpus at ``target``.

    A sample is ``<key>.npy``, uint16 codes (bands, rows, cols); ``<key>.json`` and ``<key>.label.npy``, uint8
    (rows, cols), where there are any. Files that lie under the target stay where they are. Others are copied as they
    are. Where members come in another order than pixels, label, JSON, or a tile has no JSON, the members are packed
    anew, every payload of pixels and labels as it was. Raises ImportRefused with every bad file.
    """
    place, keys = _tar_files(source)
    names: dict[str, str] = {}

    def one(key: str) -> "_File | str":
        try:
            return _take(place, key, target, meaning)
        except SarsenseError as error:
            return f"{place.url}/{key}: {error}"

    files: list[_File] = []
    faults: list[str] = []
    with ThreadPoolExecutor(threads) as pool:
        for done, found in enumerate(pool.map(one, keys)):
            progress(done + 1, len(keys))
            if isinstance(found, str):
                faults.append(found)
                continue
            files.append(found)
            for record in found.records:
                if (other := names.setdefault(record["key"], keys[done])) != keys[done]:
                    faults.append(f"{place.url}/{keys[done]}: the key {record['key']!r} is in {other} as well")
                    break
    if faults:
        more = f"\n... and {len(faults) - MOST_FAULTS} more" if len(faults) > MOST_FAULTS else ""
        listed = "\n".join(faults[:MOST_FAULTS])
        raise ImportRefused(
            f"{len(faults)} of {len(keys)} files cannot be taken; nothing was published\n{listed}{more}"
        )
    return _publish(files, target, meaning)


def _tar_files(source: str) -> tuple[Store, list[str]]:
    if source.endswith(".tar") or "*" in source:
        root, pattern = _split_pattern(source)
        store = open_store(root)
        keys = [o.key for o in store.list() if fnmatch.fnmatchcase(o.key, pattern)]
    else:
        store = open_store(source)
        keys = [o.key for o in store.list() if o.key.endswith(".tar")]
    if not keys:
        raise UsageError(f"no .tar file at {source}: {BUILD}")
    return store, sorted(keys)


def _split_pattern(source: str) -> tuple[str, str]:
    root, _, pattern = source.rpartition("/")
    if "*" in root:
        raise UsageError(f"{source}: * may stand in the files' names only, not in folders")
    return root or ("/" if source.startswith("/") else "."), pattern


@dataclass(frozen=True, slots=True)
class _File:
    shard: Shard
    records: list[dict[str, Any]]
    how: str
    codec: Codec
    left_out: frozenset[str]


def _take(place: Store, key: str, target: Store, meaning: Meaning) -> _File:
    data = place.get(key)
    samples = scan(data)
    codecs = {codec_of(sample) for sample in samples}
    if len(codecs) > 1:
        raise BadTar("holds .npy and .blosc2 samples: a corpus has one kind; import them apart")
    codec = codecs.pop()
    wanted = (codec, "label.npy", "json")
    left_out = frozenset(suffix for sample in samples for suffix in sample.members if suffix not in wanted)
    tiles = [describe(data, sample, codec, meaning, _stem(key)) for sample in samples]
    how = "packed"
    if all(is_plain(sample, codec) for sample in samples):
        where = _inside(place, key, target)
        how = "in_place" if where else "copied"
        where = where or f"shards/{sha256(data)[:12]}-{_stem(key)}.tar"
    else:
        data, samples = packed(data, samples, tiles, codec)
        where = f"shards/{_stem(key)}-{sha256(data)[:12]}.tar"
    records = [place_of(data, s, codec) | tile for s, tile in zip(samples, tiles, strict=True)]
    if how != "in_place":
        target.put(where, data)
    shard = Shard(key=where, sha256=sha256(data), bytes=len(data), tiles=len(samples))
    return _File(shard, records, how, codec, left_out)


def _stem(key: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", key.rpartition("/")[2].removesuffix(".tar"))


def _inside(place: Store, key: str, target: Store) -> str | None:
    """Give the key of a file in the target if it lies there already under one that a manifest may have."""
    url, root = f"{place.url}/{key}", target.url.rstrip("/") + "/"
    if not url.startswith(root):
        return None
    inside = url.removeprefix(root)
    try:
        return check_key(inside) if not inside.startswith("@") else None
    except ValueError:
        return None


def _publish(files: Sequence[_File], target: Store, meaning: Meaning) -> Imported:
    codecs = {file.codec for file in files}
    if len(codecs) > 1:
        raise ImportRefused("some files hold .npy and some .blosc2 samples: import them to two places")
    units = [UnitRows([f.shard], rows_table([{**record, "shard": 0} for record in f.records])) for f in files]
    joined = join_units(units)
    sources = _sources([record for file in files for record in file.records])
    manifest = Manifest(
        recipe=dict(meaning.recipe),
        recipe_digest=digest(dict(meaning.recipe)),
        pixels_digest=meaning.pixels_digest,
        scale=meaning.scale,
        codec=codecs.pop(),
        legend=None if meaning.legend is None else dict(meaning.legend),
        shards=tuple(joined.shards),
        index=put_index(target, joined.rows),
        sources=sources,
        tiles=joined.rows.num_rows,
        bytes=sum(shard.bytes for shard in joined.shards),
        lineage=Lineage(made_by="import", parents=()),
    )
    publish(target, manifest)
    ways = [file.how for file in files]
    left_out = sorted({suffix for file in files for suffix in file.left_out})
    return Imported(manifest, ways.count("in_place"), ways.count("copied"), ways.count("packed"), tuple(left_out))


def _sources(records: Sequence[Mapping[str, Any]]) -> tuple[Source, ...]:
    scenes: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        scenes.setdefault(record["scene"], []).append(record)
    return tuple(_source(name, tiles) for name, tiles in scenes.items())


def _source(name: str, tiles: Sequence[Mapping[str, Any]]) -> Source:
    first = tiles[0]
    return Source(
        id=name,
        sensor=first["sensor"],
        product="webdataset",
        mode=first["mode"] or "",
        polarisations=tuple(first["polarisations"]),
        shape=tuple(max(t[f"window_{side}"] + t[f"window_{side}s"] for t in tiles) for side in ("row", "col")),
        spacing_m=None,
        time=first["time"],
        orbit=first["orbit"],
        fingerprint=digest([[t["key"], t["crc32c"], t["label_crc32c"]] for t in tiles]),
        footprint=None,
        tiles=len(tiles),
    )
