"""Steps whose gradients are infinite or undefined leave no trace; ranks that no longer agree are found.

On a GPU the host is not told at once: it would wait for the device at every step. The step is left out by a flag on the
device, and the host reads one step later what became of it.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from infra.errors import SarsenseError
from infra.world import World


class Diverged(SarsenseError):
    """The gradients stayed infinite or undefined for too many steps, or the ranks no longer hold the same numbers."""


@dataclass(frozen=True, slots=True)
class Told:
    """What became of a step: the length of its gradient, and whether any rank wishes to stop."""

    step: int
    norm: float
    halt: bool

    @property
    def good(self) -> bool:
        """Whether the step was done."""
        return bool(np.isfinite(self.norm))


class Messages:
    """Brings gradient lengths and the wish to stop to the host: at once, or where ``late`` a step later."""

    def __init__(self, world: World, *, late: bool) -> None:
        self._world, self._late = world, late
        self._sent: deque[tuple[int, NDArray[np.float32], torch.cuda.Event | None]] = deque()

    def send(self, step: int, norm: Tensor, stop: bool) -> None:
        """Send what became of a step; every rank does so after every step."""
        if not self._late:
            self._sent.append((step, np.array([float(norm), self._world.any(stop)], np.float32), None))
            return
        flag = torch.full((), float(stop), device=norm.device)  # filled there: a copy would wait
        if self._world.size > 1:
            dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        told = torch.stack([norm.float(), flag])
        pinned = torch.empty(2, pin_memory=told.is_cuda)
        pinned.copy_(told, non_blocking=True)
        event = None
        if told.is_cuda:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        self._sent.append((step, pinned.numpy(), event))

    def read(self, *, everything: bool) -> Iterator[Told]:
        """Give what was sent, in order: all of it, or all but the newest message where they come late."""
        keep = 1 if self._late and not everything else 0
        while len(self._sent) > keep:
            step, values, event = self._sent.popleft()
            if event is not None:
                event.synchronize()
            yield Told(step, float(values[0]), bool(values[1]))


@contextmanager
def unless(bad: Tensor, state: Sequence[Tensor]) -> Iterator[None]:
    """Undo on the device what happens to ``state`` within, where the flag ``bad`` is set; waits for nothing."""
    before = [torch.empty_like(t) for t in state]
    _copy(before, state)
    yield
    with torch.no_grad():
        _copy(state, [torch.where(bad, old, new) for old, new in zip(before, state, strict=True)])


@torch.no_grad()
def _copy(to: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    if to:
        torch._foreach_copy_(list(to), list(values))


def untrained(module: nn.Module, optimiser: torch.optim.Optimizer) -> list[Tensor]:
    """Give what a learner itself may change after a step: twins, queues and other buffers."""
    moved = {id(p) for group in optimiser.param_groups for p in group["params"]}
    return [t.detach() for t in (*module.parameters(), *module.buffers()) if id(t) not in moved]


def check_buffers(module: nn.Module, step: int) -> None:
    """End where a bad batch has reached the running statistics of batch norm: no later step would mend them."""
    floats = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    if not all(bool(torch.isfinite(buffer).all()) for buffer in floats):
        raise Diverged(
            f"activations of step {step} were infinite or undefined: the run has diverged; lower --optim.lr or add"
            " --optim.warmup-steps; the checkpoints from before are kept"
        )


def check_ranks(module: nn.Module, world: World, step: int) -> None:
    """Compare parameters and buffers of all ranks, which are equal by construction, by a sum of their bits.

    Raises Diverged on every rank, naming the first that differs from most and the first tensor in which it does.
    """
    if world.size == 1:
        return
    named = [(name, value) for name, value in module.state_dict().items() if not hasattr(value, "full_tensor")]
    sums = world.all_gather(torch.stack([_bits(value) for _, value in named]).unsqueeze(0))
    usual = sums.mode(0).values if world.size > 2 else sums[0]
    differs = (sums != usual).cpu()
    if not differs.any():
        return
    rank = int(differs.any(1).nonzero()[0])
    name = named[int(differs[rank].nonzero()[0])][0]
    share = int(differs[rank].sum())
    raise Diverged(
        f"rank {rank} holds other numbers than {'rank 0' if world.size == 2 else 'the others'} after step {step}, first"
        f" in {name} ({share} of {len(named)} tensors differ): a faulty device, or a method that is random per rank;"
        " start again from the last checkpoint, without that machine"
    )


def _bits(value: Tensor) -> Tensor:
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()]
    same = value.detach()
    return (same.view(whole) if same.dtype != whole else same).sum(dtype=torch.int64)
