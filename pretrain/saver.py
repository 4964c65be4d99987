"""Writes checkpoints beside the training: a copy in memory at once, the object when it is written."""

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import torch
from torch import nn

from infra.store import Store
from infra.world import World
from pretrain import checkpoint
from pretrain.config import Keeping


class Saver:
    """One rank's part in saving: the lead writes, the others only take part where parameters lie in parts.

    At most one checkpoint is on its way; the next waits for it. What goes wrong on the way is raised by the next call.
    Leaving the context waits for the last one.
    """

    def __init__(self, store: Store, world: World, run_digest: str, keeping: Keeping, *, parts: bool = False) -> None:
        self._store, self._world, self._run, self._keeping = store, world, run_digest, keeping
        self._parts = parts
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._going: Future[str] | None = None

    def save(self, module: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> None:
        """Copy the state after ``step`` steps, and have it written."""
        if not (self._world.lead or self._parts):
            return
        tensors = checkpoint.snapshot(module, optimiser)
        if not self._world.lead:
            return
        self.wait()
        k = self._keeping
        self._going = self._writer.submit(
            checkpoint.put,
            self._store,
            tensors,
            step=step,
            run_digest=self._run,
            keep=k.keep,
            keep_every=k.keep_every,
        )
        if not k.background:
            self.wait()

    def check(self) -> None:
        """Raise what went wrong, if anything did; waits for nothing."""
        if self._going is not None and self._going.done():
            self.wait()

    def wait(self) -> None:
        """Wait until nothing is on its way, and raise what went wrong."""
        going, self._going = self._going, None
        if going is not None:
            going.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._writer.shutdown(wait=True)
        if kind is None:
            self.wait()
