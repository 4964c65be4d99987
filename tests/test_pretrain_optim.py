"""Optimisers against their textbook form in NumPy, schedules, and steps that a flag on the device leaves out."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from pretrain.config import LoopConfig, Optim
from pretrain.optim import learning_rate, make_optimiser

CPU = torch.device("cpu")
SHAPES = ((4, 3), (4,), (2, 4))


def parameters() -> list[nn.Parameter]:
    rng = np.random.default_rng(0)
    return [nn.Parameter(torch.from_numpy(rng.normal(size=shape))) for shape in SHAPES]


def gradients(step: int) -> list[np.ndarray]:
    rng = np.random.default_rng((1, step))
    return [rng.normal(size=shape) for shape in SHAPES]


def stepped(config: Optim, steps: int = 5, bad: tuple[int, ...] = (), *, late: bool = False) -> list[np.ndarray]:
    """What the optimiser makes of five known gradients; those of ``bad`` steps are infinite."""
    moved = parameters()
    optimiser = make_optimiser(moved, config, CPU, late=late)
    for step in range(steps):
        for parameter, gradient in zip(moved, gradients(step), strict=True):
            parameter.grad = torch.from_numpy(gradient) * (math.inf if step in bad else 1.0)
        if late:
            optimiser.found_inf = torch.tensor(float(step in bad))
        elif step in bad:
            continue
        optimiser.step()
    return [p.detach().numpy() for p in moved]


def reference(config: Optim, one: Callable[..., np.ndarray]) -> list[np.ndarray]:
    found = []
    for n, weight in enumerate(p.detach().numpy().copy() for p in parameters()):
        decay = config.weight_decay if config.weight_decay_on == "all" or weight.ndim > 1 else 0.0
        adapt = config.weight_decay_on == "all" or weight.ndim > 1
        memory = np.zeros_like(weight), np.zeros_like(weight)
        for step in range(5):
            weight = one(config, weight, gradients(step)[n], memory, decay, adapt, step + 1)
        found.append(weight)
    return found


def sgd(c, w, g, memory, decay, adapt, t):
    memory[0][...] = c.momentum * memory[0] + g + decay * w
    return w - c.lr * memory[0]


def lars(c, w, g, memory, decay, adapt, t):
    d = g + decay * w
    ratio = c.trust * np.sqrt((w**2).sum()) / np.sqrt((d**2).sum()) if adapt else 1.0
    memory[0][...] = c.momentum * memory[0] + ratio * d
    return w - c.lr * memory[0]


def adamw(c, w, g, memory, decay, adapt, t):
    a, b = c.betas
    w = w * (1 - c.lr * decay)
    memory[0][...] = a * memory[0] + (1 - a) * g
    memory[1][...] = b * memory[1] + (1 - b) * g * g
    return w - c.lr * (memory[0] / (1 - a**t)) / (np.sqrt(memory[1] / (1 - b**t)) + 1e-8)


@pytest.mark.parametrize("decay_on", ["all", "weights"])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("one", [sgd, lars, adamw])
def test_steps_are_those_of_the_textbook(one: Callable[..., np.ndarray], late: bool, decay_on: str):
    config = Optim(kind=one.__name__, lr=0.1, weight_decay=0.3, trust=0.02, betas=(0.8, 0.95), weight_decay_on=decay_on)
    for found, wanted in zip(stepped(config, late=late), reference(config, one), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize("bad", [(0,), (0, 1), (2, 4)])
@pytest.mark.parametrize("kind", ["sgd", "adamw", "lars"])
def test_a_flag_on_the_device_leaves_a_step_out(kind: str, bad: tuple[int, ...]):
    config = Optim(kind=kind, lr=0.1, trust=0.02)
    for found, wanted in zip(stepped(config, bad=bad, late=True), stepped(config, bad=bad), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-13)


def test_a_layer_of_zeros_moves_by_its_gradient_under_lars():
    weight = nn.Parameter(torch.zeros(3))
    weight.grad = torch.tensor([1.0, 2.0, 3.0])
    make_optimiser([weight], Optim(kind="lars", lr=0.5, momentum=0, weight_decay=0), CPU).step()
    assert weight.tolist() == [-0.5, -1.0, -1.5]


def test_the_published_schedule_falls_once_an_epoch():
    published = LoopConfig(steps=400 * 7, batch=256, optim=Optim(schedule="epoch", steps_per_epoch=7))
    for epoch in (0, 1, 200, 399):
        for step in (epoch * 7, epoch * 7 + 6):
            wanted = 0.03 * 0.5 * (1 + math.cos(math.pi * epoch / 400))
            assert learning_rate(step, published) == pytest.approx(wanted, rel=1e-12)
    with pytest.raises(ValidationError, match="steps_per_epoch"):
        Optim(schedule="epoch")


def test_an_epoch_that_began_in_the_warm_up_stays_at_the_peak():
    config = LoopConfig(steps=100, batch=256, optim=Optim(schedule="epoch", steps_per_epoch=10, warmup_steps=13))
    assert [learning_rate(step, config) for step in (12, 13, 19)] == pytest.approx([0.03] * 3)
    assert learning_rate(20, config) == pytest.approx(0.015 * (1 + math.cos(math.pi * 7 / 87)))


def test_milestones_divide_by_ten():
    config = LoopConfig(steps=200, batch=256, optim=Optim(schedule="multistep"))
    rates = [learning_rate(step, config) for step in (0, 119, 120, 159, 160, 199)]
    assert rates == pytest.approx([0.03, 0.03, 0.003, 0.003, 0.0003, 0.0003])
