"""The pictures of a run: curves of what was logged, and what the encoder's stages answer to."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.report import png_of

PANELS: Mapping[str, tuple[str, ...]] = {
    "losses": ("loss",),
    "accuracies": ("top1_", "match_", "accuracy"),
    "probe": ("probe_",),
    "spread of embeddings": ("spread",),
    "deviation of features by stage": ("feature_std_",),
    "effective rank of features by stage": ("feature_rank_",),
    "likeness of queued keys (mean cosine)": ("queue_",),
    "gradient norm": ("grad_norm",),
    "learning rate": ("lr",),
    "images per second": ("images_per_s",),
    "share of time waiting for data": ("data_wait_share",),
    "seconds per step": ("step_s",),
    "computing: TFLOP/s": ("tflops",),
    "share of the device's peak": ("mfu",),
}
"""What is drawn together: a title, and how the names begin."""
NOT_DRAWN = ("step", "watch_s")
MOST_POINTS = 1500
LOG_PANELS = ("gradient norm",)


def panels(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, tuple[NDArray[Any], NDArray[Any]]]]:
    """Sort the numbers of a log into panels: title -> name -> (steps, values), the finite ones; empty ones left out.

    Names that no panel knows each come under the title "other numbers".
    """
    found: dict[str, dict[str, tuple[NDArray[Any], NDArray[Any]]]] = {title: {} for title in (*PANELS, "other numbers")}
    for name in sorted({n for line in lines for n in line} - set(NOT_DRAWN)):
        pairs = [(int(line["step"]), float(line[name])) for line in lines if _number(line.get(name))]
        if pairs:
            steps, values = np.array(pairs, np.float64).T
            title = next((t for t, begins in PANELS.items() if name.startswith(begins)), "other numbers")
            found[title][name] = steps, values
    return {title: curves for title, curves in found.items() if curves}


def curves(lines: Sequence[Mapping[str, Any]]) -> bytes | None:
    """Draw every panel of a log; None where it has no number. Long logs are thinned to means of equal stretches."""
    from matplotlib.figure import Figure

    shown = panels(lines)
    if not shown:
        return None
    rows = -(-len(shown) // 3)
    plot = Figure(figsize=(12.0, 2.7 * rows), layout="constrained")
    axes = np.atleast_1d(plot.subplots(rows, 3, squeeze=False).ravel())
    for ax, (title, named) in zip(axes, shown.items(), strict=False):
        for name, (steps, values) in named.items():
            steps, values = thinned(steps, values)
            ax.plot(steps, values, lw=1.2, label=name, marker="o" if len(steps) < 40 else None, ms=2.5)
        ax.set_title(title, fontsize=9)
        if title in LOG_PANELS and min(v.min() for _, v in named.values()) > 0:
            ax.set_yscale("log")
        ax.grid(alpha=0.3)
        ax.tick_params(labelsize=7)
        if len(named) > 1 or next(iter(named)) != title:
            ax.legend(fontsize=6.5, framealpha=0.6)
    for ax in axes[len(shown) :]:
        ax.axis("off")
    for ax in axes[max(0, len(shown) - 3) : len(shown)]:
        ax.set_xlabel("step", fontsize=8)
    return png_of(plot)


def thinned(steps: NDArray[Any], values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Average stretches of a long curve, so that at most 1,500 points are left."""
    group = -(-len(steps) // MOST_POINTS)
    if group == 1:
        return steps, values
    starts = np.arange(0, len(steps), group)
    counts = np.diff([*starts, len(steps)])
    return np.add.reduceat(steps, starts) / counts, np.add.reduceat(values, starts) / counts


def answers(grey: NDArray[Any], missing: NDArray[np.bool_], maps: Sequence[NDArray[Any]]) -> bytes:
    """Draw a tile and how strongly each stage answers to it: the length of the feature vector of each cell."""
    from matplotlib.figure import Figure

    plot = Figure(figsize=(12.0, 2.7), layout="constrained")
    axes = plot.subplots(1, len(maps) + 1)
    shown = grey[~missing]
    low, high = np.quantile(shown, (0.01, 0.99)) if shown.size else (0.0, 1.0)
    extent = (0, grey.shape[1], grey.shape[0], 0)
    axes[0].imshow(np.ma.array(grey, mask=missing), cmap="gray", vmin=low, vmax=max(high, low + 1e-6), extent=extent)
    axes[0].set_title("tile", fontsize=8)
    for number, (ax, length) in enumerate(zip(axes[1:], maps, strict=True), start=1):
        ax.imshow(length, cmap="magma", extent=extent, interpolation="nearest")
        ax.set_title(f"stage {number}: {length.min():.2g} to {length.max():.2g}", fontsize=8)
    for ax in axes:
        ax.set_xticks([])
        ax.set_yticks([])
    return png_of(plot)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))
