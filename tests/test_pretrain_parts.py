"""Heads, twin, queues, losses and shuffling against plain computations."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from torch import Tensor, nn

from infra.world import World
from pretrain.parts import (
    Queue,
    Shuffle,
    agreement,
    contrast,
    follow,
    freeze,
    matches,
    projector,
    redundancy,
    spread,
    unit,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def units(*shape: int, seed: int = 0) -> Tensor:
    return unit(torch.randn(*shape, generator=generator(seed)))


def plain_info_nce(query: Tensor, key: Tensor, others: Tensor, t: float) -> float:
    total = 0.0
    for q, k in zip(query.tolist(), key.tolist(), strict=True):
        hit = math.exp(sum(a * b for a, b in zip(q, k, strict=True)) / t)
        miss = sum(math.exp(sum(a * b for a, b in zip(q, o, strict=True)) / t) for o in others.tolist())
        total += -math.log(hit / (hit + miss))
    return total / len(query)


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_contrast_equals_the_plain_formula(temperature: float):
    query, key, others = units(5, 16), units(5, 16, seed=1), units(40, 16, seed=2)
    loss, _ = contrast(query, key, others, temperature)
    assert loss.item() == pytest.approx(plain_info_nce(query, key, others, temperature), rel=1e-5)


def test_weighted_contrast_is_the_weighted_mean_of_each_loss():
    query, key, others = units(5, 16), units(5, 16, seed=1), units(40, 16, seed=2)
    weights = torch.tensor([0.0, 1.0, 2.0, 0.5, 4.0])
    each = [plain_info_nce(query[n : n + 1], key[n : n + 1], others, 0.2) for n in range(5)]
    expected = sum(w * v for w, v in zip(weights.tolist(), each, strict=True)) / 7.5
    assert contrast(query, key, others, 0.2, weights)[0].item() == pytest.approx(expected, rel=1e-5)


def test_contrast_has_the_gradient_of_cross_entropy():
    key, others = units(5, 16, seed=1), units(40, 16, seed=2)
    query = units(5, 16).requires_grad_()
    contrast(query, key, others, 0.2)[0].backward()
    found, query.grad = query.grad, None
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ others.t()], 1) / 0.2
    torch.nn.functional.cross_entropy(logits, torch.zeros(5, dtype=torch.int64)).backward()
    assert query.grad is not None
    torch.testing.assert_close(found, query.grad, atol=1e-6, rtol=1e-5)


def test_contrast_of_zero_logits_is_the_logarithm_of_the_number_of_choices():
    loss, hit = contrast(torch.zeros(4, 8), torch.zeros(4, 8), torch.zeros(1023, 8), 0.2)
    assert loss.item() == pytest.approx(math.log(1024), rel=1e-6)
    assert hit.item() == 0.0


def test_a_key_nearer_than_all_others_is_a_hit():
    query = units(6, 16)
    others = units(50, 16, seed=3)
    assert contrast(query, query, others, 0.2)[1].item() == 1.0
    assert contrast(query, -query, others, 0.2)[1].item() == 0.0


def test_matches_count_the_queries_nearest_to_their_own_key():
    key = units(6, 16)
    assert matches(key, key).item() == 1.0
    assert matches(key.roll(1, 0), key).item() == 0.0
    assert matches(torch.cat([key[:3], key[:3]]), key).item() == pytest.approx(0.5)
    assert matches(key[:1].expand(6, -1), key[:1].expand(6, -1)).item() == 0.0  # a collapse matches nothing


def test_a_first_batch_without_old_keys_costs_nothing():
    loss, hit = contrast(units(4, 8), units(4, 8, seed=1), torch.zeros(0, 8), 0.2)
    assert (loss.item(), hit.item()) == (0.0, 1.0)


def test_agreement_is_zero_for_one_direction_and_four_for_the_opposite():
    x = torch.randn(7, 9)
    assert agreement(x, 3 * x).item() == pytest.approx(0, abs=1e-6)
    assert agreement(x, -x).item() == pytest.approx(4, abs=1e-6)
    a, b = torch.randn(7, 9), torch.randn(7, 9)
    plain = [2 - 2 * float(torch.dot(p, q) / (p.norm() * q.norm())) for p, q in zip(a, b, strict=True)]
    assert agreement(a, b).item() == pytest.approx(sum(plain) / 7, rel=1e-5)


def test_spread_tells_an_even_sphere_from_a_collapse():
    assert spread(units(4000, 32)).item() == pytest.approx(1, abs=0.02)
    assert spread(units(1, 32).expand(10, -1)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("directions", "expected"), [(1, 1.0), (4, 0.2), (16, 0.0)])
def test_redundancy_falls_as_features_fill_more_directions(directions: int, expected: float):
    basis, _ = torch.linalg.qr(torch.randn(16, 16, generator=generator(1)).double())
    filled = torch.randn(20_000, directions, generator=generator(2)).double() @ basis[:directions]
    plain = torch.corrcoef(filled.t()).square()
    plain = (plain.sum() - 16) / (16 * 15)
    found = redundancy(3 * filled + 5).item()
    assert found == pytest.approx(plain.item(), abs=2e-3)
    assert found == pytest.approx(expected, abs=0.06)


def test_redundancy_of_constant_channels_is_finite_with_a_finite_gradient():
    x = torch.ones(6, 4, requires_grad=True)
    redundancy(x).backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_heads_have_the_published_sizes():
    def count(head: nn.Module) -> int:
        return sum(p.numel() for p in head.parameters())

    assert count(projector(2048, 2048, 128)) == 4_458_624
    assert count(projector(1024, 2048, 128)) == 2_361_472
    assert count(projector(2048, 2048, 128, norm=True)) == 4_462_720
    assert count(projector(128, 2048, 128, norm=True)) == 530_560
    kinds = [type(m).__name__ for m in projector(8, 8, 8, norm=True)]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Linear"]


def test_twin_follows_exactly_and_keeps_its_own_buffers():
    query, twin = projector(8, 16, 4, norm=True), projector(8, 16, 4, norm=True)
    freeze(twin, query)
    assert not any(p.requires_grad for p in twin.parameters())
    before = [p.clone() for p in twin.parameters()]
    follow(twin, query, 0.999)
    assert all(torch.equal(a, b) for a, b in zip(before, twin.parameters(), strict=True))
    with torch.no_grad():
        for p in query.parameters():
            p.add_(torch.randn(p.shape, generator=generator(2)))
    query(torch.randn(10, 8))  # moves the query's running statistics
    for _ in range(3):
        expected = [
            0.9 * k.double() + 0.1 * q.double() for k, q in zip(twin.parameters(), query.parameters(), strict=True)
        ]
        follow(twin, query, 0.9)
        for found, wanted in zip(twin.parameters(), expected, strict=True):
            torch.testing.assert_close(found.double(), wanted, atol=1e-7, rtol=1e-6)
    assert twin[1].running_mean.abs().max() == 0


@pytest.mark.parametrize("length", [8, 7])
def test_queue_wraps_around(length: int):
    queue = Queue(("a", "b"), length, 4, generator())
    assert queue.get_buffer("a").norm(dim=1).allclose(torch.ones(length))
    expected = {name: queue.get_buffer(name).clone() for name in ("a", "b")}
    place = 0
    for step in range(5):
        keys = {"a": units(3, 4, seed=step), "b": units(3, 4, seed=100 + step)}
        queue.push(keys)
        for n in range(3):
            for name, value in keys.items():
                expected[name][(place + n) % length] = value[n]
        place = (place + 3) % length
        assert queue.pointer.item() == place
    assert all(torch.equal(queue.get_buffer(n), v) for n, v in expected.items())


def test_shuffle_in_one_process_moves_nothing():
    value = torch.randn(6, 3)
    order = Shuffle(World(), 6, seed=1, step=2)
    assert order.shuffled({"a": value})["a"] is value
    assert order.restored(value) is value


def test_shuffle_within_a_process_moves_samples_between_groups_and_back():
    value = torch.arange(8.0)
    order = Shuffle(World(), 8, seed=1, step=2, groups=4)
    moved = order.shuffled({"a": value})["a"]
    assert sorted(moved.tolist()) == value.tolist() != moved.tolist()
    assert torch.equal(order.restored(moved), value)


def _shuffled(world: World, steps: int) -> list[dict[str, Any]]:
    seen = []
    for step in range(steps):
        mine = torch.arange(4) + 4 * world.rank
        codes = mine.view(-1, 1, 1).repeat(1, 2, 3).to(torch.uint16)
        order = Shuffle(world, 4 * world.size, seed=9, step=step)
        moved = order.shuffled({"codes": codes, "place": mine.float()})
        assert torch.equal(moved["codes"][:, 0, 0].float(), moved["place"])
        back = order.restored(moved["place"] * 10)
        seen.append({"moved": moved["place"].tolist(), "back": back.tolist()})
    return seen


def test_shuffle_over_ranks_is_a_permutation_that_comes_back(tmp_path: Path):
    ranks = run_ranks(_shuffled, 4, 2, tmp_path)
    orders = []
    for step in range(4):
        assert sorted(ranks[0][step]["moved"] + ranks[1][step]["moved"]) == list(range(8))
        assert [r[step]["back"] for r in ranks] == [[0, 10, 20, 30], [40, 50, 60, 70]]
        orders.append(tuple(ranks[0][step]["moved"]))
    assert len(set(orders)) == 4  # another order at every step
    assert any(place > 3 for place in orders[0])


def _world_sums(world: World, _: None) -> dict[str, Any]:
    flags = torch.tensor([[True, False]]) if world.rank else torch.tensor([[False, False]])
    return {
        "mean": world.mean({"b": float(world.rank), "a": 4.0}),
        "any": (world.any(world.rank == 1), world.any(False)),
        "lead": world.from_lead(f"rank {world.rank}"),
        "bool": world.all_gather(flags).tolist(),
        "scalar": world.all_gather(torch.tensor(world.rank + 1)).tolist(),
        "share": (world.share(6).start, world.share(6).stop),
    }


def test_world_joins_what_ranks_have(tmp_path: Path):
    first, second = run_ranks(_world_sums, None, 2, tmp_path)
    assert first["mean"] == second["mean"] == {"a": 4.0, "b": 0.5}
    assert first["any"] == second["any"] == (True, False)
    assert first["lead"] == second["lead"] == "rank 0"
    assert first["bool"] == [[False, False], [True, False]]
    assert second["scalar"] == [1, 2]
    assert (first["share"], second["share"]) == ((0, 3), (3, 6))
    with pytest.raises(ValueError, match="do not divide"):
        World(0, 2).share(5)
