"""Statistics over seeds against scipy, and the tables made of them."""

import csv
import io

import numpy as np
import pytest
from scipy import stats

from finetune.statistics import (
    Run,
    bootstrap_interval,
    holm,
    paired,
    read_runs_csv,
    runs_csv,
    sign_flip_p,
    summary,
    table,
    table_csv,
)


@pytest.mark.parametrize("seed", range(4))
def test_the_paired_test_equals_scipy(seed):
    rng = np.random.default_rng(seed)
    a = rng.normal(0.6, 0.05, 5 + seed)
    b = a - rng.normal(0.02, 0.02, 5 + seed)
    found, known = paired(a, b), stats.ttest_rel(a, b)
    assert (found.t, found.t_p) == pytest.approx((known.statistic, known.pvalue), rel=1e-10)
    low, high = known.confidence_interval(0.95)
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high), rel=1e-10)
    flips = stats.permutation_test(
        (a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", n_resamples=np.inf
    )
    assert found.sign_p == pytest.approx(flips.pvalue, abs=1e-12)
    assert found.effect == pytest.approx((a - b).mean() / (a - b).std(ddof=1), rel=1e-12)


def test_five_pairs_cannot_be_surer_than_one_in_sixteen():
    assert paired([2.0, 3, 4, 5, 6], [1.0, 2, 3, 4, 4.5]).sign_p == 2 / 32
    assert sign_flip_p([0.0, 0.0]) == 1
    same = paired([0.3, 0.3], [0.2, 0.2])
    assert (same.t, same.t_p, same.effect) == (None, 0.0, None)
    assert (paired([0.3, 0.4], [0.3, 0.4]).t_p, paired([0.3, 0.4], [0.3, 0.4]).sign_p) == (1.0, 1.0)


def test_many_pairs_are_sampled():
    d = np.random.default_rng(0).normal(0.3, 1, 17)
    exact = np.abs(np.array(np.meshgrid(*[(1, -1)] * 17)).reshape(17, -1).T @ d) >= abs(d.sum()) - 1e-12
    assert sign_flip_p(d) == pytest.approx(exact.mean(), abs=0.005)
    assert sign_flip_p(d) == sign_flip_p(d)


@pytest.mark.parametrize(("kind", "method"), [("bca", "BCa"), ("percentile", "percentile")])
def test_the_bootstrap_interval_equals_scipy(kind, method):
    x = np.random.default_rng(3).lognormal(0, 0.7, 12)
    found = bootstrap_interval(x, kind=kind, draws=40_000, seed=1)
    known = stats.bootstrap((x,), np.mean, method=method, n_resamples=40_000, rng=np.random.default_rng(2))
    width = known.confidence_interval.high - known.confidence_interval.low
    assert found.low == pytest.approx(known.confidence_interval.low, abs=0.03 * width)
    assert found.high == pytest.approx(known.confidence_interval.high, abs=0.03 * width)


def test_bca_of_two_axes_takes_both_kinds_of_chance():
    """Seeds and scenes that each shift a value: the variance of the mean is the sum of both."""
    rng = np.random.default_rng(0)
    inside = widths = 0
    for _ in range(60):
        x = rng.normal(0, 1, (12, 1)) + rng.normal(0, 1, (1, 15))
        found = bootstrap_interval(x, axes=2, draws=400, seed=1)
        inside += found.low <= 0 <= found.high
        widths += found.high - found.low
    assert 50 <= inside <= 60
    assert widths / 60 == pytest.approx(2 * 1.96 * np.sqrt(1 / 12 + 1 / 15), rel=0.12)
    one = bootstrap_interval(np.tile(rng.normal(0, 1, (1, 15)), (12, 1)), axes=1)
    assert one.high - one.low == pytest.approx(0, abs=1e-12), "seeds that agree say nothing of scenes"


def test_an_interval_of_a_score_of_summed_matrices():
    rng = np.random.default_rng(1)
    matrices = rng.integers(1, 50, (5, 8, 2, 2)).astype(float)

    def accuracy(m):
        return float(np.mean([np.trace(one) / one.sum() for one in m.sum(1)]))

    found = bootstrap_interval(matrices, accuracy, axes=2, draws=500)
    assert found.low < accuracy(matrices) < found.high
    assert 0.02 < found.high - found.low < 0.4
    with pytest.raises(ValueError, match="expected bca or percentile"):
        bootstrap_interval([1.0], kind="t")


def test_holm_equals_the_definition():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def _runs() -> list[Run]:
    rng = np.random.default_rng(0)
    level = {"random": 0.4, "ours": 0.5}
    return [
        Run(encoder, "water", fraction, seed, {"miou": level[encoder] + rng.normal(0, 0.01), "oa": None}, fold=fold)
        for encoder in level
        for fraction in (0.01, 1.0)
        for fold in ("a", "b")
        for seed in range(5)
    ]


def test_a_table_pairs_by_seed_and_fold():
    runs = _runs()
    lines = table(reversed(runs), "miou", reference="random")
    assert [(line.encoder, line.fraction, line.summary.runs) for line in lines] == [
        ("ours", 1.0, 10),
        ("ours", 0.01, 10),
        ("random", 1.0, 10),
        ("random", 0.01, 10),
    ]
    ours, theirs = (
        np.array([r.metrics["miou"] for r in runs if r.encoder == e and r.fraction == 0.01]) for e in ("ours", "random")
    )
    line = lines[1]
    assert line.summary.mean == pytest.approx(ours.mean())
    assert line.summary.std == pytest.approx(ours.std(ddof=1))
    assert line.summary.interval.low < ours.mean() < line.summary.interval.high
    assert line.versus.t_p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)
    assert line.versus.pairs == 10
    assert lines[2].versus is None
    tested = [x for x in lines if x.versus]
    assert [x.corrected_p for x in tested] == pytest.approx(holm([x.versus.t_p for x in tested]))
    assert table(runs, "oa") == []
    with pytest.raises(ValueError, match="stands twice"):
        table([runs[0], runs[0]], "miou")


def test_tables_and_runs_as_csv():
    runs = _runs()
    rows = list(csv.DictReader(io.StringIO(table_csv(table(runs, "miou", reference="random")))))
    assert len(rows) == 4
    assert float(rows[0]["mean"]) == pytest.approx(0.4, abs=0.02)
    assert (rows[0]["difference"], rows[2]["pairs"]) == ("", "10")
    assert read_runs_csv(runs_csv(runs)) == runs


def test_a_summary_of_one_value_has_no_spread_and_of_none_is_refused():
    one = summary([0.5, float("nan")])
    assert (one.mean, one.std, one.interval, one.runs) == (0.5, None, None, 1)
    with pytest.raises(ValueError, match="no value"):
        summary([])
