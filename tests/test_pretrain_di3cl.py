"""The learner: its losses against a plain computation, and the same step on one and on two ranks.

Where the acceptance tests of the method stand:
(a) box pairs on the same ground under all flips: test_pretrain_views,
    test_boxes_of_both_views_lie_on_the_same_ground_under_every_flip
(b) boxes inside, large enough, apart: test_pretrain_views,
    test_boxes_stay_inside_the_views_and_are_large_enough_in_both and the test after it
(c) pooling a ramp gives centres: test_pretrain_regions, test_pooling_a_ramp_gives_the_centres_of_the_boxes
(d) no region loss for equal views: here, test_equal_views_and_an_identity_predictor_have_no_region_loss;
    ln(1 + K): test_pretrain_parts, test_contrast_of_zero_logits_is_the_logarithm_of_the_number_of_choices
(e) queue: test_pretrain_parts, test_queue_wraps_around
(f) twin: test_pretrain_parts, test_twin_follows_exactly_and_keeps_its_own_buffers
(g) kill and resume: test_pretrain_loop, test_killed_and_resumed_equals_undisturbed (also on two ranks)
(h) sampler against the plain loop: test_pretrain_views,
    test_box_kernel_draws_from_the_same_distribution_as_the_plain_loop
(i) one and two ranks: here, test_one_and_two_ranks_agree_with_shuffling_off
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrain_corpus import ground_tile
from ranks import run_ranks
from torch import Tensor
from torch.nn import functional

from infra.errors import UsageError
from infra.world import World
from pretrain.config import EncoderConfig
from pretrain.di3cl import DI3CL
from pretrain.di3cl_run import ContrastConfig, DI3CLRun, HeadConfig
from pretrain.encoder import to_input
from pretrain.pair_run import ViewConfig
from pretrain.regions import region_pool
from shards.feed import generator
from shards.tile import DbScale

CONFIG = DI3CLRun(
    steps=8,
    batch=8,
    encoder=EncoderConfig(depth=18),
    views=ViewConfig(size_px=64, min_box_px=16, boxes=4),
    heads=HeadConfig(hidden=32, dim=16),
    contrast=ContrastConfig(queue=32, momentum=0.9),
)


def make(config: DI3CLRun = CONFIG, world: World | None = None) -> DI3CL:
    return DI3CL(config, DbScale(), world or World())


def batch(learner: DI3CL, step: int = 0, size: int = 8, bands: int = 1) -> dict[str, Tensor]:
    drawn = [learner.draw(ground_tile(n, 80, bands), generator(0, step, n)) for n in range(size)]
    return {name: torch.stack([torch.from_numpy(d[name]) for d in drawn]) for name in drawn[0]}


def quiet(config: DI3CLRun = CONFIG) -> DI3CLRun:
    """The same run without changes of grey values."""
    return config.model_copy(
        update={"augment": config.augment.model_copy(update={"jitter_share": 0.0, "blur_share": 0.0})}
    )


def test_losses_equal_a_plain_computation():
    learner = make(quiet())
    net, b = learner.module, batch(make())
    found = learner.losses(b, 0)

    def side(branch: Any, view: str, boxes: str) -> tuple[Tensor, Tensor, Tensor]:
        maps = branch.encoder(to_input(b[view], DbScale(), CONFIG.input))
        regions = torch.cat([region_pool(m[None], k[None], 32)[0] for m, k in zip(maps[3], b[boxes], strict=True)])
        return branch.instance(maps[3].mean((2, 3))), branch.contour(maps[2].mean((2, 3))), branch.region(regions)

    g, c, r = side(net.query, "view1", "boxes1")
    with torch.no_grad():
        g2, c2, r2 = side(net.key, "view2", "boxes2")

    def info_nce(q: Tensor, k: Tensor, queue: Tensor) -> Tensor:
        q, k = functional.normalize(q), functional.normalize(k)
        positive = (q * k).sum(1) / 0.2
        every = torch.stack([positive, *((q @ o) / 0.2 for o in queue)], 1)
        return (every.logsumexp(1) - positive).mean()

    instance = info_nce(g, g2, net.queue.get_buffer("instance"))
    contour = info_nce(c, c2, net.queue.get_buffer("contour"))
    region = (2 - 2 * functional.cosine_similarity(net.predictor(r), r2)).mean()
    torch.testing.assert_close(found["loss_instance"], instance)
    torch.testing.assert_close(found["loss_contour"], contour)
    torch.testing.assert_close(found["loss_region"], region)
    torch.testing.assert_close(found["loss"], 0.8 * instance + 0.2 * contour + 5.0 * region)


def test_queues_take_this_steps_keys_and_the_twin_follows():
    learner = make()
    query, key = learner.module.query, learner.module.key
    learner.losses(batch(learner), 0)
    assert learner.module.queue.pointer.item() == 0  # keys of a step are no negatives of the same step
    with torch.no_grad():
        next(iter(query.parameters())).add_(1.0)
    before = next(iter(key.parameters())).clone()
    learner.after_step(0)
    assert learner.module.queue.pointer.item() == 8
    torch.testing.assert_close(next(iter(key.parameters())), before + 0.1)
    learner.losses(batch(learner, 1), 1)
    learner.after_step(1)
    assert learner.module.queue.pointer.item() == 16


def test_an_empty_queue_shows_only_keys_of_steps_before():
    contrast = CONFIG.contrast.model_copy(update={"queue_start": "empty"})
    learner = make(CONFIG.model_copy(update={"contrast": contrast}))
    assert learner.losses(batch(learner), 0)["loss_instance"].item() == 0
    learner.after_step(0)
    assert [len(learner._old_keys("contour", step)) for step in (1, 2, 4, 5, 99)] == [8, 16, 32, 32, 32]
    assert 0 < learner.losses(batch(learner, 1), 1)["loss_instance"].item() < math.log(9) + 5


def test_the_twin_starts_equal_and_gets_no_gradient():
    learner = make()
    losses = learner.losses(batch(learner), 0)
    losses["loss"].backward()
    assert all(p.grad is None for p in learner.module.key.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learner.parameters())
    query, key = learner.module.query.state_dict(), make().module.key.state_dict()
    assert all(torch.equal(query[n], key[n]) for n in query if "running" not in n and "tracked" not in n)


def test_equal_views_and_an_identity_predictor_have_no_region_loss():
    learner = make(quiet())
    learner.module.predictor = torch.nn.Sequential()
    b = batch(learner)
    for name in ("view", "boxes", "numbers"):
        b[f"{name}2"] = b[f"{name}1"]
    assert learner.losses(b, 0)["loss_region"].item() == pytest.approx(0, abs=1e-5)


def test_weights_and_queues_come_from_the_seed_alone():
    torch.manual_seed(1)
    one = make().module.state_dict()
    torch.manual_seed(2)
    two = make().module.state_dict()
    other = make(CONFIG.model_copy(update={"seed": 1})).module.state_dict()
    assert all(torch.equal(one[n], two[n]) for n in one)
    assert not torch.equal(one["query.encoder.conv1.weight"], other["query.encoder.conv1.weight"])
    assert not torch.equal(one["queue.instance"], other["queue.instance"])


def test_published_sizes_of_query_key_and_queues():
    with torch.device("meta"):
        net = make(DI3CLRun(encoder=EncoderConfig(bands=3), contrast=ContrastConfig(queue=256))).module
    query = sum(p.numel() for p in [*net.query.parameters(), *net.predictor.parameters()])
    assert query == pytest.approx(35.3e6, rel=0.002)
    assert sum(p.numel() for p in net.key.parameters()) == pytest.approx(34.8e6, rel=0.002)
    assert 2 * 65536 * net.queue.get_buffer("instance").shape[1] == pytest.approx(16.8e6, rel=0.002)


@pytest.mark.parametrize("bands", [1, 3])
def test_two_bands_together_or_one_repeated(bands: int):
    encoder = EncoderConfig(depth=18, bands=bands)
    learner = make(CONFIG.model_copy(update={"encoder": encoder}))
    assert math.isfinite(learner.losses(batch(learner, bands=2), 0)["loss"].item())
    views = CONFIG.views.model_copy(update={"bands": "all"})
    both = make(CONFIG.model_copy(update={"encoder": EncoderConfig(depth=18, bands=2), "views": views}))
    assert math.isfinite(both.losses(batch(both, bands=2), 0)["loss"].item())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"views": ViewConfig(size_px=60, min_box_px=16)}, "multiple of 32"),
        ({"views": ViewConfig(size_px=64, min_box_px=64)}, "do not fit"),
        ({"batch": 7}, "multiple of the ranks"),
        ({"batch": 2}, "at least 2"),
        ({"contrast": ContrastConfig(queue=36)}, "whole number of batches"),
    ],
)
def test_dials_that_do_not_fit_are_refused(change: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message):
        DI3CL.check(CONFIG.model_copy(update=change), World(0, 2))


def _share(b: dict[str, Tensor], world: World) -> dict[str, Tensor]:
    return {name: value[world.share(len(value))] for name, value in b.items()}


def _two_steps(world: World, config: DI3CLRun) -> dict[str, Tensor]:
    learner = make(config, world)
    if not config.contrast.shuffle:
        # Batch norm of a share differs from that of the whole; in evaluation mode both must agree to rounding.
        learner.module.eval()
    seen: dict[str, Tensor] = {}
    for step in range(2):
        losses = learner.losses(_share(batch(learner, step), world), step)
        learner.after_step(step)
        means = world.mean({name: float(value.detach()) for name, value in losses.items()})
        seen |= {f"{name}-{step}": torch.tensor(value) for name, value in means.items()}
    seen["queue"] = learner.module.queue.get_buffer("instance").clone()
    seen["regions"] = learner.module.key.region[1].running_mean.clone()
    return seen


def test_one_and_two_ranks_agree_with_shuffling_off(tmp_path: Path):
    config = CONFIG.model_copy(update={"contrast": CONFIG.contrast.model_copy(update={"shuffle": False})})
    one = _two_steps(World(), config)
    for rank in run_ranks(_two_steps, config, 2, tmp_path):
        for name in one:
            if not name.startswith(("spread", "match")):  # of a share of the batch they are no mean over shares
                torch.testing.assert_close(rank[name], one[name], atol=1e-5, rtol=1e-4)


def _region_target(world: World, shuffle: bool) -> tuple[Tensor, Tensor]:
    config = CONFIG.model_copy(update={"contrast": CONFIG.contrast.model_copy(update={"shuffle": shuffle})})
    learner = make(config, world)
    learner.module.key.encoder.eval()  # so that the company of a sample does not matter
    b = _share(batch(learner), world)
    side = {name: b[f"{name}2"] for name in ("view", "numbers", "boxes")}
    instance, _, regions = learner._key_side(side, 3)
    return instance, regions


def test_shuffled_keys_and_regions_come_home_in_order(tmp_path: Path):
    plain = run_ranks(_region_target, False, 2, tmp_path)
    shuffled = run_ranks(_region_target, True, 2, tmp_path)
    for one, other in zip(plain, shuffled, strict=True):
        # The region head's batch norm sees this rank's own regions either way, as published.
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
