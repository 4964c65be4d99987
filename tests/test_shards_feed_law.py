"""Laws of reading: every tile exactly once whatever the ranks, threads and resumes; nothing bad gets through."""

import numpy as np
import pytest
from corpora import make_corpus
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.store import open_store
from shards.feed import LocalFeed, generator
from shards.plan import Plan
from shards.reader import Corpus, ShardCorrupt

COUNTS = (13, 8, 20)
SIZE = sum(COUNTS)
WORLDS = st.sampled_from([1, 2, 3, 4, 6, 8])


@pytest.fixture(scope="module")
def corpus():
    make_corpus("memory://law", COUNTS, size=2)
    return Corpus.open("memory://law")


@pytest.fixture(scope="module")
def tile_of(corpus):
    """Which tile has these pixels."""
    return {corpus.tile(i).pixels.tobytes(): i for i in range(SIZE)}


def numbered(tile, rng):
    return {"number": tile.pixels.ravel(), "random": rng.integers(0, 2**62, ())}


def of_world(corpus, plan, world, threads, start, stop):
    """The global batches of some steps, put together from the shares of all ranks."""
    ranks = [LocalFeed(corpus, plan, numbered, r, world, threads, 2).batches(start, stop) for r in range(world)]
    return [
        tuple(np.concatenate([b.arrays[name] for b in shares]) for name in ("number", "random"))
        for shares in zip(*ranks, strict=True)
    ]


@settings(max_examples=1000, deadline=None)
@given(
    seed=st.integers(0, 2**32), lanes=st.integers(1, 12), per_rank=st.integers(1, 3), first=WORLDS, second=WORLDS,
    threads=st.integers(1, 3), data=st.data(),
)  # fmt: skip
def test_every_tile_comes_exactly_once_though_the_run_goes_on_with_other_ranks(
    corpus, tile_of, seed, lanes, per_rank, first, second, threads, data
):
    batch = per_rank * int(np.lcm(first, second))
    plan = Plan(corpus.shard_counts(), seed, lanes, batch)
    start = data.draw(st.integers(0, 10**6))
    stop = start + -(-(2 * SIZE - 1) // batch)  # at least one whole epoch is among them
    change = data.draw(st.integers(start, stop))
    batches = of_world(corpus, plan, first, threads, start, change)
    batches += of_world(corpus, plan, second, threads, change, stop)
    found = [tile_of[numbers.tobytes()] for numbers in np.concatenate([numbers for numbers, _ in batches])]
    # The plan in three lines: position p of a run is place p mod N of epoch p div N, and p mod B of step p div B.
    positions = range(start * batch, stop * batch)
    assert found == [int(plan.tiles(p // batch)[p % batch]) for p in positions]
    epochs: dict[int, list[int]] = {p // SIZE: [] for p in positions}
    for i, p in zip(found, positions, strict=True):
        epochs[p // SIZE].append(i)
    assert all(len(set(epoch)) == len(epoch) for epoch in epochs.values())
    assert max(len(epoch) for epoch in epochs.values()) == SIZE
    random = np.concatenate([values for _, values in batches])
    p = data.draw(st.integers(0, len(random) - 1))
    assert random[p] == generator(seed, start + p // batch, p % batch).integers(0, 2**62)


def flip(data: bytes, bit: int) -> bytes:
    broken = bytearray(data)
    broken[bit // 8] ^= 1 << bit % 8
    return bytes(broken)


@pytest.fixture(scope="module", params=["npy", "blosc2"])
def small(request):
    url = f"memory://reader-{request.param}"
    store, manifest = make_corpus(url, (4, 4), codec=request.param, label=True, max_bytes=10**6, size=8)
    corpus = Corpus.open(url)
    return store, manifest, corpus, [corpus.tile(i) for i in range(8)]


def what_is_read(corpus, expected):
    """How many tiles are named as bad; every other has to be right."""
    named = 0
    for i, tile in enumerate(expected):
        found = corpus.spans.together([i])[i]
        if isinstance(found, ShardCorrupt):
            assert f"tile {tile.key}, offset" in str(found)
            named += 1
            with pytest.raises(ShardCorrupt):
                corpus.tile(i)
        else:
            np.testing.assert_array_equal(corpus.tile(i).pixels, tile.pixels)
            np.testing.assert_array_equal(corpus.tile(i).label, tile.label)
    return named


def test_after_any_of_200_flips_a_tile_is_right_or_named(small):
    store, manifest, corpus, expected = small
    rows, rng = corpus.rows, np.random.default_rng(5)
    caught = 0
    for n in range(200):
        shard = manifest.shards[n % 2]
        intact = store.get(shard.key)
        bit = int(rng.integers(0, 8 * len(intact)))
        store.put(shard.key, flip(intact, bit))
        here = rows.shard == n % 2
        inside = [
            (offset <= bit // 8) & (bit // 8 < offset + length)
            for offset, length in ((rows.offset, rows.length), (rows.label_offset, rows.label_length))
        ]
        matters = bool((here & (inside[0] | inside[1])).any())
        assert what_is_read(corpus, expected) == matters  # what lies between the payloads changes no tile
        caught += matters
        store.put(shard.key, intact)
    assert caught > 20


def test_after_a_cut_at_any_block_a_tile_is_right_or_named(small):
    store, manifest, corpus, expected = small
    shard = manifest.shards[1]
    intact = store.get(shard.key)
    ends = (corpus.rows.label_offset + corpus.rows.label_length)[4:]
    for size in range(0, len(intact), 512):
        store.put(shard.key, intact[:size])
        assert what_is_read(corpus, expected) == (ends > size).sum()
    store.put(shard.key, intact)


def test_a_shard_that_was_mended_is_read_though_its_file_was_open(tmp_path):
    store, manifest = make_corpus(str(tmp_path), (4,), max_bytes=10**6)
    corpus, shard = Corpus.open(str(tmp_path)), manifest.shards[0]
    intact = store.get(shard.key)
    store.put(shard.key, bytes(shard.bytes))
    with pytest.raises(ShardCorrupt):
        corpus.tile(0)
    open_store(str(tmp_path)).put(shard.key, intact)  # a new file under the name
    assert corpus.tile(0).key == "scene-0-0000"
    assert corpus.spans.counts.read()["rereads"] == 2
