"""Pieces that the baselines share: heads as published, one side of a network, twins, sums over ranks with gradient."""

import copy
import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from infra.world import World
from pretrain.config import EncoderConfig
from pretrain.encoder import ResNet
from pretrain.export import load_weights


def mlp(*widths: int, bias: bool = True, out_bias: bool = True, out: nn.Module | None = None) -> nn.Sequential:
    """Make a head of linear layers with batch norm and ReLU between them, and ``out`` behind the last one."""
    layers: list[nn.Module] = []
    for inside, outside in pairwise(widths[:-1]):
        layers += [nn.Linear(inside, outside, bias=bias), nn.BatchNorm1d(outside), nn.ReLU(inplace=True)]
    layers.append(nn.Linear(widths[-2], widths[-1], bias=out_bias))
    return nn.Sequential(*layers, *([] if out is None else [out]))


def mean_over_ground(maps: Tensor) -> Tensor:
    """Average feature maps (N, C, H, W) over their ground: (N, C)."""
    return maps.mean((2, 3))


def make_encoder(config: EncoderConfig) -> ResNet:
    """Make the encoder, with the weights of a local file where the run names one."""
    encoder = ResNet(config.depth, config.bands)
    if config.weights is not None:
        load_weights(encoder, config.weights)
    return encoder


class Branch(nn.Module):
    """One side of a network: the encoder, and a head on what its last stage sees on average."""

    def __init__(self, config: EncoderConfig, head: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.encoder = make_encoder(config)
        self.head = head(self.encoder.channels[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Give embeddings (N, D) of input (N, bands, H, W)."""
        return self.head(mean_over_ground(self.encoder(x)[-1]))  # type: ignore[no-any-return]


def twin_of(query: nn.Module) -> Any:
    """Give an equal of ``query``, of the same class, that no optimiser moves."""
    return copy.deepcopy(query).requires_grad_(False)


def ramped(momentum: float, step: int, steps: int) -> float:
    """Give a twin's momentum at ``step``: from ``momentum`` up to 1 along half a cosine (Grill et al. 2020, 3.2)."""
    return 1 - (1 - momentum) * (math.cos(math.pi * step / steps) + 1) / 2


def gather(value: Tensor, world: World) -> Tensor:
    """Join every rank's ``value`` (equal shapes) along axis 0 in rank order, with gradient.

    The gradient of a rank's value is the sum over the ranks' losses; DistributedDataParallel then divides by the
    number of ranks, so the parameters get the gradient of the mean of these losses.
    """
    return value if world.size == 1 else _Gather.apply(value, world)  # type: ignore[no-untyped-call]


def total(value: Tensor, world: World) -> Tensor:
    """Sum ``value`` over the ranks, with gradient, as :func:`gather` has it."""
    return value if world.size == 1 else _Total.apply(value)  # type: ignore[no-untyped-call]


def share_of_mean(values: Tensor, used: Tensor, world: World) -> Tensor:
    """Give this rank's part of the mean of ``values`` (...) where ``used``: the mean over ranks is that of them all."""
    count = total(used.sum().to(torch.float32), world).clamp(min=1)
    return (values * used).sum() * world.size / count


def detached(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give numbers for the log: without their history."""
    return {name: value.detach() for name, value in values.items()}


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, world: World) -> Tensor:
        ctx.share = world.share(world.size * len(value))
        return world.all_gather(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _summed(gradients[0])[ctx.share], None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return _summed(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _summed(gradients[0])


def _summed(value: Tensor) -> Tensor:
    whole = value.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(whole)
    return whole
