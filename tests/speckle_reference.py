"""The speckle filters once more, slow and plain: NumPy over whole windows, one pixel at a time."""

import numpy as np
from numpy.typing import NDArray

# The published ranges of Lee sigma for four looks, by sigma.
SIGMA_4 = {0.5: (0.694, 1.385, 0.1921), 0.7: (0.560, 1.627, 0.2825), 0.9: (0.378, 2.094, 0.3991)}


def speckled(shape: tuple[int, int, int], seed: int = 0, holes: bool = True) -> NDArray[np.float32]:
    """Fields with edges in every direction under 4.4-look speckle, bright points, negatives and no-data."""
    rng = np.random.default_rng(seed)
    _, rows, cols = shape
    i, j = np.mgrid[:rows, :cols]
    ground = np.where(i // 9 % 2 == 0, 0.02, 0.3) * np.where((i + j) // 13 % 2 == 0, 1.0, 0.2)
    ground = ground * np.where((i - j) // 17 % 2 == 0, 1.0, 3.0) * np.where(j // 11 % 2 == 0, 1.0, 0.5)
    power = (ground * rng.gamma(4.4, 1 / 4.4, shape) - 0.004).astype(np.float32)
    power[:, rows // 2, cols // 2] = 5e3
    power[:, rows // 3 : rows // 3 + 3, -4:] = 7.0  # a ship at the edge
    if holes:
        power[:, : rows // 4, : cols // 5] = np.nan
        power[rng.random(shape) < 0.002] = np.nan
        power[0, rows // 5, 0] = 0.1  # a valid pixel with hardly any company
    return power


def windows(power: NDArray[np.float32], size: int) -> NDArray[np.float64]:
    """Give the size x size window around every pixel, edges repeated: (rows, cols, size, size)."""
    padded = np.pad(power.astype(np.float64), size // 2, mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, (size, size))


def mean_and_variance(window: NDArray[np.float64]) -> tuple[float, float]:
    seen = window[~np.isnan(window)]
    return float(seen.mean()), float(seen.var(ddof=1)) if seen.size > 1 else 0.0


def local_pixel(kind: str, window: NDArray[np.float64], looks: float, damping: float) -> float:
    """The filters of mean and variance, and the Frost filters, from the valid pixels of one window."""
    x = float(window[window.shape[0] // 2, window.shape[1] // 2])
    if np.isnan(x):
        return x
    mean, variance = mean_and_variance(window)
    if kind == "boxcar":
        return mean
    if abs(mean) < 1e-10:
        return 0.0
    if variance < 1e-10:
        return mean
    ci2, cu2 = variance / mean**2, 1 / looks
    ci, cu, most = np.sqrt(ci2), np.sqrt(cu2), np.sqrt(1 + 2 / looks)
    if kind == "frost":
        return frost_mean(window, damping * ci2)
    if ci2 <= cu2:
        return mean
    if kind in ("lee", "kuan"):
        weight = (1 - cu2 / ci2) / (1 + cu2 if kind == "kuan" else 1)
        return mean + weight * (x - mean)
    if kind == "gamma-map":
        if ci2 >= 2 * cu2:
            return x
        alpha = (1 + cu2) / (ci2 - cu2)
        b = alpha - looks - 1
        return (b * mean + np.sqrt(max(mean**2 * b**2 + 4 * alpha * looks * mean * x, 0))) / (2 * alpha)
    if ci >= most:
        return x
    decay = damping * (ci - cu) / (most - ci)
    if kind == "enhanced-lee":
        return float(mean * np.exp(-decay) + x * (1 - np.exp(-decay)))
    assert kind == "enhanced-frost"
    return frost_mean(window, decay)


def frost_mean(window: NDArray[np.float64], decay: float) -> float:
    middle = window.shape[0] // 2
    i, j = np.mgrid[-middle : middle + 1, -middle : middle + 1]
    weights = np.where(np.isnan(window), 0.0, np.exp(-decay * np.hypot(i, j)))
    return float((weights * np.nan_to_num(window)).sum() / weights.sum())


def half_window(window: NDArray[np.float64], sub_means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the 28 pixels of a 7 x 7 window on the centre's side of the strongest edge."""
    m = sub_means
    pairs = [(m[1, 0], m[1, 2]), (m[0, 2], m[2, 0]), (m[0, 1], m[2, 1]), (m[0, 0], m[2, 2])]
    strongest = int(np.argmax([abs(a - b) for a, b in pairs]))
    a, b = pairs[strongest]
    near_first = abs(a - m[1, 1]) < abs(b - m[1, 1])
    masks = {
        (0, True): np.tri(1, 7, 3)[[0] * 7],  # left four columns
        (0, False): np.tri(1, 7, 3)[[0] * 7, ::-1],
        (1, True): np.tri(7).T,  # upper right triangle
        (1, False): np.tri(7),
        (2, True): np.tri(1, 7, 3)[[0] * 7].T,  # upper four rows
        (2, False): np.tri(1, 7, 3)[[0] * 7, ::-1].T,
        (3, True): np.tri(7)[::-1],  # upper left triangle
        (3, False): np.tri(7)[:, ::-1],
    }
    pixels = window[masks[strongest, near_first].astype(bool)]
    assert pixels.size == 28
    return pixels


def mmse(x: float, pixels: NDArray[np.float64], noise: float) -> float:
    """The estimate of both refined Lee and Lee sigma: noise is the squared coefficient of variation of speckle."""
    mean, variance = mean_and_variance(pixels)
    if variance == 0:
        return mean
    signal = max((variance - mean**2 * noise) / (1 + noise), 0.0)
    return mean + signal / variance * (x - mean)


def refined_lee_pixel(window: NDArray[np.float64], looks: float) -> float:
    """Refined Lee's estimate of one pixel; with no-data in the window, Lee's."""
    if np.isnan(window).any():
        return local_pixel("lee", window, looks, 1.0)
    subs = np.array([[window[i : i + 3, j : j + 3].ravel() for j in (0, 2, 4)] for i in (0, 2, 4)])
    means = subs.mean(axis=-1)
    ratios = subs.var(axis=-1, ddof=1) / means**2
    noise = np.sort(ratios.ravel())[:5].mean()
    return mmse(float(window[3, 3]), half_window(window, means), float(noise))


def lee_sigma_plane(
    power: NDArray[np.float32], size: int, looks: float, ends: tuple[float, float, float], bright: float
) -> NDArray[np.float32]:
    """Improved Lee sigma of one band: targets first, then every other pixel from those that are like it."""
    rows, cols = power.shape
    around3, around = windows(power, 3), windows(power, size)
    # On the repeated edge too, a target may stand about a pixel outside.
    above = np.pad(power, 2, mode="edge") > bright
    targets = np.zeros_like(above)
    for i, j in np.ndindex(rows + 2, cols + 2):
        if above[i + 1, j + 1] and above[i : i + 3, j : j + 3].sum() > 5:
            targets[i : i + 3, j : j + 3] |= above[i : i + 3, j : j + 3]
    out = power.copy()
    for i, j in np.ndindex(rows, cols):
        x = float(power[i, j])
        if np.isnan(x) or targets[i + 2, j + 2]:
            continue
        apriori = mmse(x, around3[i, j], 1 / looks)
        with np.errstate(invalid="ignore"):
            like = around[i, j][(ends[0] * apriori <= around[i, j]) & (around[i, j] <= ends[1] * apriori)]
        if like.size:
            out[i, j] = mmse(x, like, ends[2] ** 2)
    return out


def filter_slowly(
    power: NDArray[np.float32],
    kind: str,
    size: int,
    looks: float,
    *,
    damping: float = 1.0,
    sigma: float = 0.9,
    bright: float = np.inf,
) -> NDArray[np.float32]:
    """Filter (bands, rows, cols) as ingest.speckle does, pixel by pixel."""
    out = np.empty_like(power)
    for band, plane in enumerate(power):
        if kind == "lee-sigma":
            out[band] = lee_sigma_plane(plane, size, looks, SIGMA_4[sigma], bright)
            continue
        around = windows(plane, size)
        for at in np.ndindex(plane.shape):
            if kind == "refined-lee":
                out[band][at] = refined_lee_pixel(around[at], looks)
            else:
                out[band][at] = local_pixel(kind, around[at], looks, damping)
    return out


def multitemporal_slowly(images: list[NDArray[np.float32]], size: int) -> list[NDArray[np.float32]]:
    """Quegan & Yu: J_k = E[I_k] / M sum_i I_i / E[I_i] over the images valid at the pixel."""
    means = [filter_slowly(image, "boxcar", size, 1.0) for image in images]
    out = [np.full_like(image, np.nan) for image in images]
    for at in np.ndindex(images[0].shape):
        ratios = [float(i[at]) / float(m[at]) for i, m in zip(images, means, strict=True) if abs(m[at]) >= 1e-10]
        for result, mean in zip(out, means, strict=True):
            if not np.isnan(mean[at]):
                result[at] = mean[at] * np.mean(ratios) if abs(mean[at]) >= 1e-10 else 0.0
    return out
