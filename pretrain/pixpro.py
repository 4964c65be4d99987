"""PixPro (Xie, Lin, Zhang, Cao, Lin, Hu, CVPR 2021, arXiv 2011.10043): a pixel agrees with its propagation elsewhere.

Published: ResNet-50, projector of 1x1 convolutions 2048-4096-256 with batch norm between them on the last map, one 1x1
convolution before the propagation, gamma 2, pixels closer than 0.7 diagonals of a cell are positive, momentum 0.99
rising to 1 along a cosine, LARS 1.0 per 256 with weight decay 1e-5, 5 epochs of warm-up and a cosine, batch 1,024, 100
or 400 epochs of ImageNet at 224 px with BYOL's views and area 0.08..1, batch norm over all ranks. The loss is the
paper's (section 3.2); the authors' code doubles it. Their optional loss of whole views has no weight and is not here.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pretrain.baseline_runs import PixProRun
from pretrain.ground import cell_centres
from pretrain.heads import detached, make_encoder, mlp, ramped, twin_of
from pretrain.pair_learner import PairLearner
from pretrain.parts import follow, spread, unit


class PixelBranch(nn.Module):
    """Encoder, and a projector on every pixel of the last map."""

    def __init__(self, config: PixProRun) -> None:
        super().__init__()
        self.encoder = make_encoder(config.encoder)
        self.head = mlp(self.encoder.channels[-1], config.heads.hidden, config.heads.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Give embeddings (N, pixels, D) of input (N, bands, H, W), row by row."""
        rows = self.encoder(x)[-1].flatten(2).transpose(1, 2)
        # A 1x1 convolution and its batch norm are a linear layer and its batch norm over all pixels.
        return self.head(rows.flatten(0, 1)).unflatten(0, rows.shape[:2])  # type: ignore[no-any-return]


class PixProNetwork(nn.Module):
    """The online side, the transform before propagation, and the twin."""

    def __init__(self, config: PixProRun) -> None:
        super().__init__()
        self.query = PixelBranch(config)
        self.transform = nn.Linear(config.heads.dim, config.heads.dim)
        self.key: PixelBranch = twin_of(self.query)


def propagate(pixels: Tensor, values: Tensor, sharpness: float) -> Tensor:
    """Give y_i = sum_j max(cos(x_i, x_j), 0)^gamma g(x_j) of pixels x and values g(x), both (N, pixels, D).

    As in the authors' code the values have length one.
    """
    with torch.autocast(pixels.device.type, enabled=False):
        x = unit(pixels)
        return (x @ x.transpose(1, 2)).clamp(min=0) ** sharpness @ unit(values)


def near(crops1: Tensor, crops2: Tensor, shape: tuple[int, int], reach: float) -> Tensor:
    """Tell which pixels of two maps lie less than ``reach`` diagonals of the larger cell apart: (N, pixels, pixels)."""
    exact = "donot_use_mm_for_euclid_dist"  # differences of squares would lose the small distances
    gap = torch.cdist(cell_centres(crops1, *shape), cell_centres(crops2, *shape), compute_mode=exact)
    one, two = (torch.hypot(crops[:, 2] / shape[0], crops[:, 3] / shape[1]) for crops in (crops1, crops2))
    return gap < reach * torch.maximum(one, two).view(-1, 1, 1)


def consistency(propagated: Tensor, target: Tensor, positive: Tensor) -> Tensor:
    """Give -cos of propagated pixels and target pixels (N, pixels, D), averaged over an image's positive pairs."""
    with torch.autocast(propagated.device.type, enabled=False):
        closeness = unit(propagated) @ unit(target).transpose(1, 2)
    pairs = positive.sum((1, 2)).clamp(min=1)
    return -((closeness * positive).sum((1, 2)) / pairs).mean()


class PixPro(PairLearner[PixProRun, PixProNetwork]):
    """The learner."""

    accumulates = True

    def build(self, config: PixProRun) -> PixProNetwork:
        """Make the two sides."""
        return PixProNetwork(config)

    def losses(self, batch: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """Give the sum of both directions under "loss", positive pairs of a pixel, and the spread."""
        c, net, views = self._config.pixels, self._network, (self.see(batch, 1), self.see(batch, 2))
        seen = [net.query(view) for view in views]
        spread_out = [propagate(x, net.transform(x), c.sharpness) for x in seen]
        with torch.no_grad():
            target = [net.key(view) for view in views]
        side = self._config.views.size_px // 32
        positive = near(batch["crop1"], batch["crop2"], (side, side), c.reach)
        loss = consistency(spread_out[0], target[1], positive)
        loss = loss + consistency(spread_out[1], target[0], positive.transpose(1, 2))
        numbers = {"pairs": positive.float().sum(2).mean(), "spread": spread(unit(seen[0].flatten(0, 1)))}
        return {"loss": loss, **detached(numbers)}

    def after_step(self, step: int) -> None:
        """Let the twin follow."""
        momentum = ramped(self._config.twin.momentum, step, self._config.steps)
        follow(self._network.key, self._network.query, momentum)
