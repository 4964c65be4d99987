"""Honest scores of a model of any task over whole scenes."""

import functools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.change import pair_scene
from finetune.classifier import TileNet
from finetune.config import TaskConfig
from finetune.legend import IGNORED, Legend
from finetune.metrics import Scores, confusion_matrix, scores
from finetune.model import Network
from finetune.mosaic import SceneTiles
from finetune.predict import predictor, scene_confusion, scene_tiles
from finetune.regressor import Regressor
from finetune.scores_multilabel import multilabel_scores
from finetune.scores_regression import RegressionSums
from finetune.targets import enough, pixel_values, tile_class, tile_classes, tile_values, value_table
from finetune.value_strips import value_strips
from shards.reader import Corpus
from shards.tile import NO_DATA


@dataclass(frozen=True, slots=True)
class Numbers:
    """Scores by name, NaN where undefined."""

    values: Mapping[str, float]

    def flat(self) -> dict[str, float | None]:
        """Give every number; what is undefined is None."""
        return {name: None if math.isnan(value) else float(value) for name, value in self.values.items()}


Result = Scores | Numbers


class Gathered(Protocol):
    """What was seen of a scene: adds up over scenes, and gives scores."""

    def __add__(self, other: Self, /) -> Self: ...

    def result(self) -> Result:
        """Give the scores of everything gathered."""
        ...


@dataclass(frozen=True, slots=True)
class Confusion:
    """Truth against prediction of classes, of pixels or tiles."""

    matrix: NDArray[np.int64]
    legend: Legend

    def __add__(self, other: "Confusion") -> "Confusion":
        return Confusion(self.matrix + other.matrix, self.legend)

    def result(self) -> Result:
        """Give the scores of segmentation; ``pixels`` are tiles where tiles were classified."""
        return scores(self.matrix, self.legend)


@dataclass(frozen=True, slots=True)
class Errors:
    """Truth against prediction of numbers."""

    sums: RegressionSums

    def __add__(self, other: "Errors") -> "Errors":
        return Errors(self.sums + other.sums)

    def result(self) -> Result:
        """Give RMSE, MAE, R2 and more, in the units of the target."""
        return Numbers(self.sums.scores())


@dataclass(frozen=True, slots=True)
class Chances:
    """Truth 0 or 1 and probability of every class of every tile, both (tiles, classes)."""

    truth: NDArray[np.float64]
    probability: NDArray[np.float64]
    names: Sequence[str]

    def __add__(self, other: "Chances") -> "Chances":
        truth = np.concatenate([self.truth, other.truth])
        return Chances(truth, np.concatenate([self.probability, other.probability]), self.names)

    def result(self) -> Result:
        """Give average precision, F1, precision and recall, macro and micro."""
        return Numbers(multilabel_scores(self.truth, self.probability, names=self.names))


@dataclass(frozen=True, slots=True)
class Scorer:
    """A trained network with its task. ``legend`` has the task's classes, ``target`` those of the corpus.

    Scenes are predicted by windows of ``size`` pixels that overlap by a quarter; tiles are taken whole.
    """

    network: Network
    task: TaskConfig
    legend: Legend
    target: Legend
    size: int
    device: torch.device

    def score(self, scenes: Mapping[str, SceneTiles]) -> tuple[Result, dict[str, Result]]:
        """Score scenes: all of them together, and each by itself."""
        seen = self.gathered(scenes)
        return functools.reduce(operator.add, seen.values()).result(), {
            name: one.result() for name, one in seen.items()
        }

    def gathered(self, scenes: Mapping[str, SceneTiles]) -> dict[str, Gathered]:
        """Give what is seen of each scene, before it becomes scores."""
        gather = self._gather()
        return {name: gather(scene) for name, scene in scenes.items()}

    def _gather(self) -> Callable[[SceneTiles], Gathered]:
        if isinstance(self.network, Regressor):
            return self._tile_errors if self.task.tiles else self._pixel_errors
        if isinstance(self.network, TileNet):
            return self._chances if self.task.kind == "multilabel" else self._tile_confusion
        return self._pixel_confusion

    def _pixel_confusion(self, scene: SceneTiles) -> Confusion:
        predict = predictor(self.network, self.device)
        matrix = scene_confusion(predict, scene, self.legend, size=self.size, overlap=self.size // 4)
        return Confusion(matrix, self.legend)

    def _pixel_errors(self, scene: SceneTiles) -> Errors:
        sums, table = RegressionSums(), value_table(self.target, self.task.target)
        predict = predictor(self.network, self.device)
        for strip in value_strips(predict, scene, size=self.size, overlap=self.size // 4):
            label = self.target.to_output(scene.label(strip.row, 0, *strip.values.shape))
            sums += RegressionSums.of(pixel_values(torch.from_numpy(label), table).numpy(), strip.values)
        return Errors(sums)

    def _tile_errors(self, scene: SceneTiles) -> Errors:
        sums, table = RegressionSums(), value_table(self.target, self.task.target)
        for label, found in self._tiles(scene, self.target):
            sums += RegressionSums.of(tile_values(label, table, self.task).numpy(), found)
        return Errors(sums)

    def _tile_confusion(self, scene: SceneTiles) -> Confusion:
        classes = len(self.legend.ids)
        matrix = np.zeros((classes, classes), np.int64)
        for label, logits in self._tiles(scene, self.legend):
            truth = tile_class(label, self.legend, self.task).numpy().astype(np.uint8)
            matrix += confusion_matrix(truth, logits.argmax(1).astype(np.uint8), classes)
        return Confusion(matrix, self.legend)

    def _chances(self, scene: SceneTiles) -> Chances:
        rows = [np.zeros((2, 0, len(self.legend.ids)))]
        for label, logits in self._tiles(scene, self.legend):
            if enough(label, self.task):
                truth = tile_classes(label, self.legend, self.task).numpy()
                rows.append(np.stack([truth, 1 / (1 + np.exp(-logits.astype(np.float64)))]))
        truths, chances = np.concatenate(rows, 1)
        return Chances(truths, chances, self.legend.names)

    def _tiles(self, scene: SceneTiles, legend: Legend) -> Iterator[tuple[Tensor, NDArray[np.float32]]]:
        """Give the label (1, rows, cols) and the network's answer of every labelled tile."""
        predict = predictor(self.network, self.device)
        for n in range(len(scene.windows)):
            tile = scene.load(n)
            if tile.label is not None:
                label = legend.to_output(tile.label)
                label[(tile.pixels == NO_DATA).all(0)] = IGNORED
                yield torch.from_numpy(label)[None], predict(tile.pixels[None])


def scored_scenes(corpus: Corpus, task: TaskConfig, scenes: Sequence[str]) -> dict[str, SceneTiles]:
    """Open the scenes to be scored by name; of pairs, by the later scene."""
    if task.kind != "change":
        return {name: scene_tiles(corpus, name) for name in scenes}
    return {b: pair_scene(corpus, a, b, task.changed) for a, b in task.pairs if b in scenes}
