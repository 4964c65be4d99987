"""Speckle filters beside Orfeo ToolBox, in turn in one run: the same GeoTIFF in, a float32 GeoTIFF out.

    .venv/bin/python benchmarks/bench_speckle.py [--size 4096] [--rounds 3] [--out benchmarks/results/speckle.json]

Both read a file and write an uncompressed one, with 7 x 7 pixels and the same looks or damping. CPU seconds of all
threads are compared, the best of the rounds, as others may use the machine. Then the kernels alone: what each filter
and each window costs, beside the two other ways to sum a window.
"""

import argparse
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import rasterio
from measure import Cost, cost_of_command, machine, row, save
from numpy.typing import NDArray

from ingest.despeckle_file import Output, despeckle_file
from ingest.recipe import SpeckleRules
from ingest.speckle import filter_power
from ingest.speckle_multitemporal import filter_stack

LOOKS = 4.4
DAMPING = 0.5
# Our name, theirs, their option and its number.
PEERS = [
    ("lee", "lee", "nblooks", LOOKS),
    ("kuan", "kuan", "nblooks", LOOKS),
    ("gamma-map", "gammamap", "nblooks", LOOKS),
    ("frost", "frost", "deramp", DAMPING),
]
KERNELS = [
    *((kind, size) for kind in ("boxcar", "lee", "kuan", "enhanced-lee", "gamma-map") for size in (3, 7, 11, 21, 31)),
    *((kind, size) for kind in ("frost", "enhanced-frost", "lee-sigma") for size in (3, 7, 11, 21)),
    ("refined-lee", 7),
]
warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)


def write(path: Path, power: NDArray[np.float32]) -> None:
    profile = {"driver": "GTiff", "height": power.shape[0], "width": power.shape[1], "count": 1, "dtype": "float32"}
    with rasterio.open(path, "w", **profile) as file:
        file.write(power, 1)


def cost_of_call(call: Callable[[], object]) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def best(costs: list[Cost]) -> Cost:
    return Cost(*(min(column) for column in zip(*costs, strict=True)))


@numba.njit(nogil=True, error_model="numpy")
def direct_lee(power, size, noise, out):
    """Lee by separable sums, one addition per pixel of the window's side: the plain alternative."""
    rows, cols = power.shape[0] - size + 1, power.shape[1] - size + 1
    column, column2 = np.empty(power.shape[1]), np.empty(power.shape[1])
    total, total2 = np.empty(cols), np.empty(cols)
    for i in range(rows):
        column[:] = 0.0
        column2[:] = 0.0
        for k in range(size):
            for j in range(power.shape[1]):
                x = float(power[i + k, j])
                column[j] += x
                column2[j] += x * x
        total[:] = 0.0
        total2[:] = 0.0
        for k in range(size):
            for j in range(cols):
                total[j] += column[j + k]
                total2[j] += column2[j + k]
        finish(power[i + size // 2], total, total2, size, noise, out[i])


@numba.njit(nogil=True, error_model="numpy")
def running_lee(power, size, noise, out):
    """Lee by running sums: one addition and one subtraction, but a pixel depends on where the sum began."""
    rows, cols = power.shape[0] - size + 1, power.shape[1] - size + 1
    column, column2 = np.zeros(power.shape[1]), np.zeros(power.shape[1])
    total, total2 = np.empty(cols), np.empty(cols)
    for i in range(rows + size - 1):
        for j in range(power.shape[1]):
            x = float(power[i, j])
            y = float(power[i - size, j]) if i >= size else 0.0
            column[j] += x - y
            column2[j] += x * x - y * y
        if i < size - 1:
            continue
        a = column[:size].sum()
        b = column2[:size].sum()
        for j in range(cols):
            total[j], total2[j] = a, b
            if j + size < power.shape[1]:
                a += column[j + size] - column[j]
                b += column2[j + size] - column2[j]
        finish(power[i - size // 2], total, total2, size, noise, out[i - size + 1])


@numba.njit(nogil=True, error_model="numpy")
def finish(line, total, total2, size, noise, out):
    n = size * size
    for j in range(total.size):
        x = float(line[j + size // 2])
        mean = total[j] / n
        variance = (total2[j] - total[j] * mean) / (n - 1)
        calm = variance < 1e-10 or variance <= noise * mean * mean
        out[j] = mean if calm else mean + (1.0 - noise * mean * mean / variance) * (x - mean)


def beside_the_toolbox(power: NDArray[np.float32], rounds: int, folder: Path) -> dict[str, Any]:
    program = shutil.which("otbcli_Despeckle")
    if program is None:
        raise SystemExit("no otbcli_Despeckle: apt-get install otb-bin")
    source, theirs, ours = folder / "power.tif", folder / "otb.tif", folder / "ours.tif"
    write(source, power)
    results: dict[str, Any] = {}
    for kind, name, option, number in PEERS:
        otb = [program, "-in", source, "-out", theirs, "float", "-filter", name]
        otb += [f"-filter.{name}.rad", "3", f"-filter.{name}.{option}", str(number)]
        rules = SpeckleRules(kind=kind, looks=LOOKS, damping=DAMPING)
        ingest = [sys.executable, "-c", "from ingest.cli import main; main()", "despeckle", source, ours]
        ingest += ["--kind", kind, "--looks", str(LOOKS), "--damping", str(DAMPING), "--compress", "none"]
        costs: dict[str, list[Cost]] = {"otb": [], "call": [], "command": []}
        cost_of_command([str(word) for word in ingest])  # warm the page cache and the kernel cache
        for _ in range(rounds):
            costs["otb"].append(cost_of_command(otb))
            costs["command"].append(cost_of_command([str(word) for word in ingest]))
            costs["call"].append(
                cost_of_call(lambda r=rules: despeckle_file(source, ours, r, output=Output("none", 2)))
            )
        results[kind] = beside(*(best(costs[way]) for way in ("otb", "call", "command")), power.size / 1e6)
        with rasterio.open(theirs) as a, rasterio.open(ours) as b:
            expected, found = a.read(1), b.read(1)
        away = np.abs(found - expected) / np.maximum(np.abs(expected), 1e-9)
        results[kind]["greatest_relative_difference"] = float(np.nanmax(away))
    return results


def beside(otb: Cost, call: Cost, command: Cost, megapixels: float) -> dict[str, Any]:
    return {
        "otb": row(otb, megapixels),
        "ours": row(call, megapixels),
        "ours, with the start of Python": row(command, megapixels),
        "times_less_cpu": round(otb.cpu_s / call.cpu_s, 1),
        "times_less_cpu_with_the_start_of_python": round(otb.cpu_s / command.cpu_s, 1),
        "times_faster": round(otb.wall_s / call.wall_s, 1),
    }


def kernels_alone(power: NDArray[np.float32], rounds: int) -> dict[str, Any]:
    """Best of the rounds, in memory; rates by the clock on 2 threads, by CPU seconds on one."""
    rates: dict[str, Any] = {}
    stack, out, bright = power[None], np.empty_like(power), [float(np.percentile(power, 98))]

    def run(kind: str, size: int, threads: int) -> None:
        filter_power(stack, kind, size, LOOKS, threads, damping=DAMPING, bright=bright)

    for kind, size in KERNELS:
        one = [cost_of_call(lambda k=kind, s=size: run(k, s, 1)).cpu_s for _ in range(rounds + 1)]
        two = [cost_of_call(lambda k=kind, s=size: run(k, s, 2)).wall_s for _ in range(rounds + 1)]
        rates[f"{kind} {size}x{size}"] = {
            "Mpx_per_cpu_s": round(power.size / 1e6 / min(one), 1),
            "Mpx_per_s_2_threads": round(power.size / 1e6 / min(two), 1),
        }
    many = [stack] * 4
    costs = [cost_of_call(lambda: filter_stack(many, 7, 1)).cpu_s for _ in range(rounds)]
    rates["multitemporal 7x7, 4 images"] = {"Mpx_per_cpu_s": round(4 * power.size / 1e6 / min(costs), 1)}
    for name, kernel in (("direct sums", direct_lee), ("running sums, pixels depend on the window", running_lee)):
        for size in (7, 31):
            padded = np.pad(power, size // 2, mode="edge")
            costs = [
                cost_of_call(lambda k=kernel, p=padded, s=size: k(p, s, 1 / LOOKS, out)).cpu_s
                for _ in range(rounds + 1)
            ]
            rates[f"lee by {name} {size}x{size}"] = {"Mpx_per_cpu_s": round(power.size / 1e6 / min(costs), 1)}
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "speckle.json")
    asked = parser.parse_args()
    before = machine()
    rng = np.random.default_rng(0)
    ground = np.kron(rng.gamma(2, 0.04, (asked.size // 32, asked.size // 32)), np.ones((32, 32)))
    power = (ground * rng.gamma(LOOKS, 1 / LOOKS, ground.shape)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        files = beside_the_toolbox(power, asked.rounds, Path(folder))
    results = {
        "pixels": list(power.shape),
        "file to file, best of the rounds": files,
        "kernels in memory, best of the rounds": kernels_alone(power, asked.rounds),
    }
    save(asked.out, before, results)


if __name__ == "__main__":
    main()
