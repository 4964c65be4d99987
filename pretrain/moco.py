"""MoCo v2 (He et al., CVPR 2020; Chen, Fan, Girshick, He, arXiv 2003.04297): contrast with a queue of a twin's keys.

Published: ResNet-50, head 2048-2048-128 without batch norm, queue of 65,536, temperature 0.2, momentum 0.999, SGD
0.03 per 256 with weight decay 1e-4 and a cosine, batch 256, 200 or 800 epochs of ImageNet at 224 px, keys shuffled
across ranks before batch norm. All are defaults here, but for the frame's views.
"""

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from infra.errors import UsageError
from infra.world import World
from pretrain.baseline_runs import MoCoRun, QueuedRun
from pretrain.heads import Branch, detached, twin_of
from pretrain.pair_learner import PairLearner
from pretrain.parts import Queue, Shuffle, contrast, follow, matches, projector, spread, unit

Queued = TypeVar("Queued", bound=QueuedRun)
Side = TypeVar("Side", bound=nn.Module)


class QueuedNetwork(nn.Module, Generic[Side]):
    """The query side, its twin, and the queue of the twin's keys."""

    def __init__(self, query: Side, config: QueuedRun) -> None:
        super().__init__()
        self.query = query
        self.key: Side = twin_of(query)
        generator = torch.Generator().manual_seed(config.seed)
        self.queue = Queue(("instance",), config.contrast.queue, config.heads.dim, generator)


class QueuedLearner(PairLearner[Queued, QueuedNetwork[Side]], Generic[Queued, Side]):
    """What learners with a queue share: contrast of whole views, and what follows a step."""

    _keys: Tensor

    @staticmethod
    def check(config: Any, world: World) -> None:
        """Refuse dials that do not fit each other (UsageError)."""
        PairLearner.check(config, world)
        if config.contrast.queue % config.batch:
            raise UsageError(
                f"a queue of {config.contrast.queue} keys does not hold a whole number of batches of {config.batch}"
                " (--contrast.queue, --batch)"
            )

    def after_step(self, step: int) -> None:
        """Put this step's keys of all ranks into the queue and let the twin follow."""
        self._network.queue.push({"instance": self._world.all_gather(self._keys)})
        follow(self._network.key, self._network.query, self._config.contrast.momentum)

    def instance_head(self, inside: int) -> nn.Module:
        """Make the head of whole views."""
        return projector(inside, self._config.heads.hidden, self._config.heads.dim)

    def instance_losses(self, query: Tensor, key: Tensor, step: int) -> dict[str, Tensor]:
        """Contrast unit embeddings (N, D) with their keys (N, D) and the queue, and remember the keys."""
        c = self._config.contrast
        queue = self._network.queue.get_buffer("instance")
        old = queue if c.queue_start == "random" else queue[: step * self._config.batch]
        loss, hit = contrast(query, key, old, c.temperature)
        self._keys = key
        numbers = {"top1": hit, "match": matches(query, key), "spread": spread(query)}
        return {"loss": loss, **detached(numbers)}

    def shuffle(self, samples: int, step: int) -> Shuffle:
        """Give this step's shuffling of ``samples`` on each rank."""
        c, world = self._config, self._world
        # Groups of split batch norm are to a rank what ranks are to a job: their keys are shuffled as well.
        groups = c.batch_norm_groups if c.batch_norm == "split" else 1
        return Shuffle(world, samples * world.size, c.seed, step, on=c.contrast.shuffle, groups=groups)


class MoCo(QueuedLearner[MoCoRun, Branch]):
    """The learner."""

    def build(self, config: MoCoRun) -> QueuedNetwork[Branch]:
        """Make the two sides and the queue."""
        return QueuedNetwork(Branch(config.encoder, self.instance_head), config)

    def losses(self, batch: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """Give InfoNCE under "loss", the accuracies over queue and batch, and the spread."""
        query = unit(self._network.query(self.see(batch, 1)))
        return self.instance_losses(query, self._key_side(batch, step), step)

    @torch.no_grad()
    def _key_side(self, batch: Mapping[str, Tensor], step: int) -> Tensor:
        order = self.shuffle(len(batch["view2"]), step)
        moved = order.shuffled({name: batch[name] for name in ("view2", "numbers2")})
        return order.restored(unit(self._network.key(self.see(moved, 2))))
