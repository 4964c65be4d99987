"""The evaluation of encoders side by side: what is missing is done, here or on Ray; then tables, and one page."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from finetune.bench_plan import make_plan
from finetune.bench_tables import COMPARED
from finetune.bench_units import FORMAT, Bench, Job, Plan, Unit
from finetune.bench_work import do_job, put_failure, read_units, tidy
from finetune.legend import Legend
from finetune.metrics import scores
from finetune.start import Say
from finetune.statistics import Line, Run, runs_csv, table, table_csv
from finetune.targets import task_legend
from infra.errors import ResourceError, UsageError
from infra.log import Steps
from infra.store import StoreError, open_store
from pretrain.environment import machine

Records = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an evaluation found: the plan, the runs in the order of the tables, their lines, and what failed."""

    plan: Plan
    runs: Sequence[Run]
    lines: Sequence[Line]
    failed: Mapping[str, str]
    done: int


def run_bench(
    bench: Bench, *, device: str = "auto", address: str | None = None, workers: int = 1, say: Say = lambda _: None
) -> Outcome:
    """Do every unit that is not there yet, and put tables and page under ``bench.out``.

    With one worker and no address everything happens in this process; else in tasks of one CPU each on Ray. A unit
    that fails is noted, and the others go on. Raises UsageError for what cannot be at all.
    """
    if workers < 1:
        raise UsageError(f"--workers {workers}: expected 1 or more")
    if (address or workers > 1) and bench.out.startswith("memory:"):
        raise UsageError(f"--out {bench.out}: workers are other processes and do not share memory; give a folder or S3")
    if (address or workers > 1) and device == "cuda":
        raise UsageError("tasks on Ray compute on one CPU each: use --workers 1 for a GPU, or --device cpu")
    plan = make_plan(bench, "cpu" if address or workers > 1 else device, say)
    store = open_store(bench.out)
    store.put("bench.json", json.dumps(described(plan), indent=1).encode())
    tidy(store, plan.units)
    failed = dict(plan.failed)
    by_digest = {unit.digest: unit for unit in plan.units}
    for name, reason in plan.failed.items():
        put_failure(store, by_digest[name], UsageError(reason))
    jobs = missing(plan.jobs, read_units(store, plan.units))
    before = len(plan.units) - len(failed) - sum(len(job.units) for job in jobs)
    with Steps("bench", before, len(plan.units) - len(plan.failed)) as bar:
        failed |= _do(jobs, address, workers, _Count(bar, before))
    return finish(plan, failed, sum(len(job.units) for job in jobs))


class _Count:
    """Units behind us, told to the bar."""

    def __init__(self, bar: Steps, done: int) -> None:
        self._bar, self._done = bar, done

    def __call__(self, unit: Unit) -> None:
        """Hear of one more."""
        self._done += 1
        self._bar.update(self._done, f"{unit.encoder} on {unit.data}, {unit.task}, {100 * unit.fraction:g} %")


def missing(jobs: Sequence[Job], there: Records) -> list[Job]:
    """Leave out what is done, and what another job does: the same weights may stand under two names."""
    taken, left = set(there), list[Job]()
    for job in jobs:
        units = {u.digest: u for u in job.units if u.digest not in taken}
        taken |= units.keys()
        left.append(replace(job, units=tuple(units.values())))
    return [job for job in left if job.units]


def _do(jobs: Sequence[Job], address: str | None, workers: int, tell: Callable[[Unit], None]) -> dict[str, str]:
    """Do the jobs; gives why units failed, by digest."""
    failed: dict[str, str] = {}
    if not jobs or (not address and workers == 1):
        for job in jobs:
            failed |= do_job(job, tell)
        return failed
    from infra.cluster import each, session

    with session(address, workers if workers > 1 else None) as cpus:
        for done in each(do_job, jobs, slots=max(1, min(workers, cpus) if workers > 1 else cpus)):
            failed |= done.value if done.value is not None else _lost(done.item, done.error)
            for unit in done.item.units:
                tell(unit)
    return failed


def _lost(job: Job, error: Exception | None) -> dict[str, str]:
    """Note the units that a job left undone when its worker died, or could not put anything."""
    if isinstance(error, StoreError):
        raise error
    store = open_store(job.setting.out)
    there = read_units(store, job.units)
    reason = error or ResourceError("the worker gave no result")
    return {unit.digest: put_failure(store, unit, reason) for unit in job.units if unit.digest not in there}


def finish(plan: Plan, failed: Mapping[str, str], done: int) -> Outcome:
    """Put tables and page of what is there."""
    from finetune.bench_report import make_page

    store, task = open_store(plan.bench.out), plan.bench.run.task
    records = read_units(store, plan.units)
    legends = {n: task_legend(Legend.model_validate(facts["legend"]), task) for n, facts in plan.data.items()}
    runs = [run_of(unit, records[unit.digest], legends[unit.data]) for unit in plan.units if unit.digest in records]
    tables = {metric: table(runs, metric, reference=plan.bench.reference) for metric in COMPARED[task.kind]}
    lines = [line for found in tables.values() for line in found]
    store.put("runs.csv", runs_csv(runs).encode())
    store.put("table.csv", table_csv(lines).encode())
    store.put("bench.html", make_page(store, plan, records, tables, failed))
    return Outcome(plan, runs, lines, failed, done)


def run_of(unit: Unit, record: Mapping[str, Any], legend: Legend) -> Run:
    """Give a unit's result as a run of the statistics; what a confusion matrix says is worked out anew."""
    matrix, metrics = record["matrix"], dict(record["metrics"])
    if matrix is not None:
        metrics |= scores(np.array(matrix), legend).flat()
    return Run(unit.encoder, unit.data, unit.fraction, unit.seed, metrics, unit.fold, unit.task)


def described(plan: Plan) -> dict[str, Any]:
    """Give what was asked, as plain data."""
    bench = plan.bench
    return {
        "format": FORMAT,
        "encoders": plan.encoders,
        "data": plan.data,
        "reference": bench.reference,
        "fractions": list(bench.fractions),
        "seeds": list(bench.seed_numbers),
        "folds": bench.folds,
        "all_folds": bench.all_folds,
        "hold_out": bench.hold_out,
        "same_ground": bench.same_ground,
        "uses": list(bench.uses),
        "probing": asdict(bench.probing),
        "run": bench.run.model_dump(mode="json"),
        "machine": machine(),
        "units": [
            {name: getattr(unit, name) for name in ("data", "encoder", "task", "fraction", "seed", "fold", "digest")}
            for unit in plan.units
        ],
    }
