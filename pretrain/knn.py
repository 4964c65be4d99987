"""Nearest neighbours and their score: the probe's arithmetic."""

import torch
from torch import Tensor

CHUNK = 2048


def nearest_classes(features: Tensor, classes: Tensor, queries: Tensor, k: int) -> Tensor:
    """Classify queries (Q, D) by the vote of their k nearest of ``features`` (N, D), whose classes are (N,) int64.

    Near is a high cosine; all k votes count the same, and of classes with equal votes the least number wins. Fewer
    than k features all vote. Gives (Q,) int64.
    """
    known = torch.nn.functional.normalize(features.float(), dim=1)
    number = int(classes.max()) + 1
    found = []
    for part in torch.split(torch.nn.functional.normalize(queries.float(), dim=1), CHUNK):
        nearest = (part @ known.t()).topk(min(k, len(known)), dim=1).indices
        votes = torch.zeros(len(part), number, device=part.device)
        votes.scatter_add_(1, classes[nearest], torch.ones_like(nearest, dtype=votes.dtype))
        found.append(votes.argmax(1))
    return torch.cat(found)


def scores(truth: Tensor, predicted: Tensor) -> tuple[float, float]:
    """Give accuracy and macro-F1 of class numbers (N,): the mean F1 of the classes that either of them has."""
    number = int(torch.maximum(truth, predicted).max()) + 1
    table = torch.bincount(truth * number + predicted, minlength=number**2).view(number, number).double()
    either = table.sum(0) + table.sum(1)
    f1 = 2 * table.diagonal()[either > 0] / either[either > 0]
    return float((truth == predicted).double().mean()), float(f1.mean())
