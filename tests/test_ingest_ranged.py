import io
import os
import random
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.store import Corrupt, open_store
from ingest.members import open_members
from ingest.ranged import BLOCK, MAX_REQUEST, Inflated, Part, RangedFile, SourceFile
from ingest.scene import SceneRejected

DATA = os.urandom(2_000_000) + bytes(3_000_000) + random.Random(1).randbytes(1_000_000)
PACKED = zlib.compress(DATA, 1, wbits=-15)


class Counted:
    """A store that counts what is read of it."""

    def __init__(self, data: bytes) -> None:
        self.store: Any = open_store(f"memory://ranged/{id(self)}")
        self.store.put("key", data)
        self.requests: list[tuple[int, int]] = []

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self.requests.append((start, length))
        return bytes(self.store.get_range(key, start, length))

    @property
    def bytes(self) -> int:
        return sum(length for _, length in self.requests)


def ranged(data: bytes = DATA) -> tuple[RangedFile, Counted]:
    store: Any = Counted(data)
    return RangedFile(store, "key", len(data)), store


SPANS = st.lists(st.tuples(st.integers(0, len(DATA) + 10), st.integers(0, 700_000)), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(spans=SPANS)
def test_every_span_is_what_the_object_holds(spans: list[tuple[int, int]]) -> None:
    whole, _ = ranged()
    part = Part(whole, 1000, 500_000)
    packed = Inflated(ranged(PACKED)[0], len(DATA))
    for start, length in spans:
        expected = DATA[start : start + length]
        assert whole.read_at(start, length) == expected
        assert packed.read_at(start, length) == expected
        assert part.read_at(start, length) == DATA[1000:501_000][start : start + length]


@settings(max_examples=40, deadline=None)
@given(spans=SPANS)
def test_no_block_travels_twice(spans: list[tuple[int, int]]) -> None:
    file, store = ranged()
    needed: set[int] = set()
    for start, length in spans:
        file.read_at(start, length)
        end = min(start + length, len(DATA))
        needed |= set(range(start // BLOCK, -(-end // BLOCK))) if end > start else set()
    assert store.bytes == sum(min(BLOCK, len(DATA) - n * BLOCK) for n in needed)


def test_neighbouring_blocks_travel_together() -> None:
    file, store = ranged()
    file.prefetch([(10, 20), (BLOCK + 5, 10), (20 * BLOCK, 3 * BLOCK)])
    assert sorted(store.requests) == [(0, 2 * BLOCK), (20 * BLOCK, 3 * BLOCK)]
    file.read_at(0, 2 * BLOCK)
    file.read_at(21 * BLOCK, 5)
    assert len(store.requests) == 2
    file.prefetch([(0, len(DATA) + 99)])
    assert max(length for _, length in store.requests) <= MAX_REQUEST
    assert store.bytes == len(DATA)


def test_a_cache_forgets_what_was_used_longest_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.ranged.MAX_CACHE", 4 * BLOCK)
    file, store = ranged()
    for start in (0, 5 * BLOCK, 0, 7 * BLOCK, 9 * BLOCK, 11 * BLOCK, 0):
        file.read_at(start, 10)
    assert [start // BLOCK for start, _ in store.requests] == [0, 5, 7, 9, 11]
    file.read_at(5 * BLOCK, 10)
    assert store.requests[-1] == (5 * BLOCK, BLOCK)
    assert file.read_at(0, len(DATA)) == DATA  # more than it keeps


def test_several_threads_read_the_same_bytes() -> None:
    def check(source: Any, seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(20):
            start = choose.randrange(len(DATA))
            assert source.read_at(start, 90_000) == DATA[start : start + 90_000]

    for source in (ranged()[0], Inflated(ranged(PACKED)[0], len(DATA))):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda seed, source=source: check(source, seed), range(8)))


def test_going_back_in_a_compressed_file_starts_nearby() -> None:
    data = random.Random(2).randbytes(1_000_000) * 12
    packed, store = ranged(zlib.compress(data, 0, wbits=-15))
    file = Inflated(packed, len(data))
    assert file.read_at(10, 9) == data[10:19]
    assert store.bytes == BLOCK
    assert file.read_at(len(data) - 9, 9) == data[-9:]
    assert store.bytes == packed.size
    assert len(store.requests) < 15  # they grow: 12 MB are 92 blocks
    assert [at // 2**20 for _, at, _ in file._states] == [0, 4, 8]
    assert file.read_at(9_000_000, 10) == data[9_000_000:9_000_010]
    assert store.bytes == packed.size  # all of it is kept


@pytest.mark.parametrize("size", [100, len(PACKED) // 2], ids=["head", "half"])
def test_a_damaged_or_short_stream_is_told(size: int) -> None:
    with pytest.raises(Corrupt, match=r"a compressed file ends after \d+ of 6000000 bytes"):
        Inflated(ranged(PACKED[:size])[0], len(DATA)).read_at(0, len(DATA))
    with pytest.raises(Corrupt, match=r"a compressed file is damaged after 0 bytes"):
        Inflated(ranged(b"\xff" + PACKED[1:])[0], len(DATA)).read_at(0, len(DATA))


def test_no_more_is_unpacked_than_was_declared() -> None:
    bomb = zlib.compress(bytes(50_000_000), 9, wbits=-15)
    file = Inflated(ranged(bomb)[0], 1000)
    assert file.read_at(0, 10**9) == bytes(1000)
    assert file._at[1] == 1000


def test_a_source_is_a_file_to_readers_of_files() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", DATA)
    source, store = ranged(buffer.getvalue())
    with zipfile.ZipFile(SourceFile(source)) as archive:
        assert archive.namelist() == ["a"]
        assert store.bytes <= 2 * BLOCK
        assert archive.read("a") == DATA
    file = SourceFile(source)
    assert (file.seek(-4, os.SEEK_END), file.tell()) == (source.size - 4,) * 2
    assert file.read(10) == buffer.getvalue()[-4:]
    assert file.read(10) == b""


def test_an_object_that_became_shorter_is_told() -> None:
    file, store = ranged()
    store.store.put("key", DATA[:1000])
    with pytest.raises(Corrupt, match="has 1000 bytes"):
        file.read_at(0, 10)


def test_what_follows_the_end_of_a_stream_is_not_read() -> None:
    data = zlib.compress(b"x" * 1000, wbits=-15) + bytes(20_000_000)
    source, store = ranged(data)
    with pytest.raises(Corrupt, match="ends after 1000 of 9000000 bytes"):
        Inflated(source, 9_000_000).read_at(0, 5000)
    assert store.bytes < 1_000_000


@pytest.mark.parametrize("offset", [2**31, 2**32 - 2])
def test_a_member_that_begins_beyond_the_zip_is_a_rejection(offset: int) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("manifest.safe", "<a/>")
    data = bytearray(packed.getvalue())
    entry = data.index(b"PK\1\2")
    data[entry + 42 : entry + 46] = offset.to_bytes(4, "little")
    open_store("memory://beyond").put("a.zip", bytes(data))
    members, _ = open_members("memory://beyond/a.zip", "manifest.safe")
    with pytest.raises(SceneRejected, match="begins where it does not"):
        members.raster("manifest.safe")
