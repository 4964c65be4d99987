"""SimSiam (Chen, He, CVPR 2021, arXiv 2011.10566): predict one view from the other; a stopped gradient, no twin.

Published: ResNet-50, projector 2048-2048-2048-2048 with batch norm behind every layer (the last without scale and
shift), predictor 2048-512-2048, SGD 0.05 per 256 with weight decay 1e-4 and a cosine, batch 512, 100 epochs of ImageNet
at 224 px with MoCo v2's views, batch norm over all ranks. The authors keep the predictor's rate constant; here it falls
with the others (their table 1: 68.1 % and 67.7 %).
"""

from collections.abc import Mapping

from torch import Tensor, nn

from pretrain.baseline_runs import SimSiamRun
from pretrain.heads import Branch, detached, mlp
from pretrain.pair_learner import PairLearner
from pretrain.parts import agreement, matches, spread, unit


class SimSiamNetwork(nn.Module):
    """One side, for both views, and the predictor."""

    def __init__(self, config: SimSiamRun) -> None:
        super().__init__()
        h = config.heads
        self.query = Branch(config.encoder, lambda inside: _head(inside, config))
        self.predictor = mlp(h.dim, h.predictor, h.dim, bias=False)


def _head(inside: int, config: SimSiamRun) -> nn.Module:
    h = config.heads
    last = nn.BatchNorm1d(h.dim, affine=False)
    return mlp(inside, h.hidden, h.hidden, h.dim, bias=False, out_bias=False, out=last)


def negative_cosine(predicted: Tensor, target: Tensor) -> Tensor:
    """Give the mean of -cos between rows (N, D), -1 to 1 (equation 1); no gradient reaches ``target``."""
    return agreement(predicted, target.detach()) / 2 - 1


class SimSiam(PairLearner[SimSiamRun, SimSiamNetwork]):
    """The learner."""

    accumulates = True

    def build(self, config: SimSiamRun) -> SimSiamNetwork:
        """Make the one side and the predictor."""
        return SimSiamNetwork(config)

    def losses(self, batch: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """Give half the sum of both directions (equation 2) under "loss", accuracy and spread."""
        net = self._network
        one, two = net.query(self.see(batch, 1)), net.query(self.see(batch, 2))
        loss = negative_cosine(net.predictor(one), two) / 2 + negative_cosine(net.predictor(two), one) / 2
        return {"loss": loss, **detached({"match": matches(unit(one), unit(two)), "spread": spread(unit(one))})}
