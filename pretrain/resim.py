"""ReSim (Xiao et al., ICCV 2021, arXiv 2103.12902): MoCo v2, and windows that slide over both views.

Published (ReSim-FPN, paper and public code): MoCo v2's numbers (:mod:`pretrain.moco`); a feature pyramid of 256
channels on stages 2 to 4 without batch norm; windows of 48 px every 32 px of a 224 px view on stage 3, of 32 px every
24 px on stage 2; a window's positive is the same ground in the other view, where it shows all of it; its negatives are
the key maps' 3x3 averages; the three losses have equal weight; 200 or 400 epochs of ImageNet.

Differences: RoIAlign's adaptive samples instead of PrRoIPool's integral; negatives of stage 2 come from all ranks, as
those of stage 3, and are a sample where they are more than ``others``; flips of the two views are independent.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from infra.errors import UsageError
from infra.world import World
from pretrain.baseline_runs import ReSimRun
from pretrain.encoder import STRIDES
from pretrain.ground import to_tile, to_view
from pretrain.heads import detached, make_encoder, mean_over_ground, share_of_mean
from pretrain.moco import QueuedLearner, QueuedNetwork
from pretrain.parts import projector, unit
from pretrain.regions import region_pool

STAGES = (2, 1)
"""The maps that windows slide over: the third stage and the second, as `side_px` has them."""

POOL = 3
"""Cells along the side of a negative."""


class Pyramid(nn.Module):
    """A feature pyramid on stages 2 to 4 (Lin et al. 2017), without a map of stage 4."""

    def __init__(self, channels: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(_convolution(c, dim, 1) for c in channels[1:])
        self.output = nn.ModuleList(_convolution(dim, dim, 3) for _ in STAGES)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Give maps (N, dim, H, W) of the third stage and the second, of an encoder's four."""
        second, third, fourth = (lateral(m) for lateral, m in zip(self.lateral, maps[1:], strict=True))
        third = third + functional.interpolate(fourth, scale_factor=2.0, mode="nearest")
        second = second + functional.interpolate(third, scale_factor=2.0, mode="nearest")
        return [output(m) for output, m in zip(self.output, (third, second), strict=True)]


def _convolution(inside: int, outside: int, side: int) -> nn.Conv2d:
    made = nn.Conv2d(inside, outside, side, padding=side // 2)
    nn.init.kaiming_uniform_(made.weight, a=1)
    if made.bias is not None:
        nn.init.zeros_(made.bias)
    return made


class WindowBranch(nn.Module):
    """Encoder, head of whole views, and pyramid."""

    def __init__(self, config: ReSimRun) -> None:
        super().__init__()
        self.encoder = make_encoder(config.encoder)
        self.head = projector(self.encoder.channels[-1], config.heads.hidden, config.heads.dim)
        self.pyramid = Pyramid(self.encoder.channels, config.windows.dim)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Give unit embeddings (N, D) and the pyramid's maps of input (N, bands, H, W)."""
        maps = self.encoder(x)
        return unit(self.head(mean_over_ground(maps[-1]))), self.pyramid(maps)


def windows(size: int, side: int, stride: int, device: torch.device) -> Tensor:
    """Give all windows [left, top, right, bottom] that end inside a view of ``size`` pixels, row by row: (R, 4)."""
    start = torch.arange(0, size - side, stride, device=device, dtype=torch.float32)
    top, left = torch.meshgrid(start, start, indexing="ij")
    corners = torch.stack([left.flatten(), top.flatten()], 1)
    return torch.cat([corners, corners + side], 1)


def matched(boxes: Tensor, crops1: Tensor, crops2: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Give boxes (R, 4) of view 1 in view 2's pixels, (N, R, 4), and whether view 2 shows all of them, (N, R)."""
    there = to_view(to_tile(boxes.expand(len(crops1), -1, -1), crops1, size), crops2, size)
    return there, (there >= 0).all(-1) & (there <= size).all(-1)


def told_apart(query: Tensor, key: Tensor, others: Tensor, temperature: float) -> Tensor:
    """Give InfoNCE (M,) of unit vectors (M, D) against their keys (M, D) and others (K, D), one by one."""
    with torch.autocast(query.device.type, enabled=False):
        own = (query * key).sum(1) / temperature
        return torch.logaddexp((query @ others.t() / temperature).logsumexp(1), own) - own


class ReSim(QueuedLearner[ReSimRun, WindowBranch]):
    """The learner."""

    @staticmethod
    def check(config: Any, world: World) -> None:
        """Refuse dials that do not fit each other (UsageError)."""
        QueuedLearner.check(config, world)
        size, side = config.views.size_px, config.windows.side_px
        if size < 2 * STRIDES[-1] or max(side) >= size:
            raise UsageError(
                f"windows of {side[0]} and {side[1]} px on views of {size} px: expected views of at least"
                f" {2 * STRIDES[-1]} px, and smaller windows (--views.size-px, --windows.side-px)"
            )

    def build(self, config: ReSimRun) -> QueuedNetwork[WindowBranch]:
        """Make the two sides and the queue."""
        return QueuedNetwork(WindowBranch(config), config)

    def losses(self, batch: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """Give the weighted sum of three contrasts under "loss", its parts, accuracies, the share of windows seen."""
        c = self._config
        query, maps = self._network.query(self.see(batch, 1))
        key, targets, others = self._key_side(batch, step)
        found = self.instance_losses(query, key, step)
        instance, parts, shares = found.pop("loss"), [], []
        for level, stage in enumerate(STAGES):
            boxes = self._windows(level, query.device)
            _, used = matched(boxes, batch["crop1"], batch["crop2"], c.views.size_px)
            seen = unit(_pool(maps[level], boxes.expand(len(query), -1, -1), STRIDES[stage])).flatten(0, 1)
            each = told_apart(seen, targets[level].flatten(0, 1), others[level], c.contrast.temperature)
            parts.append(share_of_mean(each, used.flatten(), self._world))
            shares.append(used.float().mean())
        numbers = {
            "loss_instance": instance, "loss_stage3": parts[0], "loss_stage2": parts[1],
            "seen_stage3": shares[0], "seen_stage2": shares[1],
        }  # fmt: skip
        return {"loss": instance + c.windows.weight * (parts[0] + parts[1]), **found, **detached(numbers)}

    @torch.no_grad()
    def _key_side(self, batch: Mapping[str, Tensor], step: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Give keys (N, D), positives (N, R, C) of this rank's samples, and negatives (K, C) of all ranks', per map."""
        size, order = self._config.views.size_px, self.shuffle(len(batch["view2"]), step)
        moved = order.shuffled({name: batch[name] for name in ("view2", "numbers2", "crop1", "crop2")})
        key, maps = self._network.key(self.see(moved, 2))
        targets, others = [], []
        for level, stage in enumerate(STAGES):
            boxes, _ = matched(self._windows(level, key.device), moved["crop1"], moved["crop2"], size)
            targets.append(order.restored(unit(_pool(maps[level], boxes, STRIDES[stage]))))
            others.append(self._world.all_gather(self._others(maps[level], step)).flatten(0, 1))
        return order.restored(key), targets, others

    def _others(self, maps: Tensor, step: int) -> Tensor:
        """Give unit averages (N, k, C) of the same k places of every map, another k at every step."""
        c = self._config
        averages = functional.avg_pool2d(maps.float(), POOL, stride=1).flatten(2).transpose(1, 2)
        places = averages.shape[1]
        most = max(1, c.windows.others // c.batch)
        if most < places:
            generator = torch.Generator().manual_seed(c.seed * 2_147_483_647 + step)
            chosen = torch.randperm(places, generator=generator)[:most]
            averages = averages[:, chosen.to(averages.device)]
        return unit(averages)

    def _windows(self, level: int, device: torch.device) -> Tensor:
        w = self._config.windows
        return windows(self._config.views.size_px, w.side_px[level], w.stride_px[level], device)


def _pool(maps: Tensor, boxes: Tensor, stride: int) -> Tensor:
    return region_pool(maps, boxes, stride, most=max(maps.shape[-2:]))
