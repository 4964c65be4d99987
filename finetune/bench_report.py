"""The page of an evaluation: curves, tables, confusion matrices, error maps and features, with what they mean."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from finetune.bench_figures import colours, confusion_table, curves, error_maps, key_of, planes
from finetune.bench_pictures import embedding_key, read_maps
from finetune.bench_tables import difference_text, interval_text, p_text, scale, value_text
from finetune.bench_units import FINETUNE, SEED, Plan, Unit
from finetune.legend import Legend
from finetune.start import RANDOM
from finetune.statistics import Line
from finetune.targets import task_legend
from infra.report import figure, note, page, section, table
from infra.store import NotFound, Store

Records = Mapping[str, Mapping[str, Any]]


def make_page(
    store: Store, plan: Plan, records: Records, tables: Mapping[str, Sequence[Line]], failed: Mapping[str, str]
) -> bytes:
    """Make the self-contained HTML page; what is missing is said."""
    parts = [section("Encoders", _encoders(plan)), section("How to read this", *map(note, meaning(plan)))]
    parts.append(section("At a glance", *_glance(plan, tables)))
    for name in plan.data:
        parts.append(section(f"{name}: scores", *_scores(plan, name, tables)))
        parts.append(section(f"{name}: confusion", *_confusion(plan, name, records)))
        parts.append(section(f"{name}: errors on a map", *_maps(store, plan, name, records)))
        parts.append(section(f"{name}: features", *_planes(store, plan, name)))
    if failed:
        parts.append(section("What failed", table(("encoder", "data", "units", "reason"), failures(plan, failed))))
    parts += [section("Data and folds", _data(plan)), section("Dials of fine-tuning", _dials(plan))]
    there = sum(unit.digest in records for unit in plan.units)
    names = f"{', '.join(plan.encoders)} on {', '.join(plan.data)}"
    subtitle = f"{names}: {there} of {len(plan.units)} units done"
    return page("Encoders side by side", subtitle, parts)


def meaning(plan: Plan) -> Iterator[str]:
    """Say what the numbers are and are not."""
    bench, probing = plan.bench, plan.bench.probing
    if bench.hold_out:
        dealt = f"The scenes {bench.hold_out} are held out for every seed."
    else:
        each = "every seed holds out each fold in turn" if bench.all_folds else "seed s holds out fold s mod folds"
        dealt = f"Labelled scenes, sorted by name, are dealt in turn to {bench.folds} folds; {each}."
    yield (
        f"{dealt} Whole scenes are held out, and tiles that show their ground are treated as --same-ground"
        f" {bench.same_ground} says. Nothing is chosen on the held-out scenes: the model after the last step is scored,"
        " and strengths and neighbours were fixed beforehand."
    )
    yield (
        "A share of the labels is drawn by the seed, by whole tiles, so that every class keeps some and a"
        " smaller share lies within a larger one. All encoders get the same folds, tiles and seeds: differences are"
        " taken run by run."
    )
    if set(bench.uses) - {FINETUNE}:
        yield (
            "knn and linear read frozen features. The statistics of batch norm are first taken anew from training"
            " images without their labels, for every encoder, random ones too. Features are brought to cells of"
            f" {probing.cell_px} px (one for a tile that has one answer), the class of a cell is that of most of its"
            f" pixels where half of them are labelled, and features are standardised by the cells that teach. At most"
            f" {probing.most_cells:,} cells teach, and at most as many are scored. knn: {probing.neighbours} neighbours"
            f" by cosine; linear: multinomial logistic regression with an L2 strength of {probing.l2:g}. The number"
            " behind the name is the stage."
        )
    if FINETUNE in bench.uses:
        yield "finetune trains everything and scores whole held-out scenes; its numbers are of pixels, not of cells."
    if bench.run.task.kind in ("segmentation", "classification"):
        yield (
            "Means over classes (mIoU, mF1) run over those that occur in the truth or the prediction of a run. A class"
            " that is neither there nor found is left out; one that is found but not there, or there but not found,"
            " counts 0: in a fold without a rare class, one wrong pixel of it costs its whole share of the mean."
        )
    if bench.run.task.kind == "regression":
        yield "rmse: less is better, a difference below 0 is a gain. r2: more is better."
    yield (
        "Bars and bands are 95 % intervals of the mean over seeds and folds (bootstrap, BCa), ± is the standard"
        " deviation. Differences to the reference are paired; p is of Student's t, Holm's correction is over all lines"
        " of one score, and sign p is of random changes of sign, never below 2 / 2^n for n pairs. Runs share training"
        " scenes, so intervals are rather too narrow than too wide."
    )


def _encoders(plan: Plan) -> str:
    rows = []
    for name, facts in plan.encoders.items():
        digests = list(dict.fromkeys(facts["digests"].values()))
        file = "weights drawn by the seed" if facts["url"] == RANDOM else ", ".join(d[:12] for d in digests)
        each = " (one for each seed)" if SEED in facts["url"] else ""
        mark = " (reference)" if name == plan.bench.reference else ""
        kind = "" if facts["depth"] is None else f"ResNet-{facts['depth']}"
        rows.append((name + mark, kind, facts["url"] + each, file if digests else "could not be opened"))
    return table(("name", "network", "from", "SHA-256"), rows)


def _glance(plan: Plan, tables: Mapping[str, Sequence[Line]]) -> Iterator[str]:
    """Give the first score of every use with the most labels, encoders side by side."""
    metric, lines = next(iter(tables.items()))
    most = max(plan.bench.fractions)
    found = {
        (line.dataset, line.task, line.encoder): f"{value_text(line)} ({line.summary.runs})"
        for line in lines
        if line.fraction == most
    }
    rows = [
        (data, task, *(found.get((data, task, name), "") for name in plan.encoders))
        for data, task in dict.fromkeys(key[:2] for key in found)
    ]
    yield note(
        f"{metric}{'' if scale(metric) == 1 else ', %'}: mean ± standard deviation (runs)"
        f" with {100 * most:g} % of the labels."
    )
    yield table(("data", "use", *plan.encoders), rows)


def _scores(plan: Plan, data: str, tables: Mapping[str, Sequence[Line]]) -> Iterator[str]:
    colour = colours(list(plan.encoders), plan.bench.reference)
    for metric, lines in tables.items():
        own = [line for line in lines if line.dataset == data]
        if not own:
            yield note(f"{metric}: nothing is done yet.")
            continue
        yield figure(curves(own, colour), f"{metric} over the share of labels.")
        yield f"<div style='white-space:nowrap'>{table(_HEAD, map(_row, own))}</div>"


_HEAD = (
    *("use", "labels", "encoder", "mean ± std", "95 % interval", "runs"),
    *("difference", "95 % interval", "effect", "p", "p, Holm", "sign p"),
)


def _row(line: Line) -> tuple[Any, ...]:
    own = (line.task, f"{100 * line.fraction:g} %", line.encoder, value_text(line), interval_text(line))
    other = line.versus
    if other is None:
        return *own, line.summary.runs, "", "", "", "", "", ""
    k = scale(line.metric)
    between = f"{k * other.interval.low:+.2f} to {k * other.interval.high:+.2f}"
    effect = "" if other.effect is None else f"{other.effect:.2f}"
    return (
        *own,
        line.summary.runs,
        difference_text(line),
        between,
        effect,
        f"{other.t_p:.3g}",
        p_text(line),
        f"{other.sign_p:.3g}",
    )


def legend_of(plan: Plan, data: str) -> Legend:
    """Give the classes that the task finds in a data set."""
    return task_legend(Legend.model_validate(plan.data[data]["legend"]), plan.bench.run.task)


def _most(plan: Plan, data: str) -> Iterator[tuple[str, list[tuple[str, list[Unit]]]]]:
    """Give for each use, at the most labels and the last stage, every encoder's units."""
    bench = plan.bench
    for use in bench.uses:
        stage = 0 if use == FINETUNE else bench.probing.stages[-1]
        units = [
            u for u in plan.units if (u.data, u.use, u.stage, u.fraction) == (data, use, stage, max(bench.fractions))
        ]
        yield (
            use if use == FINETUNE else f"{use}-{stage}",
            [(name, [u for u in units if u.encoder == name]) for name in plan.encoders],
        )


def _confusion(plan: Plan, data: str, records: Records) -> Iterator[str]:
    legend = legend_of(plan, data)
    yield note(f"All runs with {100 * max(plan.bench.fractions):g} % of the labels, added up; shares are of the truth.")
    for task, encoders in _most(plan, data):
        for name, units in encoders:
            matrices = [records[u.digest]["matrix"] for u in units if u.digest in records]
            if matrices and matrices[0] is not None:
                what = "pixels" if task == FINETUNE and not plan.bench.run.task.tiles else "cells"
                what = "tiles" if plan.bench.run.task.tiles else what
                yield confusion_table(np.sum(matrices, 0), legend, f"{name}, {task}: {what} of {len(matrices)} runs")


def _maps(store: Store, plan: Plan, data: str, records: Records) -> Iterator[str]:
    legend, facts = legend_of(plan, data), plan.data[data]
    units = [u for u in plan.units if u.data == data and u.use == FINETUNE and u.pictures]
    if not units or plan.bench.run.task.kind != "segmentation":
        yield note("Maps come with fine-tuning of segmentation.")
        return
    done = [u for u in units if records.get(u.digest, {}).get("map")]
    read = [(u, read_maps(store, u, facts["used"][u.fold], records[u.digest]["map"])) for u in done]
    found = [(u.encoder, maps) for u, maps in read if maps is not None]
    if not found:
        yield note("No map was stored.")
        return
    first, scene = done[0], str(records[done[0].digest]["map"])
    yield note(
        f"The held-out scene of fold {first.fold} with the most mixed classes, after fine-tuning (seed {first.seed})"
        f" on {100 * first.fraction:g} % of the labels."
    )
    yield key_of(legend)
    yield error_maps(found, legend, scene)


def _planes(store: Store, plan: Plan, data: str) -> Iterator[str]:
    wanted = [u for u in plan.units if u.data == data and u.pictures and u.stage == plan.bench.probing.stages[-1]]
    found: dict[str, Mapping[str, Any]] = {}
    for unit in wanted:
        try:
            found.setdefault(unit.encoder, json.loads(store.get(embedding_key(unit))))
        except NotFound:
            continue
    if not found:
        yield note("No features were stored: they come with knn and linear.")
        return
    text = (
        f"Held-out cells of stage {wanted[0].stage}, seed {wanted[0].seed}, fold {wanted[0].fold}, on the two"
        " directions in which the standardised features spread most (and the share of the spread that each has)."
    )
    yield figure(planes(list(found.items()), legend_of(plan, data)), text)


def failures(plan: Plan, failed: Mapping[str, str]) -> list[tuple[str, str, int, str]]:
    """Give what failed, units of the same encoder, data and reason together."""
    counts: dict[tuple[str, str, str], int] = {}
    for unit in plan.units:
        if unit.digest in failed:
            key = unit.encoder, unit.data, failed[unit.digest]
            counts[key] = counts.get(key, 0) + 1
    return [(encoder, data, count, reason) for (encoder, data, reason), count in counts.items()]


def _data(plan: Plan) -> str:
    rows = [
        (name, facts["url"], facts["manifest"][:12], fold, ", ".join(scenes))
        for name, facts in plan.data.items()
        for fold, scenes in facts["folds"].items()
    ]
    notes = [line for facts in plan.data.values() for line in facts["notes"]]
    return table(("data", "from", "manifest", "fold", "held out"), rows) + "".join(map(note, notes))


def _dials(plan: Plan) -> str:
    from pretrain.trackers import flat

    return table(
        ("dial", "value"), [(n, str(v)) for n, v in sorted(flat(plan.bench.run.model_dump(mode="json")).items())]
    )
