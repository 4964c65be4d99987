"""Files that are read in pieces from a store: only the bytes that are asked for travel, and each travels once."""

import io
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from infra.store import Corrupt, Store

BLOCK = 2**17
"""Bytes travel in blocks of this size: about what one round trip to a store costs."""
MAX_REQUEST = 2**22
"""Neighbouring blocks travel in one request of at most this size; several requests run at once."""
MAX_CACHE = 2**26
"""A file keeps at most this many bytes of what it read."""
_PARALLEL = 8
_CHECKPOINT = 2**22
_DECOMPRESS = 2**16


class Source(Protocol):
    """Bytes that can be read from anywhere."""

    @property
    def size(self) -> int:
        """Length in bytes."""
        ...

    def read_at(self, start: int, length: int) -> bytes:
        """Read ``length`` bytes from ``start``, or fewer where the file ends."""
        ...

    def prefetch(self, spans: Iterable[tuple[int, int]]) -> None:
        """Say which (start, length) will be read soon."""
        ...


class RangedFile:
    """An object in a store as a :class:`Source`. Reading is safe from several threads."""

    def __init__(self, store: Store, key: str, size: int) -> None:
        self._store, self._key, self.size = store, key, size
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def read_at(self, start: int, length: int) -> bytes:
        """Read through the cache; raises StoreError."""
        end = min(start + length, self.size)
        if end <= start:
            return b""
        numbers = range(start // BLOCK, -(-end // BLOCK))
        with self._lock:
            self._fetch(n for n in numbers if n not in self._blocks)
            parts = [self._blocks[n] for n in numbers]
            for n in numbers:
                self._blocks.move_to_end(n)
            self._forget()
        first = numbers[0] * BLOCK
        return b"".join(parts)[start - first : end - first]

    def prefetch(self, spans: Iterable[tuple[int, int]]) -> None:
        """Fetch all blocks of the spans, as many as the cache may hold, several at once."""
        wanted = {n for start, length in spans for n in range(start // BLOCK, -(-(start + length) // BLOCK))}
        with self._lock:
            missing = sorted(n for n in wanted - self._blocks.keys() if n * BLOCK < self.size)
            self._fetch(missing[: MAX_CACHE // BLOCK])
            self._forget()

    def _fetch(self, numbers: Iterable[int]) -> None:
        runs = list(_runs(numbers, MAX_REQUEST // BLOCK))
        if len(runs) > 1:
            with ThreadPoolExecutor(_PARALLEL) as pool:
                found = list(pool.map(self._read_run, runs))
        else:
            found = [self._read_run(run) for run in runs]
        for run, data in zip(runs, found, strict=True):
            for place, n in enumerate(run):
                self._blocks[n] = data[place * BLOCK : (place + 1) * BLOCK]

    def _read_run(self, run: range) -> bytes:
        start = run.start * BLOCK
        return self._store.get_range(self._key, start, min(run.stop * BLOCK, self.size) - start)

    def _forget(self) -> None:
        while len(self._blocks) > MAX_CACHE // BLOCK:
            self._blocks.popitem(last=False)


def _runs(numbers: Iterable[int], longest: int) -> Iterator[range]:
    """Join ascending numbers to ranges without gaps."""
    start = stop = -1
    for n in numbers:
        if n != stop or n - start >= longest:
            if stop > start:
                yield range(start, stop)
            start = n
        stop = n + 1
    if stop > start:
        yield range(start, stop)


class Part:
    """A stretch of another source."""

    def __init__(self, source: Source, start: int, size: int) -> None:
        self._source, self._start, self.size = source, start, size

    def read_at(self, start: int, length: int) -> bytes:
        """Read within the stretch."""
        return self._source.read_at(self._start + start, max(min(length, self.size - start), 0))

    def prefetch(self, spans: Iterable[tuple[int, int]]) -> None:
        """Pass on what will be read."""
        self._source.prefetch((self._start + start, length) for start, length in spans)


class Inflated:
    """A raw deflate stream as a :class:`Source` of what it unpacks to.

    Reading forwards goes on where it stopped; reading backwards starts at the nearest of the states that are kept
    every 4 MiB. Nothing beyond ``size`` is unpacked.
    """

    def __init__(self, packed: Source, size: int) -> None:
        self._packed, self.size = packed, size
        self._lock = threading.Lock()
        self._states: list[tuple[int, int, Any]] = [(0, 0, zlib.decompressobj(-zlib.MAX_WBITS))]
        self._at = (0, 0, self._states[0][2].copy())
        self._ahead = 0

    def read_at(self, start: int, length: int) -> bytes:
        """Unpack up to what is asked for; raises Corrupt where the stream is damaged or ends early."""
        end = min(start + length, self.size)
        if end <= start:
            return b""
        with self._lock:
            self._seek(start)
            pieces: list[bytes] = []
            while (at := self._at[1]) < end:
                pieces.append(self._step(end - at)[max(start - at, 0) :])
            return b"".join(pieces)

    def prefetch(self, spans: Iterable[tuple[int, int]]) -> None:
        """Do nothing: where the packed bytes lie is not known before they are unpacked."""

    def _seek(self, start: int) -> None:
        place = next(state for state in reversed(self._states) if state[1] <= start)
        if not place[1] <= self._at[1] <= start:
            self._at = (place[0], place[1], place[2].copy())
            self._ahead = place[0]

    def _step(self, most: int) -> bytes:
        """Unpack a little more, at most so many bytes."""
        read, written, state = self._at
        packed = state.unconsumed_tail or self._next(read)
        if not state.unconsumed_tail:
            read += len(packed)
        try:
            data: bytes = state.decompress(packed, min(most, _CHECKPOINT))
        except zlib.error as error:
            raise Corrupt(f"a compressed file is damaged after {written} bytes: {error}") from error
        if not data and (state.eof or not packed):
            raise Corrupt(f"a compressed file ends after {written} of {self.size} bytes")
        self._at = (read, written + len(data), state)
        if self._at[1] - self._states[-1][1] >= _CHECKPOINT:
            self._states.append((read, self._at[1], state.copy()))
        return data

    def _next(self, read: int) -> bytes:
        """Read packed bytes, and the longer this has gone on, the more of those that follow with them."""
        if read + _DECOMPRESS > self._ahead:
            length = min(max(read // 2, BLOCK), MAX_REQUEST)
            self._packed.prefetch([(read, min(length, self._packed.size - read))])
            self._ahead = read + length
        return self._packed.read_at(read, _DECOMPRESS)


class SourceFile(io.RawIOBase):
    """A :class:`Source` as a seekable binary file."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source, self._position = source, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Give the position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position; beyond the end is allowed."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer, short only at the end."""
        view = memoryview(buffer).cast("B")
        data = self._source.read_at(self._position, len(view))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)
