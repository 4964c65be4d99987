import io
import json
import tarfile

import blosc2
import google_crc32c
import numpy as np
import pytest
import webdataset as wds
from corpora import make_corpus, make_tile, scene_tiles
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.record import sha256
from infra.store import open_store
from shards.tile import Tile
from shards.writer import ShardWriter, tar_header, write_unit


def written(tiles, codec="npy", max_bytes=10**6):
    writer = ShardWriter(codec, max_bytes)
    closed = [shard for tile in tiles if (shard := writer.add(tile)) is not None]
    last = writer.finish()
    return [*closed, last] if last else closed


@pytest.mark.parametrize("codec", ["npy", "blosc2"])
def test_the_same_tiles_give_the_same_bytes(codec):
    first, again = (written(scene_tiles("s", 9, label=True), codec, 7_000) for _ in range(2))
    assert [s.data for s in first] == [s.data for s in again]
    assert len(first) > 3


def test_the_bytes_of_a_shard_are_frozen():
    tile = Tile("k", np.arange(16, dtype=np.uint16).reshape(1, 4, 4), make_tile("k", bands=1).meta)
    assert sha256(written([tile])[0].data) == GOLDEN


GOLDEN = "88f8fba9dd6877da2b3fd8bd1ef86b084f53c115ca0fd74ac65b8d0c11b5636d"


def test_tarfile_reads_plain_members_side_by_side():
    (shard,) = written(scene_tiles("s", 3, label=True))
    with tarfile.open(fileobj=io.BytesIO(shard.data)) as tar:
        members = tar.getmembers()
    names = [f"s-{n:04d}.{suffix}" for n in range(3) for suffix in ("npy", "label.npy", "json")]
    assert [m.name for m in members] == names
    assert {(m.mtime, m.uid, m.gid, m.mode, m.uname, m.gname, m.type) for m in members} == {
        (0, 0, 0, 0o644, "", "", b"0")
    }
    assert len(shard.data) % 512 == 0


@settings(max_examples=100, deadline=None)
@given(st.from_regex(r"[A-Za-z0-9_-]{1,90}\.npy", fullmatch=True), st.integers(0, 8**11 - 1))
def test_headers_are_those_of_tarfile(name, size):
    info = tarfile.TarInfo.frombuf(tar_header(name, size), "ascii", "strict")
    assert (info.name, info.size, info.mode, info.mtime) == (name, size, 0o644, 0)
    reference = tarfile.TarInfo(name)
    reference.size = size
    assert info.tobuf(tarfile.USTAR_FORMAT) == reference.tobuf(tarfile.USTAR_FORMAT)


def test_records_say_where_the_payloads_are():
    tiles = list(scene_tiles("s", 4, label=True))
    (shard,) = written(tiles)
    for tile, record in zip(tiles, shard.records, strict=True):
        for prefix in ("", "label_", "meta_"):
            start = record[f"{prefix}offset"]
            payload = shard.data[start : start + record[f"{prefix}length"]]
            assert google_crc32c.value(payload) == record[f"{prefix}crc32c"]
        np.testing.assert_array_equal(np.load(io.BytesIO(shard.data[record["offset"] :])), tile.pixels)
        assert json.loads(payload)["key"] == tile.key == record["key"]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(3000, 20_000))
def test_no_shard_is_larger_than_allowed_and_none_could_take_one_more(count, max_bytes):
    shards = written(scene_tiles("s", count), max_bytes=max_bytes)
    assert sum(len(s.records) for s in shards) == count
    one = len(written([make_tile("s-0000", "s")])[0].data) - 1024
    for shard in shards:
        assert len(shard.data) <= max_bytes or len(shard.records) == 1
    for shard in shards[:-1]:
        assert len(shard.data) + one > max_bytes


def test_a_unit_is_stored_under_keys_that_hold_its_digest():
    store = open_store("memory://unit")
    unit = write_unit(store, "S1A_x", scene_tiles("s", 7), "npy", 8000)
    assert len(unit.shards) == 4
    for n, shard in enumerate(unit.shards):
        data = store.get(shard.key)
        assert shard.key == f"shards/S1A_x-{n:06d}-{sha256(data)[:12]}.tar"
        assert (shard.sha256, shard.bytes) == (sha256(data), len(data))
    assert unit.rows["shard"].to_pylist() == [0, 0, 1, 1, 2, 2, 3]
    again = write_unit(store, "S1A_x", scene_tiles("s", 7), "npy", 8000)
    assert again.shards == unit.shards
    assert again.rows.equals(unit.rows)
    assert len(list(store.list())) == 4


def test_an_empty_unit_stores_nothing():
    store = open_store("memory://empty-unit")
    unit = write_unit(store, "u", [], "npy", 8000)
    assert (unit.shards, unit.rows.num_rows, list(store.list())) == ([], 0, [])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
@pytest.mark.parametrize("codec", ["npy", "blosc2"])
def test_plain_webdataset_reads_a_corpus(tmp_path, codec):
    _, manifest = make_corpus(str(tmp_path), codec=codec, label=True)
    urls = [str(tmp_path / shard.key) for shard in manifest.shards]
    samples = list(wds.WebDataset(urls, shardshuffle=False).decode())
    expected = [t for n, count in enumerate((7, 4, 9)) for t in scene_tiles(f"scene-{n}", count, label=True)]
    assert len(samples) == 20
    for sample, tile in zip(samples, expected, strict=True):
        assert sample["__key__"] == tile.key
        meta = sample["json"]
        if codec == "npy":
            pixels = sample["npy"]
        else:
            pixels = np.frombuffer(blosc2.decompress2(sample["blosc2"]), meta["dtype"]).reshape(meta["shape"])
        np.testing.assert_array_equal(pixels, tile.pixels)
        np.testing.assert_array_equal(sample["label.npy"], tile.label)
        assert meta["scene"] == tile.meta["scene"]


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "../x", "é", "x" * 91, "a b"])
def test_keys_that_other_readers_would_split_are_refused(key):
    with pytest.raises(ValueError, match="tile key"):
        written([Tile(key, np.ones((1, 4, 4), np.uint16), make_tile("k").meta)])


@pytest.mark.parametrize(
    ("pixels", "label"),
    [(np.ones((4, 4), np.uint16), None), (np.ones((1, 4, 4), np.float32), None)]
    + [(np.ones((1, 4, 4), np.uint16), bad) for bad in (np.ones((4, 5), np.uint8), np.ones((4, 4), np.int64))],
)
def test_arrays_of_another_kind_are_refused(pixels, label):
    with pytest.raises(ValueError, match=r"tile k: expected"):
        written([Tile("k", pixels, make_tile("k").meta, label)])


def test_a_unit_may_not_lead_out_of_the_corpus():
    with pytest.raises(ValueError, match="not a key"):
        write_unit(open_store("memory://x"), "../evil", [], "npy", 1000)
