"""What every task does alike in a step: its own pace for the encoder, and dropout that depends on the step only."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

Objective = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Gives ``loss`` of a batch, and detached scalars to log beside it."""


class TaskLearner:
    """A network with an ``encoder``, and what it is to lose.

    ``encoder_lr_factor`` makes the encoder move by that part of every optimiser step; 0 freezes it, running
    statistics included. Dropout depends on ``seed``, the step and the rank only.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        *,
        encoder_lr_factor: float = 1.0,
        seed: int = 0,
        rank: int = 0,
    ) -> None:
        self.network, self.objective = network, objective
        self.encoder_lr_factor, self.seed, self.rank = encoder_lr_factor, seed, rank
        self._before: list[Tensor] = []
        if not encoder_lr_factor:
            self.encoder.requires_grad_(False)

    @property
    def module(self) -> nn.Module:
        """Encoder and heads."""
        return self.network

    @property
    def encoder(self) -> nn.Module:
        """What the learning-rate factor is for."""
        return cast(nn.Module, self.network.encoder)

    def parameters(self) -> Iterable[nn.Parameter]:
        """Everything that is not frozen."""
        return (p for p in self.network.parameters() if p.requires_grad)

    def losses(self, batch: Mapping[str, Tensor], step: int) -> Mapping[str, Tensor]:
        """Give the objective's values of a batch."""
        if not self.encoder_lr_factor:
            self.encoder.eval()
        elif self.encoder_lr_factor != 1 and not self._before:
            self._before = [p.detach().clone() for p in self.encoder.parameters()]
        with _keyed(batch["codes"].device, self.seed, step, self.rank):
            return self.objective(batch)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Take back what the encoder moved too far: both optimisers' steps are linear in the learning rate."""
        for before, parameter in zip(self._before, self.encoder.parameters(), strict=False):
            parameter.copy_(before.lerp_(parameter, self.encoder_lr_factor))


@contextmanager
def _keyed(device: torch.device, *key: int) -> Iterator[None]:
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
        yield
