"""What the benchmarks share: wall and CPU seconds of a command, the machine, and the result file."""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple


class Cost(NamedTuple):
    """Seconds of one run: by the clock, and of all its threads on the processor."""

    wall_s: float
    cpu_s: float


def cost_of_command(command: Sequence[str | Path]) -> Cost:
    """Run a program to its end."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def median(costs: Sequence[Cost]) -> Cost:
    """Give the median of each column."""
    return Cost(*(statistics.median(column) for column in zip(*costs, strict=True)))


def row(cost: Cost, megapixels: float) -> dict[str, float]:
    """Give seconds and rates, rounded for reading."""
    return {
        "wall_s": round(cost.wall_s, 3),
        "cpu_s": round(cost.cpu_s, 3),
        "Mpx_per_s": round(megapixels / cost.wall_s, 1),
        "Mpx_per_cpu_s": round(megapixels / cost.cpu_s, 1),
    }


def machine() -> dict[str, Any]:
    """Say on what this ran; ``load_before`` tells whether others were using the machine."""
    model = next((x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")), ":")
    return {
        "cpu": model.split(":")[1].strip(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("numpy", "numba", "rasterio")},
        "load_before": [round(x, 2) for x in os.getloadavg()],
    }


def commit() -> str:
    """Name the commit measured, with a mark where the tree differs from it."""
    done = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True)
    return done.stdout.strip() or "not committed yet"


def save(out: Path, before: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    """Write the result with the machine (as it was before), the date, the commit and the command; show it."""
    record = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": before,
        **results,
    }
    text = json.dumps(record, indent=1)
    out.write_text(text + "\n")
    print(text)
