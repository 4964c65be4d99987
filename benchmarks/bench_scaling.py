"""Two ranks against one: images per second of the whole loop (reading, views, DDP over gloo, checkpoint at the end).

    python benchmarks/bench_scaling.py [--run di3cl_laptop] [--size 96] [--batch 16] [--steps 14] [--rounds 3] [--free]

Each rank has one thread of torch and one core to which all its threads are bound, readers and gloo's included, so that
the single rank does not read on a core that two ranks would have to share (``--free`` leaves the choice to the system).
"apart" are two such single ranks side by side that never talk: what caches and memory of this machine leave of 1.
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


def rank(job: dict[str, Any]) -> None:
    """Be one rank of a measured run."""
    if job["pinned"]:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[int(os.environ["SARSENSE_BENCH_CORE"])]})
    from infra.rendezvous import joined
    from infra.world import current
    from pretrain.config import resolve
    from pretrain.di3cl_run import DI3CLRun
    from pretrain.launch import Job, work
    from pretrain.step import Step

    run = resolve(DI3CLRun, run=str(job["run"]))
    size = int(os.environ["WORLD_SIZE"])
    views = run.views.model_copy(update={"size_px": job["size"]})
    update = {"steps": job["steps"], "batch": job["batch"] * size, "log_every": 1, "views": views}
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


def rate(size: int, job: dict[str, Any], folder: str, *, apart: bool = False) -> tuple[float, float]:
    """Give images per second of all ranks together, the median step after the warm ones, and CPU seconds an image."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        port = free_port()
        ranks = []
        for n in range(size):
            place = Place(0, 1, 0, "127.0.0.1", free_port()) if apart else Place(n, size, n, "127.0.0.1", port)
            text = json.dumps(job | {"out": f"{out}/{n if apart else 0}"})
            ranks.append(
                subprocess.Popen(
                    [sys.executable, "-W", "ignore", __file__, "--rank", text],
                    env=os.environ | place.variables | {"OMP_NUM_THREADS": "1", "SARSENSE_BENCH_CORE": str(n)},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
            )
        said = [process.communicate() for process in ranks]
        if any(process.returncode for process in ranks):
            raise SystemExit(b"\n".join(errors for _, errors in said).decode()[-3000:])
        runs = [read_lines(open_store(f"{out}/{n}"), "metrics") for n in range(size if apart else 1)]
        rates = [statistics.median(line["images_per_s"] for line in run if line["step"] >= WARM) for run in runs]
        return sum(rates), statistics.mean(float(out.split()[-1]) for out, _ in said)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", default="di3cl_laptop")
    parser.add_argument("--size", type=int, help="of a view, pixels; as in the run")
    parser.add_argument("--batch", type=int, help="of a rank; half of the run's")
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

    from pretrain.config import resolve
    from pretrain.di3cl_run import DI3CLRun

    run, before = resolve(DI3CLRun, run=told.run), machine()
    size, batch = told.size or run.views.size_px, told.batch or run.batch // 2
    with tempfile.TemporaryDirectory() as folder:
        make_corpus(f"{folder}/corpus", tiles=TILES, size=max(128, -(-size // 64) * 64))
        job: dict[str, Any] = {"run": told.run, "size": size, "batch": batch, "steps": told.steps}
        job |= {"data": f"{folder}/corpus", "pinned": not told.free}
        rates: dict[str, list[tuple[float, float]]] = {"1": [], "2": [], "2 apart": []}
        for _ in range(told.rounds):
            for name, seen in rates.items():
                seen.append(rate(int(name[0]), job, folder, apart=name.endswith("apart")))
    one, two, apart = (statistics.median(r for r, _ in seen) for seen in rates.values())
    cpu = {name: statistics.median(s for _, s in seen) for name, seen in rates.items()}
    results = {
        "run": told.run,
        "size_px": size,
        "batch_of_a_rank": batch,
        "pinned": not told.free,
        "images_per_s": {name: [round(r, 2) for r, _ in seen] for name, seen in rates.items()},
        "cpu_ms_per_image": {name: round(1e3 * s, 2) for name, s in cpu.items()},
        "ratio": round(two / one, 3),
        "efficiency": round(two / one / 2, 3),
        "efficiency_apart": round(apart / one / 2, 3),
        "of_apart": round(two / apart, 3),
        "efficiency_cpu": round(cpu["1"] / cpu["2"], 3),
        "wanted": 0.9,
    }
    save(told.out, before, results)


if __name__ == "__main__":
    main()
