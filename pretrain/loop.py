"""The one loop that trains every learner: steps, schedule, checkpoints, exact resume, logs."""

import inspect
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from infra.errors import SarsenseError, UsageError
from infra.store import NotFound, Store
from infra.world import World
from pretrain import checkpoint
from pretrain.config import LoopConfig, Optim, run_digest
from pretrain.journal import Journal
from pretrain.learner import Learner, to_device
from pretrain.run_folder import RUN

if TYPE_CHECKING:
    from shards.feed import Feed


class Diverged(SarsenseError):
    """The gradients stayed infinite or undefined for too many steps."""


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
) -> Summary:
    """Train until ``config.steps`` are done, from the newest checkpoint in ``store`` if there is one.

    ``feed`` gives this rank's share of each global batch. ``run`` is everything that decides the result, as plain
    data; its digest names the run, and a store with another run in it is refused (UsageError). The state after n
    steps is the same whether or not the process was ended and started again in between. ``stop`` (or SIGTERM, or
    Ctrl-C) ends the call early, with a checkpoint. ``tell`` gives further numbers for each line of the log.

    Raises Diverged after ``config.max_bad_steps`` steps in a row without finite gradients.
    """
    name = run_digest(run)
    claim(store, run, config, world)
    learner.module.to(world.device)
    if world.device.type == "cuda":
        learner.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = make_optimiser(learner, config.optim)
    began = done = _resume(learner, optimiser, world, store, name)
    forward = _joined(learner, world)
    meter = _Meter(config.batch)
    last: dict[str, float] = {}
    bad = 0
    with Journal(store, world, title, began, config.steps) as journal, _stopping(stop) as stopping:
        if began:
            journal.say(f"{title}: continuing {store.url} at step {began}")

        def save() -> None:
            if done < config.steps:
                journal.commit(done)
            if world.lead:
                checkpoint.save(
                    store, learner.module, optimiser, step=done, run_digest=name, keep=config.checkpoint.keep
                )

        for batch in feed.batches(began, config.steps):
            step = done
            lr = learning_rate(step, config)
            for group in optimiser.param_groups:
                group["lr"] = lr
            optimiser.zero_grad(set_to_none=True)
            with _precision(config, world):
                losses = forward(_tensors(batch.arrays, world.device), step)
            losses["loss"].backward()
            norm = _gradient_norm(learner)
            good = math.isfinite(norm)
            if good:
                optimiser.step()
                learner.after_step(step)
            else:
                _check_buffers(learner, step)
            bad = 0 if good else bad + 1
            done = step + 1
            meter.add(batch.wait_s)
            if not good or done % config.log_every == 0 or done == config.steps:
                values = world.mean({n: float(v.detach()) for n, v in losses.items()})
                last = {**values, "lr": lr, "grad_norm": norm, **meter.read(), **tell()}
                journal.record(step, last)
            if bad >= config.max_bad_steps:
                journal.commit(done)
                _diverged(step, bad, norm)
            halt = world.any(stopping.is_set())
            # A state reached through bad steps is not worth keeping over one that was well.
            if not bad and (halt or done % config.checkpoint.every == 0 or done == config.steps):
                save()
            if halt:
                break
        if done >= config.steps:
            journal.finish(done)
        return Summary(done, began, done >= config.steps, last)


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


def learning_rate(step: int, config: LoopConfig) -> float:
    """Give the learning rate of a step: linear warm-up, then half a cosine down to zero at the last step."""
    peak, warm = config.optim.peak_lr(config.batch), config.optim.warmup_steps
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, config.steps - warm)))


def make_optimiser(learner: Learner, config: Optim) -> torch.optim.Optimizer:
    """Make the optimiser; weight decay acts on every parameter, as published."""
    parameters = list(learner.parameters())
    if config.kind == "adamw":
        return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, foreach=True
    )


class _Forward(nn.Module):
    """What DistributedDataParallel wraps, so that a learner's loss passes through its hooks."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.module = learner.module
        self._learner = learner

    def forward(self, batch: Mapping[str, Tensor], step: int) -> Mapping[str, Tensor]:
        return self._learner.losses(batch, step)


def _joined(learner: Learner, world: World) -> nn.Module:
    forward = _Forward(learner)
    forward.train()
    if world.size == 1:
        return forward
    # Queues and twins are equal on every rank by construction: nothing to broadcast at every step.
    parallel = nn.parallel.DistributedDataParallel
    renamed = "forward_sync_buffers" in inspect.signature(parallel).parameters  # torch 2.13
    quiet: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    return parallel(forward, device_ids=[world.device] if world.device.type == "cuda" else None, **quiet)


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


def _precision(config: LoopConfig, world: World) -> torch.autocast:
    cuda = world.device.type == "cuda"
    # bf16 on a CPU without the instructions is many times slower than fp32.
    enabled = config.precision == "bf16" or (config.precision == "auto" and cuda)
    return torch.autocast(world.device.type, dtype=torch.bfloat16, enabled=enabled)


def _gradient_norm(learner: Learner) -> float:
    gradients = [p.grad for p in learner.parameters() if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


def _check_buffers(learner: Learner, step: int) -> None:
    """End where a bad batch has reached the running statistics of batch norm: no later step would mend them."""
    floats = [buffer for buffer in learner.module.buffers() if buffer.is_floating_point()]
    if not all(bool(torch.isfinite(buffer).all()) for buffer in floats):
        raise Diverged(
            f"activations of step {step} were infinite or undefined: the run has diverged; lower --optim.lr or add"
            " --optim.warmup-steps; the checkpoints from before are kept"
        )


def _diverged(step: int, bad: int, norm: float) -> NoReturn:
    raise Diverged(
        f"the gradient norm was {norm} for {bad} steps in a row, up to step {step}: the run has diverged;"
        " lower --optim.lr or add --optim.warmup-steps; the checkpoints from before are kept"
    )


class _Meter:
    """Images per second and share of time spent waiting for data, since they were last read."""

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._begin()

    def _begin(self) -> None:
        self._since, self._steps, self._wait_s = time.perf_counter(), 0, 0.0

    def add(self, wait_s: float) -> None:
        self._steps += 1
        self._wait_s += wait_s

    def read(self) -> dict[str, float]:
        wall_s = max(time.perf_counter() - self._since, 1e-9)
        rates = {
            "images_per_s": self._steps * self._batch / wall_s,
            "data_wait_share": min(self._wait_s / wall_s, 1.0),
        }
        self._begin()
        return rates


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
