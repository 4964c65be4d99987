import threading
import time

import numpy as np
import pytest
from corpora import make_corpus, scene_tiles

from infra.errors import UsageError
from infra.store import Unreachable, open_store
from shards.feed import DrawFailed, LocalFeed, generator, whole
from shards.plan import Plan
from shards.reader import Corpus, ShardCorrupt

COUNTS = (13, 8, 20)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("feed")
    make_corpus(str(folder), COUNTS, codec="blosc2", label=True)
    return Corpus.open(str(folder))


def crop(tile, rng):
    row, col = rng.integers(0, 8, 2)
    return {"crop": tile.pixels[:, row : row + 8, col : col + 8], "noise": rng.normal(size=3).astype(np.float32)}


def plan_of(corpus, batch=12, seed=4, lanes=5):
    return Plan(corpus.shard_counts(), seed, lanes, batch)


def stream(corpus, draw, steps=range(3, 9), **options):
    feed = LocalFeed(corpus, plan_of(corpus), draw, **options)
    return list(feed.batches(steps.start, steps.stop))


@pytest.mark.parametrize("draw", [crop, whole])
def test_batches_are_the_same_for_any_threads_and_ranks(corpus, draw):
    plan = plan_of(corpus)
    naive = [
        [draw(corpus.tile(int(i)), generator(4, step, position)) for position, i in enumerate(plan.tiles(step))]
        for step in range(3, 9)
    ]
    for world in (1, 2, 4):
        for threads in (1, 2, 4):
            ranks = [stream(corpus, draw, rank=r, world=world, threads=threads) for r in range(world)]
            for n, draws in enumerate(naive):
                assert [batches[n].step for batches in ranks] == [n + 3] * world
                for name in draws[0]:
                    joined = np.concatenate([batches[n].arrays[name] for batches in ranks])
                    np.testing.assert_array_equal(joined, np.stack([d[name] for d in draws]))


def test_an_epoch_of_batches_holds_every_tile_once(corpus):
    feed = LocalFeed(corpus, Plan(corpus.shard_counts(), 0, 8, 41), lambda t, _: {"first": t.pixels[:, 0, 0]})
    (batch,) = feed.batches(5, 6)
    every = [t.pixels[:, 0, 0].tolist() for n, c in enumerate(COUNTS) for t in scene_tiles(f"scene-{n}", c)]
    assert sorted(batch.arrays["first"].tolist()) == sorted(every)


def test_whole_tiles_are_decoded_into_the_batch(corpus):
    (batch,) = LocalFeed(corpus, plan_of(corpus)).batches(0, 1)
    assert {name: (a.shape, a.dtype.str) for name, a in batch.arrays.items()} == {
        "pixels": ((12, 2, 16, 16), "<u2"),
        "label": ((12, 16, 16), "|u1"),
    }


def test_the_generators_of_all_places_are_frozen_and_differ():
    drawn = [generator(1, s, p).integers(0, 10**6) for s, p in ((0, 0), (0, 1), (1, 0), (10**12, 2**40))]
    assert drawn == GOLDEN
    assert generator(2**64 - 1, 0, 0).integers(0, 10**6) != drawn[0]
    assert len({generator(7, s, p).bytes(16) for s in range(40) for p in range(40)}) == 1600


GOLDEN = [708304, 68510, 810074, 457439]


def test_a_bad_tile_stops_the_consumer_at_its_step_with_its_name(tmp_path):
    store, manifest = make_corpus(str(tmp_path), COUNTS)
    corpus = Corpus.open(str(tmp_path))
    plan = plan_of(corpus)
    bad = int(plan.tiles(2)[7])
    first_step = next(s for s in range(10) if bad in plan.tiles(s))
    key = manifest.shards[corpus.rows.shard[bad]].key
    data = bytearray(store.get(key))
    data[int(corpus.rows.offset[bad]) + 200] ^= 1
    store.put(key, bytes(data))
    seen = []
    batches = LocalFeed(corpus, plan, threads=4).batches(0, 10)
    with pytest.raises(ShardCorrupt, match=rf"shard {key}, tile {corpus.key(bad)}, offset"):
        seen.extend(batch.step for batch in batches)
    assert seen == list(range(first_step))


def no_threads_left() -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if not any(t.name.startswith("feed") for t in threading.enumerate()):
            return True
        time.sleep(0.01)
    return False


def test_what_fails_in_a_draw_names_the_tile_and_the_place(corpus):
    def draw(tile, _):
        if tile.key == corpus.key(7):
            raise ZeroDivisionError("no ground")
        return {"x": tile.pixels}

    with pytest.raises(
        DrawFailed, match=rf"tile {corpus.key(7)} \(step \d, place \d+ of the batch\): ZeroDivisionError: no ground"
    ):
        list(LocalFeed(corpus, plan_of(corpus), draw).batches(0, 5))
    assert no_threads_left()


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lambda t: {"x": t.pixels[:, :4]}, r"x is \(2, 4, 16\) uint16, in other tiles of the batch"),
        (lambda t: {"x": t.pixels.astype("f4")}, "x is .* float32, in other tiles of the batch"),
        (lambda t: {"y": t.pixels}, r"drew \['y'\], other tiles"),
    ],
)
def test_draws_that_do_not_stack_are_refused(corpus, other, said):
    with pytest.raises(DrawFailed, match=said):
        list(
            LocalFeed(
                corpus, plan_of(corpus), lambda t, _: other(t) if t.key == corpus.key(5) else {"x": t.pixels}
            ).batches(0, 5)
        )


def test_tiles_of_two_sizes_are_not_stacked(tmp_path):
    from corpora import make_source, make_tile

    from infra.record import digest
    from shards.index import join_units, put_index
    from shards.manifest import Manifest, publish
    from shards.tile import DbScale
    from shards.writer import write_unit

    store = open_store(str(tmp_path))
    tiles = [make_tile("a", "s", size=16), make_tile("b", "s", size=8)]
    unit = join_units([write_unit(store, "s", tiles, "npy", 10**6)])
    shards = tuple(unit.shards)
    named = {"recipe": {}, "recipe_digest": digest({}), "pixels_digest": digest({}), "scale": DbScale(), "codec": "npy"}
    parts = {"shards": shards, "index": put_index(store, unit.rows), "sources": (make_source("s", 2),)}
    publish(store, Manifest(**named, **parts, tiles=2, bytes=shards[0].bytes))
    corpus = Corpus.open(str(tmp_path))
    with pytest.raises(DrawFailed, match="pixels is"):
        list(LocalFeed(corpus, Plan([2], 0, 1, 2), threads=1).batches(0, 1))


def test_memory_is_bounded_by_the_batches_ahead(corpus):
    drawn = []

    def draw(tile, rng):
        drawn.append(tile.key)
        return crop(tile, rng)

    batches = LocalFeed(corpus, plan_of(corpus), draw, ahead=2).batches(0, 100)
    next(batches)
    deadline = time.monotonic() + 20
    while len(drawn) < 3 * 12 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert len(drawn) == 3 * 12
    batches.close()


def test_leaving_early_ends_the_threads_promptly(corpus):
    def slow(tile, rng):
        time.sleep(0.02)
        return crop(tile, rng)

    batches = LocalFeed(corpus, plan_of(corpus), slow, threads=2, ahead=8).batches(0, 100)
    next(batches)
    begun = time.perf_counter()
    batches.close()
    assert time.perf_counter() - begun < 2.0
    assert no_threads_left()


def test_waiting_is_measured(corpus):
    def slow(tile, rng):
        time.sleep(0.01)
        return crop(tile, rng)

    (batch,) = LocalFeed(corpus, plan_of(corpus), slow, threads=1).batches(0, 1)
    assert 0.12 <= batch.wait_s < 20
    feed = LocalFeed(corpus, plan_of(corpus), crop, threads=2).batches(0, 4)
    next(feed)
    time.sleep(0.5)
    assert next(feed).wait_s < 0.1
    feed.close()


def test_storage_errors_come_as_they_are(corpus):
    def draw(tile, rng):
        raise Unreachable("no answer")

    with pytest.raises(Unreachable, match="no answer"):
        next(LocalFeed(corpus, plan_of(corpus), draw).batches(0, 1))


def test_nothing_is_read_where_nothing_is_asked(corpus):
    assert list(LocalFeed(corpus, plan_of(corpus)).batches(5, 5)) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [({"threads": 0}, "threads 0"), ({"ahead": 0}, "ahead 0"), ({"world": 5}, "batch of 12"), ({"rank": 1}, "rank 1")],
)
def test_a_feed_that_cannot_be_is_refused(corpus, options, said):
    with pytest.raises(UsageError, match=said):
        LocalFeed(corpus, plan_of(corpus), **options)


def test_memory_is_used_again_only_when_nothing_refers_to_it(corpus):
    feed = LocalFeed(corpus, plan_of(corpus), ahead=1)
    kept, addresses = [], set()
    for batch in feed.batches(0, 30):
        kept.append((batch.step, batch.arrays["pixels"][3, :, 2:5]))  # a view of a view
        addresses.add(batch.arrays["label"].ctypes.data)
    for step, rows in kept:
        np.testing.assert_array_equal(rows, corpus.tile(int(plan_of(corpus).tiles(step)[3])).pixels[:, 2:5])
    assert len(addresses) <= 4


def test_a_batch_stays_as_it_is_while_it_is_held(corpus):
    batches = list(LocalFeed(corpus, plan_of(corpus), ahead=1).batches(0, 12))
    for batch in batches:
        expected = [corpus.tile(int(i)).pixels for i in plan_of(corpus).tiles(batch.step)]
        np.testing.assert_array_equal(batch.arrays["pixels"], np.stack(expected))
