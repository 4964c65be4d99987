"""Reading tiles: shards.feed beside other readers, the same tiles, the same decode, in turn in one run.

    .venv/bin/python benchmarks/bench_feed.py [--tiles 2000] [--rounds 5] [--out benchmarks/results/feed.json]

Every contender gives batches of 256 stacked uint16 tiles of 2 x 256 x 256; the page cache is warm. Of the others those
run that are installed: webdataset comes with the development extras; litdata, mosaicml-streaming, grain and spdl do
not, so the run that is recorded used an environment with them above this one, and an empty torchvision, which
mosaicml-streaming imports and does not need here. What was started or opened once (workers, buffers) lives on between
rounds, for all contenders. On a machine with other load compare tiles per CPU second, or the ratios of rounds.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import blosc2
import numpy as np
from peers import PEERS

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
LIBRARIES = ("webdataset", "litdata", "mosaicml-streaming", "grain", "spdl")


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


def build(folder: Path | str, codec: str, count: int) -> Corpus:
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
    feed = LocalFeed(corpus, Plan(corpus.shard_counts(), seed=1, lanes=64, batch=BATCH), threads=threads)

    def read() -> int:
        return sum(len(batch.arrays["pixels"]) for batch in feed.batches(0, len(corpus) // BATCH))

    return read


def theirs(corpus: Corpus, folder: Path) -> tuple[dict[str, Callable[[], int]], dict[str, str]]:
    """What is installed of the others, each with one process and with two workers, and what is not."""
    found, absent = {}, {}
    for name, make in PEERS.items():
        try:
            for workers in (0, 2):
                found[f"{name}, {workers or 1}"] = make(corpus, folder, workers, BATCH)
        except ImportError as error:
            absent[name] = str(error)
    return found, absent


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


def measure(contenders: dict[str, Callable[[], int]], rounds: int) -> tuple[dict, dict, dict]:
    """Median tiles per second and per CPU second; median over the rounds of ours against each other, like for like."""
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    for n in range(rounds + 1):  # the first round warms the page cache
        for name, read in contenders.items():
            begun, busy = time.perf_counter(), cpu_s()
            count = read()
            if n:
                wall[name].append(count / (time.perf_counter() - begun))
                cpu[name].append(count / (cpu_s() - busy))
    ratios = {}
    for name in contenders:
        peer = wall[f"ours, {name[-1]}"]
        if not name.startswith("ours"):
            ratios[name] = round(statistics.median(a / b for a, b in zip(peer, wall[name], strict=True)), 2)
    return medians(wall), medians({n: found for n, found in cpu.items() if counts_all(n)}), ratios


def counts_all(name: str) -> bool:
    """Whether the CPU seconds are known: worker processes that live on have not told theirs yet."""
    return name.endswith(", 1") or name.startswith("ours")


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def medians(rates: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(statistics.median(found)) for name, found in rates.items()}


def compare(codec: str, count: int, rounds: int) -> dict:
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
        corpus = build(Path(folder) / "corpus", codec, count)
        others, absent = theirs(corpus, Path(folder))
        contenders = {
            "decode only, 1": decode_only(corpus),
            "ours, 1": ours(corpus, 1),
            "ours, 2": ours(corpus, 2),
            **others,
        }
        rates, per_cpu_s, ratios = measure(contenders, rounds)
        return {
            "tiles_per_s": rates,
            "tiles_per_cpu_s": per_cpu_s,
            "ours_over": ratios,
            "ours_over_per_cpu_s": {
                name: round(per_cpu_s["ours, 1"] / rate, 2)
                for name, rate in per_cpu_s.items()
                if not name.startswith("ours")
            },
            "not_installed": absent,
            "share_of_decode_limit_1": round(rates["ours, 1"] / rates["decode only, 1"], 2),
            "first_batch_s": round(statistics.median(first_batch_s(corpus) for _ in range(5)), 3),
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
        "versions": {name: installed(name) for name in (*LIBRARIES, "blosc2", "numpy", "torch")},
        **{codec: compare(codec, options.tiles, options.rounds) for codec in ("blosc2", "npy")},
    }
    text = json.dumps(results, indent=2)
    options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
