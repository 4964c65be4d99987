"""What every run on two views of a tile has in common, as frozen values; the defaults are DI3CL's published ones."""

from typing import Literal

from pydantic import Field

from pretrain.config import EncoderConfig, Frozen, InputSpec, LoopConfig, Reading, Share


class ViewConfig(Frozen):
    """Two crops of a tile and the boxes they share. Sizes are pixels of a view.

    Area and aspect are torchvision's RandomResizedCrop; boxes follow SCRL's rule (Roh et al. 2021).
    """

    size_px: int = Field(default=448, ge=8)
    """Side of a view."""
    area: tuple[Share, Share] = (0.2, 1.0)
    """Share of the tile that a crop covers."""
    aspect: tuple[float, float] = (0.75, 1.3333333333333333)
    """Width by height of a crop."""
    flip_share: Share = 0.5
    """Views mirrored left to right."""
    boxes: int = Field(default=10, ge=1)
    """Boxes per tile."""
    min_box_px: int = Field(default=32, ge=1)
    """Least side of a box, in both views."""
    max_box_iou: Share = 0.5
    """Boxes of a tile overlap less than this."""
    box_tries: int = Field(default=50, ge=1)
    """Draws until a box is taken as it is."""
    bands: Literal["one", "all"] = "one"
    """one: a band of the tile at random; all: every band."""


class AugmentConfig(Frozen):
    """Changes of grey values: brightness and contrast in random order, then Gaussian blur."""

    jitter_share: Share = 0.8
    """Views with changed brightness and contrast."""
    brightness: Share = 0.4
    """Greatest relative change."""
    contrast: Share = 0.4
    """Greatest relative change."""
    blur_share: Share = 0.5
    """Blurred views."""
    blur_sigma_px: tuple[float, float] = (0.1, 2.0)
    """Least and greatest sigma of the blur."""


class PairRun(LoopConfig):
    """A pre-training run on two views of each tile."""

    lanes: int = Field(default=64, ge=1)
    """Places of the corpus that a batch mixes."""
    reading: Reading = Reading()
    encoder: EncoderConfig = EncoderConfig()
    input: InputSpec = InputSpec()
    views: ViewConfig = ViewConfig()
    augment: AugmentConfig = AugmentConfig()
