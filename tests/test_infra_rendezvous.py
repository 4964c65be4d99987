"""Ranks that find each other, and what happens to the rest when one is missing, dies, raises or freezes."""

import multiprocessing
import os
import signal
import time
from typing import Any

import pytest
import torch.distributed as dist

from infra.errors import ResourceError
from infra.place import Place
from infra.ports import free_port
from infra.rendezvous import joined
from infra.world import current


def _rank(rank: int, port: int, fate: str, pipe: Any) -> None:
    place = Place(rank, 2, rank, "127.0.0.1", port)
    begun = time.monotonic()
    try:
        with joined(place, gpu=False, timeout_s=1.5, start_s=20 if fate != "missing" else 1.5):
            mean = current("cpu").mean({"rank": float(rank)})["rank"]
            pipe.send(("mean", mean))
            begun = time.monotonic()
            if rank == 1 and fate == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if rank == 1 and fate == "frozen":
                os.kill(os.getpid(), signal.SIGSTOP)
            if rank == 1 and fate == "raises":
                raise ValueError("one batch is bad")
            current("cpu").any(False)
        pipe.send(("left", dist.is_initialized()))
    except Exception as error:
        pipe.send((type(error).__name__, time.monotonic() - begun))


def run(fate: str) -> list[list[tuple[str, Any]]]:
    """Give what each of two ranks said."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch._dynamo", "torch.distributed", "pytest", "numba", "ray"])
    pipes = [context.Pipe(duplex=False) for _ in range(2)]
    port = free_port()
    ranks = [
        context.Process(target=_rank, args=(rank, port, fate, pipes[rank][1]))
        for rank in range(1 if fate == "missing" else 2)
    ]
    for process in ranks:
        process.start()
    ranks[0].join(40)
    for process in ranks:
        process.kill()
        process.join()
    said = []
    for receiver, sender in pipes:
        sender.close()
        words = []
        while True:
            try:
                words.append(receiver.recv())
            except EOFError:
                break
        said.append(words)
    return said


def test_two_ranks_meet_and_part() -> None:
    first, second = run("well")
    assert first == [("mean", 0.5), ("left", False)]
    assert second[0] == ("mean", 0.5)


@pytest.mark.parametrize(("fate", "least_s", "most_s"), [("killed", 0, 1.4), ("raises", 0, 1.4), ("frozen", 1, 8)])
def test_the_others_learn_of_a_lost_rank(fate: str, least_s: float, most_s: float) -> None:
    """At once where its connections close, after the timeout where it only falls silent."""
    (met, (error, seconds)), _ = run(fate)
    assert met == ("mean", 0.5)
    assert error in ("RuntimeError", "DistBackendError")
    assert least_s <= seconds <= most_s


def test_a_rank_that_never_comes_is_one_clear_error() -> None:
    ((error, seconds),), _ = run("missing")
    assert error == ResourceError.__name__
    assert 1.4 < seconds < 8
