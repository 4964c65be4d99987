"""Numbers over seeds, folds and scenes: mean, spread, intervals, and whether one encoder beats another."""

import csv
import io
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]
Statistic = Callable[[NDArray[np.float64]], float]

EXACT_PAIRS = 16
"""Up to so many pairs every one of the 2^n changes of sign is tried."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval of a number."""

    low: float
    high: float
    level: float = 0.95


@dataclass(frozen=True, slots=True)
class Summary:
    """Mean, sample standard deviation (n - 1; None for one value) and bootstrap interval (None for one) of values."""

    mean: float
    std: float | None
    interval: Interval | None
    runs: int


def summary(values: ArrayLike, *, level: float = 0.95, seed: int = 0) -> Summary:
    """Summarise the values of seeds and folds; NaN values do not count. Raises ValueError where none is left."""
    x = np.asarray(values, np.float64).ravel()
    x = x[~np.isnan(x)]
    if not x.size:
        raise ValueError("no value to summarise")
    spread = float(x.std(ddof=1)) if x.size > 1 else None
    interval = bootstrap_interval(x, level=level, seed=seed) if x.size > 1 else None
    return Summary(float(x.mean()), spread, interval, int(x.size))


def bootstrap_interval(
    values: ArrayLike,
    statistic: Statistic = lambda x: float(np.mean(x)),
    *,
    axes: int = 1,
    kind: str = "bca",
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Bootstrap an interval of a statistic of ``values``, whose first ``axes`` axes are drawn anew, each by itself.

    One axis: seeds. Two axes: (seeds, scenes, ...), so that both kinds of chance count; for a score of a whole test
    set let ``values`` be (seeds, scenes, classes, classes) and the statistic add the matrices up. ``kind`` is
    "percentile", or "bca": corrected for bias and for skewness. Where all draws agree the interval is one point.
    Sources: Efron, "Better bootstrap confidence intervals", JASA 82, 1987; Owen, "The pigeonhole bootstrap", AoAS 2007.
    """
    x = np.asarray(values, np.float64)
    if kind not in ("bca", "percentile") or not 1 <= axes <= x.ndim or 0 in x.shape:
        raise ValueError(f"kind {kind!r}, {axes} axes of values {x.shape}: expected bca or percentile, and some values")
    rng = np.random.default_rng(seed)
    drawn = np.array([statistic(_again(x, axes, rng)) for _ in range(draws)])
    if np.ptp(drawn) == 0:
        return Interval(float(drawn[0]), float(drawn[0]), level)
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if kind == "bca":
        tails = _bca_tails(tails, drawn, statistic(x), [_left_out(x, axis, statistic) for axis in range(axes)])
    low, high = np.quantile(drawn, tails)
    return Interval(float(low), float(high), level)


def _again(x: Floats, axes: int, rng: np.random.Generator) -> Floats:
    for axis in range(axes):
        x = np.take(x, rng.integers(x.shape[axis], size=x.shape[axis]), axis=axis)
    return x


def _left_out(x: Floats, axis: int, statistic: Statistic) -> Floats:
    """Give the statistic without each of the entries along an axis (jackknife)."""
    if x.shape[axis] < 2:
        return np.zeros(0)
    return np.array([statistic(np.delete(x, n, axis=axis)) for n in range(x.shape[axis])])


def _bca_tails(tails: Floats, drawn: Floats, found: float, left_out: Sequence[Floats]) -> Floats:
    below = (np.sum(drawn < found) + np.sum(drawn <= found)) / (2 * drawn.size)
    if not 0 < below < 1:  # the statistic lies outside of all draws: the correction has no meaning
        return tails
    bias = special.ndtri(below)
    pulls = [(values.size - 1) * (values.mean() - values) / values.size for values in left_out if values.size]
    squares = sum(float(np.sum(pull**2)) for pull in pulls)
    cubes = sum(float(np.sum(pull**3)) for pull in pulls)
    skew = cubes / (6 * squares**1.5) if squares else 0.0
    z = bias + special.ndtri(tails)
    moved: Floats = special.ndtr(bias + z / (1 - skew * z))
    return moved


@dataclass(frozen=True, slots=True)
class Paired:
    """One encoder beside another over the same seeds and folds, in the metric's unit.

    ``difference`` is the mean of first - second, ``interval`` its interval by Student's t, ``effect`` Cohen's d of the
    pairs (mean / standard deviation; None where the differences do not vary), ``t_p`` and ``sign_p`` two-sided
    p-values. With n pairs ``sign_p`` is never below 2 / 2^n: 0.0625 for 5 seeds, 0.03125 for 6.
    """

    difference: float
    std: float
    interval: Interval
    effect: float | None
    t: float | None
    t_p: float
    sign_p: float
    pairs: int


def paired(first: ArrayLike, second: ArrayLike, *, level: float = 0.95, seed: int = 0) -> Paired:
    """Compare two encoders by values of equal seeds and folds, in equal order; at least two pairs.

    The sign-flip test asks how often a random change of sign of the differences gives a mean at least as far from
    0; it is exact up to 16 pairs and takes 100,000 random changes beyond. Raises ValueError where nothing can be said.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape or a.ndim != 1 or a.size < 2 or not np.isfinite([a, b]).all():
        raise ValueError(f"cannot pair values of shapes {a.shape} and {b.shape}: expected two or more finite pairs")
    d = a - b
    n, mean, std = d.size, float(d.mean()), float(d.std(ddof=1))
    error = std / math.sqrt(n)
    t = mean / error if error else None
    reach = float(special.stdtrit(n - 1, (1 + level) / 2)) * error
    t_p = 2 * float(special.stdtr(n - 1, -abs(t))) if t is not None else (1.0 if mean == 0 else 0.0)
    interval = Interval(mean - reach, mean + reach, level)
    return Paired(mean, std, interval, mean / std if std else None, t, t_p, sign_flip_p(d, seed=seed), n)


def sign_flip_p(differences: ArrayLike, *, draws: int = 100_000, seed: int = 0) -> float:
    """Give the two-sided p-value of a mean difference of 0 under exchangeable signs."""
    d = np.asarray(differences, np.float64)
    exact = d.size <= EXACT_PAIRS
    if exact:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=d.size)))
    else:
        signs = np.random.default_rng(seed).choice((1.0, -1.0), (draws, d.size))
    # Sums that are equal on paper may differ in their last digits.
    found = abs(float(d.sum()))
    as_far = np.abs(signs @ d) >= found - 1e-12 * max(float(np.abs(d).sum()), 1e-300)
    return float(as_far.mean()) if exact else float((as_far.sum() + 1) / (draws + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number, in the order given. Source: Holm, Scand. J. Statist. 6, 1979."""
    order = np.argsort(p_values, kind="stable")
    corrected, worst = np.zeros(len(p_values)), 0.0
    for rank, n in enumerate(order):
        worst = max(worst, min(1.0, p_values[n] * (len(p_values) - rank)))
        corrected[n] = worst
    return [float(p) for p in corrected]


@dataclass(frozen=True, slots=True)
class Run:
    """One training run of an evaluation. ``fraction`` is the share of labels 0..1, ``fold`` names what was held out.

    ``metrics`` are flat numbers as of ``Scores.flat``; None is undefined. ``task`` is how the encoder was used.
    """

    encoder: str
    dataset: str
    fraction: float
    seed: int
    metrics: Mapping[str, float | None]
    fold: str = ""
    task: str = ""

    @property
    def group(self) -> tuple[str, str, float]:
        """What runs must share to be compared: (dataset, task, fraction)."""
        return self.dataset, self.task, self.fraction

    @property
    def pair(self) -> tuple[int, str]:
        """What pairs runs of two encoders: (seed, fold)."""
        return self.seed, self.fold


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a result table: an encoder on a data set at a label fraction, and beside the reference encoder."""

    encoder: str
    dataset: str
    task: str
    fraction: float
    metric: str
    summary: Summary
    versus: Paired | None = None
    corrected_p: float | None = None


def table(runs: Iterable[Run], metric: str, *, reference: str | None = None, seed: int = 0) -> list[Line]:
    """Make the table of one metric: a line for each data set, task, fraction and encoder, in order of appearance.

    With a ``reference`` encoder every other one is paired with it by seed and fold; ``corrected_p`` are the p-values
    of the t-tests of all these lines together after Holm. Runs without the metric, or where it is undefined, do not
    count; a run that stands twice is refused (ValueError).
    """
    values = _values(runs, metric)
    lines = [
        Line(
            encoder,
            *group,
            metric,
            summary(list(found.values()), seed=seed),
            _versus(values, group, encoder, reference),
        )
        for (group, encoder), found in values.items()
    ]
    tested = [n for n, line in enumerate(lines) if line.versus]
    for n, p in zip(tested, holm([line.versus.t_p for line in lines if line.versus]), strict=True):
        lines[n] = Line(**{name: getattr(lines[n], name) for name in Line.__slots__} | {"corrected_p": p})
    return lines


_Group = tuple[str, str, float]


def _values(runs: Iterable[Run], metric: str) -> dict[tuple[_Group, str], dict[tuple[int, str], float]]:
    values: dict[tuple[_Group, str], dict[tuple[int, str], float]] = {}
    for run in runs:
        value = run.metrics.get(metric)
        if value is None or math.isnan(value):
            continue
        found = values.setdefault((run.group, run.encoder), {})
        if run.pair in found:
            raise ValueError(f"{run.encoder} on {run.dataset}: seed {run.seed}, fold {run.fold!r} stands twice")
        found[run.pair] = value
    return values


def _versus(
    values: Mapping[tuple[_Group, str], Mapping[tuple[int, str], float]],
    group: _Group,
    encoder: str,
    reference: str | None,
) -> Paired | None:
    if reference is None or encoder == reference:
        return None
    ours, theirs = values[group, encoder], values.get((group, reference), {})
    both = [pair for pair in ours if pair in theirs]
    return paired([ours[p] for p in both], [theirs[p] for p in both]) if len(both) > 1 else None


COLUMNS = (
    *("dataset", "task", "fraction", "encoder", "metric", "mean", "std", "low", "high", "runs"),
    *("difference", "difference_low", "difference_high", "effect", "t_p", "sign_p", "corrected_p", "pairs"),
)


def plain(line: Line) -> dict[str, str | float | int | None]:
    """Give a line of a table as one flat record with the names of ``COLUMNS``."""
    own, other = line.summary, line.versus
    low, high = (own.interval.low, own.interval.high) if own.interval else (None, None)
    record: dict[str, str | float | int | None] = dict.fromkeys(COLUMNS)
    record |= {"dataset": line.dataset, "task": line.task, "fraction": line.fraction, "encoder": line.encoder}
    record |= {"metric": line.metric, "mean": own.mean, "std": own.std, "low": low, "high": high, "runs": own.runs}
    if other is not None:
        record |= {"difference": other.difference, "effect": other.effect, "pairs": other.pairs}
        record |= {"difference_low": other.interval.low, "difference_high": other.interval.high}
        record |= {"t_p": other.t_p, "sign_p": other.sign_p, "corrected_p": line.corrected_p}
    return record


def table_csv(lines: Iterable[Line]) -> str:
    """Write a table as CSV; what is undefined is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(plain(line) for line in lines)
    return out.getvalue()


def runs_csv(runs: Iterable[Run]) -> str:
    """Write every run with all its metrics as CSV, one line a run, metrics in order of appearance."""
    listed = list(runs)
    metrics = list(dict.fromkeys(name for run in listed for name in run.metrics))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*_RUN_COLUMNS, *metrics])
    for run in listed:
        writer.writerow([*(getattr(run, name) for name in _RUN_COLUMNS), *(run.metrics.get(name) for name in metrics)])
    return out.getvalue()


def read_runs_csv(text: str) -> list[Run]:
    """Read what ``runs_csv`` wrote."""
    rows = csv.DictReader(io.StringIO(text))
    return [
        Run(
            encoder=row["encoder"],
            dataset=row["dataset"],
            task=row["task"],
            fraction=float(row["fraction"]),
            seed=int(row["seed"]),
            fold=row["fold"],
            metrics={k: None if v == "" else float(v) for k, v in row.items() if k not in _RUN_COLUMNS},
        )
        for row in rows
    ]


_RUN_COLUMNS = ("dataset", "task", "encoder", "fraction", "seed", "fold")
