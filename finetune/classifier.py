"""Tiles into classes: one for each tile, or several; also whether a tile has changed between two dates."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.config import DecoderConfig, LossConfig, TaskConfig
from finetune.encoders import Encoder, date_features
from finetune.learner import TaskLearner
from finetune.legend import IGNORED, Legend
from finetune.losses import segmentation_losses
from finetune.probes import PROBES
from finetune.targets import enough, tile_class, tile_classes
from pretrain.config import InputSpec
from pretrain.encoder import to_input
from shards.tile import DbScale


class TileNet(nn.Module):
    """A few numbers for a tile of stored codes: encoder, last map, probe. ``dates`` as for a Segmenter."""

    def __init__(
        self,
        encoder: Encoder,
        outputs: int,
        config: DecoderConfig,
        scale: DbScale,
        spec: InputSpec,
        dates: int = 1,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.probe = PROBES[config.pool](encoder.channels[-1], outputs, config)
        self.outputs, self.scale, self.spec, self.dates = outputs, scale, spec, dates

    def forward(self, codes: Tensor) -> Tensor:
        """Give (N, outputs) of codes (N, bands, rows, cols) of any integer type."""
        image = to_input(codes.to(torch.int32), self.scale, self.spec)
        out: Tensor = self.probe(date_features(self.encoder, image, self.dates)[-1])
        return out


class ClassificationLearner(TaskLearner):
    """The class of a tile by cross-entropy (or the losses that are configured), or its classes by binary ones.

    A batch has ``codes`` and ``label`` as for segmentation; what is asked of a crop follows from the crop's own
    label by :mod:`finetune.targets`.
    """

    def __init__(
        self,
        network: TileNet,
        task: TaskConfig,
        legend: Legend,
        *,
        class_weights: Tensor | None = None,
        loss: LossConfig | None = None,
        encoder_lr_factor: float = 1.0,
        seed: int = 0,
        rank: int = 0,
    ) -> None:
        objective = self._several if task.kind == "multilabel" else self._one
        super().__init__(network, objective, encoder_lr_factor=encoder_lr_factor, seed=seed, rank=rank)
        self.task, self.legend, self.loss = task, legend, loss or LossConfig()
        self.class_weights = torch.ones(len(legend.ids)) if class_weights is None else class_weights

    def _one(self, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        logits: Tensor = self.network(batch["codes"])
        truth = tile_class(batch["label"], self.legend, self.task)
        out = segmentation_losses(logits, truth, self.class_weights.to(logits.device), self.loss)
        known = truth != IGNORED
        right = (logits.detach().argmax(1) == truth) & known
        return {**out, "accuracy": right.sum() / known.sum().clamp(min=1)}

    def _several(self, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        logits: Tensor = self.network(batch["codes"])
        truth = tile_classes(batch["label"], self.legend, self.task)
        known = enough(batch["label"], self.task)[:, None]
        each = functional.binary_cross_entropy_with_logits(logits.float(), truth, reduction="none")
        weighed = each * self.class_weights.to(each) * known
        right = ((logits.detach() > 0) == truth.bool()) & known
        values = (known.sum() * truth.shape[1]).clamp(min=1)
        return {"loss": weighed.sum() / values, "accuracy": right.sum() / values}
