"""From the dials to an optimiser and the learning rate of each step."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.config import LoopConfig, Optim

FALL = 0.1
"""Factor of the rate at each milestone (He et al. 2020)."""


def learning_rate(step: int, config: LoopConfig) -> float:
    """Give the learning rate of a step: linear warm-up, then the schedule down to the last step.

    With schedule "epoch" and no warm-up it is that of the published code: the cosine at the start of the epoch.
    """
    o, peak = config.optim, config.optim.peak_lr(config.batch)
    warm = o.warmup_steps
    if step < warm:
        return peak * (step + 1) / warm
    if o.schedule == "multistep":
        return peak * FALL ** sum(step >= share * config.steps for share in o.milestones)
    held = step // o.steps_per_epoch * o.steps_per_epoch if o.schedule == "epoch" and o.steps_per_epoch else step
    return peak * 0.5 * (1 + math.cos(math.pi * max(0, held - warm) / max(1, config.steps - warm)))


def make_optimiser(
    parameters: Iterable[nn.Parameter], config: Optim, device: torch.device, *, late: bool = False
) -> torch.optim.Optimizer:
    """Make the optimiser of ``parameters``. On a GPU it is one kernel, elsewhere torch's operations on lists.

    ``late``: it must obey a flag ``found_inf`` on the device (see :mod:`pretrain.guard`).
    """
    groups = _groups(list(parameters), config)
    fused = late or device.type == "cuda"
    if config.kind == "lars":
        return LARS(groups, lr=config.lr, momentum=config.momentum, trust=config.trust)
    if config.kind == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=fused or None)
    kinds: dict[str, Any] = {"fused": True} if fused else {"foreach": True}
    optimiser = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, **kinds)
    if fused and config.momentum:
        # torch leaves new momentum undefined where found_inf is set at its first step; from zero the step is the same.
        for parameter in (p for group in optimiser.param_groups for p in group["params"]):
            optimiser.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimiser


def _groups(parameters: list[nn.Parameter], config: Optim) -> list[dict[str, Any]]:
    """Divide parameters into those that decay and those that do not: vectors, hence biases and batch norm."""
    if config.weight_decay_on == "all":
        return [{"params": parameters, "weight_decay": config.weight_decay, "adapt": True}]
    matrices = [p for p in parameters if p.dim() > 1]
    vectors = [p for p in parameters if p.dim() <= 1]
    found = [
        {"params": matrices, "weight_decay": config.weight_decay, "adapt": True},
        {"params": vectors, "weight_decay": 0.0, "adapt": False},
    ]
    return [group for group in found if group["params"]]


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al., arXiv 1708.03888, algorithm 1).

    Per parameter w with gradient g: ``d = g + decay * w``, ``r = trust * |w| / |d|`` (1 where |w| or |d| is 0, and in
    groups that do not adapt), ``m = momentum * m + r * d``, ``w = w - lr * m``. As in the SimCLR and Barlow Twins code
    bases the rate is outside the momentum, and the length in the denominator is that of gradient and decay together.
    Where the tensor ``found_inf`` is set to 1 on the device, a step changes nothing.
    """

    found_inf: Tensor | None = None

    def __init__(self, groups: Iterable[Mapping[str, Any]], *, lr: float, momentum: float, trust: float) -> None:
        super().__init__([dict(group) for group in groups], {"lr": lr, "momentum": momentum, "trust": trust})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient; waits for nothing."""
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            if moved:
                self._move(moved, group)

    def _move(self, moved: list[nn.Parameter], group: Mapping[str, Any]) -> None:
        weights = [p.detach() for p in moved]
        update = list(torch._foreach_add(_gradients(moved), weights, alpha=group["weight_decay"]))
        if group["adapt"]:
            for change, ratio in zip(update, self._ratios(weights, update, group["trust"]), strict=True):
                change.mul_(ratio)
        memory = [self._momentum(p) for p in moved]
        if self.found_inf is None:
            torch._foreach_mul_(memory, group["momentum"])
            torch._foreach_add_(memory, update)
            torch._foreach_add_(weights, memory, alpha=-group["lr"])
            return
        bad = self.found_inf != 0
        new = torch._foreach_add(torch._foreach_mul(memory, group["momentum"]), update)
        for weight, old, now in zip(weights, memory, new, strict=True):
            weight.sub_((now * group["lr"]).masked_fill(bad, 0.0))
            old.copy_(torch.where(bad, old, now))

    def _ratios(self, weights: list[Tensor], update: list[Tensor], trust: float) -> list[Tensor]:
        lengths = torch.stack([torch.stack(torch._foreach_norm(x)) for x in (weights, update)])
        ratio = torch.where((lengths > 0).all(0), trust * lengths[0] / lengths[1], 1.0)
        return list(ratio.unbind())

    def _momentum(self, parameter: nn.Parameter) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]  # type: ignore[no-any-return]


def _gradients(moved: list[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in moved if p.grad is not None]
