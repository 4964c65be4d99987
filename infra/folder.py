"""Objects as files below a folder, on a local disk or a shared file system."""

import errno
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.objects import (
    PART_PREFIX,
    AccessDenied,
    AlreadyExists,
    Corrupt,
    Full,
    NotFound,
    ObjectInfo,
    StoreError,
    check_key,
    check_prefix,
    check_range,
)

_NO_RIGHTS = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_FILE = {errno.ENOENT, errno.EISDIR, errno.ENOTDIR}
_CLASH = {errno.EISDIR, errno.ENOTDIR, errno.EEXIST}
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}


@dataclass(frozen=True, slots=True)
class FolderStore:
    """Files below ``root`` (absolute). A file appears under its name complete and on disk, or not at all.

    Unlike in S3, a key cannot continue another key: with ``a`` stored, ``a/b`` is refused.
    """

    root: Path

    @property
    def url(self) -> str:
        """The URL that opens this store again."""
        return self.root.as_uri()

    def put(self, key: str, data: bytes) -> None:
        """Write a file, replacing what was there."""
        self._write(key, data, os.replace)

    def put_once(self, key: str, data: bytes) -> None:
        """Write a file if the name is free. A hard link is the one step that fails when the name is taken."""
        self._write(key, data, _link)

    def get(self, key: str) -> bytes:
        """Read a whole file."""
        path = self._path(key)
        with self._reading(key):
            return path.read_bytes()

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Read exactly ``length`` bytes."""
        check_range(key, start, length)
        with self._reading(key):
            handle = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC)
            try:
                data = _read_at(handle, start, length)
                size = os.fstat(handle).st_size
            finally:
                os.close(handle)
        if len(data) != length:
            raise Corrupt(
                f"{self.root / key} has {size} bytes, bytes {start} to {start + length} were expected: "
                "it was cut or replaced"
            )
        return data

    def info(self, key: str) -> ObjectInfo:
        """Look up a file."""
        path = self._path(key)
        with self._reading(key):
            if not path.is_file():
                raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
            return ObjectInfo(key, path.stat().st_size)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Go through the files whose key begins with ``prefix``."""
        top = self.root / check_prefix(prefix).rpartition("/")[0]
        root = f"{self.root}/" if self.root != Path("/") else "/"
        found = []
        for path in _files(top):
            key = path.removeprefix(root)
            if key.startswith(prefix):
                found.append((key, path))
        for key, path in sorted(found):
            try:
                yield ObjectInfo(key, os.stat(path).st_size)
            except FileNotFoundError:
                continue  # deleted since

    def delete(self, key: str) -> None:
        """Remove a file if it is there; its folders stay."""
        path = self._path(key)
        try:
            path.unlink(missing_ok=True)
        except (NotADirectoryError, IsADirectoryError):
            return  # no object
        except OSError as error:
            raise _explained(error, path, "delete") from error

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _write(self, key: str, data: bytes, publish: Callable[[Path, Path], None]) -> None:
        path = self._path(key)
        part = path.parent / f"{PART_PREFIX}{uuid.uuid4().hex}.part"
        try:
            _make_folder(path.parent)
            try:
                _write_file(part, data)
                publish(part, path)
            finally:
                part.unlink(missing_ok=True)
            _sync_folder(path.parent)
        except OSError as error:
            raise _explained(error, path, "write") from error

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _NO_FILE:
                raise NotFound(f"there is no object {key} in {self.root}") from error
            raise _explained(error, self.root / key, "read") from error


def _link(part: Path, path: Path) -> None:
    try:
        os.link(part, path)
    except FileExistsError:
        if path.is_dir():
            raise
        # Over NFS the link may have been made and its acknowledgement lost: then both names are one file.
        if not path.exists() or not os.path.samefile(part, path):
            raise AlreadyExists(f"{path} is already there: it was written by somebody else") from None
    except OSError as error:
        if error.errno in _NO_LINKS and os.access(path.parent, os.W_OK):
            raise StoreError(
                f"the file system of {path.parent} has no hard links, which writing an object only once needs: "
                "choose a folder on another file system, or S3"
            ) from error
        raise


def _write_file(part: Path, data: bytes) -> None:
    # Not tempfile: its mode 0600 would ignore the user's umask.
    handle = os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
    with os.fdopen(handle, "wb", buffering=0) as file:
        left = memoryview(data)
        while left:  # one write call takes at most 2 GiB
            left = left[file.write(left) :]
        os.fsync(handle)


def _read_at(handle: int, start: int, length: int) -> bytes:
    data = os.pread(handle, length, start)
    while len(data) < length:  # one call gives at most 2 GiB
        more = os.pread(handle, length - len(data), start + len(data))
        if not more:
            break
        data += more
    return data


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _files(top: Path) -> Iterator[str]:
    for folder, _, names in os.walk(top, onerror=_walk_failed):
        for name in names:
            if not name.startswith(PART_PREFIX):
                yield os.path.join(folder, name)


def _walk_failed(error: OSError) -> None:
    if error.errno not in _NO_FILE:
        raise _explained(error, Path(error.filename), "list") from error


def _explained(error: OSError, path: Path, action: str) -> StoreError:
    if error.errno in _NO_RIGHTS:
        return AccessDenied(f"cannot {action} {path}: {error.strerror}; check who owns the folder and its permissions")
    if error.errno in _NO_ROOM:
        return Full(f"cannot {action} {path}: {error.strerror}; free some space there or choose another folder")
    if action == "write" and error.errno in _CLASH:
        return StoreError(
            f"cannot write {path}: a file stands where a folder should be, or the reverse; choose another key"
        )
    return StoreError(f"cannot {action} {path}: {error.strerror}")
