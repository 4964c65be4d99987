"""How well a feed reads, as numbers: for a log line, for Prometheus, for a test."""

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

_SHOWN_ALWAYS = ("bytes_per_s",)


class Counts:
    """Named sums that several threads add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: dict[str, float] = {}

    def add(self, **more: float) -> None:
        """Add to the sums of these names."""
        with self._lock:
            for name, value in more.items():
                self._sums[name] = self._sums.get(name, 0) + value

    def read(self) -> dict[str, float]:
        """Give all sums so far."""
        with self._lock:
            return dict(self._sums)

    def __reduce__(self) -> tuple[type["Counts"], tuple[()]]:
        return (Counts, ())  # each process counts its own


@dataclass(frozen=True, slots=True)
class FeedMetrics:
    """What a feed has done so far: totals, from which rates follow.

    ``tiles`` are those handed over in ``steps`` batches, ``reads`` and ``bytes_read`` what came from the store,
    ``wait_s`` the seconds of ``wall_s`` in which the consumer waited. ``rereads`` counts tiles that were read again
    because their bytes were bad, ``replaced`` those that stayed bad and were replaced by another.
    """

    steps: float = 0
    tiles: float = 0
    wall_s: float = 0
    wait_s: float = 0
    reads: float = 0
    bytes_read: float = 0
    retries: float = 0
    cache_hits: float = 0
    cache_misses: float = 0
    cache_failures: float = 0
    rereads: float = 0
    replaced: float = 0
    readers_lost: float = 0

    @classmethod
    def of(cls, sums: Mapping[str, float]) -> "FeedMetrics":
        """Take the totals from named sums; what is not among them is 0."""
        return cls(**{field.name: sums.get(field.name, 0) for field in fields(cls)})

    def since(self, before: "FeedMetrics") -> "FeedMetrics":
        """Give what was done after ``before``."""
        return FeedMetrics(*(getattr(self, f.name) - getattr(before, f.name) for f in fields(self)))

    @property
    def tiles_per_s(self) -> float:
        """Tiles handed over per second."""
        return self.tiles / self.wall_s if self.wall_s else 0.0

    @property
    def bytes_per_s(self) -> float:
        """Bytes that came from the store per second."""
        return self.bytes_read / self.wall_s if self.wall_s else 0.0

    @property
    def wait_share(self) -> float:
        """Share of the time in which the consumer waited."""
        return min(self.wait_s / self.wall_s, 1.0) if self.wall_s else 0.0

    @property
    def cache_hit_share(self) -> float:
        """Share of the tiles that the cache had; 0 without a cache."""
        asked = self.cache_hits + self.cache_misses
        return self.cache_hits / asked if asked else 0.0

    def line(self) -> dict[str, float]:
        """Give the numbers for a line of a log: the rate of bytes, and of the rest what is not 0."""
        numbers = {
            "bytes_per_s": self.bytes_per_s,
            "cache_hit_share": self.cache_hit_share,
            **{
                name: getattr(self, name)
                for name in ("retries", "rereads", "replaced", "cache_failures", "readers_lost")
            },
        }
        return {name: value for name, value in numbers.items() if value or name in _SHOWN_ALWAYS}

    def prometheus(self, **labels: str) -> str:
        """Give the totals in Prometheus's text format 0.0.4, each a counter with these labels."""
        told = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
        lines = []
        for field in fields(self):
            name = f"sarsense_feed_{_UNITS.get(field.name, field.name)}_total"
            lines += [f"# TYPE {name} counter", f"{name}{{{told}}} {float(getattr(self, field.name))!r}"]
        return "\n".join(lines) + "\n"


_UNITS = {"wall_s": "wall_seconds", "wait_s": "wait_seconds", "bytes_read": "read_bytes"}


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class _Measured(Protocol):
    def metrics(self) -> FeedMetrics: ...


class Teller:
    """Gives what a feed did since it was last asked, and keeps a file for Prometheus up to date if there is one.

    ``prometheus`` is a ``*.prom`` file in the folder of node_exporter's textfile collector.
    """

    def __init__(self, feed: _Measured, prometheus: Path | None = None, **labels: str) -> None:
        self._feed, self._file, self._labels = feed, prometheus, labels
        self._before = FeedMetrics()

    def __call__(self) -> dict[str, float]:
        """Give the numbers of FeedMetrics.line since the last call."""
        now = self._feed.metrics()
        line = now.since(self._before).line()
        self._before = now
        if self._file is not None:
            part = self._file.with_name(f".{self._file.name}.{os.getpid()}")
            part.write_text(now.prometheus(**self._labels))
            part.replace(self._file)
        return line
