"""Where the pixels of a view lie on its tile: positions and boxes from one frame to the other.

A crop is [y, x, h, w, orientation] in tile pixels, as :class:`pretrain.views.PairDraw` gives it; boxes are [left, top,
right, bottom]. A view of S pixels shows its crop resized to S x S, then transposed, mirrored top to bottom and left to
right as its orientation says (:func:`pretrain.resize.oriented`).
"""

import torch
from torch import Tensor

from pretrain.resize import MIRRORED, TRANSPOSED, UPSIDE_DOWN


def cell_centres(crops: Tensor, rows: int, columns: int) -> Tensor:
    """Give the centres [x, y] in tile pixels of a view's cells, of crops (N, 5): (N, rows * columns, 2)."""
    down = (torch.arange(rows, device=crops.device) + 0.5) / rows
    across = (torch.arange(columns, device=crops.device) + 0.5) / columns
    y, x = torch.meshgrid(down, across, indexing="ij")
    points = torch.stack([x, y, x, y], -1).flatten(0, 1).expand(len(crops), -1, -1)
    return to_tile(points, crops, 1)[..., :2]


def to_tile(boxes: Tensor, crops: Tensor, size: int) -> Tensor:
    """Take boxes (N, R, 4) from pixels of views of ``size`` to tile pixels, by crops (N, 5)."""
    corner, extent, mirrored, upside_down, transposed = _frames(crops)
    found = _turned(_turned(boxes / size, mirrored, 0), upside_down, 1)
    found = torch.where(transposed, found[..., [1, 0, 3, 2]], found)
    return corner + found * extent


def to_view(boxes: Tensor, crops: Tensor, size: int) -> Tensor:
    """Take boxes (N, R, 4) from tile pixels to pixels of views of ``size``, by crops (N, 5); they may lie outside."""
    corner, extent, mirrored, upside_down, transposed = _frames(crops)
    found = (boxes - corner) / extent
    found = torch.where(transposed, found[..., [1, 0, 3, 2]], found)
    return _turned(_turned(found, upside_down, 1), mirrored, 0) * size


def shared_boxes(crops1: Tensor, crops2: Tensor) -> Tensor:
    """Give the tile's box that both crops (N, 5) show: (N, 4) in tile pixels; they must meet."""
    a, b = crops1.to(torch.float32), crops2.to(torch.float32)
    near = torch.maximum(a[:, :2], b[:, :2])
    far = torch.minimum(a[:, :2] + a[:, 2:4], b[:, :2] + b[:, 2:4])
    return torch.cat([near.flip(1), far.flip(1)], 1)


def divided(boxes: Tensor, cells: int) -> Tensor:
    """Divide boxes (N, 4) into ``cells`` x ``cells`` equal parts, row by row: (N, cells * cells, 4)."""
    edge = torch.linspace(0, 1, cells + 1, device=boxes.device)
    near, far = edge[:-1], edge[1:]
    left, top, right, bottom = boxes.unsqueeze(-1).unbind(1)
    x0, x1 = left + (right - left) * near, left + (right - left) * far
    y0, y1 = top + (bottom - top) * near, top + (bottom - top) * far
    across = torch.stack([x0, x1], -1).unsqueeze(1).expand(-1, cells, -1, -1)
    down = torch.stack([y0, y1], -1).unsqueeze(2).expand(-1, -1, cells, -1)
    x, y = across.flatten(1, 2), down.flatten(1, 2)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)


def _frames(crops: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Give first corner [x, y, x, y] and extent of crops (N, 5), (N, 1, 4), and their orientations' bits, (N, 1, 1)."""
    places = crops[:, [1, 0, 1, 0]].to(torch.float32).unsqueeze(1)
    extent = crops[:, [3, 2, 3, 2]].to(torch.float32).unsqueeze(1)
    orientation = crops[:, 4].view(-1, 1, 1)
    mirrored, upside_down, transposed = ((orientation & bit) != 0 for bit in (MIRRORED, UPSIDE_DOWN, TRANSPOSED))
    return places, extent, mirrored, upside_down, transposed


def _turned(boxes: Tensor, which: Tensor, axis: int) -> Tensor:
    """Mirror boxes (N, R, 4) of the unit square along an axis (0: left to right) where ``which`` (N, 1, 1) says so."""
    order = [2, 1, 0, 3] if axis == 0 else [0, 3, 2, 1]
    other = boxes[..., order]
    flip = torch.zeros(4, device=boxes.device, dtype=torch.bool)
    flip[axis::2] = True
    return torch.where(which, torch.where(flip, 1 - other, other), boxes)
