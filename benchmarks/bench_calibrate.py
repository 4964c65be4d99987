"""Sentinel-1 calibration and thermal noise beside Orfeo ToolBox, in turn in one run, and where the time goes.

    .venv/bin/python benchmarks/bench_calibrate.py [--lines 2048] [--rounds 3] [--out benchmarks/results/calibrate.json]

The product is the real IPF 3.40 annotation of a whole IW GRDH scene (16705 x 26102, the VV that the sample holds) with
simulated pixels behind it, uncompressed in strips as the archive has it. File to file, both read digital numbers and
write float32 sigma0 of its first lines; opening the product is part of it. In memory, beside a bare read and copy,
neither writes, and the product is open. What a whole scene takes to become shards is in bench_ingest.py.
Needs ../shared/data and otb-bin.
"""

import argparse
import collections
import os
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from measure import Cost, cost_of_command, machine, median, row, save
from rasterio.windows import Window as RasterWindow

from ingest.calibrate import Calibration
from ingest.lut import Noise, read_calibration, read_noise
from ingest.recipe import Pixels
from ingest.scene import Window
from ingest.sentinel1 import open_sentinel1
from ingest.xml import parse

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
    """Read power of the first lines of a product; write it where asked to."""
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


def cost_in_memory(path: Path, lines: int, denoise: bool) -> Cost:
    """Read power of the first lines of a product that is open already; what opening takes is told apart."""
    with open_sentinel1(str(path), Pixels(denoise=denoise)) as scene:
        windows = strips(lines, scene.info.shape[1])
        return cost_of_call(lambda: collections.deque(map(scene.power, windows), maxlen=0))


def copy(path: Path, lines: int) -> None:
    """Read the same pixels and copy them to float32, nothing else: what no calibration can beat by much."""
    for measurement in sorted((path / "measurement").glob("*.tiff")):
        with rasterio.open(measurement) as file:
            for window in strips(lines, file.width):
                file.read(1, window=RasterWindow(0, window.row, file.width, window.rows)).astype(np.float32)


def stations(path: Path, lines: int, rounds: int) -> dict[str, Any]:
    """Time what the road is made of, each alone and in memory; kernels on numbers that were read before."""
    with open_sentinel1(str(path)) as scene, rasterio.open(next((path / "measurement").glob("*.tiff"))) as file:
        windows = strips(lines, scene.info.shape[1])
        rectangles = [RasterWindow(0, w.row, w.cols, w.rows) for w in windows]
        numbers = [file.read(1, window=rectangle) for rectangle in rectangles]
    folder = path / "annotation" / "calibration"
    gain = read_calibration(parse(next(folder.glob("calibration-*.xml")).read_bytes(), "calibration"), "calibration")
    noise = read_noise(parse(next(folder.glob("noise-*.xml")).read_bytes(), "noise"), "noise")
    out = np.empty((STRIP, windows[0].cols), np.float32)
    complex_ = [np.stack([n, n[::-1]], axis=-1).astype(np.int16) for n in numbers[:2]]

    def read() -> None:
        with rasterio.open(next((path / "measurement").glob("*.tiff"))) as opened:
            for rectangle in rectangles:
                opened.read(1, window=rectangle)

    def kernel(of: Noise | None, images: list[Any], threads: int = 1) -> Callable[[], None]:
        calibration = Calibration.of((windows[-1].row + windows[-1].rows, windows[0].cols), gain, of)

        def run() -> None:
            for window, image in zip(windows, images, strict=False):
                calibration.power(window, image, out[: window.rows], threads=threads)

        return run

    calls = {
        "opening the product, rate over these lines": (lambda: open_sentinel1(str(path)).__exit__(), numbers),
        "bare read": (read, numbers),
        "kernel, uint16, noise and calibration": (kernel(noise, numbers), numbers),
        "kernel, uint16, noise and calibration, 2 threads": (kernel(noise, numbers, 2), numbers),
        "kernel, uint16, calibration alone": (kernel(None, numbers), numbers),
        "kernel, complex int16, noise and calibration": (kernel(noise, complex_), complex_),
    }
    found = {}
    for name, (call, used) in calls.items():
        call()
        cost = median([cost_of_call(call) for _ in range(rounds)])
        found[name] = row(cost, sum(image.shape[0] * image.shape[1] for image in used) / 1e6)
    return found


def cost_of_call(call: Callable[[], object]) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def in_memory(measure: Callable[[], Cost]) -> Cost:
    """Measure what takes a few hundredths of a second several times: others use this machine too."""
    return median([measure() for _ in range(7)])


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
            calls[f"in memory, {words}"] = lambda n=noise: in_memory(lambda: cost_in_memory(path, asked.lines, n))
        calls["in memory, bare read and copy"] = lambda: in_memory(
            lambda: cost_of_call(lambda: copy(path, asked.lines))
        )
        calibrate(path, STRIP, True, None)  # load the kernels
        rounds = [{key: call() for key, call in calls.items()} for _ in range(asked.rounds)]
        middle = {key: median([r[key] for r in rounds]) for key in calls}
        alone = stations(path, asked.lines, 2 * asked.rounds + 1)
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
    results = {
        "pixels": [bands, asked.lines, cols],
        "median of the rounds": table,
        "ratios": ratios,
        "where the time goes": alone,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    save(asked.out, before, results)


if __name__ == "__main__":
    main()
