"""DANet: attention between places and between channels of the last map."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.config import DecoderConfig
from finetune.decoder import ConvBlock, Decoder


class PlaceAttention(nn.Module):
    """Every cell takes from all cells that look like it; begins as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 8, 1)
        self.query, self.key = nn.Conv2d(channels, inner, 1), nn.Conv2d(channels, inner, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (N, channels, rows, cols)."""
        query, key, value = (f(x).flatten(2).transpose(1, 2) for f in (self.query, self.key, self.value))
        seen = functional.scaled_dot_product_attention(query, key, value, scale=1.0)
        return x + self.gain * seen.transpose(1, 2).reshape(x.shape)


class ChannelAttention(nn.Module):
    """Every channel takes from all channels, most from the least alike; begins as the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (N, channels, rows, cols)."""
        flat = x.flatten(2)
        alike = flat @ flat.transpose(1, 2)
        weight = (alike.amax(-1, keepdim=True) - alike).softmax(-1)
        return x + self.gain * (weight @ flat).reshape(x.shape)


class DaNet(Decoder):
    """The sum of both attentions over the last map, each between two convolutions.

    Source: Fu et al., Dual Attention Network, CVPR 2019, run there on a map of stride 8 (``output_stride`` 8). The
    attention of places needs memory as (rows * cols)^2 of that map.
    """

    def __init__(self, inputs: Sequence[int], classes: int, config: DecoderConfig) -> None:
        super().__init__()
        n, width = inputs[-1], config.channels
        self.places = nn.Sequential(ConvBlock(n, width, 3), PlaceAttention(width), ConvBlock(width, width, 3))
        self.channels = nn.Sequential(ConvBlock(n, width, 3), ChannelAttention(), ConvBlock(width, width, 3))
        self.finish(width, classes, config.dropout)

    def fused(self, features: Sequence[Tensor]) -> Tensor:
        """Give (N, width, rows, cols) in the size of the last map."""
        both: Tensor = self.places(features[-1]) + self.channels(features[-1])
        return both
