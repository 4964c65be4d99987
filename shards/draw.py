"""From the tiles of a step to the arrays of a batch, in threads: read ahead, decode, draw."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from infra.errors import SarsenseError, UsageError
from shards.buffers import Buffers
from shards.metrics import Counts
from shards.plan import Plan
from shards.reader import Corpus, ShardCorrupt, Stored
from shards.tile import Tile

Draw = Callable[[Tile, np.random.Generator], Mapping[str, NDArray[Any]]]
"""Makes the arrays of one place in the batch; runs in the readers, so it must be thread-safe and free the GIL."""

OnCorrupt = Literal["fail", "skip"]
"""What a tile that stays bad does: end the run with its name, or give its place to another tile."""

CONNECTIONS = 16
"""Requests in flight to a remote store, where nothing else is said."""

_DRAW_STREAM = 2  # keeps the draws' random words apart from those of the order
_REPLACEMENTS = 16  # tried for one bad tile: where so many are bad, the corpus is

_Bytes = Mapping[int, Future[dict[int, Stored | ShardCorrupt]]]


class DrawFailed(SarsenseError):
    """What was to be drawn from a tile could not be; the tile is in the message."""


def generator(seed: int, step: int, position: int) -> np.random.Generator:
    """Give the random generator of one place in the global batch of one step, 0 <= seed < 2^64."""
    # Philox counts in the lowest 64 bits of its counter, so every place has 2^64 blocks of its own.
    return np.random.Generator(np.random.Philox(key=_DRAW_STREAM << 64 | seed, counter=step << 128 | position << 64))


def whole(tile: Tile, _: np.random.Generator) -> Mapping[str, NDArray[Any]]:
    """Draw a tile as it is: ``pixels`` (bands, rows, cols) uint16, and ``label`` (rows, cols) if it has one."""
    return {"pixels": tile.pixels} if tile.label is None else {"pixels": tile.pixels, "label": tile.label}


_UNUSED = generator(0, 0, 0)


class Workshop:
    """Threads that make batches: ``threads`` decode and draw; of a remote corpus, ``connections`` more read ahead.

    With ``connections`` 0 the threads that decode also read, which is best for files in the page cache. Closing it
    (or leaving its ``with``) ends the threads.
    """

    def __init__(
        self,
        corpus: Corpus,
        plan: Plan,
        draw: Draw,
        buffers: Buffers,
        threads: int = 2,
        connections: int | None = None,
        on_corrupt: OnCorrupt = "fail",
        counts: Counts | None = None,
    ) -> None:
        self.corpus, self.plan, self.draw, self.buffers = corpus, plan, draw, buffers
        self.on_corrupt = on_corrupt
        self.counts = counts or Counts()
        self.halt = threading.Event()
        self._threads = threads
        self._planning = threading.Lock()
        connections = (CONNECTIONS if corpus.remote else 0) if connections is None else connections
        self._decoding = ThreadPoolExecutor(threads, "feed")
        self._reading = ThreadPoolExecutor(connections, "feed-read") if connections else None

    def begin(self, step: int, places: slice) -> "Work":
        """Begin with the places of a step's batch; what was begun first is worked on first."""
        tiles = self.tiles(step)[places]
        work = Work(self, step, places.start, tiles, self._read_ahead(tiles))
        # Pieces of a batch, not tiles: handing over one future costs as much as a fifth of a tile.
        size = max(1, len(tiles) // (4 * self._threads))
        work.futures = [self._decoding.submit(work.run, first, first + size) for first in range(0, len(tiles), size)]
        return work

    def tiles(self, step: int) -> NDArray[np.int64]:
        """Give the tiles of a step's whole batch."""
        with self._planning:
            return self.plan.tiles(step)

    def replacements(self, step: int, position: int) -> Iterator[int]:
        """Give the tiles that may take a bad one's place: those that come in the same place of the next steps.

        So every rank and reader takes the same, whatever their number.
        """
        return (int(self.tiles(step + k)[position]) for k in range(1, _REPLACEMENTS + 1))

    def _read_ahead(self, tiles: NDArray[np.int64]) -> _Bytes:
        if self._reading is None:
            return {}
        together = self.corpus.spans.together
        futures: dict[int, Future[dict[int, Stored | ShardCorrupt]]] = {}
        for group in self.corpus.spans.near(tiles.tolist()):
            future = self._reading.submit(together, group)
            futures |= dict.fromkeys(group, future)
        return futures

    def close(self) -> None:
        """End all threads; what they are at is finished, nothing more is begun."""
        self.halt.set()
        pools = [pool for pool in (self._reading, self._decoding) if pool is not None]
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in pools:
            pool.shutdown(wait=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Work:
    """A part of one batch in the making. Threads fill disjoint rows of its arrays."""

    def __init__(self, shop: Workshop, step: int, position: int, tiles: NDArray[np.int64], ahead: _Bytes) -> None:
        self._shop, self._step, self._position, self._tiles = shop, step, position, tiles
        self._ahead = dict(ahead)
        self._left = Counter(tiles.tolist())
        self._lock = threading.Lock()
        self._arrays: dict[str, NDArray[Any]] | None = None
        self.futures: list[Future[None]] = []

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Wait for all rows; raise the error of the first place that has one."""
        for future in self.futures:
            future.result()
        return self._arrays or {}

    def run(self, first: int, last: int) -> None:
        """Fill the rows ``first`` to ``last - 1``."""
        for row in range(first, min(last, len(self._tiles))):
            if self._shop.halt.is_set():
                return
            self._fill(row)

    def _fill(self, row: int) -> None:
        i = int(self._tiles[row])
        out = self._row_for(row, i)
        try:
            tile = self._tile(i, out)
        except ShardCorrupt as error:
            if self._shop.on_corrupt == "fail":
                raise
            tile = self._replacement(row, error)
        try:
            self._store(row, self._drawn(tile, row), out)
        except SarsenseError:
            raise
        except Exception as error:
            place = f"step {self._step}, place {self._position + row} of the batch"
            raise DrawFailed(f"tile {tile.key} ({place}): {type(error).__name__}: {error}") from error

    def _drawn(self, tile: Tile, row: int) -> Mapping[str, NDArray[Any]]:
        if self._shop.draw is whole:  # which needs no generator: making one costs a tenth of decoding
            return whole(tile, _UNUSED)
        return self._shop.draw(tile, generator(self._shop.plan.seed, self._step, self._position + row))

    def _tile(self, i: int, out: NDArray[Any] | None) -> Tile:
        future = self._ahead.get(i)
        if future is None:
            return self._shop.corpus.tile(i, out=out)
        stored = future.result()[i]
        self._let_go(i, future)
        if isinstance(stored, ShardCorrupt):
            raise stored
        return self._shop.corpus.decode(i, stored, out=out)

    def _let_go(self, i: int, future: Future[dict[int, Stored | ShardCorrupt]]) -> None:
        """Free the bytes of a tile after its last place, so that memory holds either its bytes or its pixels."""
        with self._lock:
            self._left[i] -= 1
            if self._left[i] == 0:
                future.result().pop(i)

    def _replacement(self, row: int, error: ShardCorrupt) -> Tile:
        for i in self._shop.replacements(self._step, self._position + row):
            try:
                tile = self._shop.corpus.tile(i)
            except ShardCorrupt:
                continue
            self._shop.counts.add(replaced=1)
            return tile
        raise error

    def _row_for(self, row: int, i: int) -> NDArray[Any] | None:
        """Give the row of the batch that a whole tile can be decoded into, if it is there already."""
        if self._shop.draw is not whole or self._arrays is None:
            return None
        out: NDArray[Any] = self._arrays["pixels"][row]
        return out if out.shape == self._shop.corpus.shape(i) else None

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
                    new[name] = self._shop.buffers.take(name, (len(self._tiles), *one.shape), one.dtype)
                self._arrays = new
            return self._arrays


def check_dials(threads: int, ahead: int, connections: int | None) -> None:
    """Refuse a feed that could not read. Raises UsageError."""
    if threads < 1 or ahead < 1 or (connections or 0) < 0:
        raise UsageError(f"threads {threads}, ahead {ahead}, connections {connections}: expected at least 1, 1, 0")


def _copy(name: str, value: NDArray[Any], row: NDArray[Any]) -> None:
    if value.shape != row.shape[1:] or value.dtype != row.dtype:
        raise ValueError(
            f"{name} is {value.shape} {value.dtype}, in other tiles of the batch {row.shape[1:]} {row.dtype}"
        )
    row[0] = value
