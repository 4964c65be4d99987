"""Bytes of remote shards kept on a node's disk: bounded, shared by its processes, oldest use first out."""

import fcntl
import os
import struct
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infra.errors import UsageError

GIB = 1 << 30

_TOTAL = "total"  # the file with the number of bytes kept; its lock is held while the set of files changes
_PART = ".part-"
_STALE_S = 3600.0
_LEFT = 0.9  # of the room after files were dropped: the folder is then listed once per tenth written
_NUMBER = struct.Struct("<q")


@dataclass(frozen=True, slots=True)
class SpanCache:
    """Files of at most ``max_bytes`` in all below ``folder``, which any number of processes may share.

    A file holds the bytes of one stretch of a shard and is named by the shard's SHA-256, so corpora that share shards
    share it. It appears complete or not at all; what it holds is not trusted: who reads it checks the CRC32C of every
    tile. Beyond ``max_bytes`` there may be one file per writing thread that is not complete yet. A cache never ends
    a run: on a full or failing disk nothing is kept, which ``put`` says.
    """

    folder: Path
    max_bytes: int

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise UsageError(f"a cache of {self.max_bytes} bytes in {self.folder}: expected 1 or more, or no cache")

    def get(self, sha256: str, start: int, length: int) -> NDArray[np.uint8] | None:
        """Give the bytes of a stretch, or None where they are not kept; they count as used now."""
        try:
            descriptor = os.open(self._path(sha256, start, length), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            data = np.empty(length, np.uint8)
            if os.preadv(descriptor, [data.data], 0) != length:
                return None
            os.utime(descriptor)
            return data
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def put(self, sha256: str, start: int, data: NDArray[np.uint8]) -> bool:
        """Keep the bytes of a stretch, dropping what was not used for longest; False where that could not be."""
        if data.nbytes > self.max_bytes * _LEFT:
            return False
        path = self._path(sha256, start, data.nbytes)
        part = self.folder / f"{_PART}{uuid.uuid4().hex}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(part, "xb", buffering=0, opener=_private) as file:
                if file.write(data.data) != data.nbytes:
                    return False
            with self._locked() as total:
                if not path.exists():  # else another reader was faster
                    # Counted before it is there: a crash in between leaves the count too high, never too low.
                    self._write(total, self._room(total, data.nbytes) + data.nbytes)
                    os.rename(part, path)
        except OSError:
            return False
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
        return True

    def drop(self, sha256: str, start: int, length: int) -> None:
        """Forget the bytes of a stretch, which turned out to be bad."""
        with suppress(OSError):
            self._path(sha256, start, length).unlink(missing_ok=True)

    def kept_bytes(self) -> int:
        """Count the bytes of all complete files."""
        return sum(size for _, size, _ in self._files())

    def _path(self, sha256: str, start: int, length: int) -> Path:
        return self.folder / sha256[:2] / f"{sha256[2:34]}-{start}-{length}"

    @contextmanager
    def _locked(self) -> Iterator[int]:
        descriptor = os.open(self.folder / _TOTAL, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)  # which gives the lock back, as the end of the process does

    def _room(self, total: int, more: int) -> int:
        """Give the number of bytes kept once there is room for ``more``."""
        stored = os.pread(total, _NUMBER.size, 0)
        kept = _NUMBER.unpack(stored)[0] if len(stored) == _NUMBER.size else self.kept_bytes()
        return int(kept) if kept + more <= self.max_bytes else self._dropped(round(self.max_bytes * _LEFT) - more)

    def _write(self, total: int, kept: int) -> None:
        os.pwrite(total, _NUMBER.pack(kept), 0)

    def _dropped(self, most: int) -> int:
        files = sorted(self._files())
        kept = sum(size for _, size, _ in files)
        for _, size, path in files:
            if kept <= most:
                break
            with suppress(FileNotFoundError):
                os.unlink(path)  # who is reading it reads on
            kept -= size
        for part in self.folder.glob(f"{_PART}*"):  # of writers that died
            with suppress(OSError):
                if part.stat().st_mtime < time.time() - _STALE_S:
                    part.unlink()
        return kept

    def _files(self) -> Iterator[tuple[int, int, str]]:
        """Give (time of last use, bytes, path) of every complete file."""
        for folder in self.folder.glob("[0-9a-f][0-9a-f]"):
            with os.scandir(folder) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        found = entry.stat()
                        yield found.st_mtime_ns, found.st_size, entry.path


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
