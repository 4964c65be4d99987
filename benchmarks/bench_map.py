"""The map of a full-size simulated scene: time, peak memory, bytes; from shards to GeoTIFF, STAC item and picture.

    .venv/bin/python benchmarks/bench_map.py [--size 16705 26102] [--network tiny|resnet18] [--vectors water=polygon]
        [--device auto] [--keep FOLDER] [--out benchmarks/results/map.json]

The scene is an IW GRDH product's size: smooth lakes, land and towns under 4.4-look speckle, two bands, in tiles of 512
pixels of one corpus on the local disk, placed by ground points as a radar scene is. "tiny" takes the mean of 9 x 9
pixels and two thresholds, so that the machinery of the map is measured, and its map can be checked against the truth;
"resnet18" is an untrained ResNet-18 with UperNet, so that the network is. The map is made by ``map_scene``, in a
process of its own, whose peak memory is reported. Needs 2 GB of disk for the corpus of the default size.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measure import machine, save
from numpy.typing import NDArray

TILE, WINDOW, SEED = 512, 256, 1
LEGEND = {
    "classes": [
        {"id": 0, "name": "land", "colour": [196, 176, 120]},
        {"id": 1, "name": "water", "colour": [30, 100, 210]},
        {"id": 2, "name": "town", "colour": [200, 60, 50]},
    ],
    "background": 0,
}
LEVELS_DB = np.array([[-9.0, -20.0, 0.0], [-15.0, -26.0, -8.0]])
DIGEST = "a" * 64


def truth(row: int, col: int, rows: int, cols: int) -> NDArray[np.uint8]:
    """Classes of a window of the endless simulated country."""
    y, x = np.arange(row, row + rows)[:, None], np.arange(col, col + cols)[None]
    field = np.sin(x / 311) + np.sin(y / 277 + np.sin(x / 800)) + np.sin((x + y) / 173) + 0.6 * np.sin((x - 2 * y) / 97)
    return np.where(field > 1.4, 1, np.where(field < -2.4, 2, 0)).astype(np.uint8)


def tiles(shape: tuple[int, int]) -> Iterator[Any]:
    from shards.tile import DbScale, Tile

    scale, rng = DbScale(), np.random.default_rng(SEED)
    speckle_db = 10 * np.log10(rng.gamma(4.4, 1 / 4.4, (2, TILE, TILE)))
    for n, row in enumerate(range(0, shape[0], TILE)):
        for m, col in enumerate(range(0, shape[1], TILE)):
            rows, cols = min(TILE, shape[0] - row), min(TILE, shape[1] - col)
            noise = np.roll(speckle_db, (97 * n, 61 * m), (1, 2))[:, :rows, :cols]
            power = 10 ** ((LEVELS_DB[:, truth(row, col, rows, cols)] + noise) / 10)
            meta = {
                "scene": "simulated",
                "sensor": "sentinel-1",
                "polarisations": ["VV", "VH"],
                "window": [row, col, rows, cols],
                "footprint": None,
                "time": "2020-01-01T05:00:00Z",
                "valid_share": 1.0,
                "mean_db": [-10.0, -16.0],
            }
            yield Tile(f"simulated-{row}-{col}", scale.encode(power.astype(np.float32)), meta)


def build(url: str, shape: tuple[int, int]) -> float:
    """Write the scene as a corpus; gives its bytes in gigabytes."""
    from infra.store import open_store
    from shards.index import put_index
    from shards.manifest import Manifest, Source, publish
    from shards.tile import DbScale
    from shards.writer import write_unit

    store = open_store(url)
    unit = write_unit(store, "simulated", tiles(shape), "npy", 256 * 2**20)
    points = [(float(r), float(c)) for r in np.linspace(0, shape[0] - 1, 10) for c in np.linspace(0, shape[1] - 1, 21)]
    ground = tuple((r, c, 10 + c * 1.4e-4 + r * 2e-5, 50 - r * 9e-5 + c * 2e-5) for r, c in points)
    corners = tuple((lon, lat) for _, _, lon, lat in (ground[0], ground[20], ground[-1], ground[-21]))
    source = Source(
        id="simulated", sensor="sentinel-1", product="GRD", mode="IW", polarisations=("VV", "VH"), shape=shape,
        spacing_m=(10.0, 10.0), time="2020-01-01T05:00:00Z", orbit="descending", fingerprint="f" * 64,
        footprint=corners, ground=ground, tiles=unit.rows.num_rows,
    )  # fmt: skip
    size = sum(s.bytes for s in unit.shards)
    manifest = Manifest(
        recipe={}, recipe_digest="b" * 64, pixels_digest=DIGEST, scale=DbScale(), codec="npy", legend=LEGEND,
        shards=tuple(unit.shards), index=put_index(store, unit.rows), sources=(source,), tiles=unit.rows.num_rows,
        bytes=size,
    )  # fmt: skip
    publish(store, manifest)
    return size / 1e9


def model(kind: str) -> Any:
    """Give the model as ``map_scene`` takes it."""
    import torch
    from torch import Tensor, nn
    from torch.nn import functional

    from finetune.config import DecoderConfig
    from finetune.legend import Legend
    from finetune.mapping import LoadedModel
    from finetune.model import ModelCard
    from finetune.segmenter import Segmenter
    from pretrain.config import InputSpec
    from pretrain.encoder import ResNet
    from pretrain.export import EncoderCard
    from shards.tile import DbScale

    class Thresholds(nn.Module):
        """The mean of 9 x 9 pixels of the first band, and where it lies between the classes' levels."""

        def forward(self, codes: Tensor) -> Tensor:
            scale = DbScale()
            level = functional.avg_pool2d(codes[:, :1].float(), 9, 1, 4, count_include_pad=False)
            db = scale.floor_db + (level - 1) * scale.step_db
            return torch.cat([-abs(db - float(at)) for at in LEVELS_DB[0]], 1)

    torch.manual_seed(0)
    card = ModelCard(
        encoder=EncoderCard(
            method="random", depth=18, bands=2, input=InputSpec(bands=2), scale=DbScale(), pixels_digest=DIGEST,
            manifest_digest="", run_digest="", step=0,
        ),
        encoder_url="random", legend=Legend.model_validate(LEGEND), decoder=DecoderConfig(channels=64), crop_px=WINDOW,
        pixels_digest=DIGEST, manifest_digest="", run_digest="d" * 64, seed=0, trained_on=(), held_out=(), scores={},
    )  # fmt: skip
    network: Any = Thresholds()
    if kind == "resnet18":
        network = Segmenter(ResNet(18, 2), 3, card.decoder, DbScale(), InputSpec(bands=2))
    return LoadedModel(network, card, f"benchmark {kind}", "c" * 64)


def worker(corpus: str, out: Path, kind: str, vectors: str, device: str) -> None:
    """Map the scene in this process and print what it took."""
    from finetune.mapping import MapDials, map_scene
    from infra.world import current
    from shards.reader import Corpus

    opened, loaded = Corpus.open(corpus), model(kind)
    place = current(device).device
    before, begun = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    done = map_scene(loaded, opened, "simulated", out, place, MapDials(vectors=vectors))
    wall, used = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
    rows, cols = opened.manifest.sources[0].shape
    found = {
        "device": str(place),
        "wall_s": round(wall, 1),
        "core_seconds": round(used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime, 1),
        "Mpx_per_s": round(rows * cols / wall / 1e6, 2),
        "peak_rss_mib": used.ru_maxrss // 1024,
        "rss_before_mib": before.ru_maxrss // 1024,
        "mean_confidence": done.report.confidence,
        "shapes": done.shapes,
        "megabytes": {name: round(path.stat().st_size / 1e6, 2) for name, path in done.files.items()},
    }
    if kind == "tiny":
        found["pixels_right"] = agreement(out, (rows, cols))
    print(json.dumps(found))


def agreement(path: Path, shape: tuple[int, int]) -> float:
    """Share of pixels whose class is the true one, over every eighth strip."""
    import rasterio

    right = total = 0
    with rasterio.open(path) as file:
        for row in range(0, shape[0], 8 * TILE):
            rows = min(TILE, shape[0] - row)
            ids = file.read(1, window=((row, row + rows), (0, shape[1])))
            right += int((ids == truth(row, 0, rows, shape[1])).sum())
            total += ids.size
    return round(right / total, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=2, default=(16705, 26102), metavar=("ROWS", "COLS"))
    parser.add_argument("--network", choices=("tiny", "resnet18"), default="tiny")
    parser.add_argument("--vectors", default="")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--keep", type=Path, help="folder for map, picture and page")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/map.json"))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        worker(asked.worker, asked.keep / "map.tif", asked.network, asked.vectors, asked.device)
        return
    before, shape = machine(), (asked.size[0], asked.size[1])
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        gigabytes = build(f"{folder}/corpus", shape)
        built = time.perf_counter() - begun
        made = Path(folder) / "map"
        command = [sys.executable, __file__, "--worker", f"{folder}/corpus", "--keep", str(made)]
        command += ["--network", asked.network, "--vectors", asked.vectors, "--device", asked.device]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        if asked.keep:
            shutil.copytree(made, asked.keep, dirs_exist_ok=True)
    result = {
        "scene": {"rows": shape[0], "cols": shape[1], "bands": 2, "gigabytes": round(gigabytes, 2)},
        "network": asked.network,
        "window_px": WINDOW,
        "making_the_corpus_s": round(built, 1),
        "map": json.loads(done.stdout.splitlines()[-1]),
    }
    save(asked.out, before, result)


if __name__ == "__main__":
    main()
