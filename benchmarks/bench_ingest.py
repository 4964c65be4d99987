"""A whole IW GRDH scene from product to shards: processor seconds, memory, where they go; and calibration beside OTB.

    .venv/bin/python benchmarks/bench_ingest.py [--cells 3] [--recipe sarsense] [--out benchmarks/results/ingest.json]

The product is the real IPF 3.40 annotation (16705 x 26102) with simulated pixels, uncompressed in strips as the
archive has it. Its VH takes the annotation of the VV, which alone the sample holds. The build runs in a process of its
own: what a worker does with one scene (open, calibrate, cut, encode, measure, write shards into a folder, leave its
record), with the imports. A second such run is profiled. Beside OTB one polarisation is calibrated with noise removal,
file to file. ``--cells`` takes only that many rows of cells of the geolocation grid.
Needs ../shared/data, otb-bin and 6 GB of disk.
"""

import argparse
import cProfile
import json
import os
import pstats
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

TILE = 1024
MEMORY_LIMIT_MIB = 2048
CORE_SECONDS_LIMIT = 60


def fill(measurement: Path, seed: int) -> None:
    """Write land, water and speckle: one square of simulated pixels, repeated with a shift so that no line is alike."""
    import numpy as np
    import rasterio
    from rasterio.windows import Window
    from sentinel1_products import speckled

    square = speckled(TILE, TILE, np.random.default_rng(seed))
    with rasterio.open(measurement, "r+") as file:
        for number, row in enumerate(range(0, file.height, TILE)):
            height = min(TILE, file.height - row)
            wide = np.tile(square[:height], -(-file.width // TILE))
            line = np.roll(wide, 97 * number, axis=1)[:, : file.width]
            file.write(np.ascontiguousarray(line), 1, window=Window(0, row, file.width, height))


def add_second(product: Path) -> None:
    """Give the product a VH image with the annotation of its VV."""

    def twin(file: Path) -> Path:
        return file.with_name(file.name.replace("-vv-", "-vh-").replace("-001.", "-002."))

    for file in [*product.glob("annotation/*-vv-*.xml"), *product.glob("annotation/calibration/*-vv-*.xml")]:
        twin(file).write_text(file.read_text().replace(">VV<", ">VH<"))
    first = next(product.glob("measurement/*.tiff"))
    shutil.copyfile(first, twin(first))
    fill(twin(first), 2)


def worker(path: str, out: str, recipe: str, profile: bool) -> None:
    """Build one scene in this process and print what it took."""
    start = time.perf_counter()
    from ingest.catalog import Product, Unit
    from ingest.recipe import load_recipe
    from ingest.work import Work, build_unit

    product = Product(sensor="sentinel-1", path=path)
    work = Work(Unit(product.name, (product,)), out, load_recipe(recipe))
    watch = cProfile.Profile()
    if profile:
        watch.enable()
    record = build_unit(work)
    watch.disable()
    used = resource.getrusage(resource.RUSAGE_SELF)
    found: dict[str, Any] = {
        "core_seconds": round(used.ru_utime + used.ru_stime, 2),
        "wall_s": round(time.perf_counter() - start, 2),
        "peak_rss_mib": used.ru_maxrss // 1024,
        "tiles": sum(shard["tiles"] for shard in record["shards"]),
        "gigabytes": round(sum(shard["bytes"] for shard in record["shards"]) / 1e9, 3),
        "rejects": record["rejects"],
    }
    if profile:
        found["profile"] = top(pstats.Stats(watch))
    print(json.dumps(found))


def top(stats: pstats.Stats, count: int = 16) -> list[dict[str, Any]]:
    """Give the functions in which most time was spent, without what they called."""
    rows = sorted(stats.stats.items(), key=lambda item: -item[1][2])[:count]  # type: ignore[attr-defined]
    named = [(file.replace(f"{ROOT}/", "").rpartition("site-packages/")[2], name, row) for (file, _, name), row in rows]
    return [
        {"function": name if file == "~" else f"{file} {name}", "calls": row[1], "seconds": round(row[2], 2)}
        for file, name, row in named
    ]


def run_worker(path: Path, folder: Path, recipe: str, *, profile: bool = False) -> dict[str, Any]:
    out = folder / "corpus"
    command = [sys.executable, __file__, "--worker", str(path), "--corpus", str(out), "--recipe", recipe]
    done = subprocess.run([*command, *(["--profile"] if profile else [])], capture_output=True, text=True)
    shutil.rmtree(out, ignore_errors=True)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def beside_otb(path: Path, lines: int, cols: int, folder: Path, rounds: int) -> dict[str, Any]:
    """Calibrate one polarisation with noise removal from file to file, by both in turn; the median of the rounds."""
    from bench_calibrate import calibrate, cost_of_call, otb_command
    from measure import cost_of_command, median, row

    megapixels = lines * cols / 1e6
    calibrate(path, 256, True, None)  # load the kernels
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(cost_of_call(lambda: calibrate(path, lines, True, folder / "ours.tif")))
        (folder / "ours.tif").unlink()
        theirs.append(cost_of_command(otb_command(path, lines, True, folder)[0]))
        for file in folder.glob("*.tif"):
            file.unlink()
    own, otb = median(ours), median(theirs)
    return {
        "ours": row(own, megapixels),
        "otb": row(otb, megapixels),
        "times_less_cpu_than_otb": round(otb.cpu_s / own.cpu_s, 1),
        "times_faster_than_otb": round(otb.wall_s / own.wall_s, 1),
    }


def benchmark(asked: argparse.Namespace) -> None:
    from measure import machine, save
    from sentinel1_products import IPF_340, crop, images, shape_of, unpack, write_pixels

    before = machine()
    data = Path(os.environ.get("SARSENSE_DATA", ROOT.parent / "shared" / "data"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = unpack(data, IPF_340, folder)
        if asked.cells:
            crop(path, asked.cells, 20)
        annotation = images(path)[0]
        lines, cols = shape_of(annotation)
        write_pixels(path, [], tiled=False, blockysize=1, compress="none")
        fill(path / "measurement" / f"{annotation.stem}.tiff", 1)
        results: dict[str, Any] = {"pixels": [2, lines, cols], "recipe": asked.recipe}
        if not asked.no_otb:
            results["one polarisation, noise and calibration, file to file"] = beside_otb(
                path, lines, cols, folder, asked.rounds
            )
        add_second(path)
        run_worker(path, folder, asked.recipe)  # compile, and bring the files into the cache
        results["scene to shards"] = best = run_worker(path, folder, asked.recipe)
        results["scene to shards, profiled"] = run_worker(path, folder, asked.recipe, profile=True)
    whole = 16705 * 26102 / lines / cols
    results["core_seconds_of_a_whole_scene"] = round(best["core_seconds"] * whole, 1)
    results["limits"] = {"core_seconds": CORE_SECONDS_LIMIT, "peak_rss_mib": MEMORY_LIMIT_MIB}
    save(asked.out, before, results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--recipe", default="sarsense")
    parser.add_argument("--no-otb", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "ingest.json")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--corpus", help=argparse.SUPPRESS)
    parser.add_argument("--profile", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        worker(asked.worker, f"file://{asked.corpus}", asked.recipe, asked.profile)
    else:
        benchmark(asked)


if __name__ == "__main__":
    main()
