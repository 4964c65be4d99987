"""Reading tiles from a bucket on loopback: the feed beside bare parallel ranged gets; its cache; reader actors.

    .venv/bin/python benchmarks/bench_feed_s3.py [--tiles 512] [--rounds 5] [--out benchmarks/results/feed_s3.json]

The server is Ceph on this machine and takes most of its cores, so what counts are the ratios of one round. Bare gets
ask for the same byte ranges of the same tiles in the same order by the same store, check nothing and decode nothing.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import blosc2
from bench_feed import BATCH, build
from measure import machine, save

from infra import cluster, local_s3
from shards.cache import SpanCache
from shards.draw import CONNECTIONS
from shards.feed import LocalFeed
from shards.plan import Plan
from shards.reader import Corpus
from shards.remote import Readers, RemoteFeed


def plan_of(corpus: Corpus, batch: int = BATCH) -> Plan:
    return Plan(corpus.shard_counts(), 1, 64, batch)


def bare_gets(corpus: Corpus, connections: int) -> Callable[[], int]:
    """The tiles of an epoch, each by a ranged get of its own, by so many threads."""
    spans = corpus.spans

    def get(i: int) -> int:
        start, length = spans._place(i)
        return len(corpus.store.get_range(corpus.manifest.shards[corpus.rows.shard[i]].key, start, length))

    def read() -> int:
        plan = plan_of(corpus)
        order = [int(i) for step in range(len(corpus) // BATCH) for i in plan.tiles(step)]
        with ThreadPoolExecutor(connections) as pool:
            return len(list(pool.map(get, order)))

    return read


def fed(corpus: Corpus, connections: int | None = None) -> Callable[[], int]:
    feed = LocalFeed(corpus, plan_of(corpus), threads=2, connections=connections)
    return lambda: sum(len(b.arrays["pixels"]) for b in feed.batches(0, len(corpus) // BATCH))


def first_batch_s(corpus: Corpus) -> float:
    """From the start of the feed of an open corpus to a batch of 64 tiles."""
    begun = time.perf_counter()
    batches = LocalFeed(corpus, plan_of(corpus, 64), ahead=1).batches(0, 2)
    next(batches)
    took = time.perf_counter() - begun
    batches.close()
    return took


def compare(contenders: dict[str, Callable[[], int]], rounds: int, base: str) -> dict:
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for n in range(rounds + 1):
        for name, read in contenders.items():
            begun = time.perf_counter()
            count = read()
            if n:
                rates[name].append(count / (time.perf_counter() - begun))
    shares = {
        name: [a / b for a, b in zip(found, rates[base], strict=True)] for name, found in rates.items() if name != base
    }
    return {
        "tiles_per_s": {name: round(statistics.median(found), 1) for name, found in rates.items()},
        f"share_of_{base}": {name: round(statistics.median(found), 2) for name, found in shares.items()},
        "shares_of_rounds": {name: [round(x, 2) for x in found] for name, found in shares.items()},
    }


def from_bucket(folder: Path, tiles: int, rounds: int) -> dict:
    with local_s3.start(folder / "s3") as server:
        os.environ.update(server.environment)
        url = server.create_bucket("bench-feed")
        plain = build(f"{url}/c", "blosc2", tiles)
        kept = Corpus.open(f"{url}/c", SpanCache(folder / "cache", 4 << 30))
        contenders = {
            "bare gets": bare_gets(plain, CONNECTIONS),
            "feed": fed(plain),
            "feed without reading ahead": fed(plain, 0),
            "feed from the cache": fed(kept),
        }
        result = compare(contenders, rounds, "bare gets")
        return result | {
            "connections": CONNECTIONS,
            "bytes_per_tile": plain.manifest.bytes // tiles,
            "first_batch_of_64_s": round(statistics.median(first_batch_s(plain) for _ in range(3)), 3),
        }


def from_actors(folder: Path, tiles: int, rounds: int) -> dict:
    """Steady state: actors are up and the first batch is there before the clock starts."""
    corpus = build(str(folder / "local"), "blosc2", tiles)
    steps = 4 * tiles // BATCH
    feeds = {
        "local feed, 2 threads": lambda: LocalFeed(corpus, plan_of(corpus), threads=2),
        "2 readers with 1 thread": lambda: RemoteFeed(corpus, plan_of(corpus), readers=Readers(2, cpus=0.5)),
    }

    def rate(make: Callable) -> float:
        batches = make().batches(0, steps)
        next(batches)
        begun = time.perf_counter()
        count = sum(len(b.arrays["pixels"]) for b in batches)
        return count / (time.perf_counter() - begun)

    with cluster.session(cpus=2):
        turns = [[rate(make) for make in feeds.values()] for _ in range(rounds)]
    local, remote = (list(column) for column in zip(*turns, strict=True))
    found = dict(zip(feeds, (local, remote), strict=True))
    return {
        "tiles_per_s": {name: round(statistics.median(rates), 1) for name, rates in found.items()},
        "remote_over_local": round(statistics.median(b / a for a, b in zip(local, remote, strict=True)), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "feed_s3.json")
    options = parser.parse_args()
    blosc2.set_nthreads(1)
    before = machine()
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
        place = Path(folder)
        what = f"{options.tiles} blosc2 tiles of 2 x 256 x 256 uint16, batch {BATCH}, median of {options.rounds} rounds"
        s3 = from_bucket(place, options.tiles, options.rounds)
        save(options.out, before, {"what": what, "s3": s3, "ray": from_actors(place, options.tiles, options.rounds)})


if __name__ == "__main__":
    main()
