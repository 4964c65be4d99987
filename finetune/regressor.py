"""Numbers for pixels or tiles: a network whose answer is in the units of the target."""

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from finetune.classifier import TileNet
from finetune.config import LossConfig, TaskConfig
from finetune.learner import TaskLearner
from finetune.losses import regression_loss
from finetune.segmenter import Segmenter
from finetune.targets import pixel_values, tile_values


class Regressor(nn.Module):
    """A network of one output, scaled by the mean and deviation of the training target, which it keeps."""

    def __init__(self, network: Segmenter | TileNet) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("deviation", torch.tensor(1.0))

    def scale_to(self, mean: float, deviation: float) -> None:
        """Let the network's 0 mean ``mean``, and its 1 one ``deviation`` more."""
        cast(Tensor, self.mean).fill_(mean)
        cast(Tensor, self.deviation).fill_(deviation)

    @property
    def encoder(self) -> nn.Module:
        """The encoder of the network."""
        return cast(nn.Module, self.network.encoder)

    def forward(self, codes: Tensor) -> Tensor:
        """Give values (N, rows, cols), or (N,) of tiles, of codes (N, bands, rows, cols)."""
        return self.both(codes)[0]

    def both(self, codes: Tensor) -> tuple[Tensor, Tensor | None]:
        """Give the values, and in training those of the second head."""
        if isinstance(self.network, TileNet):
            return self._scaled(self.network(codes)), None
        first, second = self.network.both(codes)
        return self._scaled(first), None if second is None else self._scaled(second)

    def _scaled(self, raw: Tensor) -> Tensor:
        mean, deviation = cast(Tensor, self.mean), cast(Tensor, self.deviation)
        return raw[:, 0].float() * deviation + mean


class RegressionLearner(TaskLearner):
    """The configured loss of the error, in deviations of the target, over the pixels or tiles that have a value."""

    def __init__(
        self,
        network: Regressor,
        task: TaskConfig,
        table: NDArray[np.float32],
        aux_weight: float,
        *,
        loss: LossConfig | None = None,
        encoder_lr_factor: float = 1.0,
        seed: int = 0,
        rank: int = 0,
    ) -> None:
        super().__init__(network, self._objective, encoder_lr_factor=encoder_lr_factor, seed=seed, rank=rank)
        self.regressor, self.task, self.table = network, task, table
        self.aux_weight, self.loss = aux_weight, loss or LossConfig()

    def _objective(self, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Give ``loss`` = the error + weighted second head, and the root mean square error in the target's units."""
        label = batch["label"]
        truth = tile_values(label, self.table, self.task) if self.task.tiles else pixel_values(label, self.table)
        known = ~truth.isnan()
        found, second = self.regressor.both(batch["codes"])
        loss = self._loss(found, truth, known)
        if second is not None:
            loss = loss + self.aux_weight * self._loss(second, truth, known)
        square = torch.where(known, (found.detach() - truth) ** 2, 0.0).sum() / known.sum().clamp(min=1)
        return {"loss": loss, "rmse": square.sqrt()}

    def _loss(self, found: Tensor, truth: Tensor, known: Tensor) -> Tensor:
        # Not a NaN times 0: its gradient would be a NaN too.
        error = torch.where(known, found - torch.where(known, truth, 0.0), 0.0)
        return regression_loss(error / cast(Tensor, self.regressor.deviation), known, self.loss.regression)
