import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from corpora import make_corpus, make_source
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from infra.errors import UsageError
from infra.record import canonical_json, sha256
from infra.store import open_store
from shards.manifest import (
    Manifest,
    ManifestError,
    Shard,
    check_key,
    parse,
    publish,
    read_manifest,
    version_key,
)

TESTS = Path(__file__).parent


@pytest.fixture
def published(tmp_path):
    store, manifest = make_corpus(str(tmp_path))
    return tmp_path, store, manifest


def test_a_corpus_is_found_by_its_root_and_by_its_versions(published):
    folder, _, manifest = published
    places = [f"{folder}", f"file://{folder}", f"{folder}/manifest.json", f"{folder}/{version_key(manifest.digest)}"]
    for url in places:
        store, found = read_manifest(url)
        assert found == manifest
        assert found.digest == manifest.digest
        assert store.url == f"file://{folder}"


def test_versions_are_found_from_inside_the_corpus(published, monkeypatch):
    folder, _, manifest = published
    monkeypatch.chdir(folder)
    assert read_manifest(version_key(manifest.digest))[1] == manifest
    assert read_manifest(".")[0].url == f"file://{folder}"


def test_the_name_is_the_digest_of_the_stored_bytes(published):
    folder, _, manifest = published
    data = (folder / "manifest.json").read_bytes()
    assert sha256(data) == manifest.digest
    assert (folder / version_key(manifest.digest)).read_bytes() == data


def test_the_digest_depends_on_nothing_but_the_content(tmp_path):
    code = "import sys; from corpora import make_corpus; print(make_corpus(sys.argv[1])[1].digest)"
    digests = set()
    for n, zone in enumerate(["UTC", "Asia/Tokyo"]):
        env = {**os.environ, "TZ": zone, "PYTHONHASHSEED": str(n), "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
        command = [sys.executable, "-c", code, str(tmp_path / f"corpus {n}")]
        digests.add(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)
    digests.add(make_corpus("memory://digest")[1].digest + "\n")
    assert len(digests) == 1


def test_publishing_again_changes_nothing_and_a_new_version_keeps_the_old(published):
    folder, store, manifest = published
    assert publish(store, manifest) == manifest.digest
    newer = manifest.model_copy(update={"legend": {"classes": ["water"]}})
    newer = Manifest.model_validate(newer.model_dump())
    publish(store, newer)
    assert read_manifest(str(folder))[1].digest == newer.digest != manifest.digest
    assert read_manifest(f"{folder}/{version_key(manifest.digest)}")[1] == manifest


def test_a_damaged_version_is_mended_by_publishing(published):
    folder, store, manifest = published
    (folder / version_key(manifest.digest)).write_bytes(b"{}")
    publish(store, manifest)
    assert read_manifest(f"{folder}/{version_key(manifest.digest)}")[1] == manifest


def test_every_flipped_bit_and_every_cut_of_a_manifest_is_found(tmp_path):
    _, manifest = make_corpus(str(tmp_path), counts=(1,))
    for path in (tmp_path / "manifest.json", tmp_path / version_key(manifest.digest)):
        whole = path.read_bytes()
        broken = [bytes([*whole[:i], whole[i] ^ (1 << i % 8), *whole[i + 1 :]]) for i in range(0, len(whole), 3)]
        for data in broken + [whole[:n] for n in range(0, len(whole), 41)]:
            path.write_bytes(data)
            with pytest.raises(ManifestError, match=str(path)):
                read_manifest(str(path))
        path.write_bytes(whole)
        assert read_manifest(str(path))[1] == manifest


HOSTILE = ["../x.tar", "a/../x", "shards/..", ".", "./a", "/etc/passwd", "a//b", "a/", ""]
HOSTILE += ["s3://b/x", "http://169.254.169.254/x", "pipe:cat x", "a\\b", "a\nb", "a\0", "é", "a" * 1001]


@pytest.mark.parametrize("key", HOSTILE)
def test_hostile_keys_are_refused(key):
    with pytest.raises(ValueError, match="not a key inside the corpus"):
        check_key(key)
    with pytest.raises(ValidationError):
        Shard(key=key, sha256="0" * 64, bytes=1, tiles=1)


@pytest.mark.parametrize("key", ["shards/S1A_IW-000000-ab12.tar", "a", "a.b/c..d", "...", "x=1/y@2"])
def test_plain_keys_are_taken(key):
    assert check_key(key) == key


def edited(manifest: Manifest, **changes) -> bytes:
    return canonical_json({**manifest.model_dump(mode="json"), **changes})


def test_what_does_not_add_up_is_refused(published):
    _, _, manifest = published
    plain = manifest.model_dump(mode="json")
    twice = [plain["shards"][0], *plain["shards"]]
    cases = {
        "tiles": ({"tiles": 21}, "hold 20 tiles"),
        "bytes": ({"bytes": 1}, "the manifest says 1"),
        "index": ({"index": []}, "index has 0 rows for 20"),
        "twice": ({"shards": twice}, "same key"),
        "sources": ({"sources": [make_source("x", 3).model_dump(mode="json")]}, "sources hold 3"),
        "format": ({"format": "sarsense-manifest-9"}, "format"),
        "extra": ({"command": "rm"}, "command"),
        "negative": ({"tiles": -1}, "tiles"),
    }
    for changes, said in cases.values():
        with pytest.raises(ManifestError, match=said):
            parse(edited(manifest, **changes), "m.json")


def test_what_is_not_json_of_a_manifest_is_refused(published):
    whole = (published[0] / "manifest.json").read_bytes()
    deep = b"[" * 200_000
    for data in (
        b"",
        b"null",
        b"[]",
        b"\xff\xfe",
        deep,
        whole.replace(b"-60.0", b"NaN"),
        whole + b" ",
        b'{"a":' + deep,
    ):
        with pytest.raises(ManifestError, match=r"m\.json"):
            parse(data, "m.json")


def test_a_huge_manifest_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "manifest.json", "wb") as file:
        file.truncate(300 * 2**20)
    with pytest.raises(ManifestError, match="at most"):
        read_manifest(str(tmp_path))


def test_no_corpus_is_said_plainly(tmp_path):
    with pytest.raises(UsageError, match=r"no corpus at .*/empty: there is no .*manifest.json"):
        read_manifest(str(tmp_path / "empty"))


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_is_either_a_manifest_or_refused(value):
    with pytest.raises(ManifestError):
        parse(json.dumps(value).encode(), "m.json")


def test_a_memory_store_holds_a_corpus():
    _, manifest = make_corpus("memory://a-corpus/with/prefix")
    assert read_manifest("memory://a-corpus/with/prefix")[1] == manifest
    assert [i.key for i in open_store("memory://a-corpus/with/prefix").list("manifests/")] == [
        version_key(manifest.digest)
    ]
