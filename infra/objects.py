"""What every store of objects promises, and how it says that something went wrong."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from infra.errors import ConflictError, ResourceError, UsageError

PART_PREFIX = ".sarsense-"
"""How the names of half-written files begin; no key may have a part that does."""

MAX_KEY_BYTES = 1024  # the limit of S3


class StoreError(ResourceError):
    """A store failed or refused; more precise kinds derive from it."""


class NotFound(StoreError):
    """There is no object under this key."""


class NoSuchBucket(StoreError):
    """The bucket itself is not there."""


class AccessDenied(StoreError):
    """The store is there but refuses: missing rights, or credentials that are missing or wrong."""


class Unreachable(StoreError):
    """The store did not answer well within the time allowed for it."""


class Corrupt(StoreError):
    """The stored bytes are not those that were written, or fewer than were asked for."""


class Full(StoreError):
    """There is no room left."""


class AlreadyExists(ConflictError):
    """Somebody else's object is already under a key that may be written only once."""


class BadKey(UsageError):
    """The text cannot name an object."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """Key and size in bytes of a stored object."""

    key: str
    size: int


class Store(Protocol):
    """Whole objects under keys. Stores can be pickled and used from several threads at once.

    A key is a relative path with ``/`` between its parts. Any method may raise AccessDenied, Unreachable or another
    StoreError; a key that is not one raises BadKey.
    """

    @property
    def url(self) -> str:
        """The URL that opens this store again."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Store a whole object, replacing what was there. Readers see the old bytes or the new, never a mixture."""
        ...

    def put_once(self, key: str, data: bytes) -> None:
        """Store a whole object if the key is free; of several writers exactly one succeeds.

        Raises AlreadyExists when another writer's object is there. A success whose acknowledgement was lost on the
        way is recognised and is a success.
        """
        ...

    def get(self, key: str) -> bytes:
        """Read a whole object. Raises NotFound, or Corrupt where its checksum does not fit."""
        ...

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Read exactly ``length`` bytes from byte ``start``.

        Raises NotFound, or Corrupt where the object is shorter.
        """
        ...

    def info(self, key: str) -> ObjectInfo:
        """Look up an object without reading it. Raises NotFound."""
        ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Go through all objects whose key begins with ``prefix``, in the order of their keys."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is fine."""
        ...


def check_key(key: str) -> str:
    """Give the key back if it names an object in every store and cannot lead out of one. Raises BadKey."""
    if fault := _fault(key):
        raise BadKey(f"{key!r} is not a key: {fault}; a key is a relative path such as shards/s1-000000.tar")
    return key


def check_prefix(prefix: str) -> str:
    """Give the start of keys back if keys can begin so; it may be empty or end with ``/``. Raises BadKey."""
    if fault := _fault(prefix + "x" if prefix.endswith("/") else prefix or "x"):
        raise BadKey(f"{prefix!r} cannot begin a key: {fault}")
    return prefix


def check_range(key: str, start: int, length: int) -> None:
    """Refuse a range of bytes that cannot be. Raises Corrupt: ranges come from an index that was read."""
    check_key(key)
    if start < 0 or length < 0:
        raise Corrupt(f"bytes {start} to {start + length} of {key} cannot be: the index that names them is damaged")


def _fault(key: str) -> str:
    parts = key.split("/")
    if "" in parts:
        return "it is absolute or has an empty part"
    if "." in parts or ".." in parts:
        return "it has a part . or .."
    if any(part.startswith(PART_PREFIX) for part in parts):
        return f"parts that begin with {PART_PREFIX} are for half-written files"
    if "\\" in key or not key.isprintable():
        return "it has a backslash or a character that cannot be printed"
    if len(key.encode(errors="surrogatepass")) > MAX_KEY_BYTES:
        return f"it is longer than {MAX_KEY_BYTES} bytes"
    return ""
