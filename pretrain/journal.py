"""The diary of a run: JSON lines, TensorBoard events and progress, written by the lead rank alone."""

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from infra.log import JsonLines, Steps, read_lines
from infra.store import Store
from infra.world import World
from pretrain.run_folder import METRICS, METRICS_JOINED, TENSORBOARD, brief
from pretrain.trackers import Tracker


class Journal:
    """Takes the numbers of a step to where people and programs look for them; does nothing on other ranks."""

    def __init__(
        self, store: Store, world: World, title: str, start: int, total: int, trackers: Sequence[Tracker] = ()
    ) -> None:
        self._store, self._lead, self._trackers = store, world.lead, trackers
        self._steps = Steps(title, start, total, quiet=not world.lead)
        self._lines = JsonLines(store, METRICS, start)
        self._events: Any = None
        self._folder = tempfile.TemporaryDirectory(prefix="sarsense-events-")
        if self._lead:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(self._folder.name, purge_step=start)

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers of a step."""
        if not self._lead:
            return
        self._lines.add({"step": step, **values})
        for name, value in values.items():
            if math.isfinite(value):
                self._events.add_scalar(name, value, step)
        for tracker in self._trackers:
            tracker.record(step, values)
        self._steps.update(step + 1, brief(values))

    def say(self, line: str) -> None:
        """Write one line for a person."""
        self._steps.say(line)

    def commit(self, step: int) -> None:
        """Make everything visible in the store; records from here on belong to ``step`` or later."""
        if not self._lead:
            return
        self._lines.rotate(step)
        self._events.flush()
        for file in Path(self._folder.name).iterdir():
            self._store.put(f"{TENSORBOARD}/{file.name}", file.read_bytes())

    def finish(self, step: int) -> None:
        """Commit, and join all parts of the log into one object."""
        self.commit(step)
        if self._lead:
            lines = (json.dumps(record) for record in read_lines(self._store, METRICS))
            self._store.put(METRICS_JOINED, "".join(f"{line}\n" for line in lines).encode())

    def __enter__(self) -> Self:
        self._steps.__enter__()
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._steps.__exit__(kind, value, trace)
        if self._lead:
            self._lines.put()
            self._events.close()
            for tracker in self._trackers:
                tracker.close()
        self._folder.cleanup()
