"""Heads with one answer for a tile, on the encoder's last map."""

import math

import torch
from torch import Tensor, nn

from finetune.config import DecoderConfig


class MeanProbe(nn.Module):
    """The mean over all cells, dropout, one linear layer: with a frozen encoder, the linear probe."""

    def __init__(self, inputs: int, outputs: int, config: DecoderConfig) -> None:
        super().__init__()
        self.dropout, self.linear = nn.Dropout(config.dropout), nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Give (N, outputs) of (N, inputs, rows, cols)."""
        out: Tensor = self.linear(self.dropout(x.mean((2, 3))))
        return out


class AttentiveProbe(nn.Module):
    """One learned question looks at all cells, in several heads; then a linear layer.

    Source: the attentive probe of Bardes et al., V-JEPA, 2024, without its second layer.
    """

    def __init__(self, inputs: int, outputs: int, config: DecoderConfig) -> None:
        super().__init__()
        width = config.channels
        self.norm = nn.LayerNorm(inputs)
        self.question = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.attention = nn.MultiheadAttention(
            width, math.gcd(8, width), kdim=inputs, vdim=inputs, dropout=0.0, batch_first=True
        )
        self.dropout, self.linear = nn.Dropout(config.dropout), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Give (N, outputs) of (N, inputs, rows, cols)."""
        cells = self.norm(x.flatten(2).transpose(1, 2))
        seen, _ = self.attention(self.question.expand(len(x), -1, -1), cells, cells, need_weights=False)
        out: Tensor = self.linear(self.dropout(seen[:, 0]))
        return out


PROBES = {"mean": MeanProbe, "attention": AttentiveProbe}
