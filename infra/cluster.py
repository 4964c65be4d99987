"""Work on a Ray cluster: a session with it, and fanning out over items that may fail."""

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from infra.errors import ResourceError

Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Done(Generic[Item, Value]):
    """What became of one item: its value, or the exception that ended it."""

    item: Item
    value: Value | None
    error: Exception | None


@contextmanager
def session(address: str | None = None, cpus: int | None = None) -> Iterator[int]:
    """Connect to a cluster (address, or RAY_ADDRESS) or start one in this process; gives its number of CPUs.

    A session that is already open is used and left open. Raises ResourceError where no cluster answers.
    """
    if ray.is_initialized():
        yield _cpus()
        return
    address = address or os.environ.get("RAY_ADDRESS") or None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            _knock(address)
            ray.init(address=address, **quiet)
        else:
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        where = address or "this machine"
        raise ResourceError(
            f"no Ray cluster at {where}: {_first_line(error)}; check the address and, on clusters that ask for one,"
            " the token (RAY_AUTH_MODE=token, RAY_AUTH_TOKEN)"
        ) from error
    try:
        yield _cpus()
    finally:
        ray.shutdown()


def each(
    work: Callable[[Item], Value],
    items: Sequence[Item],
    *,
    slots: int,
    cpus: float = 1.0,
    attempts: int = 3,
) -> Iterator[Done[Item, Value]]:
    """Run ``work`` on every item, at most ``slots`` at once, and give results as they come.

    A worker that dies takes its item with it: the item is tried ``attempts`` times and then given back with the
    error, so that one item that kills workers cannot stop the rest. An exception of ``work`` itself is given back
    at once and never retried.
    """
    remote = ray.remote(num_cpus=cpus, max_retries=0)(work)
    waiting = [(item, 1) for item in reversed(items)]
    running: dict[Any, tuple[Item, int]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < slots:
                item, attempt = waiting.pop()
                running[remote.remote(item)] = (item, attempt)
            ready, _ = ray.wait(list(running), num_returns=1, timeout=5.0)
            for reference in ready:
                item, attempt = running.pop(reference)
                done: Done[Item, Value] = _collect(item, reference)
                if isinstance(done.error, RayError) and attempt < attempts:
                    waiting.append((item, attempt + 1))
                else:
                    yield done
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _collect(item: Item, reference: Any) -> Done[Item, Any]:
    try:
        return Done(item, ray.get(reference, timeout=60), None)
    except RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else error
        return Done(item, None, cause)
    except RayError as error:  # the worker, its node or its result is lost
        return Done(item, None, error)


def _knock(address: str) -> None:
    """Fail in seconds where nobody listens: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()


def _cpus() -> int:
    return int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
