"""Which reading of alpha_scale in the focal loss of the ALOS-2 land cover work is best?

    .venv/bin/python benchmarks/ablate_alpha.py CORPUS [--encoder URL] [--seeds 5] [--steps 200] [--folds 4]

The text leaves open how a scale s = 0.5 enters class weights w: s w, w^s, or 1 - s + s w. All readings take the loss
and class weights of the run alos2-lulc on the network of few-labels-cpu, the same seeds, crops and folds; none
beside them has no class weights in the focal loss (blend with s = 0), dice keeps its own. Fixed beforehand: the
labelled scenes in alphabetical order are dealt into folds, each held out once, and nothing is chosen by them.

A seed's score is the mean mIoU over folds; readings are paired with "multiply" by seed, p-values after Holm.
May be ended at any time: finished trainings are in RESULT.json and are not done again.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import machine, save

from finetune.config import FinetuneRun
from finetune.fit import fit_seed
from finetune.predict import labelled_scenes
from finetune.start import Start, open_start, open_task
from finetune.statistics import holm, paired, summary
from infra.world import current
from pretrain.config import resolve, validate
from shards.reader import Corpus

READINGS: Mapping[str, Mapping[str, Any]] = {
    "multiply": {"alpha": "multiply"},
    "power": {"alpha": "power"},
    "blend": {"alpha": "blend"},
    "none": {"alpha": "blend", "alpha_scale": 0.0},
}
BASE = "multiply"
SCORES = ("miou", "mf1")


def run_of(reading: str, steps: int, seed: int) -> FinetuneRun:
    small, published = (
        resolve(FinetuneRun, run=name, package="finetune.runs").model_dump(mode="json")
        for name in ("few-labels-cpu", "alos2-lulc")
    )
    loss = published["loss"] | READINGS[reading]
    plain = small | {"loss": loss, "class_weights": published["class_weights"], "steps": steps, "seed": seed}
    return validate(FinetuneRun, plain, reading)


def folds_of(scenes: Sequence[str], number: int) -> list[list[str]]:
    """Deal scenes in alphabetical order: neighbours in the alphabet fall to different folds."""
    names = sorted(scenes)
    if not 2 <= number <= len(names):
        raise SystemExit(f"--folds {number}: expected 2 to {len(names)}, the number of labelled scenes")
    return [names[n::number] for n in range(number)]


def trained(data: str, held: Sequence[str], start: Start, run: FinetuneRun) -> dict[str, float | None]:
    task = open_task(data, held, print)
    with tempfile.TemporaryDirectory() as folder:
        flat = fit_seed(task, start, run, folder, current("auto"))[2].flat()
    return {name: flat[name] for name in (*SCORES, *(n for n in flat if n.startswith("iou/")))}


def comparison(rows: Sequence[Mapping[str, Any]], folds: int) -> dict[str, Any]:
    """Give each reading's mean with its interval over seeds that have all folds, and its pairing with the base."""
    found: dict[str, Any] = {}
    for score in SCORES:
        whole = {name: by_seed(rows, name, score, folds) for name in READINGS}
        lines: dict[str, Any] = {name: asdict(summary(list(v.values()))) for name, v in whole.items() if v}
        both = {name: sorted(set(v) & set(whole[BASE])) for name, v in whole.items() if name != BASE}
        tests = {
            name: paired([whole[name][s] for s in seeds], [whole[BASE][s] for s in seeds])
            for name, seeds in both.items()
            if len(seeds) > 1
        }
        corrected = holm([test.t_p for test in tests.values()])
        for (name, test), p in zip(tests.items(), corrected, strict=True):
            lines[name][f"over_{BASE}"] = asdict(test) | {"corrected_p": p}
        found[score] = lines
    return found


def by_seed(rows: Sequence[Mapping[str, Any]], reading: str, score: str, folds: int) -> dict[int, float]:
    values: dict[int, list[float]] = {}
    for row in rows:
        if row["reading"] == reading and row["scores"][score] is not None:
            values.setdefault(row["seed"], []).append(row["scores"][score])
    return {seed: float(np.mean(v)) for seed, v in values.items() if len(v) == folds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", help="with labels")
    parser.add_argument("--encoder", default="random", help="encoder.safetensors; random weights if left out")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "alpha.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    before, corpus = machine(), Corpus.open(args.corpus)
    start = open_start(args.encoder, corpus, print)
    held = folds_of(labelled_scenes(corpus), args.folds)
    dials = {"manifest": corpus.manifest.digest, "encoder": start.digest, "steps": args.steps, "folds": held}
    earlier = json.loads(args.out.read_text()) if args.out.exists() else dials
    if wrong := [name for name, value in dials.items() if earlier.get(name) != value]:
        raise SystemExit(f"{args.out} was made with another {wrong[0]}: give the same, or another --out")
    rows: list[dict[str, Any]] = earlier.get("rows", [])
    done = {(row["seed"], row["fold"], row["reading"]) for row in rows}
    # Seeds outside: a comparison that is ended early has few seeds of every reading.
    for seed in range(args.seeds):
        for fold, scenes in enumerate(held):
            for reading in READINGS:
                if (seed, fold, reading) in done:
                    continue
                scores = trained(args.corpus, scenes, start, run_of(reading, args.steps, seed))
                rows.append({"seed": seed, "fold": fold, "reading": reading, "scores": scores})
                args.out.write_text(json.dumps({**dials, "rows": rows}))
                print(f"seed {seed} fold {fold} {reading}: mIoU {scores['miou']}", flush=True)
    save(args.out, before, {**dials, "readings": READINGS, "rows": rows, "comparison": comparison(rows, args.folds)})


if __name__ == "__main__":
    main()
