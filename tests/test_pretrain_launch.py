"""A whole run from a corpus: one process, its identity, its encoder, and a gang under Ray."""

import json
import os
from pathlib import Path

import pytest
import torch
from pretrain_corpus import make_corpus
from ranks import run_ranks

from infra.errors import UsageError
from infra.log import read_lines
from infra.store import open_store
from infra.world import World
from pretrain.config import InputSpec, resolve, run_digest
from pretrain.di3cl import DI3CL
from pretrain.di3cl_run import DI3CLRun
from pretrain.encoder import ResNet
from pretrain.export import load_encoder
from pretrain.launch import Job, check_levels, identity, launch, preflight, work
from pretrain.run_folder import read_run
from shards.manifest import Manifest, read_manifest
from shards.reader import Corpus

SMALL = DI3CLRun.model_validate(
    {
        "steps": 3, "batch": 4, "log_every": 1, "lanes": 2,
        "encoder": {"depth": 18}, "views": {"size_px": 32, "min_box_px": 8, "boxes": 4},
        "heads": {"hidden": 16, "dim": 8}, "contrast": {"queue": 8},
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("corpus"))
    make_corpus(folder, tiles=12, size=48)
    return folder


def manifest_of(corpus: str) -> Manifest:
    return read_manifest(corpus)[1]


def test_a_run_leaves_its_record_its_log_and_an_encoder_that_loads(tmp_path: Path, corpus: str):
    job = Job("di3cl", SMALL, corpus, str(tmp_path), "cpu", 1)
    summary = launch(job)
    assert summary is not None
    assert (summary.step, summary.finished) == (3, True)
    manifest = manifest_of(corpus)
    encoder, card = load_encoder(f"{tmp_path}/encoder.safetensors")
    assert card.run_digest == run_digest(identity("di3cl", SMALL, manifest)) == read_run(str(tmp_path)).digest
    assert (card.manifest_digest, card.pixels_digest) == (manifest.digest, manifest.pixels_digest)
    assert (card.step, card.depth, card.bands, card.input.bands, card.method) == (3, 18, 1, 1, "di3cl")
    assert encoder(torch.zeros(1, 1, 32, 32))[-1].shape == (1, 512, 1, 1)
    found = read_run(str(tmp_path))
    assert (found.steps, found.checkpoint_steps, found.encoder, found.method) == (3, (3,), True, "di3cl")
    assert "steps 3 of 3; checkpoints at 3; encoder there" in found.text()
    assert json.loads(json.dumps(found.plain()))["last"]["step"] == 2


def _work(world: World, job: Job) -> int:
    return work(job, world).step


def test_two_ranks_read_their_shares_of_the_same_order(tmp_path: Path, corpus: str):
    job = Job("di3cl", SMALL, corpus, f"{tmp_path}/out", "cpu", 1)
    assert run_ranks(_work, job, 2, tmp_path) == [3, 3]
    lines = read_lines(open_store(job.out), "metrics")
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert read_run(job.out).encoder


def test_identity_ignores_where_and_how_fast_and_heeds_what(tmp_path: Path, corpus: str):
    manifest = manifest_of(corpus)
    name = run_digest(identity("di3cl", SMALL, manifest))

    def changed(**update: object) -> str:
        return run_digest(identity("di3cl", SMALL.model_copy(update=update), manifest))

    assert changed(log_every=7, reading=SMALL.reading.model_copy(update={"threads": 9})) == name
    assert changed(checkpoint=SMALL.checkpoint.model_copy(update={"every": 9})) == name
    assert changed(steps=4) != name
    assert changed(optim=SMALL.optim.model_copy(update={"lr": 1.0})) != name
    weights = [tmp_path / "a.pth", tmp_path / "b.pth", tmp_path / "same.pth"]
    for seed, path in zip((1, 2, 1), weights, strict=True):
        torch.manual_seed(seed)
        torch.save(ResNet(18, 1).state_dict(), path)
    of = [changed(encoder=SMALL.encoder.model_copy(update={"weights": str(p)})) for p in weights]
    assert of[0] != of[1]
    assert name not in of


def test_what_ranks_would_refuse_is_refused_before_they_start(tmp_path: Path, corpus: str):
    preflight(Job("di3cl", SMALL, corpus, str(tmp_path)), 2)
    with pytest.raises(UsageError, match="multiple of the ranks"):
        preflight(Job("di3cl", SMALL, corpus, str(tmp_path)), 3)
    with pytest.raises(UsageError, match="another --out"):
        preflight(Job("di3cl", SMALL.model_copy(update={"seed": 5}), corpus, str(tmp_path)), 2)


def test_a_corpus_that_would_be_all_white_is_refused_with_a_range_that_fits(tmp_path: Path, corpus: str):
    dials = {"lo_db": -90.0, "hi_db": -60.0}
    with pytest.raises(UsageError, match=r"100% of the tiles.*--input\.lo-db -\d+ --input\.hi-db") as refused:
        preflight(Job("di3cl", SMALL.model_copy(update={"input": InputSpec(**dials)}), corpus, str(tmp_path)), 2)
    words = str(refused.value).split()
    fitting = InputSpec(lo_db=float(words[-3]), hi_db=float(words[-1]))
    check_levels(Corpus.open(corpus), fitting)


@pytest.mark.parametrize("name", ["di3cl_paper", "di3cl_laptop_faithful"])
def test_named_runs_resolve(name: str):
    resolved = resolve(DI3CLRun, run=name)
    assert (resolved.loss.instance, resolved.loss.contour, resolved.loss.region) == (0.8, 0.2, 5.0)
    assert resolved.contrast.temperature == 0.2
    DI3CL.check(resolved, World(size=2))


def test_the_paper_run_has_the_published_numbers():
    run = resolve(DI3CLRun, run="di3cl_paper")
    assert (run.encoder.depth, run.views.size_px, run.views.boxes, run.views.min_box_px) == (50, 448, 10, 32)
    assert (run.contrast.queue, run.contrast.momentum, run.heads.hidden, run.heads.dim) == (65536, 0.999, 2048, 128)
    assert (run.batch, run.optim.peak_lr(256), run.optim.momentum, run.optim.weight_decay) == (256, 0.03, 0.9, 1e-4)
    assert run.optim.warmup_steps == 0
    assert run.steps == 719_200


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_gang_under_ray_trains_and_a_second_start_goes_on(
    tmp_path: Path, corpus: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)  # the ranks stand elsewhere
    job = Job("di3cl", SMALL.model_copy(update={"log_every": 1}), os.path.relpath(corpus), "run", "cpu", 1)
    launch(job, ranks=2)
    assert read_run(job.out).checkpoint_steps == (3,)
    before = open_store(job.out).get("encoder.safetensors")
    launch(job, ranks=2)
    assert open_store(job.out).get("encoder.safetensors") == before
