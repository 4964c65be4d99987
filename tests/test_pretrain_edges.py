"""Edge strength against a plain loop, the law of ratios of gamma speckle, and known steps."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from pretrain.edges import contours, edge_strength, half_windows, linear_power, multilook
from shards.tile import DbScale

LOOKS = 4


def speckle(shape: tuple[int, ...], seed: int = 0, looks: float = LOOKS) -> NDArray[np.float32]:
    return np.random.default_rng(seed).gamma(looks, 1 / looks, shape).astype(np.float32)


def strength(power: NDArray[np.float32], reach: int = 2, valid: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    valid = np.ones(power.shape, bool) if valid is None else valid
    image, share = torch.from_numpy(power)[None, None], torch.from_numpy(valid)[None, None]
    return edge_strength(image, share, reach)[0, 0].numpy()


def plain_roa(power: NDArray[np.float32], valid: NDArray[np.bool_], reach: int, y: int, x: int) -> float:
    """Ratio of averages at one pixel (Touzi et al. 1988), pixel by pixel."""
    least = 1.0
    for ax, ay in ((1, 0), (1, 1), (0, 1), (-1, 1)):
        sides: dict[int, list[float]] = {-1: [], 1: []}
        full = 0
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                side = int(np.sign(ax * dx + ay * dy))
                full += side == 1
                i, j = y + dy, x + dx
                if side and 0 <= i < power.shape[0] and 0 <= j < power.shape[1] and valid[i, j]:
                    sides[side].append(float(power[i, j]))
        if min(len(s) for s in sides.values()) * 2 >= full:
            a, b = (np.mean(s) for s in sides.values())
            least = min(least, a / b, b / a)
    return 1 - least


@pytest.mark.parametrize("reach", [1, 2, 3])
def test_strength_equals_a_plain_loop_with_no_data_and_borders(reach: int):
    power, valid = speckle((17, 21)), np.random.default_rng(1).random((17, 21)) > 0.2
    found = strength(np.where(valid, power, 0), reach, valid)
    expected = [[plain_roa(power, valid, reach, y, x) for x in range(21)] for y in range(17)]
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_halves_are_equal_apart_and_leave_out_the_line_between_them():
    halves = half_windows(2)
    assert halves.shape == (4, 2, 5, 5)
    assert halves.sum((2, 3)).tolist() == [[10, 10]] * 4
    assert (halves[:, 0] * halves[:, 1]).max() == 0
    assert torch.equal(halves[:, 0], halves[:, 1].flip(1, 2))


def test_a_level_changes_nothing():
    power = speckle((40, 40))
    np.testing.assert_allclose(strength(power * 1e-3), strength(power), atol=1e-5)


@pytest.mark.parametrize("level_db", [-25.0, -15.0, -5.0, 5.0])
def test_false_alarms_are_as_rare_in_bright_as_in_dark_fields_unlike_those_of_a_difference(level_db: float):
    power = (10 ** (level_db / 10) * speckle((400, 400), seed=int(-level_db) + 30)).astype(np.float32)
    inside = strength(power)[2:-2, 2:-2]
    # One direction: both means are gamma of 4 x 10 looks, their ratio is F(80, 80). Four directions: between that
    # and four times as many.
    one = 2 * stats.f.sf(1 / 0.55, 80, 80)
    share = float((inside > 0.45).mean())
    assert one < share < 4 * one
    assert share == pytest.approx(0.0265, abs=0.0025)  # the same at every level


def test_one_direction_follows_the_f_distribution():
    power = torch.from_numpy(speckle((1, 1, 600, 600), seed=5))
    halves = half_windows(2)[0].unsqueeze(1)
    a, b = torch.nn.functional.conv2d(power, halves).div(10)[0].numpy()
    for threshold in (0.6, 0.7, 0.8):
        share = float((np.minimum(a / b, b / a) < threshold).mean())
        assert share == pytest.approx(2 * stats.f.sf(1 / threshold, 80, 80), rel=0.06)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("step_db", [3.0, 6.0, 12.0])
def test_a_step_gives_one_minus_its_ratio_on_the_line_and_nothing_away_from_it(step_db: float, turned: bool):
    power = np.ones((32, 32), np.float32)
    power[:, 17:] = 10 ** (step_db / 10)
    power[:, 16] = (1 + 10 ** (step_db / 10)) / 2  # the line itself is in neither half
    found = strength(power.T.copy() if turned else power)
    found = found.T if turned else found
    np.testing.assert_allclose(found[4:-4, 16], 1 - 10 ** (-step_db / 10), atol=1e-5)
    assert found[:, 17].max() < found[8, 16]
    np.testing.assert_allclose(found[:, :13], 0, atol=1e-5)
    np.testing.assert_allclose(found[:, 20:], 0, atol=1e-5)


def test_a_speckled_step_stands_out_at_every_level():
    for level in (1e-3, 1.0):
        power = (level * speckle((64, 64), seed=7)).astype(np.float32)
        power[:, 32:] *= 4
        found = strength(power)
        line, field = found[4:-4, 31:33].mean(), np.concatenate([found[4:-4, 4:26], found[4:-4, 38:60]]).mean()
        assert line > 0.6
        assert field < 0.32


def test_codes_become_power_and_looks_leave_out_no_data():
    scale = DbScale()
    power = speckle((8, 8))
    power[0, 0] = np.nan
    codes = torch.from_numpy(scale.encode(power[None])[None].astype(np.int32))
    found, valid = linear_power(codes, scale)
    good = ~np.isnan(power)
    np.testing.assert_allclose(found[0, 0].numpy()[good], power[good], rtol=3e-4)
    assert (valid[0, 0].numpy() == good).all()
    assert found[0, 0, 0, 0] == 0
    mean, share = multilook(found, valid, 4)
    np.testing.assert_allclose(mean[0, 0, 0, 0], power[:4, :4][good[:4, :4]].mean(), rtol=3e-4)
    assert share[0, 0].tolist() == [[15 / 16, 1.0], [1.0, 1.0]]


def test_contours_average_bands_on_the_grid_of_looks():
    scale = DbScale()
    power = speckle((2, 64, 64))
    power[1, :, 32:] *= 10
    codes = torch.from_numpy(scale.encode(power)[None].astype(np.int32))
    found = contours(codes, scale, looks_px=4, reach=2)
    each = [edge_strength(*multilook(*linear_power(codes[:, k : k + 1], scale), 4), 2) for k in (0, 1)]
    assert found.shape == (1, 1, 16, 16)
    torch.testing.assert_close(found, (each[0] + each[1]) / 2)
    assert found[0, 0, 4:-4, 7:9].min() > found[0, 0, 4:-4, 3:5].max()
