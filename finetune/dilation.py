"""Finer last maps from the same weights: strides become dilations."""

from torch import nn

from infra.errors import UsageError
from pretrain.encoder import STRIDES, ResNet


def dilate(encoder: nn.Module, output_stride: int) -> None:
    """Change a ResNet in place so that its last maps have at most ``output_stride`` input pixels per cell.

    Every second (or fourth) cell of the finer maps is what it was before: no weight changes its meaning. Source:
    Chen et al., DeepLab, PAMI 2018, section 3.1. Raises UsageError for another encoder than a ResNet.
    """
    if output_stride >= STRIDES[-1]:
        return
    if not isinstance(encoder, ResNet):
        raise UsageError(
            f"output stride {output_stride}: only a ResNet can be dilated, this encoder is a {type(encoder).__name__};"
            " leave --decoder.output-stride at 32"
        )
    dilation = 1
    for number, stride in enumerate(STRIDES, start=1):
        dilation = _dilate_stage(encoder.get_submodule(f"layer{number}"), dilation, stride > output_stride)


def _dilate_stage(stage: nn.Module, dilation: int, finer: bool) -> int:
    """Give the dilation of what follows."""
    for conv in [m for m in stage.modules() if isinstance(m, nn.Conv2d)]:
        wide, strided = conv.kernel_size == (3, 3), conv.stride == (2, 2)
        if wide:
            conv.dilation = conv.padding = (dilation, dilation)
        if strided and finer:
            conv.stride = (1, 1)
            dilation *= 2 if wide else 1
    return dilation
