import multiprocessing
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracles import orfeo
from speckle_reference import filter_slowly

from infra.errors import UsageError
from infra.record import sha256
from ingest.speckle import filter_power, halo

KINDS = [("lee", 3), ("lee", 5), ("lee", 7), ("lee", 11), ("refined-lee", 7)]


def speckled(shape: tuple[int, int, int], seed: int = 0, holes: bool = True) -> NDArray[np.float32]:
    """Fields with edges in every direction under 4.4-look speckle, a bright point, negatives and no-data."""
    rng = np.random.default_rng(seed)
    _, rows, cols = shape
    i, j = np.mgrid[:rows, :cols]
    ground = np.where(i // 9 % 2 == 0, 0.02, 0.3) * np.where((i + j) // 13 % 2 == 0, 1.0, 0.2)
    ground = ground * np.where((i - j) // 17 % 2 == 0, 1.0, 3.0) * np.where(j // 11 % 2 == 0, 1.0, 0.5)
    power = (ground * rng.gamma(4.4, 1 / 4.4, shape) - 0.004).astype(np.float32)
    power[:, rows // 2, cols // 2] = 5e3
    if holes:
        power[:, : rows // 4, : cols // 5] = np.nan
        power[rng.random(shape) < 0.002] = np.nan
        power[0, rows // 5, 0] = 0.1  # a valid pixel with hardly any company
    return power


@pytest.mark.parametrize(("kind", "size"), KINDS)
@pytest.mark.parametrize("holes", [True, False])
def test_kernel_equals_the_plain_reference(kind: str, size: int, holes: bool) -> None:
    power = speckled((2, 61, 83), holes=holes)
    fast = filter_power(power, kind, size, 4.4, threads=1)
    slow = filter_slowly(power, kind, size, 4.4)
    assert fast.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(fast), np.isnan(power))
    np.testing.assert_allclose(fast, slow, rtol=2e-6, atol=2e-9)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 9), (1, 9, 1), (3, 2, 3), (1, 4, 300), (1, 300, 4)])
@pytest.mark.parametrize(("kind", "size"), KINDS)
def test_scenes_smaller_than_the_window(kind: str, size: int, shape: tuple[int, int, int]) -> None:
    power = np.random.default_rng(1).gamma(4.4, 1 / 4.4, shape).astype(np.float32)
    np.testing.assert_allclose(
        filter_power(power, kind, size, 4.4), filter_slowly(power, kind, size, 4.4), rtol=2e-6, atol=2e-9
    )


@pytest.fixture(scope="module")
def big() -> dict[tuple[str, int], tuple[NDArray[np.float32], NDArray[np.float32]]]:
    power = speckled((1, 237, 301), seed=5)
    return {key: (power, filter_power(power, *key, 4.4, threads=1)) for key in [*KINDS, ("lee", 31)]}


@settings(deadline=None, max_examples=150)
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
    part = filter_power(window, kind, size, 4.4, threads=data.draw(st.sampled_from([1, 2])))
    crop = part[:, r0 - top : r1 - top, c0 - left : c1 - left]
    np.testing.assert_array_equal(crop.view(np.uint32), whole[:, r0:r1, c0:c1].view(np.uint32))


@pytest.mark.parametrize(("kind", "size"), KINDS)
def test_threads_never_change_a_pixel(kind: str, size: int) -> None:
    power = speckled((2, 230, 150), seed=2)
    one = filter_power(power, kind, size, 4.4, threads=1)
    for threads in (2, 3, 7):
        np.testing.assert_array_equal(one, filter_power(power, kind, size, 4.4, threads=threads))


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


def test_a_bright_point_touches_only_the_windows_that_hold_it() -> None:
    power = speckled((1, 60, 200), holes=False)
    brighter = power.copy()
    brighter[0, 30, 20] = 1e9
    changed = filter_power(power, "lee", 7, 4.4) != filter_power(brighter, "lee", 7, 4.4)
    rows, cols = np.nonzero(changed[0])
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (27, 33, 17, 23)


def test_lee_keeps_the_mean_and_raises_the_looks_of_calm_ground() -> None:
    power = np.random.default_rng(3).gamma(4.4, 0.1 / 4.4, (1, 400, 400)).astype(np.float32)
    looks = {}
    for kind in ("lee", "refined-lee"):
        out = filter_power(power, kind, 7, 4.4)[0, 8:-8, 8:-8]
        assert out.mean() == pytest.approx(0.1, rel=0.02)
        looks[kind] = out.mean() ** 2 / out.var()
    assert looks["lee"] > 60
    assert looks["refined-lee"] > 20


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


def test_pixels_are_frozen() -> None:
    """The kernels use only additions, products, quotients and comparisons: every machine gives these bits."""
    draws = np.random.default_rng(11).integers(0, 1 << 20, (1, 130, 170))
    power = (draws.astype(np.float32) / np.float32(1 << 22)).astype(np.float32)
    power[0, 40:60, 50:] = np.nan
    out = {kind: filter_power(power, kind, 7, 4.4) for kind in ("lee", "refined-lee")}
    assert {kind: sha256(np.nan_to_num(a, nan=-1.0).tobytes())[:16] for kind, a in out.items()} == {
        "lee": "cda2d0265613493b",
        "refined-lee": "c7300ef189b59cc1",
    }


@pytest.fixture(scope="module")
def despeckle() -> str:
    return orfeo("otbcli_Despeckle")


@pytest.mark.parametrize(("radius", "looks"), [(1, 1.0), (3, 4.4), (5, 2.7)])
def test_lee_agrees_with_orfeo_toolbox(despeckle: str, tmp_path: Path, radius: int, looks: float) -> None:
    power = speckled((1, 160, 210), seed=6, holes=False)[0]
    power[20:40, 30:60] = 0.0  # no mean
    power[60:80, 30:60] = 0.03  # no variance
    power[100:120] *= 1e-4  # below what the toolbox takes for a variance
    profile = {"driver": "GTiff", "width": 210, "height": 160, "count": 1, "dtype": "float32"}
    source, target = tmp_path / "power.tif", tmp_path / "lee.tif"
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(source, "w", **profile) as file:
        file.write(power, 1)
    subprocess.run(
        [despeckle, "-in", source, "-out", target, "float", "-filter", "lee",
         "-filter.lee.rad", str(radius), "-filter.lee.nblooks", str(looks)],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(target) as file:
        expected = file.read(1)
    ours = filter_power(power[None], "lee", 2 * radius + 1, looks)[0]
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-10)  # -100 dB, where it cancels
