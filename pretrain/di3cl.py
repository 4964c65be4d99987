"""DI3CL (Ren et al., arXiv 2511.07808): MoCo v2 with a second contrast on the third stage and matched regions.

Three losses: instance contrast of the pooled last stage, the same contrast of the third stage ("contour consistency"),
and the agreement of regions that show the same ground ("dynamic instance"). As published the second one averages the
whole map and sees no contour; other kinds of it compare the map where the radar image has edges.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from infra.errors import UsageError
from infra.world import World
from pretrain.di3cl_network import Branch, DI3CLNetwork
from pretrain.di3cl_run import DI3CLRun
from pretrain.edges import contours
from pretrain.encoder import ResNet
from pretrain.inputs import check_pairs, encoder_input
from pretrain.parts import Shuffle, agreement, contrast, follow, matches, redundancy, spread
from pretrain.regions import matched_cells, plane_pool
from pretrain.views import PairDraw
from shards.tile import DbScale

EDGE_SAMPLES = 4
"""Points along each side of a cell where its edge strength is read."""

Side = Mapping[str, Tensor]
"""What belongs to one view: ``view`` codes, ``numbers``, ``boxes``, and ``where`` contours are compared."""


class DI3CL:
    """The learner. Batches are what :class:`pretrain.views.PairDraw` gives; ``scale`` is the corpus's."""

    def __init__(self, config: DI3CLRun, scale: DbScale, world: World) -> None:
        self.check(config, world)
        self._config, self._scale, self._world = config, scale, world
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._network = DI3CLNetwork(config)
        self._keys: dict[str, Tensor] = {}

    @staticmethod
    def check(config: DI3CLRun, world: World) -> None:
        """Refuse dials that do not fit each other (UsageError)."""
        check_pairs(config, world)
        v, c = config.views, config.contour
        if v.min_box_px >= v.size_px:
            raise UsageError(
                f"boxes of at least {v.min_box_px} px do not fit views of {v.size_px} px (--views.min-box-px)"
            )
        if config.contrast.queue % config.batch:
            raise UsageError(
                f"a queue of {config.contrast.queue} keys does not hold a whole number of batches of {config.batch}"
                " (--contrast.queue, --batch)"
            )
        if c.kind != "pooled" and v.size_px % c.looks_px:
            raise UsageError(f"views of {v.size_px} px do not divide into squares of {c.looks_px} (--contour.looks-px)")
        if c.kind == "cells" and (v.boxes < 2 or c.chosen > v.boxes * c.cells**2):
            raise UsageError(
                f"{v.boxes} boxes of {c.cells} x {c.cells} cells: expected two boxes at least, and no fewer cells than"
                f" the {c.chosen} chosen (--views.boxes, --contour.cells, --contour.chosen)"
            )

    @property
    def module(self) -> DI3CLNetwork:
        """Everything to be saved."""
        return self._network

    @property
    def encoder(self) -> ResNet:
        """The query side's encoder."""
        return self._network.query.encoder

    @property
    def draw(self) -> PairDraw:
        """What turns a tile into a sample."""
        return PairDraw(self._config.views)

    def parameters(self) -> Iterable[nn.Parameter]:
        """The query side: all that is not a twin."""
        return (p for p in self._network.parameters() if p.requires_grad)

    def losses(self, batch: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """Give the weighted sum under "loss", its parts, accuracies over queue and batch, and the spread."""
        weights = self._config.loss
        one, two, edges = self._sides(batch)
        keys = self._key_side(two, step)
        terms = self._one_way(one, keys, edges, step)
        if weights.symmetric:
            back = self._one_way(two, self._key_side(one, step), edges, step)
            terms = {name: (value + back[name]) / 2 for name, value in terms.items()}
        # Where a tile gives several contour keys, one of them goes into the queue, in turn.
        self._keys = {"instance": keys[0], "contour": keys[1][:, step % keys[1].shape[1]]}
        parts = {name: value for name, value in terms.items() if name.startswith("loss_")}
        total = sum(getattr(weights, name.removeprefix("loss_")) * value for name, value in parts.items())
        return {"loss": torch.as_tensor(total), **{name: value.detach() for name, value in terms.items()}}

    def after_step(self, step: int) -> None:
        """Put this step's keys of all ranks into the queues and let the twin follow."""
        self._network.queue.push({name: self._world.all_gather(v) for name, v in self._keys.items()})
        follow(self._network.key, self._network.query, self._config.contrast.momentum)

    def _one_way(
        self, asking: Side, keys: tuple[Tensor, Tensor, Tensor], edges: Tensor | None, step: int
    ) -> dict[str, Tensor]:
        """Give losses and measures of one view's query side against the other's keys."""
        c, net = self._config, self._network
        instance, contours, regions = self._embed(net.query, asking)
        contour, key_instance, key_contour = contours.flatten(0, 1), keys[0], keys[1].flatten(0, 1)
        t = c.contrast.temperature
        l_instance, hit_instance = contrast(instance, key_instance, self._old_keys("instance", step), t)
        l_contour, hit_contour = contrast(contour, key_contour, self._old_keys("contour", step), t, edges)
        terms = {
            "loss_instance": l_instance,
            "loss_contour": l_contour,
            "loss_region": agreement(net.predictor(net.query.region(regions.flatten(0, 1))), keys[2]),
            "top1_instance": hit_instance,
            "top1_contour": hit_contour,
            "match_instance": matches(instance.detach(), key_instance),
            "match_contour": matches(contour.detach(), key_contour),
            "spread_instance": spread(instance.detach()),
            "spread_contour": spread(contour.detach()),
        }
        return terms | ({"loss_redundancy": redundancy(regions.flatten(0, 1))} if c.loss.redundancy else {})

    def _old_keys(self, name: str, step: int) -> Tensor:
        keys = self._network.queue.get_buffer(name)
        # While noise fills the queue, the loss falls when all embeddings share one direction: harmless over 700,000
        # steps, most of a short run.
        return keys if self._config.contrast.queue_start == "random" else keys[: step * self._config.batch]

    @torch.no_grad()
    def _sides(self, batch: Mapping[str, Tensor]) -> tuple[Side, Side, Tensor | None]:
        """Sort a batch by view; say where contours are to be compared, the same cells in both views, and how much."""
        sides = [{name: batch[f"{name}{k}"] for name in ("view", "numbers", "boxes")} for k in (1, 2)]
        c, weights = self._config.contour, None
        if c.kind != "pooled":
            planes = [contours(side["view"], self._scale, c.looks_px, c.reach) for side in sides]
            wheres = planes
            if c.kind == "cells":
                wheres, weights = self._strongest(batch, planes)
            for side, where in zip(sides, wheres, strict=True):
                side["where"] = where
        return sides[0], sides[1], weights

    def _strongest(self, batch: Mapping[str, Tensor], planes: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Give the cells (N, P, 4) of each view with the strongest edges, and their strength (N P,)."""
        c = self._config.contour
        cells = matched_cells(batch["boxes1"], batch["boxes2"], c.cells)
        one, two = (
            plane_pool(plane[:, 0], own, c.looks_px, EDGE_SAMPLES).clamp(min=1e-6)
            for plane, own in zip(planes, cells, strict=True)
        )
        # The geometric mean: an edge that only one view shows is none of the ground.
        strength, places = (one * two).sqrt().topk(c.chosen, 1)
        at = places.unsqueeze(-1).expand(-1, -1, 4)
        return [own.gather(1, at) for own in cells], strength.flatten()

    def _embed(self, branch: Branch, side: Side) -> tuple[Tensor, Tensor, Tensor]:
        x = encoder_input(side["view"], side["numbers"], self._scale, self._config)
        return branch(x, side["boxes"], side.get("where"))  # type: ignore[no-any-return]

    @torch.no_grad()
    def _key_side(self, side: Side, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Give instance (N, D) and contour keys (N, P, D) and region targets (M, D) of this rank's own samples."""
        c, key = self._config, self._network.key
        # Groups of split batch norm are to a rank what ranks are to a job: their keys are shuffled as well.
        groups = c.batch_norm_groups if c.batch_norm == "split" else 1
        total = len(side["view"]) * self._world.size
        order = Shuffle(self._world, total, c.seed, step, on=c.contrast.shuffle, groups=groups)
        # Regions are pooled where their map is, and come home as vectors: the published code gathers whole maps
        # (411 MB a step at 256 x 448 px).
        instance, contour, regions = self._embed(key, order.shuffled(side))
        if c.contrast.project_shuffled:
            targets = key.region(regions.flatten(0, 1)).view(*regions.shape[:2], -1)
            targets = order.restored(targets).flatten(0, 1)
        else:  # the projector sees this rank's own regions, as published
            targets = key.region(order.restored(regions).flatten(0, 1))
        return order.restored(instance), order.restored(contour), targets
