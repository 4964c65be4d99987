"""A step: in parts, clipped, told late, without a wait for the device, compiled, in another order of memory."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretrain_corpus import ground_tile
from ranks import run_ranks
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from infra.errors import UsageError
from infra.log import read_lines
from infra.store import open_store
from infra.world import World
from pretrain.config import EncoderConfig, Keeping, LoopConfig, Optim
from pretrain.di3cl import DI3CL
from pretrain.di3cl_run import ContrastConfig, DI3CLRun, HeadConfig
from pretrain.encoder import ResNet, channels_last
from pretrain.loop import Diverged, train
from pretrain.meter import Meter
from pretrain.pair_run import ViewConfig
from shards.feed import Batch, generator
from shards.tile import DbScale

CONFIG = LoopConfig(steps=8, batch=8, log_every=4, optim=Optim(lr=0.1, lr_batch=None), checkpoint=Keeping(every=4))


class Regression:
    """A learner with a queue and a twin, whose loss is a plain mean; gradients of ``bad`` steps are not numbers."""

    accumulates = True

    def __init__(self, bad: tuple[int, ...] = ()) -> None:
        torch.manual_seed(0)
        self.module = nn.ModuleDict({"query": nn.Linear(6, 3), "key": nn.Linear(6, 3)})
        self.module["key"].requires_grad_(False)
        self.module.register_buffer("queue", torch.zeros(3))
        self._bad = bad

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.module["query"].parameters()

    def losses(self, batch: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        self.seen = self.module["query"](batch["x"])
        loss = (self.seen - self.module["key"](batch["x"]) - batch["y"]).square().mean()
        return {"loss": loss * (math.nan if step in self._bad else 1.0), "half": loss.detach() / 2}

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        self.module.queue.add_(self.seen.mean(0))
        torch._foreach_lerp_(list(self.module["key"].parameters()), list(self.parameters()), 0.1)


class Samples:
    def __init__(self, world: World, config: LoopConfig) -> None:
        self._share, self._batch = world.share(config.batch), config.batch

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        for step in range(start, stop):
            rng = np.random.default_rng((2, step))
            x, y = rng.normal(size=(self._batch, 6)), rng.normal(size=(self._batch, 3))
            yield Batch(step, {n: v[self._share].astype(np.float32) for n, v in (("x", x), ("y", y))}, 0.0)


def state(
    folder: Path, config: LoopConfig = CONFIG, world: World | None = None, bad: tuple[int, ...] = (), **options: Any
) -> dict[str, np.ndarray]:
    world, learner = world or World(), Regression(bad)
    train(learner, Samples(world, config), config, world, open_store(str(folder)), {"a": 1}, **options)
    return {name: value.numpy().copy() for name, value in learner.module.state_dict().items()}


def test_parts_of_a_batch_make_the_step_of_the_whole(tmp_path: Path):
    whole = state(tmp_path / "whole")
    for parts in (2, 4, 8):
        config = CONFIG.model_copy(update={"accumulate": parts})
        found = state(tmp_path / str(parts), config)
        for name in ("query.weight", "query.bias", "key.weight"):
            np.testing.assert_allclose(found[name], whole[name], rtol=1e-5, atol=1e-7)
        lines = [read_lines(open_store(f"{tmp_path}/{run}"), "metrics") for run in ("whole", parts)]
        for one, other in zip(*lines, strict=True):
            assert [other[n] for n in ("loss", "half", "grad_norm")] == pytest.approx(
                [one[n] for n in ("loss", "half", "grad_norm")], rel=1e-5
            )


def _in_parts(world: World, folder: str) -> dict[str, np.ndarray]:
    return state(Path(folder), CONFIG.model_copy(update={"accumulate": 2}), world)


def test_parts_on_two_ranks_make_the_step_of_the_whole(tmp_path: Path):
    one, other = run_ranks(_in_parts, str(tmp_path / "ranks"), 2, tmp_path)
    whole = state(tmp_path / "whole")
    np.testing.assert_array_equal(one["query.weight"], other["query.weight"])
    np.testing.assert_allclose(one["query.weight"], whole["query.weight"], rtol=1e-5, atol=1e-7)


def test_a_method_that_compares_samples_takes_no_parts(tmp_path: Path):
    learner = Regression()
    learner.accumulates = False
    config = CONFIG.model_copy(update={"accumulate": 2})
    with pytest.raises(UsageError, match="Regression needs its whole batch"):
        train(learner, Samples(World(), config), config, World(), open_store(str(tmp_path)), {"a": 1})
    with pytest.raises(UsageError, match="batch of 8 on 1 ranks does not divide into 3"):
        state(tmp_path, CONFIG.model_copy(update={"accumulate": 3}))


@pytest.mark.parametrize("kind", ["sgd", "adamw", "lars"])
@pytest.mark.parametrize("bad", [(), (0,), (2, 3), (7,)])
def test_told_late_or_at_once_a_bad_step_leaves_no_trace(tmp_path: Path, bad: tuple[int, ...], kind: str):
    config = CONFIG.model_copy(update={"optim": Optim(kind=kind, lr=0.05, lr_batch=None)})
    at_once = state(tmp_path / "at-once", config, bad=bad, late=False)
    late = state(tmp_path / "late", config, bad=bad, late=True)
    for name, wanted in at_once.items():
        np.testing.assert_allclose(late[name], wanted, rtol=1e-6, atol=1e-8, err_msg=name)
    for folder in ("at-once", "late"):
        told = [line["step"] for line in read_lines(open_store(f"{tmp_path}/{folder}"), "metrics")]
        assert told == sorted({3, 7, *bad})


def test_divergence_is_told_late_too(tmp_path: Path):
    config = CONFIG.model_copy(update={"max_bad_steps": 3})
    with pytest.raises(Diverged, match="3 steps in a row, up to step 5"):
        state(tmp_path, config, bad=(1, 3, 4, 5, 6, 7), late=True)


def test_a_long_gradient_is_cut_to_the_dial(tmp_path: Path):
    optim = Optim(lr=1.0, lr_batch=None, momentum=0, weight_decay=0, clip_norm=0.25)
    config = CONFIG.model_copy(update={"optim": optim, "steps": 1})
    before, after = Regression().module.state_dict(), state(tmp_path, config)
    moved = [np.ravel(after[n] - before[n].numpy()) for n in ("query.weight", "query.bias")]
    assert np.linalg.norm(np.concatenate(moved)) == pytest.approx(0.25, rel=1e-5)
    assert read_lines(open_store(str(tmp_path)), "metrics")[0]["grad_norm"] > 0.25


class Waits(TorchDispatchMode):
    """Counts what makes a host wait for its device: a number read from a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


class Noting:
    """A feed that notes how often the host has waited when each batch is asked for."""

    def __init__(self, feed: Any, waits: Waits) -> None:
        self._feed, self._waits = feed, waits
        self.noted: list[int] = []

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        for batch in self._feed.batches(start, stop):
            self.noted.append(self._waits.count)
            yield batch


class Ground:
    """A feed of made-up ground."""

    def __init__(self, learner: DI3CL) -> None:
        self._learner = learner

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        for step in range(start, stop):
            drawn = [self._learner.draw(ground_tile(n, 48), generator(0, step, n)) for n in range(SMALL.batch)]
            yield Batch(step, {name: np.stack([d[name] for d in drawn]) for name in drawn[0]}, 0.001)


SMALL = DI3CLRun(
    steps=6,
    batch=2,
    log_every=3,
    encoder=EncoderConfig(depth=18),
    views=ViewConfig(size_px=32, min_box_px=8, boxes=4),
    heads=HeadConfig(hidden=16, dim=8),
    contrast=ContrastConfig(queue=8),
)


@pytest.mark.parametrize("kind", ["di3cl", "sgd", "adamw", "lars"])
def test_the_host_waits_for_the_device_only_to_log(tmp_path: Path, kind: str):
    waits = Waits()
    if kind == "di3cl":
        di3cl = DI3CL(SMALL, DbScale(), World())
        learner, config, feed = di3cl, SMALL, Noting(Ground(di3cl), waits)
    else:
        config = CONFIG.model_copy(update={"steps": 6, "log_every": 3, "optim": Optim(kind=kind)})
        learner, feed = Regression(), Noting(Samples(World(), config), waits)
    with waits:
        train(learner, feed, config, World(), open_store(str(tmp_path)), {"a": 1}, late=True)
    assert np.diff(feed.noted)[[0, 1, 3, 4]].tolist() == [0] * 4
    assert np.diff(feed.noted)[2] > 0


def test_operations_of_a_step_are_counted():
    meter, layer = Meter(4, peak_tflops=1.0), nn.Linear(5, 7)
    with meter.counting():
        layer(torch.ones(4, 5)).sum().backward()
    assert meter.flops == 2 * (4 * 5 * 7) * 2  # forward, and the gradient of the weights; none of the input
    meter.add(0.0)
    rates = meter.read()
    assert rates["tflops"] == pytest.approx(560 / rates["step_s"] / 1e12)
    assert rates["mfu"] == rates["tflops"]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch's own compiler
@pytest.mark.parametrize(
    "dial",
    [
        pytest.param({"compile": True}, marks=pytest.mark.soak),
        pytest.param({"memory_format": "contiguous"}, marks=pytest.mark.slow),
    ],
)
def test_a_faster_form_of_the_network_learns_the_same(tmp_path: Path, dial: dict[str, Any]):
    # At 32 px batch norm of the last map sees few values, and a rounding grows to a third of the loss in three steps.
    views, optim = ViewConfig(size_px=96, min_box_px=16, boxes=4), Optim(lr=1e-4, lr_batch=None)
    steady, curves = {"steps": 2, "log_every": 1, "optim": optim, "views": views}, []
    for update in ({}, dial):
        config, folder = SMALL.model_copy(update=steady | update), tmp_path / str(len(curves))
        learner = DI3CL(config, DbScale(), World())
        names = list(learner.module.state_dict())
        train(learner, Ground(learner), config, World(), open_store(str(folder)), {"a": 1})
        assert list(learner.module.state_dict()) == names
        curves.append([line["loss"] for line in read_lines(open_store(str(folder)), "metrics")])
    assert curves[1] == pytest.approx(curves[0], rel=1e-3)


@pytest.mark.parametrize("bands", [1, 2])
def test_gradients_lie_as_the_weights_so_that_ranks_sum_them_in_place(bands: int):
    encoder = ResNet(50, bands)
    channels_last(encoder)
    sum(values.mean() for values in encoder(torch.randn(2, bands, 64, 64))).backward()
    assert {name for name, p in encoder.named_parameters() if p.grad.stride() != p.stride()} == set()
