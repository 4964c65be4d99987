"""The speckle filters once more, slow and plain: NumPy over whole windows, one pixel at a time."""

import numpy as np
from numpy.typing import NDArray


def windows(power: NDArray[np.float32], size: int) -> NDArray[np.float64]:
    """Give the size x size window around every pixel, edges repeated: (rows, cols, size, size)."""
    padded = np.pad(power.astype(np.float64), size // 2, mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, (size, size))


def lee_pixel(window: NDArray[np.float64], looks: float) -> float:
    """Lee's estimate from the valid pixels of one window."""
    x = window[window.shape[0] // 2, window.shape[1] // 2]
    seen = window[~np.isnan(window)]
    if np.isnan(x):
        return float("nan")
    mean = seen.mean()
    variance = seen.var(ddof=1) if seen.size > 1 else 0.0
    if abs(mean) < 1e-10:
        return 0.0
    if variance < 1e-10 or variance / mean**2 <= 1 / looks:
        return float(mean)
    weight = 1 - (1 / looks) / (variance / mean**2)
    return float(mean + weight * (x - mean))


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


def refined_lee_pixel(window: NDArray[np.float64], looks: float) -> float:
    """Refined Lee's estimate of one pixel; with no-data in the window, Lee's."""
    if np.isnan(window).any():
        return lee_pixel(window, looks)
    subs = np.array([[window[i : i + 3, j : j + 3].ravel() for j in (0, 2, 4)] for i in (0, 2, 4)])
    means = subs.mean(axis=-1)
    ratios = subs.var(axis=-1, ddof=1) / means**2
    noise = np.sort(ratios.ravel())[:5].mean()
    pixels = half_window(window, means)
    mean, variance = pixels.mean(), pixels.var(ddof=1)
    signal = max((variance - mean**2 * noise) / (1 + noise), 0.0)
    if variance == 0:
        return float(mean)
    return float(mean + signal / variance * (window[3, 3] - mean))


def filter_slowly(power: NDArray[np.float32], kind: str, size: int, looks: float) -> NDArray[np.float32]:
    """Filter (bands, rows, cols) as ingest.speckle does, pixel by pixel."""
    pixel = {"lee": lee_pixel, "refined-lee": refined_lee_pixel}[kind]
    out = np.empty_like(power)
    for band, plane in enumerate(power):
        around = windows(plane, size)
        for at in np.ndindex(plane.shape):
            out[band][at] = pixel(around[at], looks)
    return out
