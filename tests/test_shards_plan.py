import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import UsageError
from shards.plan import Plan, interleave

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(sum)


def read(plan: Plan, positions: int) -> np.ndarray:
    steps = -(-positions // plan.batch)
    return np.concatenate([plan.tiles(s) for s in range(steps)])[:positions]


@settings(max_examples=300, deadline=None)
@given(COUNTS, st.integers(0, 2**64 - 1), st.integers(1, 70), st.integers(1, 50))
def test_every_tile_comes_exactly_once_in_every_epoch(counts, seed, lanes, batch):
    plan = Plan(counts, seed, lanes, batch)
    epochs = read(plan, 3 * plan.size).reshape(3, plan.size)
    assert (np.sort(epochs, axis=1) == np.arange(sum(counts))).all()


@settings(max_examples=100, deadline=None)
@given(COUNTS, st.integers(1, 16), st.sampled_from([1, 2, 3, 4, 6, 8]), st.integers(0, 40))
def test_the_shares_of_any_world_are_the_batch(counts, per_rank, world, step):
    plan = Plan(counts, 7, 8, per_rank * world)
    shares = [Plan(counts, 7, 8, per_rank * world).share(step, rank, world) for rank in range(world)]
    np.testing.assert_array_equal(np.concatenate(shares), plan.tiles(step))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 500), st.integers(1, 600))
def test_lanes_are_stretches_that_differ_by_one_and_take_turns(size, lanes):
    order = interleave(size, lanes)
    assert sorted(order) == list(range(size))
    lengths = [len(order[lane::lanes]) for lane in range(lanes)]
    assert max(lengths) - min(lengths) <= 1
    stretches = [order[lane::lanes] for lane in range(min(lanes, size))]
    np.testing.assert_array_equal(np.concatenate(stretches), np.arange(size))


def naive_order(counts, seed, lanes, epoch):
    """The order told once more with lists."""
    words = np.random.Philox(key=seed + 2**64, counter=epoch * 2**192)
    rank_of_shard = words.random_raw(len(counts)).tolist()
    shards, n = [], 0
    for count in counts:
        rank_of_tile = words.random_raw(count).tolist() if count else []
        shards.append([n + t for t in sorted(range(count), key=rank_of_tile.__getitem__)])
        n += count
    row = [tile for s in sorted(range(len(counts)), key=rank_of_shard.__getitem__) for tile in shards[s]]
    cuts = [n // lanes + (lane < n % lanes) for lane in range(lanes)]
    starts = [sum(cuts[:lane]) for lane in range(lanes)]
    return [row[starts[lane] + turn] for turn in range(max(cuts)) for lane in range(lanes) if turn < cuts[lane]]


@settings(max_examples=50, deadline=None)
@given(COUNTS, st.integers(0, 1000), st.integers(1, 40), st.integers(1, 9))
def test_the_order_is_that_of_the_naive_telling(counts, seed, lanes, batch):
    plan = Plan(counts, seed, lanes, batch)
    expected = [tile for epoch in range(3) for tile in naive_order(counts, seed, lanes, epoch)]
    assert read(plan, 3 * plan.size).tolist() == expected


def test_the_order_is_frozen():
    plan = Plan([5, 3, 0, 9, 4], seed=2026, lanes=3, batch=8)
    assert [plan.tiles(s).tolist() for s in (0, 2, 5)] == GOLDEN
    big = Plan([300, 17, 256, 1000], seed=2**64 - 1, lanes=64, batch=256)
    digest = hashlib.sha256(np.concatenate([big.tiles(s) for s in range(20)]).astype("<i8").tobytes())
    assert digest.hexdigest() == GOLDEN_DIGEST


GOLDEN = [[6, 9, 13, 5, 15, 12, 7, 10], [11, 1, 20, 8, 4, 20, 12, 7], [6, 2, 7, 0, 15, 6, 18, 9]]
GOLDEN_DIGEST = "7e5c241690457881d9e5edb4cc64de0483e2c10e1c321415b494b617134f29f2"


def test_any_step_is_found_without_the_steps_before_it():
    fresh, used = Plan([90, 41, 77], 3, 16, 32), Plan([90, 41, 77], 3, 16, 32)
    for step in range(60):
        used.tiles(step)
    for step in (59, 3, 31, 1_000_000, 0):
        np.testing.assert_array_equal(fresh.tiles(step), used.tiles(step))


def test_a_batch_mixes_nearly_as_many_scenes_as_chance_would():
    rng = np.random.default_rng(0)
    per_scene = rng.integers(1500, 4000, 200)  # 200 scenes in shards of at most 256 tiles
    scene_of_shard = np.repeat(np.arange(200), -(-per_scene // 256))
    counts = np.concatenate([[256] * (n // 256) + [n % 256] * (n % 256 > 0) for n in per_scene.tolist()])
    scene = np.repeat(scene_of_shard, counts)
    plan = Plan(counts, 1, lanes=256, batch=256)
    steps = range(0, plan.size // 256, 37)
    mixed = np.mean([len(np.unique(scene[plan.tiles(s)])) for s in steps])
    share = per_scene / plan.size
    ideal = (1 - (1 - share) ** 256).sum()  # expectation of a free draw
    assert mixed > 0.95 * ideal
    assert len(np.unique(np.searchsorted(np.cumsum(counts), plan.tiles(11), "right"))) > 250


def test_epochs_and_seeds_differ():
    plan = Plan([500] * 4, 5, 16, 500)
    first = read(plan, 2000)
    assert (np.concatenate([plan.tiles(s) for s in range(4, 8)]) == first).mean() < 0.02
    assert (read(Plan([500] * 4, 6, 16, 500), 2000) == first).mean() < 0.02


def test_a_selection_is_read_by_its_own_numbers():
    chosen = np.array([2, 3, 11, 40, 41])
    plan = Plan([2, 1, 2], 0, 2, 5, tiles=chosen)
    for step in range(4):
        assert sorted(plan.tiles(step)) == chosen.tolist()
    assert plan.epoch(3) == 3.0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Plan([], 0, 1, 1), "no tiles"),
        (lambda: Plan([0, 0], 0, 1, 1), "no tiles"),
        (lambda: Plan([4], -1, 1, 1), "seed -1"),
        (lambda: Plan([4], 0, 0, 1), "lanes 0"),
        (lambda: Plan([4], 0, 1, 1, tiles=np.arange(3)), "3 tile numbers"),
        (lambda: Plan([4], 0, 1, 6).share(0, 0, 4), "batch of 6 cannot be shared by 4 ranks"),
        (lambda: Plan([4], 0, 1, 4).share(0, 2, 2), "rank 2"),
        (lambda: Plan([4], 0, 1, 4).tiles(-1), "step -1"),
    ],
)
def test_what_cannot_be_planned_is_refused(make, said):
    with pytest.raises(UsageError, match=said):
        make()


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any),
    st.integers(0, 2**64 - 1),
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5, 3.0]), min_size=6, max_size=6),
)
def test_weighted_tiles_come_as_often_as_their_weights_say(counts, seed, of_shard):
    weights = np.repeat(of_shard[: len(counts)], counts)
    if not weights.any():
        with pytest.raises(UsageError, match="leave no tile"):
            Plan(counts, seed, 3, 1, weights=weights)
        return
    plan = Plan(counts, seed, 3, 1, weights=weights)
    epochs = 40  # whole turns of every rest here: 4 * 10
    seen = np.bincount(np.concatenate([plan.tiles(step) for step in range(plan.size * epochs)]), minlength=sum(counts))
    extra = seen - epochs * np.floor(weights).astype(int)
    for rest in set((weights % 1).tolist()):
        group = extra[weights % 1 == rest]
        assert group.sum() == epochs * np.ceil(rest * len(group))
        assert np.ptp(group) <= 1
    assert plan.tiles(5).tolist() == Plan(counts, seed, 3, 1, weights=weights).tiles(5).tolist()


def test_whole_weights_of_one_change_nothing():
    plain, weighted = (Plan([5, 0, 7], 11, 4, 6, weights=w) for w in (None, np.ones(12)))
    for step in range(9):
        assert plain.tiles(step).tolist() == weighted.tiles(step).tolist()
