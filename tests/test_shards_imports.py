"""WebDatasets that other programs wrote become corpora, with every pixel where it was."""

import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from corpora import make_corpus
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.command import exit_code
from infra.store import open_store
from shards.cli import app
from shards.foreign import Meaning
from shards.imports import ImportRefused, import_webdataset
from shards.manifest import Lineage, read_manifest
from shards.reader import Corpus
from shards.tarscan import BadTar, scan
from shards.tile import DbScale
from shards.verify import verify

LOOSE = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
MEANING = Meaning(DbScale(), "0" * 64, {"imported": True}, polarisations=("VV", "VH"))


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def codes(n: int, dtype: str = "<u2", shape: tuple[int, ...] = (2, 8, 8)) -> np.ndarray:
    return np.random.default_rng(n).integers(1, 250, shape).astype(dtype)


def tar_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, payload in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            tar.addfile(info, io.BytesIO(payload))
    return buffer.getvalue()


def test_our_own_shards_come_back_as_the_same_index(tmp_path: Path) -> None:
    make_corpus(str(tmp_path / "a"), counts=(5, 3), label=True, max_bytes=8192, incidence_deg=31.5)
    one = Corpus.open(str(tmp_path / "a"))
    done = import_webdataset(str(tmp_path / "a/shards"), open_store(str(tmp_path / "b")), MEANING)
    assert (done.in_place, done.copied, done.packed) == (0, len(one.manifest.shards), 0)
    two = Corpus.open(str(tmp_path / "b"))
    assert [s.sha256 for s in two.manifest.shards] == [s.sha256 for s in one.manifest.shards]
    assert two.table.equals(one.table)
    assert two.manifest.lineage == Lineage(made_by="import", parents=())
    assert [(s.id, s.tiles) for s in two.manifest.sources] == [("scene-0", 5), ("scene-1", 3)]
    assert verify(two, deep=True).ok


def test_files_under_the_target_stay_where_they_are(tmp_path: Path) -> None:
    make_corpus(str(tmp_path / "a"), counts=(5, 3))
    for n, path in enumerate(sorted((tmp_path / "a/shards").iterdir())):
        (tmp_path / "b/train").mkdir(parents=True, exist_ok=True)
        path.rename(tmp_path / f"b/train/part-{n:03d}.tar")
    before = {path: path.read_bytes() for path in (tmp_path / "b/train").iterdir()}
    done = import_webdataset(f"{tmp_path}/b/train/part-*.tar", open_store(str(tmp_path / "b")), MEANING)
    assert (done.in_place, done.copied, done.packed) == (len(before), 0, 0)
    assert {path: path.read_bytes() for path in (tmp_path / "b").rglob("*.tar")} == before
    assert [s.key for s in done.manifest.shards] == [f"train/part-{n:03d}.tar" for n in range(len(before))]
    assert verify(Corpus.open(str(tmp_path / "b")), deep=True).ok


@LOOSE
def test_what_webdataset_wrote_is_packed_in_our_order_payload_by_payload(tmp_path: Path) -> None:
    tiles = {f"t{n}": (codes(n), codes(n, "u1", (8, 8))) for n in range(6)}
    with webdataset.TarWriter(str(tmp_path / "in.tar"), encoder=False) as writer:
        for key, (pixels, label) in tiles.items():
            meta = {"scene": "north", "time": "2025-01-02T03:04:05Z", "cloud": 3}
            sample = {"npy": npy(pixels), "label.npy": npy(label), "json": json.dumps(meta).encode(), "txt": b"hello"}
            writer.write({"__key__": key, **sample})
    done = import_webdataset(str(tmp_path / "in.tar"), open_store(str(tmp_path / "out")), MEANING)
    assert (done.packed, done.left_out) == (1, ("txt",))
    corpus = Corpus.open(str(tmp_path / "out"))
    assert verify(corpus, deep=True).ok
    for i, (key, (pixels, label)) in enumerate(tiles.items()):
        tile = corpus.tile(i, full_meta=True)
        assert (tile.key, tile.meta["scene"], tile.meta["cloud"]) == (key, "north", 3)
        np.testing.assert_array_equal(tile.pixels, pixels)
        np.testing.assert_array_equal(tile.label, label)
    (source,) = corpus.manifest.sources
    assert (source.id, source.time, source.polarisations) == ("north", "2025-01-02T03:04:05Z", ("VV", "VH"))


def test_foreign_headers_between_members_do_not_move_a_byte(tmp_path: Path) -> None:
    """Extended headers (PAX) before every member, a long end, and a JSON that says little."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for n in range(5):
            for suffix, payload in (("npy", npy(codes(n))), ("json", b'{"scene": "x"}')):
                info = tarfile.TarInfo(f"k{n}.{suffix}")
                info.size, info.mtime = len(payload), 1234.5678
                tar.addfile(info, io.BytesIO(payload))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.tar").write_bytes(buffer.getvalue())
    done = import_webdataset(str(tmp_path / "in"), open_store(str(tmp_path / "in")), MEANING)
    assert (done.in_place, done.manifest.shards[0].key) == (1, "a.tar")
    corpus = Corpus.open(str(tmp_path / "in"))
    report = verify(corpus, deep=True)
    assert report.ok, report.faults
    np.testing.assert_array_equal(corpus.tile(3).pixels, codes(3))
    assert corpus.tile(3).meta["valid_share"] == 1.0
    mean = np.mean(-60 + (codes(3).astype(float) - 1) * 0.002, axis=(1, 2))
    np.testing.assert_allclose(corpus.tile(3).meta["mean_db"], mean, atol=6e-4)
    damaged = bytearray(buffer.getvalue())
    damaged[int(corpus.rows.offset[2]) + 200] ^= 4
    (tmp_path / "in/a.tar").write_bytes(bytes(damaged))
    assert [fault.tile for fault in verify(corpus, deep=True).faults] == [None, "k2"]


def test_folders_in_a_tar_and_missing_json_are_made_tiles(tmp_path: Path) -> None:
    members = {f"./a/t{n}.npy": npy(codes(n)) for n in range(3)}
    (tmp_path / "in.tar").write_bytes(tar_of(members))
    done = import_webdataset(str(tmp_path / "in.tar"), open_store(str(tmp_path / "out")), MEANING)
    corpus = Corpus.open(str(tmp_path / "out"))
    assert [corpus.key(i) for i in range(3)] == ["a_t0", "a_t1", "a_t2"]
    assert (done.packed, corpus.tile(0, full_meta=True).meta["scene"]) == (1, "in")
    assert verify(corpus, deep=True).ok


def bad(tmp_path: Path, members: dict[str, bytes], meaning: Meaning = MEANING) -> str:
    (tmp_path / "in").mkdir(exist_ok=True)
    (tmp_path / "in/bad.tar").write_bytes(tar_of(members))
    with pytest.raises(ImportRefused) as caught:
        import_webdataset(str(tmp_path / "in"), open_store(str(tmp_path / "out")), meaning)
    assert not list(open_store(str(tmp_path / "out")).list("manifests/"))
    return str(caught.value)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.png": b"x"}, r'sample .a. is a picture \(.png\).*image: "\*.png"'),
        ({"a.npy": npy(codes(0, "u1"))}, "pixels are uint8 .*ingest build-sarsense"),
        ({"a.npy": npy(codes(0, "<f4"))}, r"pixels are float32 \(2, 8, 8\): expected uint16"),
        ({"a.npy": npy(codes(0, ">u2"))}, "expected uint16 codes .*little-endian"),
        ({"a.npy": npy(codes(0, shape=(8, 8)))}, r"pixels are uint16 \(8, 8\): expected"),
        ({"a.npy": npy(np.asfortranarray(codes(0)))}, "Fortran order"),
        ({"a.npy": b"\x80\x04."}, "is no .npy file"),
        ({"a.json": b"{}"}, "has no .npy member, only json"),
        ({"a.npy": npy(codes(0)), "a.json": b"[1]"}, "holds list, expected an object"),
        ({"a.npy": npy(codes(0)), "a.json": b'{"polarisations": ["VV"]}'}, r"2 bands with the names \['VV'\]"),
        ({"a.npy": npy(codes(0)), "a.json": b'{"time": 3}'}, "sample 'a'"),
        ({"a.npy": npy(codes(0)), "a.label.npy": npy(codes(0, "u1", (4, 4)))}, "label is uint8 .4, 4.: expected uint8"),
        ({"a.npy": npy(codes(0)), "b.npy": npy(codes(1)), "a.json": b"{}"}, "key 'a' comes twice"),
        ({"a b.npy": npy(codes(0))}, "rename it"),
    ],
)
def test_each_fault_is_named(members: dict[str, bytes], message: str, tmp_path: Path) -> None:
    told = bad(tmp_path, members)
    assert "1 of 1 files cannot be taken; nothing was published" in told
    assert "in/bad.tar: " in told
    assert re.search(message, told, re.DOTALL), told


def test_all_bad_files_are_listed_and_keys_are_unique_over_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    good = tar_of({"a.npy": npy(codes(0))})
    for name in ("one", "two"):
        (tmp_path / f"in/{name}.tar").write_bytes(good)
    (tmp_path / "in/cut.tar").write_bytes(good[:700])
    with pytest.raises(ImportRefused) as caught:
        import_webdataset(str(tmp_path / "in"), open_store(str(tmp_path / "out")), MEANING)
    told = str(caught.value)
    assert "2 of 3 files cannot be taken" in told
    assert "cut.tar: is cut short or damaged" in told
    assert "two.tar: the key 'a' is in one.tar as well" in told


def test_every_truncation_is_caught() -> None:
    whole = tar_of({f"t{n}.npy": npy(codes(n)) for n in range(3)})
    used = 3 * 1024
    assert len(scan(whole[: used + 1024])) == 3
    for size in range(0, used + 1024):
        with pytest.raises(BadTar):
            scan(whole[:size])


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_hostile_bytes_end_in_one_kind_of_error(data: st.DataObject) -> None:
    whole = bytearray(tar_of({"a.npy": npy(codes(0)), "a.json": b"{}", "b.npy": npy(codes(1))}))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, 3000))] = data.draw(st.integers(0, 255))
    store = open_store("memory://hostile")
    store.put("in/a.tar", bytes(whole))
    try:
        import_webdataset("memory://hostile/in", open_store("memory://hostile-out"), MEANING)
    except ImportRefused:
        return
    assert verify(Corpus.open("memory://hostile-out"), deep=True).ok


def test_links_are_refused() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("a.npy")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(BadTar, match="is a link or a device"):
        scan(buffer.getvalue())


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_corpus(str(tmp_path / "a"), counts=(4,))
    (tmp_path / "in.tar").write_bytes(tar_of({f"t{n}.npy": npy(codes(n)) for n in range(3)}))
    line = ["import", str(tmp_path / "in.tar"), "--out", str(tmp_path / "b"), "--polarisations", "HH,HV", "--tag", "v1"]
    assert exit_code(app, [*line, "--like", str(tmp_path / "a"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["tiles"], told["packed anew"], told["left out"]) == (3, 1, "nothing")
    manifest = read_manifest(f"{tmp_path}/b@v1")[1]
    assert manifest.pixels_digest == read_manifest(str(tmp_path / "a"))[1].pixels_digest
    assert exit_code(app, ["merge", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "m")]) == 0
    assert exit_code(app, ["verify", str(tmp_path / "m"), "--deep"]) == 0
    assert exit_code(app, [*line, "--floor-db", "-50", "--legend", str(tmp_path / "in.tar")]) == 2
    assert exit_code(app, ["import", str(tmp_path / "m" / "index"), "--out", str(tmp_path / "x")]) == 2
    assert "no .tar file at" in capsys.readouterr().err
