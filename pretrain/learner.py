"""The seam between a method and the loop that trains it."""

from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn


class Learner(Protocol):
    """A method: what it trains, what it loses on a batch, and what it does after a step.

    All tensors that must survive a restart are parameters or buffers of ``module``; all randomness is keyed
    by the step, so that nothing else has to be saved.
    """

    @property
    def module(self) -> nn.Module:
        """Everything to be saved: parameters and buffers, frozen twins and queues included."""
        ...

    def parameters(self) -> Iterable[nn.Parameter]:
        """The parameters that the optimiser moves."""
        ...

    def losses(self, batch: Mapping[str, Tensor], step: int) -> Mapping[str, Tensor]:
        """Give the loss to go down under ``"loss"``, and detached scalars to log beside it."""
        ...

    def after_step(self, step: int) -> None:
        """Do what follows an optimiser step (queues, momentum twin)."""
        ...


def to_device(batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Move a batch without waiting for the copy."""
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}
