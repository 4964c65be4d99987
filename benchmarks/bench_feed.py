"""Reading tiles: shards.feed beside webdataset, the same bytes, the same decode, in turn in one run.

    .venv/bin/python benchmarks/bench_feed.py [--tiles 2000] [--rounds 5] [--out benchmarks/results/feed.json]

Every contender gives batches of 256 stacked uint16 tiles of 2 x 256 x 256; the page cache is warm.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import blosc2
import numpy as np
import webdataset as wds

from infra.record import digest
from infra.store import open_store
from shards.codec import decode_pixels, encode
from shards.feed import LocalFeed
from shards.index import join_units, put_index
from shards.manifest import Manifest, Source, publish
from shards.plan import Plan
from shards.reader import Corpus
from shards.tile import DbScale, Tile
from shards.writer import write_unit

BATCH = 256
SHAPE = (2, 256, 256)


def speckle(seed: int) -> np.ndarray:
    """A dual-pol tile of fields under 4.4-look speckle, in codes of the default scale."""
    rng = np.random.default_rng(seed)
    fields = np.kron(rng.normal(-12, 4, (2, 16, 16)), np.ones((16, 16)))
    power = 10 ** (fields / 10) * rng.gamma(4.4, 1 / 4.4, SHAPE)
    return DbScale().encode(power.astype(np.float32))


def tiles_of(scene: str, count: int) -> Iterator[Tile]:
    pool = [speckle(n) for n in range(32)]
    corners = [[10.0, 50.0], [10.1, 50.0], [10.1, 49.9], [10.0, 49.9]]
    for n in range(count):
        meta = {
            "scene": scene,
            "sensor": "sentinel-1",
            "polarisations": ["VV", "VH"],
            "window": [256 * n, 0, 256, 256],
            "footprint": corners,
            "time": "2024-05-06T07:08:09Z",
            "valid_share": 1.0,
            "mean_db": [-12.0, -18.0],
        }
        yield Tile(f"{scene}-{n:05d}", pool[n % 32], meta)


def build(folder: Path, codec: str, count: int) -> Corpus:
    store = open_store(str(folder))
    unit = join_units([write_unit(store, "scene", tiles_of("scene", count), codec, 64_000_000)])
    source = Source(
        id="scene", sensor="sentinel-1", product="GRD", mode="IW", polarisations=("VV", "VH"), shape=(256 * count, 256),
        spacing_m=None, time=None, orbit=None, fingerprint=digest("scene"), footprint=None, tiles=count,
    )  # fmt: skip
    shards = tuple(unit.shards)
    manifest = Manifest(
        recipe={}, recipe_digest=digest({}), pixels_digest=digest({}), scale=DbScale(), codec=codec, shards=shards,
        index=put_index(store, unit.rows), sources=(source,), tiles=count, bytes=sum(s.bytes for s in shards),
    )  # fmt: skip
    publish(store, manifest)
    return Corpus.open(str(folder))


def ours(corpus: Corpus, threads: int) -> Callable[[], int]:
    def read() -> int:
        plan = Plan(corpus.shard_counts(), seed=1, lanes=64, batch=BATCH)
        feed = LocalFeed(corpus, plan, threads=threads)
        return sum(len(batch.arrays["pixels"]) for batch in feed.batches(0, len(corpus) // BATCH))

    return read


def theirs(corpus: Corpus, workers: int) -> Callable[[], int]:
    codec = corpus.manifest.codec
    urls = [str(Path(corpus.store.root) / shard.key) for shard in corpus.manifest.shards]

    def pixels(sample: dict) -> np.ndarray:
        return sample["npy"] if codec == "npy" else decode_pixels(sample["blosc2"], "blosc2", SHAPE, "<u2")

    def read() -> int:
        data = wds.WebDataset(urls, shardshuffle=len(urls), seed=1).shuffle(1000).decode().map(pixels)
        data = data.batched(BATCH, collation_fn=np.stack)
        loader = wds.WebLoader(data, batch_size=None, num_workers=workers) if workers else data
        return sum(len(batch) for batch in loader)

    return read


def decode_only(corpus: Corpus) -> Callable[[], int]:
    codec = corpus.manifest.codec
    payloads = [dict(encode(tile, codec))[codec] for tile in tiles_of("scene", 32)]
    batch = np.empty((BATCH, *SHAPE), "<u2")

    def read() -> int:
        for n in range(len(corpus)):
            decode_pixels(payloads[n % 32], codec, SHAPE, "<u2", batch[n % BATCH])
        return len(corpus)

    return read


def first_batch_s(corpus: Corpus) -> float:
    begun = time.perf_counter()
    again = Corpus.open(corpus.store.url)
    batches = LocalFeed(again, Plan(again.shard_counts(), 1, 64, BATCH)).batches(0, 10)
    next(batches)
    took = time.perf_counter() - begun
    batches.close()
    return took


def cpu_s() -> float:
    return sum(os.times()[:4])  # of this process and of its workers that have ended


def measure(contenders: dict[str, Callable[[], int]], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median tiles per second and per CPU second."""
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    for n in range(rounds + 1):  # the first round warms the page cache
        for name, read in contenders.items():
            begun, busy = time.perf_counter(), cpu_s()
            count = read()
            if n:
                wall[name].append(count / (time.perf_counter() - begun))
                cpu[name].append(count / (cpu_s() - busy))
    return medians(wall), medians(cpu)


def medians(rates: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(statistics.median(found)) for name, found in rates.items()}


def compare(codec: str, count: int, rounds: int) -> dict:
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
        corpus = build(Path(folder), codec, count)
        contenders = {
            "decode only, 1 thread": decode_only(corpus),
            "ours, 1 thread": ours(corpus, 1),
            "ours, 2 threads": ours(corpus, 2),
            "webdataset, 1 process": theirs(corpus, 0),
            "webdataset, 2 workers": theirs(corpus, 2),
        }
        rates, per_cpu_s = measure(contenders, rounds)
        return {
            "tiles_per_s": rates,
            "tiles_per_cpu_s": per_cpu_s,
            "ratio_1": round(rates["ours, 1 thread"] / rates["webdataset, 1 process"], 2),
            "ratio_2": round(rates["ours, 2 threads"] / rates["webdataset, 2 workers"], 2),
            "share_of_decode_limit_1": round(rates["ours, 1 thread"] / rates["decode only, 1 thread"], 2),
            "first_batch_s": round(first_batch_s(corpus), 3),
            "stored_over_raw": round(corpus.manifest.bytes / (count * 2 * 256 * 256 * 2), 3),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "feed.json")
    options = parser.parse_args()
    blosc2.set_nthreads(1)
    results = {
        "what": f"{options.tiles} tiles of 2 x 256 x 256 uint16 dB, batch {BATCH}, median of {options.rounds} rounds",
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "load_before": round(os.getloadavg()[0], 1),
        "versions": {name: version(name) for name in ("webdataset", "blosc2", "numpy", "torch")},
        **{codec: compare(codec, options.tiles, options.rounds) for codec in ("blosc2", "npy")},
    }
    text = json.dumps(results, indent=2)
    options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
