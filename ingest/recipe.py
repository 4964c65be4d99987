"""Everything done to pixels between a product and a shard; its digest names the corpus."""

from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from infra.errors import UsageError
from infra.record import digest
from shards.codec import Codec
from shards.tile import DbScale


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Quantity = Literal["sigma0", "beta0", "gamma0", "gamma0-terrain"]


class SpeckleRules(_Frozen):
    """Which filter smooths the speckle; ``looks`` replaces the product's nominal number of looks."""

    kind: Literal["none", "lee", "refined-lee"] = "none"
    size: int = Field(default=7, ge=3, le=31)
    looks: float | None = Field(default=None, gt=0)


class Pixels(_Frozen):
    """What a stored value means. Two corpora with equal Pixels can feed one encoder.

    ``version`` counts the changes of our code that changed a pixel: a corpus of an older one is not continued.
    ``negative`` says what becomes of power below zero after noise removal: it is kept, clipped to zero, or raised to
    the floor of ``scale``. ``border_noise`` masks the dark borders of Sentinel-1 GRD products before IPF 2.90.
    ``gamma0-terrain`` is flattened with the DEM of ``grid``, or comes flattened (ALOS-2 mosaics).
    """

    version: Literal[2] = 2
    quantity: Quantity = "sigma0"
    denoise: bool = True
    negative: Literal["keep", "clip", "floor"] = "keep"
    border_noise: bool = True
    speckle: SpeckleRules = SpeckleRules()
    scale: DbScale = DbScale()


class GridRules(_Frozen):
    """On which grid scenes are cut: their own, or UTM at ``spacing_m`` by range-Doppler geocoding over a DEM.

    ``dem`` is a GeoTIFF of heights, ``orbits`` a folder of precise orbit files (EOF); without them the heights and
    orbits of the product's own annotation are used.
    """

    kind: Literal["native", "utm"] = "native"
    spacing_m: float = Field(default=10.0, gt=0)
    dem: str | None = None
    orbits: str | None = None


class TileRules(_Frozen):
    """How a scene is cut: size and overlap in pixels; tiles with more no-data than the limit are left out."""

    size: int = Field(default=256, ge=8, le=8192)
    overlap: int = Field(default=0, ge=0)
    max_no_data_share: float = Field(default=0.25, ge=0, le=1)

    @model_validator(mode="after")
    def _advances(self) -> Self:
        if self.overlap >= self.size:
            raise ValueError(f"an overlap of {self.overlap} px leaves nothing of tiles of {self.size} px")
        return self


class ShardRules(_Frozen):
    """How tiles are stored: the codec, the largest shard in MB, and how many ready-cut chips share one unit of work."""

    codec: Codec = "npy"
    max_mb: float = Field(default=256.0, gt=0)
    chips_per_unit: int = Field(default=16, ge=1)


class Recipe(_Frozen):
    """The whole way from a product to shards."""

    pixels: Pixels = Pixels()
    grid: GridRules = GridRules()
    tiles: TileRules = TileRules()
    shards: ShardRules = ShardRules()

    @property
    def digest(self) -> str:
        """SHA-256 of the resolved recipe."""
        return digest(self.model_dump(mode="json"))

    @property
    def pixels_digest(self) -> str:
        """SHA-256 of what a pixel means; an encoder only takes pixels of its own."""
        return digest(self.pixels.model_dump(mode="json"))


def named_recipes() -> list[str]:
    """Give the names of the recipes that come with the package."""
    files = resources.files("ingest.recipes").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


def load_recipe(name_or_path: str) -> Recipe:
    """Read a recipe by its name or from a YAML file. Raises UsageError with every wrong field."""
    if name_or_path in named_recipes():
        text = resources.files("ingest.recipes").joinpath(f"{name_or_path}.yaml").read_text()
    elif Path(name_or_path).is_file():
        text = Path(name_or_path).read_text()
    else:
        known = ", ".join(named_recipes())
        raise UsageError(f"no recipe {name_or_path!r}: expected a YAML file or one of: {known}")
    return _parse(text, name_or_path)


def _parse(text: str, name: str) -> Recipe:
    try:
        data: Any = yaml.safe_load(text) or {}
        return Recipe.model_validate(data)
    except yaml.YAMLError as error:
        raise UsageError(f"recipe {name} is not YAML: {error}") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}" for e in error.errors())
        raise UsageError(f"recipe {name}: {faults}") from error
