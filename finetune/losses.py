"""Losses of labelled pixels: cross-entropy, focal, dice, and their weighted sum.

Logits are (N, classes, ...), labels (N, ...) output numbers, 255 unlabelled; weights (classes,). Without a labelled
pixel every loss is 0.
"""

import torch
from torch import Tensor
from torch.nn import functional

from finetune.config import LossConfig
from finetune.legend import IGNORED


def cross_entropy(logits: Tensor, label: Tensor, weights: Tensor) -> Tensor:
    """Give the weighted mean over labelled pixels; 0 where none is labelled (torch's own mean is NaN there)."""
    weights = weights.to(logits.device)
    total = functional.cross_entropy(_wide(logits), label, weights, ignore_index=IGNORED, reduction="sum")
    padded = torch.cat([weights, weights.new_zeros(IGNORED + 1 - len(weights))])
    return total / padded[label].sum().clamp(min=1e-6)


def focal(logits: Tensor, label: Tensor, alpha: Tensor, gamma: float) -> Tensor:
    """Give the mean over labelled pixels of alpha_y (1 - p_y)^gamma (-log p_y), y the label.

    The mean counts pixels and not weights, so that a scale on alpha has an effect.
    Source: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, equation 5.
    """
    labelled = label != IGNORED
    index = torch.where(labelled, label, torch.zeros_like(label))
    log_p = _wide(logits).log_softmax(1).gather(1, index[:, None])[:, 0]
    weight = alpha.to(log_p)[index]
    if gamma:
        weight = weight * (-torch.expm1(log_p)).clamp(min=1e-12) ** gamma  # a root's slope at 0 is infinite
    return -(weight * log_p * labelled).sum() / labelled.sum().clamp(min=1)


def dice(logits: Tensor, label: Tensor, weights: Tensor) -> Tensor:
    """Give 1 - the weighted mean over the classes that are there of 2 sum(p g) / (sum p + sum g).

    Sums run over all labelled pixels of the batch, p is the probability of the class and g its truth. A class without
    a labelled pixel is left out. Source: Milletari et al., V-Net, 3DV 2016, with plain sums below the line.
    """
    labelled = label != IGNORED
    p = (_wide(logits).softmax(1) * labelled[:, None]).transpose(0, 1).flatten(1)
    one_hot = functional.one_hot(torch.where(labelled, label, torch.zeros_like(label)).flatten(), len(p))
    truth = one_hot.T.to(p) * labelled.flatten()
    there = truth.sum(1)
    score = 2 * (p * truth).sum(1) / (p.sum(1) + there).clamp(min=1e-6)
    share = weights.to(p) * (there > 0)
    return (share * (1 - score)).sum() / share.sum().clamp(min=1e-6)


def scaled_alpha(weights: Tensor, config: LossConfig) -> Tensor:
    """Give the focal loss's weight of each class, by the reading that the configuration names.

    ``multiply``: s w. ``power``: w^s, which evens weights out below s = 1. ``blend``: 1 - s + s w, from no weights
    (s = 0) to the weights themselves (s = 1). A class of weight 0 (never seen) keeps 0 for s > 0 but in "blend".
    """
    scale = config.alpha_scale
    if config.alpha == "multiply":
        return scale * weights
    return weights**scale if config.alpha == "power" else 1 - scale + scale * weights


def segmentation_losses(logits: Tensor, label: Tensor, weights: Tensor, config: LossConfig) -> dict[str, Tensor]:
    """Give ``loss``, the weighted sum, and beside it each term that has a share, detached."""
    terms: dict[str, tuple[float, Tensor]] = {}
    if config.cross_entropy:
        terms["cross_entropy"] = (config.cross_entropy, cross_entropy(logits, label, weights))
    if config.focal:
        terms["focal"] = (config.focal, focal(logits, label, scaled_alpha(weights, config), config.gamma))
    if config.dice:
        terms["dice"] = (config.dice, dice(logits, label, weights))
    total = torch.stack([share * value for share, value in terms.values()]).sum()
    return {"loss": total, **{name: value.detach() for name, (_, value) in terms.items()}}


def regression_loss(error: Tensor, counted: Tensor, kind: str) -> Tensor:
    """Give the mean over counted places of the squared (mse, rmse: its root), absolute (l1) or Huber error.

    ``error`` is in standard deviations of the target, where Huber's bend lies at 1.
    """
    error = torch.where(counted, _wide(error), torch.zeros_like(error))
    if kind == "l1":
        each = error.abs()
    elif kind == "huber":
        each = functional.huber_loss(error, torch.zeros_like(error), reduction="none")
    else:
        each = error**2
    mean = each.sum() / counted.sum().clamp(min=1)
    return (mean + 1e-12).sqrt() if kind == "rmse" else mean


def _wide(x: Tensor) -> Tensor:
    """Give at least float32: exponentials of bf16 are not worth much."""
    return x if x.dtype == torch.float64 else x.float()
