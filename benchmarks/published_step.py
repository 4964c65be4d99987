"""One step of DI3CL's published code on one rank, written for bench_step.py from its description.

Images are single-channel 8-bit files, made three bands; augmented by PIL one after the other (bench_views.py); boxes
are made by a Python loop within the step. It runs under DistributedDataParallel with its defaults, as it does not run
without, and gathers images before the key side, its embeddings and whole last map after it, on one rank from itself.
Both queues are cloned, own and other logits are joined, the twin follows one parameter after the other, accuracies and
losses are read at every step. Region targets are projected at home. The network's modules and the pooling of boxes
(torchvision's RoIAlign there) are ours.
"""

import io
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from bench_views import published_boxes, published_view
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from pretrain.di3cl_network import Branch, DI3CLNetwork
from pretrain.di3cl_run import DI3CLRun
from pretrain.encoder import STRIDES
from pretrain.regions import region_pool

Clock = Callable[[str], AbstractContextManager[None]]


class PublishedModel(nn.Module):
    """Network, twin and queues; its forward pass gives the loss. Parts of the work are timed by ``clock``."""

    def __init__(self, network: DI3CLNetwork, config: DI3CLRun, clock: Clock) -> None:
        super().__init__()
        self.query, self.key, self.predictor = network.query, network.key, network.predictor
        self.register_buffer("global_queue", network.queue.get_buffer("instance").t().contiguous())
        self.register_buffer("local_queue", network.queue.get_buffer("contour").t().contiguous())
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long))
        self._config, self._clock = config, clock

    def forward(self, one: Tensor, two: Tensor, boxes1: Tensor, boxes2: Tensor) -> Tensor:
        """Give the loss of views (N, 3, S, S) and boxes (M, 5), image and [left, top, right, bottom]."""
        weights = self._config.loss
        instance, contour, last = _embedded(self.query, one)
        with torch.no_grad():
            with self._clock("EMA"):
                self._follow()
            with self._clock("gathering"):
                order = torch.randperm(len(one))
                back, two = torch.argsort(order), _gathered(two)[order]
            keys = _embedded(self.key, two)
            with self._clock("gathering"):
                key_instance, key_contour, key_last = (_gathered(value)[back] for value in keys)
        first = self._contrast(instance, key_instance, self.get_buffer("global_queue"))
        second = self._contrast(contour, key_contour, self.get_buffer("local_queue"))
        asked = self.predictor(self.query.region(_pooled(last, boxes1)))
        with torch.no_grad():
            target = self.key.region(_pooled(key_last, boxes2))
        region = (2 - 2 * functional.cosine_similarity(asked, target, dim=-1)).mean()
        with self._clock("queue"):
            self._enqueue(key_instance, key_contour)
        return weights.instance * first + weights.contour * second + weights.region * region

    def _contrast(self, query: Tensor, key: Tensor, queue: Tensor) -> Tensor:
        with self._clock("queue"):
            others = queue.clone().detach()
        own = torch.einsum("nc,nc->n", query, key).unsqueeze(-1)
        logits = torch.cat([own, torch.einsum("nc,ck->nk", query, others)], 1) / self._config.contrast.temperature
        labels = torch.zeros(len(logits), dtype=torch.long)
        _accuracies(logits, labels)
        return functional.cross_entropy(logits, labels)

    def _follow(self) -> None:
        momentum = self._config.contrast.momentum
        for mine, twin in zip(self.query.parameters(), self.key.parameters(), strict=True):
            twin.data = twin.data * momentum + mine.data * (1.0 - momentum)

    @torch.no_grad()
    def _enqueue(self, *keys: Tensor) -> None:
        pointer = self.get_buffer("pointer")
        at, number = int(pointer), len(keys[0])
        for name, values in zip(("global_queue", "local_queue"), keys, strict=True):
            self.get_buffer(name)[:, at : at + number] = _gathered(values).t()
        pointer[0] = (at + number) % self._config.contrast.queue


class PublishedStep:
    """The step. ``files`` are images as they lie on a disk. Makes the process group that the code wants."""

    def __init__(self, network: DI3CLNetwork, config: DI3CLRun, files: Sequence[bytes], clock: Clock) -> None:
        self._size, self._files, self._clock = config.views.size_px, files, clock
        if not dist.is_initialized():
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        self.model = PublishedModel(network, config, clock)
        self._parallel = nn.parallel.DistributedDataParallel(self.model)
        o = config.optim
        trained = [p for p in network.parameters() if p.requires_grad]
        self._optimiser = torch.optim.SGD(
            trained, o.peak_lr(config.batch), momentum=o.momentum, weight_decay=o.weight_decay
        )

    def __call__(self, step: int) -> float:
        """Do a step, and give its loss."""
        with self._clock("tiles and views"):
            one, two, crops1, crops2 = self._batch()
        with self._clock("boxes"):
            boxes1, boxes2 = published_boxes(crops1, crops2, self._size)
        with self._clock("forward and backward"):
            loss: Tensor = self._parallel(one, two, boxes1, boxes2)
            self._optimiser.zero_grad()
            loss.backward()
        with self._clock("optimiser"):
            self._optimiser.step()
        return loss.item()

    def _batch(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        seen = []
        for payload in self._files:
            grey = Image.open(io.BytesIO(payload))
            image = Image.merge("RGB", (grey, grey, grey))
            seen.append((*published_view(image, self._size), *published_view(image, self._size)))
        views1, crops1, views2, crops2 = zip(*seen, strict=True)
        return torch.stack(views1), torch.stack(views2), torch.tensor(crops1), torch.tensor(crops2)


def _gathered(value: Tensor) -> Tensor:
    parts = [torch.ones_like(value) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, value.contiguous())
    return torch.cat(parts)


def _embedded(branch: Branch, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    e = branch.encoder
    x = functional.max_pool2d(e.relu(e.bn1(e.conv1(x))), 3, 2, 1)
    for stage in (e.layer1, e.layer2):
        x = stage(x)
    third = e.layer3(x)
    last = e.layer4(third)
    instance = functional.normalize(branch.instance(last.mean((2, 3))), dim=1)
    return instance, functional.normalize(branch.contour(third.mean((2, 3))), dim=1), last


def _pooled(maps: Tensor, boxes: Tensor) -> Tensor:
    """Pool boxes (M, 5), of which every image has equally many or none: (M, C)."""
    images, counts = boxes[:, 0].long().unique_consecutive(return_counts=True)
    some = maps if len(images) == len(maps) else maps[images]
    own = boxes[:, 1:].view(len(images), int(counts[0]), 4)
    return region_pool(some, own, STRIDES[-1], most=max(maps.shape[-2:])).flatten(0, 1)


@torch.no_grad()
def _accuracies(logits: Tensor, labels: Tensor) -> list[float]:
    hits = logits.topk(5, 1).indices.t() == labels
    return [hits[:k].float().sum().item() * 100 / len(labels) for k in (1, 5)]
