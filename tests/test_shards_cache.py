"""The cache of remote bytes: bounded, shared, never trusted."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from corpora import make_corpus

from infra.errors import UsageError
from infra.record import digest
from shards.cache import SpanCache
from shards.feed import LocalFeed
from shards.plan import Plan
from shards.reader import Corpus

COUNTS = (7, 4, 9)


def span(number: int, length: int = 1000) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, length, dtype=np.uint8)


def test_what_was_put_is_there_for_every_cache_of_the_folder(tmp_path):
    cache = SpanCache(tmp_path, 10**6)
    assert cache.get(digest("a"), 512, 1000) is None
    assert cache.put(digest("a"), 512, span(1))
    np.testing.assert_array_equal(SpanCache(tmp_path, 10**6).get(digest("a"), 512, 1000), span(1))
    assert cache.get(digest("a"), 512, 999) is None
    assert cache.get(digest("b"), 512, 1000) is None
    cache.drop(digest("a"), 512, 1000)
    assert cache.get(digest("a"), 512, 1000) is None


def test_the_bound_holds_and_what_was_used_last_stays(tmp_path):
    cache = SpanCache(tmp_path, 10_000)
    for n in range(40):
        assert cache.put(digest(n), 0, span(n))
        assert cache.kept_bytes() <= 10_000
        assert n == 0 or cache.get(digest(0), 0, 1000) is not None
    kept = [n for n in range(40) if cache.get(digest(n), 0, 1000) is not None]
    assert kept[0] == 0
    assert kept[1:] == list(range(kept[1], 40))
    assert len(kept) >= 8


def test_what_is_larger_than_the_cache_is_not_kept(tmp_path):
    cache = SpanCache(tmp_path, 900)
    assert not cache.put(digest(1), 0, span(1))
    assert cache.kept_bytes() == 0
    with pytest.raises(UsageError, match="cache of 0 bytes"):
        SpanCache(tmp_path, 0)


def test_a_place_that_cannot_be_written_ends_no_run(tmp_path):
    (tmp_path / "file").touch()
    cache = SpanCache(tmp_path / "file" / "folder", 10**6)
    assert not cache.put(digest(1), 0, span(1))
    assert cache.get(digest(1), 0, 1000) is None


def test_a_lost_or_cut_count_is_taken_again_and_parts_of_the_dead_go(tmp_path):
    cache = SpanCache(tmp_path, 5000)
    cache.put(digest(0), 0, span(0))
    part = tmp_path / ".part-of-a-writer-that-died"
    part.write_bytes(b"x" * 100)
    os.utime(part, (0, 0))
    (tmp_path / "total").write_bytes(b"\1\2")
    for n in range(1, 12):
        assert cache.put(digest(n), 0, span(n))
        assert cache.kept_bytes() <= 5000
    assert not part.exists()


def test_nobody_else_can_read_the_files(tmp_path):
    cache = SpanCache(tmp_path / "tiles", 10**6)
    cache.put(digest(1), 0, span(1))
    files = [path for path in (tmp_path / "tiles").rglob("*") if path.is_file()]
    assert len(files) == 2
    assert {path.stat().st_mode & 0o077 for path in files} == {0}


WORKER = """
import sys, numpy as np
from pathlib import Path
from infra.record import digest
from shards.cache import SpanCache
cache = SpanCache(Path(sys.argv[1]), 60_000)
rng = np.random.default_rng(int(sys.argv[2]))
bad = hits = 0
print("begun", flush=True)
for _ in range(int(sys.argv[3])):
    n = int(rng.zipf(1.3)) % 200
    wanted = np.random.default_rng(n).integers(0, 256, 1000, dtype=np.uint8)
    found = cache.get(digest(n), 0, 1000)
    if found is None:
        cache.put(digest(n), 0, wanted)
    else:
        hits += 1
        bad += not np.array_equal(found, wanted)
print(bad, hits)
"""


def worker(folder: Path, seed: int, rounds: int) -> subprocess.Popen:
    command = [sys.executable, "-c", WORKER, str(folder), str(seed), str(rounds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])


def test_processes_share_it_within_its_bound_though_one_is_killed(tmp_path):
    workers = [worker(tmp_path, seed, 1500) for seed in range(2)]
    victim = worker(tmp_path, 9, 10**7)
    assert victim.stdout.readline() == "begun\n"
    over = threading.Event()
    sizes = []

    def watch():
        cache = SpanCache(tmp_path, 60_000)
        while not over.wait(0.01):
            with cache._locked():  # else a file may be counted that goes while another comes
                sizes.append(cache.kept_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    while len(sizes) < 20:
        over.wait(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    results = [w.communicate(timeout=60)[0].split()[1:] for w in workers]
    over.set()
    watcher.join()
    for bad, hits in results:
        assert bad == "0"
        assert int(hits) > 300
    assert max(sizes) <= 60_000
    assert len(sizes) > 10


@pytest.fixture
def remote(s3_url):
    make_corpus(f"{s3_url}/c", COUNTS, codec="blosc2", label=True)
    return f"{s3_url}/c"


def batches(corpus, **options):
    feed = LocalFeed(corpus, Plan(corpus.shard_counts(), 1, 4, 10), **options)
    return np.concatenate([b.arrays["pixels"] for b in feed.batches(0, 4)]), feed.metrics()


def test_a_second_epoch_and_a_second_corpus_come_from_the_cache(remote, tmp_path):
    cache = SpanCache(tmp_path, 10**6)
    expected, plain = batches(Corpus.open(remote))
    assert (plain.cache_hits, plain.cache_misses, plain.cache_failures) == (0, 0, 0)
    found, first = batches(Corpus.open(remote, cache), ahead=1, connections=1)
    np.testing.assert_array_equal(found, expected)
    assert (first.cache_hits, first.cache_misses) == (20, 20)
    again, second = batches(Corpus.open(remote, cache))
    np.testing.assert_array_equal(again, expected)
    assert (second.cache_hits, second.reads, second.bytes_read) == (40, 0, 0)


def test_a_bit_that_flipped_in_the_cache_is_read_past_and_put_right(remote, tmp_path):
    cache = SpanCache(tmp_path, 10**6)
    expected, _ = batches(Corpus.open(remote, cache))
    files = [path for path in tmp_path.glob("??/*") if path.is_file()]
    rng = np.random.default_rng(3)
    for path in files:
        data = bytearray(path.read_bytes())
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(data))
    found, told = batches(Corpus.open(remote, cache))
    np.testing.assert_array_equal(found, expected)
    assert told.rereads >= told.reads / 2 > 0
    _, clean = batches(Corpus.open(remote, cache))
    assert (clean.rereads, clean.reads) == (0, 0)


def test_a_corpus_in_a_folder_needs_no_cache(tmp_path):
    make_corpus(str(tmp_path / "c"), COUNTS)
    corpus = Corpus.open(str(tmp_path / "c"), SpanCache(tmp_path / "tiles", 10**6))
    corpus.tile(0)
    assert not (tmp_path / "tiles").exists()
