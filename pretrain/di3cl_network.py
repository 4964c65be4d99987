"""The network of DI3CL: an encoder with three projectors, their twins, a predictor, and two queues of keys."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from infra.errors import UsageError
from pretrain.di3cl_run import DI3CLRun
from pretrain.encoder import STRIDES, ResNet
from pretrain.export import load_weights, read_weights
from pretrain.parts import Queue, freeze, projector, unit
from pretrain.published import network_tensors
from pretrain.regions import region_pool


class Branch(nn.Module):
    """One side of the network: encoder and three projectors."""

    def __init__(self, config: DI3CLRun) -> None:
        super().__init__()
        heads = config.heads
        self.encoder = ResNet(config.encoder.depth, config.encoder.bands)
        channels = self.encoder.channels
        self._kind, self._contour_stage, self._region_stage = (
            config.contour.kind,
            config.contour.stage,
            config.region.stage,
        )
        self.instance = projector(channels[-1], heads.hidden, heads.dim)
        self.contour = projector(channels[self._contour_stage - 1], heads.hidden, heads.dim)
        self.region = projector(channels[self._region_stage - 1], heads.hidden, heads.dim, norm=True)

    def forward(self, x: Tensor, boxes: Tensor, where: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Give unit embeddings of instance (N, D) and contours (N, P, D), and pooled boxes (N, R, C).

        Of input (N, bands, H, W) and boxes (N, R, 4). ``where`` says what the contour projector sees: the whole map
        (None), its mean weighted by an edge map (N, 1, h, w), or cells (N, P, 4).
        """
        maps = self.encoder(x)
        instance = unit(self.instance(maps[-1].mean((2, 3))))
        seen = self._contour_features(maps[self._contour_stage - 1], where)
        contour = unit(self.contour(seen.flatten(0, 1))).view(*seen.shape[:2], -1)
        return instance, contour, _pool(maps[self._region_stage - 1], boxes, self._region_stage)

    def _contour_features(self, maps: Tensor, where: Tensor | None) -> Tensor:
        if where is None:
            return maps.mean((2, 3)).unsqueeze(1)
        if self._kind == "cells":
            return _pool(maps, where, self._contour_stage)
        weights = functional.adaptive_avg_pool2d(where, (maps.shape[-2], maps.shape[-1])) + 1e-6
        return ((maps * weights).sum((2, 3)) / weights.sum((2, 3))).unsqueeze(1)


def _pool(maps: Tensor, boxes: Tensor, stage: int) -> Tensor:
    return region_pool(maps, boxes, STRIDES[stage - 1], most=max(maps.shape[-2:]))


class DI3CLNetwork(nn.Module):
    """Query branch and predictor, the key twin, and the two queues."""

    def __init__(self, config: DI3CLRun) -> None:
        super().__init__()
        heads = config.heads
        self.query = Branch(config)
        self.predictor = projector(heads.dim, heads.hidden, heads.dim, norm=True)
        if config.encoder.weights is not None:
            load_weights(self.query.encoder, config.encoder.weights)
        self.key = Branch(config)
        freeze(self.key, self.query)
        generator = torch.Generator().manual_seed(config.seed)
        self.queue = Queue(("instance", "contour"), config.contrast.queue, heads.dim, generator)


def load_published(network: DI3CLNetwork, path: str) -> None:
    """Fill a whole network from a published checkpoint: both sides, predictor, queues. Bands are adapted.

    Raises UsageError where the file is none, or is of another depth or other dials.
    """
    state = network_tensors(read_weights(path), network.query.encoder.bands)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(
            f"{path} does not fit these dials (--encoder.depth, --heads.hidden, --contrast.queue): {error}"
        ) from error
