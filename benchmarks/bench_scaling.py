"""Two ranks against one: images per second of the whole loop (reading, views, DDP over gloo, checkpoint at the end).

    python benchmarks/bench_scaling.py [--run di3cl_laptop] [--steps 14] [--rounds 3] [--free]

Each rank has one thread of torch and one core to which all its threads are bound, readers and gloo's included, so that
the single rank does not read on a core that two ranks would have to share (``--free`` leaves the choice to the system).
The batch of a rank is the same in both. Rounds alternate; the figure is the ratio of medians, over 2. Where others use
the machine, ranks wait for the one that was held up, and the figure says little; processor seconds of an image, which
are given too, then tell what two ranks do beside the work of one.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

from measure import machine, save  # noqa: E402

from infra.log import read_lines  # noqa: E402
from infra.place import Place, find_place  # noqa: E402
from infra.ports import free_port  # noqa: E402
from infra.store import open_store  # noqa: E402

WARM = 4  # steps until compiled kernels are loaded and readers are ahead
TILES = 64


def rank(job: dict[str, object]) -> None:
    """Be one rank of a measured run."""
    if job["pinned"]:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[int(os.environ["RANK"])]})
    from infra.rendezvous import joined
    from infra.world import current
    from pretrain.config import resolve
    from pretrain.di3cl_run import DI3CLRun
    from pretrain.launch import Job, work
    from pretrain.step import Step

    run = resolve(DI3CLRun, run=str(job["run"]))
    size = int(os.environ["WORLD_SIZE"])
    update = {"steps": job["steps"], "batch": run.batch // 2 * size, "log_every": 1}
    config = run.model_copy(update=update)
    told = Job("di3cl", config, str(job["data"]), str(job["out"]), "cpu", 1)
    spent = noted(Step)
    place = find_place(os.environ)
    if place is None:
        work(told, current("cpu"))
    else:
        with joined(place, gpu=False):
            work(told, current("cpu"))
    print((spent[-1] - spent[WARM - 1]) / (len(spent) - WARM) / (config.batch // size))


def noted(kind: Any) -> list[float]:
    """Note the processor seconds of this process after every update of the parameters."""
    spent, update = list[float](), kind.update

    def noting(*values: Any) -> Any:
        norm = update(*values)
        spent.append(time.process_time())
        return norm

    kind.update = noting
    return spent


def rate(size: int, job: dict[str, object], folder: str) -> tuple[float, float]:
    """Give images per second of all ranks together, the median step after the warm ones, and CPU seconds an image."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        text = json.dumps(job | {"out": out})
        port = free_port()
        ranks = [
            subprocess.Popen(
                [sys.executable, "-W", "ignore", __file__, "--rank", text],
                env=os.environ | Place(n, size, n, "127.0.0.1", port).variables | {"OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for n in range(size)
        ]
        said = [process.communicate() for process in ranks]
        if any(process.returncode for process in ranks):
            raise SystemExit(b"\n".join(errors for _, errors in said).decode()[-3000:])
        lines = [line for line in read_lines(open_store(out), "metrics") if line["step"] >= WARM]
        seconds = statistics.mean(float(out.split()[-1]) for out, _ in said)
        return statistics.median(line["images_per_s"] for line in lines), seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", default="di3cl_laptop")
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--free", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/scaling.json")
    parser.add_argument("--rank")
    told = parser.parse_args()
    if told.rank:
        rank(json.loads(told.rank))
        return
    from pretrain_corpus import make_corpus

    before = machine()
    with tempfile.TemporaryDirectory() as folder:
        make_corpus(f"{folder}/corpus", tiles=TILES, size=128)
        job = {"run": told.run, "steps": told.steps, "data": f"{folder}/corpus", "pinned": not told.free}
        rates: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
        for _ in range(told.rounds):
            for size, seen in rates.items():
                seen.append(rate(size, job, folder))
    one, two = (statistics.median(r for r, _ in rates[size]) for size in (1, 2))
    cpu = {size: statistics.median(s for _, s in seen) for size, seen in rates.items()}
    results = {
        "run": told.run,
        "pinned": not told.free,
        "images_per_s": {str(size): [round(r, 2) for r, _ in seen] for size, seen in rates.items()},
        "cpu_ms_per_image": {str(size): round(1e3 * s, 2) for size, s in cpu.items()},
        "ratio": round(two / one, 3),
        "efficiency": round(two / one / 2, 3),
        "efficiency_cpu": round(cpu[1] / cpu[2], 3),
        "wanted": 0.9,
    }
    save(told.out, before, results)


if __name__ == "__main__":
    main()
