"""One step of training: forward and backward in one part or several, the guard, the optimiser."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from infra.errors import UsageError
from infra.world import World
from pretrain.checkpoint import whole
from pretrain.config import LoopConfig
from pretrain.guard import unless, untrained
from pretrain.learner import Learner
from pretrain.norms import RunningStatistics


class Forward(nn.Module):
    """What DistributedDataParallel wraps, so that a learner's loss passes through its hooks."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.module = learner.module
        self._learner = learner

    def forward(self, batch: Mapping[str, Tensor], step: int) -> Mapping[str, Tensor]:
        """Give the learner's losses."""
        return self._learner.losses(batch, step)


class Step:
    """Does steps on this rank. ``late``: the host is not told at once whether gradients are finite."""

    def __init__(
        self, learner: Learner, optimiser: torch.optim.Optimizer, config: LoopConfig, world: World, *, late: bool
    ) -> None:
        check_parts(learner, config, world)
        self._learner, self._optimiser, self._config, self._world = learner, optimiser, config, world
        self._late = late
        self._parameters = [p for group in optimiser.param_groups for p in group["params"]]
        self._untrained = untrained(learner.module, optimiser) if late else []
        self._statistics = RunningStatistics(learner.module, world)
        if config.compile:
            compile_parts(learner.module)
        self._forward = _joined(learner, config, world)

    def gradients(self, batch: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """Run forward and backward, and give the losses, each the mean over the parts of the batch."""
        self._optimiser.zero_grad(set_to_none=True)
        parts = self._config.accumulate
        total: dict[str, Tensor] = {}
        for number, part in enumerate(_divided(batch, parts), start=1):
            with self._unheard(number < parts):
                with self._precision():
                    losses = self._forward(part, step)
                if number == parts:
                    self._statistics.begin()
                loss = losses["loss"] if parts == 1 else losses["loss"] / parts
                loss.backward()
            for name, value in losses.items():
                share = value.detach() if parts == 1 else value.detach() / parts
                total[name] = total[name] + share if name in total else share
        self._statistics.finish()
        return total

    def update(self, step: int, lr: float) -> Tensor:
        """Move the parameters where the gradients are finite, and give the length of the gradient."""
        for group in self._optimiser.param_groups:
            group["lr"] = lr
        norm = self._norm()
        if self._late:
            self._flagged(step, norm)
        elif bool(torch.isfinite(norm)):
            self._optimiser.step()
            self._learner.after_step(step)
        return norm

    def _flagged(self, step: int, norm: Tensor) -> None:
        bad = ~torch.isfinite(norm)
        self._optimiser.found_inf = bad.float()  # type: ignore[attr-defined]
        self._optimiser.step()
        with unless(bad, self._untrained):
            self._learner.after_step(step)

    def _norm(self) -> Tensor:
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = whole(torch.nn.utils.get_total_norm(gradients))
        if self._config.optim.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self._config.optim.clip_norm, norm)
        return norm

    def _unheard(self, unheard: bool) -> AbstractContextManager[Any]:
        """Keep gradients on their rank until the last part."""
        no_sync: Callable[[], AbstractContextManager[Any]] = getattr(self._forward, "no_sync", nullcontext)
        return no_sync() if unheard else nullcontext()

    def _precision(self) -> torch.autocast:
        cuda = self._world.device.type == "cuda"
        # bf16 on a CPU without the instructions is many times slower than fp32.
        enabled = self._config.precision == "bf16" or (self._config.precision == "auto" and cuda)
        return torch.autocast(self._world.device.type, dtype=torch.bfloat16, enabled=enabled)


def check_parts(learner: Learner, config: LoopConfig, world: World) -> None:
    """Refuse parts of a batch that a method cannot be given or that do not divide (UsageError)."""
    if config.accumulate == 1:
        return
    if not getattr(learner, "accumulates", False):
        raise UsageError(
            f"--accumulate {config.accumulate}: {type(learner).__name__} needs its whole batch at once, as it compares"
            " samples with each other; give --accumulate 1 and a smaller --batch, or more ranks"
        )
    if config.batch % (world.size * config.accumulate):
        raise UsageError(
            f"a batch of {config.batch} on {world.size} ranks does not divide into {config.accumulate} equal parts"
            " (--batch, --accumulate)"
        )


def _divided(batch: Mapping[str, Tensor], parts: int) -> Iterator[Mapping[str, Tensor]]:
    if parts == 1:
        yield batch
        return
    divided = {name: value.chunk(parts) for name, value in batch.items()}
    for number in range(parts):
        yield {name: chunks[number] for name, chunks in divided.items()}


def compile_parts(module: nn.Module) -> None:
    """Compile, in place and when first called, every child that has parameters; names of parameters stay the same."""
    for child in module.children():
        if any(True for _ in child.parameters()):
            child.compile(dynamic=False)


def _joined(learner: Learner, config: LoopConfig, world: World) -> nn.Module:
    forward = Forward(learner)
    forward.train()
    if world.size == 1 or config.sharding == "fsdp":
        return forward
    # Queues and twins are equal on every rank by construction: nothing to broadcast at every step.
    parallel = nn.parallel.DistributedDataParallel
    renamed = "forward_sync_buffers" in inspect.signature(parallel).parameters  # torch 2.13
    quiet: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    devices = [world.device] if world.device.type == "cuda" else None
    # Gradients lie where they are summed over the ranks: no copy to there and back.
    return parallel(forward, device_ids=devices, gradient_as_bucket_view=True, **quiet)
