from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sentinel1_products import EW_352, IPF_340, images, shape_of, unpack

from ingest.annotation import Noise, NoiseBlock, Vectors, read_calibration, read_noise
from ingest.calibrate import Calibration
from ingest.scene import Window
from ingest.xml import parse

Floats = NDArray[np.float64]


def at_line(vectors: Vectors, line: float, cols: int, keep: NDArray[np.bool_] | None = None) -> Floats:
    """The plain definition: along range in the two vectors around a line, then between them; constant outside."""
    index = np.flatnonzero(np.ones(len(vectors.lines), bool) if keep is None else keep)
    lines = vectors.lines[index]
    above = int(np.clip(np.searchsorted(lines, line, side="right") - 1, 0, len(lines) - 1))
    below = min(above + 1, len(lines) - 1)
    one, two = (np.interp(np.arange(cols), vectors.pixels[k], vectors.values[k]) for k in (index[above], index[below]))
    if line <= lines[above] or above == below:
        return one
    return one + (two - one) * (line - lines[above]) / (lines[below] - lines[above])


def reference(numbers: NDArray[np.uint16], gain: Vectors, noise: Noise | None) -> Floats:
    """Plain NumPy calibration of a whole image in float64, line by line."""
    rows, cols = numbers.shape
    power = np.empty((rows, cols))
    for line in range(rows):
        eta = np.zeros(cols)
        if noise is not None and not noise.blocks:
            eta = at_line(noise.vectors, line, cols)
        for block in noise.blocks if noise is not None else ():
            if block.first_line <= line <= block.last_line:
                part = slice(max(block.first_pixel, 0), block.last_pixel + 1)
                swath = [b for b in noise.blocks if b.swath == block.swath]
                first, last = min(b.first_line for b in swath), max(b.last_line for b in swath)
                keep = (noise.vectors.lines >= first) & (noise.vectors.lines <= last)
                factor = np.interp(line, block.lines, block.factors)
                eta[part] = at_line(noise.vectors, line, cols, keep)[part] * factor
        power[line] = (numbers[line].astype(np.float64) ** 2 - eta) / at_line(gain, line, cols) ** 2
    return np.where(numbers == 0, np.nan, power)


def vectors(generator: np.random.Generator, rows: int, cols: int, low: float, high: float) -> Vectors:
    """Vectors with their own pixel arrays, of different lengths, starting before and ending beyond the image."""
    lines = np.unique(np.r_[-3, generator.integers(0, rows, 4), rows + 5]).astype(np.float64)
    pixels = [np.unique(np.r_[0, generator.integers(1, cols, k + 2), cols - 1]) for k in range(len(lines))]
    values = [generator.uniform(low, high, len(p)) for p in pixels]
    return Vectors(lines, tuple(p.astype(np.float64) for p in pixels), tuple(values))


def example(seed: int, layout: str) -> tuple[NDArray[np.uint16], Vectors, Noise | None]:
    generator = np.random.default_rng(seed)
    rows, cols = 40, 90
    numbers = generator.integers(0, 300, (rows, cols)).astype(np.uint16)
    numbers[generator.random(numbers.shape) < 0.05] = 0
    numbers[0, :3] = 65535
    gain = vectors(generator, rows, cols, 300, 700)
    if layout == "none":
        return numbers, gain, None
    along = vectors(generator, rows, cols, 500, 3000)
    if layout == "vectors":
        return numbers, gain, Noise(along, ())
    bounds = [("A", 0, rows - 1, 0, 29), ("B", 0, 9, 30, 61), ("B", 10, rows + 7, 30, 58), ("C", 5, 30, 62, 99)]
    blocks = []
    for number, bound in enumerate(bounds):
        lines = np.arange(bound[1], bound[2] + 1, 4 + number, dtype=np.float64)[: 1 if number == 3 else None]
        blocks.append(NoiseBlock(*bound, lines, generator.uniform(0.8, 1.3, len(lines))))
    return numbers, gain, Noise(along, tuple(blocks))


@pytest.mark.parametrize("layout", ["none", "vectors", "blocks"])
@pytest.mark.parametrize("seed", range(4))
def test_kernel_equals_the_plain_reference(seed: int, layout: str) -> None:
    numbers, gain, noise = example(seed, layout)
    calibration = Calibration.of(numbers.shape, gain, noise)
    found = calibration.power(Window(0, 0, *numbers.shape), numbers)
    expected = reference(numbers, gain, noise)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(found), numbers == 0)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-12)
    if noise is not None:
        assert np.nanmin(found) < 0  # what noise subtraction leaves is kept as it is


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 3), row=st.integers(0, 39), col=st.integers(0, 89), data=st.data())
def test_windows_never_change_a_pixel(seed: int, row: int, col: int, data: st.DataObject) -> None:
    numbers, gain, noise = example(seed, "blocks")
    calibration = Calibration.of(numbers.shape, gain, noise)
    whole = calibration.power(Window(0, 0, *numbers.shape), numbers)
    window = Window(row, col, data.draw(st.integers(1, 40 - row)), data.draw(st.integers(1, 90 - col)))
    part = (slice(row, row + window.rows), slice(col, col + window.cols))
    assert calibration.power(window, numbers[part]).tobytes() == whole[part].tobytes()


def test_no_noise_annotated_leaves_the_pixel_unchanged() -> None:
    line, pixels = np.array([0.0, 9.0]), np.array([0.0, 10.0, 11.0, 19.0])
    noise = Noise(Vectors(line, (pixels, pixels), (np.array([100.0, 100, 0, 0]),) * 2), ())
    gain = Vectors(line, (pixels, pixels), (np.full(4, 2.0),) * 2)
    numbers = np.full((10, 20), 20, np.uint16)
    found = Calibration.of((10, 20), gain, noise).power(Window(0, 0, 10, 20), numbers)
    np.testing.assert_array_equal(found[:, :11], 75.0)
    np.testing.assert_array_equal(found[:, 11:], 100.0)


def real(folder: Path, kind: str) -> bytes:
    return min((folder / "annotation" / "calibration").glob(f"{kind}-*.xml")).read_bytes()


def test_real_iw_vectors_against_the_reference(shared_data: Path, tmp_path: Path) -> None:
    product = unpack(shared_data, IPF_340, tmp_path)
    rows, cols = shape_of(images(product)[0])
    gain = read_calibration(parse(real(product, "calibration"), "c"), "c")
    noise = read_noise(parse(real(product, "noise"), "n"), "n")
    assert len(gain.lines) == 27
    assert gain.lines[-1] > rows
    assert [b.swath for b in noise.blocks] == ["IW1", "IW2", "IW3"]
    calibration = Calibration.of((rows, cols), gain, noise)
    numbers = np.full((1, cols), 60, np.uint16)
    for line in (0, 1, 667, 668, 8001, 16699, 16700, 16702, 16704):
        eta = at_line(noise.vectors, line, cols)
        for block in noise.blocks:
            eta[block.first_pixel : block.last_pixel + 1] *= np.interp(line, block.lines, block.factors)
        expected = (3600.0 - eta) / at_line(gain, line, cols) ** 2
        found = calibration.power(Window(line, 0, 1, cols), numbers)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-11)


def test_ew_swaths_that_start_late_take_no_zeros_into_account(shared_data: Path, tmp_path: Path) -> None:
    product = unpack(shared_data, EW_352, tmp_path)
    rows, cols = shape_of(images(product)[0])
    noise = read_noise(parse(real(product, "noise"), "n"), "n")
    assert len(noise.blocks) == 17
    gain = Vectors(np.zeros(1), (np.zeros(1),), (np.ones(1),))
    calibration = Calibration.of((rows, cols), gain, noise)

    def eta(line: int) -> Floats:
        numbers = np.full((1, cols), 100, np.uint16)
        return 10000.0 - calibration.power(Window(line, 0, 1, cols), numbers)[0].astype(np.float64)

    # Line 130 is the start of swath EW2 (pixels 3118 to 5032); the vector at line 0 holds zeros there.
    block = next(b for b in noise.blocks if b.swath == "EW2" and b.first_line == 128)
    vector = np.interp(np.arange(cols), noise.vectors.pixels[1], noise.vectors.values[1])
    expected = vector * np.interp(130, block.lines, block.factors)
    np.testing.assert_allclose(eta(130)[3118:5033], expected[3118:5033], rtol=2e-5)
    plain = at_line(noise.vectors, 130, cols) * np.interp(130, block.lines, block.factors)
    assert np.median(eta(130)[3118:5033] / plain[3118:5033]) == pytest.approx(167 / 130, rel=0.02)
    # No block covers what the swaths leave out; nothing is subtracted there.
    np.testing.assert_array_equal(eta(130)[5033:], 0.0)
    np.testing.assert_array_equal(eta(60)[3130:], 0.0)
    # Away from the starts the plain interpolation is the same.
    line = 5000
    plain = at_line(noise.vectors, line, cols)
    for block in noise.blocks:
        if block.first_line <= line <= block.last_line:
            plain[block.first_pixel : block.last_pixel + 1] *= np.interp(line, block.lines, block.factors)
    np.testing.assert_allclose(eta(line), plain, atol=0.002)
