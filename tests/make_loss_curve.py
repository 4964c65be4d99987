"""Makes golden/loss_curve.json, the losses of a hundred steps of a small run: python make_loss_curve.py.

The network is small and its batch norm sees hundreds of values a channel, so that the last digit, which depends on the
processor's instructions, does not grow: SSE4, AVX2 and AVX-512 give the same losses to 2e-7. A ResNet-18 on a batch
of four views of 32 px
is another matter: with AVX2 in place of AVX-512 its losses differ by a fifth after ten steps.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from pretrain_corpus import ground_tile
from torch import Tensor, nn

from infra.log import read_lines
from infra.store import open_store
from infra.world import World
from pretrain.config import Optim
from pretrain.inputs import encoder_input
from pretrain.loop import train
from pretrain.pair_run import PairRun, ViewConfig
from pretrain.parts import Queue, agreement, contrast, follow, freeze, unit
from pretrain.regions import region_pool
from pretrain.views import PairDraw
from shards.feed import Batch, generator
from shards.tile import DbScale

PLACE = Path(__file__).parent / "golden" / "loss_curve.json"
RUN = PairRun(
    steps=100,
    batch=8,
    log_every=1,
    optim=Optim(lr=0.02, lr_batch=None, warmup_steps=10),
    views=ViewConfig(size_px=32, min_box_px=8, boxes=4),
)


class Small:
    """Momentum contrast and matched regions, as in DI3CL, on two convolutions."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.module = nn.ModuleDict({"query": _network(), "key": _network()})
        freeze(self.module["key"], self.module["query"])
        self.module["queue"] = Queue(("instance",), 64, 8, torch.Generator().manual_seed(0))

    def parameters(self) -> Iterator[nn.Parameter]:
        return (p for p in self.module.parameters() if p.requires_grad)

    def losses(self, batch: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        query, seen = self._side("query", batch, 1)
        with torch.no_grad():
            self._key, target = self._side("key", batch, 2)
        instance, hits = contrast(query, self._key, self.module["queue"].get_buffer("instance"), 0.2)
        region = agreement(seen, target)
        return {"loss": instance + region, "loss_region": region.detach(), "hits": hits}

    def after_step(self, step: int) -> None:
        self.module["queue"].push({"instance": self._key})
        follow(self.module["key"], self.module["query"], 0.99)

    def _side(self, name: str, batch: Mapping[str, Tensor], view: int) -> tuple[Tensor, Tensor]:
        maps = self.module[name](encoder_input(batch[f"view{view}"], batch[f"numbers{view}"], DbScale(), RUN))
        return unit(maps.mean((2, 3))), region_pool(maps, batch[f"boxes{view}"], 4, most=8).flatten(0, 1)


def _network() -> nn.Sequential:
    first = nn.Conv2d(RUN.encoder.bands, 12, 5, stride=2, padding=2, bias=False)
    return nn.Sequential(first, nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 8, 3, stride=2, padding=1))


class Ground:
    """A feed of sixteen tiles of made-up ground, cut anew in every step."""

    def __init__(self) -> None:
        self._draw, self._tiles = PairDraw(RUN.views), [ground_tile(number, 48) for number in range(16)]

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        for step in range(start, stop):
            tiles = [self._tiles[(8 * step + place) % 16] for place in range(RUN.batch)]
            drawn = [self._draw(tile, generator(0, step, place)) for place, tile in enumerate(tiles)]
            yield Batch(step, {name: np.stack([d[name] for d in drawn]) for name in drawn[0]}, 0.0)


def curve(folder: str) -> list[float]:
    """Train, and give the loss of every step."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(Small(), Ground(), RUN, World(), open_store(folder), {"golden": 1})
    finally:
        torch.set_num_threads(threads)
    return [line["loss"] for line in read_lines(open_store(folder), "metrics")]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        PLACE.write_text(json.dumps([float(f"{loss:.9g}") for loss in curve(place)], indent=0) + "\n")
