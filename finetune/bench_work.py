"""One job of an evaluation, done by one worker: its units become one small object each, put when it is there."""

import contextlib
import functools
import io
import itertools
import json
import operator
import shutil
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.bench_frozen import (
    Cells,
    Images,
    calibrated,
    calibration_batches,
    classify,
    draw_cells,
    features,
    held_out_images,
    plane,
    training_images,
)
from finetune.bench_pictures import MOST_POINTS, most_mixed, put_embedding, put_maps
from finetune.bench_plan import open_fold
from finetune.bench_units import FINETUNE, Job, Unit
from finetune.config import TaskConfig
from finetune.evaluate import Confusion, Scorer, scored_scenes
from finetune.experiment import Experiment
from finetune.fit import card_of, train_seed
from finetune.fractions import Fraction, label_counts, label_fraction
from finetune.metrics import confusion_matrix, scores
from finetune.model import model_bytes
from finetune.start import Start, make_encoder, open_start
from finetune.targets import task_legend
from infra.errors import PartialError, SarsenseError, UsageError
from infra.folder import FolderStore
from infra.record import canonical_json, digest, sha256
from infra.store import AlreadyExists, NotFound, Store, open_store
from infra.world import Device, World, current

RECORD = "sarsense-bench-unit-1"
FAILED = "failed"

MOST_KNOWN = 128 * 2**20
"""Values of frozen features that are held at once to learn from (float32: half a GiB), if one seed has no more."""

Tell = Callable[[Unit], None]


def do_job(job: Job, tell: Tell = lambda unit: None) -> dict[str, str]:
    """Do the units of a job; gives why some failed, by digest. ``tell`` hears of every unit that is behind us.

    A finished unit is an object of its own, so that nothing of it is lost. One thread computes, whatever the machine:
    sums in another order would give other digits. What a worker that died had put is not done again. Raises a
    StoreError where nothing can be put.
    """
    store, failed = open_store(job.setting.out), dict[str, str]()
    there = _finished(store)
    for unit in (u for u in job.units if u.key in there):
        tell(unit)
    left = [u for u in job.units if u.key not in there]
    if not left:
        return failed
    job = replace(job, units=tuple(left))
    with _one_thread():
        try:
            for unit, record in _results(job, store):
                if isinstance(record, Exception):
                    failed[unit.digest] = put_failure(store, unit, record)
                else:
                    put_unit(store, unit, record)
                left.remove(unit)
                tell(unit)
        except PartialError as error:  # a signal, which the loop of training answers with a checkpoint
            raise KeyboardInterrupt("what is done stays; the same command goes on with the rest") from error
        except Exception as error:
            for unit in left:
                failed[unit.digest] = put_failure(store, unit, error)
                tell(unit)
    return failed


def _results(job: Job, store: Store) -> Iterator[tuple[Unit, dict[str, Any] | Exception]]:
    made = open_fold(job.data, job.manifest, job.held_out, job.setting)
    start = open_start(job.encoder, made.source, lambda _: None)
    if start.digest != job.encoder_digest:
        raise UsageError(f"{job.encoder} has changed since the evaluation began: run it again")
    world = current(cast(Device, job.setting.device))
    if job.units[0].use == FINETUNE:
        yield job.units[0], finetuned(job, made, start, world, store)
    else:
        yield from probed(job, made, start, world, store)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def finetuned(job: Job, made: Experiment, start: Start, world: World, store: Store) -> dict[str, Any]:
    """Train everything on the unit's labels, and score whole held-out scenes."""
    (unit,), setting, began = job.units, job.setting, time.monotonic()
    run = setting.run.model_copy(update={"seed": unit.seed})
    labels = labels_of(made, unit, run.task)
    task = made.task if unit.fraction == 1 else replace(made.task, tiles=made.task.training_tiles()[labels.chosen])
    place = f"work/{unit.digest}"
    with contextlib.redirect_stderr(io.StringIO()):  # many short trainings: only the evaluation's own progress counts
        network, encoder_card = train_seed(task, start, run, f"{setting.out.rstrip('/')}/{place}", world)
    legend = task_legend(task.legend, run.task)
    scorer = Scorer(network, run.task, legend, task.legend, run.crop.size, world.device)
    seen = scorer.gathered(scored_scenes(task.corpus, run.task, task.held_out))
    whole = functools.reduce(operator.add, seen.values())
    matrix = whole.matrix if isinstance(whole, Confusion) else None
    shown = ""
    if unit.pictures and run.task.kind == "segmentation":
        shown = most_mixed({name: one.matrix for name, one in seen.items() if isinstance(one, Confusion)})
        put_maps(store, unit, task, scorer, shown)
    if setting.keep_models:
        # Named by the unit, as its file is.
        card = card_of(task, start, run, encoder_card, whole.result()).model_copy(update={"run_digest": unit.digest})
        store.put(f"models/{unit.digest}.safetensors", model_bytes(network, card))
    record = _record(made, unit, labels, whole.result().flat(), matrix, began)
    return record | {"scenes": {name: one.result().flat() for name, one in seen.items()}, "map": shown}


def probed(
    job: Job, made: Experiment, start: Start, world: World, store: Store
) -> Iterator[tuple[Unit, dict[str, Any] | Exception]]:
    """Probe frozen features, which are made for as many units at once as memory allows (``MOST_KNOWN``)."""
    setting, dials, task, device = job.setting, job.setting.probing, made.task, world.device
    run = setting.run.model_copy(update={"seed": job.units[0].seed})
    learn = training_images(task, dials.cell_px, run.task)
    held = held_out_images(task, dials.cell_px, run.task)
    cells, asked = _cells(made, dials.cell_px, run.task, learn, held)
    asked = asked.take(draw_cells(asked, None, dials.most_cells, (0,)))
    if not len(asked) or not len(cells):
        raise UsageError(f"no cell of {dials.cell_px} px is labelled by half: give a smaller --cell")
    labels = {(u.fraction, u.seed): labels_of(made, u, run.task) for u in job.units}
    drawn = {k: draw_cells(cells, one.chosen, dials.most_cells, (1, k[1])) for k, one in labels.items()}
    encoder, card = make_encoder(task, start, run)
    encoder = calibrated(encoder.to(device), calibration_batches(learn, card, device))
    stages = sorted({u.stage for u in job.units})
    queries = features(encoder, card, held, asked, stages, device)
    legend = task_legend(task.legend, run.task)
    for units, wanted in _rounds(job.units, drawn, MOST_KNOWN // sum(encoder.channels[s - 1] for s in stages)):
        known = features(encoder, card, learn, cells.take(wanted), stages, device) if len(wanted) else {}
        for unit in units:
            began, which = time.monotonic(), drawn[unit.fraction, unit.seed]
            try:
                if not len(which):
                    raise UsageError(
                        f"no cell of {dials.cell_px} px in these tiles is labelled by half: a smaller --cell"
                    )
                rows = torch.from_numpy(np.searchsorted(wanted, which)).to(device)
                x, y = known[unit.stage][rows], torch.from_numpy(cells.classes[which]).to(device)
                found = classify(unit.use, x, y, queries[unit.stage], dials.neighbours, dials.l2)
                matrix = confusion_matrix(asked.classes.astype(np.uint8), found, len(legend.ids))
                if unit.pictures and unit.stage == stages[-1]:
                    few = draw_cells(asked, None, MOST_POINTS, (2,))
                    points, shares = plane(x, queries[unit.stage][torch.from_numpy(few).to(device)])
                    put_embedding(store, unit, points, shares, asked.classes[few])
            except Exception as error:
                yield unit, error
                continue
            record = _record(made, unit, labels[unit.fraction, unit.seed], scores(matrix, legend).flat(), matrix, began)
            yield unit, record | {"cells": {"train": len(which), "scored": len(asked)}}
        known.clear()  # before the next are made


def _rounds(
    units: Iterable[Unit], drawn: Mapping[tuple[float, int], NDArray[np.int64]], most: int
) -> Iterator[tuple[list[Unit], NDArray[np.int64]]]:
    """Deal units, seed by seed, to rounds of at most ``most`` cells together; gives the cells of each, sorted."""
    chosen, wanted = list[Unit](), np.zeros(0, np.int64)
    for _, group in itertools.groupby(sorted(units, key=lambda u: u.seed), key=lambda u: u.seed):
        own = list(group)
        cells = np.unique(np.concatenate([drawn[u.fraction, u.seed] for u in own]))
        together = np.union1d(wanted, cells)
        if chosen and len(together) > most:
            yield chosen, wanted
            chosen, together = [], cells
        chosen, wanted = chosen + own, together
    if chosen:
        yield chosen, wanted


def labels_of(made: Experiment, unit: Unit, config: TaskConfig) -> Fraction:
    """Give the share of the training labels of a unit: equal for every encoder and use."""
    tiles = made.task.training_tiles()
    counts = _counts(made, config)
    return label_fraction([made.task.corpus.key(int(n)) for n in tiles], counts, unit.fraction, unit.seed)


_READ: dict[str, tuple[Cells, Cells]] = {}
"""Labelled cells to learn from and held out, of the fold that the last job of this process read."""


def _cells(made: Experiment, cell_px: int, config: TaskConfig, learn: Images, held: Images) -> tuple[Cells, Cells]:
    task = made.task
    key = digest([task.corpus.manifest.digest, task.train, task.held_out, cell_px, config.model_dump(mode="json")])
    if key not in _READ:
        _READ.clear()
        _READ[key] = Cells.of(learn), Cells.of(held)
    return _READ[key]


_COUNTED: dict[tuple[str, tuple[str, ...], str], NDArray[np.int64]] = {}
"""Labels of the training tiles by (manifest, scenes, task), for the jobs of one process."""


def _counts(made: Experiment, config: TaskConfig) -> NDArray[np.int64]:
    task = made.task
    key = (task.corpus.manifest.digest, task.train, digest(config.model_dump(mode="json")))
    if key not in _COUNTED:
        _COUNTED[key] = label_counts(task.corpus, task.training_tiles(), task.legend, config)
    return _COUNTED[key]


def _record(
    made: Experiment,
    unit: Unit,
    labels: Fraction,
    metrics: Mapping[str, float | None],
    matrix: NDArray[np.int64] | None,
    began: float,
) -> dict[str, Any]:
    tiles = made.task.training_tiles()[labels.chosen]
    return {
        "format": RECORD,
        "task": unit.task,
        "fraction": unit.fraction,
        "seed": unit.seed,
        "held_out": list(made.task.held_out),
        "labels": {
            "tiles": len(tiles),
            "share": labels.share,
            "digest": sha256("\n".join(made.task.corpus.key(int(n)) for n in tiles).encode()),
        },
        "metrics": dict(metrics),
        "matrix": None if matrix is None else matrix.tolist(),
        "seconds": round(time.monotonic() - began, 3),
    }


def put_unit(store: Store, unit: Unit, record: Mapping[str, Any]) -> None:
    """Put what a unit found, once, and remove what its training left."""
    with suppress(AlreadyExists):  # another worker found the same
        store.put_once(unit.key, canonical_json(record))
    store.delete(f"{FAILED}/{unit.digest}.json")
    _clear(store, unit.digest)


def tidy(store: Store, units: Iterable[Unit]) -> None:
    """Remove what earlier runs left of these units: notes of failures, which are tried again, and finished work."""
    names = {(unit.data, unit.encoder, unit.task) for unit in units}
    for info in list(store.list(f"{FAILED}/")):
        with suppress(NotFound):  # another run has removed it
            note = json.loads(store.get(info.key))
            if (note["data"], note["encoder"], note["task"]) in names:  # a repaired encoder has other digests
                store.delete(info.key)
    done = _finished(store)
    for name in {info.key.split("/")[1] for info in store.list("work/")}:
        if f"units/{name}.json" in done:  # killed between the result and the removal
            _clear(store, name)


def _clear(store: Store, name: str) -> None:
    for left in list(store.list(f"work/{name}/")):
        store.delete(left.key)
    if isinstance(store, FolderStore):  # whose folders stay when they are empty
        shutil.rmtree(store.root / "work" / name, ignore_errors=True)


def put_failure(store: Store, unit: Unit, error: Exception) -> str:
    """Leave a note of what went wrong, and give it in one line; the unit is tried again in the next run."""
    known = isinstance(error, SarsenseError)
    said = str(error) if known else f"{type(error).__name__}: {error}"
    trace = "" if known else "".join(traceback.format_exception(error))
    record = {"task": unit.task, "encoder": unit.encoder, "data": unit.data, "reason": said, "trace": trace}
    store.put(f"{FAILED}/{unit.digest}.json", json.dumps(record, indent=1).encode())
    return said


def _finished(store: Store) -> set[str]:
    """Give the keys of the results that are there."""
    return {info.key for info in store.list("units/")}


def read_units(store: Store, units: Iterable[Unit]) -> dict[str, dict[str, Any]]:
    """Give the records that are there, by digest."""
    there = _finished(store)
    return {unit.digest: json.loads(store.get(unit.key)) for unit in units if unit.key in there}
