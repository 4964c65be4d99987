"""SSCCL (Dong, Liu, Gu, IEEE TGRS 2023): contrast of whole views, and consistency of the ground that both show.

Known (abstract): a consistency branch that maximises the similarity of the overlapping regions of two augmented views,
and an instance branch that enforces the similarity of two augmented views of one image; made for segmentation of
remote sensing images. DI3CL's authors report it as the best of their baselines. Not found, for want of the text and of
public code: heads, losses, momentum, temperature, weights, schedule. The plainest reading stands here: the instance
branch is MoCo v2 with its numbers; in the consistency branch the shared ground is divided into 7 x 7 equal parts, each
pooled from the last map of both views (RoIAlign), projected, and predicted from one view to the twin's of the other by
2 - 2 cos, as SCRL and DI3CL do with their boxes; both weigh 1.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pretrain.baseline_runs import SSCCLRun
from pretrain.encoder import STRIDES
from pretrain.ground import divided, shared_boxes, to_view
from pretrain.heads import detached, make_encoder, mean_over_ground
from pretrain.moco import QueuedLearner, QueuedNetwork
from pretrain.parts import agreement, projector, unit
from pretrain.regions import region_pool


class GroundBranch(nn.Module):
    """Encoder, head of whole views, and projector of parts of the ground."""

    def __init__(self, config: SSCCLRun) -> None:
        super().__init__()
        h = config.heads
        self.encoder = make_encoder(config.encoder)
        self.head = projector(self.encoder.channels[-1], h.hidden, h.dim)
        self.part = projector(self.encoder.channels[-1], h.hidden, h.dim, norm=True)

    def forward(self, x: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Give unit embeddings (N, D) of input (N, bands, H, W), and pooled parts (N, R, C) of boxes (N, R, 4)."""
        last = self.encoder(x)[-1]
        parts = region_pool(last, boxes, STRIDES[-1], most=max(last.shape[-2:]))
        return unit(self.head(mean_over_ground(last))), parts


class SSCCLNetwork(QueuedNetwork[GroundBranch]):
    """The two sides, the queue, and the predictor of parts."""

    def __init__(self, config: SSCCLRun) -> None:
        query = GroundBranch(config)
        predictor = projector(config.heads.dim, config.heads.hidden, config.heads.dim, norm=True)
        super().__init__(query, config)
        self.predictor = predictor


class SSCCL(QueuedLearner[SSCCLRun, GroundBranch]):
    """The learner."""

    _network: SSCCLNetwork

    def build(self, config: SSCCLRun) -> SSCCLNetwork:
        """Make the two sides, the queue and the predictor."""
        return SSCCLNetwork(config)

    def losses(self, batch: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """Give the weighted sum of contrast and consistency under "loss", both, and accuracies."""
        net = self._network
        query, parts = net.query(self.see(batch, 1), self._boxes(batch, 1))
        key, target = self._key_side(batch, step)
        found = self.instance_losses(query, key, step)
        instance = found.pop("loss")
        apart = agreement(net.predictor(net.query.part(parts.flatten(0, 1))), target)
        numbers = {"loss_instance": instance, "loss_ground": apart}
        return {"loss": instance + self._config.consistency.weight * apart, **found, **detached(numbers)}

    @torch.no_grad()
    def _key_side(self, batch: Mapping[str, Tensor], step: int) -> tuple[Tensor, Tensor]:
        """Give keys (N, D) and targets (M, D) of this rank's own samples."""
        order, net = self.shuffle(len(batch["view2"]), step), self._network
        moved = order.shuffled({name: batch[name] for name in ("view2", "numbers2", "crop1", "crop2")})
        key, parts = net.key(self.see(moved, 2), self._boxes(moved, 2))
        return order.restored(key), net.key.part(order.restored(parts).flatten(0, 1))

    def _boxes(self, batch: Mapping[str, Tensor], view: int) -> Tensor:
        ground = divided(shared_boxes(batch["crop1"], batch["crop2"]), self._config.consistency.cells)
        return to_view(ground, batch[f"crop{view}"], self._config.views.size_px)
