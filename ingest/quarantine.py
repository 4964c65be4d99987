"""What is set aside: which source, at which stage, why, and which bytes; and how much of it a build stands."""

import hashlib
import re
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

from infra.errors import SarsenseError, UsageError
from infra.record import canonical_json, sha256
from infra.store import Store
from ingest.catalog import Product, Unit
from ingest.chips import ChipSource
from ingest.href import place_of, split_part

Reject = dict[str, str]
"""``source``, ``stage``, ``kind`` (the class of the error), ``reason``, and where they are known ``sha256`` of what was
refused and ``trace``."""


class TooManyFailures(SarsenseError):
    """More sources were rejected than the build was told to stand; nothing was published."""


def rejected(source: Product | ChipSource, stage: str, error: Exception) -> Reject:
    """Describe a source that cannot be used."""
    return {
        "source": source.name if isinstance(source, Product) else source.id,
        "stage": stage,
        "kind": type(error).__name__,
        "reason": str(error),
        **_named_digest(source),
    }


def unexpected(unit: Unit, error: Exception) -> Reject:
    """Describe what nobody foresaw, with its traceback, as a reject of the whole unit."""
    trace = "".join(traceback.format_exception(error))[-4000:]
    reject = {"source": unit.name, "stage": "work", "kind": type(error).__name__, "reason": str(error), "trace": trace}
    return reject | (_named_digest(unit.sources[0]) if len(unit.sources) == 1 else {})


def content_digest(path: str) -> str | None:
    """Give the SHA-256 of a file, or of a folder's files: of lines ``<name>NUL<SHA-256>`` in the order of names.

    None for what does not lie on this machine or cannot be read.
    """
    whole, _ = split_part(path)
    if place_of(whole) != "local":
        return None
    root = Path(whole)
    try:
        if root.is_file():
            return _file_digest(root)
        files = sorted((file.relative_to(root).as_posix(), file) for file in root.rglob("*") if file.is_file())
        lines = [f"{name}\0{_file_digest(file)}\n" for name, file in files]
    except OSError:
        return None
    return sha256("".join(lines).encode()) if lines else None


def failures_allowed(limit: str, sources: int) -> int:
    """Read a limit of rejected sources, a number ("20") or a share of all ("5%"). Raises UsageError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)%|(\d+)", limit.strip())
    if found is None or float(found[1] or 0) > 100:
        raise UsageError(f"--max-failures {limit!r}: expected a number of sources or a share of them, such as 20 or 5%")
    return int(found[2]) if found[2] else int(sources * float(found[1]) / 100 + 1e-9)


def write_quarantine(store: Store, rejects: Iterable[Reject], *, forget: bool) -> None:
    """Write down each reject under ``quarantine/``; with ``forget``, take back those that are no more."""
    keep = set()
    for reject in rejects:
        key = f"quarantine/{sha256(canonical_json([reject['source'], reject['stage']]))[:16]}.json"
        keep.add(key)
        store.put(key, canonical_json(reject))
    if forget:
        for old in list(store.list("quarantine/")):
            if old.key not in keep:
                store.delete(old.key)


def log_rejects(rejects: Sequence[Reject], limit: int = 20) -> None:
    """Tell on stderr what was set aside and why."""
    for reject in rejects[:limit]:
        sys.stderr.write(f"  rejected {reject['source']} ({reject['stage']}): {reject['reason']}\n")
    if len(rejects) > limit:
        sys.stderr.write(f"  and {len(rejects) - limit} more, all in quarantine/\n")


def _named_digest(source: Product | ChipSource) -> Reject:
    found = content_digest(source.path if isinstance(source, Product) else source.images[0])
    return {} if found is None else {"sha256": found}


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
