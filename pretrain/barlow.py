"""Barlow Twins (Zbontar et al., ICML 2021, arXiv 2103.03230): make embeddings alike, and not redundant.

Published: ResNet-50, projector of three layers of 8,192 with batch norm and ReLU between them, lambda 0.005, LARS 0.2
per 256 on weights (0.0048 on biases and batch norm) with weight decay 1.5e-6 on weights, 10 epochs of warm-up and a
cosine, batch 2,048, 1,000 epochs of ImageNet at 224 px with BYOL's views, batch norm over all ranks.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from infra.world import World
from pretrain.baseline_runs import BarlowRun
from pretrain.heads import Branch, detached, mlp, total
from pretrain.pair_learner import PairLearner
from pretrain.parts import matches, spread, unit

_SMALL = 1e-5
"""Added to a variance, as batch norm does."""


class BarlowNetwork(nn.Module):
    """One side, for both views."""

    def __init__(self, config: BarlowRun) -> None:
        super().__init__()
        h = config.heads
        widths = (h.hidden, h.hidden, h.dim)
        self.query = Branch(config.encoder, lambda inside: mlp(inside, *widths, bias=False, out_bias=False))


def standardised(embeddings: Tensor, world: World) -> Tensor:
    """Give embeddings (n, D) with zero mean and unit deviation over the batch of all ranks."""
    samples = len(embeddings) * world.size
    centred = embeddings - total(embeddings.sum(0), world) / samples
    variance = total(centred.square().sum(0), world) / samples
    return centred * (variance + _SMALL).rsqrt()


def cross_correlation(one: Tensor, two: Tensor, world: World) -> Tensor:
    """Give the correlation (D, D) of the numbers of one view's embeddings (n, D) with the other's, over all ranks."""
    with torch.autocast(one.device.type, enabled=False):
        one, two = standardised(one.float(), world), standardised(two.float(), world)
        return total(one.t() @ two, world) / (len(one) * world.size)


def barlow_loss(correlation: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """Give sum_i (1 - C_ii)^2 and ``weight`` times sum_{i != j} C_ij^2 (equation 1)."""
    diagonal = correlation.diagonal()
    apart = correlation.square().sum() - diagonal.square().sum()
    return (1 - diagonal).square().sum(), weight * apart


class Barlow(PairLearner[BarlowRun, BarlowNetwork]):
    """The learner."""

    def build(self, config: BarlowRun) -> BarlowNetwork:
        """Make the one side."""
        return BarlowNetwork(config)

    def losses(self, batch: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """Give the sum of both terms under "loss", the terms, accuracy and spread."""
        one, two = self._network.query(self.see(batch, 1)), self._network.query(self.see(batch, 2))
        alike, apart = barlow_loss(cross_correlation(one, two, self._world), self._config.redundancy.weight)
        one, two = unit(one), unit(two)
        numbers = {"loss_alike": alike, "loss_apart": apart, "match": matches(one, two), "spread": spread(one)}
        return {"loss": alike + apart, **detached(numbers)}
