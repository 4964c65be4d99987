"""The ResNet encoder with any number of input bands, and the way from stored codes to its input."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from infra.errors import UsageError
from pretrain.config import InputSpec as InputSpec
from shards.tile import NO_DATA, DbScale

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Blocks per stage of each depth (He et al. 2016, table 1)."""

STRIDES = (4, 8, 16, 32)
"""Input pixels per cell of each feature map."""


def _conv3x3(inside: int, outside: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inside: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv3x3(inside, width, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv3x3(width, width), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Give (N, width, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + shortcut)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride, as torchvision has it) and 1x1 convolutions and a shortcut."""

    expansion = 4

    def __init__(self, inside: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        outside = width * self.expansion
        self.conv1, self.bn1 = nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv3x3(width, width, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outside, 1, bias=False), nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Give (N, 4 width, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + shortcut)  # type: ignore[no-any-return]


def channels_last(module: nn.Module) -> None:
    """Lay the weights of flat convolutions out with channels innermost, in place; what they give lies so, too."""
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = innermost(parameter.data)


def innermost(weight: Tensor) -> Tensor:
    """Give a weight (out, in, rows, cols) laid out with its inputs innermost.

    Its strides say so also where one input or one pixel would let it lie either way: outputs and gradients follow them.
    """
    _, inside, rows, cols = weight.shape
    inner = weight.contiguous(memory_format=torch.channels_last)
    return inner.as_strided(weight.shape, (rows * cols * inside, 1, cols * inside, inside))


class FirstConv(nn.Conv2d):
    """A convolution that answers one band as that band repeated for all its inputs, without the copies."""

    def forward(self, x: Tensor) -> Tensor:
        """Give (N, out, H', W') of (N, 1 or in, H, W)."""
        if x.shape[1] == 1 and self.in_channels > 1:
            weight = self.weight.sum(1, keepdim=True)
            weight = weight if self.weight.is_contiguous() else innermost(weight)
            return functional.conv2d(x, weight, self.bias, self.stride, self.padding)
        return super().forward(x)


class MaxPool(nn.MaxPool2d):
    """Maxima of 3x3 windows, two pixels apart; on a processor always with channels innermost, ten times as fast."""

    def __init__(self) -> None:
        super().__init__(3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Give (N, C, H', W') of (N, C, H, W), laid out as ``x`` is."""
        if x.device.type == "cpu" and x.dim() == 4 and x.is_contiguous():
            return super().forward(x.contiguous(memory_format=torch.channels_last)).contiguous()  # type: ignore[no-any-return]
        return super().forward(x)  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """A ResNet without its classifier; parameters are named as torchvision names them.

    ``channels`` are those of the four feature maps, whose strides are 4, 8, 16 and 32 input pixels.
    """

    def __init__(self, depth: int = 50, bands: int = 1) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise UsageError(f"no ResNet of depth {depth}: choose one of {', '.join(map(str, BLOCKS))}")
        self.depth, self.bands = depth, bands
        block = BasicBlock if depth < 50 else Bottleneck
        self.conv1 = FirstConv(bands, 64, 7, stride=2, padding=3, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(64), nn.ReLU(inplace=True)
        self.maxpool = MaxPool()
        inside = 64
        for number, (width, blocks) in enumerate(zip((64, 128, 256, 512), BLOCKS[depth], strict=True), start=1):
            stage = _stage(block, inside, width, blocks, stride=1 if number == 1 else 2)
            self.add_module(f"layer{number}", stage)
            inside = width * block.expansion
        e = block.expansion
        self.channels: tuple[int, int, int, int] = (64 * e, 128 * e, 256 * e, 512 * e)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        """Give the four feature maps of ``x`` (N, bands, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps: list[Tensor] = []
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
            maps.append(x)
        return maps


def _stage(
    block: type[BasicBlock] | type[Bottleneck], inside: int, width: int, blocks: int, stride: int
) -> nn.Sequential:
    outside = width * block.expansion
    downsample: nn.Module | None = None
    if stride != 1 or inside != outside:
        downsample = nn.Sequential(nn.Conv2d(inside, outside, 1, stride=stride, bias=False), nn.BatchNorm2d(outside))
    first = block(inside, width, stride, downsample)
    return nn.Sequential(first, *(block(outside, width, 1, None) for _ in range(blocks - 1)))


def to_grey(codes: Tensor, scale: DbScale, spec: InputSpec) -> tuple[Tensor, Tensor]:
    """Give grey values 0..1 (float32) of codes (any shape, any integer type) and where they are valid (bool).

    No-data has grey 0 and is not valid.
    """
    exact = codes.to(torch.float32)  # torch does little else with uint16
    valid = exact != NO_DATA
    level_db = (exact - 1.0) * scale.step_db + scale.floor_db
    grey = ((level_db - spec.lo_db) / (spec.hi_db - spec.lo_db)).clamp_(0.0, 1.0)
    return grey * valid, valid


def normalise(grey: Tensor, valid: Tensor, spec: InputSpec) -> Tensor:
    """Give the network's input: zero mean and unit deviation by ``spec``, and 0.0 where not valid."""
    return (grey - spec.mean) / spec.std * valid


def to_input(codes: Tensor, scale: DbScale, spec: InputSpec) -> Tensor:
    """Give the network's input (float32) of codes (N, bands, H, W), on the codes' device."""
    grey, valid = to_grey(codes, scale, spec)
    return normalise(grey, valid, spec)


def match_bands(x: Tensor, bands: int) -> Tensor:
    """Repeat a single band (N, 1, H, W) for an encoder of more bands; other inputs must already fit."""
    if x.shape[1] == bands:
        return x
    if x.shape[1] != 1:
        raise UsageError(f"the encoder takes {bands} bands, the tiles have {x.shape[1]}: see --encoder.bands")
    return x.expand(-1, bands, -1, -1)


def adapt_bands(encoder: ResNet, bands: int) -> ResNet:
    """Make the same encoder for another number of input bands.

    Each filter of the first convolution, summed over the old bands, looks at one of the new bands, in turn: so it
    sees a single image, as it learned to, bands stay apart, and equal bands give the same response as before.
    """
    made = ResNet(encoder.depth, bands)
    state = encoder.state_dict()
    state["conv1.weight"] = adapted_kernel(state["conv1.weight"], bands)
    made.load_state_dict(state)
    return made


def adapted_kernel(kernel: Tensor, bands: int) -> Tensor:
    """Give the first convolution's kernel (filters, old, h, w) for other bands: (filters, bands, h, w)."""
    kernel = kernel.sum(1, keepdim=True)
    filters = torch.arange(len(kernel), device=kernel.device)
    spread = torch.zeros(len(kernel), bands, 1, 1, dtype=kernel.dtype, device=kernel.device)
    spread[filters, filters % bands] = 1.0
    return kernel * spread
