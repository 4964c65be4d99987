"""What is asked of a tile, from its label raster: one class, several classes, or a number.

Labels are (N, rows, cols) output numbers of a legend, 255 unlabelled.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from finetune.config import TargetConfig, TaskConfig
from finetune.legend import IGNORED, LandClass, Legend
from infra.errors import UsageError

CHANGE_LEGEND = Legend(
    classes=(
        LandClass(id=0, name="unchanged", colour=(200, 200, 200)),
        LandClass(id=1, name="changed", colour=(220, 60, 40)),
    ),
    background=0,
)
"""The classes of a change between two dates whose own classes differ."""


def task_legend(legend: Legend, task: TaskConfig) -> Legend:
    """Give the classes that a task finds. Raises UsageError where the legend cannot say what a change is."""
    if task.kind != "change":
        return legend
    if task.changed == "differs":
        return CHANGE_LEGEND
    if task.tiles and (len(legend.ids) != 2 or legend.background is None):
        raise UsageError(
            f"whether a tile has changed needs a legend of two classes, one of them the background; found"
            f" {', '.join(legend.names)} with background {legend.background}: use --task.changed differs"
        )
    return legend


def class_counts(label: Tensor, classes: int) -> Tensor:
    """Count the labelled pixels of each class, (N, classes) int64."""
    index = torch.where(label == IGNORED, torch.full_like(label, classes), label).long()
    return functional.one_hot(index.flatten(1), classes + 1).sum(1)[:, :classes]


def enough(label: Tensor, task: TaskConfig) -> Tensor:
    """Tell which tiles (N,) have enough labelled pixels to have an answer; one without any has none."""
    share = (label != IGNORED).flatten(1).float().mean(1)
    return (share >= task.labelled_share) & (share > 0)


def tile_class(label: Tensor, legend: Legend, task: TaskConfig) -> Tensor:
    """Give the output number of each tile (N,) int64, 255 where too little is labelled.

    It is the commonest class, of equals the first in the legend; of a change, whether other classes than the
    background have their share.
    """
    counts = class_counts(label, len(legend.ids))
    if task.kind == "change" and legend.background_output is not None:
        calm = legend.background_output
        share = 1 - counts[:, calm] / counts.sum(1).clamp(min=1)
        found = torch.where(share >= task.present_share, 1 - calm, calm)
    else:
        ranks = torch.arange(counts.shape[1], device=counts.device).flip(0)
        found = (counts * counts.shape[1] + ranks).argmax(1)
    return torch.where(enough(label, task), found, torch.full_like(found, IGNORED))


def tile_classes(label: Tensor, legend: Legend, task: TaskConfig) -> Tensor:
    """Give 1.0 for each class that has its share of a tile's labelled pixels, else 0.0: (N, classes)."""
    counts = class_counts(label, len(legend.ids))
    share = counts / counts.sum(1, keepdim=True).clamp(min=1)
    return ((share >= task.present_share) & (counts > 0)).float()


def value_table(legend: Legend, target: TargetConfig) -> NDArray[np.float32]:
    """Give the value of each class in the legend's order, NaN where it has none. Raises UsageError for a wrong name."""
    if unknown := sorted({*target.values, *target.share_of} - set(legend.names)):
        raise UsageError(f"task.target names {', '.join(unknown)}; the corpus has {', '.join(legend.names)}")
    if target.linear is not None:
        first, step = target.linear
        return np.array([first + step * i for i in legend.ids], np.float32)
    if target.share_of:
        return np.array([float(name in target.share_of) for name in legend.names], np.float32)
    return np.array([target.values.get(name, np.nan) for name in legend.names], np.float32)


def pixel_values(label: Tensor, table: Sequence[float] | NDArray[np.float32]) -> Tensor:
    """Give each pixel's value (float32, any shape), NaN where it has none."""
    padded = torch.full((IGNORED + 1,), float("nan"), device=label.device)
    padded[: len(table)] = torch.as_tensor(table, dtype=torch.float32)
    return padded[label.long()]


def tile_values(label: Tensor, table: Sequence[float] | NDArray[np.float32], task: TaskConfig) -> Tensor:
    """Give the mean value of each tile's pixels (N,), NaN where too few have one."""
    values = pixel_values(label, table)
    known = torch.where(values.isnan(), torch.full_like(label, IGNORED), label)
    mean = values.flatten(1).nanmean(1)
    return torch.where(enough(known, task), mean, torch.full_like(mean, float("nan")))


def target_moments(
    labels: Iterable[NDArray[np.uint8]], table: NDArray[np.float32], task: TaskConfig
) -> tuple[float, float]:
    """Give mean and standard deviation of the target over label rasters of output numbers; 1 where all are equal."""
    sums = np.zeros(3)
    for label in labels:
        given = torch.from_numpy(label)[None]
        found = tile_values(given, table, task) if task.tiles else pixel_values(given, table)
        values = found[~found.isnan()].double()
        sums += len(values), float(values.sum()), float((values**2).sum())
    if not sums[0]:
        raise UsageError("no label of the training scenes has a value: see --task.target and --task.labelled-share")
    mean = sums[1] / sums[0]
    deviation = float(np.sqrt(max(sums[2] / sums[0] - mean**2, 0.0)))
    return float(mean), deviation if deviation > 1e-6 * max(1.0, abs(mean)) else 1.0
