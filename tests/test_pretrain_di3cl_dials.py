"""DI3CL beyond the published method: contours, both directions, redundancy; and what a step costs the device."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from pretrain_corpus import ground_tile
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from infra.errors import UsageError
from infra.world import World
from pretrain.config import EncoderConfig
from pretrain.di3cl import DI3CL
from pretrain.di3cl_run import ContourConfig, ContrastConfig, DI3CLRun, HeadConfig, LossWeights, RegionConfig
from pretrain.edges import contours
from pretrain.encoder import to_input
from pretrain.pair_run import ViewConfig
from pretrain.parts import contrast, redundancy, unit
from pretrain.regions import matched_cells, region_pool
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
CELLS = ContourConfig(kind="cells", stage=2, cells=2, chosen=5)


def run_with(**changes: Any) -> DI3CLRun:
    quiet = CONFIG.augment.model_copy(update={"jitter_share": 0.0, "blur_share": 0.0})
    return CONFIG.model_copy(update={"augment": quiet} | changes)


def make(config: DI3CLRun) -> DI3CL:
    return DI3CL(config, DbScale(), World())


def batch(learner: DI3CL, size: int = 8) -> dict[str, Tensor]:
    drawn = [learner.draw(ground_tile(n, 80), generator(0, 0, n)) for n in range(size)]
    return {name: torch.stack([torch.from_numpy(d[name]) for d in drawn]) for name in drawn[0]}


def maps_of(branch: Any, codes: Tensor) -> list[Tensor]:
    maps: list[Tensor] = branch.encoder(to_input(codes, DbScale(), CONFIG.input))
    return maps


def test_cells_are_compared_where_both_views_have_edges():
    learner = make(run_with(contour=CELLS))
    net, b = learner.module, batch(learner)
    cells = matched_cells(b["boxes1"], b["boxes2"], 2)
    strength = []
    for k in (0, 1):
        plane = contours(b[f"view{k + 1}"], DbScale(), 4, 2)
        strength.append(region_pool(plane, cells[k], 4, samples=4)[..., 0].clamp(min=1e-6))
    product = (strength[0] * strength[1]).sqrt()
    queries, keys, weights = [], [], []
    for n in range(8):
        for place in sorted(range(16), key=lambda i: -float(product[n, i]))[:5]:
            at = [c[n, place].view(1, 1, 4) for c in cells]
            # Batch norm needs the whole batch: one sample of its map is pooled here.
            queries.append((n, at[0]))
            keys.append((n, at[1]))
            weights.append(product[n, place])
    maps1 = maps_of(net.query, b["view1"])[1]
    with torch.no_grad():
        maps2 = maps_of(net.key, b["view2"])[1]
    q = torch.cat([net.query.contour(region_pool(maps1[n : n + 1], at, 8)[0]) for n, at in queries])
    k = torch.cat([net.key.contour(region_pool(maps2[n : n + 1], at, 8)[0]) for n, at in keys])
    queue = net.queue.get_buffer("contour")
    expected, _ = contrast(unit(q), unit(k), queue, 0.2, torch.stack(weights))
    fresh = make(run_with(contour=CELLS))
    found = fresh.losses(b, 2)
    torch.testing.assert_close(found["loss_contour"], expected.detach(), atol=1e-5, rtol=1e-5)
    fresh.after_step(2)
    # Of the five cells of a tile, step 2 puts the third strongest into the queue.
    pushed = fresh.module.queue.get_buffer("contour")[:8]
    torch.testing.assert_close(pushed, unit(k.detach()).view(8, 5, -1)[:, 2], atol=1e-5, rtol=1e-5)


def test_edges_weigh_the_mean_of_the_map():
    learner = make(run_with(contour=ContourConfig(kind="edges", stage=3)))
    net, b = learner.module, batch(learner)
    embedded = []
    for branch, view in ((net.query, "view1"), (net.key, "view2")):
        maps = maps_of(branch, b[view])[2]
        edges = contours(b[view], DbScale(), 4, 2)
        squares = edges[:, 0].unfold(1, 4, 4).unfold(2, 4, 4)
        weights = squares.mean((3, 4)).flatten(1)
        weights = (weights + 1e-6) / (weights + 1e-6).sum(1, keepdim=True)
        embedded.append(branch.contour(torch.einsum("ncp,np->nc", maps.flatten(2), weights)))
    q, k = (functional.normalize(e.detach()) for e in embedded)
    expected, _ = contrast(q, k, net.queue.get_buffer("contour"), 0.2)
    found = make(run_with(contour=ContourConfig(kind="edges", stage=3))).losses(b, 0)
    torch.testing.assert_close(found["loss_contour"], expected, atol=1e-5, rtol=1e-5)


def swapped(b: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[:-1] + {"1": "2", "2": "1"}[name[-1]]: value for name, value in b.items()}


@pytest.mark.parametrize("contour", [ContourConfig(), CELLS], ids=["pooled", "cells"])
def test_symmetric_losses_are_the_mean_of_both_directions(contour: ContourConfig):
    one_way, both = run_with(contour=contour), run_with(contour=contour, loss=LossWeights(symmetric=True))
    b = batch(make(one_way))
    there, back = (make(one_way).losses(x, 0) for x in (b, swapped(b)))
    learner = make(both)
    found = learner.losses(b, 0)
    for name in ("loss", "loss_instance", "loss_contour", "loss_region", "top1_instance"):
        torch.testing.assert_close(found[name], (there[name] + back[name]) / 2, atol=1e-5, rtol=1e-5)
    learner.after_step(0)
    assert learner.module.queue.pointer.item() == 8  # the keys of view 2 alone


@pytest.mark.parametrize("stage", [3, 4])
def test_redundancy_is_that_of_the_boxes_of_the_chosen_stage(stage: int):
    config = run_with(region=RegionConfig(stage=stage), loss=LossWeights(redundancy=2.0))
    learner = make(config)
    b = batch(learner)
    maps = maps_of(learner.module.query, b["view1"])[stage - 1]
    expected = redundancy(region_pool(maps, b["boxes1"], 2 ** (stage + 1)).flatten(0, 1))
    found = make(config).losses(b, 0)
    torch.testing.assert_close(found["loss_redundancy"], expected.detach(), atol=1e-6, rtol=1e-4)
    plain = make(run_with(region=RegionConfig(stage=stage))).losses(b, 0)
    assert "loss_redundancy" not in plain
    torch.testing.assert_close(found["loss"], plain["loss"] + 2 * expected, atol=1e-4, rtol=1e-5)


def test_regions_projected_before_they_go_home_are_the_same_on_one_rank():
    late = CONFIG.contrast.model_copy(update={"project_shuffled": True})
    b = batch(make(CONFIG))
    found, plain = make(run_with(contrast=late)).losses(b, 0), make(run_with()).losses(b, 0)
    assert torch.equal(found["loss_region"], plain["loss_region"])


def test_keys_of_split_batch_norm_are_shuffled_within_a_rank():
    from pretrain.norms import convert

    def keys(on: bool) -> Tensor:
        contrasts = CONFIG.contrast.model_copy(update={"shuffle": on})
        learner = make(run_with(batch_norm="split", batch_norm_groups=4, contrast=contrasts))
        convert(learner.module, "split", World(), 4)
        learner.losses(b, 0)
        return learner._keys["instance"]

    b = batch(make(CONFIG))
    assert not torch.allclose(keys(True), keys(False), atol=1e-4)


@pytest.mark.parametrize(
    ("contour", "views", "message"),
    [
        (ContourConfig(kind="edges", looks_px=5), CONFIG.views, "squares of 5"),
        (ContourConfig(kind="cells", chosen=17), CONFIG.views, "no fewer cells"),
        (ContourConfig(kind="cells", chosen=2), ViewConfig(size_px=64, min_box_px=16, boxes=1), "two boxes"),
    ],
)
def test_contours_that_do_not_fit_are_refused(contour: ContourConfig, views: ViewConfig, message: str):
    with pytest.raises(UsageError, match=message):
        DI3CL.check(run_with(contour=contour, views=views), World())


class Ops(TorchDispatchMode):
    """Remembers what a step asks of the device: waits for numbers, and new tensors."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.made: list[tuple[str, tuple[int, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in self.WAITS:
            self.waits.append(name)
        if isinstance(found, Tensor) and not any(a is found or _shares(a, found) for a in args):
            self.made.append((name, tuple(found.shape)))
        return found


def _shares(a: Any, b: Tensor) -> bool:
    return isinstance(a, Tensor) and a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


DIALS: dict[str, dict[str, Any]] = {
    "published": {},
    "empty queue": {"contrast": CONFIG.contrast.model_copy(update={"queue_start": "empty"})},
    "edges": {"contour": ContourConfig(kind="edges")},
    "all of ours": {"contour": CELLS, "loss": LossWeights(symmetric=True, redundancy=1.0)},
}


@pytest.mark.parametrize("name", DIALS)
def test_a_step_never_waits_for_the_device_and_copies_no_queue(name: str):
    # A queue of a length that nothing else has.
    changes = dict(DIALS[name])
    changes["contrast"] = changes.get("contrast", CONFIG.contrast).model_copy(update={"queue": 3 * 8 * 17})
    learner = make(run_with(**changes))
    b = batch(learner)
    with Ops() as seen:
        losses = learner.losses(b, 1)
        losses["loss"].backward()
        learner.after_step(1)
    assert seen.waits == []
    assert not [(op, shape) for op, shape in seen.made if shape in ((408, 16), (16, 408))]


@pytest.mark.parametrize("name", DIALS)
def test_a_step_of_a_device_without_values_goes_through(monkeypatch: pytest.MonkeyPatch, name: str):
    """On the meta device every look at a value raises, as it would make a GPU wait."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it does not know this device
    learner = make(CONFIG.model_copy(update=DIALS[name]))
    b = {key: value.to("meta") for key, value in batch(learner).items()}
    learner.module.to("meta")
    losses = learner.losses(b, 1)
    losses["loss"].backward()
    learner.after_step(1)
    assert all(value.shape == () and value.is_meta for value in losses.values())


def test_the_counter_counts():
    with Ops() as seen:
        x = torch.zeros(3, 4)
        float(x.sum()), x.clone(), x.view(4, 3), x.nonzero()
    assert seen.waits == ["_local_scalar_dense", "nonzero"]
    assert ("clone", (3, 4)) in seen.made
    assert not [op for op, _ in seen.made if op == "view"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["published", "all of ours"])
def test_losses_compile_without_a_break(name: str):
    config = run_with(**DIALS[name])
    learner = make(config)
    net, b = learner.module, batch(learner)
    sides = learner._sides(b)
    keys = learner._key_side(sides[1], 0)

    def work(codes: Tensor, boxes: Tensor) -> Tensor:
        instance, contour, regions = net.query(codes, boxes, sides[0].get("where"))
        loss, _ = contrast(instance, keys[0], net.queue.get_buffer("instance"), 0.2)
        own, old = keys[1].flatten(0, 1), net.queue.get_buffer("contour")
        other, _ = contrast(contour.flatten(0, 1), own, old, 0.2, sides[2])
        return loss + other + redundancy(regions.flatten(0, 1))

    x = to_input(b["view1"], DbScale(), CONFIG.input)
    explained: Callable[..., Any] = torch._dynamo.explain(work)
    found = explained(x, b["boxes1"])
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons
