"""FarSeg: a feature pyramid weighed by how much each place has to do with the whole scene."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.config import DecoderConfig
from finetune.decoder import ConvBlock, Decoder, resize_like, resize_scores


class SceneRelation(nn.Module):
    """Weigh a level's cells by their likeness to the scene: sigmoid of the inner product of both embeddings."""

    def __init__(self, scene: int, width: int) -> None:
        super().__init__()
        self.scene = nn.Sequential(nn.Conv2d(scene, width, 1), nn.ReLU(), nn.Conv2d(width, width, 1))
        self.content, self.again = ConvBlock(width, width, 1), ConvBlock(width, width, 1)

    def forward(self, scene: Tensor, level: Tensor) -> Tensor:
        """Give the weighed level (N, width, rows, cols) for the scene (N, scene, 1, 1)."""
        relation = (self.scene(scene) * self.content(level)).sum(1, keepdim=True).sigmoid()
        weighed: Tensor = relation * self.again(level)
        return weighed


class Rise(nn.Module):
    """3x3 convolutions, each followed by a doubling, until the finest level's size; one without for that level."""

    def __init__(self, inputs: int, outputs: int, steps: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ConvBlock(inputs if i == 0 else outputs, outputs, 3) for i in range(max(steps, 1)))

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        """Give (N, outputs, rows, cols) in the size of ``like``."""
        rows, cols = like.shape[2:]
        for block in self.blocks:
            x = block(x)
            x = resize_scores(x, min(2 * x.shape[2], rows), min(2 * x.shape[3], cols))
        return resize_like(x, like)


class FarSeg(Decoder):
    """Feature pyramid, relation to the scene, and the mean of all levels brought to the finest.

    Source: Zheng et al., Foreground-Aware Relation Network, CVPR 2020 (there 256 and 128 channels). Its optimisation
    of the foreground is a loss, not a decoder: the focal loss with class weights comes nearest.
    """

    def __init__(self, inputs: Sequence[int], classes: int, config: DecoderConfig) -> None:
        super().__init__()
        width, half = config.channels, max(config.channels // 2, 1)
        self.laterals = nn.ModuleList(nn.Conv2d(n, width, 1) for n in inputs)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in inputs)
        self.relations = nn.ModuleList(SceneRelation(inputs[-1], width) for _ in inputs)
        self.rises = nn.ModuleList(Rise(width, half, steps) for steps in range(len(inputs)))
        self.finish(half, classes, config.dropout)

    def fused(self, features: Sequence[Tensor]) -> Tensor:
        """Give (N, width / 2, rows, cols) in the size of the first map."""
        levels = [lateral(x) for lateral, x in zip(self.laterals, features, strict=True)]
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + functional.interpolate(levels[i], levels[i - 1].shape[2:], mode="nearest")
        scene = functional.adaptive_avg_pool2d(features[-1], 1)
        weighed = [
            relation(scene, smooth(level))
            for relation, smooth, level in zip(self.relations, self.smooth, levels, strict=True)
        ]
        risen = [rise(x, weighed[0]) for rise, x in zip(self.rises, weighed, strict=True)]
        return torch.stack(risen).mean(0)
