"""The one loop that trains every learner: steps, checkpoints, exact resume, logs."""

import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infra.errors import UsageError
from infra.store import NotFound, Store
from infra.world import World
from pretrain import checkpoint
from pretrain.config import LoopConfig, run_digest
from pretrain.encoder import channels_last
from pretrain.guard import Diverged as Diverged
from pretrain.guard import Messages, Told, check_buffers, check_ranks
from pretrain.journal import Journal
from pretrain.learner import Learner, to_device
from pretrain.meter import Meter, peak_tflops
from pretrain.norms import convert
from pretrain.optim import learning_rate as learning_rate
from pretrain.optim import make_optimiser
from pretrain.run_folder import RUN
from pretrain.saver import Saver
from pretrain.sharding import shard
from pretrain.step import Step
from pretrain.trackers import Tracker

if TYPE_CHECKING:
    from shards.feed import Feed


@dataclass(frozen=True, slots=True)
class Summary:
    """How a call of ``train`` ended: steps done in all, the step it began at, and the last numbers logged."""

    step: int
    began: int
    finished: bool
    last: Mapping[str, float]


def train(
    learner: Learner,
    feed: "Feed",
    config: LoopConfig,
    world: World,
    store: Store,
    run: Mapping[str, Any],
    *,
    title: str = "train",
    stop: threading.Event | None = None,
    tell: Callable[[], Mapping[str, float]] = dict,
    late: bool | None = None,
    watch: Callable[[int, Mapping[str, Tensor]], Mapping[str, float]] | None = None,
    trackers: Sequence[Tracker] = (),
) -> Summary:
    """Train until ``config.steps`` are done, from the newest checkpoint in ``store`` if there is one.

    ``feed`` gives this rank's share of each global batch. ``run`` is everything that decides the result, as plain
    data; its digest names the run, and a store with another run in it is refused (UsageError). The state after n
    steps is the same whether or not the process was ended and started again in between. ``stop`` (or SIGTERM, or
    Ctrl-C) ends the call early, with a checkpoint. ``tell`` gives further numbers for each line of the log. ``late``
    lets the host run ahead of the device and learn a step later how a step went (as by default on a GPU).
    ``watch`` looks after each step, at its number and batch; what it gives stands in the next line. ``trackers`` are
    told every line, too.

    Raises Diverged after ``config.max_bad_steps`` steps in a row without finite gradients, or where the ranks no
    longer hold the same numbers.
    """
    name = run_digest(run)
    claim(store, run, config, world)
    if late is None:
        late = world.device.type == "cuda" and config.sharding == "none"
    optimiser = prepare(learner, config, world, late)
    began = _resume(learner, optimiser, world, store, name)
    doing = Step(learner, optimiser, config, world, late=late)
    messages, meter = Messages(world, late=late), Meter(config.batch, config.peak_tflops or peak_tflops(world.device))
    with (
        _stopping(stop) as stopping,
        Saver(store, world, name, config.checkpoint, parts=config.sharding == "fsdp") as saver,
        Journal(store, world, title, began, config.steps, trackers) as journal,
    ):
        if began:
            journal.say(f"{title}: continuing {store.url} at step {began}")
        count, pages = _Count(began), dict[int, Mapping[str, Tensor]]()

        def hear(told: Told, *, log: bool) -> None:
            losses = pages.pop(told.step)
            count.take(told)
            if not told.good:
                check_buffers(learner.module, told.step)
            if log or not told.good:
                values = world.mean({n: float(v) for n, v in losses.items()})
                rate = learning_rate(told.step, config)
                count.last = {**values, "lr": rate, "grad_norm": told.norm, **meter.read(), **tell(), **count.seen}
                count.seen = {}
                journal.record(told.step, count.last)
            if count.bad >= config.max_bad_steps:
                journal.commit(told.step + 1)
                _diverged(told, count.bad)

        for batch in feed.batches(began, config.steps):
            step, count.done = count.done, count.done + 1
            with meter.counting() if step == began and not config.compile else nullcontext():
                pages[step] = doing.gradients(tensors := _tensors(batch.arrays, world.device), step)
            messages.send(step, doing.update(step, learning_rate(step, config)), stopping.is_set())
            meter.add(batch.wait_s)
            if watch is not None:
                count.seen.update(watch(step, tensors))
            last = count.done == config.steps
            save, log = last or count.done % config.checkpoint.every == 0, last or count.done % config.log_every == 0
            for told in messages.read(everything=save or log):
                hear(told, log=log and told.step == step)
            if count.halt:  # it may have been said a step ago
                for told in messages.read(everything=True):
                    hear(told, log=False)
            saver.check()
            if count.done % config.check_ranks_every == 0:
                check_ranks(learner.module, world, count.done)
            # A state reached through bad steps is not worth keeping over one that was well.
            if not count.bad and (count.halt or save):
                if not last:
                    journal.commit(count.done)
                saver.save(learner.module, optimiser, count.done)
            if count.halt:
                break
        if count.done >= config.steps:
            saver.wait()
            journal.finish(count.done)
        return Summary(count.done, began, count.done >= config.steps, count.last)


def prepare(learner: Learner, config: LoopConfig, world: World, late: bool) -> torch.optim.Optimizer:
    """Put the learner on its device, in the form that the dials ask for, and make its optimiser."""
    learner.module.to(world.device)
    if config.memory_format != "contiguous" and config.sharding == "none":
        channels_last(learner.module)
    convert(learner.module, config.batch_norm, world, config.batch_norm_groups)
    if config.sharding == "fsdp":
        shard(learner.module, world)
    return make_optimiser(learner.parameters(), config.optim, world.device, late=late)


@dataclass(slots=True)
class _Count:
    """How far the loop is: steps done, bad ones in a row, whether to stop, numbers last logged and seen since."""

    done: int
    bad: int = 0
    halt: bool = False
    last: Mapping[str, float] = field(default_factory=dict)
    seen: dict[str, float] = field(default_factory=dict)

    def take(self, told: Told) -> None:
        self.bad = 0 if told.good else self.bad + 1
        self.halt = self.halt or told.halt


def claim(store: Store, run: Mapping[str, Any], config: LoopConfig, world: World) -> None:
    """Write the resolved run beside its checkpoints. Raises UsageError where another run is already there."""
    name = run_digest(run)
    there: str | None = None
    if world.lead:
        try:
            there = str(json.loads(store.get(RUN))["digest"])
        except NotFound:
            record = {"digest": name, "run": dict(run), "config": config.model_dump(mode="json")}
            store.put(RUN, json.dumps(record, indent=1, sort_keys=True).encode())
    there = world.from_lead(there)
    if there not in (None, name):
        raise UsageError(
            f"{store.url} holds run {str(there)[:12]}, this is run {name[:12]}:"
            " give the same options as then, or another --out"
        )


def _resume(learner: Learner, optimiser: torch.optim.Optimizer, world: World, store: Store, name: str) -> int:
    found = checkpoint.latest(store, name) if world.lead else None
    key = world.from_lead(found.key if found else None)
    if key is None:
        return 0
    found = found or checkpoint.read(store, key, name)
    checkpoint.restore(found, learner.module, optimiser)
    return found.step


def _tensors(arrays: Mapping[str, NDArray[Any]], device: torch.device) -> dict[str, Tensor]:
    tensors = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
    if device.type == "cuda":
        tensors = {name: t.pin_memory() for name, t in tensors.items()}
    return to_device(tensors, device)


def _diverged(told: Told, bad: int) -> NoReturn:
    raise Diverged(
        f"the gradient norm was {told.norm} for {bad} steps in a row, up to step {told.step}: the run has diverged;"
        " lower --optim.lr or add --optim.warmup-steps; the checkpoints from before are kept"
    )


@contextmanager
def _stopping(given: threading.Event | None) -> Iterator[threading.Event]:
    """Turn SIGTERM and Ctrl-C into a flag for as long as the loop runs; a second Ctrl-C ends it at once."""
    event = given or threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # only the main thread may handle signals
        return

    def handle(number: int, frame: object) -> None:
        if event.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
