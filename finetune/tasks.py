"""From a task and its training labels to the learner that the loop trains."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.classifier import ClassificationLearner, TileNet
from finetune.config import FinetuneRun, TaskConfig
from finetune.datasets import balanced_weights
from finetune.learner import TaskLearner
from finetune.legend import IGNORED, Legend
from finetune.model import Network
from finetune.regressor import RegressionLearner, Regressor
from finetune.segmenter import SegmentationLearner
from finetune.start import Task, training_labels
from finetune.targets import class_counts, enough, target_moments, task_legend, tile_class, tile_classes, value_table
from infra.errors import UsageError

HEADLINES = {
    "segmentation": ("miou", "miou_no_background"),
    "classification": ("oa", "mf1"),
    "multilabel": ("ap_macro", "f1_macro"),
    "regression": ("rmse", "r2"),
    "change": ("miou", "miou_no_background"),
}
"""The two scores that a line about a seed names."""


def make_learner(network: Network, task: Task, run: FinetuneRun, rank: int) -> TaskLearner:
    """Make the learner of a run's task. A regressor takes mean and deviation of its target from the labels."""
    pace: dict[str, Any] = {"encoder_lr_factor": run.encoder_lr_factor, "seed": run.seed, "rank": rank}
    if isinstance(network, Regressor):
        table = value_table(task.legend, run.task.target)
        mean, deviation = target_moments(training_labels(task, run.task), table, run.task)
        network.scale_to(mean, deviation)
        return RegressionLearner(network, run.task, table, run.decoder.aux_weight, loss=run.loss, **pace)
    weights = class_weights(task, run)
    if isinstance(network, TileNet):
        legend = task_legend(task.legend, run.task)
        return ClassificationLearner(network, run.task, legend, class_weights=weights, loss=run.loss, **pace)
    return SegmentationLearner(network, run.decoder.aux_weight, class_weights=weights, loss=run.loss, **pace)


def class_weights(task: Task, run: FinetuneRun) -> Tensor | None:
    """Weigh the classes by their share of the labels: of pixels, or of tiles where tiles are asked for."""
    if run.class_weights == "none":
        return None
    shares = answer_shares(training_labels(task, run.task), task_legend(task.legend, run.task), run.task)
    return torch.from_numpy(balanced_weights(shares) if run.class_weights == "balanced" else complement(shares))


def complement(shares: NDArray[np.float64]) -> NDArray[np.float32]:
    """Give (1 - share) / (classes - 1), which sums to 1: the published weights of the ALOS-2 land cover work."""
    weights: NDArray[np.float32] = ((1 - shares) / (len(shares) - 1)).astype(np.float32)
    return weights


def answer_shares(labels: Iterable[NDArray[np.uint8]], legend: Legend, task: TaskConfig) -> NDArray[np.float64]:
    """Give how often each class is the answer, as shares that sum to 1. Raises UsageError where none ever is."""
    counts = torch.zeros(len(legend.ids), dtype=torch.float64)
    for label in labels:
        given = torch.from_numpy(label)[None]
        if task.kind == "multilabel":
            counts += tile_classes(given, legend, task)[0] * enough(given, task)
        elif task.tiles:
            answer = int(tile_class(given, legend, task)[0])
            counts += 0.0 if answer == IGNORED else torch.eye(len(counts), dtype=torch.float64)[answer]
        else:
            counts += class_counts(given, len(legend.ids))[0]
    if not counts.sum():
        raise UsageError("no label of the training scenes has an answer: see --task.labelled-share")
    shares: NDArray[np.float64] = (counts / counts.sum()).numpy()
    return shares
