"""Watching a run: it changes nothing, and what it tells is right."""

import io
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from labelled_corpus import SCENES, Scene, build
from PIL import Image
from pretrain_corpus import make_corpus
from ranks import run_ranks
from sklearn.metrics import accuracy_score, f1_score
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from infra.errors import UsageError
from infra.log import read_lines
from infra.store import open_store
from infra.world import World
from pretrain.checkpoint import latest
from pretrain.config import InputSpec, Optim, run_digest, validate
from pretrain.di3cl_run import DI3CLRun
from pretrain.encoder import ResNet
from pretrain.knn import nearest_classes, scores
from pretrain.launch import Job, identity, launch, preflight, work
from pretrain.parts import Queue
from pretrain.probe import Probe, halves, majority
from pretrain.trackers import Sender, flat, open_trackers
from pretrain.watch import check_watch, deviation, effective_rank, evaluating, queue_likeness
from pretrain.watch_config import WatchConfig
from pretrain.watch_picture import COLOURS, NOTHING, pairs_png
from shards.manifest import read_manifest
from shards.reader import Corpus

SMALL = DI3CLRun.model_validate(
    {
        "steps": 4, "batch": 4, "log_every": 2, "lanes": 2, "checkpoint": {"every": 4},
        "encoder": {"depth": 18}, "views": {"size_px": 32, "min_box_px": 8, "boxes": 4},
        "heads": {"hidden": 16, "dim": 8}, "contrast": {"queue": 8},
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("corpus"))
    make_corpus(folder, tiles=8, size=48)
    return folder


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("labelled"))
    build(folder)
    return folder


def watched(labelled: str) -> DI3CLRun:
    watch = WatchConfig(every=2, pictures=2, probe=labelled, probe_stage=3, probe_k=5)
    return SMALL.model_copy(update={"watch": watch})


def state_of(out: str, config: DI3CLRun, corpus: str) -> Mapping[str, torch.Tensor]:
    found = latest(open_store(out), run_digest(identity("di3cl", config, read_manifest(corpus)[1])))
    assert found is not None
    return found.tensors


def test_watching_changes_nothing_and_tells_much(tmp_path: Path, corpus: str, labelled: str) -> None:
    config = watched(labelled)
    outs = {True: f"{tmp_path}/watched", False: f"{tmp_path}/plain"}
    for on, out in outs.items():
        torch.manual_seed(9)
        launch(Job("di3cl", config if on else SMALL, corpus, out, "cpu", 1))
    one, other = (state_of(out, SMALL, corpus) for out in outs.values())
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert identity("di3cl", config, read_manifest(corpus)[1]) == identity("di3cl", SMALL, read_manifest(corpus)[1])

    lines = read_lines(open_store(outs[True]), "metrics")
    assert [line["step"] for line in lines] == [1, 3]
    new = set(lines[0]) - set(read_lines(open_store(outs[False]), "metrics")[0])
    stages = {f"feature_{what}_stage{n}" for what in ("std", "rank") for n in range(1, 5)}
    queues = {f"queue_{what}_{name}" for what in ("alike", "newest") for name in ("instance", "contour")}
    assert new == stages | queues | {"probe_accuracy", "probe_macro_f1", "probe_chance", "watch_s"}
    assert all(math.isfinite(value) for line in lines for value in line.values())
    pictures = sorted(o.key for o in open_store(outs[True]).list("views/"))
    assert pictures == ["views/step-000000001.png", "views/step-000000003.png"]
    assert not list(open_store(outs[False]).list("views/"))
    assert any("tfevents" in o.key for o in open_store(outs[True]).list("tensorboard/"))


def _work(world: World, job: Job) -> int:
    return work(job, world).step


@pytest.mark.slow
def test_only_the_lead_of_two_ranks_looks(tmp_path: Path, corpus: str, labelled: str) -> None:
    # At 32 px the last map of a rank is two values, and a greater step can blow up.
    config = watched(labelled).model_copy(update={"optim": Optim(lr=1e-4, lr_batch=None)})
    job = Job("di3cl", config, corpus, f"{tmp_path}/out", "cpu", 1)
    assert run_ranks(_work, job, 2, tmp_path) == [4, 4]
    lines = read_lines(open_store(job.out), "metrics")
    assert [sorted(line)[-1] for line in lines] == ["watch_s", "watch_s"]


def test_every_part_gets_its_own_mode_back() -> None:
    network = nn.Sequential(nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm2d(2)))
    network[1].eval()
    with evaluating(network):
        assert not any(part.training for part in network.modules())
        network(torch.randn(3, 2, 4, 4))
    assert [part.training for part in network.modules()] == [True, True, False, False]
    assert int(network[0].num_batches_tracked) == 0


@pytest.mark.parametrize("k", [1, 5, 20])
def test_neighbours_and_scores_are_those_of_scikit_learn(k: int) -> None:
    rng = np.random.default_rng(k)
    centres = rng.normal(size=(6, 12))
    truth = rng.integers(0, 6, 900)
    truth[truth == 4] = 5  # a class number that nothing has
    features = (centres[truth] + 1.2 * rng.normal(size=(900, 12))).astype(np.float32)
    oracle = KNeighborsClassifier(k, metric="cosine").fit(features[:500], truth[:500])
    wanted = oracle.predict(features[500:])
    known, queries = torch.from_numpy(features[:500]), torch.from_numpy(features[500:])
    found = nearest_classes(known, torch.from_numpy(truth[:500]), queries, k)
    assert found.tolist() == wanted.tolist()
    accuracy, f1 = scores(torch.from_numpy(truth[500:]), found)
    assert accuracy == pytest.approx(accuracy_score(truth[500:], wanted))
    assert f1 == pytest.approx(f1_score(truth[500:], wanted, average="macro"))
    assert 0.4 < accuracy < 0.99


def test_fewer_features_than_neighbours_all_vote_and_ties_go_to_the_least() -> None:
    features = torch.eye(4)
    assert nearest_classes(features, torch.tensor([3, 3, 1, 1]), torch.ones(1, 4), 9).tolist() == [1]


def test_a_cell_takes_its_commonest_class_where_half_is_labelled() -> None:
    label = np.full((4, 8), 255, np.uint8)
    label[:, :2] = 7  # half of the first cell
    label[:1, 4:] = 3  # a quarter of the second
    assert majority(label, (4, 4)).tolist() == [[7, 255]]
    label[:, 4:7] = 3
    label[:, 7] = 9
    assert majority(label, (4, 4)).tolist() == [[7, 3]]
    assert majority(np.full((4, 4), 255, np.uint8), (2, 2)).tolist() == [[255, 255], [255, 255]]


def test_scenes_are_never_on_both_sides() -> None:
    scenes = [f"scene-{n % 7}" for n in range(70)]
    side = halves(scenes)
    assert side.tolist() == halves(scenes[::-1])[::-1].tolist()
    assert len({(name, bool(h)) for name, h in zip(scenes, side, strict=True)}) == 7
    assert sum(halves(sorted(set(scenes)))) == 3


@pytest.mark.parametrize("of", ["cell", "tile"])
def test_the_probe_sees_water_that_any_encoder_sees(labelled: str, of: str) -> None:
    """The scenes' water is 9 dB darker: pooled features of random filters tell it from land far better than chance."""
    torch.manual_seed(0)
    encoder = ResNet(18, 1).eval()
    config = WatchConfig(every=1, probe_of=of, probe_stage=2, probe_k=5)
    found = Probe(Corpus.open(labelled), config, InputSpec(), one_band=True)(encoder, torch.device("cpu"))
    assert 0.5 <= found["probe_chance"] < 1
    if of == "cell":
        assert found["probe_accuracy"] > 0.85 > found["probe_chance"] + 0.1
        assert found["probe_macro_f1"] > 0.8


def test_probes_that_teach_nothing_are_refused(tmp_path: Path, corpus: str) -> None:
    config, spec = WatchConfig(every=1), InputSpec()
    with pytest.raises(UsageError, match="no labelled tile"):
        Probe(Corpus.open(corpus), config, spec, one_band=True)
    with pytest.raises(UsageError, match="of one scene"):
        Probe(build(f"{tmp_path}/one", SCENES[:1]), config, spec, one_band=True)
    two = (Scene("a", 1, shape=(64, 64)), Scene("b", 1, shape=(64, 64)))
    whole = WatchConfig(every=1, probe_of="tile")
    with pytest.raises(UsageError, match=r"of class \d, expected two"):
        Probe(build(f"{tmp_path}/same", two), whole, spec, one_band=True)
    bad = SMALL.model_copy(update={"views": SMALL.views.model_copy(update={"bands": "all"})})
    bad = bad.model_copy(update={"watch": WatchConfig(every=1, probe=f"{tmp_path}/same")})
    with pytest.raises(UsageError, match="have 2 bands, the encoder takes 1"):
        launch(Job("di3cl", bad, corpus, f"{tmp_path}/out", "cpu", 1))


def test_rank_and_deviation_of_known_clouds() -> None:
    generator = torch.Generator().manual_seed(1)
    even = torch.randn(4096, 16, generator=generator)
    assert effective_rank(even) == pytest.approx(16, rel=0.02)
    assert effective_rank(even[:, :3] @ torch.randn(3, 64, generator=generator)) < 3
    assert effective_rank(even[:5]) == pytest.approx(4, rel=0.1)
    assert effective_rank(torch.ones(9, 4)) == 0.0
    two = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).repeat(50, 1)
    assert effective_rank(two + 7) == pytest.approx(1)
    assert math.isnan(effective_rank(torch.full((3, 4), 1e30) * torch.tensor([1.0, 2.0, torch.inf, 0.0])))
    assert deviation(even) == pytest.approx(1, rel=0.05)
    assert deviation(torch.ones(5, 8)) == pytest.approx(0, abs=1e-6)


def test_likeness_of_queues_is_the_plain_mean_of_cosines() -> None:
    queue = Queue(("instance",), 12, 5, torch.Generator().manual_seed(2))
    queue.push({"instance": nn.functional.normalize(torch.randn(7, 5), dim=1)})
    rows = queue.get_buffer("instance")[:7]
    cosines = (rows @ rows.t())[~torch.eye(7, dtype=torch.bool)]
    found = queue_likeness(nn.ModuleDict({"q": queue}), keys=7)
    assert found["queue_alike_instance"] == pytest.approx(float(cosines.mean()), abs=1e-6)
    assert found["queue_newest_instance"] == pytest.approx(float((rows[:6] @ rows[6]).mean()), abs=1e-6)
    queue.get_buffer("instance").copy_(torch.ones(12, 5) / math.sqrt(5))
    assert queue_likeness(queue, keys=99)["queue_alike_instance"] == pytest.approx(1)
    assert queue_likeness(nn.Linear(2, 2), keys=9) == {}


def test_boxes_of_a_pair_have_one_colour_and_no_data_is_blue() -> None:
    grey = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (1, 64, 1))
    missing = np.zeros((1, 64, 64), bool)
    missing[:, :8] = True  # the upper rows
    box = np.array([[[16, 16, 48, 40]]], np.float32)
    picture = np.asarray(Image.open(io.BytesIO(pairs_png((grey, missing, box), (grey, ~missing, box + 8)))))
    assert picture.shape == (256, 518, 3)
    red = np.array([int(COLOURS[0][i : i + 2], 16) for i in (1, 3, 5)])
    rows, columns = np.nonzero((picture[:, :256] == red).all(2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (64, 159, 64, 191)
    rows, columns = np.nonzero((picture[:, 262:] == red).all(2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (96, 191, 96, 223)
    assert tuple(picture[4, 4]) == NOTHING
    assert tuple(picture[250, 300]) == NOTHING
    assert np.ptp(picture[4, 300]) == 0


@pytest.mark.parametrize(
    ("dials", "message"),
    [
        ({"probe": "corpus"}, r"give --watch\.every"),
        ({"mlflow": "http://localhost:5000"}, r"needs the package mlflow.*sarsense\[mlflow\]"),
        ({"wandb": "radar"}, r"needs the package wandb.*sarsense\[wandb\]"),
    ],
)
def test_watching_that_cannot_work_is_refused(
    dials: dict[str, str], message: str, tmp_path: Path, corpus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("mlflow", "wandb"):
        monkeypatch.setitem(__import__("sys").modules, package, None)  # as where it is not installed
    config = SMALL.model_copy(update={"watch": WatchConfig(**dials)})
    with pytest.raises(UsageError, match=message):
        check_watch(config)
    with pytest.raises(UsageError, match=message):
        preflight(Job("di3cl", config, corpus, str(tmp_path)), 2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("uri", ["https://me:pw@host", "runs", "file:///runs", "ftp://x"])
def test_a_tracker_address_with_a_password_or_of_a_folder_is_refused(uri: str) -> None:
    with pytest.raises(UsageError, match=r"holds credentials|expected the URI of a server") as refused:
        validate(WatchConfig, {"mlflow": uri}, "run.yaml")
    assert "pw" not in str(refused.value)


class Kept:
    """A tracker of the test's own that fails at one step."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, Mapping[str, float]]] = []
        self.closed = False

    def record(self, step: int, values: Mapping[str, float]) -> None:
        if step == 2:
            raise ConnectionError("gone")
        self.lines.append((step, values))

    def close(self) -> None:
        self.closed = True


def test_a_tracker_that_fails_loses_its_line_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept()
    sender = Sender(kept, "kept")
    with caplog.at_level(logging.WARNING):
        for step in range(4):
            sender.record(step, {"loss": step / 2, "bad": math.nan})
        sender.close()
    assert kept.lines == [(0, {"loss": 0.0}), (1, {"loss": 0.5}), (3, {"loss": 1.5})]
    assert kept.closed
    assert "kept: gone" in caplog.text


def test_dials_are_flat_for_trackers() -> None:
    assert flat({"a": 1, "b": {"c": [2], "d": {"e": None}}}) == {"a": 1, "b.c": [2], "b.d.e": None}
    assert open_trackers(WatchConfig(), {}, "t") == []
    assert json.dumps(flat(SMALL.identity()))
