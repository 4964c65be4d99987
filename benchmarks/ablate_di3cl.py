"""What each part of DI3CL is worth: named variants x encoder seeds, judged with frozen weights over label seeds.

    .venv/bin/python benchmarks/ablate_di3cl.py CORPUS WATER_CORPUS SAN_ANTONIO --folder RUNS --out RESULT.json

Every variant is di3cl_laptop_faithful with the dials below, the same steps, seeds and tiles. Judged at every stage,
with batch norm calibrated on the images, without labels: mIoU of water by nearest neighbours from few labelled cells
of the other chips (Sen1Floods11, four folds), and R2 of a vegetation index by ridge regression (San Antonio, half of
the tiles held out). A label seed draws the cells. Fixed beforehand: variants, seeds, neighbours, labels.

May be ended at any time: runs go on from their checkpoints, judged encoders are in RESULT.json and not judged again.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_water import CALIBRATION_BATCH, PROBE_CELLS, chips, folds, interval, miou, ridge, san_antonio, stages
from measure import machine, save
from torch import Tensor

from finetune.bench_frozen import calibrated
from finetune.legend import IGNORED
from pretrain.config import InputSpec, resolve, validate
from pretrain.di3cl_run import DI3CLRun
from pretrain.encoder import ResNet, adapt_bands, to_input
from pretrain.export import load_encoder
from pretrain.knn import nearest_classes
from pretrain.launch import Job, launch
from shards.reader import Corpus

BASE = "di3cl_laptop_faithful"
RANDOM = "random"
CELLS: dict[str, Any] = {"kind": "cells", "stage": 2, "cells": 2, "chosen": 8}
VARIANTS: Mapping[str, Mapping[str, Mapping[str, Any]] | None] = {
    RANDOM: None,
    "moco": {"loss": {"instance": 1.0, "contour": 0.0, "region": 0.0}},
    "faithful": {},
    "faithful + contours at edges": {"contour": CELLS, "loss": {"contour": 0.8}},
    "faithful + mean weighted by edges": {"contour": {"kind": "edges"}},
    "faithful + redundancy": {"loss": {"redundancy": 4.0}},
    "faithful + symmetric": {"loss": {"symmetric": True}},
    "faithful + regions of stage 3": {"region": {"stage": 3}},
    "faithful + larger regions": {"views": {"min_box_px": 40}},
    "faithful + gain": {"augment": {"gain_share": 0.8, "gain_db": 3.0}},
    "di3cl": {"contour": CELLS, "loss": {"contour": 0.8, "redundancy": 4.0}},
}
NEIGHBOURS, LABELS, RIDGE_CELLS = 20, 2000, 8192


def run_of(variant: str, seed: int, steps: int) -> DI3CLRun:
    values = resolve(DI3CLRun, run=BASE).model_dump(mode="json")
    for group, dials in (VARIANTS[variant] or {}).items():
        values[group] |= dials
    return validate(DI3CLRun, values | {"seed": seed, "steps": steps}, variant)


def encoder_of(variant: str, seed: int, corpus: str, folder: Path, steps: int) -> tuple[ResNet, InputSpec]:
    """Train where that was not done before. Gives the encoder and how it sees."""
    run = run_of(variant, seed, steps)
    if VARIANTS[variant] is None:
        torch.manual_seed(seed)
        return ResNet(run.encoder.depth, run.encoder.bands), run.input
    out = folder / f"{variant.replace(' ', '-')}-{seed}-{steps}"
    if not (out / "encoder.safetensors").exists():
        summary = launch(Job("di3cl", run, corpus, str(out), "cpu", 1))
        if summary is None or not summary.finished:
            raise SystemExit("stopped; the same command goes on from here")
    encoder, card = load_encoder(str(out / "encoder.safetensors"))
    return encoder, card.input


def water(data: str, encoder: ResNet, spec: InputSpec, seeds: Sequence[int]) -> list[list[float]]:
    """Give mIoU [stage][label seed], the mean over folds."""
    corpus = Corpus.open(data)
    scenes, codes, label = chips(corpus)
    truth = torch.from_numpy(label.astype(np.int64)).flatten(1)
    bands = codes.shape[1]
    seeing = encoder if encoder.bands == bands else adapt_bands(encoder, bands)
    images = to_input(torch.from_numpy(codes.astype(np.int32)), corpus.scale, spec.model_copy(update={"bands": bands}))
    maps = [m.flatten(1, 2) for m in stages(calibrated(seeing, images.split(CALIBRATION_BATCH)), images, PROBE_CELLS)]
    held = [[scenes.index(s) for s in pair] for pair in folds(scenes)]
    return [[statistics.fmean(neighbours(m, truth, h, seed) for h in held) for seed in seeds] for m in maps]


def neighbours(maps: Tensor, truth: Tensor, held: list[int], seed: int) -> float:
    """Give mIoU of chips ``held`` from LABELS cells of the others; maps (chips, cells, C), truth (chips, cells)."""
    rest = [n for n in range(len(maps)) if n not in held]
    x, y = maps[rest].flatten(0, 1), truth[rest].flatten()
    x_held, y_held = maps[held].flatten(0, 1), truth[held].flatten()
    known, asked = (y != IGNORED).nonzero()[:, 0], y_held != IGNORED
    drawn = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))[:LABELS]]
    mean, deviation = x[drawn].mean(0), x[drawn].std(0) + 1e-6
    labelled, queries = ((v - mean) / deviation for v in (x[drawn], x_held[asked]))
    return miou(y_held[asked].numpy(), nearest_classes(labelled, y[drawn], queries, NEIGHBOURS).numpy())


def vegetation(folder: Path, encoder: ResNet, spec: InputSpec, seeds: Sequence[int]) -> list[list[float]]:
    """Give R2 [stage][label seed] of (G - R) / (G + R)."""
    seen, y = san_antonio(folder, spec, PROBE_CELLS)
    seeing = encoder if encoder.bands == 1 else adapt_bands(encoder, 1)
    maps = stages(calibrated(seeing, seen[::2, :, :512, :512].split(CALIBRATION_BATCH)), seen, PROBE_CELLS)
    return [[drawn_ridge(m.flatten(1, 2), y.flatten(1), seed) for seed in seeds] for m in maps]


def drawn_ridge(maps: Tensor, y: Tensor, seed: int) -> float:
    """Give R2 from RIDGE_CELLS cells of every other tile on as many of the rest; maps (tiles, cells, C)."""
    generator = torch.Generator().manual_seed(seed)
    halves = [(maps[k::2].flatten(0, 1), y[k::2].flatten()) for k in (0, 1)]
    drawn = [torch.randperm(len(t), generator=generator)[:RIDGE_CELLS] for _, t in halves]
    x, t = (torch.stack([half[part][d] for half, d in zip(halves, drawn, strict=True)]) for part in (0, 1))
    return ridge(x, t)


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Average over label seeds, then over encoder seeds; differences to the faithful run are paired by encoder seed."""
    found: dict[str, Any] = {}
    for variant in dict.fromkeys(r["variant"] for r in rows):
        for task in ("water_miou", "vegetation_r2"):
            for stage in range(4):
                own, base = (by_seed(rows, name, task, stage) for name in (variant, "faithful"))
                both = [own[s] - base[s] for s in own if s in base]
                scores = found.setdefault(variant, {}).setdefault(task, [])
                scores.append(interval(list(own.values())) | ({"over_faithful": interval(both)} if both else {}))
    return found


def by_seed(rows: Sequence[Mapping[str, Any]], variant: str, task: str, stage: int) -> dict[int, float]:
    return {r["seed"]: statistics.fmean(r[task][stage]) for r in rows if r["variant"] == variant}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("corpus", "water"):
        parser.add_argument(name)
    parser.add_argument("san_antonio", type=Path)
    parser.add_argument("--folder", type=Path, required=True, help="where runs go, and are found again")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variants", default=",".join(VARIANTS), help="names, separated by commas")
    parser.add_argument("--encoder-seeds", type=int, default=5)
    parser.add_argument("--label-seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    torch.set_num_threads(1)
    before = machine()
    dials = {"steps": args.steps, "label_seeds": args.label_seeds}
    earlier = json.loads(args.out.read_text()) if args.out.exists() else dials
    if any(earlier[name] != value for name, value in dials.items()):
        raise SystemExit(f"{args.out} was made with other steps or label seeds: give the same, or another --out")
    rows: list[dict[str, Any]] = earlier.get("rows", [])
    seeds = range(args.label_seeds)
    # Seeds outside: an ablation that is ended early has few seeds of every variant.
    for seed in range(args.encoder_seeds):
        for variant in args.variants.split(","):
            if any((r["variant"], r["seed"]) == (variant, seed) for r in rows):
                continue
            make = partial(encoder_of, variant, seed, args.corpus, args.folder, args.steps)
            scores = {
                "water_miou": water(args.water, *make(), seeds),
                "vegetation_r2": vegetation(args.san_antonio, *make(), seeds),
            }
            rows.append({"variant": variant, "seed": seed, **scores})
            args.out.write_text(json.dumps({**dials, "rows": rows}))
            print(variant, seed, {n: [round(statistics.fmean(v), 4) for v in s] for n, s in scores.items()}, flush=True)
    save(args.out, before, {**dials, "variants": VARIANTS, "rows": rows, "summary": summary(rows)})


if __name__ == "__main__":
    main()
