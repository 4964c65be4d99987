"""Batch norm over ranks and over groups equals plain batch norm where both are defined."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks import run_ranks
from torch import Tensor, nn

from infra.world import World
from pretrain.encoder import ResNet
from pretrain.norms import RunningStatistics, SplitBatchNorm, SyncBatchNorm, convert


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 5), nn.BatchNorm1d(5)
    ).double()


def images() -> Tensor:
    return torch.randn(12, 2, 6, 6, generator=torch.Generator().manual_seed(1)).double() + 3


def learnt(net: nn.Module, x: Tensor, kept: slice = slice(None)) -> dict[str, np.ndarray]:
    """Two steps' outputs, gradients and buffers for the loss mean over samples of |y|^3."""
    x = x.clone().requires_grad_()
    for _ in range(2):
        net.zero_grad()
        x.grad = None
        y = net(x)
        y.abs().pow(3).sum(1).mean().backward()
    out = {"y": y.detach(), "dx": x.grad, **{n: p.grad for n, p in net.named_parameters()}, **dict(net.named_buffers())}
    return {name: value.numpy().copy() for name, value in out.items()}


def _synced(world: World, kind: str) -> dict[str, np.ndarray]:
    net = network()
    if kind == "sync":
        convert(net, "sync", world)
        assert [type(net[n]) for n in (1, 5)] == [SyncBatchNorm] * 2
    found = learnt(net, images()[world.share(12)])
    statistics = RunningStatistics(net, world)
    statistics.begin()
    statistics.finish()
    return {**found, **{name: value.numpy().copy() for name, value in net.named_buffers()}}


def joined(ranks: list[dict[str, np.ndarray]], name: str) -> Any:
    values = [rank[name] for rank in ranks]
    if name == "y":
        return np.concatenate(values)
    if name == "dx":  # the loss of a rank is a mean over its part of the samples
        return np.concatenate(values) / len(ranks)
    return np.mean(values, axis=0)


@pytest.mark.parametrize("size", [2, 3])
def test_synced_ranks_equal_one_rank_with_the_whole_batch(tmp_path: Path, size: int):
    ranks, whole = run_ranks(_synced, "sync", size, tmp_path), learnt(network(), images())
    for name, wanted in whole.items():
        np.testing.assert_allclose(joined(ranks, name), wanted, rtol=1e-9, atol=1e-11, err_msg=name)
        if "running" in name:
            assert all(np.array_equal(rank[name], ranks[0][name]) for rank in ranks)


def _far(world: World, folder: None) -> float:
    norm = nn.Sequential(nn.BatchNorm1d(1, momentum=1.0))
    convert(norm, "sync", world)
    values = 3000 + torch.linspace(-1, 1, 100).view(100, 1)
    norm(values[world.share(100)])
    return float(norm[0].running_var)


def test_a_variance_far_from_zero_keeps_its_digits(tmp_path: Path):
    exact = float(np.linspace(-1, 1, 100).var(ddof=1))
    assert run_ranks(_far, None, 2, tmp_path) == pytest.approx([exact] * 2, rel=1e-3)  # float32 squares: off by 1


def test_groups_equal_ranks_of_their_own(tmp_path: Path):
    ranks, net = run_ranks(_synced, "local", 3, tmp_path), network()
    convert(net, "split", World(), groups=3)
    assert isinstance(net[1], SplitBatchNorm)
    for name, found in learnt(net, images()).items():
        np.testing.assert_allclose(found, joined(ranks, name), rtol=1e-9, atol=1e-11, err_msg=name)
        if "running" in name:  # the mean over ranks, on every rank
            assert all(np.array_equal(rank[name], ranks[0][name]) for rank in ranks)


def test_conversion_keeps_parameters_names_and_what_they_do_when_not_training():
    encoder = ResNet(18)
    before, parameters = encoder.state_dict(), dict(encoder.named_parameters())
    x = torch.randn(2, 1, 64, 64)
    wanted = encoder.eval()(x)[-1]
    convert(encoder, "split", World(), groups=2)
    assert all(p is parameters[name] for name, p in encoder.named_parameters())
    assert list(encoder.state_dict()) == list(before)
    assert torch.equal(encoder(x)[-1], wanted)
    assert sum(isinstance(m, SplitBatchNorm) for m in encoder.modules()) == 20
    convert(encoder, "split", World(), groups=4)  # a second time changes nothing
    assert all(m.groups == 2 for m in encoder.modules() if isinstance(m, SplitBatchNorm))


def test_one_rank_needs_no_sync():
    net = network()
    convert(net, "sync", World())
    assert type(net[1]) is nn.BatchNorm2d


def test_groups_that_are_not_equal_are_refused():
    net = network()
    convert(net, "split", World(), groups=5)
    with pytest.raises(ValueError, match="12 samples do not make 5 equal groups"):
        net(images())
