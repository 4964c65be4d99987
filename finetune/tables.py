"""Scores and map reports as lines of text for a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.legend import Legend

_PERCENT = (
    ("OA", "oa"),
    ("kappa", "kappa"),
    ("mIoU", "miou"),
    ("mIoU without background", "miou_no_background"),
    ("mIoU of present classes", "miou_present"),
    ("mean F1", "mf1"),
    ("mean F1 without background", "mf1_no_background"),
    ("mean boundary F1", "boundary_f1"),
)
_PER_CLASS = (
    ("precision", "precision"),
    ("recall", "recall"),
    ("F1", "f1"),
    ("IoU", "iou"),
    ("boundary F1", "boundary_f1"),
)
_IN_UNITS = ("rmse", "mae", "bias", "r2", "pearson", "values")


def score_lines(summary: Mapping[str, Mapping[str, Any]], legend: Legend) -> list[str]:
    """Give a table of whatever scores there are: per class in per cent, then over all; ± is over seeds.

    ``summary`` has mean and std by the names of ``Scores.flat`` and its like.
    """
    return [*_class_lines(summary, legend), *_overall(summary)]


def _class_lines(summary: Mapping[str, Mapping[str, Any]], legend: Legend) -> Iterator[str]:
    kinds = [(shown, kind) for shown, kind in _PER_CLASS if f"{kind}/{legend.names[0]}" in summary]
    if not kinds:
        return
    width = max(16, *(len(name) + 13 for name in legend.names))
    yield f"{'class':<{width}}" + "".join(f"{shown:>16}" for shown, _ in kinds)
    for i, name in enumerate(legend.names):
        shown = f"{name} (background)" if i == legend.background_output else name
        yield f"{shown:<{width}}" + "".join(f"{cell(summary[f'{kind}/{name}']):>16}" for _, kind in kinds)
    yield ""


def _overall(summary: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for shown, key in _PERCENT:
        if key in summary:
            yield f"{shown:<28}{cell(summary[key]):>16}"
    for name in summary:
        kind, _, inner = name.partition("/")
        if kind in ("completeness", "correctness", "quality"):
            yield f"{f'{kind} of {inner}':<28}{cell(summary[name]):>16}"
        elif not inner and kind.rpartition("_")[2] in ("macro", "micro"):
            yield f"{kind.replace('_', ' '):<28}{cell(summary[name]):>16}"
        elif name in _IN_UNITS:
            yield f"{name:<28}{_plain(summary[name]):>16}"


def cell(spread: Mapping[str, Any]) -> str:
    """Give a score in per cent, with the standard deviation over seeds if there is one."""
    if spread["mean"] is None:
        return "-"
    deviation = "" if spread["std"] is None else f" ± {100 * spread['std']:.2f}"
    return f"{100 * spread['mean']:.2f}{deviation}"


def _plain(spread: Mapping[str, Any]) -> str:
    if spread["mean"] is None:
        return "-"
    return f"{spread['mean']:.5g}" + ("" if spread["std"] is None else f" ± {spread['std']:.2g}")


def map_lines(legend: Legend | None, report: Any) -> Iterator[str]:
    """Give a line for each class of a map: pixels, share, area in km2, mean confidence in per cent.

    Without a legend the map holds numbers: their statistics.
    """
    if legend is None:
        named = (("mean", report.mean), ("standard deviation", report.deviation))
        for name, value in (*named, ("least", report.least), ("greatest", report.most)):
            yield f"{name:<20} {'-' if value is None else f'{value:.5g}':>12} {report.unit}".rstrip()
        yield f"{'values':<20} {report.pixels:>12} px"
        yield f"{'no data':<20} {report.no_data:>12} px"
        return
    whole = max(sum(report.pixels.values()), 1)
    for c in legend.classes:
        area, sure = report.areas_km2.get(c.id), report.confidences.get(c.id)
        more = "" if area is None else f" {area:>12.3f} km2"
        more += "" if sure is None else f"  confidence {100 * sure:5.1f} %"
        yield f"{c.name:<20} {report.pixels[c.id]:>12} px {100 * report.pixels[c.id] / whole:6.2f} %{more}"
    yield f"{'no data':<20} {report.no_data:>12} px"


def leak_lines(found: Sequence[Any], most: int = 5) -> Iterator[str]:
    """Give a line for each test scene, and below it the pretraining scenes over it, largest first."""
    for leak in found:
        share = "no footprint" if leak.share is None else f"{100 * leak.share:6.2f} %"
        yield f"{leak.scene:<40} {share:>12}  by {len(leak.seen)} scenes"
        for seen in leak.seen[:most]:
            same = "  THE SAME PRODUCT" if seen.same else ""
            yield f"  {100 * seen.share:6.2f} %  {seen.scene}  {seen.time or ''}{same}"
        if len(leak.seen) > most:
            yield f"  and {len(leak.seen) - most} more"
