"""The number of looks and the brightest pixels of a scene, each from a sample that only its size decides."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenes import ArrayScene

from ingest.despeckle_file import RasterScene
from ingest.scene import SceneRejected
from ingest.speckle_statistics import bright_levels, estimate_looks, sample_windows


@given(rows=st.integers(1, 40_000), cols=st.integers(1, 40_000))
def test_blocks_lie_apart_within_the_scene(rows: int, cols: int) -> None:
    windows = sample_windows((rows, cols))
    assert len(set(windows)) == len(windows) <= 64
    for row, col, height, width in windows:
        assert row % 256 == col % 256 == 0
        assert 0 < height <= 256
        assert 0 < width <= 256
        assert row + height <= rows
        assert col + width <= cols
    blocks = -(-rows // 256) * -(-cols // 256)
    assert len(windows) == blocks or len(windows) >= 32
    if rows <= 2048 and cols <= 2048:
        assert sum(w.rows * w.cols for w in windows) == rows * cols


@pytest.mark.parametrize("looks", [1.0, 2.0, 4.4, 10.0, 20.0])
@pytest.mark.parametrize("side", [256, 900])
def test_looks_of_gamma_speckle_are_found(looks: float, side: int) -> None:
    rng = np.random.default_rng(round(looks * 10) + side)
    power = rng.gamma(looks, 0.07 / looks, (2, side, side)).astype(np.float32)
    assert estimate_looks(ArrayScene(power)) == pytest.approx(looks, rel=0.08 if looks == 1 else 0.05)


@pytest.mark.parametrize("looks", [1.0, 4.4])
def test_looks_are_found_among_fields_slopes_and_no_data(looks: float) -> None:
    rng = np.random.default_rng(2)
    fields = np.kron(rng.gamma(2, 0.04, (32, 32)), np.ones((32, 32))) * np.linspace(0.5, 2, 1024)
    fields[:, 700:] *= rng.gamma(3, 1 / 3, (1024, 324))  # a third is textured
    power = (fields * rng.gamma(looks, 1 / looks, fields.shape)).astype(np.float32)[None]
    power[:, :150] = np.nan
    power[:, 500, 500] = np.inf
    assert estimate_looks(ArrayScene(power)) == pytest.approx(looks, rel=0.1)


def test_looks_of_real_pixels_are_those_of_the_product(shared_data: Path) -> None:
    """Nominally 4.4 (IW GRDH); tiles are 8-bit amplitude on a map grid, whose resampling raises it a little."""
    found = []
    for path in sorted((shared_data / "sentinel1_iw_vh_tiles").glob("*_VH_*.tif"))[:12]:
        with RasterScene(path, "amplitude", None) as scene:
            found.append(estimate_looks(scene))
    assert np.median(found) == pytest.approx(4.4, rel=0.2)
    assert min(found) > 3


def test_too_little_to_tell_is_said() -> None:
    power = np.full((1, 300, 300), np.nan, np.float32)
    power[0, :20, :20] = 1.0
    with pytest.raises(SceneRejected, match=r"ARRAY: 0 windows of 9 x 9 valid pixels.*give it \(speckle\.looks\)"):
        estimate_looks(ArrayScene(power))


def test_bright_is_the_percentile_of_each_band() -> None:
    rng = np.random.default_rng(5)
    power = rng.gamma(1, [[[1.0]], [[3.0]], [[1.0]]], (3, 700, 300)).astype(np.float32)
    power[0, 100:200] = np.nan
    power[0, 0, 0] = np.inf
    power[2] = np.nan
    first = power[0][np.isfinite(power[0])]
    assert bright_levels(ArrayScene(power)) == [np.percentile(first, 98), np.percentile(power[1], 98), np.inf]


def test_a_large_scene_is_sampled() -> None:
    rng = np.random.default_rng(5)
    scene = ArrayScene(rng.gamma(4.4, 1 / 4.4, (1, 256 * 12, 256 * 14)).astype(np.float32))
    assert bright_levels(scene)[0] == pytest.approx(np.percentile(scene.pixels, 98), rel=0.01)
    assert scene.reads <= 64
