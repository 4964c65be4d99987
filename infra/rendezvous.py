"""Joining the ranks of a training job in one torch process group, whoever started them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from infra.errors import ResourceError
from infra.place import Place

TIMEOUT_S = 120.0
"""How long a rank waits for the others in one exchange before it gives them up."""
START_S = 600.0
"""How long a rank waits for the others to start: images are pulled and programs loaded meanwhile."""


@contextmanager
def joined(place: Place, *, gpu: bool, timeout_s: float = TIMEOUT_S, start_s: float = START_S) -> Iterator[None]:
    """Be one rank of a process group (NCCL on GPUs, Gloo on CPUs) inside the context.

    A rank that dies, hangs or is stopped makes every exchange of the others fail within ``timeout_s``.
    Raises ResourceError where not all ranks come within ``start_s``.
    """
    if gpu:
        torch.cuda.set_device(place.local % torch.cuda.device_count())
    backend = "nccl" if gpu else "gloo"
    try:
        dist.init_process_group(
            backend,
            store=_meet(place, start_s),
            rank=place.rank,
            world_size=place.size,
            timeout=timedelta(seconds=timeout_s),
        )
    except (RuntimeError, ValueError) as error:  # torch's DistError is a RuntimeError
        raise ResourceError(
            f"rank {place.rank} of {place.size} could not join the others at {place.host}:{place.port}: {error};"
            " do all ranks run, and can they reach that host and port?"
        ) from error
    try:
        yield
    except BaseException:
        # The others must not wait for this one. A broken NCCL group can only be left by ending the process.
        if not gpu:
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _meet(place: Place, start_s: float) -> Any:
    """Give the store that all ranks share, once all of them are there."""
    patience = timedelta(seconds=start_s)
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun's agent listens there already
    store: Any = dist.TCPStore(  # type: ignore[attr-defined]
        place.host, place.port, is_master=place.rank == 0 and not agent, timeout=patience, wait_for_workers=False
    )
    if agent:  # what an earlier start has left is still in there
        store = dist.PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT')}", store)  # type: ignore[attr-defined]
    if store.add("sarsense/ranks", 1) == place.size:
        store.set("sarsense/all", "here")
    store.wait(["sarsense/all"], patience)
    return store
