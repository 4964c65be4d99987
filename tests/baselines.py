"""Runs of every baseline small enough for a second, and their batches."""

from typing import Any

import torch
from pretrain_corpus import ground_tile
from torch import Tensor

from infra.world import World
from pretrain.learner import Pretrainer
from pretrain.learners import LEARNERS
from pretrain.methods import RUNS
from pretrain.pair_run import PairRun
from shards.feed import generator
from shards.tile import DbScale

BASELINES = ("moco", "simclr", "byol", "simsiam", "barlow", "pixpro", "resim", "ssccl")
TWINNED = ("moco", "byol", "pixpro", "resim", "ssccl")
QUEUED = ("moco", "resim", "ssccl")

FRAME: dict[str, Any] = {
    "steps": 6,
    "batch": 8,
    "log_every": 1,
    "lanes": 2,
    "batch_norm": "local",
    "optim": {"kind": "sgd", "lr": 0.5, "weight_decay": 1e-4, "weight_decay_on": "all"},
    "checkpoint": {"every": 4, "keep": 2},
    "encoder": {"depth": 18},
    "views": {"size_px": 64, "min_box_px": 16, "boxes": 2},
    "heads": {"hidden": 32, "dim": 16},
}
OWN: dict[str, dict[str, Any]] = {
    "moco": {"contrast": {"queue": 16, "momentum": 0.9}},
    "byol": {"twin": {"momentum": 0.9}},
    "simsiam": {"heads": {"hidden": 32, "dim": 16, "predictor": 8}},
    "pixpro": {"twin": {"momentum": 0.9}},
    "resim": {"contrast": {"queue": 16, "momentum": 0.9}, "windows": {"dim": 16, "side_px": (32, 24), "others": 24}},
    "ssccl": {"contrast": {"queue": 16, "momentum": 0.9}, "consistency": {"cells": 2}},
}


def small(method: str, **change: Any) -> PairRun:
    """Give a small run of a method with some dials changed."""
    return RUNS[method].model_validate({**FRAME, **OWN.get(method, {}), **change})


def quiet(method: str, **change: Any) -> PairRun:
    """Give the same run without changes of grey values."""
    return small(method, augment={"jitter_share": 0.0, "blur_share": 0.0}, **change)


def learner_of(method: str, config: PairRun | None = None, world: World | None = None) -> Any:
    """Make a method's learner."""
    kind: type[Pretrainer] = LEARNERS[method]
    return kind(config or small(method), DbScale(), world or World())


def batch_of(learner: Any, step: int = 0, size: int = 8) -> dict[str, Tensor]:
    """Draw a batch of made-up ground."""
    drawn = [learner.draw(ground_tile(step * size + n, 80), generator(0, step, n)) for n in range(size)]
    return {name: torch.stack([torch.from_numpy(d[name]) for d in drawn]) for name in drawn[0]}


def share_of(batch: dict[str, Tensor], world: World) -> dict[str, Tensor]:
    """Give a rank's share of a batch."""
    return {name: value[world.share(len(value))] for name, value in batch.items()}
