"""The plainest heads: FCN on the last map, and a linear probe over all maps."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from finetune.config import DecoderConfig
from finetune.decoder import ConvBlock, Decoder, resize_like


class Fcn(Decoder):
    """Two convolutions over the last map, joined with the map itself.

    Source: Long et al., Fully Convolutional Networks, CVPR 2015, with the head of mmsegmentation, which is run on a
    map of stride 8 (``output_stride`` 8).
    """

    def __init__(self, inputs: Sequence[int], classes: int, config: DecoderConfig) -> None:
        super().__init__()
        width = config.channels
        self.convs = nn.Sequential(ConvBlock(inputs[-1], width, 3), ConvBlock(width, width, 3))
        self.join = ConvBlock(inputs[-1] + width, width, 3)
        self.finish(width, classes, config.dropout)

    def fused(self, features: Sequence[Tensor]) -> Tensor:
        """Give (N, width, rows, cols) in the size of the last map."""
        last = features[-1]
        joined: Tensor = self.join(torch.cat([last, self.convs(last)], 1))
        return joined


class LinearProbe(Decoder):
    """One 1x1 convolution over all maps, each channel brought to zero mean and unit variance and no more.

    What it finds is what the encoder holds. Source: Oquab et al., DINOv2, 2023, section 7.4 (linear, several layers).
    """

    def __init__(self, inputs: Sequence[int], classes: int, config: DecoderConfig) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(n, affine=False) for n in inputs)
        self.finish(sum(inputs), classes, config.dropout)

    def fused(self, features: Sequence[Tensor]) -> Tensor:
        """Give all maps on top of each other, in the size of the first."""
        maps = [norm(x) for norm, x in zip(self.norms, features, strict=True)]
        return torch.cat([resize_like(x, maps[0]) for x in maps], 1)
