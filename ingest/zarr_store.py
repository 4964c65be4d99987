"""A place of objects as zarr sees it: a composite is read and written wherever a corpus can lie."""

import asyncio
import builtins
from collections.abc import AsyncIterator, Iterable
from typing import Self

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest
from zarr.abc.store import Store as ZarrStoreBase
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

from infra.store import NotFound, Store


class ZarrObjects(ZarrStoreBase):
    """The objects of a :class:`infra.store.Store` as zarr's own kind of store, with its retries and checksums.

    Ranges of shards are read, not whole shards. Objects are put whole: readers see a shard's old bytes or its new.
    """

    supports_writes = True
    supports_deletes = True
    supports_listing = True

    def __init__(self, objects: Store, *, read_only: bool = False) -> None:
        super().__init__(read_only=read_only)
        self._objects = objects

    def with_read_only(self, read_only: bool = False) -> Self:
        """Give the same place, read-only or not."""
        return type(self)(self._objects, read_only=read_only)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ZarrObjects) and other._objects.url == self._objects.url

    def __hash__(self) -> int:
        return hash(self._objects.url)

    def __str__(self) -> str:
        return self._objects.url

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Read an object or a range of its bytes; None where it is not there."""
        data = await asyncio.to_thread(self._read, key, byte_range)
        return None if data is None else (prototype or default_buffer_prototype()).buffer.from_bytes(data)

    def _read(self, key: str, span: ByteRequest | None) -> bytes | None:
        try:
            if span is None:
                return self._objects.get(key)
            if isinstance(span, RangeByteRequest):
                return self._objects.get_range(key, span.start, span.end - span.start)
            size = self._objects.info(key).size
            start = span.offset if isinstance(span, OffsetByteRequest) else max(0, size - span.suffix)
            return self._objects.get_range(key, start, size - start)
        except NotFound:
            return None

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> builtins.list[Buffer | None]:
        """Read several ranges at once."""
        return builtins.list(await asyncio.gather(*(self.get(key, prototype, span) for key, span in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Say whether an object is there."""
        return await asyncio.to_thread(self._has, key)

    def _has(self, key: str) -> bool:
        try:
            self._objects.info(key)
        except NotFound:
            return False
        return True

    async def set(self, key: str, value: Buffer) -> None:
        """Put a whole object."""
        self._check_writable()
        await asyncio.to_thread(self._objects.put, key, value.to_bytes())

    async def delete(self, key: str) -> None:
        """Remove an object."""
        self._check_writable()
        await asyncio.to_thread(self._objects.delete, key)

    async def list(self) -> AsyncIterator[str]:
        """Give all keys."""
        for key in await asyncio.to_thread(self._keys, ""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Give all keys that begin with a prefix."""
        for key in await asyncio.to_thread(self._keys, prefix):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Give the names directly below a prefix."""
        root = f"{prefix.rstrip('/')}/" if prefix.rstrip("/") else ""
        keys = await asyncio.to_thread(self._keys, root)
        for name in sorted({key.removeprefix(root).split("/")[0] for key in keys}):
            yield name

    def _keys(self, prefix: str) -> builtins.list[str]:
        return [found.key for found in self._objects.list(prefix)]
