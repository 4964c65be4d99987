"""Changes of backscatter on the device, in the right physics: looks and speckle in power, level and contrast in dB.

They come before greys are cut to black and white. All are off by default; what is on is decided for each view by
its own numbers, so it is the same on any number of ranks.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pretrain.augment_cpu import grey_of
from pretrain.config import InputSpec
from pretrain.encoder import to_grey
from pretrain.noise import speckle_db, uniforms, view_keys
from pretrain.pair_run import AugmentConfig
from shards.tile import NO_DATA, DbScale

LOOKS, SIDE, SPECKLE, SPECKLE_LOOKS, LEVEL, CONTRAST, SPREAD, GAIN, DECIBELS = range(9)
"""Which of a view's further numbers decides what."""

_DECISIONS, _PIXELS = 1, 2  # streams of random numbers


def changed_grey(
    codes: Tensor, numbers: Tensor, scale: DbScale, spec: InputSpec, config: AugmentConfig
) -> tuple[Tensor, Tensor]:
    """Give greys 0..1 of codes (N, bands, H, W) and where they are valid, with the changes that are on.

    ``numbers`` (N, 8) are the views' own. With none on it is :func:`pretrain.encoder.to_grey`.
    """
    if not any((config.looks_share, config.speckle_share, config.level_share, config.contrast_db_share,
                config.gain_share)):  # fmt: skip
        on_cpu = codes.device.type == "cpu" and codes.dtype == torch.uint16
        return _grey_on_cpu(codes, scale, spec) if on_cpu else to_grey(codes, scale, spec)
    exact = codes.to(torch.float32)
    valid = exact != NO_DATA
    level_db = change_level((exact - 1.0) * scale.step_db + scale.floor_db, valid, numbers, spec, config)
    grey = ((level_db - spec.lo_db) / (spec.hi_db - spec.lo_db)).clamp_(0.0, 1.0)
    return grey * valid, valid


def _grey_on_cpu(codes: Tensor, scale: DbScale, spec: InputSpec) -> tuple[Tensor, Tensor]:
    """Do what :func:`pretrain.encoder.to_grey` does, in one pass over memory."""
    grey, valid = torch.empty(codes.shape), torch.empty(codes.shape, dtype=torch.bool)
    dials = (scale.step_db, scale.floor_db, spec.lo_db, spec.hi_db - spec.lo_db)
    step_db, floor_db, lo_db, range_db = (np.float32(value) for value in dials)
    flat = codes.contiguous().view(-1).numpy(), grey.view(-1).numpy(), valid.view(-1).numpy()
    grey_of(flat[0], step_db, floor_db, lo_db, range_db, flat[1], flat[2])
    return grey, valid


def change_level(level_db: Tensor, valid: Tensor, numbers: Tensor, spec: InputSpec, config: AugmentConfig) -> Tensor:
    """Change decibels (N, bands, H, W): looks averaged, speckle, level removed, contrast, gain, as far as they are on.

    What is not valid keeps any value.
    """
    keys = view_keys(numbers)
    chance = uniforms(keys, _DECISIONS, 9)
    if config.looks_share:
        sides = _sides(chance, config)
        level_db = average_looks(level_db, valid, sides, config.looks_px)
    if config.speckle_share:
        noise = speckle_db(keys, _PIXELS, chance[:, SPECKLE_LOOKS], config.speckle_looks, level_db.shape)
        level_db = level_db + noise * _each(chance[:, SPECKLE] < config.speckle_share)
    if not any((config.level_share, config.contrast_db_share, config.gain_share)):
        return level_db
    mean_db = _mean(level_db, valid)
    middle = (spec.lo_db + spec.hi_db) / 2
    moved_db = torch.where(_each(chance[:, LEVEL] < config.level_share), middle, mean_db)
    spread = config.contrast_db * (2 * chance[:, SPREAD] - 1)
    spread = 1 + torch.where(chance[:, CONTRAST] < config.contrast_db_share, spread, 0.0)
    gain_db = config.gain_db * (2 * chance[:, DECIBELS] - 1)
    gain_db = torch.where(chance[:, GAIN] < config.gain_share, gain_db, 0.0)
    return (level_db - mean_db) * _each(spread) + moved_db + _each(gain_db)


def average_looks(level_db: Tensor, valid: Tensor, sides: Tensor, most: int) -> Tensor:
    """Average power over windows of ``sides`` (N,) pixels, odd and at most ``most``; 1 changes nothing.

    Pixels that are not valid, and those beyond the border, have no weight.
    """
    reach = most // 2
    away = torch.arange(-reach, reach + 1, device=sides.device).abs()
    window = (away <= (sides // 2).unsqueeze(1)).to(level_db.dtype)
    power = torch.where(valid, 10 ** (level_db / 10), 0.0)
    sums = _boxes(torch.cat([power, valid.to(power.dtype)], 1), window)
    power, counts = sums.chunk(2, 1)
    averaged = 10 * torch.log10((power / counts.clamp(min=1)).clamp(min=1e-30))
    return torch.where(_each(sides > 1), averaged, level_db)


def _sides(chance: Tensor, config: AugmentConfig) -> Tensor:
    """Draw the side of each view's window: 1, or an odd number from 3."""
    kinds = (config.looks_px - 1) // 2
    side = 3 + 2 * (chance[:, SIDE] * kinds).long().clamp(max=kinds - 1)
    return torch.where(chance[:, LOOKS] < config.looks_share, side, 1)


def _boxes(x: Tensor, window: Tensor) -> Tensor:
    number, bands, height, width = x.shape
    reach, groups = window.shape[1] // 2, number * bands
    taps = window.repeat_interleave(bands, 0)
    x = x.reshape(1, groups, height, width)
    x = functional.conv2d(x, taps.view(groups, 1, 1, -1), padding=(0, reach), groups=groups)
    x = functional.conv2d(x, taps.view(groups, 1, -1, 1), padding=(reach, 0), groups=groups)
    return x.view(number, bands, height, width)


def _mean(level_db: Tensor, valid: Tensor) -> Tensor:
    count = valid.sum((1, 2, 3), keepdim=True).clamp(min=1)
    return torch.where(valid, level_db, 0.0).sum((1, 2, 3), keepdim=True) / count


def _each(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
