"""Views: box geometry and two augmented 448 px views of a stored tile, beside the published way, in turn in one run.

    .venv/bin/python benchmarks/bench_views.py [--rounds 7] [--out benchmarks/results/views.json]

The published way is written here from its description: boxes by a loop over torch scalars and NumPy draws; views by
PIL on a grey image replicated to three colours (RandomResizedCrop, ColorJitter, grey, blur, mirror, to tensor,
normalise), as torchvision does them, which has no build to install here. Ours gives the same from a tile of uint16
codes: crops and boxes by the kernels, then what the device does, here the processor. One thread each. Seconds are of
the processor, the median over rounds of ratios of the same round, so that other load counts little.
"""

import argparse
import math
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import machine, save
from PIL import Image, ImageEnhance, ImageFilter

from pretrain.inputs import encoder_input
from pretrain.pair_run import PairRun, ViewConfig
from pretrain.resize import resized_crop
from pretrain.views import PairDraw, draw_pair
from shards.tile import DbScale, Tile

SIZE, SIDE, PAIRS = 448, 512, 32
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


# --- the published pipeline ---


def crop_parameters(height: int, width: int) -> tuple[int, int, int, int]:
    """RandomResizedCrop's, drawn as torchvision draws them."""
    log_ratio = torch.log(torch.tensor([0.75, 4 / 3]))
    for _ in range(10):
        target = height * width * torch.empty(1).uniform_(0.2, 1.0).item()
        aspect = torch.exp(torch.empty(1).uniform_(float(log_ratio[0]), float(log_ratio[1]))).item()
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            y = torch.randint(0, height - h + 1, (1,)).item()
            return int(y), int(torch.randint(0, width - w + 1, (1,)).item()), h, w
    return 0, 0, height, width


def hue(image: Image.Image, factor: float) -> Image.Image:
    h, s, v = image.convert("HSV").split()
    turned = np.array(h, dtype=np.uint8) + np.uint8(int(factor * 255) % 256)
    return Image.merge("HSV", (Image.fromarray(turned), s, v)).convert("RGB")


def colour_jitter(image: Image.Image) -> Image.Image:
    steps: list[Callable[[Image.Image], Image.Image]] = []
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        factor = random.uniform(0.6, 1.4)
        steps.append(lambda x, k=kind, f=factor: k(x).enhance(f))
    turn = random.uniform(-0.1, 0.1)
    steps.append(lambda x: hue(x, turn))
    for number in torch.randperm(4).tolist():
        image = steps[number](image)
    return image


def to_tensor(image: Image.Image) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
    return pixels.to(torch.float32).div(255)


def published_view(image: Image.Image, size: int = SIZE) -> tuple[torch.Tensor, list[int]]:
    y, x, h, w = crop_parameters(image.height, image.width)
    view = image.crop((x, y, x + w, y + h)).resize((size, size), Image.Resampling.BILINEAR)
    if random.random() < 0.8:
        view = colour_jitter(view)
    if random.random() < 0.2:
        grey = np.array(view.convert("L"))
        view = Image.fromarray(np.dstack([grey, grey, grey]))
    if random.random() < 0.5:
        view = view.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))
    flipped = random.random() < 0.5
    if flipped:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return (to_tensor(view) - MEAN) / STD, [y, x, h, w, int(flipped)]


def iou(a: list[float], b: list[float]) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


def published_boxes(crops1: torch.Tensor, crops2: torch.Tensor, size: int = SIZE) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes of a batch, image by image, as the training process of the published code makes them."""
    found1: list[list[float]] = []
    found2: list[list[float]] = []
    for n, (one, other) in enumerate(zip(crops1, crops2, strict=True)):
        y1, x1, h1, w1, f1 = (v.item() for v in one)
        y2, x2, h2, w2, f2 = (v.item() for v in other)
        xl, xr, yt, yb = max(x1, x2), min(x1 + w1, x2 + w2), max(y1, y2), min(y1 + h1, y2 + h2)
        if xl >= xr or yt >= yb:
            continue
        zooms = ((size / w1, size / h1), (size / w2, size / h2))
        sx, sy = min(zooms[0][0], zooms[1][0]), min(zooms[0][1], zooms[1][1])
        width, height = round((xr - xl) * sx), round((yb - yt) * sy)
        if width <= 32 or height <= 32:
            continue
        accepted: list[list[float]] = []
        for _ in range(10):
            for _ in range(50):
                nx, ny = np.random.randint(1, width // 32 + 1), np.random.randint(1, height // 32 + 1)
                gw, gh = width / nx, height / ny
                cx, cy = np.random.randint(0, nx), np.random.randint(0, ny)
                bw, bh = np.random.randint(32, math.floor(gw) + 1), np.random.randint(32, math.floor(gh) + 1)
                bx = np.random.randint(0, math.floor(gw - bw) + 1) + math.floor(cx * gw)
                by = np.random.randint(0, math.floor(gh - bh) + 1) + math.floor(cy * gh)
                candidate = [bx, by, bx + bw, by + bh]
                if all(iou(candidate, box) < 0.5 for box in accepted):
                    break
            seen = []
            for (zx, zy), x, y, flipped in ((zooms[0], x1, y1, f1), (zooms[1], x2, y2, f2)):
                left, top = bx * zx / sx + (xl - x) * zx, by * zy / sy + (yt - y) * zy
                right, bottom = left + bw * zx / sx, top + bh * zy / sy
                if flipped:
                    left, right = size - right, size - left
                seen.append([min(max(v, 0.0), float(size)) for v in (left, top, right, bottom)])
            accepted.append(seen[0])  # seen in view 1: the published code mixes two frames here
            found1.append([float(n), *seen[0]])
            found2.append([float(n), *seen[1]])
    return torch.tensor(found1), torch.tensor(found2)


# --- contenders ---


def speckled_tile() -> Tile:
    rng = np.random.default_rng(0)
    fields = np.kron(rng.normal(-12, 4, (16, 16)), np.ones((SIDE // 16, SIDE // 16)))
    power = 10 ** (fields / 10) * rng.gamma(4.4, 1 / 4.4, (SIDE, SIDE))
    return Tile("a", DbScale().encode(power.astype(np.float32))[None], {"polarisations": ["VV"]})


def our_views(tile: Tile) -> Callable[[], None]:
    config, draw, scale = PairRun(), PairDraw(ViewConfig()), DbScale()
    generator = np.random.default_rng(1)

    def run() -> None:
        for _ in range(PAIRS):
            drawn = draw(tile, generator)
            for view in ("1", "2"):
                codes, numbers = (torch.from_numpy(drawn[name + view])[None] for name in ("view", "numbers"))
                encoder_input(codes, numbers, scale, config)

    return run


def published_views(tile: Tile) -> Callable[[], None]:
    level = np.clip((DbScale().decode(tile.pixels[0]) + 35) / 45, 0, 1)
    grey = Image.fromarray((level * 255).astype(np.uint8))

    def run() -> None:
        for _ in range(PAIRS):
            image = Image.merge("RGB", (grey, grey, grey))
            published_view(image)
            published_view(image)

    return run


def our_boxes() -> None:
    for n in range(PAIRS):
        draw_pair(np.uint64(n), SIDE, SIDE, SIZE, 0.2, 1.0, 0.75, 4 / 3, 0.5, 10, 32, 0.5, 50)


def batch_boxes() -> Callable[[], None]:
    crops = [
        torch.tensor([[*crop_parameters(SIDE, SIDE), int(random.random() < 0.5)] for _ in range(PAIRS)])
        for _ in range(2)
    ]

    def run() -> None:
        published_boxes(crops[0], crops[1])

    return run


def cpu_s(run: Callable[[], None], repeats: int) -> float:
    begun = time.process_time()
    for _ in range(repeats):
        run()
    return (time.process_time() - begun) / repeats / PAIRS


def beside(ours: Callable[[], None], theirs: Callable[[], None], rounds: int, repeats: int) -> dict[str, float]:
    """Milliseconds per pair of views, and how many times less of them ours takes."""
    ours()
    theirs()
    costs = [(cpu_s(ours, repeats), cpu_s(theirs, 1)) for _ in range(rounds)]
    return {
        "ours_ms": round(1e3 * statistics.median(a for a, _ in costs), 4),
        "published_ms": round(1e3 * statistics.median(b for _, b in costs), 3),
        "times_less": round(statistics.median(b / a for a, b in costs), 1),
    }


def kernels(tile: Tile, rounds: int) -> dict[str, float]:
    """Milliseconds of resizing a crop alone, by kind of pixel."""
    crop = np.array([50, 60, 330, 350, 1])
    found = {}
    for kind in (np.uint8, np.uint16, np.float32):
        pixels = (tile.pixels >> 8).clip(1).astype(kind)
        resized_crop(pixels, crop, SIZE)
        times = [cpu_s(lambda p=pixels: resized_crop(p, crop, SIZE), 20) * PAIRS for _ in range(rounds)]
        found[np.dtype(kind).name] = round(1e3 * min(times), 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "views.json")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    before, tile = machine(), speckled_tile()
    results: dict[str, Any] = {
        "what": f"per pair of {SIZE} px views of a {SIDE} x {SIDE} uint16 tile, one thread, CPU ms",
        "crops and boxes": beside(our_boxes, batch_boxes(), asked.rounds, 50),
        "two augmented views": beside(our_views(tile), published_views(tile), asked.rounds, 1),
        "resize of one crop, ms": kernels(tile, asked.rounds),
    }
    save(asked.out, before, results)


if __name__ == "__main__":
    main()
