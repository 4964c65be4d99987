"""On what a run was trained: versions, hardware, commit and command of every start, beside the run; no secrets."""

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from infra.store import NotFound, Store

ENVIRONMENT = "environment.json"
FORMAT = "sarsense-environment-1"
PACKAGES = ("sarsense", "torch", "numpy", "numba", "ray", "pyarrow", "safetensors", "blosc2")
MOST_STARTS = 100

_SECRET_NAME = re.compile(r"(?i)(pass(word|wd)?|secret|token|credential|(api|access|private)[-_.]?key|authorization)")
_SECRET_VALUE = re.compile(r"(AKIA|ASIA)[A-Z0-9]{12,}|\b(hf|ghp|glpat|sk|xox[bp])[-_][A-Za-z0-9_-]{12,}")
_HIDDEN = "(hidden)"


def record_start(store: Store, *, place: str, command: Sequence[str], data: str, ranks: int) -> None:
    """Append this start to the run's record; ``place`` says whether this process launches ranks or is one."""
    start = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "place": place,
        "command": redacted(command),
        "data": redacted([data])[0],
        "ranks": ranks,
        **machine(),
    }
    record = {"format": FORMAT, "starts": [*read_starts(store), start][-MOST_STARTS:]}
    store.put(ENVIRONMENT, json.dumps(record, indent=1).encode())


def read_starts(store: Store) -> list[dict[str, Any]]:
    """Give the starts of a run, oldest first; none where nothing readable is recorded."""
    try:
        found = json.loads(store.get(ENVIRONMENT))
    except (NotFound, ValueError):
        return []
    starts = found.get("starts") if isinstance(found, dict) else None
    return [s for s in starts if isinstance(s, dict)] if isinstance(starts, list) else []


def machine() -> dict[str, Any]:
    """Describe software and hardware of this process, without the names of host and user."""
    import psutil
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": commit(),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": gpus,
        "cuda": torch.version.cuda,
    }


def redacted(words: Sequence[str]) -> list[str]:
    """Give a command line without what may be a secret: values of telling options, keys, passwords in URLs.

    The home folder, which names the user, becomes ``~``.
    """
    home, shown, hide = str(Path.home()), list[str](), False
    for word in words:
        name, equals, _ = word.partition("=")
        if hide and not word.startswith("--"):
            word = _HIDDEN
        elif equals and _SECRET_NAME.search(name):
            word = f"{name}={_HIDDEN}"
        hide = word.startswith("-") and not equals and _SECRET_NAME.search(word) is not None
        word = re.sub(r"//[^/@\s]*@", f"//{_HIDDEN}@", word)
        word = re.sub(r"(://[^?\s]*)\?.*", rf"\1?{_HIDDEN}", word)  # signed URLs
        word = _SECRET_VALUE.sub(_HIDDEN, word)
        shown.append(word.replace(home, "~") if len(home) > 1 else word)
    return shown


def command_line() -> list[str]:
    """Give the command of this process, its program without the folder."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]] if sys.argv else []


def commit() -> str | None:
    """Give the commit of the source that runs, with ``+`` where it was changed; None outside a checkout."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        name = _git(root, "rev-parse", "HEAD")
        return f"{name}+" if _git(root, "status", "--porcelain", "--untracked-files=no") else name
    except (OSError, subprocess.SubprocessError):
        return None


def cpu_model() -> str:
    """Give the processor's model name."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or "unknown"


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "--no-optional-locks", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
