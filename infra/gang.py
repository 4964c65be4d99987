"""Ranks that train together on a Ray cluster: all or none, started again when one dies, hangs or loses its node."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig
from ray.train.backend import Backend
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.config import ScalingConfig  # what ray.train.ScalingConfig is; that one is typed as its elder
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from infra.cluster import session
from infra.errors import ResourceError, SarsenseError
from infra.place import Place, find_place
from infra.ports import free_port
from infra.rendezvous import TIMEOUT_S, joined

LISTEN_EVERY_S = 1.0
PATIENCE_S = 20.0
"""How long ranks that are told to stop may take for their last step and checkpoint."""
_HEARTBEAT_S = 60.0
_log = logging.getLogger(__name__)

Work = Callable[[Mapping[str, Any], threading.Event], bool]
"""One rank's part: told what to do and when to stop early; says whether the work is finished."""


def gang(
    work: Work,
    config: Mapping[str, Any],
    *,
    ranks: int | Sequence[int],
    gpu: bool,
    cpus_per_rank: float = 1.0,
    address: str | None = None,
    max_failures: int = 3,
    timeout_s: float = TIMEOUT_S,
    resize_every_s: float = 60.0,
    name: str,
    storage: str,
) -> bool:
    """Run ``work(config, stop)`` in ``ranks`` processes joined in one process group; gives whether it is finished.

    With several numbers in ``ranks`` the gang has as many as the cluster has room for, at most the largest; between
    two of them the lower one is taken and the rest stand by. It is stopped and started with more when nodes come,
    which is looked for every ``resize_every_s``, and with fewer when nodes are lost.

    All ranks start together or not at all. When one dies, raises, is stopped or waits longer than ``timeout_s`` for
    the others, all are started again, ``max_failures`` times; ``work`` continues from its own checkpoints. A node
    that is about to be taken away, a SIGTERM to a rank, and a resize set ``stop`` first and do not count. SIGTERM to
    this process sets ``stop`` too, and the call then ends with False.

    ``storage`` is a local folder for Ray's bookkeeping. Raises the SarsenseError of the work, or ResourceError where
    the ranks cannot be kept alive. A SarsenseError that is no ResourceError would come again, and ends the gang.
    """
    sizes = (ranks,) if isinstance(ranks, int) else tuple(sorted(ranks))
    with session(address, cpus=None if address else max(sizes[-1], os.cpu_count() or 1)), _settings(timeout_s):
        # On the driver's own node, as Ray's controller: the others may go at any time.
        here: Any = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        desk: Any = ray.remote(num_cpus=0, scheduling_strategy=here)(_Desk).remote()
        trainer = TorchTrainer(
            _rank,
            train_loop_config={"work": work, "config": dict(config), "desk": desk, "gpu": gpu, "timeout_s": timeout_s},
            torch_config=_Joining(sizes=sizes),
            scaling_config=ScalingConfig(
                num_workers=sizes[0] if len(sizes) == 1 else (sizes[0], sizes[-1]),
                use_gpu=gpu,
                resources_per_worker={"CPU": cpus_per_rank, **({"GPU": 1} if gpu else {})},
                elastic_resize_monitor_interval_s=resize_every_s,
            ),
            run_config=RunConfig(
                name=name, storage_path=storage, failure_config=FailureConfig(max_failures=max_failures)
            ),
        )
        _tell_what_is_missing(sizes[0], cpus_per_rank, gpu)
        with _stopping(desk):
            return _run(trainer, desk, name)


def _run(trainer: Any, desk: Any, name: str) -> bool:
    """Run the gang, again after every stop that nobody asked this process for."""
    while True:
        try:
            trainer.fit()
        except Exception as error:
            raise _cause(error, name) from error
        verdict: _Verdict = ray.get(desk.read.remote(), timeout=60)
        if verdict.error is not None:
            raise verdict.error
        if verdict.finished or verdict.stop:
            return verdict.finished
        _log.warning("the ranks of %s were told to stop and have saved; starting them again", name)


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What the driver and the ranks of all starts have to tell each other."""

    error: SarsenseError | None = None
    finished: bool = False
    stop: bool = False


class _Desk:
    """An actor that keeps the verdict: the error that would come again, the end of the work, the wish to stop."""

    def __init__(self) -> None:
        self._error: SarsenseError | None = None
        self._finished = False
        self._stop = False

    def fail(self, error: SarsenseError) -> None:
        self._error = self._error or error

    def finish(self) -> None:
        self._finished = True

    def stop(self) -> None:
        self._stop = True

    def read(self) -> _Verdict:
        return _Verdict(self._error, self._finished, self._stop)


# In a rank's process: set by SIGTERM, a preemption, a resize, or the driver.
_STOP = threading.Event()
_BUSY = threading.Event()
_FREE = threading.Event()


def _rank(told: Mapping[str, Any]) -> None:
    """Do one rank's work, unless an earlier start of the gang came to an end that no restart can change."""
    desk = told["desk"]
    verdict = ray.get(desk.read.remote(), timeout=60)
    if verdict.error is not None or verdict.stop or "RANK" not in os.environ:  # without a rank: one too many
        return
    _BUSY.set()
    try:
        with _in_group(told), _listening(desk):
            if told["work"](told["config"], _STOP):
                ray.get(desk.finish.remote(), timeout=60)  # waited for: this process is killed soon after
    except ResourceError:  # a store, a port, a node: another start may do better
        raise
    except SarsenseError as error:
        ray.get(desk.fail.remote(error), timeout=60)
        raise
    finally:
        _BUSY.clear()
        _FREE.set()


@contextmanager
def _in_group(told: Mapping[str, Any]) -> Iterator[None]:
    place = find_place(os.environ)
    if place is None:
        yield
        return
    with joined(place, gpu=told["gpu"], timeout_s=told["timeout_s"]):
        yield


@contextmanager
def _listening(desk: Any) -> Iterator[None]:
    """Set the flag when Ray says that a node is about to go, or the driver that the work is to stop."""
    from ray.train.v2._internal.execution.context import get_train_context

    # The public get_preemption_info() is a barrier of all ranks: of no use where one of them may hang.
    context, over = get_train_context(), threading.Event()

    def listen() -> None:
        while not over.wait(LISTEN_EVERY_S) and not _STOP.is_set():
            if context.preemption_context.preemption_info is not None or ray.get(desk.read.remote()).stop:
                _STOP.set()

    threading.Thread(target=listen, name="listening", daemon=True).start()
    try:
        yield
    finally:
        over.set()


@dataclass
class _Joining(TorchConfig):
    """Where the ranks are told their places; they join in their own threads, where a failure is tried again."""

    sizes: tuple[int, ...] = ()

    @property
    def backend_cls(self) -> type:
        return _Places


class _Places(Backend):
    """What Ray does on every worker before and after the work."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Deal the places; workers beyond the largest size that fits get none."""
        size = max((s for s in backend_config.sizes if s <= len(worker_group)), default=len(worker_group))
        host, port = worker_group.execute_single(0, _meeting_point)
        places = [Place(rank, size, 0, host, port) for rank in range(size)]
        told = [worker_group.execute_single_async(place.rank, _prepare, place) for place in places]
        ray.get(told, timeout=60)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        """Before workers are ended that are well (the gang is to have another size): let them save."""
        asked = worker_group.execute_async(_busy)
        ready, late = ray.wait(asked, num_returns=len(asked), timeout=2.0)
        if late or not any(ray.get(ready)) or _failed(worker_group):
            return
        leaving = worker_group.execute_async(_leave, PATIENCE_S)
        ray.wait(leaving, num_returns=len(leaving), timeout=PATIENCE_S + 2)


def _failed(worker_group: Any) -> bool:
    status = worker_group.get_latest_poll_status()
    return status is not None and bool(status.errors)


def _meeting_point() -> tuple[str, int]:
    return ray.util.get_node_ip_address(), free_port()  # type: ignore[no-untyped-call]


def _prepare(place: Place) -> None:
    """Take a place and hear SIGTERM; runs in the process's main thread, which alone may handle signals."""
    os.environ.update(place.variables | {"LOCAL_RANK": str(ray.train.get_context().get_local_rank())})
    signal.signal(signal.SIGTERM, lambda number, frame: _STOP.set())


def _busy() -> bool:
    return _BUSY.is_set()


def _leave(patience_s: float) -> None:
    _STOP.set()
    if _BUSY.is_set():
        _FREE.wait(patience_s)


@contextmanager
def _settings(timeout_s: float) -> Iterator[None]:
    """Set what Ray Train reads from the driver's environment only; values of the user stay."""
    wanted = {
        # How long a worker may not answer: a process under SIGSTOP, a machine that swaps.
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": f"{min(timeout_s, _HEARTBEAT_S):g}",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "2",
    }
    new = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


@contextmanager
def _stopping(desk: Any) -> Iterator[None]:
    """Turn SIGTERM to the driver into the ranks' flag, where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked, over = threading.Event(), threading.Event()

    def pass_on() -> None:
        asked.wait()
        if not over.is_set():
            desk.stop.remote()

    threading.Thread(target=pass_on, name="stopping", daemon=True).start()
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.set())
    try:
        yield
    finally:
        over.set()
        asked.set()
        signal.signal(signal.SIGTERM, before)


def _tell_what_is_missing(ranks: int, cpus: float, gpu: bool) -> None:
    """Warn where the cluster as it is has no room for the gang: Ray would wait for more nodes without a word."""
    there = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for what, wanted in (("CPU", ranks * cpus), ("GPU", float(ranks) if gpu else 0.0)):
        if there.get(what, 0.0) < wanted:
            _log.warning(
                "the cluster has %g %ss, %d ranks want %g: waiting for more nodes",
                there.get(what, 0.0), what, ranks, wanted,
            )  # fmt: skip


def _cause(error: BaseException, name: str) -> SarsenseError:
    """Find the project's own error inside what Ray wrapped around it."""
    inner: BaseException | None = error
    while inner is not None:
        failures = getattr(inner, "worker_failures", None) or {}
        for nested in (inner, *failures.values()):
            for candidate in (nested, getattr(nested, "cause", None)):
                if isinstance(candidate, SarsenseError):
                    return candidate
        inner = inner.__cause__
    return ResourceError(f"the ranks of {name} failed: {error}")
