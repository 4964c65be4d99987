"""The seam between a method and the loop that trains it."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from infra.world import World
from pretrain.encoder import ResNet
from shards.tile import DbScale

if TYPE_CHECKING:
    from shards.feed import Draw


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


class Pretrainer(Learner, Protocol):
    """A method that learns an encoder from tiles without labels."""

    def __init__(self, config: Any, scale: DbScale, world: World) -> None: ...

    @staticmethod
    def check(config: Any, world: World) -> None:
        """Refuse dials that do not fit each other or the ranks (UsageError), before anything is built."""
        ...

    @property
    def draw(self) -> "Draw":
        """What turns a tile into a sample."""
        ...

    @property
    def encoder(self) -> ResNet:
        """What the run is for."""
        ...


def to_device(batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Move a batch without waiting for the copy."""
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}
