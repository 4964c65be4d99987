"""Mosaic tiles as distributed: a tar.gz that is never unpacked as a whole, nor by the names in it.

GDAL seeks within files, which a gzip stream can only do by starting over, and the one door to rasters checks files by
path. So the members of a tile are copied once, in one pass, to a temporary folder under names of our own; it is
deleted when the scene is closed. In memory they would take up to 0.7 GB for each worker.
"""

import gzip
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from infra.store import Full
from ingest.scene import SceneRejected

MAX_MEMBERS = 1000
MAX_MEMBER_BYTES = 2 * 2**30
MAX_TOTAL_BYTES = 8 * 2**30
MAX_RATIO = 1000
"""An archive may not unpack to more than this many times its size, once it unpacks to more than a gigabyte."""
_RATIO_FROM_BYTES = 2**30
_COPY_BYTES = 2**20
_HEADER_BYTES = 2**22
_DAMAGED = (OSError, EOFError, tarfile.TarError, zlib.error, ValueError, OverflowError)


def list_archive(path: Path) -> list[str]:
    """Give the names of an archive's files without their folders.

    Raises SceneRejected for damage, for names that lead elsewhere, links, devices, duplicates, and for sizes that no
    product has.
    """
    return [name for name, _ in _members(path)]


def unpack(path: Path, wanted: Mapping[str, str], stack: ExitStack) -> dict[str, Path]:
    """Copy the members named by ``wanted`` (role to file name) to a temporary folder; give their paths by role.

    ``stack`` deletes them. Raises SceneRejected as :func:`list_archive` does, and where one is missing.
    """
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sarsense-")))
    roles = {name: role for role, name in wanted.items()}
    found: dict[str, Path] = {}
    for name, member in _members(path):
        if (role := roles.get(name)) is None:
            continue
        found[role] = folder / f"{role}{Path(name).suffix}"
        with _room(folder), found[role].open("wb") as out:
            for piece in _pieces(path, name, member):
                out.write(piece)
        if len(found) == len(roles):
            break
    if missing := set(roles.values()) - found.keys():
        raise SceneRejected(f"{path} has no {', '.join(sorted(missing))}: the archive is incomplete")
    return found


def _pieces(path: Path, name: str, member: IO[bytes]) -> Iterator[bytes]:
    try:
        while piece := member.read(_COPY_BYTES):
            yield piece
    except _DAMAGED as error:
        raise SceneRejected(f"{path} member {name} cannot be read: {error}; fetch the archive again") from error


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    """Tell a disk that takes no more from an archive that gives no more: the first is no fault of the scene."""
    try:
        yield
    except OSError as error:
        raise Full(
            f"{folder} cannot be written: {error.strerror}; make room, or let TMPDIR name another disk"
        ) from error


def _members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Walk the files of an archive in one pass; sizes are checked before a member's content is decompressed."""
    limit = max(_RATIO_FROM_BYTES, MAX_RATIO * _size(path))
    seen: set[str] = set()
    total = 0
    try:
        with _Bounded(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for count, member in enumerate(archive):
                if count >= MAX_MEMBERS:
                    raise SceneRejected(f"{path} has more than {MAX_MEMBERS} members, which no mosaic has")
                name = Path(member.name).name
                total += member.size
                if fault := _fault(member, name, seen, total, limit):
                    raise SceneRejected(f"{path} holds {member.name!r}, {fault}; the archive is refused")
                seen.add(name)
                if member.isfile() and (content := archive.extractfile(member)) is not None:
                    yield name, content
    except _DAMAGED as error:
        raise SceneRejected(f"{path} is not a readable tar.gz: {error}; fetch it again") from error


class _Bounded(gzip.GzipFile):
    """A gzip stream that gives little at a time: a header of a member may claim any size and is read at once."""

    def read(self, size: int | None = -1) -> bytes:
        """Read at most ``size`` bytes; raises ValueError where that is more than any header has."""
        if size is None or not 0 <= size <= _HEADER_BYTES:
            raise ValueError(f"a header of {size} bytes; at most {_HEADER_BYTES} are read")
        return super().read(size)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise SceneRejected(f"{path} cannot be opened: {error.strerror}") from error


def _fault(member: tarfile.TarInfo, name: str, seen: set[str], total: int, limit: int) -> str | None:
    """Say what is wrong with a member, or None."""
    parts = member.name.rstrip("/").split("/")
    if member.name.startswith("/") or "\\" in member.name or "\0" in member.name:
        return "a name that is not a relative path"
    if any(part in ("", "..") for part in parts) or "." in parts[1:]:
        return "a name that leaves the archive"
    if not (member.isfile() or member.isdir()):
        return "a link or device"
    if member.isfile() and name in seen:
        return "a name that occurs twice"
    if member.size > MAX_MEMBER_BYTES or total > min(MAX_TOTAL_BYTES, limit):
        return f"which is too large ({member.size} bytes, {total} so far)"
    return None
