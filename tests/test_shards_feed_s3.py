"""The feed from a bucket: through bad weather, over bad bytes, within its memory."""

import time
import tracemalloc

import numpy as np
import pytest
from corpora import make_corpus
from fault_proxy import FAULTS, weather_before

from infra.errors import UsageError
from infra.retry import RetryPolicy
from infra.s3 import S3Store
from infra.store import Unreachable
from shards.feed import LocalFeed
from shards.metrics import FeedMetrics, Teller
from shards.plan import Plan
from shards.reader import Corpus, ShardCorrupt

COUNTS = (13, 8, 20)
QUICK = RetryPolicy(
    deadline_s=20, first_contact_s=20, first_wait_s=0.005, longest_wait_s=0.1, connect_timeout_s=9, read_timeout_s=9
)


@pytest.fixture
def url(s3_url):
    make_corpus(f"{s3_url}/c", COUNTS, codec="blosc2", label=True)
    return f"{s3_url}/c"


@pytest.fixture
def weather(url, s3_server, monkeypatch):
    with weather_before(s3_server.environment["AWS_ENDPOINT_URL"]) as weather:
        monkeypatch.setenv("AWS_ENDPOINT_URL", weather.endpoint)
        yield weather


def opened(url: str) -> Corpus:
    """The corpus with a store that waits only shortly."""
    corpus = Corpus.open(url)
    return Corpus(S3Store(url.split("/")[2], "c", QUICK), corpus.manifest, corpus.table)


def plan_of(corpus, batch=16):
    return Plan(corpus.shard_counts(), 4, 5, batch)


def read(corpus, steps=6, **options):
    feed = LocalFeed(corpus, plan_of(corpus), **options)
    return [batch.arrays for batch in feed.batches(0, steps)], feed.metrics()


@pytest.fixture(scope="module")
def twin():
    """The same corpus in memory, for what is expected."""
    make_corpus("memory://twin-of-feed-s3", COUNTS, codec="blosc2", label=True)
    return Corpus.open("memory://twin-of-feed-s3")


def assert_right(batches, twin):
    for step, arrays in enumerate(batches):
        tiles = [twin.tile(int(i)) for i in plan_of(twin).tiles(step)]
        np.testing.assert_array_equal(arrays["pixels"], np.stack([t.pixels for t in tiles]))
        np.testing.assert_array_equal(arrays["label"], np.stack([t.label for t in tiles]))


def test_batches_from_a_bucket_are_those_of_single_tiles_with_fewer_requests(url, twin):
    corpus = Corpus.open(url)
    for connections in (None, 0, 1, 40):
        batches, told = read(corpus, connections=connections)
        assert_right(batches, twin)
    assert (told.tiles, told.steps, told.retries, told.rereads) == (96, 6, 0, 0)
    corpus = Corpus.open(url)
    _, together = read(corpus)
    assert together.reads < 96  # neighbours of a shard in one request
    assert together.bytes_per_s > 0
    assert 0 <= together.wait_share <= 1


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_the_same_batches_through_bad_weather_with_bounded_retries(url, twin, weather, share):
    corpus = opened(url)
    rng = np.random.default_rng(1)
    kinds = [kind for kind in FAULTS if kind != "silence"]  # each would take its time-out of 1 s
    fates = [kinds[int(rng.integers(len(kinds)))] if rng.random() < share else None for _ in range(5000)]
    weather.fault = lambda method, number: fates[number]
    begun = len(weather.requests)
    batches, told = read(corpus, steps=20)
    asked = len(weather.requests) - begun
    weather.fault = lambda method, number: None
    assert_right(batches, twin)
    faults = sum(fate is not None for fate in fates[begun : begun + asked])
    assert told.retries == faults > 0
    assert asked == told.reads + told.retries
    assert told.retries <= 2 * share * told.reads + 5


def test_a_server_that_never_answers_well_ends_the_feed_at_its_deadline(url, weather):
    corpus = Corpus.open(url)
    store = S3Store(url.split("/")[2], "c", RetryPolicy(1, 1, 0.01, 0.1, 1, 1))
    weather.fault = lambda method, number: "503"
    begun = time.monotonic()
    with pytest.raises(Unreachable, match="gave up on s3://"):
        read(Corpus(store, corpus.manifest, corpus.table))
    assert time.monotonic() - begun < 10


def test_bytes_damaged_on_the_way_are_read_again(url, twin, weather):
    corpus = opened(url)
    weather.fault = lambda method, number: "flip down" if number % 3 == 0 else None
    batches, told = read(corpus, connections=1)
    weather.fault = lambda method, number: None
    assert_right(batches, twin)
    assert told.rereads > 0


def spoil(url: str, corpus: Corpus, i: int) -> str:
    """Flip a bit of a tile where it is stored; give the tile's name."""
    store, key = corpus.store, corpus.manifest.shards[corpus.rows.shard[i]].key
    data = bytearray(store.get(key))
    data[int(corpus.rows.offset[i]) + 100] ^= 4
    store.put(key, bytes(data))
    return corpus.key(i)


def test_a_bad_tile_is_read_twice_and_then_named_and_its_neighbours_are_well(url):
    corpus = Corpus.open(url)
    bad = int(plan_of(corpus).tiles(2)[5])
    name = spoil(url, corpus, bad)
    first = next(s for s in range(6) if bad in plan_of(corpus).tiles(s))
    feed, seen = LocalFeed(corpus, plan_of(corpus)), []
    with pytest.raises(ShardCorrupt, match=rf"tile {name}, offset"):
        seen.extend(batch.step for batch in feed.batches(0, 6))
    assert seen == list(range(first))
    others = [i for i in range(len(corpus)) if corpus.rows.shard[i] == corpus.rows.shard[bad] and i != bad]
    found = corpus.spans.together([*others, bad])
    assert isinstance(found[bad], ShardCorrupt)
    assert all(not isinstance(found[i], ShardCorrupt) for i in others)


@pytest.mark.parametrize("remote", [True, False])
def test_a_bad_tile_is_skipped_for_the_same_other_one_on_any_ranks_and_threads(url, tmp_path, remote):
    if not remote:
        url = str(tmp_path)
        make_corpus(url, COUNTS, codec="blosc2", label=True)
    corpus = Corpus.open(url)
    plan = plan_of(corpus)
    step, position = 1, 6
    bad = int(plan.tiles(step)[position])
    spoil(url, corpus, bad)
    instead = next(int(t[position]) for t in map(plan.tiles, range(step + 1, 20)) if t[position] != bad)
    expected = plan.tiles(step).copy()
    expected[expected == bad] = instead

    def key_of(tile, rng):
        return {"key": np.array(corpus.find(tile.key)), "random": rng.integers(0, 2**62, ())}

    seen = []
    for world, threads in ((1, 1), (2, 3), (4, 2)):
        feeds = [LocalFeed(corpus, plan, key_of, r, world, threads, on_corrupt="skip") for r in range(world)]
        batches = [next(iter(feed.batches(step, step + 1))) for feed in feeds]
        assert np.concatenate([b.arrays["key"] for b in batches]).tolist() == expected.tolist()
        seen.append(np.concatenate([b.arrays["random"] for b in batches]).tolist())
        assert sum(feed.metrics().replaced for feed in feeds) == 1
    assert seen[0] == seen[1] == seen[2]


def test_a_corpus_with_nothing_but_bad_tiles_ends_the_feed_though_it_skips(tmp_path):
    store, manifest = make_corpus(str(tmp_path), COUNTS)
    for shard in manifest.shards:
        store.put(shard.key, bytes(shard.bytes))
    corpus = Corpus.open(str(tmp_path))
    with pytest.raises(ShardCorrupt, match="expected CRC32C"):
        read(corpus, on_corrupt="skip")


def test_memory_stays_within_what_is_stated(s3_url):
    make_corpus(f"{s3_url}/big", (60,), codec="npy", size=128, max_bytes=10**6)
    corpus = Corpus.open(f"{s3_url}/big")
    batch, ahead, tile = 12, 2, 2 * 128 * 128 * 2
    plan = Plan(corpus.shard_counts(), 4, 5, batch)
    list(LocalFeed(corpus, plan, ahead=ahead).batches(0, 2))  # what is loaded once
    feed = LocalFeed(corpus, plan, threads=2, ahead=ahead, connections=2)
    tracemalloc.start()
    try:
        for number, _ in enumerate(feed.batches(0, 30)):
            if number % 5 == 0:
                time.sleep(0.1)  # let it run as far ahead as it can
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    stated = (ahead + 2) * batch * tile + 2 * tile + (ahead + 1) * batch * (tile + 512) + 2 * min(4 << 20, 10**6)
    assert batch * tile < peak < stated + 10**6


def test_what_is_told_is_small_and_since_last_time(url, tmp_path):
    from prometheus_client.parser import text_string_to_metric_families

    corpus = Corpus.open(url)
    feed = LocalFeed(corpus, plan_of(corpus))
    tell = Teller(feed, tmp_path / "sarsense.prom", run='a"b\\c\nd', rank="0")
    list(feed.batches(0, 3))
    assert tell().keys() == {"bytes_per_s"}
    before = feed.metrics()
    list(feed.batches(3, 5))
    since = feed.metrics().since(before)
    assert (since.steps, since.tiles) == (2, 32)
    tell()
    families = {f.name: f for f in text_string_to_metric_families((tmp_path / "sarsense.prom").read_text())}
    (sample,) = families["sarsense_feed_tiles"].samples
    assert (sample.value, sample.labels, families["sarsense_feed_tiles"].type) == (
        80, {"run": "a\"b\\c\nd", "rank": "0"}, "counter",
    )  # fmt: skip
    assert families["sarsense_feed_read_bytes"].samples[0].value == feed.metrics().bytes_read > 0
    assert len(families) == 13
    assert [path.name for path in tmp_path.iterdir()] == ["sarsense.prom"]
    assert FeedMetrics().line() == {"bytes_per_s": 0}
    assert FeedMetrics(wall_s=2, wait_s=1, tiles=10, cache_hits=3, cache_misses=1, retries=2).line() == {
        "bytes_per_s": 0, "cache_hit_share": 0.75, "retries": 2,
    }  # fmt: skip


def test_dials_that_cannot_be_are_refused(url):
    corpus = Corpus.open(url)
    with pytest.raises(UsageError, match="connections -1"):
        LocalFeed(corpus, plan_of(corpus), connections=-1)
