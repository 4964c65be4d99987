"""BYOL (Grill et al., NeurIPS 2020, arXiv 2006.07733): predict what a slow twin sees, without negatives.

Published: ResNet-50, projector and predictor of one hidden layer of 4,096 with batch norm and 256 out, momentum 0.996
rising to 1 along a cosine, LARS 0.2 per 256 with weight decay 1.5e-6 (not on biases and batch norm), 10 epochs of
warm-up and a cosine, batch 4,096, 1,000 epochs of ImageNet at 224 px with area 0.08..1, batch norm over all ranks. Its
views differ (blur always or at 0.1, solarisation at 0 or 0.2); the frame changes both alike.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pretrain.baseline_runs import BYOLRun
from pretrain.heads import Branch, detached, mlp, ramped, twin_of
from pretrain.pair_learner import PairLearner
from pretrain.parts import agreement, follow, matches, spread, unit


class BYOLNetwork(nn.Module):
    """The online side with its predictor, and the target."""

    def __init__(self, config: BYOLRun) -> None:
        super().__init__()
        h = config.heads
        self.query = Branch(config.encoder, lambda inside: mlp(inside, h.hidden, h.dim, out_bias=False))
        self.predictor = mlp(h.dim, h.hidden, h.dim, out_bias=False)
        self.key: Branch = twin_of(self.query)


class BYOL(PairLearner[BYOLRun, BYOLNetwork]):
    """The learner."""

    accumulates = True

    def build(self, config: BYOLRun) -> BYOLNetwork:
        """Make the two sides."""
        return BYOLNetwork(config)

    def losses(self, batch: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """Give the sum of 2 - 2 cos of both directions (equation 2) under "loss", accuracy and spread."""
        net, views = self._network, (self.see(batch, 1), self.see(batch, 2))
        seen = [net.query(view) for view in views]
        with torch.no_grad():
            target = [net.key(view) for view in views]
        loss = agreement(net.predictor(seen[0]), target[1]) + agreement(net.predictor(seen[1]), target[0])
        one, two = unit(seen[0]), unit(target[1])
        return {"loss": loss, **detached({"match": matches(one, two), "spread": spread(one)})}

    def after_step(self, step: int) -> None:
        """Let the target follow."""
        momentum = ramped(self._config.twin.momentum, step, self._config.steps)
        follow(self._network.key, self._network.query, momentum)
