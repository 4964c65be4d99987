"""A run is the same every time, here to the last bit, and the same however often it is ended and begun again."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import make_loss_curve
import pytest
import torch
from torch import Tensor

from infra.log import read_lines
from infra.store import open_store
from infra.world import World
from pretrain.checkpoint import latest
from pretrain.config import Keeping, Optim, run_digest
from pretrain.loop import train
from pretrain.run_folder import checkpoint_keys
from shards.feed import Batch

STEPS = 12
RUN = make_loss_curve.RUN.model_copy(update={"steps": STEPS})


class Killed(Exception):
    pass


class Ground(make_loss_curve.Ground):
    """Made-up ground until the process is killed; notes what it gave."""

    def __init__(self, until: int | None) -> None:
        super().__init__()
        self._until = until
        self.given: dict[int, Tensor] = {}

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        for batch in super().batches(start, stop):
            if batch.step == self._until:
                raise Killed
            self.given[batch.step] = torch.from_numpy(batch.arrays["view1"].astype("int32"))
            yield batch


def run(folder: Path, kind: str, every: int, until: int | None = None) -> dict[int, Tensor]:
    update = {"optim": Optim(kind=kind, lr=0.02, lr_batch=None, warmup_steps=3), "checkpoint": Keeping(every=every)}
    feed = Ground(until)
    try:
        train(make_loss_curve.Small(), feed, RUN.model_copy(update=update), World(), open_store(str(folder)), {"a": 1})
    except Killed:
        assert until is not None
    return feed.given


def outcome(folder: Path) -> tuple[dict[str, Tensor], list[float]]:
    """Weights, twin, queue, pointer and optimiser of the end, and the losses on the way."""
    store = open_store(str(folder))
    found = latest(store, run_digest({"a": 1}))
    assert found is not None
    assert found.step == STEPS
    return dict(found.tensors), [line["loss"] for line in read_lines(store, "metrics")]


@pytest.mark.parametrize("kind", ["sgd", "adamw", "lars"])
def test_steps_equal_some_steps_a_kill_and_the_rest(tmp_path: Path, kind: str):
    straight = run(tmp_path / "straight", kind, 4)
    wanted, losses = outcome(tmp_path / "straight")
    assert {"module.queue.pointer", "module.queue.instance", "module.key.0.weight"} <= wanted.keys()
    assert any(name.startswith("optim.query.0.weight:") for name in wanted)
    rng = random.Random(kind)
    for case in range(20 if kind == "sgd" else 5):
        folder, killed_at, every = tmp_path / str(case), rng.randrange(1, STEPS), rng.randrange(1, 5)
        given = run(folder, kind, every, until=killed_at)
        keys = checkpoint_keys(open_store(str(folder)))
        if keys and rng.random() < 0.4:  # the kill came before the newest checkpoint was whole
            open_store(str(folder)).delete(keys[0])
        given |= run(folder, kind, every)
        found, its_losses = outcome(folder)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted), (killed_at, every)
        assert its_losses == losses
        assert all(torch.equal(given[step], straight[step]) for step in range(STEPS))


def test_a_hundred_losses_are_those_on_record_and_the_same_twice(tmp_path: Path):
    once = make_loss_curve.curve(str(tmp_path / "once"))
    recorded = json.loads(make_loss_curve.PLACE.read_text())
    assert len(recorded) == 100
    # To the bit on one machine; processors with other instructions round otherwise in the last digit.
    assert once == make_loss_curve.curve(str(tmp_path / "twice"))
    assert once == pytest.approx(recorded, rel=1e-5)
