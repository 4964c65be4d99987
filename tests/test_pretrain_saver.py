"""Saving beside the training, keeping by rule, reading what other versions wrote, ranks that no longer agree."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import make_checkpoint
import pytest
import torch
from ranks import run_ranks
from torch import nn

from infra.errors import UsageError
from infra.folder import FolderStore
from infra.store import StoreError, open_store
from infra.world import World
from pretrain import checkpoint
from pretrain.config import Keeping
from pretrain.guard import Diverged, check_ranks
from pretrain.run_folder import checkpoint_key, checkpoint_keys, checkpoint_name
from pretrain.saver import Saver

RUN = "a" * 64


def trained(value: float) -> tuple[nn.Module, torch.optim.Optimizer]:
    module = nn.Linear(2, 2)
    with torch.no_grad():
        module.weight.fill_(value)
    return module, torch.optim.SGD(module.parameters(), lr=0.1)


@dataclass(frozen=True, slots=True)
class Slow(FolderStore):
    """A folder whose writes wait until they are let go, or fail."""

    full: bool = False
    go: threading.Event = field(default_factory=threading.Event)

    def put(self, key: str, data: bytes) -> None:
        assert self.go.wait(20)
        if self.full:
            raise StoreError("no space left")
        FolderStore.put(self, key, data)


def test_training_goes_on_while_a_checkpoint_of_that_moment_is_written(tmp_path: Path):
    store = Slow(tmp_path)
    with Saver(store, World(), RUN, Keeping()) as saver:
        module, optimiser = trained(1.0)
        saver.save(module, optimiser, 5)
        with torch.no_grad():
            module.weight.fill_(2.0)  # the next step, while the store is still waiting
        saver.check()
        assert checkpoint_keys(store) == []
        store.go.set()
    found = checkpoint.latest(store, RUN)
    assert found is not None
    assert found.step == 5
    assert found.tensors["module.weight"].tolist() == [[1, 1], [1, 1]]


def test_one_checkpoint_is_on_its_way_at_most(tmp_path: Path):
    store = Slow(tmp_path)
    threading.Timer(0.3, store.go.set).start()
    with Saver(store, World(), RUN, Keeping()) as saver:
        began = time.monotonic()
        saver.save(*trained(1.0), 5)
        assert time.monotonic() - began < 0.2
        saver.save(*trained(2.0), 10)
        assert time.monotonic() - began > 0.25
        assert [checkpoint_name(key)[0] for key in checkpoint_keys(store)][-1] == 5
    assert [checkpoint_name(key)[0] for key in checkpoint_keys(store)] == [10, 5]


def test_what_goes_wrong_on_the_way_is_raised_by_the_next_step_and_at_the_end(tmp_path: Path):
    store = Slow(tmp_path, full=True)
    store.go.set()
    with pytest.raises(StoreError, match="no space left"), Saver(store, World(), RUN, Keeping()) as saver:
        saver.save(*trained(1.0), 5)
    with Saver(store, World(), RUN, Keeping()) as saver:
        saver.save(*trained(1.0), 5)
        for _ in range(200):
            time.sleep(0.01)
            try:
                saver.check()
            except StoreError:
                break
        else:
            pytest.fail("the step was not told")
    with Saver(store, World(), RUN, Keeping(background=False)) as saver, pytest.raises(StoreError):
        saver.save(*trained(1.0), 5)


def test_some_are_kept_for_ever(tmp_path: Path):
    store = open_store(str(tmp_path))
    for step in range(10, 101, 10):
        checkpoint.save(store, *trained(step), step=step, run_digest=RUN, keep=2, keep_every=30)
    assert [checkpoint_name(key)[0] for key in checkpoint_keys(store)] == [100, 90, 60, 30]


def test_ranks_but_the_lead_write_nothing(tmp_path: Path):
    with Saver(open_store(str(tmp_path)), World(1, 2), RUN, Keeping()) as saver:
        saver.save(*trained(1.0), 5)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_the_first_format_is_read_and_written_the_same(tmp_path: Path):
    data = make_checkpoint.PLACE.read_bytes()
    store = open_store(str(tmp_path))
    key = checkpoint_key(make_checkpoint.STEP, hashlib.sha256(data).hexdigest())
    store.put(key, data)
    found = checkpoint.latest(store, make_checkpoint.RUN)
    assert found is not None
    module, optimiser = make_checkpoint.fresh()
    checkpoint.restore(found, module, optimiser)
    wanted, its_optimiser = make_checkpoint.state()
    for name, value in wanted.state_dict().items():
        assert torch.equal(module.state_dict()[name], value), name
    for one, other in zip(module.parameters(), wanted.parameters(), strict=True):
        momentum = [o.state[p]["momentum_buffer"] for o, p in ((optimiser, one), (its_optimiser, other))]
        assert torch.equal(*momentum)
    assert make_checkpoint.encoded() == data


def test_a_checkpoint_of_a_newer_version_is_not_passed_over(tmp_path: Path):
    store = open_store(str(tmp_path))
    data = make_checkpoint.PLACE.read_bytes().replace(b"sarsense-checkpoint-1", b"sarsense-checkpoint-2")
    store.put(checkpoint_key(9, hashlib.sha256(data).hexdigest()), data)
    with pytest.raises(UsageError, match=r"'sarsense-checkpoint-2', this version reads 'sarsense-checkpoint-1'"):
        checkpoint.latest(store, make_checkpoint.RUN)


def _disturbed(world: World, where: tuple[int, str] | None) -> str:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3))
    module.register_buffer("queue", torch.arange(5).half())
    if where is not None and world.rank == where[0]:
        value = module.state_dict()[where[1]].view(-1)[1]
        value.copy_(torch.nextafter(value.float(), torch.tensor(9.0)) if value.dtype == torch.float32 else value + 1)
    try:
        check_ranks(module, world, 500)
    except Diverged as error:
        return str(error)
    return "equal"


@pytest.mark.parametrize(
    ("size", "where", "said"),
    [
        (2, None, "equal"),
        (
            2,
            (1, "1.running_var"),
            "rank 1 holds other numbers than rank 0 after step 500, first in 1.running_var (",
        ),
        (3, (0, "0.weight"), "rank 0 holds other numbers than the others after step 500, first in 0.weight (1 of"),
        (3, (1, "queue"), "rank 1 holds other numbers than the others after step 500, first in queue (1 of"),
    ],
)
def test_a_rank_that_differs_in_one_bit_is_named(tmp_path: Path, size: int, where: tuple[int, str] | None, said: str):
    told = run_ranks(_disturbed, where, size, tmp_path)
    assert all(line.startswith(said) for line in told), told


SAVES = """
import sys, torch
from torch import nn
from infra.store import open_store
from infra.world import World
from pretrain.config import Keeping
from pretrain.saver import Saver
module = nn.Linear(700, 700)
optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
with Saver(open_store(sys.argv[1]), World(), "a" * 64, Keeping(keep=2)) as saver:
    print("ready", flush=True)
    for step in range(int(sys.argv[2]), 10**6):
        with torch.no_grad():
            module.weight.fill_(step)
        saver.save(module, optimiser, step)
"""


@pytest.mark.soak
def test_fifty_kills_during_a_save_leave_a_whole_checkpoint(tmp_path: Path):
    rng, newest = random.Random(0), 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(50):
        command = [sys.executable, "-c", SAVES, str(tmp_path), str(newest + 1)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=Path(__file__).parents[1])
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0.02, 0.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = checkpoint.latest(open_store(str(tmp_path)), RUN)
        assert found is not None
        assert found.step >= newest
        assert (found.tensors["module.weight"] == found.step).all()
        newest = found.step
    assert newest > 50
