"""Two ranks give the losses and gradients of one, for every baseline."""

from pathlib import Path
from typing import Any

import pytest
import torch
from baselines import BASELINES, batch_of, learner_of, share_of, small
from ranks import run_ranks
from torch import Tensor

from infra.store import open_store
from infra.world import World
from pretrain.barlow import barlow_loss, cross_correlation
from pretrain.heads import gather, share_of_mean, total
from pretrain.loop import train
from pretrain.parts import unit
from pretrain.simclr import nt_xent
from shards.feed import Batch


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _sums(world: World, _: None) -> dict[str, Any]:
    """Weights that differ by rank show where each rank's gradient goes."""
    own = torch.full((2, 3), float(world.rank + 1), requires_grad=True)
    joined = gather(own, world)
    (joined * (10.0 ** torch.arange(4)).view(4, 1) * (world.rank + 1)).sum().backward()
    value = torch.tensor([float(world.rank + 1)], requires_grad=True)
    summed = total(value, world)
    (summed * (world.rank + 1)).sum().backward()
    assert own.grad is not None
    assert value.grad is not None
    used = torch.arange(4) < (3 if world.rank else 1)
    part = share_of_mean(torch.arange(4.0) + 10 * world.rank, used, world)
    return {
        "joined": joined[:, 0].tolist(), "gradient": own.grad[:, 0].tolist(),
        "total": (summed.item(), value.grad.item()), "part": part.item(),
    }  # fmt: skip


def test_sums_over_ranks_carry_their_gradients_home(tmp_path: Path):
    first, second = run_ranks(_sums, None, 2, tmp_path)
    assert first["joined"] == second["joined"] == [1, 1, 2, 2]
    assert (first["gradient"], second["gradient"]) == ([3, 30], [300, 3000])  # of both ranks' losses: 1 + 2
    assert first["total"] == second["total"] == (3, 3)
    # Of 0 on one rank and 10, 11, 12 on the other: the mean of four.
    assert (first["part"] + second["part"]) / 2 == pytest.approx(33 / 4)


def _losses_of_embeddings(world: World, _: None) -> dict[str, Tensor]:
    """Losses of a linear map of given vectors, and its gradient averaged over the ranks as DDP does it."""
    found: dict[str, Tensor] = {}
    share = world.share(8)
    for name in ("simclr", "barlow"):
        weight = draw(6, 5, seed=3).requires_grad_()
        one, two = (draw(8, 6, seed=seed)[share] @ weight for seed in (0, 1))
        if name == "simclr":
            loss = nt_xent(unit(one), unit(two), 0.1, world)[0]
        else:
            loss = torch.stack(barlow_loss(cross_correlation(one, two, world), 0.005)).sum()
        (gradient,) = torch.autograd.grad(loss, weight)
        found |= {name: world.all_gather(loss).mean(), f"{name}-gradient": world.all_gather(gradient[None]).mean(0)}
    return found


def test_contrast_and_correlation_of_two_ranks_are_those_of_one(tmp_path: Path):
    one = _losses_of_embeddings(World(), None)
    assert one["simclr-gradient"].abs().max() > 0.01
    for rank in run_ranks(_losses_of_embeddings, None, 2, tmp_path):
        for name in one:
            torch.testing.assert_close(rank[name], one[name], atol=1e-6, rtol=1e-5)


def _step(world: World, methods: tuple[str, ...]) -> dict[str, Tensor]:
    """Loss, gradient and queue of a step with batch norm as in evaluation, so that company does not matter."""
    found: dict[str, Tensor] = {}
    for method in methods:
        learner = learner_of(method, None, world)
        learner.module.eval()
        loss = learner.losses(share_of(batch_of(learner), world), 0)["loss"]
        loss.backward()
        gradients = {n: p.grad for n, p in learner.module.named_parameters() if p.grad is not None}
        for name in ("query.encoder.conv1.weight", "query.encoder.layer4.1.conv2.weight", "query.head.0.weight"):
            found[f"{method} {name}"] = world.all_gather(gradients[name][None]).mean(0)
        found[method] = world.all_gather(loss).mean()
        learner.after_step(0)
        if hasattr(learner.module, "queue"):
            found[f"{method} queue"] = learner.module.queue.get_buffer("instance")
    return found


def test_losses_gradients_and_queues_of_two_ranks_are_those_of_one(tmp_path: Path):
    one = _step(World(), BASELINES)
    for rank in run_ranks(_step, BASELINES, 2, tmp_path):
        assert rank.keys() == one.keys()
        for name in one:
            scale = float(one[name].abs().max())
            assert float((rank[name] - one[name]).abs().max()) < 1e-3 * scale, name


class Shares:
    """This rank's share of batches of made-up ground, as a feed."""

    def __init__(self, learner: Any, world: World) -> None:
        self._learner, self._world = learner, world

    def batches(self, start: int, stop: int) -> Any:
        for step in range(start, stop):
            batch = share_of(batch_of(self._learner, step), self._world)
            yield Batch(step, {name: value.numpy() for name, value in batch.items()}, 0.001)


def _train(world: World, folder: str) -> dict[str, float]:
    found = {}
    for method in ("simclr", "barlow", "byol"):
        optim = {"kind": "sgd", "lr": 1e-9}  # larger steps would enlarge what rounding leaves
        config = small(method, steps=2, batch_norm="sync", optim=optim, checkpoint={"every": 9}, check_ranks_every=1)
        learner = learner_of(method, config, world)
        store = open_store(f"{folder}/{method}")
        last = train(learner, Shares(learner, world), config, world, store, {"method": method}).last
        found |= {f"{method}-loss": last["loss"], f"{method}-norm": last["grad_norm"]}
    return found


@pytest.mark.slow
def test_two_ranks_with_synchronised_batch_norm_train_as_one_does(tmp_path: Path):
    one = _train(World(), f"{tmp_path}/one")
    for rank in run_ranks(_train, f"{tmp_path}/two", 2, tmp_path):
        assert rank == pytest.approx(one, rel=5e-3)
