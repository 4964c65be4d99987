"""Contours in radar images: the ratio of averages (Touzi et al. 1988), on the device.

Speckle multiplies, so the difference of two means grows with the level of the ground and their ratio does not: a
threshold on it finds the same share of false edges in dark and bright fields.
"""

import torch
from torch import Tensor
from torch.nn import functional

from shards.tile import NO_DATA, DbScale

LEAST_SHARE = 0.5
"""Valid part of each half window that a ratio needs."""


def linear_power(codes: Tensor, scale: DbScale) -> tuple[Tensor, Tensor]:
    """Give linear power (float32) of codes of any shape, 0 where nothing was measured, and where it was (bool)."""
    exact = codes.to(torch.float32)
    valid = exact != NO_DATA
    level_db = (exact - 1.0) * scale.step_db + scale.floor_db
    return torch.pow(10.0, level_db / 10.0) * valid, valid


def multilook(power: Tensor, valid: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
    """Average power (N, bands, H, W) over squares of ``pixels``, valid pixels only; gives means and valid shares."""
    share = functional.avg_pool2d(valid.to(power.dtype), pixels)
    return functional.avg_pool2d(power * valid, pixels) / share.clamp(min=1e-6), share


def half_windows(reach: int) -> Tensor:
    """Give the two halves of a square window under four directions: (4, 2, 2 reach + 1, 2 reach + 1) of 0 and 1.

    Directions are those of the way across the edge: 0, 45, 90 and 135 degrees. The line between halves is in neither.
    """
    at = torch.arange(-reach, reach + 1)
    y, x = torch.meshgrid(at, at, indexing="ij")
    across = torch.stack([x, x + y, y, y - x])
    return torch.stack([across < 0, across > 0], 1).to(torch.float32)


def edge_strength(power: Tensor, share: Tensor, reach: int = 2) -> Tensor:
    """Give 1 - min(a / b, b / a) of the means a, b on both sides, the most over four directions: (N, bands, H, W).

    0 is an even field, 1 a wall. ``power`` is linear, ``share`` the valid part of each pixel (0..1, or bool). Sides
    with less than half of their pixels valid, as beyond the border, give no edge.
    """
    number, bands, height, width = power.shape
    halves = half_windows(reach).to(power.device)
    kernel = halves.flatten(0, 1).unsqueeze(1)
    with torch.autocast(power.device.type, enabled=False):
        weight = share.to(torch.float32).reshape(-1, 1, height, width)
        sums = functional.conv2d(power.float().reshape(-1, 1, height, width) * weight, kernel, padding=reach)
        shares = functional.conv2d(weight, kernel, padding=reach)
    means, shares = (v.view(-1, 4, 2, height, width) for v in (sums / shares.clamp(min=1e-6), shares))
    enough = (shares >= LEAST_SHARE * halves.sum((2, 3))[:, :, None, None]).all(2)
    ratio = means.amin(2) / means.amax(2).clamp(min=1e-30)
    return (1 - torch.where(enough, ratio, 1.0)).amax(1).view(number, bands, height, width)


@torch.no_grad()
def contours(codes: Tensor, scale: DbScale, looks_px: int, reach: int) -> Tensor:
    """Give the edge strength (N, 1, H / looks_px, W / looks_px) of codes (N, bands, H, W), averaged over bands."""
    return edge_strength(*multilook(*linear_power(codes, scale), looks_px), reach).mean(1, keepdim=True)
