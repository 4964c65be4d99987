"""Multitemporal filter over co-registered images (Quegan & Yu 2001, TGRS 39(11), for images without correlation).

J_k = E[I_k] / M sum_i I_i / E[I_i], E the mean over a window. The detail of an image is kept in its own mean, and the
speckle that differs from image to image is averaged. At each pixel only those M images count that are valid there, so
that footprints may differ; an image whose mean there is no signal does not count and becomes 0.
"""

from collections.abc import Sequence

import numpy as np

from infra.errors import UsageError
from ingest.speckle import filter_power
from ingest.speckle_window import LEAST_MEAN, Power, Sums, kernel


def filter_stack(images: Sequence[Power], size: int, threads: int | None = None) -> list[Power]:
    """Smooth the speckle of linear power of images that lie upon one another, each (bands, rows, cols), NaN no-data.

    Edges and windows are as in :func:`ingest.speckle.filter_power`, with a halo of ``size`` // 2 pixels. An image's
    no-data stays so. Raises UsageError for fewer than two images, for different shapes and for a wrong size.
    """
    shapes = sorted({image.shape for image in images})
    if len(images) < 2:
        raise UsageError(f"multitemporal filter of {len(images)} images: expected two or more of one place")
    if len(shapes) > 1:
        raise UsageError(f"multitemporal filter of images of different shapes {shapes}: they must be co-registered")
    means = [filter_power(image, "boxcar", size, 1.0, threads) for image in images]
    ratio, count = np.zeros(shapes[0]), np.zeros(shapes[0])
    for image, mean in zip(images, means, strict=True):
        _add_ratio(np.ravel(image), mean.ravel(), ratio.ravel(), count.ravel())
    for mean in means:
        _scale(mean.ravel(), ratio.ravel(), count.ravel())
    return means


@kernel
def _add_ratio(image: Power, mean: Power, ratio: Sums, count: Sums) -> None:
    for j in range(image.size):
        m = float(mean[j])
        seen = abs(m) >= LEAST_MEAN
        ratio[j] += float(image[j]) / m if seen else 0.0
        count[j] += 1.0 if seen else 0.0


@kernel
def _scale(mean: Power, ratio: Sums, count: Sums) -> None:
    for j in range(mean.size):
        m = float(mean[j])
        found = m * ratio[j] / max(count[j], 1.0) if abs(m) >= LEAST_MEAN else 0.0
        mean[j] = m if np.isnan(m) else found
