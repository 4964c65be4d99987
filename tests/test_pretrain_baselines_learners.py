"""Every baseline as a learner: twins, stopped gradients, training, exact resume, refusals."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from baselines import BASELINES, OWN, QUEUED, TWINNED, batch_of, learner_of, small
from pretrain_corpus import make_corpus

from infra.errors import UsageError
from infra.log import read_lines
from infra.store import Store, open_store
from infra.world import World
from pretrain.checkpoint import latest
from pretrain.config import named_runs, resolve, run_digest
from pretrain.launch import Job, launch
from pretrain.learners import LEARNERS
from pretrain.loop import train
from pretrain.methods import RUNS, TITLES, describe_run, method_of
from pretrain.run_folder import read_run
from pretrain.step import check_parts
from shards.feed import Batch


@pytest.mark.parametrize("method", TWINNED)
def test_the_twin_starts_equal_gets_no_gradient_and_follows_exactly(method: str):
    learner = learner_of(method)
    query, key = learner.module.query, learner.module.key
    assert all(torch.equal(a, b) for a, b in zip(query.parameters(), key.parameters(), strict=True))
    learner.losses(batch_of(learner), 2)["loss"].backward()
    assert all(p.grad is None and not p.requires_grad for p in key.parameters())
    assert {id(p) for p in key.parameters()}.isdisjoint(id(p) for p in learner.parameters())
    before = [p.clone() for p in key.parameters()]
    with torch.no_grad():
        for p in query.parameters():
            p.add_(1.0)
    learner.after_step(2)
    # MoCo's momentum is constant; BYOL's and PixPro's has gone a quarter of the cosine's way: cos(pi 2 / 6) = 1 / 2.
    step = 0.1 if method in QUEUED else 0.1 * (0.5 + 1) / 2
    for was, now in zip(before, key.parameters(), strict=True):
        torch.testing.assert_close(now, was + step, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method", BASELINES)
def test_every_trained_parameter_gets_a_gradient(method: str):
    learner = learner_of(method)
    losses = learner.losses(batch_of(learner), 0)
    losses["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learner.parameters())
    assert not any(value.requires_grad for name, value in losses.items() if name != "loss")
    assert all(value.dim() == 0 for value in losses.values())
    assert learner.encoder is learner.module.query.encoder


@pytest.mark.parametrize("method", QUEUED)
def test_queues_take_a_steps_keys_after_it(method: str):
    learner = learner_of(method)
    queue = learner.module.queue
    noise = queue.get_buffer("instance").clone()
    learner.losses(batch_of(learner), 0)
    assert torch.equal(queue.get_buffer("instance"), noise)
    learner.after_step(0)
    assert queue.pointer.item() == 8
    assert torch.equal(queue.get_buffer("instance")[8:], noise[8:])
    torch.testing.assert_close(queue.get_buffer("instance")[:8].norm(dim=1), torch.ones(8))
    contrast = {"queue": 16, "momentum": 0.9, "queue_start": "empty"}
    empty = learner_of(method, small(method, contrast=contrast))
    found = empty.losses(batch_of(empty), 0)
    assert found.get("loss_instance", found["loss"]).item() == 0  # nothing to tell keys from


@pytest.mark.parametrize("method", BASELINES)
def test_five_steps_lower_the_loss(method: str):
    learner = learner_of(method)
    batch, losses = batch_of(learner), []
    optimiser = torch.optim.SGD(learner.parameters(), lr=RATES.get(method, 0.1))
    for _ in range(6):  # the same samples, keys and queue
        optimiser.zero_grad()
        loss = learner.losses(batch, 0)["loss"]
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[5] < losses[0] - 0.02
    assert losses[5] < 0.97 * losses[0] or losses[0] < 0.5  # SimSiam's and PixPro's begin near 0


RATES = {"simclr": 0.03, "moco": 0.03, "ssccl": 0.03, "resim": 0.03, "barlow": 0.02}


class Tiles:
    """Made-up ground as a feed; ``until`` ends it as a kill does."""

    def __init__(self, learner: Any, until: int | None) -> None:
        self._learner, self._until = learner, until

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        for step in range(start, stop):
            if step == self._until:
                raise Killed
            arrays = {name: value.numpy() for name, value in batch_of(self._learner, step, 4).items()}
            yield Batch(step, arrays, 0.001)


class Killed(Exception):
    pass


def run(method: str, folder: Path, until: int | None = None) -> Store:
    checkpoint = {"every": 2, "keep": 2}
    config = small(method, steps=3, batch=4, checkpoint=checkpoint)
    store, learner = open_store(str(folder)), learner_of(method, config)
    train(learner, Tiles(learner, until), config, World(), store, {"method": method})
    return store


SLOW = [pytest.param(method, marks=pytest.mark.slow) for method in ("moco", "pixpro", "ssccl", "simclr", "resim")]


@pytest.mark.parametrize("method", ["byol", *SLOW])
def test_a_killed_run_goes_on_exactly(method: str, tmp_path: Path):
    straight = run(method, tmp_path / "straight")
    with pytest.raises(Killed):
        run(method, tmp_path / "broken", until=2)
    broken = run(method, tmp_path / "broken")
    one, other = (latest(store, run_digest({"method": method})) for store in (straight, broken))
    assert one is not None
    assert other is not None
    assert one.step == other.step == 3
    assert one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(one.tensors[n], other.tensors[n]) for n in one.tensors)
    losses = [[line["loss"] for line in read_lines(store, "metrics")] for store in (straight, broken)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 3


@pytest.mark.parametrize("method", BASELINES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"views": {"size_px": 60, "min_box_px": 16}}, "multiple of 32"),
        ({"views": {"size_px": 64, "min_box_px": 64}}, "does not fit"),
        ({"batch": 7}, "multiple of the ranks"),
        ({"batch": 2}, "at least 2"),
    ],
)
def test_dials_that_do_not_fit_are_refused(method: str, change: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message):
        LEARNERS[method].check(small(method, **change), World(0, 2))


@pytest.mark.parametrize("method", QUEUED)
def test_a_queue_of_broken_batches_is_refused(method: str):
    with pytest.raises(UsageError, match="whole number of batches"):
        LEARNERS[method].check(small(method, contrast={"queue": 36}), World())


@pytest.mark.parametrize(
    "change", [{"windows": {"side_px": (64, 24)}}, {"views": {"size_px": 32, "min_box_px": 8}, "windows": {}}]
)
def test_windows_that_do_not_fit_are_refused(change: dict[str, Any]):
    with pytest.raises(UsageError, match=r"views of at least 64 px.*--windows\.side-px"):
        LEARNERS["resim"].check(small("resim", **change), World())


def test_every_method_has_a_run_a_learner_a_title_and_a_named_run():
    assert set(RUNS) == set(LEARNERS) == set(TITLES) == {"di3cl", *BASELINES}
    assert {method_of(name) for name in named_runs()} == set(RUNS)
    for name in named_runs():
        method = method_of(name)
        LEARNERS[method].check(resolve(RUNS[method], run=name), World(size=2))
        assert 20 < len(describe_run(name)) < 160


def test_published_numbers_are_the_defaults():
    optimisers = {m: (c.kind, c.lr, c.weight_decay) for m in BASELINES for c in [RUNS[m]().optim]}
    assert optimisers == {
        "moco": ("sgd", 0.03, 1e-4),
        "simclr": ("lars", 0.3, 1e-6),
        "byol": ("lars", 0.2, 1.5e-6),
        "simsiam": ("sgd", 0.05, 1e-4),
        "barlow": ("lars", 0.2, 1.5e-6),
        "pixpro": ("lars", 1.0, 1e-5),
        "resim": ("sgd", 0.03, 1e-4),
        "ssccl": ("sgd", 0.03, 1e-4),
    }
    runs: dict[str, Any] = {m: RUNS[m]() for m in BASELINES}
    assert {m: (r.heads.hidden, r.heads.dim) for m, r in runs.items()} == {
        "moco": (2048, 128), "simclr": (2048, 128), "byol": (4096, 256), "simsiam": (2048, 2048),
        "barlow": (8192, 8192), "pixpro": (4096, 256), "resim": (2048, 128), "ssccl": (2048, 128),
    }  # fmt: skip
    assert (runs["byol"].twin.momentum, runs["pixpro"].twin.momentum) == (0.996, 0.99)
    assert (runs["simclr"].contrast.temperature, runs["moco"].contrast.temperature) == (0.1, 0.2)
    assert (runs["moco"].contrast.queue, runs["moco"].contrast.momentum) == (65536, 0.999)
    assert (runs["barlow"].redundancy.weight, runs["simsiam"].heads.predictor) == (0.005, 512)
    assert (runs["pixpro"].pixels.sharpness, runs["pixpro"].pixels.reach) == (2.0, 0.7)


@pytest.mark.parametrize("method", BASELINES)
def test_a_part_of_a_group_keeps_the_rest_of_its_published_numbers(method: str):
    whole, part = RUNS[method](), RUNS[method].model_validate({"optim": {"warmup_steps": 3}, "heads": {"dim": 16}})
    assert part.optim.model_dump(exclude={"warmup_steps"}) == whole.optim.model_dump(exclude={"warmup_steps"})
    heads = [config.model_dump()["heads"] for config in (part, whole)]
    assert {**heads[0], "dim": heads[1]["dim"]} == heads[1]


def test_a_baseline_runs_from_a_corpus_to_an_encoder(tmp_path: Path):
    make_corpus(f"{tmp_path}/corpus", tiles=8, size=80)
    job = Job("pixpro", small("pixpro", steps=1, batch=4), f"{tmp_path}/corpus", f"{tmp_path}/out", "cpu", 1)
    summary = launch(job)
    assert summary is not None
    assert summary.finished
    found = read_run(job.out)
    assert (found.method, found.encoder) == ("pixpro", True)
    assert json.loads(json.dumps(found.plain()))["last"]["pairs"] > 0
    assert set(OWN) <= set(BASELINES)


@pytest.mark.parametrize("method", BASELINES)
def test_only_methods_that_do_not_compare_samples_take_a_batch_in_parts(method: str):
    learner, config = learner_of(method), small(method, accumulate=2)
    if method in ("byol", "simsiam", "pixpro"):
        check_parts(learner, config, World())
        return
    with pytest.raises(UsageError, match="needs its whole batch at once"):
        check_parts(learner, config, World())
