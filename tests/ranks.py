"""Run a function in several gloo ranks, a hundred times faster than starting interpreters.

Ranks are forked from a server that has loaded torch and nothing else: a fork of the test process itself inherits the
locks that other tests' threads hold at that moment, and now and then waits for them for ever.
"""

import multiprocessing
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from infra.world import World, current


def run_ranks(work: Callable[[World, Any], Any], argument: Any, size: int, folder: Path) -> list[Any]:
    """Give what ``work(world, argument)`` gave on each rank; an exception of any rank fails the test."""
    context = multiprocessing.get_context("forkserver")
    # DistributedDataParallel imports torch._dynamo: once there instead of once in every rank.
    context.set_forkserver_preload(["torch", "torch._dynamo", "torch.distributed", "pytest", "numba", "ray"])
    rendezvous = folder / f"ranks-{len(list(folder.glob('ranks-*')))}"
    rendezvous.touch()
    pipes = [context.Pipe(duplex=False) for _ in range(size)]
    ranks = [
        context.Process(target=_one, args=(work, argument, rank, size, f"{rendezvous}-group", pipes[rank][1]))
        for rank in range(size)
    ]
    for process in ranks:
        process.start()
    try:
        results = [receiver.recv() if receiver.poll(120) else (False, "no answer in 120 s") for receiver, _ in pipes]
    finally:
        for process in ranks:
            process.join(5)
            process.kill()
            process.join()
    failed = [text for good, text in results if not good]
    assert not failed, "\n".join(map(str, failed))
    return [pickle.loads(value) for _, value in results]


def _one(work: Callable[[World, Any], Any], argument: Any, rank: int, size: int, group: str, pipe: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{group}", rank=rank, world_size=size)
    try:
        pipe.send((True, pickle.dumps(work(current("cpu"), argument))))  # plain bytes: no shared memory to outlive
    except BaseException:
        pipe.send((False, traceback.format_exc()))
    finally:
        dist.destroy_process_group()
