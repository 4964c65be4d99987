"""One suite for everything that calls itself a store: memory, folder, and S3 on a real server."""

import itertools
import os
import pickle
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import UsageError
from infra.store import (
    AlreadyExists,
    BadKey,
    Corrupt,
    NotFound,
    ObjectInfo,
    Store,
    absolute,
    check_key,
    open_store,
    split_object,
)

KINDS = ["memory", "folder", "s3"]
BAD_KEYS = ["", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a\\b", "a\0b", "a\nb", ".sarsense-x", "k" * 1025]


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}/corpus"
    if request.param == "folder":
        return (tmp_path / "a corpus ü%41").as_uri()
    return f"{request.getfixturevalue('s3_url')}/corpus"


@pytest.fixture
def store(url: str) -> Store:
    return open_store(url)


def test_put_get_info_and_replace(store: Store) -> None:
    store.put("shards/a.tar", b"first")
    store.put("shards/a.tar", b"the second")
    assert store.get("shards/a.tar") == b"the second"
    assert store.info("shards/a.tar") == ObjectInfo("shards/a.tar", 10)


def test_empty_object(store: Store) -> None:
    store.put("empty", b"")
    assert store.get("empty") == b""
    assert store.info("empty").size == 0
    assert store.get_range("empty", 0, 0) == b""


@pytest.mark.parametrize("key", ["Fläche/λ=0.056 m/+&?#%20.tar", "a" * 255, "x/" * 20 + "y", "~", "a=b,c;d'e(f)!*"])
def test_awkward_keys_survive(store: Store, key: str) -> None:
    store.put(key, key.encode())
    assert store.get(key) == key.encode()
    assert list(store.list()) == [ObjectInfo(key, len(key.encode()))]


def test_ranges_are_exact_or_refused(store: Store) -> None:
    data = bytes(range(256)) * 40
    store.put("a", data)
    for start, length in [(0, 1), (0, len(data)), (511, 513), (len(data) - 1, 1), (77, 0)]:
        assert store.get_range("a", start, length) == data[start : start + length]
    for start, length in [(len(data) - 5, 6), (len(data) + 5, 1), (-1, 2), (3, -1)]:
        with pytest.raises(Corrupt, match="a"):
            store.get_range("a", start, length)


def test_what_is_not_there(store: Store) -> None:
    store.put("other/b", b"1")
    for key in ["a", "other", "other/b2", "deep/er/a"]:
        for look in (store.get, store.info, lambda key: store.get_range(key, 0, 1)):
            with pytest.raises(NotFound, match=key):
                look(key)
        store.delete(key)
    assert store.get("other/b") == b"1"


def test_delete(store: Store) -> None:
    store.put("a/b", b"1")
    store.delete("a/b")
    store.delete("a/b")
    assert list(store.list()) == []
    store.put_once("a/b", b"2")


def test_list_is_sorted_by_key_and_takes_any_prefix(store: Store) -> None:
    keys = ["a-b", "a.b", "a/b", "a/b-c", "a/b0", "b", "a0", "ä", "\U0001f6f0", "Z"]
    for key in keys:
        store.put(key, b"x" * len(key))
    for prefix in ["", "a", "a/", "a/b", "a/b-", "b/", "nothing/", "Z"]:
        expected = [ObjectInfo(key, len(key)) for key in sorted(keys) if key.startswith(prefix)]
        assert list(store.list(prefix)) == expected


def test_list_of_nothing(store: Store) -> None:
    assert list(store.list()) == []
    assert list(store.list("shards/")) == []


@pytest.mark.parametrize("key", BAD_KEYS, ids=range(len(BAD_KEYS)))
def test_no_key_leads_out_of_the_store(store: Store, key: str) -> None:
    for action in (
        lambda: store.put(key, b""),
        lambda: store.put_once(key, b""),
        lambda: store.get(key),
        lambda: store.get_range(key, 0, 0),
        lambda: store.info(key),
        lambda: store.delete(key),
    ):
        with pytest.raises(BadKey):
            action()


@pytest.mark.parametrize("prefix", ["/", "../", "a/../", "a//", "\0"])
def test_no_prefix_leads_out_of_the_store(store: Store, prefix: str) -> None:
    with pytest.raises(BadKey):
        list(store.list(prefix))


def test_put_once_keeps_the_first(store: Store) -> None:
    store.put_once("manifests/m.json", b"mine")
    for data in (b"theirs", b"mine"):
        with pytest.raises(AlreadyExists, match=r"manifests/m\.json"):
            store.put_once("manifests/m.json", data)
    assert store.get("manifests/m.json") == b"mine"
    assert [found.key for found in store.list()] == ["manifests/m.json"]


@pytest.mark.parametrize("writers", [2, 8])
def test_of_racing_writers_exactly_one_wins(store: Store, writers: int) -> None:
    rounds = 20
    barrier = threading.Barrier(writers)

    def write(writer: int) -> list[bool]:
        won = []
        for number in range(rounds):
            barrier.wait()
            try:
                store.put_once(f"race/{number}", b"%d" % writer * 5000)
                won.append(True)
            except AlreadyExists:
                won.append(False)
        return won

    with ThreadPoolExecutor(writers) as pool:
        results = list(pool.map(write, range(writers)))
    for number in range(rounds):
        winners = [writer for writer in range(writers) if results[writer][number]]
        assert len(winners) == 1
        assert store.get(f"race/{number}") == b"%d" % winners[0] * 5000
    assert len(list(store.list())) == rounds


def test_readers_see_whole_objects_while_one_is_replaced(store: Store) -> None:
    versions = [bytes([n]) * 200_000 for n in range(4)]
    store.put("manifest.json", versions[0])
    done = threading.Event()

    def read() -> int:
        count = 0
        while not done.is_set() or count == 0:
            data = store.get("manifest.json")
            assert len(data) == 200_000
            assert len(set(data)) == 1
            count += 1
        return count

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for version in itertools.islice(itertools.cycle(versions), 30):
            store.put("manifest.json", version)
        done.set()
        assert all(reader.result() > 0 for reader in readers)


def test_a_pickled_store_is_the_same_store(store: Store, url: str) -> None:
    store.put("a", b"1")
    assert pickle.loads(pickle.dumps(store)).get("a") == b"1"
    assert open_store(store.url).get("a") == b"1"
    assert store.url == url


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_forked_process_uses_the_store(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    store = open_store(request.getfixturevalue("s3_url") if kind == "s3" else str(tmp_path))
    store.put("parent", b"1")
    process = get_context("fork").Process(target=_copy, args=(store,))
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert store.get("child") == b"1"
    assert store.get("parent") == b"1"


def _copy(store: Store) -> None:
    store.put("child", store.get("parent"))


def test_large_object(store: Store) -> None:
    data = os.urandom(1 << 20) * 24
    store.put("shards/large.tar", data)
    assert store.get("shards/large.tar") == data
    assert store.get_range("shards/large.tar", 23 << 20, 1 << 20) == data[: 1 << 20]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_object_of_several_hundred_mb(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    store = open_store(request.getfixturevalue("s3_url") if kind == "s3" else str(tmp_path))
    data = os.urandom(1 << 20) * 600
    store.put("shards/large.tar", data)
    assert store.get("shards/large.tar") == data
    store.delete("shards/large.tar")


# ---- URLs


def test_opening_a_store_creates_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "new"))
    assert list(store.list()) == []
    with pytest.raises(NotFound):
        store.get("manifest.json")
    assert list(tmp_path.iterdir()) == []


def test_urls_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert open_store("corpus").url == f"file://{tmp_path}/corpus"
    assert open_store("./x/../corpus/").url == f"file://{tmp_path}/corpus"
    assert open_store("~/corpus").url == "file:///home/somebody/corpus"
    assert open_store("file://localhost/data/my%20corpus/").url == "file:///data/my%20corpus"
    assert open_store("s3://bucket/a/b/").url == "s3://bucket/a/b"
    assert open_store("s3://bucket").url == "s3://bucket"
    assert open_store("memory://name").url == "memory://name"


@pytest.mark.parametrize(
    "url",
    ["", "s3://", "s3:///x", "s3://UPPER/x", "s3://b/x", "s3://bucket/../x", "gs://bucket/x", "https://host/x",
     "file://host/x", "file://", "file:relative://x", "memory://", "s3://bucket//x/../.."],
)  # fmt: skip
def test_urls_that_are_no_store(url: str) -> None:
    with pytest.raises(UsageError):
        open_store(url)


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    for url in ["s3://AKID:CANARY@bucket/x", "https://user:CANARY@host/x", "gs://b/x?signature=CANARY"]:
        with pytest.raises(UsageError) as caught:
            open_store(url)
        assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("s3://b/p/manifest.json", ("s3://b/p", "manifest.json")),
        ("s3://b/m.json", ("s3://b", "m.json")),
        ("memory://n/manifests/x.json", ("memory://n/manifests", "x.json")),
        ("file:///data/c/m%20n.json", ("file:///data/c", "m n.json")),
        ("file:///m.json", ("file:///", "m.json")),
        ("/data/m.json", ("/data", "m.json")),
        ("/m.json", ("/", "m.json")),
        ("runs/m.json", ("runs", "m.json")),
        ("m.json", (".", "m.json")),
    ],
)
def test_split_object(url: str, parts: tuple[str, str]) -> None:
    assert split_object(url) == parts
    open_store(parts[0].replace("//b", "//bucket"))


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/", "s3://", "memory://n", "/data/", "", "file:///data/"])
def test_split_object_needs_a_name(url: str) -> None:
    with pytest.raises(UsageError):
        split_object(url)


@given(st.text(max_size=30))
def test_a_checked_key_stays_below_any_folder(text: str) -> None:
    try:
        key = check_key(text)
    except BadKey:
        return
    assert os.path.normpath(f"/root/{key}") == f"/root/{key}"


def test_only_relative_paths_change_when_made_absolute(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("corpus") == f"{tmp_path}/corpus"
    assert absolute("/data/corpus") == "/data/corpus"
    assert absolute("s3://bucket/corpus") == "s3://bucket/corpus"
