"""Losses of the baselines against loops written from the papers' formulas, and their known limits."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from baselines import batch_of, learner_of, quiet, small
from numpy.typing import NDArray
from torch import Tensor, nn

from infra.world import World
from pretrain.barlow import barlow_loss, cross_correlation
from pretrain.encoder import to_input
from pretrain.heads import ramped
from pretrain.methods import RUNS
from pretrain.parts import unit
from pretrain.pixpro import consistency, near, propagate
from pretrain.resim import matched, told_apart, windows
from pretrain.simclr import nt_xent
from pretrain.simsiam import negative_cosine
from shards.tile import DbScale

ONE = World()
Array = NDArray[np.float64]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(a: Array, b: Array) -> float:
    return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


def plain(x: Tensor) -> Array:
    return x.detach().double().numpy()


def inputs(config: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    one, two = (to_input(batch[name], DbScale(), config.input) for name in ("view1", "view2"))
    return one, two


# SimCLR


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_equals_the_plain_formula(temperature: float):
    one, two = draw(5, 8), draw(5, 8, seed=1)
    z = [v for pair in zip(plain(one), plain(two), strict=True) for v in pair]
    terms = []
    for i in range(10):
        partner = i + 1 if i % 2 == 0 else i - 1
        below = sum(math.exp(cosine(z[i], z[k]) / temperature) for k in range(10) if k != i)
        terms.append(-math.log(math.exp(cosine(z[i], z[partner]) / temperature) / below))
    loss, _ = nt_xent(unit(one), unit(two), temperature, ONE)
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-5)


@pytest.mark.parametrize("samples", [2, 16])
def test_nt_xent_of_equal_embeddings_is_the_logarithm_of_the_others(samples: int):
    same = unit(torch.ones(samples, 4))
    loss, hit = nt_xent(same, same, 0.1, ONE)
    assert loss.item() == pytest.approx(math.log(2 * samples - 1), rel=1e-6)
    assert hit.item() == 0.0


def test_nt_xent_hits_where_the_partner_is_nearest():
    one = torch.eye(6)
    assert nt_xent(one, one, 0.1, ONE)[1].item() == 1.0
    assert nt_xent(one, one.roll(1, 0), 0.1, ONE)[1].item() == 0.0


# MoCo v2


def test_moco_equals_the_plain_formula():
    config = quiet("moco")
    learner = learner_of("moco", config)
    batch = batch_of(learner)
    found = learner.losses(batch, 0)
    one, two = inputs(config, batch)
    net = learner.module
    q, k, queue = plain(net.query(one)), plain(net.key(two)), plain(net.queue.get_buffer("instance"))
    terms = []
    for n in range(8):
        own = math.exp(cosine(q[n], k[n]) / 0.2)
        terms.append(-math.log(own / (own + sum(math.exp(cosine(q[n], old) / 0.2) for old in queue))))
    assert found["loss"].item() == pytest.approx(np.mean(terms), rel=1e-4)


def test_moco_without_knowledge_loses_the_logarithm_of_the_choices():
    learner = learner_of("moco")
    learner.module.queue.get_buffer("instance").zero_()
    assert learner.instance_losses(torch.zeros(8, 16), torch.zeros(8, 16), 0)["loss"].item() == pytest.approx(
        math.log(17), rel=1e-6
    )


# BYOL, SimSiam


class Opposite(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return -x


@pytest.mark.parametrize(("predictor", "expected"), [(nn.Identity(), 0.0), (Opposite(), 8.0)])
def test_byol_of_equal_views_is_0_or_4_for_each_direction(predictor: nn.Module, expected: float):
    learner = learner_of("byol", quiet("byol"))
    batch = batch_of(learner)
    batch |= {"view2": batch["view1"], "numbers2": batch["numbers1"]}
    learner.module.predictor = predictor
    assert learner.losses(batch, 0)["loss"].item() == pytest.approx(expected, abs=1e-5)


def test_byol_equals_the_plain_formula():
    config = quiet("byol")
    learner = learner_of("byol", config)
    batch = batch_of(learner)
    found = learner.losses(batch, 0)["loss"].item()
    net, (one, two) = learner.module, inputs(config, batch)
    p1, p2 = plain(net.predictor(net.query(one))), plain(net.predictor(net.query(two)))
    z1, z2 = plain(net.key(one)), plain(net.key(two))
    terms = [4 - 2 * cosine(p1[n], z2[n]) - 2 * cosine(p2[n], z1[n]) for n in range(8)]
    assert found == pytest.approx(np.mean(terms), rel=1e-4)


def test_simsiam_equals_the_plain_formula_and_has_its_limits():
    config = quiet("simsiam")
    learner = learner_of("simsiam", config)
    batch = batch_of(learner)
    found = learner.losses(batch, 0)["loss"].item()
    net, (one, two) = learner.module, inputs(config, batch)
    z1, z2 = net.query(one), net.query(two)
    p1, p2 = plain(net.predictor(z1)), plain(net.predictor(z2))
    terms = [-(cosine(p1[n], plain(z2)[n]) + cosine(p2[n], plain(z1)[n])) / 2 for n in range(8)]
    assert found == pytest.approx(np.mean(terms), abs=1e-5)
    x = draw(4, 6)
    assert negative_cosine(x, 2 * x).item() == pytest.approx(-1, abs=1e-6)
    assert negative_cosine(x, -x).item() == pytest.approx(1, abs=1e-6)


def test_no_gradient_reaches_simsiams_target():
    predicted, target = draw(4, 6).requires_grad_(), draw(4, 6, seed=1).requires_grad_()
    negative_cosine(predicted, target).backward()
    assert target.grad is None
    assert predicted.grad is not None
    assert predicted.grad.abs().sum() > 0


def test_a_twins_momentum_rises_to_one():
    assert ramped(0.996, 0, 100) == pytest.approx(0.996)
    assert ramped(0.996, 50, 100) == pytest.approx(0.998)
    assert ramped(0.99, 25, 100) == pytest.approx(1 - 0.01 * (math.cos(math.pi / 4) + 1) / 2)
    assert ramped(0.996, 100, 100) == 1.0


# Barlow Twins


def test_barlow_equals_numpys_correlation():
    one, two = draw(12, 5), draw(12, 5, seed=1) + draw(12, 5)
    correlation = np.corrcoef(plain(one), plain(two), rowvar=False)[:5, 5:]
    found = cross_correlation(one, two, ONE)
    np.testing.assert_allclose(found.numpy(), correlation, atol=2e-5)
    alike, apart = barlow_loss(found, 0.005)
    assert alike.item() == pytest.approx(sum((1 - correlation[i, i]) ** 2 for i in range(5)), rel=1e-3)
    others = sum(correlation[i, j] ** 2 for i in range(5) for j in range(5) if i != j)
    assert apart.item() == pytest.approx(0.005 * others, rel=1e-3)


def test_barlow_is_zero_for_an_identity_and_known_for_others():
    walsh = torch.tensor([[1.0]])
    for _ in range(3):
        walsh = torch.cat([torch.cat([walsh, walsh], 1), torch.cat([walsh, -walsh], 1)])
    even = walsh[:, 1:]  # 7 columns of mean 0, deviation 1, none like another
    for alike, apart in (barlow_loss(cross_correlation(even, even, ONE), 1.0),):
        assert alike.item() == pytest.approx(0, abs=1e-8)
        assert apart.item() == pytest.approx(0, abs=1e-8)
    assert barlow_loss(cross_correlation(even, -even, ONE), 1.0)[0].item() == pytest.approx(28, rel=1e-4)
    same = even[:, :1].expand(-1, 7)  # redundant: every number of an embedding is the same
    assert barlow_loss(cross_correlation(same, same, ONE), 1.0)[1].item() == pytest.approx(42, rel=1e-4)
    assert all(math.isfinite(v.item()) for v in barlow_loss(cross_correlation(same * 0, same * 0, ONE), 1.0))


# PixPro


def test_propagation_equals_the_plain_formula():
    x, g = draw(2, 6, 4), draw(2, 6, 4, seed=1)
    found = propagate(x, g, 2.0)
    for n in range(2):
        for i in range(6):
            expected = np.zeros(4)
            for j in range(6):
                value = plain(g)[n, j]
                likeness = max(cosine(plain(x)[n, i], plain(x)[n, j]), 0) ** 2
                expected += likeness * value / np.linalg.norm(value)
            np.testing.assert_allclose(found[n, i].numpy(), expected, atol=1e-5)


def test_near_pixels_equal_a_loop():
    one = torch.tensor([[0, 0, 60, 40, 0], [5, 20, 64, 64, 1]])
    two = torch.tensor([[10, 10, 40, 60, 1], [0, 0, 96, 32, 0]])
    found = near(one, two, (4, 4), 0.7)
    assert found.any()

    def centre(crop: list[int], pixel: int) -> tuple[float, float]:
        top, left, height, width, flipped = crop
        across = (pixel % 4 + 0.5) / 4
        return left + width * (1 - across if flipped else across), top + height * (pixel // 4 + 0.5) / 4

    for n, (a, b) in enumerate(zip(one.tolist(), two.tolist(), strict=True)):
        longest = max(math.hypot(c[2] / 4, c[3] / 4) for c in (a, b))
        for i in range(16):
            for j in range(16):
                (x1, y1), (x2, y2) = centre(a, i), centre(b, j)
                assert bool(found[n, i, j]) == (math.hypot(x1 - x2, y1 - y2) / longest < 0.7)


def test_equal_crops_have_each_pixel_near_itself_alone():
    crop = torch.tensor([[4, 8, 48, 48, 0]])
    assert torch.equal(near(crop, crop, (3, 3), 0.7)[0], torch.eye(9, dtype=torch.bool))
    mirrored = torch.tensor([[4, 8, 48, 48, 1]])
    flip = torch.eye(9).view(9, 3, 3).flip(2).view(9, 9).bool()
    assert torch.equal(near(crop, mirrored, (3, 3), 0.7)[0], flip)


def test_pixel_consistency_equals_a_loop_and_has_its_limits():
    y, x = draw(2, 4, 3), draw(2, 4, 3, seed=1)
    positive = torch.zeros(2, 4, 4, dtype=torch.bool)
    positive[0, 0, 1] = positive[0, 2, 2] = positive[0, 3, 1] = True  # the second image has none
    mean = np.mean([cosine(plain(y)[0, i], plain(x)[0, j]) for i, j in ((0, 1), (2, 2), (3, 1))])
    assert consistency(y, x, positive).item() == pytest.approx(-(mean + 0) / 2, rel=1e-5)
    itself = torch.eye(4, dtype=torch.bool).expand(2, -1, -1)
    assert consistency(y, y, itself).item() == pytest.approx(-1, abs=1e-6)
    assert consistency(y, -y, itself).item() == pytest.approx(1, abs=1e-6)


def test_pixpro_joins_both_directions():
    config = quiet("pixpro")
    learner = learner_of("pixpro", config)
    batch = batch_of(learner)
    found = learner.losses(batch, 0)["loss"].item()
    net, (one, two) = learner.module, inputs(config, batch)
    seen, target = [net.query(v) for v in (one, two)], [net.key(v) for v in (one, two)]
    positive = near(batch["crop1"], batch["crop2"], (2, 2), 0.7)
    expected = 0.0
    for n in range(8):
        pairs = [(i, j) for i in range(4) for j in range(4) if positive[n, i, j]]
        y = [plain(propagate(s, net.transform(s), 2.0))[n] for s in seen]
        z = [plain(t)[n] for t in target]
        both = [cosine(y[0][i], z[1][j]) + cosine(y[1][j], z[0][i]) for i, j in pairs]
        expected -= float(np.mean(both)) / 8 if pairs else 0.0
    assert found == pytest.approx(expected, abs=1e-5)


# ReSim


def test_windows_have_the_published_number():
    w = RUNS["resim"]().windows  # type: ignore[attr-defined]
    grids = [windows(224, w.side_px[i], w.stride_px[i], torch.device("cpu")) for i in (0, 1)]
    assert [len(g) for g in grids] == [36, 64]
    assert grids[0][7].tolist() == [32, 32, 80, 80]
    assert grids[1][-1].tolist() == [168, 168, 200, 200]
    assert w.others == 12 * 12 * 256


def test_windows_are_matched_as_a_loop_does_it():
    one, two = torch.tensor([[0, 0, 64, 96, 0]]), torch.tensor([[16, 0, 64, 64, 1]])
    boxes = windows(96, 32, 16, torch.device("cpu"))
    there, used = matched(boxes, one, two, 96)
    for r, (left, top, right, bottom) in enumerate(boxes.tolist()):
        x0, x1 = left, right  # tile pixels: the crop is 96 wide and not flipped
        y0, y1 = top * 64 / 96, bottom * 64 / 96
        u = [(64 - x) * 96 / 64 for x in (x1, x0)]  # flipped: right becomes left
        v = [(y - 16) * 96 / 64 for y in (y0, y1)]
        assert there[0, r].tolist() == pytest.approx([u[0], v[0], u[1], v[1]], abs=1e-4)
        assert bool(used[0, r]) == (x1 <= 64 and y0 >= 16 and y1 <= 80)
    assert 0 < used.sum() < len(boxes)


def test_windows_of_equal_crops_stay_where_they_are():
    crop, boxes = torch.tensor([[4, 8, 48, 40, 0]]), windows(64, 24, 16, torch.device("cpu"))
    there, used = matched(boxes, crop, crop, 64)
    torch.testing.assert_close(there[0], boxes, atol=1e-4, rtol=0)
    assert used.float().mean() > 0.5  # rounding may push the outermost over the rim


def test_told_apart_equals_the_plain_formula():
    query, key, others = unit(draw(5, 8)), unit(draw(5, 8, seed=1)), unit(draw(20, 8, seed=2))
    found = told_apart(query, key, others, 0.2)
    for n in range(5):
        own = math.exp(float(query[n] @ key[n]) / 0.2)
        rest = sum(math.exp(float(query[n] @ o) / 0.2) for o in others)
        assert found[n].item() == pytest.approx(-math.log(own / (own + rest)), rel=1e-5)


def test_resim_equals_a_plain_computation():
    config = quiet("resim", views={"size_px": 64, "min_box_px": 16, "boxes": 2, "area": (0.9, 1.0)})
    learner = learner_of("resim", config)
    net, batch = learner.module, batch_of(learner)
    found = learner.losses(batch, 0)
    one, two = inputs(config, batch)
    maps, keys = net.query(one)[1], net.key(two)[1]
    for level, (side, stride, cell, name) in enumerate(((32, 32, 16, "loss_stage3"), (24, 24, 8, "loss_stage2"))):
        boxes = windows(64, side, stride, one.device)
        there, used = matched(boxes, batch["crop1"], batch["crop2"], 64)
        cells = 64 // cell
        averages = [
            plain(keys[level])[n, :, r : r + 3, c : c + 3].mean((1, 2))
            for n in range(8) for r in range(cells - 2) for c in range(cells - 2)
        ]  # fmt: skip
        if len(averages) > 24:  # three of each map's places
            places = torch.randperm((cells - 2) ** 2, generator=torch.Generator().manual_seed(0))[:3].tolist()
            averages = [averages[n * (cells - 2) ** 2 + p] for n in range(8) for p in places]
        terms = []
        for n, r in used.nonzero().tolist():
            q, k = (
                pooled(plain(m)[n], b.tolist(), cell) for m, b in ((maps[level], boxes[r]), (keys[level], there[n, r]))
            )
            own = math.exp(cosine(q, k) / 0.2)
            terms.append(-math.log(own / (own + sum(math.exp(cosine(q, a) / 0.2) for a in averages))))
        assert len(terms) > 3
        assert found[name].item() == pytest.approx(np.mean(terms), rel=1e-4)
    parts = [found[name] for name in ("loss_instance", "loss_stage3", "loss_stage2")]
    assert found["loss"].item() == pytest.approx(sum(p.item() for p in parts), rel=1e-6)


def pooled(one_map: Array, box: list[float], cell: int) -> Array:
    """Average bilinear samples of a map (C, H, W), ceil(span) of them along each side of a box."""
    left, top, right, bottom = (v / cell - 0.5 for v in box)
    across, down = math.ceil(right - left), math.ceil(bottom - top)
    size, values = one_map.shape[1], []
    for i in range(down):
        for j in range(across):
            y = min(max(top + (i + 0.5) * (bottom - top) / down, 0), size - 1)
            x = min(max(left + (j + 0.5) * (right - left) / across, 0), size - 1)
            a, b = min(int(y), size - 2), min(int(x), size - 2)
            u, v = y - a, x - b
            top_row = one_map[:, a, b] * (1 - v) + one_map[:, a, b + 1] * v
            low_row = one_map[:, a + 1, b] * (1 - v) + one_map[:, a + 1, b + 1] * v
            values.append(top_row * (1 - u) + low_row * u)
    return np.asarray(np.mean(values, 0))


# SSCCL


def test_ssccl_joins_contrast_and_consistency():
    config = quiet("ssccl", consistency={"cells": 2, "weight": 3.0})
    learner = learner_of("ssccl", config)
    net, batch = learner.module, batch_of(learner)
    found = learner.losses(batch, 0)
    one, two = inputs(config, batch)
    a, b = batch["crop1"].float(), batch["crop2"].float()
    sides: list[Array] = []
    for branch, view, crop in ((net.query, one, a), (net.key, two, b)):
        maps, rows = plain(branch.encoder(view)[-1]), []
        for n in range(8):
            top, bottom = max(a[n, 0], b[n, 0]), min(a[n, 0] + a[n, 2], b[n, 0] + b[n, 2])
            left, right = max(a[n, 1], b[n, 1]), min(a[n, 1] + a[n, 3], b[n, 1] + b[n, 3])
            for r in range(2):
                for c in range(2):
                    y = [(top + (bottom - top) * (r + k) / 2 - crop[n, 0]) / crop[n, 2] * 64 for k in (0, 1)]
                    x = [(left + (right - left) * (c + k) / 2 - crop[n, 1]) / crop[n, 3] * 64 for k in (0, 1)]
                    x = [64 - x[1], 64 - x[0]] if crop[n, 4] else x
                    rows.append(pooled(maps[n], [float(v) for v in (x[0], y[0], x[1], y[1])], 32))
        projected = branch.part(torch.tensor(np.array(rows), dtype=torch.float32))
        sides.append(plain(net.predictor(projected) if branch is net.query else projected))
    ground = np.mean([2 - 2 * cosine(p, t) for p, t in zip(*sides, strict=True)])
    assert found["loss_ground"].item() == pytest.approx(ground, rel=1e-3)
    assert found["loss"].item() == pytest.approx(found["loss_instance"].item() + 3 * ground, rel=1e-3)


def test_ssccl_of_equal_views_and_an_identity_predictor_is_consistent():
    learner = learner_of("ssccl", quiet("ssccl"))
    learner.module.predictor = nn.Identity()
    batch = batch_of(learner)
    for name in ("view", "numbers", "crop"):
        batch[f"{name}2"] = batch[f"{name}1"]
    assert learner.losses(batch, 0)["loss_ground"].item() == pytest.approx(0, abs=1e-5)


# Heads


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("moco", 2048 * 2048 + 2048 + 2048 * 128 + 128),
        ("simclr", 2048 * 2048 + 2 * 2048 + 2048 * 128 + 2 * 128),
        ("byol", 2048 * 4096 + 4096 + 2 * 4096 + 4096 * 256),
        ("simsiam", 3 * 2048 * 2048 + 2 * 2 * 2048),
        ("barlow", 2048 * 8192 + 2 * 8192 * 8192 + 2 * 2 * 8192),
        ("pixpro", 2048 * 4096 + 4096 + 2 * 4096 + 4096 * 256 + 256),
    ],
)
def test_heads_have_the_published_sizes(method: str, parameters: int):
    config = RUNS[method]()
    if "contrast" in type(config).model_fields and method == "moco":
        config = RUNS[method].model_validate({"contrast": {"queue": 256}})
    with torch.device("meta"):
        network = learner_of(method, config).module
    assert sum(p.numel() for p in network.query.head.parameters()) == parameters


def test_losses_ignore_where_torchs_generator_stands():
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(learner_of("pixpro").module.state_dict())
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])
    other = learner_of("pixpro", small("pixpro", seed=3)).module.state_dict()
    assert not torch.equal(other["query.encoder.conv1.weight"], states[0]["query.encoder.conv1.weight"])
