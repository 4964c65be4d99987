"""UNet: from the last map upwards, joining each finer map on the way."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from finetune.config import DecoderConfig
from finetune.decoder import ConvBlock, Decoder, resize_like


class UNet(Decoder):
    """At each step: upsample, join the encoder's map of that size, two 3x3 convolutions.

    The width is halved from step to step and ends at ``channels``. Source: Ronneberger et al., U-Net, MICCAI 2015,
    with the encoder's maps as its way down and bilinear upsampling.
    """

    def __init__(self, inputs: Sequence[int], classes: int, config: DecoderConfig) -> None:
        super().__init__()
        steps = len(inputs) - 1
        widths = [config.channels * 2**i for i in range(steps)]  # finest first
        below = [*widths[1:], inputs[-1]]
        self.steps = nn.ModuleList(
            nn.Sequential(ConvBlock(lower + skip, width, 3), ConvBlock(width, width, 3))
            for lower, skip, width in zip(below, inputs[:-1], widths, strict=True)
        )
        self.finish(config.channels, classes, config.dropout)

    def fused(self, features: Sequence[Tensor]) -> Tensor:
        """Give (N, channels, rows, cols) in the size of the first map."""
        x = features[-1]
        for i in range(len(features) - 2, -1, -1):
            x = self.steps[i](torch.cat([resize_like(x, features[i]), features[i]], 1))
        return x
