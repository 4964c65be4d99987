"""The multitemporal filter: its formula, footprints that differ, and that no cut changes a pixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from speckle_reference import multitemporal_slowly, speckled

from infra.errors import UsageError
from ingest.speckle_multitemporal import filter_stack


def stack(count: int, rows: int, cols: int, bands: int = 1) -> list[NDArray[np.float32]]:
    """Images of one place with speckle, negatives and holes of their own, and one footprint that ends."""
    images = [speckled((bands, rows, cols), seed=n) for n in range(count)]
    images[1][:, :, : cols // 3] = np.nan
    images[-1][:, rows // 2 : rows // 2 + 9] = 0.0  # no signal
    return images


@pytest.mark.parametrize("size", [3, 7])
def test_kernel_equals_the_plain_reference(size: int) -> None:
    images = stack(4, 33, 47, bands=2)
    found, expected = filter_stack(images, size), multitemporal_slowly(images, size)
    for image, ours, theirs in zip(images, found, expected, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(image))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_window_read_with_its_halo_is_a_crop_of_the_whole_bit_for_bit(data) -> None:
    images = stack(3, 90, 110)
    size = data.draw(st.sampled_from([3, 7, 15]))
    half = size // 2
    r0, c0 = data.draw(st.integers(0, 89)), data.draw(st.integers(0, 109))
    r1, c1 = data.draw(st.integers(r0 + 1, 90)), data.draw(st.integers(c0 + 1, 110))
    top, left = max(r0 - half, 0), max(c0 - half, 0)
    parts = filter_stack([image[:, top : r1 + half, left : c1 + half] for image in images], size)
    for part, whole in zip(parts, filter_stack(images, size), strict=True):
        crop = part[:, r0 - top : r1 - top, c0 - left : c1 - left]
        np.testing.assert_array_equal(crop.view(np.uint32), whole[:, r0:r1, c0:c1].view(np.uint32))


def test_each_image_keeps_its_mean_and_all_gain_looks() -> None:
    """With M images and an N-pixel mean, speckle of L looks becomes about one of M L looks."""
    rng = np.random.default_rng(1)
    images = [(level * rng.gamma(4, 0.25, (1, 300, 300))).astype(np.float32) for level in (0.02, 0.1, 0.4, 1.0, 3.0)]
    for level, out in zip((0.02, 0.1, 0.4, 1.0, 3.0), filter_stack(images, 15), strict=True):
        assert out.mean(dtype=np.float64) == pytest.approx(level, rel=0.01)
        assert out.mean() ** 2 / out.var() == pytest.approx(20, rel=0.1)


def test_only_images_that_are_valid_count() -> None:
    """Where one image ends there is no seam in the others: it just counts no more."""
    rng = np.random.default_rng(2)
    images = [rng.gamma(4, 0.25, (1, 200, 200)).astype(np.float32) for _ in range(3)]
    images[2][:, :, 100:] = np.nan
    both = filter_stack(images, 9)
    pair = filter_stack(images[:2], 9)
    np.testing.assert_array_equal(both[0][:, :, 100:], pair[0][:, :, 100:])
    assert both[0][0, :, 90:100].mean() == pytest.approx(1, rel=0.03)
    assert np.isnan(both[2][:, :, 100:]).all()


def test_wrong_stacks_are_refused() -> None:
    image = np.ones((1, 9, 9), np.float32)
    with pytest.raises(UsageError, match="multitemporal filter of 1 images"):
        filter_stack([image], 7)
    with pytest.raises(UsageError, match="must be co-registered"):
        filter_stack([image, image[:, :8]], 7)
    with pytest.raises(UsageError, match="odd size"):
        filter_stack([image, image], 4)
