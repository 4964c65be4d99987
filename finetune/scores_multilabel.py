"""Scores of pictures that carry several classes at once, over all pictures together."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def multilabel_scores(
    truth: ArrayLike, probability: ArrayLike, *, threshold: float = 0.5, names: Sequence[str] | None = None
) -> dict[str, float]:
    """Score (n, classes) truth 0/1 against probabilities 0..1 of equal shape; rows with a NaN are left out.

    Gives ``ap_macro``, ``ap_micro`` and, for what reaches the threshold, ``f1_*``, ``precision_*``, ``recall_*``,
    macro and micro; with ``names`` also ``ap/<name>``, ``f1/<name>``. Macro means run over the classes for which the
    score is defined: average precision and recall need a positive, F1 needs one in truth or prediction, precision
    one in the prediction. Raises ValueError where shapes or values do not fit.
    """
    t, p = np.asarray(truth, np.float64), np.asarray(probability, np.float64)
    if t.ndim != 2 or t.shape != p.shape:
        raise ValueError(f"truth has shape {t.shape} and the probabilities {p.shape}: expected equal (n, classes)")
    kept = ~(np.isnan(t) | np.isnan(p)).any(1)
    t, p = t[kept], p[kept]
    if not np.isin(t, (0, 1)).all():
        raise ValueError("truth holds other values than 0 and 1")
    is_true, chosen = t.astype(bool), p >= threshold
    hit = (is_true & chosen).sum(0).astype(np.float64)
    wanted, found = is_true.sum(0).astype(np.float64), chosen.sum(0).astype(np.float64)
    ap = np.array([average_precision(is_true[:, k], p[:, k]) for k in range(t.shape[1])])
    f1 = _ratio(2 * hit, wanted + found)
    out = {
        "ap_macro": _mean(ap),
        "ap_micro": average_precision(is_true.ravel(), p.ravel()),
        "f1_macro": _mean(f1),
        "f1_micro": float(_ratio(2 * hit.sum(), wanted.sum() + found.sum())),
        "precision_macro": _mean(_ratio(hit, found)),
        "precision_micro": float(_ratio(hit.sum(), found.sum())),
        "recall_macro": _mean(_ratio(hit, wanted)),
        "recall_micro": float(_ratio(hit.sum(), wanted.sum())),
    }
    for k, name in enumerate(names or ()):
        out |= {f"ap/{name}": float(ap[k]), f"f1/{name}": float(f1[k])}
    return out


def average_precision(truth: NDArray[np.bool_], score: Floats) -> float:
    """Give AP = sum over thresholds of (recall step) x precision, equal scores taken together; NaN without a positive.

    This is the area under the steps, without interpolation between them, which would flatter.
    """
    positives = int(truth.sum())
    if not positives:
        return math.nan
    order = np.argsort(-score, kind="stable")
    ordered = score[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    hits = np.cumsum(truth[order])[last].astype(np.float64)
    precision, recall = hits / (last + 1), hits / positives
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def _ratio(part: ArrayLike, whole: ArrayLike) -> Floats:
    a, b = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    ratio: Floats = np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0)
    return ratio


def _mean(values: Floats) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else math.nan
