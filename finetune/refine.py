"""The refinements of the ALOS-2 land cover work: fine detail joined late, and a rise to full size by steps.

Source: Enhanced LULC Segmentation via Lightweight Model Refinements on ALOS-2 SAR, arXiv 2601.15705. The text does
not say where the detail is joined: both readings are there. The rise is the head of the code that goes with it.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.config import DecoderConfig
from finetune.decoder import ConvBlock, Decoder, resize_like, resize_scores

GROUPS = 16
"""Groups of the normalisation, as published."""

STEPS = 2
"""Doublings: from a quarter of the input's rows and columns to all of them."""


class GroupBlock(nn.Module):
    """3x3 convolution, group norm, GELU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.GroupNorm(math.gcd(GROUPS, outputs), outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Give (N, outputs, rows / stride, cols / stride)."""
        return functional.gelu(self.norm(self.conv(x)))


class Refined(nn.Module):
    """A decoder's fused map with what the dials add: the encoder's first map, the rise, filters on the image."""

    def __init__(self, body: Decoder, inputs: Sequence[int], bands: int, classes: int, config: DecoderConfig) -> None:
        super().__init__()
        width = body.width
        body.dropout, body.classifier = nn.Identity(), nn.Identity()
        self.body = body
        self.lateral = ConvBlock(inputs[0], width, 1) if config.inject == "stage1" else None
        self.join = ConvBlock(2 * width, width, 3) if config.inject == "stage1" else None
        strides = range(STEPS - 1, -1, -1) if config.inject == "image" else ()
        self.image = nn.ModuleList(GroupBlock(bands, width, 2**s) for s in strides)
        self.rise = nn.ModuleList(GroupBlock(width, width) for _ in range(STEPS if config.refine else 0))
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = nn.Conv2d(width, classes, 3 if config.refine else 1, padding=1 if config.refine else 0)

    def forward(self, features: Sequence[Tensor], image: Tensor) -> Tensor:
        """Give (N, classes, rows, cols) in the size of ``image`` (with refine), or of the fused map."""
        x: Tensor = self.body(features)
        if self.lateral is not None and self.join is not None:
            detail = self.lateral(features[0])
            x = self.join(torch.cat([resize_like(x, detail), detail], 1))
        if len(self.rise):
            x = self._risen(resize_like(x, features[0]), image)
        scores: Tensor = self.classifier(self.dropout(x))
        return scores

    def _risen(self, x: Tensor, image: Tensor) -> Tensor:
        for i, block in enumerate(self.rise):
            left = 2 ** (STEPS - 1 - i)
            x = resize_scores(x, -(-image.shape[2] // left), -(-image.shape[3] // left))
            if len(self.image):
                x = x + self.image[i](image)
            x = block(x)
        return x
