"""Objects under a URL: one protocol over a folder, an S3 bucket and memory."""

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from infra.errors import UsageError
from infra.folder import FolderStore
from infra.memory import MemoryStore
from infra.objects import (
    AccessDenied,
    AlreadyExists,
    BadKey,
    Corrupt,
    Full,
    NoSuchBucket,
    NotFound,
    ObjectInfo,
    Store,
    StoreError,
    Unreachable,
    check_key,
)

__all__ = [
    "AccessDenied",
    "AlreadyExists",
    "BadKey",
    "Corrupt",
    "Full",
    "NoSuchBucket",
    "NotFound",
    "ObjectInfo",
    "Store",
    "StoreError",
    "Unreachable",
    "absolute",
    "check_key",
    "open_store",
    "split_object",
]

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_KINDS = "a folder, file:///folder, s3://bucket/prefix or memory://name"


def open_store(url: str) -> Store:
    """Open the store behind a URL or a folder's path; nothing is contacted or created yet.

    S3 takes endpoint, region and credentials from the standard AWS variables and files.
    Raises UsageError where the URL cannot be a store.
    """
    scheme, _, rest = url.partition("://")
    if "://" not in url:
        return _folder(url)
    if scheme == "file":
        return _folder(_file_path(url))
    name, _, prefix = rest.partition("/")
    prefix = prefix.strip("/")
    if prefix:
        check_key(prefix)
    if scheme == "memory" and name:
        return MemoryStore(name, prefix)
    if scheme == "s3":
        from infra.s3 import S3Store

        return S3Store(_bucket(name), prefix)
    raise UsageError(f"{_hidden(url)!r} is not a store: expected {_KINDS}")


def split_object(url: str) -> tuple[str, str]:
    """Split the URL or path of one object into the URL of a store and the key within it.

    ``s3://bucket/corpus/manifest.json`` gives ``("s3://bucket/corpus", "manifest.json")``.
    Raises UsageError where the URL ends without a name.
    """
    scheme, mark, rest = url.rpartition("://")
    head, slash, key = rest.rpartition("/")
    local = scheme in ("", "file")
    if not key or not (head or local):
        raise UsageError(f"{_hidden(url)!r} names no object: expected something like s3://bucket/prefix/manifest.json")
    if local and not head:
        head = slash or "."
    return scheme + mark + head, check_key(unquote(key) if scheme == "file" else key)


def absolute(url: str) -> str:
    """Make a relative path absolute, for processes that stand in other folders; a URL stays what it is."""
    return url if "://" in url else os.path.abspath(url)


def _folder(path: str) -> FolderStore:
    if not path or "\0" in path:
        raise UsageError(f"{path!r} is not a folder: expected {_KINDS}")
    return FolderStore(Path(os.path.abspath(Path(path).expanduser())))


def _file_path(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path or parts.query or parts.fragment:
        raise UsageError(f"{_hidden(url)!r} is not a folder's URL: expected three slashes, as in file:///data/corpus")
    return unquote(parts.path)


def _bucket(name: str) -> str:
    if not _BUCKET.fullmatch(name):
        raise UsageError(
            f"{_hidden(name)!r} is not the name of a bucket: expected s3://bucket/prefix, the bucket with 3 to 63 of "
            "a-z, 0-9, '-' and '.'; credentials and endpoint come from the AWS_* variables, never from the URL"
        )
    return name


def _hidden(url: str) -> str:
    """Give the URL without what may be a password in it."""
    return re.sub(r"[^/]*@", "...@", url).partition("?")[0]
