"""Changes of grey values: ranges, what stays, and the numbers of a plain computation."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from pretrain.augment import (
    BLUR,
    BRIGHTNESS,
    CONTRAST,
    JITTER,
    ORDER,
    SIGMA,
    augment,
    augment_in_parallel,
    blur,
    blur_sigmas,
    jitter,
)
from pretrain.pair_run import AugmentConfig

CONFIG = AugmentConfig()
PLACES = {
    "jitter": JITTER,
    "order": ORDER,
    "brightness": BRIGHTNESS,
    "contrast": CONTRAST,
    "blur": BLUR,
    "sigma": SIGMA,
}


def numbers(count: int = 1, **chosen: float) -> Tensor:
    values = torch.full((count, 8), 0.5)
    places = {
        "jitter": JITTER,
        "order": ORDER,
        "brightness": BRIGHTNESS,
        "contrast": CONTRAST,
        "blur": BLUR,
        "sigma": SIGMA,
    }
    for name, value in chosen.items():
        values[:, places[name]] = value
    return values


def picture(count: int = 1, bands: int = 1, size: int = 24) -> Tensor:
    return torch.rand(count, bands, size, size, generator=torch.Generator().manual_seed(4))


def everywhere(grey: Tensor) -> Tensor:
    return torch.ones_like(grey, dtype=torch.bool)


@pytest.mark.parametrize("order", [0.1, 0.9])
def test_jitter_is_brightness_and_contrast_in_the_drawn_order(order: float):
    grey = picture()
    found = jitter(grey, everywhere(grey), numbers(jitter=0.5, order=order, brightness=0.75, contrast=0.0), CONFIG)

    def bright(x: Tensor) -> Tensor:
        return (x * 1.2).clamp(0, 1)

    def contrast(x: Tensor) -> Tensor:
        return (x.mean() + 0.6 * (x - x.mean())).clamp(0, 1)

    expected = contrast(bright(grey)) if order < 0.5 else bright(contrast(grey))
    torch.testing.assert_close(found, expected)


def test_one_sample_in_five_keeps_its_values_and_every_second_its_sharpness():
    uniform = torch.rand(4000, 8, generator=torch.Generator().manual_seed(1))
    grey = torch.rand(4000, 1, 2, 2) * 0.5 + 0.25
    kept = (jitter(grey, everywhere(grey), uniform, CONFIG) == grey).all(1).all(1).all(1)
    assert kept.float().mean().item() == pytest.approx(0.2, abs=0.02)
    sigmas = blur_sigmas(uniform, CONFIG)
    assert (sigmas == 0).float().mean().item() == pytest.approx(0.5, abs=0.025)
    blurred = sigmas[sigmas > 0]
    assert 0.1 <= blurred.min() < 0.12
    assert 1.98 < blurred.max() <= 2.0
    assert blurred.mean().item() == pytest.approx(1.05, abs=0.03)


def test_blur_is_a_gaussian_of_each_samples_sigma():
    point = torch.zeros(3, 1, 25, 25)
    point[:, :, 12, 12] = 1
    sigmas = torch.tensor([0.0, 1.0, 2.0])
    found = blur(point, everywhere(point), sigmas, 2.0)[:, 0]
    torch.testing.assert_close(found[0], point[0, 0])
    at = torch.arange(25.0) - 12
    for n in (1, 2):
        line = torch.exp(-0.5 * (at / sigmas[n]) ** 2) * (at.abs() <= 6)
        expected = torch.outer(line, line) / line.sum() ** 2
        torch.testing.assert_close(found[n], expected, atol=1e-6, rtol=1e-5)


def test_blur_is_close_to_the_one_of_pillow():
    smooth = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (48, 48)).astype(np.uint8))
    expected = np.asarray(Image.fromarray(smooth.numpy()).filter(ImageFilter.GaussianBlur(1.5)), dtype=float)
    grey = smooth[None, None] / 255
    found = blur(grey, everywhere(grey), torch.tensor([1.5]), 2.0)[0, 0].numpy() * 255
    # Pillow approximates the Gaussian by three boxes; away from the border both agree to some grey levels of 256.
    assert np.abs(found - expected)[6:-6, 6:-6].mean() < 2.0


def test_a_plain_field_keeps_its_value_up_to_borders_and_holes():
    grey = torch.full((1, 2, 16, 16), 0.4)
    valid = everywhere(grey)
    valid[:, :, 5:9, 5:9] = False
    found = blur(grey * valid, valid, torch.tensor([2.0]), 2.0)
    torch.testing.assert_close(found, torch.where(valid, 0.4, 0.0))


def test_pixels_without_data_change_nothing_and_stay_zero():
    grey, uniform = picture(8, 2), torch.rand(8, 8, generator=torch.Generator().manual_seed(2))
    valid = torch.rand(8, 2, 24, 24, generator=torch.Generator().manual_seed(3)) > 0.3
    one = augment(grey * valid, valid, uniform, CONFIG)
    other = augment(torch.where(valid, grey, 0.9), valid, uniform, CONFIG)
    torch.testing.assert_close(one, other)
    assert (one[~valid] == 0).all()
    assert one.min() >= 0
    assert one.max() <= 1 + 1e-6


def test_a_sample_is_changed_alike_in_any_batch():
    grey, uniform = picture(6), torch.rand(6, 8)
    whole = augment(grey, everywhere(grey), uniform, CONFIG)
    for n in range(6):
        one = augment(grey[n : n + 1], everywhere(grey[n : n + 1]), uniform[n : n + 1], CONFIG)
        torch.testing.assert_close(one[0], whole[n], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("holes", [0.0, 0.3])
@pytest.mark.parametrize("most", [0.4, 2.0])
def test_the_kernel_for_processors_gives_what_the_device_gives(holes: float, most: float):
    grey, uniform = picture(40, 2, 37), torch.rand(40, 8, generator=torch.Generator().manual_seed(5))
    valid = torch.rand(grey.shape, generator=torch.Generator().manual_seed(6)) >= holes
    config = AugmentConfig(blur_sigma_px=(0.1, most))
    found, expected = (f(grey * valid, valid, uniform, config) for f in (augment, augment_in_parallel))
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
