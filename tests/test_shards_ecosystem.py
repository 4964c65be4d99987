"""Other people's readers take the shards as they are: webdataset, wids, Ray Data, Hugging Face, DALI's index."""

import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from corpora import make_corpus

from infra.command import exit_code
from infra.errors import UsageError
from shards import derive
from shards.cli import app
from shards.manifest import Lineage, add_version
from shards.reader import Corpus
from shards.sidecars import dali_index, wids_index

# webdataset leaves its files to the garbage collector.
LOOSE = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
CODECS = pytest.mark.parametrize("codec", ["npy", "blosc2"])


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    make_corpus(str(tmp_path / "c"), counts=(7, 4, 9), label=True, max_bytes=16384)
    return Corpus.open(str(tmp_path / "c"))


def paths(corpus: Corpus) -> list[str]:
    root = corpus.store.url.removeprefix("file://")
    return [f"{root}/{shard.key}" for shard in corpus.manifest.shards]


@LOOSE
def test_plain_webdataset_decodes_every_sample(corpus: Corpus) -> None:
    samples = list(webdataset.WebDataset(paths(corpus), shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == [corpus.key(i) for i in range(20)]
    for i, sample in enumerate(samples):
        tile = corpus.tile(i, full_meta=True)
        np.testing.assert_array_equal(sample["npy"], tile.pixels)
        np.testing.assert_array_equal(sample["label.npy"], tile.label)
        assert sample["json"]["window"] == tile.meta["window"]


@LOOSE
def test_blosc2_members_decode_by_the_line_of_the_card(tmp_path: Path) -> None:
    import blosc2

    make_corpus(str(tmp_path / "c"), counts=(3,), codec="blosc2")
    corpus = Corpus.open(str(tmp_path / "c"))
    for i, sample in enumerate(webdataset.WebDataset(paths(corpus), shardshuffle=False)):
        meta = json.loads(sample["json"])
        codes = np.frombuffer(blosc2.decompress2(sample["blosc2"]), meta["dtype"]).reshape(meta["shape"])
        np.testing.assert_array_equal(codes, corpus.tile(i).pixels)


RAY = """
import json, sys, ray
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
rows = ray.data.read_webdataset(sys.argv[1:]).take_all()
told = {row["__key__"]: [list(row["npy"].shape), int(row["npy"].sum()), row["json"]["scene"]] for row in rows}
print(json.dumps(told))
"""


def test_ray_data_reads_the_shards(corpus: Corpus) -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", RAY, *paths(corpus)], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    expected = {}
    for i in range(20):
        tile = corpus.tile(i)
        expected[tile.key] = [list(tile.pixels.shape), int(tile.pixels.sum()), tile.meta["scene"]]
    assert told == expected


@pytest.mark.filterwarnings("ignore")
def test_hugging_face_datasets_stream_the_shards(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    stream = datasets.load_dataset("webdataset", data_files=paths(corpus), split="train", streaming=True)
    for i, sample in enumerate(stream):
        assert sample["__key__"] == corpus.key(i)
        np.testing.assert_array_equal(np.asarray(sample["npy"], "u2"), corpus.tile(i).pixels)
        np.testing.assert_array_equal(np.asarray(sample["label.npy"], "u1"), corpus.tile(i).label)
    assert i == 19


# ---------------------------------------------------------------- index files


def index_by_tar(path: str) -> list[str]:
    """What tools/wds2idx.py of DALI writes: GNU tar's list gives each member's block and size."""
    blocks = subprocess.run(["tar", "--list", "--block-number", "--file", path], capture_output=True, text=True)
    starts = [(int(n), name) for n, name in re.findall(r"block (\d+): (\S+)", blocks.stdout)]
    with tarfile.open(path) as tar:
        sizes = {member.name: member.size for member in tar}
    lines: dict[str, list[str]] = {}
    for block, name in starts:
        if name in sizes:
            key, _, suffix = name.partition(".")
            lines.setdefault(key, []).append(f"{suffix} {block * 512 + 512} {sizes[name]} {name}")
    return [f"v1.2 {len(lines)}", *(" ".join(parts) for parts in lines.values())]


@CODECS
def test_the_dali_index_is_that_of_nvidias_script(codec: str, tmp_path: Path) -> None:
    make_corpus(str(tmp_path / "c"), counts=(5, 3), label=True, codec=codec, max_bytes=8192)
    corpus = Corpus.open(str(tmp_path / "c"))
    assert exit_code(app, ["export", str(tmp_path / "c"), str(tmp_path / "idx"), "--as", "dali"]) == 0
    for shard, path in zip(corpus.manifest.shards, paths(corpus), strict=True):
        written = (tmp_path / "idx" / shard.key.replace(".tar", ".idx")).read_text()
        assert written.splitlines() == index_by_tar(path)
        assert written.endswith("\n")


def test_the_index_of_a_selection_lists_its_tiles_only(corpus: Corpus) -> None:
    chosen = derive.where(corpus.table, "key like '%2' or key like '%3'")
    manifest = derive.take(corpus, chosen, Lineage(made_by="select", parents=()))
    add_version(corpus.store, manifest)
    part = Corpus.open(f"{corpus.store.url}@{manifest.digest}")
    for n, path in enumerate(paths(part)):
        head, *lines = dali_index(part, n).decode().splitlines()
        assert head == f"v1.2 {manifest.shards[n].tiles}"
        assert set(lines) < set(index_by_tar(path))
    with pytest.raises(UsageError, match="wids would read all of them"):
        wids_index(part)


@LOOSE
def test_wids_opens_the_list_of_shards(corpus: Corpus, tmp_path: Path) -> None:
    assert exit_code(app, ["export", corpus.store.url, str(tmp_path / "w"), "--as", "wids"]) == 0
    told = json.loads((tmp_path / "w/wids.json").read_text())
    assert told["wids_version"] == 1
    assert [(s["url"], s["nsamples"]) for s in told["shardlist"]] == [
        (path, shard.tiles) for path, shard in zip(paths(corpus), corpus.manifest.shards, strict=True)
    ]
    wids = pytest.importorskip("wids", reason="wids is in webdataset before 1.0 only")
    opened = wids.ShardListDataset(str(tmp_path / "w/wids.json"), cache_dir=str(tmp_path / "cache"))
    assert len(opened) == 20
    assert opened[13]["__key__"] == corpus.key(13)
