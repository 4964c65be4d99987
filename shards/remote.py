"""Batches drawn by reader actors on a Ray cluster, bit for bit those of a local feed."""

import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from infra.errors import ResourceError, UsageError
from shards.buffers import Buffers, Empty
from shards.draw import Draw, DrawFailed, OnCorrupt, Workshop, check_dials, whole
from shards.feed import Batch, Meter
from shards.metrics import Counts, FeedMetrics
from shards.plan import Plan, share_of
from shards.reader import Corpus

_ATTEMPTS = 4  # of a part of a batch: where so many readers die over it, the next would too
_READY_S = 120.0
_AT_ONCE = 2  # parts in the making in one reader: one is read while the other is drawn


@dataclass(frozen=True, slots=True)
class Readers:
    """How many reader actors, and what each is given: threads, CPUs and further resources of a node.

    ``resources`` are names that nodes were started with, such as ``{"reader": 1}``, to keep readers off GPU nodes. A
    reader that has not answered for ``patience_s`` seconds counts as dead; it is above the deadline of a store.
    """

    number: int
    threads: int = 1
    cpus: float = 1.0
    resources: Mapping[str, float] = field(default_factory=dict)
    patience_s: float = 300.0


class RemoteFeed:
    """Gives the batches of a LocalFeed with the same corpus, plan and draw, made by actors of a Ray cluster.

    Ray has to be initialised (``infra.cluster.session``), and every node needs this package and what ``draw`` is made
    of. Each step is cut into one part per reader, a part goes to the reader with the fewest in hand, and a part is
    asked for only ``ahead`` steps beyond the batch in use: that is the back-pressure. Memory here is ``ahead + 2``
    batches as drawn, and as many again in the cluster's object stores.

    A reader that dies or hangs is replaced, and what it had in hand is drawn again: parts depend on their step and
    place only. After four attempts at a part ResourceError ends the iteration. Errors of reading and drawing are
    those of a LocalFeed.
    """

    def __init__(
        self,
        corpus: Corpus,
        plan: Plan,
        draw: Draw = whole,
        rank: int = 0,
        world: int = 1,
        readers: Readers = Readers(2),
        ahead: int = 4,
        *,
        connections: int | None = None,
        on_corrupt: OnCorrupt = "fail",
        empty: Empty = np.empty,
    ) -> None:
        check_dials(readers.threads, ahead, connections)
        if readers.number < 1:
            raise UsageError(f"{readers.number} readers: expected at least 1")
        share = share_of(plan.batch, rank, world)
        cuts = np.linspace(share.start, share.stop, min(readers.number, plan.batch // world) + 1).astype(int).tolist()
        self._share, self._parts = share, list(pairwise(cuts))
        self._told = (corpus, plan, draw, readers.threads, connections, on_corrupt)
        self._readers, self._ahead = readers, ahead
        self._buffers = Buffers(ahead + 2, empty)
        self._counts = Counts()
        self._meter = Meter(self._counts)
        self._crew: _Crew | None = None

    def metrics(self) -> FeedMetrics:
        """Say what was done so far, here and in the readers."""
        return FeedMetrics.of(self._meter.read() | (self._crew.sums() if self._crew else {}))

    def places(self) -> list[tuple[str, int]]:
        """Give node id and process id of every reader at work."""
        return self._crew.places() if self._crew else []

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Give the batches of the steps ``start`` to ``stop - 1`` in order. Readers end with the iterator."""
        self._meter.start()
        self._crew = crew = _Crew(self._readers, self._told)
        assembled = self._assembled(crew, start, stop)
        with ThreadPoolExecutor(1, "feed") as collector:  # one batch is put together while the last is in use
            try:
                following = collector.submit(next, assembled, None)
                while True:
                    begun = time.perf_counter()
                    if (found := following.result()) is None:
                        return
                    waited = time.perf_counter() - begun
                    self._meter.took(self._share.stop - self._share.start, waited)
                    following = collector.submit(next, assembled, None)
                    step, arrays = found
                    del found
                    batch = Batch(step, arrays, waited)
                    del arrays
                    yield batch
                    del batch
            finally:
                crew.dismiss()

    def _assembled(self, crew: "_Crew", start: int, stop: int) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        steps = iter(range(start, stop))
        waiting: deque[tuple[int, list[_Part]]] = deque()
        while True:
            while len(waiting) <= self._ahead and (step := next(steps, None)) is not None:
                waiting.append((step, [crew.ask(step, first, last) for first, last in self._parts]))
            if not waiting:
                return
            step, parts = waiting.popleft()
            yield step, self._joined(crew, parts)

    def _joined(self, crew: "_Crew", parts: Sequence["_Part"]) -> dict[str, NDArray[Any]]:
        """Copy the parts into the arrays of a batch: what comes from an object store cannot be written to."""
        arrays: dict[str, NDArray[Any]] = {}
        for part in parts:
            drawn = crew.answer(part)
            for name, value in drawn.items():
                if not arrays or (part is parts[0] and name not in arrays):
                    shape = (self._share.stop - self._share.start, *value.shape[1:])
                    arrays[name] = self._buffers.take(name, shape, value.dtype)
            kinds = {name: (value.shape[1:], value.dtype) for name, value in drawn.items()}
            if kinds != (wanted := {name: (value.shape[1:], value.dtype) for name, value in arrays.items()}):
                raise DrawFailed(f"step {part.step}, places {part.first} to {part.last}: drew {kinds}, before {wanted}")
            for name, value in drawn.items():
                arrays[name][part.first - self._share.start : part.last - self._share.start] = value
        return arrays


class _Reader:
    """The actor: a workshop with its own corpus, threads and connections."""

    def __init__(
        self, corpus: Corpus, plan: Plan, draw: Draw, threads: int, connections: int | None, on_corrupt: OnCorrupt
    ) -> None:
        buffers = Buffers(_AT_ONCE)
        self._shop = Workshop(corpus, plan, draw, buffers, threads, connections, on_corrupt)

    def place(self) -> tuple[str, int]:
        return ray.get_runtime_context().get_node_id(), os.getpid()

    def part(self, step: int, first: int, last: int) -> tuple[dict[str, NDArray[Any]], dict[str, float]]:
        """Draw places of a step's batch; with them comes what this reader has counted so far."""
        arrays = self._shop.begin(step, slice(first, last)).arrays()
        corpus = self._shop.corpus
        counted = corpus.spans.counts.read() | self._shop.counts.read() | {"retries": corpus.retries}
        return arrays, counted


@dataclass(slots=True)
class _Part:
    """Places of a step's batch that were asked of a reader."""

    step: int
    first: int
    last: int
    slot: int = -1
    attempts: int = 0
    reference: Any = None


class _Crew:
    """The readers at work, and what each has in hand."""

    def __init__(self, readers: Readers, told: tuple[Any, ...]) -> None:
        self._readers = readers
        self._told = [ray.put(value) for value in told]  # once per node, also for those that come later
        self._counted: dict[Any, dict[str, float]] = {}  # by actor, the dead ones too
        self._lost = 0
        self._open: list[_Part] = []
        self._over = False
        self._actors = [self._hired() for _ in range(readers.number)]
        try:
            self._places = ray.get([actor.place.remote() for actor in self._actors], timeout=_READY_S)
        except RayError as error:
            self.dismiss()
            raise self._no_readers(error) from error

    def sums(self) -> dict[str, float]:
        """Add up what all readers counted."""
        total: dict[str, float] = {"readers_lost": self._lost}
        for counted in list(self._counted.values()):
            for name, value in counted.items():
                total[name] = total.get(name, 0) + value
        return total

    def places(self) -> list[tuple[str, int]]:
        return list(self._places)

    def ask(self, step: int, first: int, last: int) -> _Part:
        """Ask the reader with the fewest parts in hand."""
        part = _Part(step, first, last)
        loads = [sum(other.slot == slot for other in self._open) for slot in range(len(self._actors))]
        self._open.append(part)
        self._send(part, loads.index(min(loads)))
        return part

    def answer(self, part: _Part) -> dict[str, NDArray[Any]]:
        """Wait for a part, from another reader where one is lost. Raises the error of reading or drawing it."""
        while True:
            try:
                drawn, counted = ray.get(part.reference, timeout=self._readers.patience_s)
            except RayTaskError as error:
                raise error.cause if isinstance(error.cause, Exception) else error from None
            except RayError as error:  # the reader, its node or its answer is lost, or it hangs
                if self._over or part.attempts >= _ATTEMPTS:
                    raise self._gave_up(part, error) from error
                self._replace(part.slot)
                continue
            part.reference = None
            self._open.remove(part)
            self._count(self._actors[part.slot], counted)
            return dict(drawn)

    def _count(self, actor: Any, counted: Mapping[str, float]) -> None:
        known = self._counted.setdefault(actor, {})
        for name, value in counted.items():  # of two parts at once the later answer may hold the earlier count
            known[name] = max(value, known.get(name, 0))

    def dismiss(self) -> None:
        """End all readers."""
        self._over = True
        for actor in self._actors:
            ray.kill(actor)

    def _hired(self) -> Any:
        options: dict[str, Any] = {"num_cpus": self._readers.cpus, "resources": dict(self._readers.resources)}
        kind: Any = ray.remote(_Reader)
        kind = kind.options(max_concurrency=_AT_ONCE, scheduling_strategy="SPREAD", **options)
        return kind.remote(*self._told)

    def _send(self, part: _Part, slot: int) -> None:
        part.slot, part.attempts = slot, part.attempts + 1
        part.reference = self._actors[slot].part.remote(part.step, part.first, part.last)

    def _replace(self, slot: int) -> None:
        """Put a new reader in a lost one's place, and give it what that one had in hand."""
        ray.kill(self._actors[slot])  # it may only hang
        self._lost += 1
        self._actors[slot] = self._hired()
        try:
            self._places[slot] = ray.get(self._actors[slot].place.remote(), timeout=_READY_S)
        except GetTimeoutError as error:
            raise self._no_readers(error) from error
        except RayError:
            pass  # lost as well: its parts will tell
        for part in self._open:
            if part.slot == slot:
                self._send(part, slot)

    def _no_readers(self, error: Exception) -> ResourceError:
        wanted, free = self._readers, ray.available_resources()  # type: ignore[no-untyped-call]
        return ResourceError(
            f"{wanted.number} readers with {wanted.cpus} CPUs and {dict(wanted.resources)} each did not come up in "
            f"{_READY_S:.0f} s ({type(error).__name__}); free in the cluster: {free.get('CPU', 0)} CPUs; ask for fewer "
            "readers or start nodes"
        )

    def _gave_up(self, part: _Part, error: Exception) -> ResourceError:
        return ResourceError(
            f"step {part.step}, places {part.first} to {part.last} of the batch: {part.attempts} readers were lost over"
            f" it, the last with {type(error).__name__}: {str(error).splitlines()[0]}; is their memory enough?"
        )
