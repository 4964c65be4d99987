"""Statistics of a tile equal a plain NumPy reference, and mean what they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ingest.quality import BLOCK_PX, content, spread
from ingest.scene import Window
from shards.tile import DbScale

SCALE = DbScale()


def speckle(shape: tuple[int, ...], looks: float, seed: int = 0, mean: float = 0.05) -> NDArray[np.float32]:
    return np.random.default_rng(seed).gamma(looks, mean / looks, shape).astype(np.float32)


def plain_contrast_db(power: NDArray[np.float64]) -> float | None:
    levels = []
    for row in range(0, power.shape[0], BLOCK_PX):
        for col in range(0, power.shape[1], BLOCK_PX):
            block = power[row : row + BLOCK_PX, col : col + BLOCK_PX]
            good = block[np.isfinite(block)]
            if good.size >= BLOCK_PX**2 // 2:
                levels.append(10 * np.log10(max(good.mean(), 1e-6)))
    return float(np.std(levels)) if len(levels) > 1 else None


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 70), cols=st.integers(1, 70), row=st.integers(0, 5), col=st.integers(0, 5),
    hole=st.tuples(st.integers(0, 40), st.integers(0, 40)), seed=st.integers(0, 99), dark=st.booleans(),
)  # fmt: skip
def test_content_equals_a_plain_reference(rows, cols, row, col, hole, seed, dark) -> None:
    power = speckle((2, rows + 7, cols + 6), 1.0, seed)
    power[0, row : row + hole[0], col : col + hole[1]] = np.nan
    power[1, :3, :2] = np.inf
    if dark:
        power[1] -= 0.05  # noise removal leaves negative power
    found = content(power, Window(row, col, rows, cols), SCALE)
    part = power[:, row : row + rows, col : col + cols].astype(np.float64)
    part[~np.isfinite(part)] = np.nan
    assert found.valid == int(np.isfinite(part).all(axis=0).sum())
    means = [float(np.mean(band[np.isfinite(band)])) if np.isfinite(band).any() else np.nan for band in part]
    expected = [10 * np.log10(max(mean, 1e-6)) if mean == mean else np.nan for mean in means]
    assert found.mean_db == pytest.approx(expected, abs=6e-4, nan_ok=True)
    contrast = plain_contrast_db(part[int(np.nanargmax(means))]) if found.valid else None
    assert found.contrast_db == (None if contrast is None else pytest.approx(contrast, abs=6e-4))


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(1, 60), cols=st.integers(1, 60), missing=st.floats(0, 1), seed=st.integers(0, 99))
def test_spread_equals_numpy(rows, cols, missing, seed) -> None:
    noise = np.random.default_rng(seed)
    codes = noise.integers(1, 65536, (3, rows, cols), np.uint16)
    codes[1] = codes[1] // 3000 + 20000  # few levels, many ties
    codes[noise.random(codes.shape) < missing] = 0
    found = spread(codes, SCALE)
    for band in range(3):
        level = SCALE.decode(codes[band]).astype(np.float64)
        level = level[~np.isnan(level)]
        got = (found.std_db[band], found.p02_db[band], found.p98_db[band])
        if level.size == 0:
            assert got == (None, None, None)
            continue
        low, high = np.percentile(level, (2, 98), method="inverted_cdf")
        assert got == pytest.approx((level.std(), low, high), abs=1.1e-3)


@pytest.mark.parametrize("looks", [1.0, 4.4, 80.0])
def test_speckle_alone_has_the_contrast_of_theory(looks: float) -> None:
    power = speckle((1, 512, 512), looks)
    found = content(power, Window(0, 0, 512, 512), SCALE).contrast_db
    assert found == pytest.approx(10 / np.log(10) / np.sqrt(BLOCK_PX**2 * looks), rel=0.06)


def test_contrast_is_that_of_the_brightest_band() -> None:
    power = speckle((2, 256, 256), 4.4)
    power[1] = speckle((256, 256), 4.4, seed=1, mean=0.001) * np.where(np.arange(256) < 128, 1, 10)
    flat = content(power, Window(0, 0, 256, 256), SCALE)
    assert flat.contrast_db < 0.2  # the second band's halves lie 10 dB apart, but noise is strongest there
    power[0, :, 128:] *= 10 ** (4 / 10)
    assert content(power, Window(0, 0, 256, 256), SCALE).contrast_db == pytest.approx(2.0, abs=0.05)
