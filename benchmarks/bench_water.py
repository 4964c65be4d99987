"""Does an encoder help to find water? Sen1Floods11, eight chips in four fixed pairs, each pair held out once.

    .venv/bin/python benchmarks/bench_water.py WATER_CORPUS ENCODER [--seeds 3] [--steps 40] [--san-antonio FOLDER]

Fixed beforehand: the chips in alphabetical order, two and two, are the folds; the encoder and random weights take the
same run (few-labels-cpu), seeds and crops, and nothing is chosen by the held-out pair. Beside that: frozen features
of every stage (batch norm calibrated on the chips, without labels) under a logistic regression, and a ridge
regression of a vegetation index on features of San Antonio, with half of the tiles held out.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from measure import machine, save
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from finetune.bench_frozen import calibrated
from finetune.config import FinetuneRun
from finetune.fit import fit_seed
from finetune.legend import IGNORED
from finetune.predict import labelled_scenes, scene_tiles
from finetune.start import RANDOM, Start, Task, open_start, open_task
from infra.world import current
from pretrain.config import InputSpec, resolve
from pretrain.encoder import ResNet, adapt_bands, normalise, to_input
from pretrain.export import load_encoder
from shards.reader import Corpus

PROBE_CELLS, CALIBRATION_BATCH = 64, 8
AMPLITUDE_OFFSET_DB = -53.0  # as tests/real_inputs.py places 8-bit amplitudes

Encoder = Callable[[], ResNet]


def folds(scenes: Sequence[str]) -> list[tuple[str, ...]]:
    """Pair scenes in alphabetical order."""
    names = sorted(scenes)
    return [tuple(names[i : i + 2]) for i in range(0, len(names), 2)]


def run_of(steps: int, seed: int) -> FinetuneRun:
    base = resolve(FinetuneRun, run="few-labels-cpu", package="finetune.runs")
    return base.model_copy(update={"steps": steps, "seed": seed})


def score(task: Task, start: Start, run: FinetuneRun) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return fit_seed(task, start, run, folder, current("cpu"))[2].miou


def interval(values: Sequence[float]) -> dict[str, float]:
    """Give the mean, and the half width of its 95 % interval by Student's t."""
    from scipy.stats import t

    n = len(values)
    half = float(t.ppf(0.975, n - 1)) * statistics.stdev(values) / n**0.5 if n > 1 else float("nan")
    return {"mean": statistics.fmean(values), "half_width_95": half, "n": n}


def fine_tuning(
    data: str, starts: dict[str, Start], seeds: int, few: int | None, run: Callable[[int], FinetuneRun]
) -> dict[str, Any]:
    pairs = folds(labelled_scenes(Corpus.open(data)))
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        for number, pair in enumerate(pairs):
            task = open_task(data, pair, print)
            if few is not None:
                drawn = np.random.default_rng([number, seed]).permutation(task.train)[:few]
                task = replace(task, train=tuple(sorted(drawn.tolist())))
            found = {name: score(task, start, run(seed)) for name, start in starts.items()}
            print(json.dumps({"seed": seed, "held_out": pair, **found}), flush=True)
            rows.append({"seed": seed, "held_out": pair, "train": task.train, **found})
    return {"rows": rows, **summary(rows, list(starts), seeds)}


def summary(rows: Sequence[dict[str, Any]], names: Sequence[str], seeds: int) -> dict[str, Any]:
    """Average over folds first, so that each seed is one draw of the whole protocol."""
    by_seed = {n: [statistics.fmean(r[n] for r in rows if r["seed"] == s) for s in range(seeds)] for n in names}
    first, second = (by_seed[n] for n in names[:2])
    return {
        "by_seed": by_seed,
        "means": {n: interval(v) for n, v in by_seed.items()},
        "difference": interval([a - b for a, b in zip(first, second, strict=True)]),
        "difference over folds and seeds": interval([r[names[0]] - r[names[1]] for r in rows]),
    }


def shuffled(encoder: ResNet, seed: int) -> ResNet:
    """Mix the weights within each convolution: their sizes stay, what was learned goes."""
    generator = torch.Generator().manual_seed(seed)
    for part in encoder.modules():
        if isinstance(part, nn.Conv2d):
            flat = part.weight.detach().flatten()
            part.weight.data = flat[torch.randperm(len(flat), generator=generator)].view_as(part.weight)
    return encoder


def encoders(url: str, bands: int, seeds: int) -> dict[str, Encoder]:
    def loaded() -> ResNet:
        encoder = load_encoder(url)[0]
        return encoder if encoder.bands == bands else adapt_bands(encoder, bands)

    def fresh(seed: int) -> Encoder:
        def make() -> ResNet:
            torch.manual_seed(seed)
            return ResNet(load_encoder(url)[0].depth, bands)

        return make

    made: dict[str, Encoder] = {"encoder": loaded}
    made |= {f"random {s}": fresh(s) for s in range(seeds)}
    return made | {f"shuffled {s}": lambda s=s: shuffled(loaded(), s) for s in range(seeds)}  # type: ignore[misc]


@torch.no_grad()
def stages(encoder: ResNet, images: Tensor, cells: int) -> list[Tensor]:
    """Give each stage's features (N, cells, cells, C)."""
    maps = [encoder(image[None]) for image in images]
    return [
        torch.cat([functional.interpolate(m[k], (cells, cells), mode="bilinear") for m in maps]).movedim(1, -1)
        for k in range(4)
    ]


def logistic(x: Tensor, y: Tensor, l2: float = 3e-3, rounds: int = 25) -> Callable[[Tensor], Tensor]:
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    weights = torch.zeros(x.shape[1] + 1, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=rounds, line_search_fn="strong_wolfe")
    seen = (x - mean) / deviation

    def loss() -> Tensor:
        optimiser.zero_grad()
        logits = seen @ weights[:-1] + weights[-1]
        value = functional.binary_cross_entropy_with_logits(logits, y) + l2 * (weights[:-1] ** 2).sum()
        value.backward()
        return value

    optimiser.step(loss)
    return lambda z: ((z - mean) / deviation) @ weights[:-1].detach() + weights[-1].detach() > 0


def miou(truth: NDArray[np.int64], found: NDArray[np.int64]) -> float:
    matrix = np.bincount(truth * 2 + found, minlength=4).reshape(2, 2)
    hit = np.diag(matrix)
    return float((hit / (matrix.sum(0) + matrix.sum(1) - hit)).mean())


def chips(corpus: Corpus) -> tuple[list[str], NDArray[np.uint16], NDArray[np.uint8]]:
    """Give the labelled chips by name, their codes, and the labels in the middle of PROBE_CELLS^2 cells."""
    scenes = sorted(labelled_scenes(corpus))
    whole = [scene_tiles(corpus, s) for s in scenes]
    codes = np.stack([w.pixels(0, 0, *w.shape) for w in whole])
    label = np.stack([w.label(0, 0, *w.shape) for w in whole])
    label[(codes == 0).all(1)] = IGNORED
    step = codes.shape[-1] // PROBE_CELLS
    return scenes, codes, label[:, step // 2 :: step, step // 2 :: step]


def frozen(data: str, url: str, seeds: int) -> dict[str, list[list[float]]]:
    """Give mIoU [stage][fold] of a logistic regression on frozen features, at cells of 8 px."""
    corpus = Corpus.open(data)
    scenes, codes, label = chips(corpus)
    spec = load_encoder(url)[1].input.model_copy(update={"bands": codes.shape[1]})
    images = to_input(torch.from_numpy(codes.astype(np.int32)), corpus.scale, spec)
    found = {}
    for name, make in encoders(url, codes.shape[1], seeds).items():
        maps = stages(calibrated(make(), images.split(CALIBRATION_BATCH)), images, PROBE_CELLS)
        found[name] = [[probe(m, label, scenes.index(p[0]), len(p)) for p in folds(scenes)] for m in maps]
        print("frozen", name, np.round(np.mean(found[name], 1), 4), flush=True)
    return found


def probe(maps: Tensor, label: NDArray[np.uint8], first: int, number: int) -> float:
    held = np.isin(np.arange(len(label)), range(first, first + number))
    x, x_held = (maps[torch.from_numpy(k)].reshape(-1, maps.shape[-1]) for k in (~held, held))
    y, y_held = (label[k].reshape(-1) for k in (~held, held))
    good, good_held = y != IGNORED, y_held != IGNORED
    classify = logistic(x[good], torch.from_numpy(y[good].astype(np.float32)))
    return miou(y_held[good_held].astype(np.int64), classify(x_held[good_held]).numpy().astype(np.int64))


def san_antonio(folder: Path, spec: InputSpec, cells: int) -> tuple[Tensor, Tensor]:
    """Give the tiles as an encoder sees them (N, 1, H, W), and (G - R) / (G + R) of cells (N, cells, cells)."""
    images, index = [], []
    for path in sorted(folder.glob("*_VH.tif")):
        with rasterio.open(path) as file:
            amplitude = file.read(1).astype(np.float32)
        with rasterio.open(str(path).replace("_VH", "_S2RGB")) as file:
            red, green = file.read()[:2].astype(np.float32)
        level_db = 20 * np.log10(np.maximum(amplitude, 1)) + AMPLITUDE_OFFSET_DB
        grey = torch.from_numpy((level_db - spec.lo_db) / (spec.hi_db - spec.lo_db)).clamp(0, 1)
        images.append(normalise(grey, torch.from_numpy(amplitude > 0), spec)[None])
        ratio = torch.from_numpy((green - red) / np.maximum(green + red, 1))
        index.append(functional.adaptive_avg_pool2d(ratio[None, None], cells)[0, 0])
    return torch.stack(images), torch.stack(index)


def vegetation(folder: Path, url: str, seeds: int, cells: int = 64) -> dict[str, list[float]]:
    """Give R2 [stage] of (G - R) / (G + R) over cells of 16 px by ridge regression, every other tile held out."""
    spec: InputSpec = load_encoder(url)[1].input.model_copy(update={"bands": 1})
    seen, y = san_antonio(folder, spec, cells)
    found = {}
    for name, make in encoders(url, 1, seeds).items():
        encoder = calibrated(make(), seen[::2, :, :512, :512].split(CALIBRATION_BATCH))
        found[name] = [ridge(m, y) for m in stages(encoder, seen, cells)]
        print("vegetation", name, np.round(found[name], 4), flush=True)
    return found


def ridge(maps: Tensor, y: Tensor, strength: float = 1e-2) -> float:
    x, x_held = (maps[k::2].reshape(-1, maps.shape[-1]).double() for k in (0, 1))
    t, t_held = (y[k::2].reshape(-1).double() for k in (0, 1))
    mean, deviation, level = x.mean(0), x.std(0) + 1e-6, t.mean()
    x, x_held = (x - mean) / deviation, (x_held - mean) / deviation
    weights = torch.linalg.solve(
        x.T @ x / len(x) + strength * torch.eye(x.shape[1], dtype=x.dtype), x.T @ (t - level) / len(x)
    )
    rest = t_held - level - x_held @ weights
    return float(1 - rest.square().sum() / (t_held - t_held.mean()).square().sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("encoder")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--few", type=int, help="train on that many chips, drawn by fold and seed")
    parser.add_argument("--parts", default="frozen,vegetation,fine-tuning")
    parser.add_argument("--san-antonio", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    before = machine()
    parts = args.parts.split(",")
    found: dict[str, Any] = {"encoder": args.encoder, "steps": args.steps, "seeds": args.seeds, "few": args.few}
    if "frozen" in parts:
        found["frozen"] = frozen(args.corpus, args.encoder, args.seeds)
    if "vegetation" in parts and args.san_antonio:
        found["vegetation"] = vegetation(args.san_antonio, args.encoder, args.seeds)
    if "fine-tuning" in parts:
        corpus = Corpus.open(args.corpus)
        starts = {
            "encoder": open_start(args.encoder, corpus, print),
            RANDOM: open_start(RANDOM, corpus, print),
        }
        found["fine-tuning"] = fine_tuning(args.corpus, starts, args.seeds, args.few, partial(run_of, args.steps))
        print(found["fine-tuning"]["means"], found["fine-tuning"]["difference"])
    if args.out:
        save(args.out, before, found)


if __name__ == "__main__":
    main()
