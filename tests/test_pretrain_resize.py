"""Resizing of all kinds of pixels against PyTorch's antialiased interpolation."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from pretrain.resize import resized_crop

CROPS = [([3, 5, 100, 140, 0], 96), ([0, 0, 256, 250, 1], 37), ([10, 200, 55, 33, 0], 300), ([0, 0, 256, 256, 1], 256)]


def expected_of(pixels: np.ndarray, crop: list[int], size: int) -> np.ndarray:
    y, x, h, w, flipped = crop
    cut = torch.from_numpy(pixels[:, y : y + h, x : x + w].astype(np.float64))[None]
    found = interpolate(cut, (size, size), mode="bilinear", antialias=True, align_corners=False)[0].numpy()
    return found[:, :, ::-1] if flipped else found


@pytest.mark.parametrize(("crop", "size"), CROPS)
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_resize_equals_pytorch(kind: type, crop: list[int], size: int):
    rng = np.random.default_rng(1)
    pixels = (
        rng.normal(0, 10, (2, 256, 256)) if kind is np.float32 else rng.integers(1, np.iinfo(kind).max, (2, 256, 256))
    )
    pixels = pixels.astype(kind)
    view = resized_crop(pixels, np.array(crop), size)
    expected = expected_of(pixels, crop, size)
    assert view.dtype == kind
    assert np.abs(view - expected).max() < (1e-4 if kind is np.float32 else 0.52)


def test_missing_pixels_are_left_out_alike_for_all_kinds():
    rng = np.random.default_rng(2)
    codes = rng.integers(1, 256, (1, 60, 70)).astype(np.uint8)
    codes[rng.random(codes.shape) < 0.4] = 0
    codes[:, :20, :20] = 0
    crop = np.array([2, 3, 50, 60, 1])
    small = resized_crop(codes, crop, 33)
    real = resized_crop(np.where(codes == 0, np.nan, codes).astype(np.float32), crop, 33)
    np.testing.assert_array_equal(small, resized_crop(codes.astype(np.uint16), crop, 33))
    np.testing.assert_array_equal(np.isnan(real), small == 0)
    assert (small == 0).any()
    assert np.nanmax(np.abs(real - small)) <= 0.5 + 1e-4


def test_zero_is_a_value_of_floats():
    flat = np.zeros((1, 20, 20), np.float32)
    assert (resized_crop(flat, np.array([0, 0, 20, 20, 0]), 9) == 0).all()


def test_a_view_never_changes_between_releases():
    y, x = np.mgrid[0:90, 0:80]
    pixels = ((y * 7919 + x * 104729) % 65521).astype(np.uint16)[None]
    view = resized_crop(pixels, np.array([4, 6, 77, 66, 1]), 50)
    assert (view.astype(np.int64) * np.arange(1, 2501).reshape(1, 50, 50)).sum() == GOLDEN_SUM


GOLDEN_SUM = 102449808974
