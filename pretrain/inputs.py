"""From the codes of a view to the encoder's input: greys, augmentation, normalisation, bands."""

import torch
from torch import Tensor

from infra.errors import UsageError
from infra.world import World
from pretrain.augment import augment
from pretrain.encoder import STRIDES, match_bands, normalise
from pretrain.pair_run import PairRun
from pretrain.radiometry import changed_grey
from shards.tile import DbScale


def encoder_input(codes: Tensor, numbers: Tensor, scale: DbScale, config: PairRun) -> Tensor:
    """Give the encoder's input (N, bands, H, W) of codes (N, bands, H, W), augmented by the samples' numbers (N, 8).

    A single band stays one: the encoder's first convolution repeats it without a copy.
    """
    with torch.autocast(codes.device.type, enabled=False):  # greys have more levels than bf16
        grey, valid = changed_grey(codes, numbers, scale, config.input, config.augment)
        x = normalise(augment(grey, valid, numbers, config.augment), valid, config.input)
    return x if x.shape[1] == 1 else match_bands(x, config.encoder.bands)


def check_pairs(config: PairRun, world: World) -> None:
    """Refuse views that no encoder takes, and batches that do not divide (UsageError)."""
    v = config.views
    if v.size_px % STRIDES[-1]:
        raise UsageError(f"views of {v.size_px} px: the encoder needs a multiple of {STRIDES[-1]} (--views.size-px)")
    if config.batch % world.size or config.batch // world.size < 2:
        raise UsageError(
            f"a batch of {config.batch} on {world.size} ranks: expected a multiple of the ranks with at least 2"
            " samples for each (--batch)"
        )
