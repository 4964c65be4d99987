"""The dials of reading reach the feed, and change no result."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pretrain_corpus import make_corpus

from infra.log import read_lines
from infra.store import open_store
from infra.world import World
from pretrain.config import Reading
from pretrain.di3cl_run import DI3CLRun
from pretrain.launch import Job, launch
from pretrain.reading import open_corpus, open_feed, teller
from shards.feed import LocalFeed, whole
from shards.plan import Plan

SMALL = {
    "steps": 3, "batch": 4, "log_every": 1, "lanes": 2,
    "encoder": {"depth": 18}, "views": {"size_px": 32, "min_box_px": 8, "boxes": 4},
    "heads": {"hidden": 16, "dim": 8}, "contrast": {"queue": 8},
}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("corpus"))
    make_corpus(folder, tiles=12, size=48)
    return folder


def test_a_corpus_in_a_bucket_is_kept_where_the_dials_say(s3_url: str, tmp_path: Path):
    make_corpus(s3_url, tiles=12, size=48)
    reading = Reading(cache_gib=0.001, cache_folder=str(tmp_path / "kept"), connections=2)
    for hits in (0, 12):
        corpus = open_corpus(s3_url, reading)
        with open_feed(reading, corpus, Plan(corpus.shard_counts(), 0, 2, 4), whole, World()) as feed:
            assert len(list(feed.batches(0, 3))) == 3
        assert feed.metrics().cache_hits == hits
    assert len(list((tmp_path / "kept").glob("??/*"))) == 12


def test_the_numbers_of_reading_are_logged_and_told_to_prometheus(corpus: str, tmp_path: Path):
    config = DI3CLRun.model_validate(SMALL | {"reading": {"prometheus": str(tmp_path / "prom")}})
    assert launch(Job("di3cl", config, corpus, str(tmp_path / "run"), "cpu", 1)) is not None
    lines = read_lines(open_store(str(tmp_path / "run")), "metrics")
    assert lines[0]["bytes_per_s"] > 0  # later all is read ahead
    assert all("bytes_per_s" in line and "retries" not in line for line in lines)
    text = (tmp_path / "prom" / "sarsense-rank-0.prom").read_text()
    assert 'sarsense_feed_steps_total{rank="0"} 3.0' in text.splitlines()


def test_memory_from_torch_is_used_again_only_when_free(corpus: str):
    def of_torch(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return torch.empty(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype).numpy()

    opened = open_corpus(corpus, Reading())
    plan = Plan(opened.shard_counts(), 0, 2, 4)
    feed, kept, places = LocalFeed(opened, plan, ahead=1, empty=of_torch), [], set()
    for batch in feed.batches(0, 20):
        tensor = torch.from_numpy(batch.arrays["pixels"])
        places.add(tensor.data_ptr())
        if batch.step % 7 == 0:
            kept.append((batch.step, tensor[1:]))
        del tensor, batch
    for step, rows in kept:
        expected = np.stack([opened.tile(int(i)).pixels for i in plan.tiles(step)[1:]])
        np.testing.assert_array_equal(rows.numpy(), expected)
    assert len(places) < 20  # used again; only while all are in use, a fresh one is taken


@pytest.mark.gpu
def test_batches_for_a_gpu_are_page_locked(corpus: str):
    opened = open_corpus(corpus, Reading())
    plan = Plan(opened.shard_counts(), 0, 2, 4)
    with open_feed(Reading(), opened, plan, whole, World(device=torch.device("cuda"))) as feed:
        for batch in feed.batches(0, 8):
            tensor = torch.from_numpy(batch.arrays["pixels"])
            assert tensor.is_pinned()
            assert tensor.pin_memory().data_ptr() == tensor.data_ptr()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_run_with_reader_actors_is_the_run_without(corpus: str, tmp_path: Path):
    for readers in (0, 2):
        reading = {"readers": readers, "reader_cpus": 0.5}
        config = DI3CLRun.model_validate(SMALL | {"reading": reading})
        assert launch(Job("di3cl", config, corpus, str(tmp_path / str(readers)), "cpu", 1)) is not None
    logs = [read_lines(open_store(str(tmp_path / n)), "metrics") for n in ("0", "2")]
    curves = [[(line["step"], line["loss"], line["grad_norm"]) for line in log] for log in logs]
    assert curves[0] == curves[1]
    assert len(curves[0]) == 3


def test_telling_is_of_the_feed_and_off_by_default(corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    opened = open_corpus(corpus, Reading())
    with open_feed(Reading(), opened, Plan(opened.shard_counts(), 0, 2, 4), whole, World()) as feed:
        tell = teller(Reading(), feed, World())
        list(feed.batches(0, 2))
        assert tell()["bytes_per_s"] > 0
    assert list(tmp_path.iterdir()) == []
