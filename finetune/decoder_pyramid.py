"""Context at several scales of the last map: PSPNet (pooled) and DeepLabV3+ (dilated)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.config import DecoderConfig
from finetune.decoder import ConvBlock, Decoder, PyramidPooling, resize_like

DETAIL = 48
"""Channels to which DeepLabV3+ reduces the finest map (section 4.1 of the paper)."""

RATES_STRIDE_16 = (6, 12, 18)
"""Dilations of its context on a map of stride 16; twice as much at stride 8, half at 32: the same ground."""


class PspNet(Decoder):
    """Pooled context of the last map. Source: Zhao et al., Pyramid Scene Parsing, CVPR 2017 (at stride 8)."""

    def __init__(self, inputs: Sequence[int], classes: int, config: DecoderConfig) -> None:
        super().__init__()
        self.context = PyramidPooling(inputs[-1], config.channels, config.pool_scales)
        self.finish(config.channels, classes, config.dropout)

    def fused(self, features: Sequence[Tensor]) -> Tensor:
        """Give (N, width, rows, cols) in the size of the last map."""
        context: Tensor = self.context(features[-1])
        return context


class SeparableBlock(nn.Module):
    """A 3x3 convolution of every channel by itself, then a 1x1 over channels; batch norm and ReLU after each."""

    def __init__(self, inputs: int, outputs: int, dilation: int = 1) -> None:
        super().__init__()
        self.depth = nn.Conv2d(inputs, inputs, 3, padding=dilation, dilation=dilation, groups=inputs, bias=False)
        self.norm = nn.BatchNorm2d(inputs)
        self.point = ConvBlock(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Give (N, outputs, rows, cols)."""
        out: Tensor = self.point(functional.relu(self.norm(self.depth(x))))
        return out


class DilatedContext(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, three dilated 3x3 and the whole map, fused."""

    def __init__(self, inputs: int, channels: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.point, self.whole = ConvBlock(inputs, channels, 1), ConvBlock(inputs, channels, 1)
        self.dilated = nn.ModuleList(SeparableBlock(inputs, channels, rate) for rate in rates)
        self.fuse = ConvBlock((2 + len(rates)) * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Give (N, channels, rows, cols)."""
        whole = resize_like(self.whole(functional.adaptive_avg_pool2d(x, 1)), x)
        fused: Tensor = self.fuse(torch.cat([self.point(x), *(block(x) for block in self.dilated), whole], 1))
        return fused


class DeepLabV3Plus(Decoder):
    """Dilated context of the last map, sharpened with the finest one.

    Source: Chen et al., Encoder-Decoder with Atrous Separable Convolution, ECCV 2018 (at stride 16 or 8).
    """

    def __init__(self, inputs: Sequence[int], classes: int, config: DecoderConfig) -> None:
        super().__init__()
        width = config.channels
        rates = [rate * 16 // config.output_stride for rate in RATES_STRIDE_16]
        self.context = DilatedContext(inputs[-1], width, rates)
        self.detail = ConvBlock(inputs[0], DETAIL, 1)
        self.sharpen = nn.Sequential(SeparableBlock(width + DETAIL, width), SeparableBlock(width, width))
        self.finish(width, classes, config.dropout)

    def fused(self, features: Sequence[Tensor]) -> Tensor:
        """Give (N, width, rows, cols) in the size of the first map."""
        detail = self.detail(features[0])
        sharp: Tensor = self.sharpen(torch.cat([resize_like(self.context(features[-1]), detail), detail], 1))
        return sharp
