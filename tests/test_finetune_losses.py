"""Losses against their definitions, written out pixel by pixel, and their gradients against differences."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from finetune.config import LossConfig
from finetune.losses import cross_entropy, dice, focal, regression_loss, scaled_alpha, segmentation_losses
from finetune.tasks import complement

WEIGHTS = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)


def case(seed: int = 0, share: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64) * 2
    label = torch.randint(0, 3, (2, 4, 5), generator=generator)
    label[torch.rand(label.shape, generator=generator) < share] = 255
    return logits, label


def pixels(logits: torch.Tensor, label: torch.Tensor) -> list[tuple[list[float], int]]:
    """Probabilities and label of each labelled pixel, by plain arithmetic."""
    out = []
    for scores, k in zip(logits.movedim(1, -1).reshape(-1, 3).tolist(), label.flatten().tolist(), strict=True):
        if k != 255:
            exps = [math.exp(s) for s in scores]
            out.append(([e / sum(exps) for e in exps], k))
    return out


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_is_its_definition(gamma):
    logits, label = case()
    each = [WEIGHTS[k].item() * (1 - p[k]) ** gamma * -math.log(p[k]) for p, k in pixels(logits, label)]
    assert focal(logits, label, WEIGHTS, gamma).item() == pytest.approx(sum(each) / len(each), rel=1e-10)


def test_focal_without_focus_is_cross_entropy():
    logits, label = case(1)
    ones = torch.ones(3, dtype=torch.float64)
    expected = functional.cross_entropy(logits, label, ignore_index=255)
    assert focal(logits, label, ones, 0.0).item() == pytest.approx(expected.item(), rel=1e-12)
    assert cross_entropy(logits, label, ones).item() == pytest.approx(expected.item(), rel=1e-12)


def test_focal_of_certain_pixels_is_finite_with_finite_gradients():
    logits = torch.tensor([[200.0, -200.0, 0.0], [-200.0, 200.0, 0.0]], requires_grad=True)
    loss = focal(logits, torch.tensor([0, 0]), torch.ones(3), 0.5)
    loss.backward()
    assert loss.item() == pytest.approx(200.0)
    assert logits.grad.isfinite().all()


def test_dice_is_its_definition():
    logits, label = case(2)
    scores = {}
    for c in range(3):
        hit = sum(p[c] for p, k in pixels(logits, label) if k == c)
        total = sum(p[c] for p, _ in pixels(logits, label)) + sum(k == c for _, k in pixels(logits, label))
        scores[c] = 2 * hit / total
    w = WEIGHTS.tolist()
    expected = sum(w[c] * (1 - scores[c]) for c in range(3)) / sum(w)
    assert dice(logits, label, WEIGHTS).item() == pytest.approx(expected, rel=1e-10)


def test_dice_goes_from_none_to_all():
    label = torch.tensor([[0, 0, 1, 1, 255]])
    right = functional.one_hot(torch.tensor([[0, 0, 1, 1, 1]]), 3).double().transpose(1, 2) * 1000
    ones = torch.ones(3, dtype=torch.float64)
    assert dice(right, label, ones).item() == pytest.approx(0.0, abs=1e-12)
    assert dice(right.flip(1), label, ones).item() == pytest.approx(0.5), "class 1 is right, class 0 found nowhere"
    assert dice(right.roll(1, 1), label, ones).item() == pytest.approx(1.0)
    # An even guess: sum p g = n_c / 3, sum p = n / 3.
    even = torch.zeros(1, 3, 5, dtype=torch.float64)
    assert dice(even, label, ones).item() == pytest.approx(1 - 2 * (2 / 3) / (4 / 3 + 2))


def test_a_class_that_is_not_there_has_no_say_in_dice():
    logits, label = case(3)
    label[label == 2] = 255
    two = torch.tensor([1.0, 1.0, 1e6], dtype=torch.float64)
    assert dice(logits, label, two).item() == pytest.approx(dice(logits, label, torch.ones(3)).item(), rel=1e-9)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, y: focal(x, y, WEIGHTS, 2.0),
        lambda x, y: focal(x, y, WEIGHTS, 0.5),
        lambda x, y: dice(x, y, WEIGHTS),
        lambda x, y: cross_entropy(x, y, WEIGHTS),
    ],
    ids=["focal 2", "focal 0.5", "dice", "cross-entropy"],
)
def test_gradients_equal_differences(loss):
    logits, label = case(4)
    assert torch.autograd.gradcheck(lambda x: loss(x, label), logits.requires_grad_())


def test_nothing_labelled_is_no_loss_and_no_gradient():
    logits, label = case(5)
    logits.requires_grad_()
    config = LossConfig(focal=1, dice=1)
    losses = segmentation_losses(logits, torch.full_like(label, 255), WEIGHTS, config)
    losses["loss"].backward()
    assert losses["loss"].item() == 0
    assert bool((logits.grad == 0).all())


@pytest.mark.parametrize(
    ("alpha", "scale", "expected"),
    [
        ("multiply", 0.5, [0.1, 0.5, 1.5]),
        ("multiply", 1.0, [0.2, 1.0, 3.0]),
        ("power", 0.5, [0.2**0.5, 1.0, 3.0**0.5]),
        ("power", 0.0, [1.0, 1.0, 1.0]),
        ("blend", 0.5, [0.6, 1.0, 2.0]),
        ("blend", 0.0, [1.0, 1.0, 1.0]),
        ("blend", 1.0, [0.2, 1.0, 3.0]),
    ],
)
def test_the_three_readings_of_alpha(alpha, scale, expected):
    found = scaled_alpha(WEIGHTS, LossConfig(alpha=alpha, alpha_scale=scale))
    assert found.tolist() == pytest.approx(expected)


def test_readings_change_the_loss_as_they_should():
    logits, label = case(6)
    published = {"cross_entropy": 0.0, "focal": 0.5, "dice": 0.5, "gamma": 2.0, "alpha_scale": 0.5}
    plain = focal(logits, label, WEIGHTS, 2.0).item()
    found = {}
    for alpha in ("multiply", "power", "blend"):
        losses = segmentation_losses(logits, label, WEIGHTS, LossConfig(alpha=alpha, **published))
        found[alpha] = losses["focal"].item()
        assert losses["loss"].item() == pytest.approx(0.5 * found[alpha] + 0.5 * dice(logits, label, WEIGHTS).item())
        assert set(losses) == {"loss", "focal", "dice"}
    assert found["multiply"] == pytest.approx(0.5 * plain)
    unweighted = focal(logits, label, torch.ones(3, dtype=torch.float64), 2.0).item()
    assert found["blend"] == pytest.approx(0.5 * plain + 0.5 * unweighted)


def test_the_published_weights_are_those_of_their_shares():
    """The nine weights and shares of the ALOS-2 land cover benchmark (its code, and what follows from it)."""
    shares = np.array([9.22, 13.81, 14.52, 9.44, 45.98, 2.53, 0.34, 3.49, 0.67]) / 100
    weights = [
        0.11347487,
        0.10774269,
        0.10684644,
        0.11319541,
        0.06752731,
        0.12183155,
        0.12457897,
        0.12064208,
        0.1241607,
    ]
    assert complement(shares).tolist() == pytest.approx(weights, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("l1", (0.5 + 3) / 2), ("mse", (0.25 + 9) / 2), ("rmse", ((0.25 + 9) / 2) ** 0.5), ("huber", (0.125 + 2.5) / 2)],
)
def test_losses_of_numbers(kind, expected):
    error = torch.tensor([0.5, -3.0, 77.0], requires_grad=True)
    loss = regression_loss(error, torch.tensor([True, True, False]), kind)
    loss.backward()
    assert loss.item() == pytest.approx(expected)
    assert error.grad[2] == 0


def test_losses_that_would_teach_nothing_are_refused():
    with pytest.raises(ValueError, match="all 0"):
        LossConfig(cross_entropy=0)
    with pytest.raises(ValueError, match="expected 0 to 1"):
        LossConfig(alpha="blend", alpha_scale=1.5)
