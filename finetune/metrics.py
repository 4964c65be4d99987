"""Scores of a segmentation, all from one confusion matrix over every pixel of the scenes that are scored."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.legend import IGNORED, Legend


def confusion_matrix(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Count pixels by truth (rows) and prediction (columns), both output numbers of equal shape.

    Pixels that are 255 in either are left out: unlabelled, or without measurement.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"truth has shape {truth.shape} and the prediction {predicted.shape}")
    counted = (truth != IGNORED) & (predicted != IGNORED)
    t, p = truth[counted].astype(np.int64), predicted[counted].astype(np.int64)
    if t.size and max(int(t.max()), int(p.max())) >= classes:
        raise ValueError(f"an output number is beyond the {classes} classes")
    return np.bincount(t * classes + p, minlength=classes * classes).reshape(classes, classes)


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Scores of one class, each 0..1, NaN where it is 0/0. ``pixels`` counts the truth."""

    name: str
    precision: float
    recall: float
    f1: float
    iou: float
    pixels: int


@dataclass(frozen=True, slots=True)
class Scores:
    """All scores of one confusion matrix, 0..1 (kappa -1..1).

    Means run over the classes that occur in truth or prediction; ``miou_present`` over those of the truth alone, since
    one wrong pixel of a class that is not there lowers the other by a whole class. ``*_no_background`` leave the
    legend's background class out of the mean: an easy extra class lifts a mean by points, so both are given.
    """

    classes: tuple[ClassScores, ...]
    oa: float
    kappa: float
    miou: float
    miou_no_background: float
    miou_present: float
    mf1: float
    mf1_no_background: float
    pixels: int

    def flat(self) -> dict[str, float | None]:
        """Give every number under one name, ``f1/water`` or ``miou``; what is undefined is None."""
        numbers = {
            name: getattr(self, name)
            for name in ("oa", "kappa", "miou", "miou_no_background", "miou_present", "mf1", "mf1_no_background")
        }
        for kind in ("precision", "recall", "f1", "iou"):
            numbers |= {f"{kind}/{c.name}": getattr(c, kind) for c in self.classes}
        return {name: None if math.isnan(value) else value for name, value in numbers.items()}


def scores(matrix: NDArray[np.int64], legend: Legend) -> Scores:
    """Compute all scores of a (classes, classes) confusion matrix, truth in rows.

    F1 = 2TP/(2TP+FP+FN), IoU = TP/(TP+FP+FN); kappa is Cohen's.
    """
    hit = np.diag(matrix).astype(np.float64)
    truth, predicted = matrix.sum(1).astype(np.float64), matrix.sum(0).astype(np.float64)
    total = float(truth.sum())
    f1, iou = _ratio(2 * hit, truth + predicted), _ratio(hit, truth + predicted - hit)
    precision, recall = _ratio(hit, predicted), _ratio(hit, truth)
    keep = np.arange(len(hit)) != legend.background_output
    return Scores(
        classes=tuple(
            ClassScores(name, float(precision[i]), float(recall[i]), float(f1[i]), float(iou[i]), int(truth[i]))
            for i, name in enumerate(legend.names)
        ),
        oa=float(hit.sum() / total) if total else math.nan,
        kappa=_kappa(hit, truth, predicted, total),
        miou=_mean(iou),
        miou_no_background=_mean(iou[keep]),
        miou_present=_mean(iou[truth > 0]),
        mf1=_mean(f1),
        mf1_no_background=_mean(f1[keep]),
        pixels=int(total),
    )


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def _mean(values: NDArray[np.float64]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else math.nan


def _kappa(hit: NDArray[np.float64], truth: NDArray[np.float64], predicted: NDArray[np.float64], total: float) -> float:
    if not total:
        return math.nan
    observed, chance = hit.sum() / total, float((truth * predicted).sum()) / total**2
    return float((observed - chance) / (1 - chance)) if chance < 1 else math.nan


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and sample standard deviation (n - 1) over runs; ``std`` is None for a single run."""

    mean: float | None
    std: float | None
    runs: int


def over_seeds(runs: Sequence[Mapping[str, float | None]]) -> dict[str, Spread]:
    """Summarise the flat scores of several seeds, number by number; undefined ones do not count."""
    return {name: _spread([run[name] for run in runs]) for name in runs[0]} if runs else {}


def _spread(values: Sequence[float | None]) -> Spread:
    defined = np.array([v for v in values if v is not None], np.float64)
    mean = float(defined.mean()) if defined.size else None
    std = float(defined.std(ddof=1)) if defined.size > 1 else None
    return Spread(mean, std, int(defined.size))
