import os
import pickle
import re
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from corpora import make_corpus, scene_tiles

from infra.errors import UsageError
from shards import ranges
from shards.reader import Corpus, ShardCorrupt
from shards.verify import verify

COUNTS = (7, 4, 9)


def expected_tiles(**options):
    return [t for n, count in enumerate(COUNTS) for t in scene_tiles(f"scene-{n}", count, **options)]


@pytest.fixture(params=["file", "memory"])
def url(request, tmp_path):
    return str(tmp_path) if request.param == "file" else f"memory://{tmp_path.name}"


@pytest.mark.parametrize("codec", ["npy", "blosc2"])
@pytest.mark.parametrize("label", [False, True])
def test_what_was_written_is_read(url, codec, label):
    make_corpus(url, COUNTS, codec=codec, label=label, orbit="ascending")
    corpus = Corpus.open(url)
    tiles = expected_tiles(label=label, orbit="ascending")
    assert len(corpus) == 20
    for i, tile in enumerate(tiles):
        found = corpus.tile(i)
        assert found.key == tile.key == corpus.key(i)
        np.testing.assert_array_equal(found.pixels, tile.pixels)
        assert found.pixels.flags.writeable
        assert found.label is None if tile.label is None else (found.label == tile.label).all()
        assert {name: value for name, value in found.meta.items() if value is not None} == tile.meta
        assert corpus.tile(i, full_meta=True).meta == tile.meta
        assert corpus.find(tile.key) == i


def test_pixels_are_decoded_into_the_place_given(url):
    make_corpus(url, COUNTS, codec="blosc2")
    corpus, batch = Corpus.open(url), np.zeros((20, 2, 16, 16), np.uint16)
    for i in range(20):
        assert np.shares_memory(corpus.tile(i, out=batch[i]).pixels, batch[i])
    np.testing.assert_array_equal(batch, np.stack([t.pixels for t in expected_tiles()]))


def test_meta_is_of_the_index_and_says_what_it_lacks(url):
    make_corpus(url, (1,), footprint=None, time=None, scene_note="x")
    meta = Corpus.open(url).tile(0).meta
    assert (meta["footprint"], meta["time"], meta["window"]) == (None, None, [32, 64, 16, 16])
    with pytest.raises(KeyError, match="full_meta=True"):
        meta["scene_note"]
    assert pickle.loads(pickle.dumps(meta)) == dict(meta)


def test_tiles_are_selected_by_scene_sensor_and_label(url):
    make_corpus(url, COUNTS, label=True)
    corpus = Corpus.open(url)
    assert corpus.select(scenes=["scene-1"]).tolist() == [7, 8, 9, 10]
    assert len(corpus.select(scenes=["scene-0", "scene-2"], sensors=["sentinel-1"], labelled=True)) == 16
    assert corpus.shard_counts().sum() == 20
    assert corpus.shard_counts(corpus.select(scenes=["scene-1"])).sum() == 4
    assert corpus.shard_counts().tolist() == [shard.tiles for shard in corpus.manifest.shards]
    with pytest.raises(UsageError, match="has no scene 'scene-9'; it has"):
        corpus.select(scenes=["scene-9"])
    with pytest.raises(UsageError, match="no tile 'nobody'"):
        corpus.find("nobody")


def test_a_corpus_travels_to_another_process(tmp_path):
    make_corpus(str(tmp_path), COUNTS)
    corpus = pickle.loads(pickle.dumps(Corpus.open(str(tmp_path))))
    np.testing.assert_array_equal(corpus.tile(19).pixels, expected_tiles()[19].pixels)


def flip(data: bytes, bit: int) -> bytes:
    broken = bytearray(data)
    broken[bit // 8] ^= 1 << bit % 8
    return bytes(broken)


@pytest.mark.parametrize("codec", ["npy", "blosc2"])
def test_a_flipped_bit_is_found_before_the_tile_is_used(url, codec):
    store, manifest = make_corpus(url, COUNTS, codec=codec, label=True)
    corpus = Corpus.open(url)
    rows, rng = corpus.rows, np.random.default_rng(0)
    for i in rng.permutation(20)[:8].tolist():
        key = manifest.shards[rows.shard[i]].key
        whole = store.get(key)
        for start, length in ((rows.offset[i], rows.length[i]), (rows.label_offset[i], rows.label_length[i])):
            for at in rng.integers(0, int(length), 4).tolist():
                store.put(key, flip(whole, 8 * (int(start) + at) + at % 8))
                with pytest.raises(ShardCorrupt) as caught:
                    Corpus.open(url).tile(i)
                place = f"{store.url}: shard {key}, tile {corpus.key(i)}, offset {start}: expected CRC32C "
                assert str(caught.value).startswith(place)
        store.put(key, whole)
    assert Corpus.open(url).tile(3).key == "scene-0-0003"


def test_a_shard_that_is_short_or_missing_is_named(url):
    store, manifest = make_corpus(url, COUNTS)
    key = manifest.shards[0].key
    store.put(key, store.get(key)[:300])
    with pytest.raises(
        ShardCorrupt, match=rf"shard {key}, tile scene-0-0000, offset 512: 1152 bytes could not be read"
    ):
        Corpus.open(url).tile(0)
    store.delete(key)
    with pytest.raises(ShardCorrupt, match=rf"shard {key}, tile scene-0-0001.*no object"):
        Corpus.open(url).tile(1)


def test_many_shards_do_not_use_up_the_open_files(tmp_path):
    import resource

    make_corpus(str(tmp_path), [1] * 300, size=4, max_bytes=1)
    corpus = Corpus.open(str(tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    others = max(int(name) for name in os.listdir("/proc/self/fd"))  # of this process, left by other tests
    resource.setrlimit(resource.RLIMIT_NOFILE, (others + ranges._OPEN_FILES + 20, hard))
    try:
        assert sum(int(corpus.tile(i).pixels[0, 0, 0]) > 0 for i in range(300)) == 300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_threads_that_share_few_open_files_read_the_right_ones(tmp_path, monkeypatch):
    make_corpus(str(tmp_path), [1] * 24, size=4, max_bytes=1)
    monkeypatch.setattr("shards.ranges._OPEN_FILES", 2)
    corpus, expected = (
        Corpus.open(str(tmp_path)),
        [t.pixels for n in range(24) for t in scene_tiles(f"scene-{n}", 1, size=4)],
    )
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            for i, tile in enumerate(pool.map(corpus.tile, [n % 24 for n in range(4000)])):
                np.testing.assert_array_equal(tile.pixels, expected[i % 24])
    finally:
        sys.setswitchinterval(interval)


# verify


def test_a_whole_corpus_is_whole(url):
    _, manifest = make_corpus(url, COUNTS, label=True)
    done = []
    for deep in (False, True):
        report = verify(Corpus.open(url), deep, progress=done.append)
        assert report.ok
        assert (report.tiles, report.shards, report.bytes) == (20, len(manifest.shards), manifest.bytes)
    assert done == [*range(1, report.shards + 1)] * 2


@pytest.mark.parametrize("codec", ["npy", "blosc2"])
def test_any_of_200_flipped_bits_is_found_by_deep_verification(codec):
    url = f"memory://flips-{codec}"
    store, manifest = make_corpus(url, (4, 4), codec=codec, label=True, max_bytes=10**6, size=8)
    corpus, rng, found = Corpus.open(url), np.random.default_rng(5), 0
    for n in range(200):
        shard = manifest.shards[n % 2]
        whole = store.get(shard.key)
        store.put(shard.key, flip(whole, int(rng.integers(0, 8 * len(whole)))))
        faults = verify(corpus, deep=True, threads=1).faults
        found += {fault.shard for fault in faults} == {shard.key}
        store.put(shard.key, whole)
    assert found == 200


def test_every_cut_at_a_block_is_found_by_both_verifications():
    url = "memory://cuts"
    store, manifest = make_corpus(url, (4, 4), label=True, max_bytes=10**6, size=8)
    shard, corpus = manifest.shards[1], Corpus.open(url)
    whole = store.get(shard.key)
    for size in range(0, len(whole), 512):
        store.put(shard.key, whole[:size])
        for deep in (False, True):
            faults = verify(corpus, deep, threads=1).faults
            assert {fault.shard for fault in faults} == {shard.key}
            assert f"has {size} bytes, the manifest says {len(whole)}" in str(faults[0])


@pytest.mark.parametrize(
    "change", [lambda d: d[:2048] + bytes(1024) + d[3072:], lambda d: d + bytes(512), lambda d: b""]
)
def test_zeros_and_additions_are_found(change):
    store, manifest = make_corpus("memory://zeros", (4,), max_bytes=10**6)
    corpus, key = Corpus.open("memory://zeros"), manifest.shards[0].key
    store.put(key, change(store.get(key)))
    assert not verify(corpus, deep=True).ok


def test_a_missing_shard_is_named_and_the_others_are_checked(url):
    store, manifest = make_corpus(url, COUNTS)
    for shard in manifest.shards[1:3]:
        store.delete(shard.key)
    for deep in (False, True):
        report = verify(Corpus.open(url), deep)
        assert [str(f) for f in report.faults] == [f"{s.key}: missing" for s in manifest.shards[1:3]]


def rewritten(url, change):
    """A corpus whose first shard holds other members than its index says, named by a right SHA-256."""
    from infra.record import sha256
    from shards.manifest import Manifest, publish

    store, manifest = make_corpus(url, (3,), max_bytes=10**6)
    old = manifest.shards[0]
    data = change(store.get(old.key))
    store.put(old.key, data)
    shard = old.model_copy(update={"sha256": sha256(data), "bytes": len(data)})
    plain = manifest.model_copy(update={"shards": (shard,), "bytes": len(data)}).model_dump()
    publish(store, Manifest.model_validate(plain))
    return Corpus.open(url)


def swap_names(data):
    return data.replace(b"scene-0-0000.npy", b"scene-0-0002.npy", 1)


def renamed_with_checksum(data):
    header = tarfile.TarInfo.frombuf(data[:512], "ascii", "strict")
    header.name = "scene-0-0002.npy"
    return header.tobuf(tarfile.USTAR_FORMAT) + data[512:]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (swap_names, "no tar header for scene-0-0000.npy at 0: bad checksum"),
        (renamed_with_checksum, "expected member scene-0-0000.npy of 1152 bytes at 0, found 'scene-0-0002.npy'"),
        (lambda d: d.replace(b'"key":"scene-0-0001"', b'"key":"scene-0-0009"'), "json has CRC32C"),
        (lambda d: d[: 512 + 1152] + b"x" + d[512 + 1153 :], "padding of npy at 1664 is not zero"),
        (lambda d: d[:-512], "the index ends at"),
        (lambda d: d[:-1] + b"x", "two empty blocks"),
    ],
)
def test_a_shard_that_was_written_wrongly_is_found_though_its_digest_is_right(change, said):
    corpus = rewritten("memory://rewritten", change)
    assert any(said in str(fault) for fault in verify(corpus, deep=True).faults)


def test_a_json_that_contradicts_the_index_is_found():
    url = "memory://contradiction"
    store, manifest = make_corpus(url, (1,))
    corpus = Corpus.open(url)
    lying = store.get(manifest.shards[0].key).replace(b'"sensor":"sentinel-1"', b'"sensor":"sentinel-2"')
    from shards import verify as room

    start, length = int(corpus.rows.meta_offset[0]), int(corpus.rows.meta_length[0])
    assert room._json_fault(corpus, 0, lying[start : start + length]) == "json and index disagree on sensor"
    assert room._json_fault(corpus, 0, b'{"key":"other"}') == "json has the key 'other'"
    assert re.match("json has no key", str(room._json_fault(corpus, 0, b"[1]")))


def test_a_key_that_names_two_tiles_is_found():
    import pyarrow as pa

    make_corpus("memory://twins", (2,), max_bytes=10**6)
    corpus = Corpus.open("memory://twins")
    table = corpus.table.set_column(0, "key", pa.chunked_array([["scene-0-0000"] * 2]))
    twins = Corpus(corpus.store, corpus.manifest, table)
    assert str(verify(twins).faults[0]) == "index: tile scene-0-0000: this key names more than one tile"
