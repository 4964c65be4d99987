"""Batches of drawn tiles: the same for any number of ranks and threads."""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shards.buffers import Buffers, Empty
from shards.draw import CONNECTIONS, Draw, DrawFailed, OnCorrupt, Work, Workshop, check_dials, generator, whole
from shards.metrics import Counts, FeedMetrics
from shards.plan import Plan, share_of
from shards.reader import Corpus

__all__ = ["CONNECTIONS", "Batch", "Draw", "DrawFailed", "Feed", "LocalFeed", "OnCorrupt", "generator", "whole"]


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


class LocalFeed:
    """Reads, decodes and draws in threads of this process.

    ``ahead`` whole batches are prepared beyond the one in use. That bounds the memory: ``ahead + 2`` batches as drawn,
    one tile per thread, and of a remote corpus the stored bytes of the tiles of ``ahead + 1`` batches, with at most
    4 MiB more per connection. The arrays of a batch are filled anew once nothing refers to them any more; ``empty``
    makes them, so that a caller can have them in memory of its choice. Who copies from them in the background keeps
    the batch until that is done.

    Threads scale as far as reading, decoding and ``draw`` release the GIL. A remote corpus is read by ``connections``
    further threads (16, or 0 for files, if not given), in the order of the plan, neighbours in one request.

    Bytes that do not fit their CRC32C are read once more. A tile that stays bad ends the iteration with its name, or
    with ``on_corrupt="skip"`` its place is given to the tile of the same place in one of the next 16 steps, with the
    random generator of its own place: the same for any number of ranks, threads and readers; ``metrics`` counts it.
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
        *,
        connections: int | None = None,
        on_corrupt: OnCorrupt = "fail",
        empty: Empty = np.empty,
    ) -> None:
        check_dials(threads, ahead, connections)
        self._corpus, self._plan, self._draw = corpus, plan, draw
        self._share = share_of(plan.batch, rank, world)
        self._threads, self._ahead, self._connections, self._on_corrupt = threads, ahead, connections, on_corrupt
        self._buffers = Buffers(ahead + 2, empty)
        self._counts = Counts()
        self._meter = Meter(self._counts)

    def metrics(self) -> FeedMetrics:
        """Say what was done so far."""
        return FeedMetrics.of(self._meter.read() | self._corpus.spans.counts.read() | {"retries": self._corpus.retries})

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Give the batches of the steps ``start`` to ``stop - 1`` in order.

        What goes wrong in a thread is raised here, at its step: ShardCorrupt and storage errors as they are,
        anything else as DrawFailed with the tile's name. Threads end with the iterator.
        """
        steps = iter(range(start, stop))
        waiting: deque[tuple[int, Work]] = deque()
        self._meter.start()
        shop = Workshop(
            self._corpus, self._plan, self._draw, self._buffers, self._threads, self._connections, self._on_corrupt,
            self._counts,
        )  # fmt: skip
        with shop:
            while True:
                while len(waiting) <= self._ahead and (step := next(steps, None)) is not None:
                    waiting.append((step, shop.begin(step, self._share)))
                if not waiting:
                    return
                yield self._taken(*waiting.popleft())

    def _taken(self, step: int, work: Work) -> Batch:
        begun = time.perf_counter()
        arrays = work.arrays()
        waited = time.perf_counter() - begun
        self._meter.took(self._share.stop - self._share.start, waited)
        return Batch(step, arrays, waited)


class Meter:
    """Counts the batches that a consumer took and the time since it began."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._since: float | None = None

    def start(self) -> None:
        """Let the time run, if it does not yet."""
        if self._since is None:
            self._since = time.perf_counter()

    def took(self, tiles: int, wait_s: float) -> None:
        """Count a batch."""
        self._counts.add(steps=1, tiles=tiles, wait_s=wait_s)

    def read(self) -> dict[str, float]:
        """Give the sums with the time so far."""
        return self._counts.read() | {"wall_s": time.perf_counter() - self._since if self._since is not None else 0}
