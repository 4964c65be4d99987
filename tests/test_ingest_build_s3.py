"""The build on two Ray nodes into a real S3 server: the same corpus as on a folder."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import webdataset

from infra import local_cluster
from infra.command import exit_code
from infra.store import open_store
from ingest.cli import app
from ingest.simulate import simulate_catalog
from shards.manifest import read_manifest
from shards.reader import Corpus
from shards.verify import verify

LINE = "import sys; from ingest.cli import main; main()"


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    return simulate_catalog(tmp_path / "scenes", scenes=3, rows=280, cols=300, seed=5)


def run_build(catalog: Path, out: str, *options: str, environment: Mapping[str, str] | None = None) -> None:
    """Build in a process of its own: Ray reads its variables once."""
    command = [sys.executable, "-c", LINE, "build-sarsense", str(catalog), "--out", out, *options]
    done = subprocess.run(
        command, env=os.environ | dict(environment or {}), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr


# webdataset leaves its files to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_two_nodes_and_one_folder_give_the_same_corpus(catalog: Path, s3_url: str, tmp_path: Path) -> None:
    with local_cluster.start(tmp_path / "ray", nodes=2, cpus=1) as cluster:
        run_build(catalog, s3_url, environment=cluster.environment)
    run_build(catalog, str(tmp_path / "out"), "--workers", "1")
    store, manifest = read_manifest(s3_url)
    assert store.get("manifest.json") == (tmp_path / "out/manifest.json").read_bytes()
    corpus = Corpus.open(s3_url)
    assert verify(corpus, deep=True).ok
    (tmp_path / "copy").mkdir()
    for number, shard in enumerate(manifest.shards):
        (tmp_path / f"copy/corpus-{number:06d}.tar").write_bytes(store.get(shard.key))
    urls = [str(path) for path in sorted((tmp_path / "copy").iterdir())]
    assert sum(1 for _ in webdataset.WebDataset(urls, shardshuffle=False)) == manifest.tiles


def test_a_bucket_that_cannot_be_written(
    catalog: Path, s3_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(app, ["build-sarsense", str(catalog), "--out", "s3://no-such-bucket-here/x"]) == 4
    assert "no-such-bucket-here" in capsys.readouterr().err
    assert list(open_store(s3_url).list()) == []


def test_a_build_killed_at_any_moment_is_taken_up(catalog: Path, tmp_path: Path) -> None:
    run_build(catalog, str(tmp_path / "straight"))
    command = [sys.executable, "-c", LINE, "build-sarsense", str(catalog), "--out", str(tmp_path / "killed")]
    moments_s = np.random.default_rng(1).uniform(2.0, 12.0, 3)
    for moment_s in moments_s:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the driver and all its workers
        process.wait()
    run_build(catalog, str(tmp_path / "killed"))
    assert (tmp_path / "killed/manifest.json").read_bytes() == (tmp_path / "straight/manifest.json").read_bytes()
    assert verify(Corpus.open(str(tmp_path / "killed")), deep=True).ok
