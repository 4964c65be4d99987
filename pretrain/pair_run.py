"""What every run on two views of a tile has in common, as frozen values; the defaults are DI3CL's published ones."""

from typing import Annotated, Literal

from pydantic import Field

from pretrain.config import EncoderConfig, Frozen, InputSpec, LoopConfig, Reading, Share
from pretrain.watch_config import WatchConfig


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
    flip_vertical_share: Share = 0.0
    """Views mirrored top to bottom."""
    turn_share: Share = 0.0
    """Views turned by 90, 180 or 270 degrees."""
    boxes: int = Field(default=10, ge=1)
    """Boxes per tile."""
    min_box_px: int = Field(default=32, ge=1)
    """Least side of a box, in both views."""
    max_box_iou: Share = 0.5
    """Boxes of a tile overlap less than this."""
    box_tries: int = Field(default=50, ge=1)
    """Draws until a box is taken as it is."""
    mixed_frames: bool = False
    """Measure overlaps of boxes as the published code does: one box in pixels of the ground, the other of view 1."""
    bands: Literal["one", "all", "cross"] = "one"
    """one: a band of the tile at random; all: every band; cross: another band in each view."""
    band_drop_share: Share = 0.0
    """Views of several bands of which one is left without data."""
    band_swap_share: Share = 0.0
    """Views of several bands whose order is drawn anew."""
    partner_share: Share = 0.0
    """Second views taken from another scene of the same ground, of the tiles that have one on the same pixel grid."""
    partner_kind: Literal["any", "date", "sensor"] = "any"
    """any: another scene; date: of the same sensor at another time; sensor: of another sensor."""
    partner_iou: Share = 0.25
    """Least overlap of two tiles of the same ground: shared over covered pixels."""


Least = Annotated[float, Field(gt=0)]


class AugmentConfig(Frozen):
    """Changes of a view: of backscatter in power and decibels (off by default), then of grey values.

    Power: looks averaged, speckle. Decibels: level removed, contrast, gain. Greys: brightness and contrast in random
    order, then Gaussian blur.
    """

    looks_share: Share = 0.0
    """Views whose power is averaged over square windows, as more looks do."""
    looks_px: int = Field(default=5, ge=3, le=31)
    """Greatest side of the window; drawn from the odd numbers from 3."""
    speckle_share: Share = 0.0
    """Views whose power is multiplied by speckle, without correlation between pixels."""
    speckle_looks: tuple[Least, Least] = (4.0, 32.0)
    """Least and greatest number of looks of that speckle."""
    level_share: Share = 0.0
    """Views whose mean level is moved to the middle of the input range."""
    contrast_db_share: Share = 0.0
    """Views whose distances in dB from their mean level are scaled."""
    contrast_db: Share = 0.3
    """Greatest relative change of the distances."""
    gain_share: Share = 0.0
    """Views whose level is changed, all bands alike, before it is cut to black and white."""
    gain_db: float = Field(default=3.0, ge=0)
    """Greatest change of the level."""

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
    watch: WatchConfig = WatchConfig()
