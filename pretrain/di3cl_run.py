"""The dials of a DI3CL run; the defaults are the published values."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from pretrain.config import Frozen
from pretrain.pair_run import PairRun

Stage = Annotated[Literal[1, 2, 3, 4], BeforeValidator(int)]
"""Stage of a ResNet; a command line gives it as text."""


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
    project_shuffled: bool = False
    """Project the keys of regions before they go home, so that the projector's batch norm sees shuffled company too."""


class ContourConfig(Frozen):
    """What the contour loss compares.

    Edge strength is the ratio of averages (Touzi et al. 1988) of the linear power before any change of grey values.
    """

    kind: Literal["pooled", "edges", "cells"] = "pooled"
    """pooled: the map's mean, as published; edges: its mean weighted by edges; cells: cells of boxes at edges."""
    stage: Stage = 3
    """Stage of the encoder whose map is compared."""
    cells: int = Field(default=2, ge=1)
    """Cells along each side of a box (cells)."""
    chosen: int = Field(default=8, ge=1)
    """Cells of a tile that are compared, those with the strongest edges (cells)."""
    looks_px: int = Field(default=4, ge=1)
    """Side of the squares whose mean power edges are sought in (edges, cells)."""
    reach: int = Field(default=2, ge=1)
    """Squares on either side of an edge that are averaged (edges, cells)."""


class RegionConfig(Frozen):
    """What the region loss compares."""

    stage: Stage = 4
    """Stage of the encoder whose map boxes are pooled from."""


class LossWeights(Frozen):
    """Weights of the losses."""

    instance: float = Field(default=0.8, ge=0)
    """Contrast of whole views."""
    contour: float = Field(default=0.2, ge=0)
    """Contrast of contours."""
    region: float = Field(default=5.0, ge=0)
    """Agreement of matched boxes."""
    redundancy: float = Field(default=0.0, ge=0)
    """Squared correlation between channels of pooled boxes, against dimensional collapse; 0 as published."""
    symmetric: bool = False
    """Both views in both parts, at twice the work; no: view 1 asks, view 2 answers, as published."""


class DI3CLRun(PairRun):
    """A DI3CL pre-training run."""

    heads: HeadConfig = HeadConfig()
    contrast: ContrastConfig = ContrastConfig()
    contour: ContourConfig = ContourConfig()
    region: RegionConfig = RegionConfig()
    loss: LossWeights = LossWeights()
