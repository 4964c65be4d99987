"""What contrastive methods are made of: heads, the momentum twin, queues, InfoNCE, shuffled keys."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from infra.world import World


def projector(inside: int, hidden: int, dim: int, *, norm: bool = False) -> nn.Sequential:
    """Make a head: linear, batch norm where ``norm``, ReLU, linear; (N, inside) to (N, dim)."""
    middle: list[nn.Module] = [nn.BatchNorm1d(hidden)] if norm else []
    return nn.Sequential(nn.Linear(inside, hidden), *middle, nn.ReLU(inplace=True), nn.Linear(hidden, dim))


def unit(x: Tensor) -> Tensor:
    """Scale vectors (..., D) to length one, in float32."""
    return functional.normalize(x.float(), dim=-1)


def freeze(twin: nn.Module, query: nn.Module) -> None:
    """Make ``twin`` an equal of ``query`` that no optimiser moves."""
    twin.load_state_dict(query.state_dict())
    twin.requires_grad_(False)


@torch.no_grad()
def follow(twin: nn.Module, query: nn.Module, momentum: float) -> None:
    """Move a twin's parameters to ``momentum * twin + (1 - momentum) * query``; buffers stay its own."""
    torch._foreach_lerp_(list(twin.parameters()), list(query.parameters()), 1.0 - momentum)


class Queue(nn.Module):
    """The last ``length`` keys of several kinds, (length, dim) unit vectors each, under one pointer."""

    pointer: Tensor

    def __init__(self, names: tuple[str, ...], length: int, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.length = length
        for name in names:
            self.register_buffer(name, unit(torch.randn(length, dim, generator=generator)))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, keys: Mapping[str, Tensor]) -> None:
        """Write keys (B, dim) of every kind over the oldest ones. B is at most ``length``."""
        count = next(iter(keys.values())).shape[0]
        # The pointer stays on the device: no wait to learn where to write.
        places = (self.pointer + torch.arange(count, device=self.pointer.device)) % self.length
        for name, values in keys.items():
            self.get_buffer(name).index_copy_(0, places, values.to(self.get_buffer(name).dtype))
        self.pointer.add_(count).remainder_(self.length)


def contrast(
    query: Tensor, key: Tensor, others: Tensor, temperature: float, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Give InfoNCE of unit vectors (N, D) against their keys (N, D) and K others (K, D), and the top-1 accuracy.

    Loss: mean over n of -log(exp(q.k/t) / (exp(q.k/t) + sum_j exp(q.o_j/t))) (van den Oord et al. 2018; MoCo), where
    given weighted by ``weights`` (N,).
    """
    with torch.autocast(query.device.type, enabled=False):  # own and other keys in one precision
        query = query / temperature
        own, rest = (query * key).sum(1), query @ others.t()
    # Not by joining own and other logits: that would copy N x K numbers three times.
    loss = torch.logaddexp(rest.logsumexp(1), own) - own
    # Strictly above all others: equal logits, as of a collapsed network, are no hit.
    misses = (rest >= own.unsqueeze(1)).any(1)
    mean = loss.mean() if weights is None else (loss * weights).sum() / weights.sum()
    return mean, 1 - misses.float().mean()


def matches(query: Tensor, key: Tensor) -> Tensor:
    """Give the share of queries (N, D) that are nearer to their own key (N, D) than to any other of this step.

    Unlike the accuracy over a queue it cannot rise because old keys come from an older twin.
    """
    closeness = query @ key.t()
    own = closeness.diagonal().unsqueeze(1)
    return ((closeness >= own).sum(1) == 1).float().mean()


def agreement(predicted: Tensor, target: Tensor) -> Tensor:
    """Give the mean of 2 - 2 cos between rows (M, D): 0 for the same direction, 4 for the opposite."""
    return (2 - 2 * (unit(predicted) * unit(target)).sum(-1)).mean()


def spread(embeddings: Tensor) -> Tensor:
    """Give the mean deviation of unit vectors (N, D), times sqrt(D): 1 where even on the sphere, 0 where collapsed."""
    even = math.sqrt(embeddings.shape[1])
    return embeddings.std(0, unbiased=False).mean() * even


def redundancy(features: Tensor) -> Tensor:
    """Give the mean squared correlation of two different channels of features (M, C), 0 to 1.

    Its inverse is about the number of directions that the features fill evenly, so that a weight on it keeps an
    encoder from dimensional collapse (Zbontar et al. 2021; Bardes et al. 2022). Noise alone gives 1 / M.
    """
    with torch.autocast(features.device.type, enabled=False):
        x = features.float()
        x = x - x.mean(0)
        x = x / (x.square().mean(0) + 1e-6).sqrt()
        correlation = x.t() @ x / len(x)
    channels = x.shape[1]
    total = correlation.square().sum() - correlation.diagonal().square().sum()
    return total / (channels * (channels - 1))


class Shuffle:
    """One step's shuffling of samples across ranks, the same on all of them without a word between them.

    Batch norm then sees the keys in other company than the queries (He et al. 2020, section 3.3). In a world of
    one rank nothing moves, but where its batch norm has several ``groups``.
    """

    def __init__(self, world: World, total: int, seed: int, step: int, *, on: bool = True, groups: int = 1) -> None:
        self._world, self._on = world, on and world.size * groups > 1
        if not self._on:
            return  # nothing random in a step of one rank: it compiles whole
        order = torch.randperm(total, generator=torch.Generator().manual_seed(seed * 2_147_483_647 + step))
        mine = world.share(total)
        self._go, self._back = order[mine], order.argsort()[mine]

    def shuffled(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give this rank's share of all ranks' samples in the shuffled order."""
        if not self._on:
            return dict(values)
        return {name: self._exchange(value, self._go) for name, value in values.items()}

    def restored(self, value: Tensor) -> Tensor:
        """Give back this rank's own samples from values computed in the shuffled order."""
        return self._exchange(value, self._back) if self._on else value

    def _exchange(self, value: Tensor, places: Tensor) -> Tensor:
        joined, places = self._world.all_gather(value), places.to(value.device)
        if value.dtype == torch.uint16:  # torch cannot pick rows of it everywhere
            return joined.view(torch.int16)[places].view(torch.uint16)
        return joined[places]
