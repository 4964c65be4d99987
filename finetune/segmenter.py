"""Encoder and decoder as one network for classes of pixels, and what it loses on a batch of labelled crops."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from finetune.config import DecoderConfig, LossConfig
from finetune.decoder import FcnHead, resize_scores
from finetune.decoders import make_decoder
from finetune.dilation import dilate
from finetune.encoders import Encoder, date_features
from finetune.learner import TaskLearner
from finetune.legend import IGNORED
from finetune.losses import cross_entropy as cross_entropy
from finetune.losses import segmentation_losses
from finetune.refine import Refined
from pretrain.config import InputSpec
from pretrain.encoder import to_input
from shards.tile import DbScale

AUX_STAGE = 2
"""The feature map that the second head reads, counted from 0: stage 3 of 4."""


class Segmenter(nn.Module):
    """Class scores for every pixel of stored codes.

    With ``dates`` 2 the codes hold the bands of two dates after each other, and the decoder sees how their feature
    maps differ.
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: int,
        config: DecoderConfig,
        scale: DbScale,
        spec: InputSpec,
        dates: int = 1,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = make_decoder(encoder.channels, spec.bands * dates, classes, config)
        self.aux = (
            FcnHead(encoder.channels[AUX_STAGE], classes, config.aux_channels, config.dropout)
            if config.aux_weight
            else None
        )
        self.classes, self.scale, self.spec, self.dates = classes, scale, spec, dates
        dilate(self.get_submodule("encoder"), config.output_stride)

    def forward(self, codes: Tensor) -> Tensor:
        """Give logits (N, classes, rows, cols) of codes (N, bands, rows, cols) of any integer type."""
        return self.both(codes)[0]

    def both(self, codes: Tensor) -> tuple[Tensor, Tensor | None]:
        """Give the logits, and in training those of the second head."""
        # int32: not every device compares uint16.
        image = to_input(codes.to(torch.int32), self.scale, self.spec)
        features = date_features(self.encoder, image, self.dates)
        size = (codes.shape[2], codes.shape[3])
        second = self.aux(features[AUX_STAGE]) if self.aux is not None and self.training else None
        refined = isinstance(self.decoder, Refined)
        scores: Tensor = self.decoder(features, image) if refined else self.decoder(features)
        return resize_scores(scores, *size), None if second is None else resize_scores(second, *size)


class SegmentationLearner(TaskLearner):
    """The losses that the configuration names (cross-entropy alone by default) over the labelled pixels of a batch.

    A batch has ``codes`` (N, bands, rows, cols) and ``label`` (N, rows, cols) output numbers, 255 unlabelled.
    ``class_weights`` (classes,) weigh the classes in the loss; the second head has the cross-entropy.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        aux_weight: float,
        *,
        class_weights: Tensor | None = None,
        loss: LossConfig | None = None,
        encoder_lr_factor: float = 1.0,
        seed: int = 0,
        rank: int = 0,
    ) -> None:
        super().__init__(segmenter, self._objective, encoder_lr_factor=encoder_lr_factor, seed=seed, rank=rank)
        self.segmenter, self.aux_weight, self.loss = segmenter, aux_weight, loss or LossConfig()
        self.class_weights = torch.ones(segmenter.classes) if class_weights is None else class_weights

    def _objective(self, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Give ``loss`` = the losses + weighted second head, and the share of labelled pixels that are right."""
        label = batch["label"].long()
        logits, second = self.segmenter.both(batch["codes"])
        weights = self.class_weights.to(logits.device)
        out = segmentation_losses(logits, label, weights, self.loss)
        if second is not None:
            aux = cross_entropy(second, label, weights)
            out |= {"loss": out["loss"] + self.aux_weight * aux, "aux": aux.detach()}
        labelled = label != IGNORED
        right = (logits.detach().argmax(1) == label) & labelled
        return {**out, "accuracy": right.sum() / labelled.sum().clamp(min=1)}
