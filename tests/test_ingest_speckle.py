"""Every speckle filter: what it computes, its edges and no-data, and that no cut and no thread changes a pixel."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from speckle_reference import filter_slowly, speckled

from infra.errors import UsageError
from infra.record import sha256
from ingest.speckle import filter_power, halo

KINDS = [
    ("boxcar", 3), ("boxcar", 9), ("lee", 3), ("lee", 5), ("lee", 7), ("lee", 11), ("kuan", 7), ("enhanced-lee", 7),
    ("gamma-map", 5), ("frost", 3), ("frost", 5), ("frost", 11), ("enhanced-frost", 7), ("refined-lee", 7),
    ("lee-sigma", 3), ("lee-sigma", 7),
]  # fmt: skip
EVERY_KIND = [
    "boxcar", "lee", "enhanced-lee", "refined-lee", "lee-sigma", "kuan", "frost", "enhanced-frost", "gamma-map"
]  # fmt: skip
BRIGHT = 0.9


def fast(power: NDArray[np.float32], kind: str, size: int, threads: int | None = None) -> NDArray[np.float32]:
    return filter_power(power, kind, size, 4.4, threads, damping=1.3, bright=[BRIGHT] * len(power))


def slow(power: NDArray[np.float32], kind: str, size: int) -> NDArray[np.float32]:
    return filter_slowly(power, kind, size, 4.4, damping=1.3, bright=BRIGHT)


@pytest.mark.parametrize(("kind", "size"), KINDS)
@pytest.mark.parametrize("holes", [True, False])
def test_kernel_equals_the_plain_reference(kind: str, size: int, holes: bool) -> None:
    power = speckled((2, 47, 53), holes=holes)
    found = fast(power, kind, size, threads=1)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(found), np.isnan(power))
    np.testing.assert_allclose(found, slow(power, kind, size), rtol=2e-6, atol=2e-9)


@pytest.mark.parametrize("sigma", [0.5, 0.7, 0.9])
def test_lee_sigma_takes_the_range_of_its_table(sigma: float) -> None:
    power = speckled((1, 40, 40), holes=False)
    found = filter_power(power, "lee-sigma", 7, 3.6, sigma=sigma)
    np.testing.assert_allclose(found, filter_slowly(power, "lee-sigma", 7, 3.6, sigma=sigma), rtol=2e-6, atol=2e-9)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 9), (1, 9, 1), (3, 2, 3), (1, 4, 80), (1, 80, 4)])
@pytest.mark.parametrize(("kind", "size"), KINDS)
def test_scenes_smaller_than_the_window(kind: str, size: int, shape: tuple[int, int, int]) -> None:
    power = np.random.default_rng(1).gamma(4.4, 1 / 4.4, shape).astype(np.float32)
    np.testing.assert_allclose(fast(power, kind, size), slow(power, kind, size), rtol=2e-6, atol=2e-9)


@pytest.fixture(scope="module")
def big() -> dict[tuple[str, int], tuple[NDArray[np.float32], NDArray[np.float32]]]:
    power = speckled((1, 237, 301), seed=5)
    return {key: (power, fast(power, *key, threads=1)) for key in [*KINDS, ("lee", 31), ("frost", 21)]}


@settings(deadline=None, max_examples=250)
@given(data=st.data())
def test_a_window_read_with_its_halo_is_a_crop_of_the_whole_bit_for_bit(big, data) -> None:
    kind, size = data.draw(st.sampled_from(sorted(big)))
    power, whole = big[kind, size]
    r0 = data.draw(st.integers(0, 236))
    c0 = data.draw(st.integers(0, 300))
    r1 = data.draw(st.integers(r0 + 1, 237))
    c1 = data.draw(st.integers(c0 + 1, 301))
    h = halo(kind, size)
    top, left = max(r0 - h, 0), max(c0 - h, 0)
    window = power[:, top : min(r1 + h, 237), left : min(c1 + h, 301)]
    part = fast(window, kind, size, threads=data.draw(st.sampled_from([1, 2])))
    crop = part[:, r0 - top : r1 - top, c0 - left : c1 - left]
    np.testing.assert_array_equal(crop.view(np.uint32), whole[:, r0:r1, c0:c1].view(np.uint32))


@pytest.mark.parametrize(("kind", "size"), KINDS)
def test_threads_never_change_a_pixel(kind: str, size: int) -> None:
    power = speckled((2, 230, 150), seed=2)
    one = fast(power, kind, size, threads=1)
    for threads in (2, 3, 7):
        np.testing.assert_array_equal(one, fast(power, kind, size, threads=threads))


def test_filters_from_many_threads_at_once() -> None:
    power = speckled((1, 200, 200))
    expected = filter_power(power, "lee", 7, 4.4, threads=1)
    with ThreadPoolExecutor(4) as pool:
        for out in pool.map(lambda _: filter_power(power, "lee", 7, 4.4, threads=2), range(16)):
            np.testing.assert_array_equal(out, expected)


def test_no_data_borders_do_not_leak() -> None:
    """A wall of no-data acts as if it were not there: neither darkens nor brightens its neighbours."""
    power = np.full((1, 40, 40), 0.25, dtype=np.float32)
    power[:, :, 20:] = np.nan
    for kind, size in KINDS:
        out = filter_power(power, kind, size, 4.4)
        np.testing.assert_array_equal(out[:, :, :20], np.float32(0.25))
        assert np.isnan(out[:, :, 20:]).all()


@pytest.mark.parametrize(("kind", "size"), KINDS)
def test_edges_repeat_the_outermost_pixels(kind: str, size: int) -> None:
    """The rule at edges, stated once more: a scene made larger by its own outermost pixels gives the same inside."""
    power = speckled((1, 40, 50), seed=8)
    larger = np.pad(power, ((0, 0), (6, 6), (6, 6)), mode="edge")
    np.testing.assert_array_equal(fast(power, kind, size), fast(larger, kind, size)[:, 6:-6, 6:-6])


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_bright_point_touches_only_the_windows_that_hold_it(kind: str) -> None:
    power = speckled((1, 60, 200), holes=False)
    brighter = power.copy()
    brighter[0, 30, 20] = 1e9
    changed = filter_power(power, kind, 7, 4.4) != filter_power(brighter, kind, 7, 4.4)
    rows, cols = np.nonzero(changed[0])
    assert (rows.min(), rows.max(), cols.min(), cols.max()) >= (27, 30, 17, 20)
    assert rows.max() <= 33
    assert cols.max() <= 23
    assert cols.min() >= 17


@pytest.mark.parametrize(
    ("kind", "size", "bias", "looks"),
    [("boxcar", 7, 0.003, 190), ("lee", 7, 0.02, 60), ("kuan", 7, 0.02, 60), ("enhanced-lee", 7, 0.02, 60),
     ("gamma-map", 7, 0.025, 40), ("frost", 7, 0.02, 40), ("enhanced-frost", 7, 0.02, 60), ("refined-lee", 7, 0.02, 20),
     ("lee-sigma", 7, 0.04, 30)],
)  # fmt: skip
def test_the_mean_of_calm_ground_is_kept_and_its_looks_are_raised(
    kind: str, size: int, bias: float, looks: float
) -> None:
    power = np.random.default_rng(3).gamma(4.4, 0.1 / 4.4, (1, 500, 500)).astype(np.float32)
    out = filter_power(power, kind, size, 4.4, damping=1.0, bright=[float(np.percentile(power, 98))])[0, 8:-8, 8:-8]
    assert out.mean(dtype=np.float64) == pytest.approx(0.1, rel=bias)
    assert out.mean() ** 2 / out.var() > looks


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_brighter_scene_is_filtered_alike(kind: str) -> None:
    """No filter knows what unit power has: twice the power gives exactly twice the result."""
    power = speckled((1, 60, 70)) + np.float32(0.05)
    bright = np.percentile(power[~np.isnan(power)], 98)
    once = filter_power(power, kind, 7, 4.4, bright=[bright])
    np.testing.assert_array_equal(2 * once, filter_power(2 * power, kind, 7, 4.4, bright=[2 * bright]))


def test_lee_sigma_keeps_ships_and_smooths_the_sea() -> None:
    rng = np.random.default_rng(7)
    power = (0.01 * rng.gamma(4, 0.25, (1, 200, 200))).astype(np.float32)
    power[0, 50:53, 60:64] = ship = 0.4 * rng.gamma(4, 0.25, (3, 4)).astype(np.float32) + np.float32(0.1)
    power[0, 120, 120] = 0.9  # alone: no target, but nothing is like it either
    out = filter_power(power, "lee-sigma", 7, 4.0, bright=[float(np.percentile(power, 98))])[0]
    np.testing.assert_array_equal(out[50:53, 60:64], ship)
    sea = out[54:115, 70:115]
    assert sea.mean() ** 2 / sea.var() > 40
    beside = out[46:50, 60:64]  # the ship does not leak
    assert beside.max() < 0.025


def test_refined_lee_keeps_a_step_that_lee_leaves_noisy() -> None:
    """Beside an edge plain Lee sees high variance and hardly filters; refined Lee filters along the edge."""
    rng = np.random.default_rng(4)
    ground = np.where(np.arange(200) < 100, 0.02, 0.2)[None, None, :]
    power = (ground * rng.gamma(4.4, 1 / 4.4, (1, 400, 200))).astype(np.float32)
    beside = np.s_[0, 8:-8, 101:103]
    noise = {kind: filter_power(power, kind, 7, 4.4)[beside].std() for kind in ("lee", "refined-lee")}
    assert noise["refined-lee"] < 0.7 * noise["lee"]
    refined = filter_power(power, "refined-lee", 7, 4.4)[0, 8:-8]
    assert refined[:, :97].mean() == pytest.approx(0.02, rel=0.03)
    assert refined[:, 103:].mean() == pytest.approx(0.2, rel=0.03)


def test_none_is_a_copy_without_halo() -> None:
    power = speckled((1, 9, 9))
    out = filter_power(power, "none", 7, 4.4)
    np.testing.assert_array_equal(out, power)
    assert out is not power
    assert halo("none", 7) == 0
    assert halo("lee", 7) == halo("refined-lee", 7) == 3
    assert halo("lee", 31) == 15
    assert halo("lee-sigma", 3) == 2
    assert halo("lee-sigma", 9) == 4


@pytest.mark.parametrize(
    ("kind", "size", "looks", "message"),
    [("lee", 4, 4.4, "odd size"), ("lee", 1, 4.4, "3 or more"), ("refined-lee", 9, 4.4, "7 x 7"),
     ("lee", 7, 0.0, "above 0"), ("lee", 7, float("nan"), "above 0")],
)  # fmt: skip
def test_wrong_settings_are_refused(kind: str, size: int, looks: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        filter_power(np.ones((1, 4, 4), np.float32), kind, size, looks)


def _filtered_sum() -> float:
    return float(filter_power(np.ones((1, 128, 128), np.float32), "lee", 7, 4.4, threads=2).sum())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_works_after_a_fork() -> None:
    assert _filtered_sum() == 128 * 128
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(_filtered_sum) == 128 * 128


def test_wrong_damping_and_sigma_are_refused() -> None:
    power = np.ones((1, 4, 4), np.float32)
    with pytest.raises(UsageError, match="damping of 0"):
        filter_power(power, "frost", 7, 4.4, damping=0)
    with pytest.raises(UsageError, match=r"Lee sigma of 0\.95: there are tables for 0\.5, 0\.6"):
        filter_power(power, "lee-sigma", 7, 4.4, sigma=0.95)


def test_pixels_are_frozen() -> None:
    """The kernels use only additions, products, quotients, roots and comparisons: every machine gives these bits."""
    draws = np.random.default_rng(11).integers(0, 1 << 20, (1, 130, 170))
    power = (draws.astype(np.float32) / np.float32(1 << 22)).astype(np.float32)
    power[0, 40:60, 50:] = np.nan
    out = {kind: filter_power(power, kind, 7, 4.4, bright=[0.2]) for kind in EVERY_KIND}
    assert {kind: sha256(np.nan_to_num(a, nan=-1.0).tobytes())[:16] for kind, a in out.items()} == {
        "boxcar": "5836df5282bcea07",
        "lee": "cda2d0265613493b",
        "enhanced-lee": "eb0b2626a6d2acf8",
        "refined-lee": "c7300ef189b59cc1",
        "lee-sigma": "9d67f308f8decae1",
        "kuan": "669387228205d28a",
        "frost": "95f4fba7dbc9ebed",
        "enhanced-frost": "e3466791653ad1c9",
        "gamma-map": "fd2b52c456ff2f5e",
    }
