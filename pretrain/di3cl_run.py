"""The dials of a DI3CL run; the defaults are the published values."""

from typing import Literal

from pydantic import Field

from pretrain.config import Frozen
from pretrain.pair_run import PairRun


class HeadConfig(Frozen):
    """Sizes of projectors and predictor."""

    hidden: int = Field(default=2048, ge=1)
    """Width of the hidden layer."""
    dim: int = Field(default=128, ge=1)
    """Length of an embedding."""


class ContrastConfig(Frozen):
    """Momentum contrast (He et al. 2020)."""

    queue: int = Field(default=65536, ge=1)
    """Keys in each queue."""
    queue_start: Literal["random", "empty"] = "random"
    """random: noise until keys fill it, as published; empty: only keys."""
    temperature: float = Field(default=0.2, gt=0)
    """Of the softmax over keys."""
    momentum: float = Field(default=0.999, ge=0, le=1)
    """Of the key twin."""
    shuffle: bool = True
    """Shuffle keys across ranks before batch norm."""


class LossWeights(Frozen):
    """Weights of the three losses."""

    instance: float = Field(default=0.8, ge=0)
    """Contrast of whole views."""
    contour: float = Field(default=0.2, ge=0)
    """Contrast of the third stage."""
    region: float = Field(default=5.0, ge=0)
    """Agreement of matched boxes."""


class DI3CLRun(PairRun):
    """A DI3CL pre-training run."""

    heads: HeadConfig = HeadConfig()
    contrast: ContrastConfig = ContrastConfig()
    loss: LossWeights = LossWeights()
