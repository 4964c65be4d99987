from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sentinel1_products import EW_352, IPF_340, SLC_ZIP, images, shape_of, unpack

from ingest.calibrate import Burst, Calibration, least_power
from ingest.lut import Noise, NoiseBlock, Vectors, read_calibration, read_noise
from ingest.recipe import Pixels
from ingest.scene import Window
from ingest.xml import parse

Floats = NDArray[np.float64]
INF = float("inf")
START = np.datetime64("2021-12-23T05:11:22.594441", "us")
BURSTS = tuple(
    Burst(first, last, START + np.timedelta64(k, "s")) for k, (first, last) in enumerate([(0, 19), (20, 39)])
)


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
    times = START + lines.astype(np.int64) * np.timedelta64(50, "ms")
    return Vectors(lines, tuple(p.astype(np.float64) for p in pixels), tuple(values), times)


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
    np.testing.assert_allclose(found, expected, rtol=5e-7)
    if noise is not None:
        assert np.nanmin(found) < 0  # what noise subtraction leaves is kept as it is


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_windows_and_threads_never_change_a_pixel(data: st.DataObject) -> None:
    numbers, gain, noise = example(data.draw(st.integers(0, 3)), "blocks")
    assert noise is not None
    bursts = data.draw(st.sampled_from([(), BURSTS]))
    calibration = Calibration.of(numbers.shape, gain, noise, bursts=bursts, least=data.draw(st.sampled_from([-INF, 0])))
    image = data.draw(st.sampled_from([numbers, pairs(numbers), complex64(pairs(numbers))]))
    whole = calibration.power(Window(0, 0, *numbers.shape), image, threads=1)
    row, col = data.draw(st.integers(0, 39)), data.draw(st.integers(0, 89))
    window = Window(row, col, data.draw(st.integers(1, 40 - row)), data.draw(st.integers(1, 90 - col)))
    part = (slice(row, row + window.rows), slice(col, col + window.cols))
    assert calibration.power(window, image[part]).tobytes() == whole[part].tobytes()
    times = np.repeat(numbers, 20, axis=0)
    tall = Calibration.of(times.shape, gain, noise)
    everywhere = Window(0, 0, *times.shape)
    one, three = (tall.power(everywhere, times, threads=n).tobytes() for n in (1, 3))
    assert one == three


def pairs(numbers: NDArray[np.uint16]) -> NDArray[np.int16]:
    """Complex numbers of about the same magnitude, as the file holds them."""
    angle = np.random.default_rng(3).uniform(0, 2 * np.pi, numbers.shape)
    magnitude = np.minimum(numbers, 32767)
    return np.stack([magnitude * np.cos(angle), magnitude * np.sin(angle)], axis=-1).astype(np.int16)


def complex64(of: NDArray[np.int16]) -> NDArray[np.complex64]:
    return (of[..., 0] + 1j * of[..., 1]).astype(np.complex64)


def test_complex_numbers_are_detected_alike_in_both_layouts() -> None:
    numbers, gain, noise = example(1, "vectors")
    image = pairs(numbers)
    calibration = Calibration.of(numbers.shape, gain, noise)
    window = Window(0, 0, *numbers.shape)
    found = calibration.power(window, complex64(image))
    assert calibration.power(window, image).tobytes() == found.tobytes()
    assert calibration.power(window, image.astype(">i2")).tobytes() == found.tobytes()
    square = (image.astype(np.float64) ** 2).sum(axis=-1)
    plain = Calibration.of(numbers.shape, gain, None).power(window, image)
    lines = np.arange(len(numbers))
    a, eta = (np.stack([at_line(v, line, numbers.shape[1]) for line in lines]) for v in (gain, noise.vectors))  # type: ignore[union-attr]
    np.testing.assert_allclose(found[square > 0], ((square - eta) / a**2)[square > 0], rtol=5e-7)
    np.testing.assert_allclose(plain[square > 0], (square / a**2)[square > 0], rtol=5e-7)
    np.testing.assert_array_equal(np.isnan(found), square == 0)
    most = np.full((40, 90, 2), -32768, np.int16)
    np.testing.assert_allclose(Calibration.of(numbers.shape, gain, None).power(window, most), 2.0**31 / a**2, rtol=5e-7)


def test_zero_is_data_where_the_caller_knows_the_valid_pixels() -> None:
    numbers, gain, noise = example(2, "vectors")
    calibration = Calibration.of(numbers.shape, gain, noise)
    window = Window(0, 0, *numbers.shape)
    marked, data = calibration.power(window, numbers), calibration.power(window, numbers, zero_is_data=True)
    assert np.isfinite(data).all()
    assert (data[numbers == 0] < 0).all()
    np.testing.assert_array_equal(data[numbers > 0], marked[numbers > 0])


@pytest.mark.parametrize(("rule", "least"), [("keep", -INF), ("clip", 0.0), ("floor", 1e-6)])
def test_negative_power_is_kept_clipped_or_raised_but_never_no_data(rule: Any, least: float) -> None:
    numbers, gain, noise = example(0, "blocks")
    window = Window(0, 0, *numbers.shape)
    kept = Calibration.of(numbers.shape, gain, noise).power(window, numbers)
    assert least_power(Pixels(negative=rule)) == pytest.approx(least)
    calibration = Calibration.of(numbers.shape, gain, noise, least=least_power(Pixels(negative=rule)))
    found = calibration.power(window, numbers)
    np.testing.assert_array_equal(np.isnan(found), numbers == 0)
    np.testing.assert_array_equal(found, np.maximum(kept, np.float32(least)))
    if rule == "clip":
        assert (found == 0).sum() > 100


def test_bursts_take_the_one_noise_vector_of_their_time() -> None:
    """Lines of the vectors are wrong, as in real SLC products: two before the image, none in its last third."""
    rows, cols = 30, 8
    lines, pixels = np.array([-20.0, -10.0, 0.0, 12.0]), np.array([0.0, cols - 1.0])
    values = tuple(np.array([level, 2 * level]) for level in (100.0, 200.0, 300.0, 900.0))
    times = START + np.arange(4) * np.timedelta64(2758, "ms")
    block = NoiseBlock("IW1", 0, rows - 1, 0, cols - 1, np.array([0.0, 29.0]), np.array([1.0, 2.0]))
    bursts = [Burst(10 * k, 10 * k + 9, START + np.timedelta64(2758 * k + 2, "ms")) for k in range(3)]
    gain = Vectors(np.zeros(1), (pixels,), (np.full(2, 10.0),))
    numbers = np.full((rows, cols), 100, np.uint16)
    for blocks, factor in ((block,), np.linspace(1, 2, rows)[:, None]), ((), np.ones((rows, 1))):
        noise = Noise(Vectors(lines, (pixels,) * 4, values, times), blocks)
        calibration = Calibration.of((rows, cols), gain, noise, bursts=bursts)
        level = np.repeat([100.0, 200.0, 300.0], 10)[:, None] * np.linspace(1, 2, cols) * factor
        np.testing.assert_allclose(calibration.eta(Window(0, 0, rows, cols)), level, rtol=1e-7)
        found = calibration.power(Window(0, 0, rows, cols), numbers)
        np.testing.assert_allclose(found, (10000 - level) / 100, rtol=5e-7)
    with pytest.raises(ValueError, match="without times"):
        Calibration.of((rows, cols), gain, Noise(Vectors(lines, (pixels,) * 4, values), ()), bursts=bursts)


def test_a_constant_lut_takes_one_row_and_changes_no_bit() -> None:
    numbers, _, noise = example(3, "blocks")
    pixels = np.array([0.0, 45.0, 89.0])
    gain = Vectors(np.array([-3.0, 17.0, 50.0]), (pixels,) * 3, (np.full(3, 237.0),) * 3)
    almost = Vectors(gain.lines, gain.pixels, (*gain.values[:2], np.array([237.0, 237.0, 237.1])))
    window = Window(0, 0, *numbers.shape)
    one, three = Calibration.of(numbers.shape, gain, noise), Calibration.of(numbers.shape, almost, noise)
    assert (len(one.gain.table), len(three.gain.table)) == (1, 3)
    np.testing.assert_array_equal(one.power(window, numbers)[:18], three.power(window, numbers)[:18])


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


def test_real_iw_slc_noise_goes_by_azimuth_time(shared_data: Path, tmp_path: Path) -> None:
    """Lines of these vectors begin two bursts before the image, so that line 0 is that of the third burst."""
    product = unpack(shared_data, SLC_ZIP, tmp_path)
    annotation = next((product / "annotation").glob("*-iw1-slc-vv-*.xml"))
    noise_file = next((product / "annotation" / "calibration").glob("noise-*-iw1-slc-vv-*.xml"))
    root, rows, cols = parse(annotation.read_bytes(), "a"), *shape_of(annotation)
    height = int(root.findtext("swathTiming/linesPerBurst") or 0)
    times = [np.datetime64(b.findtext("azimuthTime") or "", "us") for b in root.iter("burst")]
    noise = read_noise(parse(noise_file.read_bytes(), "n"), "n")
    assert (len(times), len(noise.vectors.lines), len(noise.blocks)) == (9, 10, 1)
    assert noise.vectors.lines[:3].tolist() == [-2994.0, -1497.0, 0.0]
    np.testing.assert_array_equal(noise.vectors.times[:9], times)  # type: ignore[index]
    bursts = [Burst(height * k, height * k + height - 1, time) for k, time in enumerate(times)]
    gain = Vectors(np.zeros(1), (np.zeros(1),), (np.ones(1),))
    calibration = Calibration.of((rows, cols), gain, noise, bursts=bursts)
    block = noise.blocks[0]
    for line in (0, 700, 1496, 1497, 13472):
        vector = np.interp(np.arange(cols), noise.vectors.pixels[line // height], noise.vectors.values[line // height])
        expected = vector * np.interp(line, block.lines, block.factors)
        np.testing.assert_allclose(calibration.eta(Window(line, 0, 1, cols))[0], expected, rtol=1e-7)
