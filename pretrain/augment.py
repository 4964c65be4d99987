"""Changes of grey values on the device: brightness, contrast and blur, blind to pixels without data.

Every sample brings the uniform numbers that decide its changes, so they are the same on any number of ranks.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from pretrain.augment_cpu import change_all
from pretrain.pair_run import AugmentConfig

JITTER, ORDER, BRIGHTNESS, CONTRAST, BLUR, SIGMA = range(6)
"""Which of a sample's numbers decides what."""


def augment(grey: Tensor, valid: Tensor, numbers: Tensor, config: AugmentConfig) -> Tensor:
    """Change grey values 0..1 (N, bands, H, W) by numbers (N, 8) uniform in 0..1; gives 0..1, and 0 where not valid.

    Brightness and contrast are those of torchvision's ColorJitter, in random order; the blur is a Gaussian.
    """
    if grey.device.type == "cpu":
        return augment_on_cpu(grey, valid, numbers, config)
    return augment_in_parallel(grey, valid, numbers, config)


def augment_in_parallel(grey: Tensor, valid: Tensor, numbers: Tensor, config: AugmentConfig) -> Tensor:
    """Do what :func:`augment` does to all samples at once, without waiting for the device."""
    grey = jitter(grey, valid, numbers, config)
    return blur(grey, valid, blur_sigmas(numbers, config), config.blur_sigma_px[1])


def augment_on_cpu(grey: Tensor, valid: Tensor, numbers: Tensor, config: AugmentConfig) -> Tensor:
    """Do what :func:`augment` does to one sample after the other, and to none what its numbers spare it."""
    reach = math.ceil(3 * config.blur_sigma_px[1])
    factors = torch.stack([f.float() for f in _factors(numbers, config)], 1)
    changed = torch.empty(grey.shape)
    sigmas = blur_sigmas(numbers, config)
    greys = grey.float().contiguous().numpy()
    change_all(greys, valid.contiguous().numpy(), factors.numpy(), sigmas.numpy(), reach, changed.numpy())
    return changed


def jitter(grey: Tensor, valid: Tensor, numbers: Tensor, config: AugmentConfig) -> Tensor:
    """Scale brightness and contrast of the samples whose number falls below ``config.jitter_share``."""
    chosen, bright_first, bright, contrast = (_each(f) for f in _factors(numbers, config))
    first = (grey * bright).clamp(0, 1)
    one = _contrast(first, valid, contrast)
    other = (_contrast(grey, valid, contrast) * bright).clamp(0, 1)
    changed = torch.where(bright_first, one, other)
    return torch.where(chosen, changed, grey) * valid


def blur_sigmas(numbers: Tensor, config: AugmentConfig) -> Tensor:
    """Give each sample's blur (N,) in pixels, 0 for the samples that stay sharp."""
    low, high = config.blur_sigma_px
    sigma = low + (high - low) * numbers[:, SIGMA]
    return torch.where(numbers[:, BLUR] < config.blur_share, sigma, 0.0)


def blur(grey: Tensor, valid: Tensor, sigmas: Tensor, most: float) -> Tensor:
    """Blur each sample of (N, bands, H, W) by a Gaussian of its own sigma in pixels, at most ``most``.

    The kernel ends at three sigma of ``most``. Pixels that are not valid, and those beyond the border, have no
    weight.
    """
    reach = math.ceil(3 * most)
    at = torch.arange(-reach, reach + 1, device=grey.device, dtype=grey.dtype)
    kernel = torch.exp(-0.5 * (at / sigmas.clamp(min=1e-3).unsqueeze(1)) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    # A border cut the usual way would darken the rim; with the shares divided out it does not.
    sums = _along_both(torch.cat([grey * valid, valid.to(grey.dtype)], 1), kernel)
    values, shares = sums.chunk(2, 1)
    return values / shares.clamp(min=1e-6) * valid


def _along_both(x: Tensor, kernel: Tensor) -> Tensor:
    number, bands, height, width = x.shape
    reach = kernel.shape[1] // 2
    groups = number * bands
    taps = kernel.repeat_interleave(bands, 0)
    x = x.reshape(1, groups, height, width)
    x = functional.conv2d(x, taps.view(groups, 1, 1, -1), padding=(0, reach), groups=groups)
    x = functional.conv2d(x, taps.view(groups, 1, -1, 1), padding=(reach, 0), groups=groups)
    return x.view(number, bands, height, width)


def _contrast(grey: Tensor, valid: Tensor, factor: Tensor) -> Tensor:
    count = valid.sum((1, 2, 3), keepdim=True).clamp(min=1)
    mean = (grey * valid).sum((1, 2, 3), keepdim=True) / count
    return (mean + factor * (grey - mean)).clamp(0, 1)


def _factors(numbers: Tensor, config: AugmentConfig) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tell whether a sample is changed and whether brightness comes first; give the factors of both. Each (N,)."""
    chosen, bright_first = numbers[:, JITTER] < config.jitter_share, numbers[:, ORDER] < 0.5
    bright = 1 + config.brightness * (2 * numbers[:, BRIGHTNESS] - 1)
    return chosen, bright_first, bright, 1 + config.contrast * (2 * numbers[:, CONTRAST] - 1)


def _each(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
