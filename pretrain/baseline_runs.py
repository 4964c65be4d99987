"""The dials of the baselines; heads, temperatures, momenta and weights default to the published values.

Views, greys and batch are the frame's (:class:`pretrain.pair_run.PairRun`), the same for every method, so that methods
are compared and not their inputs. What a paper used beside that stands with its method. Defaults that differ between
methods have a class of their own: a default value of a field would be lost where a run gives a part of it.
"""

from typing import Literal

from pydantic import Field

from pretrain.config import Frozen, Optim, Share
from pretrain.pair_run import PairRun

BatchNorm = Literal["local", "sync", "split"]


class Projector(Frozen):
    """Sizes of a projector."""

    hidden: int = Field(default=2048, ge=1)
    """Width of the hidden layers."""
    dim: int = Field(default=128, ge=1)
    """Length of an embedding."""


class QueueContrast(Frozen):
    """Contrast with a queue of keys (He et al. 2020)."""

    queue: int = Field(default=65536, ge=1)
    """Keys in the queue."""
    queue_start: Literal["random", "empty"] = "random"
    """random: noise until keys fill it, as published; empty: only keys."""
    temperature: float = Field(default=0.2, gt=0)
    """Of the softmax over keys."""
    momentum: Share = 0.999
    """Of the key twin."""
    shuffle: bool = True
    """Shuffle keys across ranks before batch norm."""


class QueuedRun(PairRun):
    """A run with an instance contrast over a queue."""

    heads: Projector = Projector()
    contrast: QueueContrast = QueueContrast()


class MoCoRun(QueuedRun):
    """A MoCo v2 pre-training run."""


class LarsOptim(Optim):
    """LARS as it is published with large batches: without weight decay and adaption on biases and batch norm."""

    kind: Literal["sgd", "adamw", "lars"] = "lars"
    """Which optimiser; lars for batches of thousands."""
    weight_decay_on: Literal["all", "weights"] = "weights"
    """all: every parameter; weights: not on biases and batch norm. LARS adapts what decays."""


class BatchContrast(Frozen):
    """Contrast within the batch of all ranks."""

    temperature: float = Field(default=0.1, gt=0)
    """Of the softmax over the batch."""


class SyncedRun(PairRun):
    """A run whose heads have batch norm over all ranks, as published."""

    batch_norm: BatchNorm = "sync"
    """Statistics of a rank's samples, of all ranks' samples, or of each group of a rank's samples."""


class SimCLROptim(LarsOptim):
    """SimCLR's published optimiser."""

    lr: float = Field(default=0.3, gt=0)
    """Peak learning rate, at a global batch of lr_batch."""
    weight_decay: float = Field(default=1e-6, ge=0)
    """Pull of parameters towards zero."""


class SimCLRRun(SyncedRun):
    """A SimCLR pre-training run."""

    optim: SimCLROptim = SimCLROptim()
    heads: Projector = Projector()
    contrast: BatchContrast = BatchContrast()


class Twin(Frozen):
    """The momentum twin."""

    momentum: Share = 0.996
    """At the first step; it rises to 1 along a cosine."""


class WideProjector(Projector):
    """Sizes of BYOL's projector and predictor, and of PixPro's projector."""

    hidden: int = Field(default=4096, ge=1)
    """Width of the hidden layers."""
    dim: int = Field(default=256, ge=1)
    """Length of an embedding."""


class TwinsOptim(LarsOptim):
    """The published optimiser of BYOL and of Barlow Twins."""

    lr: float = Field(default=0.2, gt=0)
    """Peak learning rate, at a global batch of lr_batch."""
    weight_decay: float = Field(default=1.5e-6, ge=0)
    """Pull of parameters towards zero."""


class BYOLRun(SyncedRun):
    """A BYOL pre-training run."""

    optim: TwinsOptim = TwinsOptim()
    heads: WideProjector = WideProjector()
    twin: Twin = Twin()


class Predicted(Frozen):
    """Sizes of SimSiam's projector and predictor."""

    hidden: int = Field(default=2048, ge=1)
    """Width of the projector's hidden layers."""
    dim: int = Field(default=2048, ge=1)
    """Length of an embedding."""
    predictor: int = Field(default=512, ge=1)
    """Width of the predictor's hidden layer."""


class SimSiamOptim(Optim):
    """SimSiam's published optimiser."""

    lr: float = Field(default=0.05, gt=0)
    """Peak learning rate, at a global batch of lr_batch."""


class SimSiamRun(SyncedRun):
    """A SimSiam pre-training run."""

    optim: SimSiamOptim = SimSiamOptim()
    heads: Predicted = Predicted()


class Redundancy(Frozen):
    """Weight of Barlow Twins' second term."""

    weight: float = Field(default=0.005, ge=0)
    """Of correlations between different numbers of an embedding (lambda)."""


class WidestProjector(Projector):
    """Sizes of Barlow Twins' projector."""

    hidden: int = Field(default=8192, ge=1)
    """Width of the hidden layers."""
    dim: int = Field(default=8192, ge=1)
    """Length of an embedding."""


class BarlowRun(SyncedRun):
    """A Barlow Twins pre-training run."""

    optim: TwinsOptim = TwinsOptim()
    heads: WidestProjector = WidestProjector()
    redundancy: Redundancy = Redundancy()


class Propagation(Frozen):
    """Pixel propagation."""

    sharpness: float = Field(default=2.0, ge=1)
    """Power of the similarity of two pixels (gamma)."""
    reach: float = Field(default=0.7, gt=0)
    """Pixels closer than this many diagonals of a cell show the same."""


class PixProOptim(LarsOptim):
    """PixPro's published optimiser."""

    lr: float = Field(default=1.0, gt=0)
    """Peak learning rate, at a global batch of lr_batch."""
    weight_decay: float = Field(default=1e-5, ge=0)
    """Pull of parameters towards zero."""


class FasterTwin(Twin):
    """PixPro's momentum twin."""

    momentum: Share = 0.99
    """At the first step; it rises to 1 along a cosine."""


class PixProRun(SyncedRun):
    """A PixPro pre-training run."""

    optim: PixProOptim = PixProOptim()
    heads: WideProjector = WideProjector()
    twin: FasterTwin = FasterTwin()
    pixels: Propagation = Propagation()


class Windows(Frozen):
    """Windows that slide over a view."""

    side_px: tuple[int, int] = (48, 32)
    """Side on the third stage's map and on the second's."""
    stride_px: tuple[int, int] = (32, 24)
    """Pixels from one to the next, on the same maps."""
    dim: int = Field(default=256, ge=1)
    """Channels of the pyramid."""
    others: int = Field(default=36864, ge=1)
    """Most windows of all ranks that a window is told from."""
    weight: float = Field(default=1.0, ge=0)
    """Weight of each of the two losses of windows."""


class ReSimRun(QueuedRun):
    """A ReSim pre-training run."""

    windows: Windows = Windows()


class Consistency(Frozen):
    """Consistency of the ground that both views show."""

    cells: int = Field(default=7, ge=1)
    """The ground is divided into cells x cells parts."""
    weight: float = Field(default=1.0, ge=0)
    """Weight against the contrast of whole views."""


class SSCCLRun(QueuedRun):
    """An SSCCL pre-training run."""

    consistency: Consistency = Consistency()
