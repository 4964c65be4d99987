"""The order of reading as arithmetic: from (counts, seed, lanes, batch, step) to the tiles of that step."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from infra.errors import UsageError

_ORDER_STREAM = 1  # keeps the order's random words apart from those of the draws
_MIX_STREAM = 3  # and from those that say which tiles of a fractional weight come


class Plan:
    """Which tiles the batch of a step holds. The only state of reading is the step.

    Position ``p = step * batch + i`` is place ``p mod N`` of epoch ``p div N``: every tile comes exactly once per
    epoch, and a batch may hold the end of one epoch and the start of the next. An epoch shuffles the shards, and
    the tiles inside each, lays them in one row, cuts the row into ``lanes`` equal stretches and reads one tile of
    each lane in turn. So a batch mixes up to ``lanes`` shards, while a reader stays in few shards for long.

    ``counts`` is the number of tiles per shard; ``tiles`` (N) gives their global numbers, shard by shard, where the
    plan covers a selection. ``weights`` (N) says how often per epoch a tile comes, 1 if not given: with 2.5 twice,
    and in every second epoch once more; tiles of equal weight take turns with the rest. Nothing depends on the number
    of ranks, threads or on the release of NumPy.
    """

    def __init__(
        self,
        counts: Sequence[int] | NDArray[np.int64],
        seed: int,
        lanes: int,
        batch: int,
        tiles: NDArray[np.int64] | None = None,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        self._counts = np.asarray(counts, dtype=np.int64)
        count = int(self._counts.sum())
        self._tiles = np.arange(count) if tiles is None else np.asarray(tiles, dtype=np.int64)
        self.seed, self.lanes, self.batch = seed, lanes, batch
        _check(self._counts, self._tiles, seed, lanes, batch)
        self._mix = None if weights is None else _Mix(np.asarray(weights, np.float64), count, seed)
        self.size = count if self._mix is None else self._mix.size
        self._epochs: dict[int, NDArray[np.int64]] = {}

    def tiles(self, step: int) -> NDArray[np.int64]:
        """Give the global tile numbers of a step's batch, (batch,)."""
        if step < 0:
            raise UsageError(f"step {step}: steps count from 0")
        places = step * self.batch + np.arange(self.batch)
        epochs = places // self.size
        return np.concatenate([self._order(int(e))[places[epochs == e] % self.size] for e in np.unique(epochs)])

    def share(self, step: int, rank: int, world: int) -> NDArray[np.int64]:
        """Give one rank's tiles of a step, (batch / world,): the ranks' shares one behind the other are the batch."""
        return self.tiles(step)[share_of(self.batch, rank, world)]

    def epoch(self, step: int) -> float:
        """Give how many epochs are read before a step."""
        return step * self.batch / self.size

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._epochs:
            if len(self._epochs) > 1:
                self._epochs.pop(next(iter(self._epochs)))
            self._epochs[epoch] = self._make_order(epoch)
        return self._epochs[epoch]

    def _make_order(self, epoch: int) -> NDArray[np.int64]:
        counts, places = self._counts, np.arange(len(self._tiles))
        if self._mix is not None:
            places = self._mix.places(epoch)
            shard = np.repeat(np.arange(len(counts)), counts)
            counts = np.bincount(shard[places], minlength=len(counts))
        words = np.random.Philox(key=_ORDER_STREAM << 64 | self.seed, counter=epoch << 192)
        shards = np.argsort(words.random_raw(len(counts)), kind="stable")
        raw = words.random_raw(self.size)
        ends = np.cumsum(counts)
        row = [_permuted(raw, int(ends[s] - counts[s]), int(counts[s])) for s in shards]
        order: NDArray[np.int64] = self._tiles[places[np.concatenate(row)[interleave(self.size, self.lanes)]]]
        return order


def _permuted(raw: NDArray[np.uint64], first: int, count: int) -> NDArray[np.int64]:
    # By sorting random words: Generator.permutation may change with a release of NumPy.
    return first + np.argsort(raw[first : first + count], kind="stable")


class _Mix:
    """Which places of the row of tiles an epoch takes, and how often, where tiles have weights."""

    def __init__(self, weights: NDArray[np.float64], count: int, seed: int) -> None:
        if weights.shape != (count,) or not np.isfinite(weights).all() or (weights < 0).any():
            raise UsageError(f"weights of shape {weights.shape} for {count} tiles: expected one per tile, 0 or more")
        self._seed = seed
        self._whole = np.repeat(np.arange(count), np.floor(weights).astype(np.int64))
        rest = weights - np.floor(weights)
        # Tiles with the same rest take turns; rounded up, for rounded down a lone tile would never come.
        self._groups = [np.flatnonzero(rest == value) for value in np.unique(rest[rest > 0])]
        self._shares = [math.ceil(float(rest[group[0]]) * len(group) - 1e-9) for group in self._groups]
        self.size = len(self._whole) + sum(self._shares)
        if self.size == 0:
            raise UsageError("the weights leave no tile to read")

    def places(self, epoch: int) -> NDArray[np.int64]:
        """Give the places of an epoch, ascending; a place of weight 2 comes twice."""
        parts = [self._whole]
        for number, (group, share) in enumerate(zip(self._groups, self._shares, strict=True)):
            turn = np.arange(epoch * share, (epoch + 1) * share)
            for cycle in np.unique(turn // len(group)):
                key = _MIX_STREAM << 64 | self._seed
                words = np.random.Philox(key=key, counter=number << 128 | int(cycle) << 192)
                order = np.argsort(words.random_raw(len(group)), kind="stable")
                parts.append(group[order[turn[turn // len(group) == cycle] % len(group)]])
        return np.sort(np.concatenate(parts))


def interleave(size: int, lanes: int) -> NDArray[np.int64]:
    """Cut 0..size-1 into ``lanes`` stretches that differ by at most one, and take one number of each in turn."""
    place = np.arange(size)
    turn, lane = np.divmod(place, lanes)
    short, longer = divmod(size, lanes)
    order: NDArray[np.int64] = lane * short + np.minimum(lane, longer) + turn
    return order


def share_of(batch: int, rank: int, world: int) -> slice:
    """Give the places of one rank's share in a batch. Raises UsageError where the batch cannot be shared evenly."""
    if world < 1 or batch % world:
        raise UsageError(f"a batch of {batch} cannot be shared by {world} ranks: choose a multiple of the ranks")
    if not 0 <= rank < world:
        raise UsageError(f"rank {rank} is not one of {world}")
    part = batch // world
    return slice(rank * part, (rank + 1) * part)


def _check(counts: NDArray[np.int64], tiles: NDArray[np.int64], seed: int, lanes: int, batch: int) -> None:
    if counts.ndim != 1 or (counts < 0).any() or counts.sum() == 0:
        raise UsageError("there are no tiles to read: the corpus or the selection is empty")
    if tiles.shape != (counts.sum(),):
        raise UsageError(f"{tiles.size} tile numbers for shards that hold {counts.sum()}")
    if not 0 <= seed < 2**64 or lanes < 1 or batch < 1:
        raise UsageError(f"seed {seed}, lanes {lanes}, batch {batch}: expected 0 <= seed < 2^64, lanes and batch >= 1")
