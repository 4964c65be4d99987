"""Checkpoints: whole or not used, of this run or refused, and exact."""

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from infra.errors import UsageError
from infra.store import Store, open_store
from pretrain.checkpoint import latest, restore, save
from pretrain.run_folder import checkpoint_keys, checkpoint_name

RUN, OTHER = "a" * 64, "b" * 64


def trained(kind: str = "sgd", steps: int = 2, seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    module[0].bias.requires_grad_(False)  # a frozen parameter is saved, but has no optimiser state
    moved = [p for p in module.parameters() if p.requires_grad]
    optimiser: torch.optim.Optimizer = (
        torch.optim.SGD(moved, lr=0.1, momentum=0.9) if kind == "sgd" else torch.optim.AdamW(moved, lr=0.1)
    )
    for _ in range(steps):
        step(module, optimiser)
    return module, optimiser


def step(module: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    optimiser.zero_grad()
    module(torch.arange(12.0).view(4, 3)).square().sum().backward()
    optimiser.step()


def put(store: Store, at: int, *, run: str = RUN, keep: int = 3, steps: int = 2) -> str:
    module, optimiser = trained(steps=steps)
    return save(store, module, optimiser, step=at, run_digest=run, keep=keep)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_training_goes_on_exactly_from_a_checkpoint(tmp_path: Path, kind: str):
    module, optimiser = trained(kind)
    save(open_store(str(tmp_path)), module, optimiser, step=2, run_digest=RUN, keep=1)
    again, its_optimiser = trained(kind, steps=0, seed=5)
    found = latest(open_store(str(tmp_path)), RUN)
    assert found is not None
    assert found.step == 2
    restore(found, again, its_optimiser)
    for _ in range(3):
        step(module, optimiser)
        step(again, its_optimiser)
    for one, other in zip(module.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_an_empty_store_has_none(tmp_path: Path):
    assert latest(open_store(str(tmp_path)), RUN) is None


def test_the_newest_few_are_kept(tmp_path: Path):
    store = open_store(str(tmp_path))
    for at in (10, 9, 100, 20):
        put(store, at, keep=2)
    assert [checkpoint_name(k)[0] for k in checkpoint_keys(store)] == [100, 20]


def test_equal_states_have_equal_bytes(tmp_path: Path):
    store = open_store(str(tmp_path))
    key = put(store, 5)
    data = store.get(key)
    assert put(store, 5) == key
    assert store.get(key) == data


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
):
    store = open_store(str(tmp_path))
    put(store, 10)
    key = put(store, 20, steps=3)
    data = store.get(key)
    flipped = data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]
    store.put(key, {"cut": data[: len(data) // 2], "flipped": flipped, "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        found = latest(store, RUN)
    assert found is not None
    assert found.step == 10
    assert key in caplog.text
    assert "damaged" in caplog.text


def test_a_checkpoint_of_another_run_is_refused_with_both_names(tmp_path: Path):
    put(open_store(str(tmp_path)), 10, run=OTHER)
    with pytest.raises(UsageError, match=r"run bbbbbbbbbbbb, this is run aaaaaaaaaaaa.*--out"):
        latest(open_store(str(tmp_path)), RUN)


def test_files_of_other_kinds_in_the_folder_are_left_alone(tmp_path: Path):
    store = open_store(str(tmp_path))
    store.put("checkpoints/notes.txt", b"mine")
    put(store, 1, keep=1)
    put(store, 2, keep=1)
    assert store.get("checkpoints/notes.txt") == b"mine"
    assert len(checkpoint_keys(store)) == 1
