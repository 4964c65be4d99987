"""SimCLR (Chen, Kornblith, Norouzi, Hinton, ICML 2020, arXiv 2002.05709): contrast within the batch of all ranks.

Published: ResNet-50, head 2048-2048-128 with batch norm behind both layers (the authors' code), temperature 0.1, LARS
0.3 per 256 with weight decay 1e-6, 10 epochs of warm-up and a cosine, batch 4,096, 100 to 1,000 epochs of ImageNet at
224 px with area 0.08..1. Batch norm sees both views together, on all ranks.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from infra.world import World
from pretrain.baseline_runs import SimCLRRun
from pretrain.heads import Branch, detached, gather, mlp
from pretrain.pair_learner import PairLearner
from pretrain.parts import spread, unit


class SimCLRNetwork(nn.Module):
    """One side, for both views."""

    def __init__(self, config: SimCLRRun) -> None:
        super().__init__()
        self.query = Branch(config.encoder, lambda inside: _head(inside, config))


def _head(inside: int, config: SimCLRRun) -> nn.Module:
    h, last = config.heads, nn.BatchNorm1d(config.heads.dim)
    last.bias.requires_grad_(False)  # the authors' last batch norm scales only
    return mlp(inside, h.hidden, h.dim, bias=False, out_bias=False, out=last)


def nt_xent(one: Tensor, two: Tensor, temperature: float, world: World) -> tuple[Tensor, Tensor]:
    """Give this rank's part of NT-Xent of unit vectors (n, D) of both views, and the top-1 accuracy.

    Each of the 2 N vectors of all ranks is told its partner among the 2 N - 1 others (equation 1): mean of
    -log(exp(z_i.z_j / t) / sum_{k != i} exp(z_i.z_k / t)).
    """
    own = torch.stack([one, two], 1)
    every = gather(own, world).flatten(0, 1)
    own = own.flatten(0, 1)
    place = torch.arange(len(own), device=own.device) + world.rank * len(own)
    with torch.autocast(own.device.type, enabled=False):
        logits = own @ every.t() / temperature
    itself = functional.one_hot(place, len(every)).bool()
    logits = logits.masked_fill(itself, float("-inf"))
    partner = place ^ 1  # views of a sample stand side by side
    right = logits.gather(1, partner.unsqueeze(1))
    hits = (logits >= right).sum(1) == 1  # equal logits, as of a collapsed network, are no hit
    return functional.cross_entropy(logits, partner), hits.float().mean()


class SimCLR(PairLearner[SimCLRRun, SimCLRNetwork]):
    """The learner."""

    def build(self, config: SimCLRRun) -> SimCLRNetwork:
        """Make the one side."""
        return SimCLRNetwork(config)

    def losses(self, batch: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """Give NT-Xent under "loss", the accuracy within the batch, and the spread."""
        both = torch.cat([self.see(batch, 1), self.see(batch, 2)])
        one, two = unit(self._network.query(both)).chunk(2)
        loss, hit = nt_xent(one, two, self._config.contrast.temperature, self._world)
        return {"loss": loss, **detached({"match": hit, "spread": spread(one)})}
