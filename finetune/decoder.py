"""What all decoders are made of, and UperNet: pooled context of the last stage, then a pyramid over all four."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.config import DecoderConfig


class ConvBlock(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int = 1) -> None:
        super().__init__()
        padding = kernel // 2 * dilation
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Keep rows and columns, change the channels."""
        return functional.relu(self.norm(self.conv(x)))


class Decoder(nn.Module):
    """Four feature maps (finest first) become one of ``width`` channels, then dropout and a 1x1 convolution."""

    width: int
    dropout: nn.Module
    classifier: nn.Module

    def fused(self, features: Sequence[Tensor]) -> Tensor:
        """Give (N, width, rows, cols)."""
        raise NotImplementedError

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Give (N, classes, rows, cols) in the size of the fused map."""
        scores: Tensor = self.classifier(self.dropout(self.fused(features)))
        return scores

    def finish(self, width: int, classes: int, dropout: float) -> None:
        """Add what comes after the fused map."""
        self.width, self.dropout = width, nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, classes, 1)


class PyramidPooling(nn.Module):
    """Context of the last stage: pooled to each scale, brought back to size, and fused."""

    def __init__(self, inputs: int, channels: int, scales: Sequence[int]) -> None:
        super().__init__()
        self.scales = tuple(scales)
        self.branches = nn.ModuleList(ConvBlock(inputs, channels, 1) for _ in self.scales)
        self.fuse = ConvBlock(inputs + len(self.scales) * channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Give (N, channels, rows, cols) of (N, inputs, rows, cols)."""
        pooled = [
            resize_like(branch(functional.adaptive_avg_pool2d(x, scale)), x)
            for scale, branch in zip(self.scales, self.branches, strict=True)
        ]
        fused: Tensor = self.fuse(torch.cat([x, *pooled], 1))
        return fused


class UperNet(Decoder):
    """Class scores at a quarter of the input's rows and columns (Xiao et al., ECCV 2018)."""

    def __init__(self, inputs: Sequence[int], classes: int, config: DecoderConfig) -> None:
        super().__init__()
        width = config.channels
        self.context = PyramidPooling(inputs[-1], width, config.pool_scales)
        self.laterals = nn.ModuleList(ConvBlock(n, width, 1) for n in inputs[:-1])
        self.smooth = nn.ModuleList(ConvBlock(width, width, 3) for _ in inputs[:-1])
        self.fuse = ConvBlock(len(inputs) * width, width, 3)
        self.finish(width, classes, config.dropout)

    def fused(self, features: Sequence[Tensor]) -> Tensor:
        """Give (N, width, rows, cols) in the size of the first of the feature maps."""
        levels = [lateral(x) for lateral, x in zip(self.laterals, features[:-1], strict=True)]
        levels.append(self.context(features[-1]))
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + resize_like(levels[i], levels[i - 1])
        outputs = [smooth(x) for smooth, x in zip(self.smooth, levels[:-1], strict=True)] + levels[-1:]
        fused: Tensor = self.fuse(torch.cat([resize_like(x, outputs[0]) for x in outputs], 1))
        return fused


class FcnHead(nn.Module):
    """A small second head whose loss keeps an inner stage useful; not used for prediction."""

    def __init__(self, inputs: int, classes: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.block = ConvBlock(inputs, channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Give (N, classes, rows, cols) in the size of the feature map."""
        scores: Tensor = self.classifier(self.dropout(self.block(x)))
        return scores


def resize_scores(scores: Tensor, rows: int, cols: int) -> Tensor:
    """Bring class scores to the pixels of the input, bilinear, pixel corners aligned by area."""
    return functional.interpolate(scores, (rows, cols), mode="bilinear", align_corners=False)


def resize_like(x: Tensor, like: Tensor) -> Tensor:
    """Bring a map to the rows and columns of another."""
    return resize_scores(x, like.shape[2], like.shape[3])
