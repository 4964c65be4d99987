"""Scores of a regression, gathered over any number of parts as if all values had been at hand at once."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True)
class RegressionSums:
    """What the scores of a regression need of the values seen so far; parts add up exactly like the whole.

    Squares are kept about the mean of what was seen (Chan, Golub and LeVeque 1979), so that a large offset of the
    values costs no digits. Pairs in which either value is not finite are left out: unlabelled, or without measurement.
    """

    values: int = 0
    truth_mean: float = 0.0
    truth_squares: float = 0.0
    predicted_mean: float = 0.0
    predicted_squares: float = 0.0
    products: float = 0.0
    squared_error: float = 0.0
    absolute_error: float = 0.0

    @classmethod
    def of(cls, truth: ArrayLike, predicted: ArrayLike) -> Self:
        """Sum up values of equal shape, in the units of the label. Raises ValueError where the shapes differ."""
        t, p = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
        if t.shape != p.shape:
            raise ValueError(f"truth has shape {t.shape} and the prediction {p.shape}")
        counted = np.isfinite(t) & np.isfinite(p)
        t, p = t[counted], p[counted]
        if not t.size:
            return cls()
        dt, dp, error = t - t.mean(), p - p.mean(), p - t
        return cls(
            values=int(t.size),
            truth_mean=float(t.mean()),
            truth_squares=float(dt @ dt),
            predicted_mean=float(p.mean()),
            predicted_squares=float(dp @ dp),
            products=float(dt @ dp),
            squared_error=float(error @ error),
            absolute_error=float(np.abs(error).sum()),
        )

    def __add__(self, other: "RegressionSums") -> "RegressionSums":
        n = self.values + other.values
        if not n:
            return self
        share, both = other.values / n, self.values * other.values / n
        dt, dp = other.truth_mean - self.truth_mean, other.predicted_mean - self.predicted_mean
        return RegressionSums(
            values=n,
            truth_mean=self.truth_mean + dt * share,
            truth_squares=self.truth_squares + other.truth_squares + dt * dt * both,
            predicted_mean=self.predicted_mean + dp * share,
            predicted_squares=self.predicted_squares + other.predicted_squares + dp * dp * both,
            products=self.products + other.products + dt * dp * both,
            squared_error=self.squared_error + other.squared_error,
            absolute_error=self.absolute_error + other.absolute_error,
        )

    def scores(self) -> dict[str, float]:
        """Give ``rmse``, ``mae``, ``bias`` (predicted - truth), ``r2``, ``pearson``, ``values``; NaN where undefined.

        R2 = 1 - SSE / SST about the mean of the truth; it is below 0 for a model worse than that mean.
        """
        n = self.values
        if not n:
            return dict.fromkeys(("rmse", "mae", "bias", "r2", "pearson"), math.nan) | {"values": 0.0}
        spread = math.sqrt(self.truth_squares * self.predicted_squares)
        return {
            "rmse": math.sqrt(self.squared_error / n),
            "mae": self.absolute_error / n,
            "bias": self.predicted_mean - self.truth_mean,
            "r2": 1 - self.squared_error / self.truth_squares if self.truth_squares > 0 else math.nan,
            "pearson": self.products / spread if spread > 0 else math.nan,
            "values": float(n),
        }


def regression_scores(truth: ArrayLike, predicted: ArrayLike) -> dict[str, float]:
    """Score values of equal shape that are all at hand; see :meth:`RegressionSums.scores`."""
    return RegressionSums.of(truth, predicted).scores()
