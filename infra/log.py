"""What a long piece of work tells while it runs: JSON lines in a store, and progress on stderr."""

import json
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from infra.store import Store

PUT_EVERY_S = 15.0
LINE_EVERY_S = 30.0
SPEED_OVER_S = 120.0
WIDE = 120  # columns of a terminal with room for a long bar


class JsonLines:
    """Records with a ``step``, kept as parts ``<prefix>/<first step>.jsonl``.

    A store cannot append, so a part is put again as it grows and a new one begins at every checkpoint. Work that
    was lost and is done again writes the part of the same name, so nothing stands there twice.
    """

    def __init__(self, store: Store, prefix: str, start: int) -> None:
        self._store, self._prefix = store, prefix
        self._begin(start)

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a record; it becomes visible within some seconds."""
        self._lines.append(json.dumps(dict(record), allow_nan=True))
        if time.monotonic() - self._put_at > PUT_EVERY_S:
            self.put()

    def put(self) -> None:
        """Make all records visible now."""
        if self._lines:
            self._store.put(f"{self._prefix}/{self._start:09d}.jsonl", "\n".join([*self._lines, ""]).encode())
        self._put_at = time.monotonic()

    def rotate(self, start: int) -> None:
        """Close the part; the next record belongs to step ``start`` or later."""
        self.put()
        self._begin(start)

    def _begin(self, start: int) -> None:
        self._start, self._lines, self._put_at = start, list[str](), time.monotonic()


def read_lines(store: Store, prefix: str) -> list[dict[str, Any]]:
    """Join the parts of a log in the order of steps; what a restart did again replaces what was there before."""
    keys = [o.key for o in store.list(f"{prefix}/") if o.key.endswith(".jsonl")]
    starts = [int(k.rsplit("/", 1)[1].removesuffix(".jsonl")) for k in keys]
    records: list[dict[str, Any]] = []
    for start, key in sorted(zip(starts, keys, strict=True)):
        records = [r for r in records if r["step"] < start]
        records += [json.loads(line) for line in store.get(key).decode().splitlines()]
    return records


def last_line(store: Store, prefix: str) -> dict[str, Any]:
    """Give the last record of a log, or an empty one; reads one part only."""
    keys = sorted(o.key for o in store.list(f"{prefix}/") if o.key.endswith(".jsonl"))
    lines = store.get(keys[-1]).decode().splitlines() if keys else []
    return json.loads(lines[-1]) if lines else {}


class Rate(ProgressColumn):
    """Steps per second, or seconds per step where they are slow."""

    def render(self, task: Task) -> Text:
        """Give the rate of the last half minute, nothing before it is known."""
        return Text(rate_text(task.finished_speed or task.speed or 0.0), style="cyan")


def rate_text(per_s: float) -> str:
    """Give a rate in the unit that reads well."""
    if per_s <= 0:
        return ""
    return f"{per_s:.3g}/s" if per_s >= 1 else f"{1 / per_s:.3g} s each"


def left_text(elapsed_s: float, done: int, begun_at: int, total: int) -> str:
    """Give the time left at the rate so far, as ``1:02:03 left``; nothing before it can be known."""
    if done <= begun_at or done >= total:
        return ""
    whole = round(elapsed_s / (done - begun_at) * (total - done))
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02} left"


class Note(ProgressColumn):
    """What is said beside the bar; where the terminal is narrow, this is what is cut short."""

    def render(self, task: Task) -> Text:
        """Give the note on one line, however little room there is."""
        return Text(task.fields["note"], style="dim", no_wrap=True, overflow="ellipsis")


class Steps:
    """Progress through numbered steps: a bar with rate and time left on a terminal, now and then a line elsewhere."""

    def __init__(self, title: str, start: int, total: int, *, quiet: bool = False, stream: TextIO | None = None):
        self._title, self._total, self._stream = title, total, stream or sys.stderr
        self._quiet, self._said_at = quiet, 0.0
        self._begun_at, self._began_s = start, time.monotonic()
        self._bar: Progress | None = None
        self._row = TaskID(0)
        if not quiet and self._stream.isatty():
            console = Console(file=self._stream)
            whole = Column(no_wrap=True)  # rich copies it for each of the columns
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(40 if console.width >= WIDE else 10, table_column=whole),
                MofNCompleteColumn(table_column=whole),
                Rate(table_column=whole),
                TimeElapsedColumn(table_column=whole),
                TimeRemainingColumn(table_column=whole),
                Note(),
                console=console,
                speed_estimate_period=SPEED_OVER_S,
            )
            self._row = self._bar.add_task(title, total=total, completed=start, note="")

    def update(self, done: int, note: str = "", total: int | None = None) -> None:
        """Show that ``done`` steps are behind us; ``total`` corrects how many there are."""
        self._total = self._total if total is None else total
        if self._bar is not None:
            self._bar.update(self._row, completed=done, total=self._total, note=note)
        elif not self._quiet and (done == self._total or time.monotonic() - self._said_at > LINE_EVERY_S):
            elapsed_s = time.monotonic() - self._began_s
            known = elapsed_s > LINE_EVERY_S
            left = left_text(elapsed_s, done, self._begun_at, self._total) if known else ""
            self.say(" ".join(part for part in (f"{self._title} {done}/{self._total}", note, left) if part))
            self._said_at = time.monotonic()

    def say(self, line: str) -> None:
        """Write one line for a person."""
        if self._bar is not None:
            self._bar.console.print(line, highlight=False)
        elif not self._quiet:
            self._stream.write(line + "\n")
            self._stream.flush()

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
