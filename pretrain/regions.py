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
    rows, columns = box_weights(boxes, stride, (maps.shape[-2], maps.shape[-1]), samples=samples, most=most)
    weights = (rows.unsqueeze(-1) * columns.unsqueeze(-2)).flatten(-2)
    with torch.autocast(maps.device.type, enabled=False):
        # (N, R, HW) x (N, HW, C): no copy of the map per box, and a backward pass without atomic additions.
        return torch.bmm(weights, maps.float().flatten(2).transpose(1, 2))


def plane_pool(plane: Tensor, boxes: Tensor, stride: float, samples: int) -> Tensor:
    """Average one large plane (N, H, W) over boxes (N, R, 4) as :func:`region_pool` does: (N, R)."""
    rows, columns = box_weights(boxes, stride, (plane.shape[-2], plane.shape[-1]), samples=samples)
    with torch.autocast(plane.device.type, enabled=False):
        return (torch.bmm(rows, plane.float()) * columns).sum(-1)


def box_weights(
    boxes: Tensor, stride: float, size: tuple[int, int], *, samples: int = 0, most: int | None = None
) -> tuple[Tensor, Tensor]:
    """Give the weights of a map's rows (N, R, H) and columns (N, R, W) whose product averages over each box."""
    cells = boxes.to(torch.float32) / stride - 0.5
    span = cells[..., 2:] - cells[..., :2]
    if samples == 0 and most is None:
        most = max(1, math.ceil(float(span.max()))) if span.numel() else 1
    bound = samples or most or 1
    rows = axis_weights(cells[..., 1], span[..., 1], size[0], samples, bound)
    return rows, axis_weights(cells[..., 0], span[..., 0], size[1], samples, bound)


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


def turns(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tell how view 2 lies against view 1 from boxes (N, R, 4) of the same ground: each (N,) bool.

    Whether rows and columns are exchanged, whether columns run the other way, whether rows do. Centres of matched
    boxes depend on each other along each axis without rest, so their correlations are 1 or -1: flips and turns need no
    flags of their own. Needs two boxes with different centres; equal ones count as neither turned nor flipped.
    """
    one, two = ((b[..., :2] + b[..., 2:]).float() for b in (boxes1, boxes2))
    one, two = (unit_spread(c - c.mean(1, keepdim=True)) for c in (one, two))
    xx, yy = (one * two).sum(1).unbind(-1)
    yx, xy = (one.flip(-1) * two).sum(1).unbind(-1)
    exchanged = xy.abs() + yx.abs() > xx.abs() + yy.abs()
    return exchanged, torch.where(exchanged, yx, xx) < 0, torch.where(exchanged, xy, yy) < 0


def unit_spread(centred: Tensor) -> Tensor:
    """Scale centred values (N, R, 2) to sums of squares of one over R."""
    return centred / centred.square().sum(1, keepdim=True).sqrt().clamp(min=1e-6)


def cells_of(boxes: Tensor, cells: int) -> Tensor:
    """Divide boxes (N, R, 4) evenly into cells x cells boxes: (N, R, cells, cells, 4), rows first."""
    corner, side = boxes[..., :2], (boxes[..., 2:] - boxes[..., :2]) / cells
    at = torch.arange(cells, device=boxes.device, dtype=boxes.dtype)
    steps = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1)
    near = corner[..., None, None, :] + steps * side[..., None, None, :]
    return torch.cat([near, near + side[..., None, None, :]], -1)


def matched_cells(boxes1: Tensor, boxes2: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Divide matched boxes (N, R, 4) into cells of the same ground: two of (N, R cells cells, 4)."""
    exchanged, columns, rows = (flag.view(-1, 1, 1, 1, 1) for flag in turns(boxes1, boxes2))
    one, two = cells_of(boxes1, cells), cells_of(boxes2, cells)
    two = torch.where(columns, two.flip(3), two)
    two = torch.where(rows, two.flip(2), two)
    two = torch.where(exchanged, two.transpose(2, 3), two)
    return one.flatten(1, 3), two.flatten(1, 3)
