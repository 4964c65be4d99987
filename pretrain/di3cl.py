"""DI3CL (Ren et al., arXiv 2511.07808): MoCo v2 with a second contrast on the third stage and matched regions.

Three losses: instance contrast of the pooled last stage, the same contrast of the pooled third stage ("contour
consistency"), and the agreement of regions that show the same ground ("dynamic instance").
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from infra.errors import UsageError
from infra.world import World
from pretrain.config import EncoderConfig
from pretrain.di3cl_run import DI3CLRun, HeadConfig
from pretrain.encoder import STRIDES, ResNet
from pretrain.export import load_weights
from pretrain.inputs import check_pairs, encoder_input
from pretrain.parts import Queue, Shuffle, agreement, contrast, follow, freeze, matches, projector, spread, unit
from pretrain.regions import region_pool
from pretrain.views import PairDraw
from shards.tile import DbScale


class Branch(nn.Module):
    """One side of the network: encoder and three projectors."""

    def __init__(self, encoder: EncoderConfig, heads: HeadConfig) -> None:
        super().__init__()
        self.encoder = ResNet(encoder.depth, encoder.bands)
        third, last = self.encoder.channels[2:]
        self.instance = projector(last, heads.hidden, heads.dim)
        self.contour = projector(third, heads.hidden, heads.dim)
        self.region = projector(last, heads.hidden, heads.dim, norm=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give unit instance and contour embeddings (N, D), and the last feature map, of input (N, bands, H, W)."""
        _, _, third, last = self.encoder(x)
        return unit(self.instance(mean_over_ground(last))), unit(self.contour(mean_over_ground(third))), last


def mean_over_ground(maps: Tensor) -> Tensor:
    """Average feature maps (N, C, H, W) over their ground: (N, C)."""
    return maps.mean((2, 3))


class DI3CLNetwork(nn.Module):
    """Query branch and predictor, the key twin, and the two queues."""

    def __init__(self, config: DI3CLRun) -> None:
        super().__init__()
        heads = config.heads
        self.query = Branch(config.encoder, heads)
        self.predictor = projector(heads.dim, heads.hidden, heads.dim, norm=True)
        if config.encoder.weights is not None:
            load_weights(self.query.encoder, config.encoder.weights)
        self.key = Branch(config.encoder, heads)
        freeze(self.key, self.query)
        generator = torch.Generator().manual_seed(config.seed)
        self.queue = Queue(("instance", "contour"), config.contrast.queue, heads.dim, generator)


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
        v = config.views
        if v.min_box_px >= v.size_px:
            raise UsageError(
                f"boxes of at least {v.min_box_px} px do not fit views of {v.size_px} px (--views.min-box-px)"
            )
        if config.contrast.queue % config.batch:
            raise UsageError(
                f"a queue of {config.contrast.queue} keys does not hold a whole number of batches of {config.batch}"
                " (--contrast.queue, --batch)"
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
        c, net = self._config, self._network
        instance, contour, last = net.query(self._see(batch["view1"], batch["numbers1"]))
        seen = net.query.region(self._pool(last, batch["boxes1"]).flatten(0, 1))
        key_instance, key_contour, target = self._key_side(batch, step)
        t = c.contrast.temperature
        old_instance, old_contour = self._old_keys("instance", step), self._old_keys("contour", step)
        l_instance, hit_instance = contrast(instance, key_instance, old_instance, t)
        l_contour, hit_contour = contrast(contour, key_contour, old_contour, t)
        l_region = agreement(net.predictor(seen), target)
        self._keys = {"instance": key_instance, "contour": key_contour}
        return {
            "loss": c.loss.instance * l_instance + c.loss.contour * l_contour + c.loss.region * l_region,
            "loss_instance": l_instance.detach(),
            "loss_contour": l_contour.detach(),
            "loss_region": l_region.detach(),
            "top1_instance": hit_instance,
            "top1_contour": hit_contour,
            "match_instance": matches(instance.detach(), key_instance),
            "match_contour": matches(contour.detach(), key_contour),
            "spread_instance": spread(instance.detach()),
            "spread_contour": spread(contour.detach()),
        }

    def after_step(self, step: int) -> None:
        """Put this step's keys of all ranks into the queues and let the twin follow."""
        self._network.queue.push({name: self._world.all_gather(v) for name, v in self._keys.items()})
        follow(self._network.key, self._network.query, self._config.contrast.momentum)

    def _old_keys(self, name: str, step: int) -> Tensor:
        keys = self._network.queue.get_buffer(name)
        # While noise fills the queue, the loss falls when all embeddings share one direction: harmless over 700,000
        # steps, most of a short run.
        return keys if self._config.contrast.queue_start == "random" else keys[: step * self._config.batch]

    @torch.no_grad()
    def _key_side(self, batch: Mapping[str, Tensor], step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Give instance and contour keys (N, D) and region targets (M, D) of this rank's own samples."""
        c, key = self._config, self._network.key
        total = len(batch["view2"]) * self._world.size
        order = Shuffle(self._world, total, c.seed, step, on=c.contrast.shuffle)
        moved = order.shuffled({name: batch[name] for name in ("view2", "numbers2", "boxes2")})
        instance, contour, last = key(self._see(moved["view2"], moved["numbers2"]))
        # Regions are pooled where their map is, and come home as vectors: the published code gathers whole maps
        # (411 MB a step at 256 x 448 px). The projector sees this rank's own regions, as published.
        regions = order.restored(self._pool(last, moved["boxes2"]))
        return order.restored(instance), order.restored(contour), key.region(regions.flatten(0, 1))

    def _see(self, codes: Tensor, numbers: Tensor) -> Tensor:
        return encoder_input(codes, numbers, self._scale, self._config)

    def _pool(self, maps: Tensor, boxes: Tensor) -> Tensor:
        return region_pool(maps, boxes, STRIDES[-1], most=max(maps.shape[-2:]))
