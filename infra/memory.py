"""Objects in the memory of this process, for tests and trials."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from infra.objects import AlreadyExists, Corrupt, NotFound, ObjectInfo, check_key, check_prefix, check_range

_STORES: defaultdict[str, dict[str, bytes]] = defaultdict(dict)


@dataclass(frozen=True, slots=True)
class MemoryStore:
    """The objects of one name within this process; a pickled copy elsewhere sees that process's own."""

    name: str
    prefix: str = ""

    @property
    def url(self) -> str:
        """The URL that opens this store again in this process."""
        return f"memory://{self.name}" + (f"/{self.prefix}" if self.prefix else "")

    def put(self, key: str, data: bytes) -> None:
        """Store a whole object."""
        self._objects[self._full(key)] = bytes(data)

    def put_once(self, key: str, data: bytes) -> None:
        """Store an object if the key is free."""
        mine = bytes(bytearray(data))  # a new object, so that "is" tells ours from an equal one
        if self._objects.setdefault(self._full(key), mine) is not mine:  # one atomic step under the GIL
            raise AlreadyExists(f"{self.url}/{key} is already there: it was written by somebody else")

    def get(self, key: str) -> bytes:
        """Read a whole object."""
        try:
            return self._objects[self._full(key)]
        except KeyError:
            raise NotFound(f"there is no object {key} in {self.url}") from None

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Read exactly ``length`` bytes."""
        check_range(key, start, length)
        data = self.get(key)
        if start + length > len(data):
            raise Corrupt(f"{self.url}/{key} has {len(data)} bytes, bytes {start} to {start + length} were expected")
        return data[start : start + length]

    def info(self, key: str) -> ObjectInfo:
        """Look up an object."""
        return ObjectInfo(key, len(self.get(key)))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Go through the objects whose key begins with ``prefix``."""
        root = f"{self.prefix}/" if self.prefix else ""
        start = root + check_prefix(prefix)
        found = {key: data for key, data in self._objects.copy().items() if key.startswith(start)}
        return (ObjectInfo(key.removeprefix(root), len(found[key])) for key in sorted(found))

    def delete(self, key: str) -> None:
        """Remove an object if it is there."""
        self._objects.pop(self._full(key), None)

    @property
    def _objects(self) -> dict[str, bytes]:
        return _STORES[self.name]

    def _full(self, key: str) -> str:
        check_key(key)
        return f"{self.prefix}/{key}" if self.prefix else key
