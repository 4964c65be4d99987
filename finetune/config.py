"""What a fine-tuning run consists of, as frozen values: free of torch, so that commands answer at once."""

from typing import Literal

from pydantic import Field

from pretrain.config import Frozen, InputSpec, LoopConfig, Optim, Reading


class DecoderConfig(Frozen):
    """The shape of UperNet. ``channels`` 512 is the published width; 64 trains in minutes on a CPU.

    ``aux_weight`` is the weight of the loss of an FCN head on stage 3 (0.4 as published), 0 leaves that head out.
    Source: Xiao et al., Unified Perceptual Parsing, ECCV 2018; the defaults of mmsegmentation.
    """

    channels: int = Field(default=512, ge=1)
    """Width of UperNet."""
    pool_scales: tuple[int, ...] = (1, 2, 3, 6)
    """Cells per side of each pooled context."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of channels dropped before the classes."""
    aux_weight: float = Field(default=0.4, ge=0)
    """Weight of the loss of a plain head on stage 3; 0 leaves it out."""
    aux_channels: int = Field(default=256, ge=1)
    """Width of that head."""


class CropConfig(Frozen):
    """What is drawn from a labelled tile: a square of ``size`` pixels, mirrored and turned by quarters at random."""

    size: int = Field(default=256, ge=32)
    """Side of a crop, pixels."""
    flips: bool = True
    """Mirror crops at random."""
    turns: bool = True
    """Turn crops by quarters at random."""


class FinetuneOptim(Optim):
    """AdamW with a learning rate that does not depend on the batch, unless told otherwise."""

    kind: Literal["sgd", "adamw"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    lr_batch: int | None = Field(default=None, ge=1)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_steps: int = Field(default=20, ge=0)


class FinetuneRun(LoopConfig):
    """A fine-tuning run.

    ``depth`` and ``input`` are those of a random encoder; a pretrained one brings its own. ``encoder_lr_factor``
    multiplies the encoder's learning rate. ``class_weights`` "balanced" weighs a class by the inverse square root of
    its share of the training pixels.
    """

    steps: int = Field(default=500, ge=1)
    batch: int = Field(default=8, ge=2)
    optim: FinetuneOptim = FinetuneOptim()
    lanes: int = Field(default=8, ge=1)
    """Places of the corpus that a batch mixes."""
    reading: Reading = Reading()
    depth: Literal[18, 34, 50, 101] = 50
    """Layers of a random encoder; a pretrained one brings its own."""
    input: InputSpec = InputSpec()
    decoder: DecoderConfig = DecoderConfig()
    crop: CropConfig = CropConfig()
    encoder_lr_factor: float = Field(default=1.0, ge=0)
    """Multiplies the encoder's learning rate."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: rare classes weigh more, by the inverse square root of their share."""
