"""What a fine-tuning run consists of, as frozen values: free of torch, so that commands answer at once."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from pretrain.config import Depth, Frozen, InputSpec, LoopConfig, Optim, Reading, Share

DecoderKind = Literal["upernet", "fcn", "unet", "danet", "pspnet", "deeplabv3plus", "farseg", "linear"]
TaskKind = Literal["segmentation", "classification", "multilabel", "regression", "change"]


def _two_by_two(value: Any) -> Any:
    """Take the flat list that a command line gives for a list of pairs."""
    flat = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    return [tuple(value[i : i + 2]) for i in range(0, len(value), 2)] if flat else value


class DecoderConfig(Frozen):
    """The head of a network. ``channels`` 512 is UperNet's published width; 64 trains in minutes on a CPU.

    ``aux_weight`` is the weight of the loss of an FCN head on stage 3 (0.4 as published), 0 leaves that head out.
    Tasks with one answer for a tile use ``pool`` and ``channels`` only, and no second head.
    Source: Xiao et al., Unified Perceptual Parsing, ECCV 2018; the defaults of mmsegmentation; the other kinds name
    theirs in their files.
    """

    kind: DecoderKind = "upernet"
    """How feature maps become classes of pixels; linear: one 1x1 convolution over all maps, a probe."""
    channels: int = Field(default=512, ge=1)
    """Width of the decoder, or of the attention of an attentive probe."""
    pool_scales: tuple[int, ...] = (1, 2, 3, 6)
    """Cells per side of each pooled context (upernet, pspnet)."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of channels dropped before the classes."""
    aux_weight: float = Field(default=0.4, ge=0)
    """Weight of the loss of a plain head on stage 3; 0 leaves it out."""
    aux_channels: int = Field(default=256, ge=1)
    """Width of that head."""
    output_stride: Annotated[Literal[8, 16, 32], BeforeValidator(int)] = 32
    """Input pixels per cell of the last map of a ResNet; 8 and 16 dilate its last stages, with the same weights."""
    inject: Literal["none", "stage1", "image"] = "none"
    """Fine detail joined after the decoder: the encoder's first map, or (with refine) small filters on the image."""
    refine: bool = False
    """Rise to full resolution by two steps of upsampling and convolution, instead of one bilinear one."""
    pool: Literal["mean", "attention"] = "mean"
    """How the last map becomes one answer for a tile: linear or attentive probe."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.inject == "image" and not self.refine:
            raise ValueError("inject image joins at the steps of refine: set refine too (--decoder.refine)")
        return self


class CropConfig(Frozen):
    """What is drawn from a labelled tile: a square of ``size`` pixels, mirrored and turned by quarters at random."""

    size: int = Field(default=256, ge=32)
    """Side of a crop, pixels."""
    flips: bool = True
    """Mirror crops at random."""
    turns: bool = True
    """Turn crops by quarters at random."""


class LossConfig(Frozen):
    """What a segmentation loses: a weighted sum of cross-entropy, focal loss and dice loss; tiles: cross-entropy.

    ``alpha`` says how the class weights w enter the focal loss, with the scale s = ``alpha_scale``: "multiply" s w,
    "power" w to the s, "blend" 1 - s + s w. The published text leaves open which was meant.
    ``regression`` is the loss of numbers, in standard deviations of the training target.
    """

    cross_entropy: float = Field(default=1.0, ge=0)
    """Share of the weighted cross-entropy."""
    focal: float = Field(default=0.0, ge=0)
    """Share of the focal loss."""
    dice: float = Field(default=0.0, ge=0)
    """Share of the dice loss."""
    gamma: float = Field(default=2.0, ge=0)
    """How little well-found pixels count in the focal loss; 0: all alike."""
    alpha: Literal["multiply", "power", "blend"] = "multiply"
    """How class weights w enter the focal loss."""
    alpha_scale: float = Field(default=1.0, ge=0)
    """The scale of that."""
    regression: Literal["mse", "rmse", "l1", "huber"] = "mse"
    """Loss of numbers."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.cross_entropy + self.focal + self.dice:
            raise ValueError("cross_entropy, focal and dice are all 0: nothing would be learned")
        if self.alpha == "blend" and self.alpha_scale > 1:
            raise ValueError(f"alpha blend with alpha_scale {self.alpha_scale}: expected 0 to 1")
        return self


class TargetConfig(Frozen):
    """How class ids of a label raster become numbers to predict: exactly one of the three.

    Label rasters hold uint8 class ids, so a measured quantity is either a class's value (``values``; classes without
    one are unlabelled), 1 or 0 (``share_of``: its mean over a tile is a share of the ground), or coded in the ids
    themselves (``linear``).
    """

    values: dict[str, float] = Field(default_factory=dict)
    """Class name -> value."""
    share_of: tuple[str, ...] = ()
    """Names of the classes whose share is asked."""
    linear: tuple[float, float] | None = None
    """Value of id 0, and step from id to id."""
    unit: str = ""
    """What the values are measured in, for maps and cards."""


class TaskConfig(Frozen):
    """What is asked of the labels.

    segmentation: the class of every pixel. classification: the commonest class of a tile. multilabel: every class
    that covers at least ``present_share`` of it. regression: a number (``target``), for pixels or tiles. change: two
    dates of the same place, for pixels or (changed or not) tiles.
    """

    kind: TaskKind = "segmentation"
    """What is asked."""
    level: Literal["pixel", "tile"] = "pixel"
    """regression, change: one answer for every pixel, or for a tile."""
    labelled_share: Share = 0.5
    """Tiles with a smaller share of labelled pixels have no answer of their own."""
    present_share: Share = 0.05
    """multilabel: a class with this share of the labelled pixels is there; change: so is a change."""
    target: TargetConfig = TargetConfig()
    """regression: how classes become numbers."""
    pairs: Annotated[tuple[tuple[str, str], ...], BeforeValidator(_two_by_two)] = ()
    """change: scene ids of the same grid: before, after, before, after, ..."""
    changed: Literal["after", "differs"] = "after"
    """change: the label is that of the later scene (flooded or not), or whether the class differs."""

    @property
    def tiles(self) -> bool:
        """Whether there is one answer for a tile."""
        return self.kind in ("classification", "multilabel") or (
            self.kind in ("regression", "change") and self.level == "tile"
        )

    @property
    def dates(self) -> int:
        """Images that make one sample."""
        return 2 if self.kind == "change" else 1

    @model_validator(mode="after")
    def _complete(self) -> Self:
        given = sum(map(bool, (self.target.values, self.target.share_of, self.target.linear)))
        if self.kind == "regression" and given != 1:
            raise ValueError(f"regression needs one of target.values, share_of and linear; found {given}")
        if self.kind == "change" and not self.pairs:
            raise ValueError("change needs task.pairs: scene ids, before and after")
        return self


class FinetuneOptim(Optim):
    """AdamW with a learning rate that does not depend on the batch, unless told otherwise."""

    kind: Literal["sgd", "adamw"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    lr_batch: int | None = Field(default=None, ge=1)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_steps: int = Field(default=20, ge=0)


class FinetuneRun(LoopConfig):
    """A fine-tuning run.

    ``depth`` and ``input`` are those of a random encoder; a pretrained one brings its own, and published weights
    take ``input``. ``encoder_lr_factor`` multiplies the encoder's learning rate; 0 freezes it, batch norm included.
    ``class_weights`` "balanced" weighs a class by the inverse square root of its share of the training pixels,
    "complement" by 1 - share (the weights of the ALOS-2 land cover benchmark).
    """

    steps: int = Field(default=500, ge=1)
    batch: int = Field(default=8, ge=2)
    optim: FinetuneOptim = FinetuneOptim()
    lanes: int = Field(default=8, ge=1)
    """Places of the corpus that a batch mixes."""
    reading: Reading = Reading()
    task: TaskConfig = TaskConfig()
    depth: Depth = 50
    """Layers of a random encoder; a pretrained one brings its own."""
    input: InputSpec = InputSpec()
    decoder: DecoderConfig = DecoderConfig()
    loss: LossConfig = LossConfig()
    crop: CropConfig = CropConfig()
    encoder_lr_factor: float = Field(default=1.0, ge=0)
    """Multiplies the encoder's learning rate; 0: the encoder is frozen."""
    class_weights: Literal["none", "balanced", "complement"] = "none"
    """balanced: rare classes weigh more, by the inverse square root of their share; complement: by 1 - share."""

    def identity(self) -> dict[str, Any]:
        """Give what decides the result: no unit either, which is only a word."""
        plain = super().identity()
        del plain["task"]["target"]["unit"]
        return plain
