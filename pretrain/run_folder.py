"""What lies where in the store of a run, and how far the run has come; free of torch."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from infra.errors import UsageError
from infra.log import read_lines
from infra.store import NotFound, Store, open_store

RUN = "run.json"
ENCODER = "encoder.safetensors"
METRICS = "metrics"
METRICS_JOINED = "metrics.jsonl"
TENSORBOARD = "tensorboard"
CHECKPOINTS = "checkpoints"

_CHECKPOINT = re.compile(rf"{CHECKPOINTS}/step-(\d{{9}})-([0-9a-f]{{16}})\.safetensors")


def checkpoint_key(step: int, content_digest: str) -> str:
    """Name the checkpoint after ``step`` steps; the first 16 hex digits of its SHA-256 tell a reader it is whole."""
    return f"{CHECKPOINTS}/step-{step:09d}-{content_digest[:16]}.safetensors"


def checkpoint_name(key: str) -> tuple[int, str] | None:
    """Give step and digest digits of a checkpoint's key, or None for another object."""
    found = _CHECKPOINT.fullmatch(key)
    return (int(found[1]), found[2]) if found else None


def checkpoint_keys(store: Store) -> list[str]:
    """Give the keys of the checkpoints, newest first."""
    return sorted((o.key for o in store.list(f"{CHECKPOINTS}/") if checkpoint_name(o.key)), reverse=True)


def brief(values: Mapping[str, Any]) -> str:
    """Give the few numbers of a step that a progress line has room for."""
    shown = {"loss": "loss {:.4g}", "images_per_s": "{:.3g} images/s", "data_wait_share": "{:.1%} waiting for data"}
    return ", ".join(text.format(values[name]) for name, text in shown.items() if name in values)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come."""

    url: str
    digest: str
    method: str
    steps: int
    checkpoint_steps: tuple[int, ...]
    encoder: bool
    last: dict[str, Any]
    run: dict[str, Any]

    def plain(self) -> dict[str, Any]:
        """Give everything as plain data."""
        return asdict(self)

    def text(self) -> str:
        """Give some lines for a person."""
        saved = ", ".join(map(str, self.checkpoint_steps)) or "none"
        done = self.last.get("step", -1) + 1
        lines = [
            f"run {self.digest[:12]}  {self.method}  {self.url}",
            f"steps {done} of {self.steps}; checkpoints at {saved}; encoder {'there' if self.encoder else 'not yet'}",
        ]
        lines += [f"  {n:<18} {v:.5g}" for n, v in self.last.items() if isinstance(v, float)]
        return "\n".join(lines)


def read_run(url: str) -> Progress:
    """Read what a run has left in its store. Raises UsageError where no run is there."""
    store = open_store(url)
    try:
        record = json.loads(store.get(RUN))
    except NotFound:
        raise UsageError(f"no run at {url}: expected what was given to --out, with {RUN} in it") from None
    lines = read_lines(store, METRICS)
    steps = [name[0] for key in checkpoint_keys(store) if (name := checkpoint_name(key))]
    encoder = any(o.key == ENCODER for o in store.list(ENCODER))
    return Progress(
        url=url,
        digest=record["digest"],
        method=str(record["run"].get("method", "?")),
        steps=int(record["config"]["steps"]),
        checkpoint_steps=tuple(sorted(steps)),
        encoder=encoder,
        last=lines[-1] if lines else {},
        run=record["run"],
    )
