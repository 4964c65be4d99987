"""Changes of backscatter: the statistics of speckle, looks, levels; and what no change leaves alone."""

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch import Tensor

from pretrain.config import InputSpec
from pretrain.encoder import to_grey
from pretrain.noise import scrambled, speckle_db, uniforms, view_keys
from pretrain.pair_run import AugmentConfig
from pretrain.radiometry import average_looks, change_level, changed_grey
from shards.tile import DbScale

SPEC = InputSpec()


def numbers(count: int, seed: int = 1) -> Tensor:
    return torch.rand(count, 8, generator=torch.Generator().manual_seed(seed))


def levels(count: int = 4, bands: int = 1, size: int = 64) -> Tensor:
    return torch.randn(count, bands, size, size, generator=torch.Generator().manual_seed(2)) * 3 - 12


def everywhere(like: Tensor) -> Tensor:
    return torch.ones_like(like, dtype=torch.bool)


def speckle(looks: float, count: int = 8, size: int = 256) -> np.ndarray:
    found = speckle_db(
        view_keys(numbers(count)), 2, torch.zeros(count), (looks, looks), torch.Size([count, 1, size, size])
    )
    return 10 ** (found.double().numpy()[:, 0] / 10)


@pytest.mark.parametrize("looks", [1.0, 2.5, 4.4, 16.0, 64.0])
def test_speckle_is_gamma_of_its_looks_with_mean_one(looks: float):
    power = speckle(looks)
    assert power.mean() == pytest.approx(1, abs=4 / np.sqrt(looks * power.size))
    assert power.mean() ** 2 / power.var() == pytest.approx(looks, rel=0.015)
    chances = [stats.kstest(p.ravel(), stats.gamma(looks, scale=1 / looks).cdf).pvalue for p in power]
    assert min(chances) > 1e-3
    assert stats.kstest(chances, "uniform").pvalue > 1e-3


def test_speckle_has_no_correlation_between_pixels_or_views():
    u = uniforms(view_keys(numbers(12)), 2, 256 * 256).double().numpy() - 0.5
    across = np.corrcoef(u)[np.triu_indices(12, 1)] * 256
    assert np.abs(across).max() < 4
    assert across.std() == pytest.approx(1, abs=0.3)
    image = u.reshape(12, 256, 256) * np.sqrt(12)
    for down, right in ((0, 1), (1, 0), (1, 1), (2, 3), (16, 0), (0, 128)):
        product = image[:, down:, right:] * image[:, : 256 - down, : 256 - right]
        assert abs(product.mean() * np.sqrt(product.size)) < 4


def test_random_words_never_change_between_releases():
    keys = view_keys(torch.arange(16, dtype=torch.float32).view(2, 8) / 16)
    assert keys.tolist() == GOLDEN_KEYS
    words = (uniforms(keys, 2, 3) * 2**23 - 0.5).round().int().tolist()
    assert words == GOLDEN_WORDS


def test_the_mixer_is_a_permutation_that_flips_every_bit_half_the_time():
    words = torch.randint(-(2**31), 2**31, (20_000,), generator=torch.Generator().manual_seed(3)).int()
    assert len(scrambled(torch.arange(100_000, dtype=torch.int32)).unique()) == 100_000
    for bit in range(32):
        flipped = scrambled(words) ^ scrambled(words ^ (1 << bit if bit < 31 else -(2**31)))
        shares = [float(((flipped >> k) & 1).float().mean()) for k in range(32)]
        assert min(shares) > 0.42
        assert max(shares) < 0.58


def test_nothing_changes_by_default():
    codes = torch.randint(0, 40_000, (3, 2, 16, 16), generator=torch.Generator().manual_seed(1)).to(torch.uint16)
    for one, other in zip(
        changed_grey(codes, numbers(3), DbScale(), SPEC, AugmentConfig()), to_grey(codes, DbScale(), SPEC), strict=True
    ):
        assert torch.equal(one, other)


def test_greys_of_all_codes_on_a_processor_are_those_of_the_device_bit_for_bit():
    codes = torch.arange(65536, dtype=torch.int32).view(1, 1, 256, 256)
    for spec, scale in (
        (SPEC, DbScale()),
        (InputSpec(lo_db=-27.3, hi_db=1.7), DbScale(floor_db=-51.7, step_db=0.0013)),
    ):
        found = changed_grey(codes.to(torch.uint16), numbers(1), scale, spec, AugmentConfig())
        assert all(torch.equal(a, b) for a, b in zip(found, to_grey(codes, scale, spec), strict=True))


ALL = AugmentConfig(looks_share=0.5, speckle_share=0.5, level_share=0.5, contrast_db_share=0.5, gain_share=0.5)


def test_a_view_is_changed_alike_in_any_batch():
    codes = torch.randint(0, 40_000, (8, 2, 32, 32), generator=torch.Generator().manual_seed(1)).to(torch.uint16)
    uniform = numbers(8)
    whole, _ = changed_grey(codes, uniform, DbScale(), SPEC, ALL)
    for n in range(8):
        one, _ = changed_grey(codes[n : n + 1], uniform[n : n + 1], DbScale(), SPEC, ALL)
        torch.testing.assert_close(one[0], whole[n], atol=1e-5, rtol=1e-5)


def test_pixels_without_data_change_nothing_and_stay_zero():
    codes = torch.randint(1, 40_000, (8, 2, 32, 32), generator=torch.Generator().manual_seed(1)).int()
    codes[:, :, 5:15, :20] = 0
    grey, valid = changed_grey(codes, numbers(8), DbScale(), SPEC, ALL)
    assert torch.equal(valid, codes != 0)
    assert (grey[~valid] == 0).all()
    assert torch.isfinite(grey).all()
    level = levels(8, 2, 32)
    one, other = (change_level(x, valid, numbers(8), SPEC, ALL) for x in (level, torch.where(valid, level, 33.0)))
    torch.testing.assert_close(one[valid], other[valid], atol=1e-4, rtol=1e-5)


def test_gain_moves_all_bands_alike_within_its_bounds_and_uniformly():
    level = levels(2000, 2, 4)
    config = AugmentConfig(gain_share=0.75, gain_db=6)
    moved = change_level(level, everywhere(level), numbers(2000), SPEC, config) - level
    gain = moved.mean((1, 2, 3))
    torch.testing.assert_close(moved, gain.view(-1, 1, 1, 1).expand_as(moved), atol=1e-4, rtol=0)
    still = gain.abs() < 1e-5
    assert still.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert stats.kstest(gain[~still].numpy(), stats.uniform(-6, 12).cdf).pvalue > 1e-3


def test_level_removed_puts_the_mean_to_the_middle_and_keeps_differences():
    level = levels(3, 2)
    found = change_level(level + 7, everywhere(level), numbers(3), SPEC, AugmentConfig(level_share=1))
    again = change_level(level, everywhere(level), numbers(3), SPEC, AugmentConfig(level_share=1))
    middle = (SPEC.lo_db + SPEC.hi_db) / 2
    torch.testing.assert_close(found.mean((1, 2, 3)), torch.full((3,), middle), atol=1e-3, rtol=0)
    torch.testing.assert_close(found, again, atol=1e-3, rtol=0)
    torch.testing.assert_close(again - again.mean((1, 2, 3), keepdim=True),
                               level - level.mean((1, 2, 3), keepdim=True), atol=1e-4, rtol=0)  # fmt: skip


def test_contrast_scales_distances_in_db_from_the_mean():
    level = levels(1000, 1, 8)
    found = change_level(level, everywhere(level), numbers(1000), SPEC, AugmentConfig(contrast_db_share=1))
    factor = found.std((1, 2, 3)) / level.std((1, 2, 3))
    torch.testing.assert_close(found.mean((1, 2, 3)), level.mean((1, 2, 3)), atol=1e-4, rtol=0)
    assert stats.kstest(factor.numpy(), stats.uniform(0.7, 0.6).cdf).pvalue > 1e-3


@pytest.mark.parametrize("side", [1, 3, 5])
def test_looks_are_averaged_in_power(side: int):
    level = levels(1, 1, 40)
    valid = torch.rand(level.shape, generator=torch.Generator().manual_seed(5)) > 0.2
    found = average_looks(level, valid, torch.tensor([side]), 5)[0, 0].double().numpy()
    there = valid[0, 0].numpy()
    power = np.where(there, 10 ** (level[0, 0].double().numpy() / 10), 0)
    ones = np.ones((side, side))
    sums, counts = (ndimage.convolve(x, ones, mode="constant") for x in (power, there * 1.0))
    expected = sums / counts.clip(1)
    np.testing.assert_allclose(10 ** (found / 10)[there], expected[there], rtol=1e-4)


def test_averaging_nine_pixels_of_one_look_gives_nine_looks():
    single = torch.from_numpy(10 * np.log10(speckle(1.0))).float()[:, None]
    found = average_looks(single, everywhere(single), torch.full((8,), 3), 3)
    power = 10 ** (found.double().numpy()[:, 0, 4:-4:3, 4:-4:3] / 10)
    assert power.mean() ** 2 / power.var() == pytest.approx(9, rel=0.05)
    assert stats.kstest(power.ravel(), stats.gamma(9, scale=1 / 9).cdf).pvalue > 1e-3


def test_speckle_on_speckle_has_the_looks_of_both():
    ground = torch.from_numpy(10 * np.log10(np.random.default_rng(1).gamma(4.4, 1 / 4.4, (8, 1, 256, 256)))).float()
    config = AugmentConfig(speckle_share=1, speckle_looks=(8, 8))
    power = 10 ** (change_level(ground, everywhere(ground), numbers(8), SPEC, config).double().numpy() / 10)
    expected = 1 / (1 / 4.4 + 1 / 8 + 1 / (4.4 * 8))
    assert power.mean() ** 2 / power.var() == pytest.approx(expected, rel=0.02)


GOLDEN_KEYS = [[1311638483, 169334010], [-2063252632, -622548932]]
GOLDEN_WORDS = [[5913779, 5016060, 7718670], [4363424, 564784, 4297963]]
