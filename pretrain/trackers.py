"""The numbers of a run in MLflow and Weights & Biases, beside the log that is always written.

A tracker is sent to from a thread of its own: a server that is slow or away neither holds the training up nor ends it.
"""

import importlib
import logging
import math
import queue
import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol

from infra.errors import ResourceError, UsageError
from pretrain.config import run_digest
from pretrain.watch_config import WatchConfig

WAITING = 1000
"""Lines that wait for a slow server at most; more are dropped."""
CLOSE_S = 20.0
_log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Something outside that keeps the numbers of a run."""

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of a step."""
        ...

    def close(self) -> None:
        """Say that no more come."""
        ...


def require(package: str) -> Any:
    """Import an optional package. Raises UsageError that names the extra where it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise UsageError(
            f"--watch.{package} needs the package {package}, which is not installed: pip install 'sarsense[{package}]'"
        ) from None


def open_trackers(config: WatchConfig, run: Mapping[str, Any], title: str) -> list[Tracker]:
    """Open the trackers that the dials name; a run that goes on is found again by its digest.

    Raises UsageError where a package is missing and ResourceError where a server refuses.
    """
    made: list[Tracker] = []
    for name, place, kind in (("MLflow", config.mlflow, MLflow), ("W&B", config.wandb, WandB)):
        if place is not None:
            try:
                made.append(Sender(kind(place, run, title), name))
            except UsageError:
                raise
            except Exception as error:  # each of them has its own family of errors
                raise ResourceError(f"{name} at {place} refuses: {error}") from error
    return made


def flat(values: Mapping[str, Any], under: str = "") -> dict[str, Any]:
    """Name nested plain data by dotted paths."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{under}{name}"
        found |= flat(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return found


class MLflow:
    """A run of the experiment "sarsense" on an MLflow server, tagged with the digest of the run."""

    def __init__(self, uri: str, run: Mapping[str, Any], title: str) -> None:
        mlflow = require("mlflow")
        entities = importlib.import_module("mlflow.entities")
        self._metric, self._client = entities.Metric, mlflow.MlflowClient(tracking_uri=uri)
        name = run_digest(run)
        there = self._client.get_experiment_by_name("sarsense")
        experiment = there.experiment_id if there else self._client.create_experiment("sarsense")
        old = self._client.search_runs([experiment], f"tags.sarsense_run = '{name}'", max_results=1)
        if old:
            self._run = old[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        self._run = self._client.create_run(
            experiment, run_name=f"{title}-{name[:12]}", tags={"sarsense_run": name}
        ).info.run_id
        dials = [entities.Param(path, str(value)[:500]) for path, value in flat(run).items()]
        for start in range(0, len(dials), 100):
            self._client.log_batch(self._run, params=dials[start : start + 100])

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Log the numbers of a step."""
        now = int(time.time() * 1000)
        self._client.log_batch(self._run, metrics=[self._metric(n, v, now, step) for n, v in values.items()])

    def close(self) -> None:
        """Mark the run as ended."""
        self._client.set_terminated(self._run)


class WandB:
    """A run of a Weights & Biases project, named by the digest of the run; WANDB_MODE=offline works as ever."""

    def __init__(self, project: str, run: Mapping[str, Any], title: str) -> None:
        name = run_digest(run)
        self._run = require("wandb").init(
            project=project, id=name[:16], name=f"{title}-{name[:12]}", resume="allow", config=flat(run)
        )

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Log the numbers of a step."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Mark the run as ended."""
        self._run.finish()


class Sender:
    """Hands numbers to a tracker from a thread; what cannot be sent is dropped with a warning."""

    def __init__(self, tracker: Tracker, name: str) -> None:
        self._tracker, self._name = tracker, name
        self._lines: queue.Queue[tuple[int, Mapping[str, float]] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._send, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Take finite numbers along."""
        try:
            self._lines.put_nowait((step, {n: v for n, v in values.items() if math.isfinite(v)}))
        except queue.Full:
            _log.warning("%s is too slow: step %d is dropped there", self._name, step)

    def close(self) -> None:
        """Send what waits, for some seconds at most."""
        try:
            self._lines.put(None, timeout=CLOSE_S)
        except queue.Full:
            return
        self._thread.join(CLOSE_S)

    def _send(self) -> None:
        while (line := self._lines.get()) is not None:
            self._tell(lambda step, values: self._tracker.record(step, values), *line)
        self._tell(self._tracker.close)

    def _tell(self, call: Any, *arguments: Any) -> None:
        try:
            call(*arguments)
        except Exception as error:  # whatever the outsider raises, the training goes on
            _log.warning("%s: %s", self._name, error)
