"""The drawings of an evaluation: curves over label fractions, features on a plane, confusion matrices, error maps."""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.bench_pictures import ERROR_COLOURS, Maps, errors, painted, png
from finetune.bench_tables import scale
from finetune.legend import IGNORED, Legend
from finetune.statistics import Line
from infra.report import figure, png_of

REFERENCE_COLOUR = "#777777"
LEAST_PX = 220
"""Rows that a map has at least on the page."""


def colours(encoders: Sequence[str], reference: str) -> dict[str, str]:
    """Give every encoder its colour; the reference is grey."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    ring = [to_hex(colormaps["tab10"](n)) for n in range(10) if n != 7]
    others = [name for name in encoders if name != reference]
    return {name: REFERENCE_COLOUR if name == reference else ring[others.index(name) % len(ring)] for name in encoders}


def curves(lines: Sequence[Line], colour: Mapping[str, str]) -> bytes:
    """Draw a score over the share of labels, a panel for each use and a line for each encoder, with its interval."""
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(line.task for line in lines))
    wide = min(len(tasks), 4)
    tall = -(-len(tasks) // wide)
    plot = Figure(figsize=(3.2 * wide + 0.6, 2.7 * tall + 0.5), layout="constrained")
    axes = plot.subplots(tall, wide, squeeze=False, sharey=True).ravel()
    for ax, task in zip(axes, tasks, strict=False):
        for encoder, shade in colour.items():
            _curve(ax, [n for n in lines if n.task == task and n.encoder == encoder], encoder, shade)
        ticks = sorted({100 * line.fraction for line in lines if line.task == task})
        ax.set_xscale("log")
        ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
        ax.minorticks_off()
        ax.set_title(task, fontsize=9)
        ax.grid(alpha=0.3)
        ax.tick_params(labelsize=7)
    for ax in axes[len(tasks) :]:
        ax.axis("off")
    plot.supxlabel("per cent of the training labels", fontsize=8)
    metric = lines[0].metric
    plot.supylabel(metric if scale(metric) == 1 else f"{metric}, %", fontsize=8)
    marks = _marks(axes)
    plot.legend(
        marks.values(), marks.keys(), loc="outside upper center", ncols=min(6, max(1, len(marks))), fontsize=8,
        frameon=False,
    )  # fmt: skip
    return png_of(plot)


def _curve(ax: Any, lines: Sequence[Line], name: str, colour: str) -> None:
    if not lines:
        return
    points = sorted(lines, key=lambda line: line.fraction)
    x = [100 * line.fraction for line in points]
    k = scale(points[0].metric)
    ax.plot(x, [k * line.summary.mean for line in points], color=colour, marker="o", ms=3, lw=1.4, label=name)
    known = [(at, line.summary.interval) for at, line in zip(x, points, strict=True) if line.summary.interval]
    low, high = [k * one.low for _, one in known], [k * one.high for _, one in known]
    if len(known) > 1:
        ax.fill_between([at for at, _ in known], low, high, color=colour, alpha=0.18, lw=0)
    elif known:
        ax.vlines([known[0][0]], low, high, color=colour, alpha=0.6, lw=1.5)


def _marks(axes: Iterable[Any]) -> dict[str, Any]:
    """Give what stands in the legend of any panel: names with their marks."""
    return dict(pair for ax in axes for pair in zip(*reversed(ax.get_legend_handles_labels()), strict=True))


def planes(found: Sequence[tuple[str, Mapping[str, Any]]], legend: Legend) -> bytes:
    """Draw the planes of several encoders side by side, points coloured by class."""
    from matplotlib.figure import Figure

    wide = min(len(found), 4)
    tall = -(-len(found) // wide)
    plot = Figure(figsize=(3.1 * wide, 3.1 * tall + 0.4), layout="constrained")
    axes = plot.subplots(tall, wide, squeeze=False).ravel()
    for ax, (name, plane) in zip(axes, found, strict=False):
        points, classes = np.array(plane["points"], np.float64), np.array(plane["classes"])
        for number, one in enumerate(legend.classes):
            inside = classes == number
            if inside.any():
                shade = "#" + "".join(f"{level:02x}" for level in one.colour)
                ax.scatter(*points[inside].T, s=5, c=shade, alpha=0.6, lw=0, label=one.name)
        shares = plane["shares"]
        ax.set_title(f"{name} ({100 * shares['first']:.0f} + {100 * shares['second']:.0f} %)", fontsize=9)
        ax.set_xticks([])
        ax.set_yticks([])
    for ax in axes[len(found) :]:
        ax.axis("off")
    marks = _marks(axes)
    plot.legend(
        marks.values(), marks.keys(), loc="outside lower center", ncols=min(8, max(1, len(marks))), fontsize=8,
        frameon=False, markerscale=2,
    )  # fmt: skip
    return png_of(plot)


def confusion_table(matrix: NDArray[np.int64], legend: Legend, caption: str) -> str:
    """Give a confusion matrix as HTML: counts, each cell shaded by its share of the row (the truth)."""
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in legend.names)
    cells = ["".join(map(_shaded, row, share)) for row, share in zip(matrix.tolist(), shares.tolist(), strict=True)]
    rows = "".join(f"<tr><th>{html.escape(name)}</th>{row}</tr>" for name, row in zip(legend.names, cells, strict=True))
    table = (
        f"<table style='width:auto'><thead><tr><th>truth \\ found</th>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )
    return f"<figure>{table}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _shaded(count: int, share: float) -> str:
    return (
        f"<td class='number' style='width:auto;background:rgba(60,120,220,{0.75 * share:.3f})'>{count:,}<br>"
        f"<small>{100 * share:.1f} %</small></td>"
    )


def error_maps(found: Sequence[tuple[str, Maps]], legend: Legend, scene: str) -> str:
    """Give the radar picture and the truth of a scene, then prediction and errors of each encoder, as HTML."""
    shades = [one.colour for one in legend.classes]
    first = found[0][1]
    pictures = [
        figure(png(first.grey, LEAST_PX), f"{scene}: backscatter, first band"),
        figure(png(painted(first.truth, shades), LEAST_PX), "truth"),
    ]
    for name, maps in found:
        known = (maps.truth != IGNORED) & (maps.predicted != IGNORED)
        wrong = float(((maps.truth != maps.predicted) & known).sum() / max(int(known.sum()), 1))
        both = np.concatenate([painted(maps.predicted, shades), errors(maps, legend.background_output)], 1)
        pictures.append(
            figure(png(both, LEAST_PX), f"{name}: prediction, and errors ({100 * wrong:.1f} % of the labelled pixels)")
        )
    return "".join(pictures)


def key_of(legend: Legend) -> str:
    """Give the classes and kinds of error with their colours, as HTML."""
    kinds = [name for name in ERROR_COLOURS if (name == "wrong") == (legend.background is None)]
    if len(legend.ids) == 2 and legend.background is not None:
        kinds.remove("another class")
    named = [(one.name, one.colour) for one in legend.classes]
    named += [(f"error: {name}", ERROR_COLOURS[name]) for name in kinds]
    patches = (
        f"<span style='display:inline-block;width:.9em;height:.9em;background:rgb{tuple(colour)}'></span>"
        f" {html.escape(name)}"
        for name, colour in named
    )
    return f"<p>{' &nbsp; '.join(patches)}</p>"
