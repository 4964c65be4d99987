"""Sentinel-1 calibration and thermal noise beside Orfeo ToolBox, in turn in one run, and where the road's time goes.

    .venv/bin/python benchmarks/bench_calibrate.py [--lines 2048] [--rounds 3] [--out benchmarks/results/calibrate.json]

The product is the real IPF 3.40 annotation of a whole IW GRDH scene (16705 x 26102, the VV that the sample holds) with
simulated pixels behind it, uncompressed in strips as the archive has it. File to file, both read digital numbers and
write float32 sigma0 of its first lines; opening the product is part of it. Needs ../shared/data and otb-bin.
"""

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio
from measure import Cost, cost_of_command, machine, median, row, save
from rasterio.windows import Window as RasterWindow

from ingest.recipe import Pixels, TileRules
from ingest.scene import Window
from ingest.sentinel1 import open_sentinel1
from ingest.speckle import filter_power
from ingest.tiling import cut
from shards.tile import DbScale

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from sentinel1_products import IPF_340, images, shape_of, unpack, write_pixels  # noqa: E402

STRIP = 256
warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)


def product(folder: Path, lines: int) -> Path:
    """Put pixels behind the first lines of the annotation; the lines beyond take no space."""
    data = Path(os.environ.get("SARSENSE_DATA", ROOT.parent / "shared" / "data"))
    target = unpack(data, IPF_340, folder)
    cols = shape_of(images(target)[0])[1]
    write_pixels(target, list(strips(lines, cols)), tiled=False, blockysize=1, compress="none")
    return target


def strips(lines: int, cols: int) -> list[Window]:
    return [Window(top, 0, min(STRIP, lines - top), cols) for top in range(0, lines, STRIP)]


def calibrate(path: Path, lines: int, denoise: bool, out: Path | None) -> None:
    """Read power of the first lines; write it where asked to."""
    with open_sentinel1(str(path), Pixels(denoise=denoise)) as scene:
        cols, bands = scene.info.shape[1], len(scene.info.polarisations)
        profile = {"driver": "GTiff", "height": lines, "width": cols, "count": bands, "dtype": "float32"}
        file = rasterio.open(out, "w", **profile, interleave="band", BIGTIFF="IF_SAFER") if out else None
        for window in strips(lines, cols):
            power = scene.power(window)
            if file:
                file.write(power, window=RasterWindow(0, window.row, cols, window.rows))
        if file:
            file.close()


def copy(path: Path, lines: int) -> None:
    """Read the same pixels and copy them to float32, nothing else: what no calibration can beat by much."""
    for measurement in sorted((path / "measurement").glob("*.tiff")):
        with rasterio.open(measurement) as file:
            for window in strips(lines, file.width):
                file.read(1, window=RasterWindow(0, window.row, file.width, window.rows)).astype(np.float32)


def road(path: Path, lines: int) -> dict[str, Cost]:
    """Time each station from product to tiles, alone."""
    scale, costs = DbScale(), dict.fromkeys(("read, noise, calibration", "lee 7x7", "tiles"), Cost(0, 0))

    class Lines:
        """The first lines of a scene, already filtered."""

        def __init__(self, info, power, scene):
            self.info, self._power, self.locate = info, power, scene.locate

        def power(self, window):
            r, c, h, w = window
            return self._power[:, r : r + h, c : c + w]

        def label(self, window):
            return None

    def add(name: str, call: Callable[[], object]) -> object:
        wall, cpu = time.perf_counter(), time.process_time()
        value = call()
        old = costs[name]
        costs[name] = Cost(old.wall_s + time.perf_counter() - wall, old.cpu_s + time.process_time() - cpu)
        return value

    with open_sentinel1(str(path)) as scene:
        for window in strips(lines, scene.info.shape[1]):
            power = add("read, noise, calibration", lambda w=window: scene.power(w))
            power = add("lee 7x7", lambda p=power: filter_power(p, "lee", 7, 4.4, threads=1))
            part = Lines(replace(scene.info, shape=power.shape[1:]), power, scene)
            add("tiles", lambda p=part: sum(1 for _ in cut(p, TileRules(), scale)))
    return costs


def cost_of_call(call: Callable[[], object]) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def otb_command(path: Path, lines: int, denoise: bool, out: Path) -> list[list[str]]:
    program = shutil.which("otbcli_SARCalibration")
    if program is None:
        raise SystemExit("no otbcli_SARCalibration: apt-get install otb-bin")
    commands = []
    for measurement in sorted((path / "measurement").glob("*.tiff")):
        with rasterio.open(measurement) as file:
            target = f"{out / measurement.stem}.tif?&box=0:0:{file.width}:{lines}"
        options = ["-lut", "sigma", "-removenoise", str(int(denoise))]
        commands.append([program, "-in", str(measurement), "-out", target, "float", *options])
    return commands


def total(costs: list[Cost]) -> Cost:
    return Cost(*(sum(column) for column in zip(*costs, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "calibrate.json")
    asked = parser.parse_args()
    before = machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = product(folder, asked.lines)
        cols = shape_of(images(path)[0])[1]
        bands = len(images(path))
        megapixels = bands * asked.lines * cols / 1e6
        calls: dict[str, Callable[[], Cost]] = {}
        for noise in (False, True):
            words = "with noise removal" if noise else "without noise removal"
            calls[f"otb to file, {words}"] = lambda n=noise: total(
                [cost_of_command(c) for c in otb_command(path, asked.lines, n, folder)]
            )
            calls[f"to file, {words}"] = lambda n=noise: cost_of_call(
                lambda: calibrate(path, asked.lines, n, folder / "ours.tif")
            )
            calls[f"in memory, {words}"] = lambda n=noise: cost_of_call(lambda: calibrate(path, asked.lines, n, None))
        calls["in memory, bare read and copy"] = lambda: cost_of_call(lambda: copy(path, asked.lines))
        calibrate(path, STRIP, True, None)  # load the kernels
        rounds = [{key: call() for key, call in calls.items()} for _ in range(asked.rounds)]
        middle = {key: median([r[key] for r in rounds]) for key in calls}
        stations = road(path, asked.lines)
    table = {key: row(cost, megapixels) for key, cost in middle.items()}
    ratios = {}
    for words in ("without noise removal", "with noise removal"):
        otb, ours = middle[f"otb to file, {words}"], middle[f"to file, {words}"]
        memory, bare = middle[f"in memory, {words}"], middle["in memory, bare read and copy"]
        ratios[words] = {
            "times_faster_than_otb": round(otb.wall_s / ours.wall_s, 1),
            "times_less_cpu_than_otb": round(otb.cpu_s / ours.cpu_s, 1),
            "share_of_bare_copy_speed": round(bare.wall_s / memory.wall_s, 2),
            "share_of_bare_copy_speed_by_cpu": round(bare.cpu_s / memory.cpu_s, 2),
        }
    whole = 2 * 16705 * 26102 / 1e6 / megapixels
    results = {
        "pixels": [bands, asked.lines, cols],
        "median of the rounds": table,
        "ratios": ratios,
        "road, one pass": {key: row(cost, megapixels) for key, cost in stations.items()},
        "road, CPU seconds of a whole dual-pol scene": round(sum(c.cpu_s for c in stations.values()) * whole, 1),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    save(asked.out, before, results)


if __name__ == "__main__":
    main()
