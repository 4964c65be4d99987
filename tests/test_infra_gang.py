"""Ranks that start together under Ray: killed, stopped, told to stop, too many, and when starting again cannot help."""

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ray import cloudpickle

from infra.cluster import session
from infra.errors import ResourceError, UsageError
from infra.gang import gang
from infra.world import current

# Workers cannot import this file: its functions travel with their code.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def one_session():
    """One cluster for all tests of this file."""
    with session(cpus=3):
        yield


def _count(folder: str, rank: int) -> int:
    """Note that a rank has started and give how often it has."""
    Path(folder, f"{os.getpid()}-{rank}").write_text(f"{dist.get_world_size()} {time.time()}")
    return len(list(Path(folder).glob(f"[0-9]*-{rank}")))


def killed_once(config: Mapping[str, Any], stop: threading.Event) -> bool:
    world = current("cpu")
    if _count(config["folder"], world.rank) <= config.get("kills", 1) and world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return float(world.mean({"one": 1.0})["one"]) == 1.0


def refused(config: Mapping[str, Any], stop: threading.Event) -> bool:
    _count(config["folder"], current("cpu").rank)
    raise UsageError("no such dial")


def frozen_once(config: Mapping[str, Any], stop: threading.Event) -> bool:
    """Rank 1 is stopped as by a debugger: alive, but it answers nobody."""
    world = current("cpu")
    if _count(config["folder"], world.rank) == 1 and world.rank == 1:
        Path(config["folder"], "frozen").write_text(str(time.time()))
        os.kill(os.getpid(), signal.SIGSTOP)
    world.any(False)
    Path(config["folder"], f"met-{world.rank}").write_text(str(time.time()))
    return True


def waits_once(config: Mapping[str, Any], stop: threading.Event) -> bool:
    """Rank 0 waits for a peer that answers Ray but never comes to the exchange."""
    world = current("cpu")
    if _count(config["folder"], world.rank) == 1 and world.rank == 1:
        Path(config["folder"], "frozen").write_text(str(time.time()))
        time.sleep(600)
    world.any(False)
    return True


def until_told(config: Mapping[str, Any], stop: threading.Event) -> bool:
    """Step as a loop does; at the first start until told, at the second to the end."""
    world = current("cpu")
    started = _count(config["folder"], world.rank)
    for step in range(10_000):
        if started == 2 and step == 3:
            return True
        if world.any(stop.is_set()):
            Path(config["folder"], f"saved-{world.rank}").write_text(str(time.time()))
            return False
        time.sleep(0.02)
    return False


def run(work: Any, tmp_path: Path, ranks: int | Sequence[int] = 2, max_failures: int = 2, **dials: Any) -> bool:
    (tmp_path / "starts").mkdir()
    config = {"folder": str(tmp_path / "starts")} | dials.pop("config", {})
    return gang(
        work, config, ranks=ranks, gpu=False, max_failures=max_failures, name="test",
        storage=str(tmp_path / "ray"), **dials,
    )  # fmt: skip


def starts(tmp_path: Path) -> dict[int, int]:
    return {rank: len(list((tmp_path / "starts").glob(f"[0-9]*-{rank}"))) for rank in range(2)}


def when(tmp_path: Path, name: str) -> float:
    return float((tmp_path / "starts" / name).read_text().split()[-1])


def restarted(tmp_path: Path) -> float:
    return max(float(path.read_text().split()[-1]) for path in (tmp_path / "starts").glob("[0-9]*-*"))


def test_all_ranks_start_again_when_one_is_killed(tmp_path: Path) -> None:
    assert run(killed_once, tmp_path)
    assert starts(tmp_path) == {0: 2, 1: 2}


def test_a_rank_that_dies_every_time_is_tried_so_often_and_no_more(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="the ranks of test failed"):
        run(killed_once, tmp_path, max_failures=1, config={"kills": 9})
    assert starts(tmp_path)[1] == 2


def test_an_error_that_would_come_again_is_not_tried_again(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such dial"):
        run(refused, tmp_path)
    assert max(starts(tmp_path).values()) == 1


@pytest.mark.parametrize("work", [pytest.param(frozen_once, marks=pytest.mark.soak), waits_once])
def test_a_rank_that_hangs_is_found_and_all_start_again(work: Any, tmp_path: Path) -> None:
    assert run(work, tmp_path, timeout_s=10)
    assert starts(tmp_path) == {0: 2, 1: 2}
    seconds = restarted(tmp_path) - when(tmp_path, "frozen")
    sys.stdout.write(f"\n{work.__name__}: all ranks were back {seconds:.1f} s after\n")
    assert 10 < seconds < 90


def _signal_when_both_step(folder: Path, pid: Any, sent: list[float]) -> None:
    while len(list(folder.glob("[0-9]*-*"))) < 2:
        time.sleep(0.05)
    time.sleep(0.5)
    sent.append(time.time())
    os.kill(pid(), signal.SIGTERM)


def test_a_rank_told_to_end_lets_all_save_and_the_gang_goes_on(tmp_path: Path) -> None:
    folder, sent = tmp_path / "starts", list[float]()

    def of_rank_1() -> int:
        return int(next(folder.glob("[0-9]*-1")).name.split("-")[0])

    threading.Thread(target=_signal_when_both_step, args=(folder, of_rank_1, sent)).start()
    assert run(until_told, tmp_path, max_failures=0)
    assert starts(tmp_path) == {0: 2, 1: 2}
    assert all(when(tmp_path, f"saved-{rank}") - sent[0] < 2 for rank in range(2))


def test_a_driver_told_to_end_lets_all_save_and_ends(tmp_path: Path) -> None:
    folder, sent = tmp_path / "starts", list[float]()
    threading.Thread(target=_signal_when_both_step, args=(folder, os.getpid, sent)).start()
    assert run(until_told, tmp_path, max_failures=0) is False
    assert time.time() - sent[0] < 20
    assert starts(tmp_path) == {0: 1, 1: 1}
    assert all(when(tmp_path, f"saved-{rank}") - sent[0] < 4 for rank in range(2))


def test_an_elastic_gang_takes_the_largest_size_that_fits(tmp_path: Path) -> None:
    """Three CPUs, sizes 1, 2 and 4: two ranks work, the third worker stands by."""
    assert run(killed_once, tmp_path, ranks=(1, 2, 4), config={"kills": 0})
    sizes = [path.read_text().split()[0] for path in (tmp_path / "starts").glob("[0-9]*-*")]
    assert sizes == ["2", "2"]


def test_ranks_are_told_where_they_are(tmp_path: Path) -> None:
    assert torch.distributed.is_available()
    assert run(told_by_environment, tmp_path)
    told = {path.name: path.read_text() for path in (tmp_path / "starts").glob("told-*")}
    assert told == {"told-0": "0 2 0", "told-1": "1 2 1"}


def told_by_environment(config: Mapping[str, Any], stop: threading.Event) -> bool:
    rank, size, local = (os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    Path(config["folder"], f"told-{rank}").write_text(f"{rank} {size} {local}")
    return dist.get_rank() == int(rank)
