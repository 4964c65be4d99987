"""Batches of drawn tiles: the same for any number of ranks and threads."""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from infra.errors import SarsenseError, UsageError
from shards.plan import Plan, share_of
from shards.reader import Corpus
from shards.tile import Tile

Draw = Callable[[Tile, np.random.Generator], Mapping[str, NDArray[Any]]]
"""Makes the arrays of one place in the batch; runs in the readers, so it must be thread-safe and free the GIL."""

_DRAW_STREAM = 2  # keeps the draws' random words apart from those of the order


class DrawFailed(SarsenseError):
    """What was to be drawn from a tile could not be; the tile is in the message."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One rank's share of a step: arrays stacked on axis 0, and the seconds that the consumer waited for them."""

    step: int
    arrays: dict[str, NDArray[Any]]
    wait_s: float


class Feed(Protocol):
    """Where a loop gets its batches from."""

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Give the batches of the steps ``start`` to ``stop - 1`` in order."""
        ...


def generator(seed: int, step: int, position: int) -> np.random.Generator:
    """Give the random generator of one place in the global batch of one step, 0 <= seed < 2^64."""
    # Philox counts in the lowest 64 bits of its counter, so every place has 2^64 blocks of its own.
    return np.random.Generator(np.random.Philox(key=_DRAW_STREAM << 64 | seed, counter=step << 128 | position << 64))


def whole(tile: Tile, _: np.random.Generator) -> Mapping[str, NDArray[Any]]:
    """Draw a tile as it is: ``pixels`` (bands, rows, cols) uint16, and ``label`` (rows, cols) if it has one."""
    return {"pixels": tile.pixels} if tile.label is None else {"pixels": tile.pixels, "label": tile.label}


class LocalFeed:
    """Reads, decodes and draws in threads of this process.

    ``ahead`` whole batches are prepared beyond the one in use, which bounds the memory. The arrays of a batch are
    filled anew once nothing refers to them any more. Threads scale as far as reading, decoding and ``draw`` release
    the GIL. For storage with a long latency give more threads.
    """

    def __init__(
        self,
        corpus: Corpus,
        plan: Plan,
        draw: Draw = whole,
        rank: int = 0,
        world: int = 1,
        threads: int = 2,
        ahead: int = 4,
    ) -> None:
        if threads < 1 or ahead < 1:
            raise UsageError(f"threads {threads}, ahead {ahead}: expected at least 1")
        self._corpus = corpus
        self._plan = plan
        self._draw = draw
        self._share = share_of(plan.batch, rank, world)
        self._threads = threads
        self._ahead = ahead
        self._buffers = _Buffers(ahead + 2)

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Give the batches of the steps ``start`` to ``stop - 1`` in order.

        What goes wrong in a thread is raised here, at its step: ShardCorrupt and storage errors as they are,
        anything else as DrawFailed with the tile's name. Threads end with the iterator.
        """
        halt = threading.Event()
        pool = ThreadPoolExecutor(self._threads, "feed")
        steps = iter(range(start, stop))
        waiting: deque[_Work] = deque()
        try:
            while True:
                while len(waiting) <= self._ahead and (step := next(steps, None)) is not None:
                    waiting.append(self._begin(pool, step, halt))
                if not waiting:
                    return
                yield waiting.popleft().batch()
        finally:
            halt.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _begin(self, pool: ThreadPoolExecutor, step: int, halt: threading.Event) -> "_Work":
        tiles = self._plan.tiles(step)[self._share]
        work = _Work(self._corpus, self._draw, self._plan.seed, step, self._share.start, tiles, halt, self._buffers)
        # Pieces of a batch, not tiles: handing over one future costs as much as a fifth of a tile.
        size = max(1, len(tiles) // (4 * self._threads))
        work.futures = [pool.submit(work.run, first, first + size) for first in range(0, len(tiles), size)]
        return work


class _Work:
    """One batch in the making. Threads fill disjoint rows of its arrays."""

    def __init__(
        self,
        corpus: Corpus,
        draw: Draw,
        seed: int,
        step: int,
        position: int,
        tiles: NDArray[np.int64],
        halt: threading.Event,
        buffers: "_Buffers",
    ) -> None:
        self._corpus, self._draw, self._seed, self._step = corpus, draw, seed, step
        self._position, self._tiles, self._halt, self._buffers = position, tiles, halt, buffers
        self._lock = threading.Lock()
        self._arrays: dict[str, NDArray[Any]] | None = None
        self.futures: list[Future[None]] = []

    def batch(self) -> Batch:
        """Wait for all pieces; raise the error of the first place that has one."""
        begun = time.perf_counter()
        for future in self.futures:
            future.result()
        waited = time.perf_counter() - begun
        return Batch(self._step, self._arrays or {}, waited)

    def run(self, first: int, last: int) -> None:
        """Fill the rows ``first`` to ``last - 1``."""
        for row in range(first, min(last, len(self._tiles))):
            if self._halt.is_set():
                return
            self._fill(row, int(self._tiles[row]))

    def _fill(self, row: int, i: int) -> None:
        out = self._row_for(row, i)
        tile = self._corpus.tile(i, out=out)
        try:
            self._store(row, self._drawn(tile, row), out)
        except SarsenseError:
            raise
        except Exception as error:
            place = f"step {self._step}, place {self._position + row} of the batch"
            raise DrawFailed(f"tile {tile.key} ({place}): {type(error).__name__}: {error}") from error

    def _drawn(self, tile: Tile, row: int) -> Mapping[str, NDArray[Any]]:
        return self._draw(tile, generator(self._seed, self._step, self._position + row))

    def _row_for(self, row: int, i: int) -> NDArray[Any] | None:
        """Give the row of the batch that a whole tile can be decoded into, if it is there already."""
        if self._draw is not whole or self._arrays is None:
            return None
        out: NDArray[Any] = self._arrays["pixels"][row]
        return out if out.shape == self._corpus.shape(i) else None

    def _store(self, row: int, drawn: Mapping[str, NDArray[Any]], out: NDArray[Any] | None) -> None:
        arrays = self._allocated(drawn)
        if drawn.keys() != arrays.keys():
            raise ValueError(f"drew {sorted(drawn)}, other tiles of the batch {sorted(arrays)}")
        for name, value in drawn.items():
            if value is not out:
                _copy(name, np.asarray(value), arrays[name][row : row + 1])

    def _allocated(self, like: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        with self._lock:
            if self._arrays is None:
                new = {}
                for name, value in like.items():
                    one = np.asarray(value)
                    new[name] = self._buffers.take(name, (len(self._tiles), *one.shape), one.dtype)
                self._arrays = new
            return self._arrays


def _references_when_free() -> int:
    """Count the references to an array that only a list and a loop know: the number differs between Pythons."""
    owners = [np.empty(1)]
    for owner in owners:
        count = sys.getrefcount(owner)
    return count


_FREE_REFERENCES = _references_when_free()


class _Buffers:
    """The memory of batches, used again when free: fresh pages of the system cost half as much as decoding.

    Every view of an array, however derived, refers to the array that owns the memory; so a buffer is free when the
    list here and the test itself are all that refers to it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._owners: dict[tuple[Any, ...], list[NDArray[Any]]] = {}
        self._lock = threading.Lock()

    def take(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Give an array of undefined content that nobody else has."""
        with self._lock:
            owners = self._owners.setdefault((name, shape, dtype.str), [])
            for owner in owners:
                if sys.getrefcount(owner) == _FREE_REFERENCES:
                    return owner[...]
            fresh = np.empty(shape, dtype)
            if len(owners) < self._most:
                owners.append(fresh)
            return fresh[...]


def _copy(name: str, value: NDArray[Any], row: NDArray[Any]) -> None:
    if value.shape != row.shape[1:] or value.dtype != row.dtype:
        raise ValueError(
            f"{name} is {value.shape} {value.dtype}, in other tiles of the batch {row.shape[1:]} {row.dtype}"
        )
    row[0] = value
