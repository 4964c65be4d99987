"""The same run started by torchrun on one and on two nodes and by Slurm's batch script: the same bytes in the end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import pytest
import yaml
from pretrain_corpus import make_corpus
from ranks import run_ranks
from slurm import slurm_programs

from infra.ports import free_port
from infra.store import open_store
from infra.world import World
from pretrain.config import resolve
from pretrain.di3cl_run import DI3CLRun
from pretrain.launch import Job, work
from pretrain.run_folder import checkpoint_keys, read_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
NAMED = "di3cl_laptop_faithful"
DIALS = {
    "steps": 30, "batch": 4, "log_every": 1, "lanes": 2, "checkpoint": {"every": 3},
    "encoder": {"depth": 18}, "views": {"size_px": 32, "min_box_px": 8, "boxes": 4},
    "heads": {"hidden": 16, "dim": 8}, "contrast": {"queue": 8},
}  # fmt: skip
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
DEPLOY = Path(__file__).parents[1] / "infra/deploy"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launchers")
    make_corpus(f"{folder}/corpus", tiles=12, size=48)
    (folder / "run.yaml").write_text(yaml.safe_dump(DIALS))
    return folder


def _work(world: World, job: Job) -> int:
    return work(job, world).step


@pytest.fixture(scope="module")
def expected(folder: Path) -> str:
    """Name, and so digest, of the last checkpoint of two ranks that nothing disturbed."""
    run = resolve(DI3CLRun, run=NAMED, config=f"{folder}/run.yaml")
    job = Job("di3cl", run, f"{folder}/corpus", f"{folder}/straight", "cpu", 1)
    assert run_ranks(_work, job, 2, folder) == [30, 30]
    return newest(folder / "straight")


def newest(out: Path) -> str:
    return checkpoint_keys(open_store(str(out)))[0]


def checkpoint_step(key: str) -> int:
    return int(key.split("-")[1])


def of_the_run(folder: Path, out: Path) -> list[str]:
    where = ["--data", f"{folder}/corpus", "--out", str(out), "--device", "cpu"]
    what = ["--run", NAMED, "--config", f"{folder}/run.yaml"]
    return ["di3cl", *where, *what, "--threads", "1"]  # the last digits heed the threads


class Group:
    """Programs that are ended, with all they started, when the test ends."""

    def __init__(self) -> None:
        self.programs: list[subprocess.Popen[bytes]] = []

    def start(self, command: Sequence[str], log: Path, variables: Mapping[str, str] | None = None) -> psutil.Process:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "RAY_"))}
        with log.open("wb") as file:
            program = subprocess.Popen(
                command, stdout=file, stderr=file, start_new_session=True,
                env=clean | {"OMP_NUM_THREADS": "1", "PATH": PATH} | dict(variables or {}),
            )  # fmt: skip
        self.programs.append(program)
        return psutil.Process(program.pid)

    def codes(self) -> list[int]:
        return [program.wait(200) for program in self.programs]


@pytest.fixture
def group() -> Iterator[Group]:
    group = Group()
    yield group
    for program in group.programs:
        if program.poll() is None:
            os.killpg(program.pid, signal.SIGKILL)
            program.wait()


def checkpoint_appears(out: Path) -> None:
    end = time.monotonic() + 120
    while not list(out.glob("checkpoints/step-*")):
        assert time.monotonic() < end, "no checkpoint in 120 s"
        time.sleep(0.02)


def ranks_of(agent: psutil.Process) -> list[psutil.Process]:
    return [p for p in agent.children(recursive=True) if "-m pretrain" in " ".join(p.cmdline())]


def test_torchrun_starts_all_again_when_a_rank_is_killed(
    folder: Path, expected: str, group: Group, tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    variables = {"RANKS_HERE": "2", "PORT": str(free_port())}
    agent = group.start([str(DEPLOY / "torchrun.sh"), *of_the_run(folder, out)], log, variables)
    checkpoint_appears(out)
    ranks_of(agent)[1].kill()
    assert group.codes() == [0], log.read_text()
    assert newest(out) == expected
    assert read_run(str(out)).encoder
    assert "continuing" in log.read_text()


def test_two_nodes_of_torchrun(folder: Path, expected: str, group: Group, tmp_path: Path) -> None:
    out = tmp_path / "out"
    variables = {"NODES": "2", "RANKS_HERE": "1", "PORT": str(free_port()), "ADDRESS": "127.0.0.1"}
    for node in range(2):
        group.start([str(DEPLOY / "torchrun.sh"), *of_the_run(folder, out)], tmp_path / f"log-{node}", variables)
    assert group.codes() == [0, 0], (tmp_path / "log-0").read_text() + (tmp_path / "log-1").read_text()
    assert newest(out) == expected


def test_slurm_ends_a_job_in_time_and_the_requeued_one_goes_on(folder: Path, expected: str, tmp_path: Path) -> None:
    """Slurm's programs are two small ones of ours; the batch script, the ranks and what they read are the real ones."""
    out = tmp_path / "out"
    variables = slurm_programs(tmp_path) | {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "2"}
    for start in range(2):
        group, log = Group(), tmp_path / f"log-{start}"
        job = group.start(["bash", str(DEPLOY / "slurm.sbatch"), *of_the_run(folder, out)], log, variables)
        seconds = 0.0
        if start == 0:
            checkpoint_appears(out)
            begin = time.monotonic()
            job.send_signal(signal.SIGUSR1)  # as --signal=B:USR1@180 does before the time limit
            assert group.codes() == [0], log.read_text()
            seconds = time.monotonic() - begin
            assert (tmp_path / "requeued").read_text() == "requeue 4711\n"
            assert checkpoint_step(newest(out)) < 30
        assert group.codes() == [0], log.read_text()
        assert seconds < 20
    assert newest(out) == expected
