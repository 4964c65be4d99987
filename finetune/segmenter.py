"""Encoder and UperNet as one network, and what it loses on a batch of labelled crops."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.config import DecoderConfig
from finetune.decoder import FcnHead, UperNet, resize_scores
from finetune.legend import IGNORED
from pretrain.config import InputSpec
from pretrain.encoder import ResNet, to_input
from shards.tile import DbScale

AUX_STAGE = 2
"""The feature map that the second head reads, counted from 0: stage 3 of 4."""


class Segmenter(nn.Module):
    """Class scores for every pixel of stored codes."""

    def __init__(self, encoder: ResNet, classes: int, config: DecoderConfig, scale: DbScale, spec: InputSpec) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = UperNet(encoder.channels, classes, config)
        self.aux = (
            FcnHead(encoder.channels[AUX_STAGE], classes, config.aux_channels, config.dropout)
            if config.aux_weight
            else None
        )
        self.classes, self.scale, self.spec = classes, scale, spec

    def forward(self, codes: Tensor) -> Tensor:
        """Give logits (N, classes, rows, cols) of codes (N, bands, rows, cols) of any integer type."""
        return self.both(codes)[0]

    def both(self, codes: Tensor) -> tuple[Tensor, Tensor | None]:
        """Give the logits, and in training those of the second head."""
        # int32: not every device compares uint16.
        features = self.encoder(to_input(codes.to(torch.int32), self.scale, self.spec))
        size = (codes.shape[2], codes.shape[3])
        second = self.aux(features[AUX_STAGE]) if self.aux is not None and self.training else None
        return resize_scores(self.decoder(features), *size), None if second is None else resize_scores(second, *size)


class SegmentationLearner:
    """Cross-entropy over the labelled pixels of a batch.

    A batch has ``codes`` (N, bands, rows, cols) and ``label`` (N, rows, cols) output numbers, 255 unlabelled.
    ``class_weights`` (classes,) weigh the classes in the loss. ``encoder_lr_factor`` makes the encoder move by that
    part of every optimiser step. Dropout depends on ``seed``, the step and the rank only.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        aux_weight: float,
        *,
        class_weights: Tensor | None = None,
        encoder_lr_factor: float = 1.0,
        seed: int = 0,
        rank: int = 0,
    ) -> None:
        self.segmenter, self.aux_weight = segmenter, aux_weight
        self.class_weights = torch.ones(segmenter.classes) if class_weights is None else class_weights
        self.encoder_lr_factor, self.seed, self.rank = encoder_lr_factor, seed, rank
        self._before: list[Tensor] = []

    @property
    def module(self) -> nn.Module:
        """Encoder and heads."""
        return self.segmenter

    def parameters(self) -> Iterable[nn.Parameter]:
        """Everything is trained."""
        return self.segmenter.parameters()

    def losses(self, batch: Mapping[str, Tensor], step: int) -> Mapping[str, Tensor]:
        """Give ``loss`` = cross-entropy + weighted second head, and the share of labelled pixels that are right."""
        if self.encoder_lr_factor != 1 and not self._before:
            self._before = [p.detach().clone() for p in self.segmenter.encoder.parameters()]
        label = batch["label"].long()
        with _keyed(batch["codes"].device, self.seed, step, self.rank):
            logits, second = self.segmenter.both(batch["codes"])
        weights = self.class_weights.to(logits.device)
        loss = cross_entropy(logits, label, weights)
        out = {"cross_entropy": loss.detach()}
        if second is not None:
            aux = cross_entropy(second, label, weights)
            out["aux"] = aux.detach()
            loss = loss + self.aux_weight * aux
        labelled = label != IGNORED
        right = (logits.detach().argmax(1) == label) & labelled
        out["accuracy"] = right.sum() / labelled.sum().clamp(min=1)
        return {"loss": loss, **out}

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Take back what the encoder moved too far: both optimisers' steps are linear in the learning rate."""
        for before, parameter in zip(self._before, self.segmenter.encoder.parameters(), strict=False):
            parameter.copy_(before.lerp_(parameter, self.encoder_lr_factor))


@contextmanager
def _keyed(device: torch.device, *key: int) -> Iterator[None]:
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
        yield


def cross_entropy(logits: Tensor, label: Tensor, weights: Tensor) -> Tensor:
    """Give the weighted mean over labelled pixels; 0 where none is labelled (torch's own mean is NaN there)."""
    total = functional.cross_entropy(logits.float(), label, weights, ignore_index=IGNORED, reduction="sum")
    padded = torch.cat([weights, weights.new_zeros(IGNORED + 1 - len(weights))])
    return total / padded[label].sum().clamp(min=1e-6)
