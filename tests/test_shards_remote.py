"""The Ray feed gives the local feed's batches, also when its readers are killed."""

import os
import signal
import sys
import time

import numpy as np
import pytest
from corpora import make_corpus
from ray import cloudpickle

from infra import cluster
from infra.errors import ResourceError, UsageError
from shards.feed import DrawFailed, LocalFeed, generator, whole
from shards.plan import Plan
from shards.reader import Corpus, ShardCorrupt
from shards.remote import Readers, RemoteFeed

# Readers cannot import this file: its draws travel with their code.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

COUNTS = (13, 8, 20)
THRIFTY = Readers(2, cpus=0.5)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("remote")
    make_corpus(str(folder), COUNTS, codec="blosc2", label=True)
    return Corpus.open(str(folder))


@pytest.fixture(scope="module", autouse=True)
def ray_session():
    with cluster.session(cpus=2):
        yield


def crop(tile, rng):
    row, col = rng.integers(0, 8, 2)
    return {"crop": tile.pixels[:, row : row + 8, col : col + 8], "noise": rng.normal(size=3).astype(np.float32)}


def slow_crop(tile, rng):
    time.sleep(0.02)
    return crop(tile, rng)


def plan_of(corpus, batch=12):
    return Plan(corpus.shard_counts(), 4, 5, batch)


def assert_equal(found, expected):
    assert [b.step for b in found] == [b.step for b in expected]
    for a, b in zip(found, expected, strict=True):
        assert a.arrays.keys() == b.arrays.keys()
        for name, value in b.arrays.items():
            np.testing.assert_array_equal(a.arrays[name], value)
            assert (a.arrays[name].dtype, a.arrays[name].flags.writeable) == (value.dtype, True)


def test_remote_and_local_and_naive_batches_are_the_same_bits(corpus):
    plan = plan_of(corpus)
    feed = RemoteFeed(corpus, plan, crop, 1, 2, Readers(2, threads=2, cpus=0.5), ahead=2)
    remote = list(feed.batches(3, 9))
    assert_equal(remote, list(LocalFeed(corpus, plan, crop, 1, 2).batches(3, 9)))
    naive = [[crop(corpus.tile(int(plan.tiles(s)[p])), generator(4, s, p)) for p in range(6, 12)] for s in range(3, 9)]
    for batch, draws in zip(remote, naive, strict=True):
        np.testing.assert_array_equal(batch.arrays["noise"], np.stack([d["noise"] for d in draws]))
    told = feed.metrics()
    assert (told.steps, told.tiles, told.readers_lost) == (6, 36, 0)
    assert told.reads >= 36
    assert told.bytes_read > 0
    assert 0 <= told.wait_share <= 1


def test_whole_tiles_from_more_readers_than_divide_the_batch(corpus):
    plan = plan_of(corpus, batch=8)
    feed = RemoteFeed(corpus, plan, whole, readers=Readers(3, cpus=0.5), ahead=1)
    assert_equal(list(feed.batches(10**6, 10**6 + 3)), list(LocalFeed(corpus, plan).batches(10**6, 10**6 + 3)))


def test_a_killed_reader_is_replaced_and_the_batches_stay_the_same(corpus):
    plan = plan_of(corpus)
    feed = RemoteFeed(corpus, plan, slow_crop, readers=THRIFTY, ahead=2)
    found, killed = [], []
    for batch in feed.batches(0, 12):
        found.append(batch)
        if batch.step in (2, 6):
            killed.append(feed.places()[batch.step % 4 // 2][1])
            os.kill(killed[-1], signal.SIGKILL)
    assert_equal(found, list(LocalFeed(corpus, plan, crop).batches(0, 12)))
    assert feed.metrics().readers_lost == 2
    assert not {pid for _, pid in feed.places()} & set(killed)


def test_a_reader_that_hangs_is_replaced(corpus):
    plan = plan_of(corpus)
    feed = RemoteFeed(corpus, plan, crop, readers=Readers(1, cpus=0.5, patience_s=2), ahead=1)
    found = []
    for batch in feed.batches(0, 5):
        found.append(batch)
        if batch.step == 1:
            os.kill(feed.places()[0][1], signal.SIGSTOP)
    assert_equal(found, list(LocalFeed(corpus, plan, crop).batches(0, 5)))
    assert feed.metrics().readers_lost == 1


def test_a_part_that_kills_every_reader_is_given_up(corpus):
    deadly = corpus.key(int(plan_of(corpus).tiles(1)[0]))

    def draw(tile, rng):
        if tile.key == deadly:
            os._exit(1)
        return crop(tile, rng)

    feed = RemoteFeed(corpus, plan_of(corpus), draw, readers=Readers(1, cpus=0.5))
    with pytest.raises(ResourceError, match=r"places 0 to 12 of the batch: 4 readers were lost over it"):
        list(feed.batches(0, 5))


def test_errors_come_as_from_a_local_feed(corpus, tmp_path):
    def draw(tile, rng):
        raise ZeroDivisionError("no ground")

    with pytest.raises(DrawFailed, match=r"tile scene-.*: ZeroDivisionError: no ground"):
        list(RemoteFeed(corpus, plan_of(corpus), draw, readers=THRIFTY).batches(0, 5))
    store, manifest = make_corpus(str(tmp_path), COUNTS)
    for shard in manifest.shards:
        store.put(shard.key, bytes(shard.bytes))
    bad = Corpus.open(str(tmp_path))
    with pytest.raises(ShardCorrupt, match="expected CRC32C"):
        list(RemoteFeed(bad, plan_of(bad), readers=THRIFTY).batches(0, 5))


def test_back_pressure_holds_the_readers(corpus, tmp_path):
    def draw(tile, rng):
        (tmp_path / f"{os.getpid()}-{time.monotonic_ns()}").touch()
        return crop(tile, rng)

    batches = RemoteFeed(corpus, plan_of(corpus), draw, readers=THRIFTY, ahead=2).batches(0, 50)
    next(batches)
    most = 12 * (1 + 1 + 2)  # in use, put together, ahead
    deadline = time.monotonic() + 20
    while len(list(tmp_path.iterdir())) < most and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    assert len(list(tmp_path.iterdir())) == most
    begun = time.monotonic()
    batches.close()
    assert time.monotonic() - begun < 5


def test_what_cannot_be_is_refused(corpus, monkeypatch):
    with pytest.raises(UsageError, match="0 readers"):
        RemoteFeed(corpus, plan_of(corpus), readers=Readers(0))
    monkeypatch.setattr("shards.remote._READY_S", 1.0)
    feed = RemoteFeed(corpus, plan_of(corpus), readers=Readers(1, resources={"moon": 1}))
    with pytest.raises(ResourceError, match=r"1 readers with 1.0 CPUs and \{'moon': 1\} each did not come up"):
        next(feed.batches(0, 1))
