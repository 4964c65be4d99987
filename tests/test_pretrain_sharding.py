"""Parameters in parts on two ranks: the steps of whole ones, and checkpoints that either way of running can read."""

from pathlib import Path

import numpy as np
import pytest
from ranks import run_ranks
from test_pretrain_step import CONFIG, SMALL, Ground, Regression, Samples
from torch.distributed.tensor import DTensor

from infra.errors import UsageError
from infra.log import read_lines
from infra.store import open_store
from infra.world import World
from pretrain.checkpoint import latest
from pretrain.config import LoopConfig, Optim, run_digest, validate
from pretrain.di3cl import DI3CL
from pretrain.loop import train
from pretrain.pair_run import ViewConfig
from shards.tile import DbScale

DIVIDED = CONFIG.model_copy(update={"sharding": "fsdp"})


def _trained(world: World, told: tuple[str, LoopConfig, int]) -> list[bool]:
    folder, config, steps = told
    learner = Regression()
    config = config.model_copy(update={"steps": steps})
    # The schedule knows the number of steps: a constant rate, so that a run may be ended and gone on with.
    train(learner, Samples(world, config), config, world, open_store(folder), {"a": 1})
    return [isinstance(p, DTensor) for p in learner.module.parameters()]


def state(folder: Path, step: int) -> dict[str, np.ndarray]:
    found = latest(open_store(str(folder)), run_digest({"a": 1}))
    assert found is not None
    assert found.step == step
    return {name: value.numpy() for name, value in found.tensors.items()}


SLOW = pytest.mark.slow


@pytest.mark.parametrize("kind", ["sgd", pytest.param("adamw", marks=SLOW), pytest.param("lars", marks=SLOW)])
def test_divided_ranks_learn_as_whole_ones_and_change_into_them(tmp_path: Path, kind: str):
    optim = Optim(kind=kind, lr=0.05, lr_batch=None, schedule="multistep", milestones=(), clip_norm=5.0)
    whole, divided = (config.model_copy(update={"optim": optim}) for config in (CONFIG, DIVIDED))
    _trained(World(), (f"{tmp_path}/whole", whole, 8))
    wanted = state(tmp_path / "whole", 8)
    assert run_ranks(_trained, (f"{tmp_path}/divided", divided, 4), 2, tmp_path) == [[True] * 4] * 2
    run_ranks(_trained, (f"{tmp_path}/divided", divided, 6), 2, tmp_path)  # from its own checkpoint
    assert _trained(World(), (f"{tmp_path}/divided", whole, 8)) == [False] * 4  # the rest on one rank
    found = state(tmp_path / "divided", 8)
    assert found.keys() == wanted.keys()
    for name in ("module.query.weight", "module.query.bias", "module.key.weight", "module.key.bias"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5, atol=1e-7, err_msg=name)


def test_one_rank_is_not_divided(tmp_path: Path):
    with pytest.raises(UsageError, match="fsdp needs several ranks"):
        _trained(World(), (str(tmp_path), DIVIDED, 8))
    with pytest.raises(UsageError, match="sharding fsdp takes contiguous weights only"):
        validate(LoopConfig, {"sharding": "fsdp", "memory_format": "channels_last"}, "dials")


def _di3cl(world: World, told: tuple[str, str]) -> list[float]:
    folder, sharding = told
    # At 32 px the last map is one cell, batch norm sees two values, and 1e-6 of a weight is a third of the loss later.
    views, optim = ViewConfig(size_px=96, min_box_px=16, boxes=4), Optim(lr=1e-4, lr_batch=None)
    update = {"steps": 3, "log_every": 1, "batch": 4, "optim": optim, "views": views, "sharding": sharding}
    update |= {"memory_format": "contiguous"}  # as with fsdp: another layout rounds otherwise
    config = SMALL.model_copy(update=update)
    learner = DI3CL(config, DbScale(), world)
    train(learner, Ground(learner), config, world, open_store(folder), {"a": 1})
    return [line["loss"] for line in read_lines(open_store(folder), "metrics")]


@pytest.mark.slow
def test_di3cl_learns_the_same_with_its_parameters_divided(tmp_path: Path):
    whole, divided = (run_ranks(_di3cl, (f"{tmp_path}/{kind}", kind), 2, tmp_path)[0] for kind in ("none", "fsdp"))
    assert len(divided) == 3
    assert divided == pytest.approx(whole, rel=1e-3)
