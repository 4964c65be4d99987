"""Ranks that start together under Ray, when one of them dies and when starting again cannot help."""

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle

from infra.cluster import gang
from infra.errors import UsageError
from infra.world import current

# Workers cannot import this file: its functions travel with their code.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


def _count(folder: str, rank: int) -> int:
    """Note that a rank has started and give how often it has."""
    Path(folder, f"{os.getpid()}-{rank}").touch()
    return len(list(Path(folder).glob(f"*-{rank}")))


def killed_once(config: Mapping[str, Any]) -> None:
    world = current("cpu")
    if _count(config["folder"], world.rank) == 1 and world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def refused(config: Mapping[str, Any]) -> None:
    _count(config["folder"], current("cpu").rank)
    raise UsageError("no such dial")


def run(work: Any, tmp_path: Path) -> dict[int, int]:
    """Run a gang of two and give how often each rank has started."""
    (tmp_path / "starts").mkdir()
    config = {"folder": str(tmp_path / "starts")}
    gang(work, config, ranks=2, gpu=False, max_failures=2, name="test", storage=str(tmp_path / "ray"))
    return starts(tmp_path)


def starts(tmp_path: Path) -> dict[int, int]:
    return {rank: len(list((tmp_path / "starts").glob(f"*-{rank}"))) for rank in range(2)}


def test_all_ranks_start_again_when_one_is_killed(tmp_path: Path) -> None:
    assert run(killed_once, tmp_path) == {0: 2, 1: 2}


def test_an_error_that_would_come_again_is_not_tried_again(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such dial"):
        run(refused, tmp_path)
    assert max(starts(tmp_path).values()) == 1
