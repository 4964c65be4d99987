"""The lines of an evaluation for a terminal, and its numbers as cells of a table."""

from collections.abc import Iterator, Sequence

from finetune.bench_units import Plan
from finetune.statistics import Line
from finetune.tasks import HEADLINES

UNSCALED = ("rmse", "r2", "mae")

COMPARED = {kind: (("miou_present",) if "miou" in names else ()) + names for kind, names in HEADLINES.items()}
"""The scores of the tables by task. Folds lack classes, and a wrong pixel of one that lacks must not cost a class."""


def bench_lines(plan: Plan, lines: Sequence[Line]) -> Iterator[str]:
    """Give a compact table of the first headline score, at most 80 columns wide."""
    metric = COMPARED[plan.bench.run.task.kind][0]
    shown = [line for line in lines if line.metric == metric]
    unit = "" if metric in UNSCALED else " (%)"
    width = max([7, *(len(line.encoder[:22]) for line in shown)])
    group = None
    for line in shown:
        if (line.dataset, line.task) != group:
            if group:
                yield ""
            group = line.dataset, line.task
            yield f"{line.dataset}, {line.task}: {metric}{unit}"
            versus = f"vs {plan.bench.reference[:11]}"
            yield f"{'labels':>7}  {'encoder':<{width}}  {'mean ± std':>14}  {'n':>3}  {versus:>14}  Holm p"
        yield (
            f"{100 * line.fraction:>5g} %  {line.encoder[:22]:<{width}}  {value_text(line):>14}  {line.summary.runs:>3}"
            f"  {difference_text(line):>14}  {p_text(line)}"
        ).rstrip()


def scale(metric: str) -> float:
    """Give what a score is multiplied by to be shown: shares are per cent."""
    return 1.0 if metric in UNSCALED else 100.0


def value_text(line: Line) -> str:
    """Give mean and standard deviation."""
    k = scale(line.metric)
    std = line.summary.std
    return f"{k * line.summary.mean:.2f}" + ("" if std is None else f" ± {k * std:.2f}")


def interval_text(line: Line) -> str:
    """Give the interval of the mean."""
    k, found = scale(line.metric), line.summary.interval
    return "" if found is None else f"{k * found.low:.2f} to {k * found.high:.2f}"


def difference_text(line: Line) -> str:
    """Give the mean difference to the reference."""
    return "" if line.versus is None else f"{scale(line.metric) * line.versus.difference:+.2f}"


def p_text(line: Line) -> str:
    """Give the corrected p-value of the difference."""
    return "" if line.corrected_p is None else f"{line.corrected_p:.3f}" if line.corrected_p >= 0.001 else "< 0.001"
