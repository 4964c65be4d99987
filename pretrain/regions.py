"""Pooling of a feature map over boxes: RoIAlign with one output cell, as a separable weighted sum.

The definition is torchvision's ``roi_align(output_size=1, aligned=True)``: a box is sampled at the centres of an
even grid, bilinearly, and the samples are averaged. Bilinear weights, the rule for samples outside the map and the
average all factor into rows and columns, so a box is one weight per row times one weight per column.
"""

import math

import torch
from torch import Tensor


def region_pool(maps: Tensor, boxes: Tensor, stride: float, *, samples: int = 0, most: int | None = None) -> Tensor:
    """Average feature maps (N, C, H, W) over boxes (N, R, 4) [left, top, right, bottom] in input pixels: (N, R, C).

    ``stride`` is input pixels per cell. ``samples`` per axis and box; 0 means one for each cell or part of a cell
    that the box spans (torchvision's adaptive rule). ``most`` bounds the adaptive number where the caller knows
    it (a box inside the view spans no more than the map), and saves a wait for the device; None finds it.
    """
    height, width = maps.shape[-2:]
    cells = boxes.to(torch.float32) / stride - 0.5
    span = cells[..., 2:] - cells[..., :2]
    if samples == 0 and most is None:
        most = max(1, math.ceil(float(span.max()))) if span.numel() else 1
    bound = samples or most or 1
    rows = axis_weights(cells[..., 1], span[..., 1], height, samples, bound)
    columns = axis_weights(cells[..., 0], span[..., 0], width, samples, bound)
    weights = (rows.unsqueeze(-1) * columns.unsqueeze(-2)).flatten(-2)
    with torch.autocast(maps.device.type, enabled=False):
        # (N, R, HW) x (N, HW, C): no copy of the map per box, and a backward pass without atomic additions.
        return torch.bmm(weights, maps.float().flatten(2).transpose(1, 2))


def axis_weights(start: Tensor, span: Tensor, size: int, samples: int, bound: int) -> Tensor:
    """Give the weight of each of ``size`` cells for intervals (...) in cells: (..., size), the mean of all samples."""
    number = torch.full_like(span, samples) if samples else span.ceil().clamp(0, bound)
    index = torch.arange(bound, device=start.device, dtype=start.dtype)
    step = span / number.clamp(min=1)
    at = start.unsqueeze(-1) + (index + 0.5) * step.unsqueeze(-1)
    # A sample more than one cell outside counts as zero, a nearer one as the border cell.
    used = (index < number.unsqueeze(-1)) & (at >= -1.0) & (at <= size)
    cell = torch.arange(size, device=start.device, dtype=start.dtype)
    hat = (1.0 - (at.clamp(0, size - 1).unsqueeze(-1) - cell).abs()).clamp(min=0)
    return (hat * used.unsqueeze(-1)).sum(-2) / number.clamp(min=1).unsqueeze(-1)
