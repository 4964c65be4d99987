"""A tiny convolutional encoder with the four maps of a real one: for tests that train in a second."""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional


class SmallEncoder(nn.Module):
    """Four stages of one 3x3 convolution each; strides 4, 8, 16, 32."""

    def __init__(self, bands: int = 2, channels: tuple[int, int, int, int] = (8, 8, 12, 16)) -> None:
        super().__init__()
        self.channels, self.bands = channels, bands
        widths = (bands, *channels)
        self.stages = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for i, (conv, norm) in enumerate(zip(self.stages, self.norms, strict=True)):
            x = functional.max_pool2d(torch.relu(norm(conv(x))), 4 if i == 0 else 2, ceil_mode=True)
            maps.append(x)
        return maps
