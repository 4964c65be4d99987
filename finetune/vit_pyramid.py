"""Four feature maps from an encoder of tokens, for the decoders that ask for a pyramid."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDE = 16
"""Input pixels per side of a token."""


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each cell."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (N, channels, rows, cols)."""
        out: Tensor = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        return out


class SimpleFeaturePyramid(nn.Module):
    """An encoder whose maps of stride 4, 8, 16 and 32 are all made from its one map of stride 16.

    ``trunk`` gives (N, dim, H/16, W/16) of (N, bands, H, W), H and W multiples of 16; other sizes are filled up with
    zeros (which is the mean) and cut again. All maps have ``width`` channels.
    Source: Li et al., Exploring Plain Vision Transformer Backbones for Object Detection, ECCV 2022, section 3.
    """

    def __init__(self, trunk: nn.Module, dim: int, width: int = 256) -> None:
        super().__init__()
        self.trunk = trunk
        half, quarter = max(dim // 2, 1), max(dim // 4, 1)
        up, gelu = nn.ConvTranspose2d, nn.GELU
        scales = (
            nn.Sequential(up(dim, half, 2, 2), ChannelNorm(half), gelu(), up(half, quarter, 2, 2)),
            up(dim, half, 2, 2),
            nn.Identity(),
            nn.MaxPool2d(2, ceil_mode=True),
        )
        self.scales = nn.ModuleList(scales)
        self.outputs = nn.ModuleList(_output(n, width) for n in (quarter, half, dim, dim))
        self.channels: tuple[int, int, int, int] = (width, width, width, width)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Give the four maps of ``x`` (N, bands, H, W)."""
        rows, cols = x.shape[2:]
        tokens = self.trunk(functional.pad(x, (0, -cols % STRIDE, 0, -rows % STRIDE)))
        maps = [out(scale(tokens)) for scale, out in zip(self.scales, self.outputs, strict=True)]
        return [m[:, :, : -(-rows // s), : -(-cols // s)] for m, s in zip(maps, (4, 8, 16, 32), strict=True)]


def _output(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, width, 1, bias=False),
        ChannelNorm(width),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        ChannelNorm(width),
    )


class TokenMap(nn.Module):
    """A trunk from any function that gives tokens (N, extra + rows * cols, dim), the places last, row by row."""

    def __init__(self, model: nn.Module, tokens: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self._tokens = model, tokens

    def forward(self, x: Tensor) -> Tensor:
        """Give (N, dim, H/16, W/16)."""
        rows, cols = x.shape[2] // STRIDE, x.shape[3] // STRIDE
        places = self._tokens(x)[:, -rows * cols :]
        return torch.unflatten(places.transpose(1, 2), 2, (rows, cols))
