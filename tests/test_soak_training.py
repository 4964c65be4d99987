"""Training under fire on a Ray cluster of two nodes: ranks killed, stopped, raising, told to end, nodes lost.

The run ends with the losses and, to the last bit, the state of one that nothing disturbed. How long it took to find
out and to train again goes to ``training-chaos.json`` in the test's folder and to stdout (``-s``).
"""

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pretrain_corpus import make_corpus
from soak_trainer import TIMEOUT_S

from infra import local_cluster
from infra.local_cluster import LocalCluster
from infra.log import read_lines
from infra.place import Place
from infra.ports import free_port
from infra.store import open_store
from pretrain.run_folder import checkpoint_keys

ROUNDS = int(os.environ.get("SARSENSE_SOAK_ROUNDS", "100"))
KILLS = 10
KINDS = ("SIGKILL", "SIGSTOP", "exception", "node", "SIGTERM", "node drained")
DIALS = {
    "batch": 4, "log_every": 1, "lanes": 2, "checkpoint": {"every": 10, "keep": 2},
    "encoder": {"depth": 18}, "views": {"size_px": 32, "min_box_px": 8, "boxes": 4},
    "heads": {"hidden": 16, "dim": 8}, "contrast": {"queue": 8},
}  # fmt: skip


@dataclass
class Run:
    """A run on a cluster, and what has been done to it."""

    folder: Path
    cluster: LocalCluster
    chance: random.Random
    driver: "subprocess.Popen[bytes]"
    begun: set[int] = field(default_factory=set)
    faults: list[dict[str, object]] = field(default_factory=list)

    @property
    def checkpoints(self) -> Path:
        return self.folder / "out/checkpoints"

    def ranks(self) -> dict[int, int]:
        """Process id of each rank of the start that runs now."""
        found = {}
        for path in (self.folder / "ranks").glob("rank-*"):
            rank, pid = map(int, path.name.split("-")[1:])
            if pid not in self.begun and Path(f"/proc/{pid}/status").exists():
                found[rank] = pid
        return found

    def newest(self) -> int:
        return max((int(path.name.split("-")[1]) for path in self.checkpoints.glob("step-*")), default=0)

    def wait(self, until: Callable[[], bool], what: str, within_s: float = 240) -> float:
        """Wait and give the time."""
        end = time.monotonic() + within_s
        while not until():
            assert self.driver.poll() is None, f"{what}: the driver has ended with {self.driver.poll()}: {self.log()}"
            assert time.monotonic() < end, f"{what}: not in {within_s} s: {self.log()}"
            time.sleep(0.02)
        return time.monotonic()

    def log(self) -> str:
        return (self.folder / "log").read_text()[-2000:]

    def fault(self, kind: str) -> None:
        """Let one thing go wrong once the ranks have trained on, and wait until they train again."""
        before = self.newest()
        self.wait(lambda: len(self.ranks()) == 2 and self.newest() > before, "training")
        time.sleep(self.chance.uniform(0, 1.5))
        ranks = self.ranks()
        victim = self.chance.randrange(2)
        if kind.startswith("node"):  # the one beside the head
            (victim,) = (rank for rank, pid in ranks.items() if os.getsid(pid) == self.cluster.nodes[-1])
        step, begin = self.newest(), time.monotonic()
        if kind == "node":
            self.cluster.kill_node(len(self.cluster.nodes) - 1)
        elif kind == "node drained":  # told that it will go, as a cloud does
            os.kill(self.cluster.nodes[-1], signal.SIGTERM)
        elif kind == "exception":
            (self.folder / f"ranks/raise-{victim}").touch()
        else:
            os.kill(ranks[victim], getattr(signal, kind))
        self.begun |= set(ranks.values())
        found = self.wait(lambda: any(gone(pid) for pid in ranks.values() if pid != ranks[victim]), "finding out")
        if kind.startswith("node"):
            self.cluster = local_cluster.add_node(self.cluster, environment={"OMP_NUM_THREADS": "1"})
        saved = self.newest()
        there = self.wait(lambda: len(self.ranks()) == 2, "starting again")
        again = self.wait(lambda: self.newest() > saved, "training again")
        times = {"found_s": found - begin, "ranks_s": there - begin, "trained_s": again - begin}
        told = {"kind": kind, "step": step, **{name: round(value, 1) for name, value in times.items()}}
        self.faults.append(told)
        sys.stdout.write(f"{json.dumps(told)}\n")
        sys.stdout.flush()


def gone(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


def in_peace(folder: Path, data: str) -> None:
    """Train the same with nothing in the way: two ranks as torchrun or srun would start them."""
    command = [sys.executable, "-W", "ignore", "-m", "pretrain", "di3cl", "--data", data, "--out", f"{folder}/peace"]
    command += ["--config", f"{folder}/dials.json", "--device", "cpu", "--threads", "1"]
    port = free_port()
    ranks = [
        subprocess.Popen(
            command, env=os.environ | Place(rank, 2, rank, "127.0.0.1", port).variables | {"OMP_NUM_THREADS": "1"}
        )
        for rank in range(2)
    ]
    assert [rank.wait(900) for rank in ranks] == [0, 0]


def losses(out: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in read_lines(open_store(str(out)), "metrics")}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    with local_cluster.start(tmp_path / "ray", nodes=2, cpus=1, environment={"OMP_NUM_THREADS": "1"}) as cluster:
        yield cluster


def under_fire(cluster: LocalCluster, folder: Path, steps: int, kinds: Sequence[str], seed: int) -> None:
    """Train, with one fault after the other, and compare with a run in peace."""
    data, dials = f"{folder}/corpus", DIALS | {"steps": steps}
    make_corpus(data, tiles=12, size=48)
    (folder / "dials.json").write_text(json.dumps(dials))
    (folder / "ranks").mkdir()
    command = [sys.executable, "-W", "ignore", Path(__file__).with_name("soak_trainer.py"), folder / "ranks", data]
    with (folder / "log").open("wb") as log:
        driver = subprocess.Popen(
            [*map(str, command), f"{folder}/out", f"{folder}/dials.json"],
            env=os.environ | cluster.environment | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=log,
        )  # fmt: skip
    run = Run(folder, cluster, random.Random(seed), driver)
    try:
        for kind in kinds:
            run.fault(kind)
        assert run.driver.wait(600) == 0, run.log()
    finally:
        run.driver.kill()
        run.driver.wait()
        run.cluster.stop()
    in_peace(folder, data)
    summary = {
        kind: {
            name: statistics.median(f[name] for f in run.faults if f["kind"] == kind)  # type: ignore[type-var]
            for name in ("found_s", "ranks_s", "trained_s")
        }
        for kind in dict.fromkeys(kinds)
    }
    told = {"seed": seed, "steps": steps, "timeout_s": TIMEOUT_S, "faults": run.faults, "medians": summary}
    (folder / "training-chaos.json").write_text(json.dumps(told, indent=1))
    sys.stdout.write(json.dumps(told) + "\n")
    assert losses(folder / "out") == losses(folder / "peace")
    assert len(losses(folder / "out")) == steps
    assert checkpoint_keys(open_store(f"{folder}/out"))[0] == checkpoint_keys(open_store(f"{folder}/peace"))[0]
    assert all(fault["found_s"] < 30 and fault["trained_s"] - fault["found_s"] < 60 for fault in run.faults)  # type: ignore[operator]


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_killed_and_a_frozen_rank_change_nothing(cluster: LocalCluster, tmp_path: Path) -> None:
    under_fire(cluster, tmp_path, steps=90, kinds=("SIGKILL", "SIGSTOP"), seed=1)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(max(1, ROUNDS // 100)))
def test_ten_faults_in_one_run_change_nothing(cluster: LocalCluster, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    kinds = [*KINDS, *chance.choices(KINDS, k=KILLS - len(KINDS))]
    chance.shuffle(kinds)
    under_fire(cluster, tmp_path, steps=2000, kinds=kinds, seed=seed)
