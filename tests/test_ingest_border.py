from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sentinel1_products import IPF_270, IPF_331, crop, unpack, write_pixels

from ingest.border import BorderMask
from ingest.recipe import Pixels
from ingest.scene import Window
from ingest.sentinel1 import open_sentinel1

ROWS, COLS = 700, 2600
ETA = 400.0
LAKE = (slice(300, 420), slice(1000, 1500))
"""Calm water far inside."""
POND = (slice(500, 520), slice(330, 360))
"""Calm water within reach of the left border, with land between."""

Numbers = NDArray[np.uint16]


def truth() -> NDArray[np.bool_]:
    """True where a slanted border lies, fill and noise together: left, right, and at the top of half the columns."""
    row, col = np.mgrid[:ROWS, :COLS]
    border = (col < 120 + row // 8) | (col >= COLS - 200 + row // 16)
    border[:56, :1400] = True
    return np.asarray(border)


def image(generator: np.random.Generator, border: NDArray[np.bool_]) -> Numbers:
    """Land of DN 120 with speckle, calm water of DN 14, border noise of DN 0 to 25, and fill outside of that."""
    level = np.full((ROWS, COLS), 120.0)
    level[LAKE] = level[POND] = 14.0
    speckle = generator.gamma(4.4, 1 / 4.4, level.shape)
    numbers = np.clip(np.rint(level * np.sqrt(speckle)), 1, None)
    noise = np.where(generator.random(level.shape) < 0.02, 90, generator.integers(0, 26, level.shape))
    numbers[border] = noise[border]
    col = np.arange(COLS)
    numbers[:, (col < 60) | (col >= COLS - 40)] = 0
    return numbers.astype(np.uint16)


def mask_of(numbers: Numbers, eta: float = ETA, seen: list[Window] | None = None) -> BorderMask:
    def read(window: Window) -> Numbers:
        if seen is not None:
            seen.append(window)
        row, col, rows, cols = window
        return numbers[row : row + rows, col : col + cols]

    return BorderMask(numbers.shape, read, lambda w: np.full((w.rows, w.cols), eta, np.float32))


def masked(mask: BorderMask, window: Window) -> NDArray[np.bool_]:
    power = np.ones((2, window.rows, window.cols), np.float32)
    mask.apply(window, power)
    np.testing.assert_array_equal(np.isnan(power[0]), np.isnan(power[1]))  # all polarisations alike
    return np.isnan(power[0])


@pytest.fixture(scope="module")
def scene() -> tuple[Numbers, NDArray[np.bool_], BorderMask]:
    border = truth()
    numbers = image(np.random.default_rng(5), border)
    return numbers, border, mask_of(numbers)


def test_border_is_masked_and_water_inside_survives(scene: Any) -> None:
    _, border, mask = scene
    found = masked(mask, Window(0, 0, ROWS, COLS))
    assert not found[LAKE].any()
    assert not found[POND].any()
    assert found[border].mean() > 0.999
    assert found[~border].mean() < 0.015  # at most two cells of 8 pixels at its rim


def test_clean_borders_are_left_alone() -> None:
    """Fill that meets land loses at most a part of a cell, and water in the middle of an edge only the reach."""
    border = np.zeros((ROWS, COLS), bool)
    numbers = image(np.random.default_rng(6), border)
    found = masked(mask_of(numbers), Window(0, 0, ROWS, COLS))
    assert found[:, 64:-40].mean() < 1e-5
    numbers[200:260, :900] = 14
    found = masked(mask_of(numbers), Window(0, 0, ROWS, COLS))
    assert found[210:250, :512].all()
    assert not found[:, 600:].any()


def test_noise_brighter_than_the_fixed_bound_goes_by_the_noise_lut() -> None:
    border = truth()
    numbers = image(np.random.default_rng(7), border)
    numbers[border & (numbers > 0)] += 20  # DN 20 to 45; noise of sqrt(2500)
    strip = (slice(60, None), slice(64, 110))
    assert masked(mask_of(numbers, eta=2500.0), Window(0, 0, ROWS, COLS))[strip].mean() > 0.99
    assert masked(mask_of(numbers, eta=0.0), Window(0, 0, ROWS, COLS))[strip].mean() < 0.01


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_windows_never_change_a_pixel(scene: Any, data: st.DataObject) -> None:
    mask = scene[2]
    whole = masked(mask, Window(0, 0, ROWS, COLS))
    row, col = data.draw(st.integers(0, ROWS - 1)), data.draw(st.integers(0, COLS - 1))
    rows, cols = data.draw(st.integers(1, ROWS - row)), data.draw(st.integers(1, COLS - col))
    part = masked(mask, Window(row, col, rows, cols))
    np.testing.assert_array_equal(part, whole[row : row + rows, col : col + cols])


def test_the_image_is_looked_at_once_in_narrow_windows() -> None:
    numbers = np.full((9000, 6000), 100, np.uint16)
    seen: list[Window] = []
    mask = mask_of(numbers, seen=seen)
    for _ in range(2):
        assert not masked(mask, Window(4000, 3000, 50, 50)).any()
    assert max(w.rows * w.cols for w in seen) <= 256 * 6000
    sides = [w for w in seen if w.cols < 6000]
    assert sum(w.rows * w.cols for w in sides) == 9000 * 2 * 2048
    assert sum(w.rows for w in seen if w.cols == 6000) == 2 * 2048


@pytest.mark.parametrize("shape", [(2, 2), (15, 40), (16, 16), (17, 40)])
def test_small_images(shape: tuple[int, int]) -> None:
    dark = np.full(shape, 5, np.uint16)
    found = masked(mask_of(dark), Window(0, 0, *shape))
    assert found.all() == (min(shape) >= 16)
    assert not masked(mask_of(dark + 95), Window(0, 0, *shape)).any()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(("name", "dirty"), [(IPF_270, True), (IPF_331, False)])
def test_old_products_are_masked_in_all_polarisations(
    shared_data: Path, tmp_path: Path, name: str, dirty: bool
) -> None:
    product = unpack(shared_data, name, tmp_path)
    rows, cols = crop(product, 1, 1)
    write_pixels(product)
    co_polarised = next((product / "measurement").glob("*-vv-*.tiff"))
    with rasterio.open(co_polarised, "r+") as file:
        numbers = np.full((rows, cols), 150, np.uint16)
        numbers[:, :20], numbers[:, 20:100] = 0, 12
        file.write(numbers, 1)
    window = Window(300, 40, 50, 400)
    with open_sentinel1(str(product)) as scene, open_sentinel1(str(product), Pixels(border_noise=False)) as plain:
        found, whole = scene.power(window), plain.power(window)
    assert np.isnan(found[:, :, :60]).all() == dirty
    np.testing.assert_array_equal(found[:, :, 80:], whole[:, :, 80:])
    assert np.isfinite(whole[0]).all()
