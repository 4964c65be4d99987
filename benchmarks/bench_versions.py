"""Versions of a corpus of a million tiles: open, verify, compare, split, select, each in seconds.

The index is made in one go and the shards are empty files of the right size, since nothing measured here reads a pixel.
"""

import argparse
import itertools
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from measure import machine, save

from infra.record import digest
from infra.store import open_store
from shards import derive
from shards.diff import diff
from shards.index import SCHEMA, put_index
from shards.manifest import Lineage, Manifest, Shard, Source, add_version, publish
from shards.reader import Corpus
from shards.tile import DbScale
from shards.verify import verify

LENGTH, META = 2 * 256 * 256 * 2 + 128, 700
TILE = 2 * 512 + -(-LENGTH // 512) * 512 + -(-META // 512) * 512
DESIGN = (
    "Everything but the pixels of N tiles is one table, so a version costs a constant number of passes over its "
    "columns: linear in N (hash tables of keys, one sort for bands). Today every command holds the whole table in "
    "memory: 10^7 tiles fit a workstation, 10^9 do not. Design beyond that: the index lies in parts of 1,000,000 rows "
    "already (put_index), so verify, select and split by scene are maps over parts whose results are summed; what "
    "needs all keys at once (that none repeats, which tiles two versions share) is done by ranges of the key's hash, "
    "each range on its own; a split by bands takes two passes, a histogram along the direction and then the numbers. "
    "Memory is then that of one part for each worker. The figures for 10^9 are the measured processor seconds of 10^6 "
    "rows times 1,000; they divide by the number of workers. Partitioned execution is designed, not built or measured."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=1_000_000)
    parser.add_argument("--per-shard", type=int, default=500)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/versions.json")
    options = parser.parse_args()
    before, place = machine(), Path(tempfile.mkdtemp(prefix="versions-"))
    try:
        results = measure(str(place), options.tiles, options.per_shard, options.scenes)
    finally:
        shutil.rmtree(place)
    save(options.out, before, results)


def measure(url: str, count: int, per_shard: int, scenes: int) -> dict[str, object]:
    seconds: dict[str, dict[str, float]] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start, busy = time.perf_counter(), time.process_time()
        result = work()
        seconds[name] = {"wall": round(time.perf_counter() - start, 3), "cpu": round(time.process_time() - busy, 3)}
        return result

    start = time.perf_counter()
    make(url, count, per_shard, scenes)
    made_s = time.perf_counter() - start
    corpus = timed("open", lambda: Corpus.open(url))
    report = timed("verify (shallow)", lambda: verify(corpus))
    assert report.ok, report.faults[:3]
    shares = {"train": 60.0, "val": 20.0, "test": 20.0}
    by_scene = timed("split by scene: decide", lambda: derive.parts_by_scene(corpus, shares, 0))
    by_band = timed("split by 60 bands: decide", lambda: derive.parts_by_band(corpus, shares, 0.9, 60))
    assert sum(int(part.sum()) for part in by_scene.values()) == sum(int(p.sum()) for p in by_band.values()) == count
    query = "sensor = 'sentinel-1' and valid_share > 0.9 and incidence_deg < 40 and bbox.ymin > 0"
    chosen = timed("select by query: decide", lambda: derive.where(corpus.table, query))
    timed("balance by orbit, 100,000 each", lambda: derive.balanced(corpus.table, "orbit", 100_000, 0))
    timed("drop twins", lambda: derive.first_of_twins(corpus.table))
    lineage = Lineage(made_by="select", parents=(corpus.manifest.digest,))
    version = timed("write a version of 60 % of the tiles", lambda: derive.take(corpus, by_scene["train"], lineage))
    add_version(corpus.store, version)
    train = timed("open it", lambda: Corpus.open(f"{url}@{version.digest}"))
    part = timed("verify it (parts of shards)", lambda: verify(Corpus.open(f"{url}@{keep(corpus, chosen)}")))
    assert part.ok, part.faults[:3]
    difference = timed("diff", lambda: diff(corpus, train))
    assert difference.tiles_same == len(train)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    large = {name: round(spent["cpu"] * 1e9 / count / 60, 1) for name, spent in seconds.items()}
    return {
        "tiles": count,
        "shards": len(corpus.manifest.shards),
        "index_mb": round(sum(p.bytes for p in corpus.manifest.index) / 1e6, 1),
        "selected_by_query": int(chosen.sum()),
        "making_it_s": round(made_s, 1),
        "seconds": seconds,
        "peak_memory_gib": round(peak, 2),
        "a_billion_tiles": {"by": "linear in the parts of the index", "cpu_minutes": large},
        "design": DESIGN,
    }


def keep(corpus: Corpus, chosen: np.ndarray) -> str:
    lineage = Lineage(made_by="select", parents=(corpus.manifest.digest,))
    return add_version(corpus.store, derive.take(corpus, chosen, lineage))


def make(url: str, count: int, per_shard: int, scenes: int) -> None:
    """Store an index of so many tiles, and empty files in the place of its shards."""
    store = open_store(url)
    scene = np.arange(count) * scenes // count
    starts = np.concatenate([np.arange(a, b, per_shard) for a, b in bounds(scene)])
    tiles = np.diff(np.append(starts, count))
    shard = np.repeat(np.arange(len(starts)), tiles)
    shards = []
    (Path(url) / "shards").mkdir(parents=True)
    for n, held in enumerate(tiles.tolist()):
        sha = digest(f"shard {n}")
        key = f"shards/scene-{n:06d}-{sha[:12]}.tar"
        shards.append(Shard(key=key, sha256=sha, bytes=held * TILE + 1024, tiles=held))
        with (Path(url) / key).open("wb") as file:
            file.truncate(held * TILE + 1024)
    counts = np.bincount(scene, minlength=scenes)
    recipe = {"made": "for a benchmark"}
    manifest = Manifest(
        recipe=recipe,
        recipe_digest=digest(recipe),
        pixels_digest=digest("pixels"),
        scale=DbScale(),
        codec="npy",
        shards=tuple(shards),
        index=put_index(store, rows_of(count, scene, shard, np.arange(count) - starts[shard])),
        sources=tuple(source(n, int(held)) for n, held in enumerate(counts)),
        tiles=count,
        bytes=sum(s.bytes for s in shards),
    )
    publish(store, manifest)


def bounds(scene: np.ndarray) -> list[tuple[int, int]]:
    edges = [0, *(np.flatnonzero(np.diff(scene)) + 1).tolist(), len(scene)]
    return list(itertools.pairwise(edges))


def source(n: int, tiles: int) -> Source:
    return Source(
        id=f"scene-{n:06d}",
        sensor="sentinel-1" if n % 5 else "alos-2",
        product="GRD",
        mode="IW",
        polarisations=("VV", "VH"),
        shape=(16000, 25000),
        spacing_m=(10.0, 10.0),
        time="2024-05-06T07:08:09Z",
        orbit="ascending",
        fingerprint=digest(f"scene {n}"),
        footprint=None,
        tiles=tiles,
    )


def rows_of(count: int, scene: np.ndarray, shard: np.ndarray, place: np.ndarray) -> pa.Table:
    rng = np.random.default_rng(0)
    lon = rng.uniform(-170, 170, scene.max() + 1)[scene] + (place % 100) * 0.025
    lat = rng.uniform(-60, 70, scene.max() + 1)[scene] + (place // 100) * 0.025
    names = pa.array([f"scene-{n:06d}" for n in range(scene.max() + 1)])
    at = place * TILE
    levels = rng.normal(-12, 3, (count, 2)).round(3)
    size = np.full(count, 256)
    columns = {
        "key": pa.array(np.char.add("t-", np.char.zfill(rng.permutation(count).astype(str), 9)).tolist()),
        "shard": shard,
        "scene": pa.DictionaryArray.from_arrays(scene, names),
        "sensor": pa.array(np.where(scene % 5, "sentinel-1", "alos-2").tolist()),
        "polarisations": lists(np.tile(["VV", "VH"], count).tolist(), 2),
        "bands": np.full(count, 2),
        "rows": size,
        "cols": size,
        "window_row": place // 100 * 256,
        "window_col": place % 100 * 256,
        "window_rows": size,
        "window_cols": size,
        "offset": at + 512,
        "length": np.full(count, LENGTH),
        "crc32c": rng.integers(0, 2**32, count, dtype=np.uint32),
        "label_offset": np.full(count, -1),
        "label_length": np.zeros(count, int),
        "label_crc32c": np.zeros(count, np.uint32),
        "meta_offset": at + 1024 + -(-LENGTH // 512) * 512,
        "meta_length": np.full(count, META),
        "meta_crc32c": rng.integers(0, 2**32, count, dtype=np.uint32),
        "valid_share": rng.uniform(0.8, 1, count).round(4),
        "mean_db": lists(levels.ravel(), 2),
        "time": pa.array(np.where(scene % 2, "2024-05-06T07:08:09Z", "2024-11-06T17:08:09Z").tolist()),
        "footprint": lists(corners(lon, lat)[:, :4].ravel(), 8),
        "geometry": outlines(corners(lon, lat)),
        "bbox": pa.StructArray.from_arrays(
            [lon, lat, lon + 0.025, lat + 0.025], fields=list(SCHEMA.field("bbox").type)
        ),
        "platform": pa.array(np.where(scene % 5, "S1A", "ALOS-2").tolist()),
        "mode": pa.array(["IW"] * count),
        "quantity": pa.array(["gamma0"] * count),
        "orbit": pa.array(np.where(scene % 3, "ascending", "descending").tolist()),
        "incidence_deg": rng.uniform(29, 46, count).round(3),
        "std_db": lists((levels * 0 + 2.5).ravel(), 2),
        "p02_db": lists((levels - 5).ravel(), 2),
        "p98_db": lists((levels + 5).ravel(), 2),
        "contrast_db": rng.uniform(2, 9, count).round(3),
        "land_share": rng.uniform(0, 1, count).round(4),
        "water_share": rng.uniform(0, 0.2, count).round(4),
    }
    return pa.table({n: pa.array(columns[n]).cast(SCHEMA.field(n).type) for n in SCHEMA.names}, schema=SCHEMA)


def lists(values: object, each: int) -> pa.Array:
    flat = pa.array(values)
    return pa.ListArray.from_arrays(pa.array(np.arange(0, len(flat) + 1, each, dtype=np.int32)), flat)


def corners(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Five corners of each tile, (N, 5, 2), the last the first."""
    west, east, south, north = lon, lon + 0.025, lat, lat + 0.025
    return np.stack([west, north, west, south, east, south, east, north, west, north], -1).reshape(-1, 5, 2)


def outlines(rings: np.ndarray) -> pa.Array:
    """Polygons as WKB: byte order, type, rings, points, coordinates."""
    head = np.frombuffer(
        b"\x01" + (3).to_bytes(4, "little") + (1).to_bytes(4, "little") + (5).to_bytes(4, "little"), "u1"
    )
    body = np.ascontiguousarray(rings, "<f8").reshape(len(rings), 10).view("u1").reshape(len(rings), 80)
    data = np.concatenate([np.broadcast_to(head, (len(rings), len(head))), body], axis=1)
    fixed = pa.FixedSizeBinaryArray.from_buffers(pa.binary(93), len(rings), [None, pa.py_buffer(data.tobytes())])
    return fixed.cast(pa.binary())


if __name__ == "__main__":
    main()
