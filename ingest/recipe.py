"""Everything done to pixels between a product and a shard; its digest names the corpus."""

import hashlib
import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from infra.errors import UsageError
from infra.record import digest
from shards.codec import Codec
from shards.tile import DbScale


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


STRATUM = re.compile("(water|coast|land|unknown)(-(flat|varied)(-(dark|bright))?)?")
"""A stratum of :class:`Sampling`, or a group of strata."""

Quantity = Literal["sigma0", "beta0", "gamma0", "gamma0-terrain"]


SpeckleKind = Literal[
    "none", "boxcar", "lee", "enhanced-lee", "refined-lee", "lee-sigma", "kuan", "frost", "enhanced-frost", "gamma-map"
]


class SpeckleRules(_Frozen):
    """Which filter smooths the speckle, over ``size`` x ``size`` pixels.

    ``looks`` replaces the product's nominal number of looks; "estimate" measures it on the scene. ``damping`` belongs
    to Frost and the enhanced filters; ``sigma`` is the share of the speckle's distribution that Lee sigma averages.
    """

    kind: SpeckleKind = "none"
    size: int = Field(default=7, ge=3, le=31)
    looks: Annotated[float, Field(gt=0)] | Literal["estimate"] | None = None
    damping: float = Field(default=1.0, gt=0)
    sigma: float = 0.9

    @model_validator(mode="after")
    def _is_defined(self) -> Self:
        if self.kind != "none" and self.size % 2 == 0:
            raise ValueError(f"a window of {self.size} pixels has no middle: use an odd size, such as 7")
        if self.kind == "refined-lee" and self.size != 7:
            raise ValueError(f"refined Lee of {self.size} pixels: it is defined on 7 x 7 only")
        if self.sigma not in (0.5, 0.6, 0.7, 0.8, 0.9):
            raise ValueError(f"a sigma of {self.sigma}: there are tables for 0.5, 0.6, 0.7, 0.8 and 0.9 only")
        return self


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


class DemFile(_Frozen):
    """A GeoTIFF of heights in metres; a recipe may name the path alone.

    What the file holds belongs to the recipe, where it lies does not: ``path`` is left out of every dump.
    ``fingerprint`` is of its size and of 64 megabytes spread over it (of the whole file up to that size).
    """

    path: str | None = Field(default=None, exclude=True)
    fingerprint: str = Field(pattern="^[0-9a-f]{64}$")

    @model_validator(mode="before")
    @classmethod
    def _look(cls, value: Any) -> Any:
        return _named_by_content(value, "DEM", "fingerprint", _fingerprint)


def _named_by_content(value: Any, what: str, field: str, name: Callable[[Path], str]) -> Any:
    """Complete the fields of a file of a recipe, which may be its path alone, by what its content is called."""
    fields = {"path": value} if isinstance(value, str) else value
    if not isinstance(fields, dict) or not fields.get("path"):
        return fields
    path = Path(fields["path"]).resolve()  # workers stand in other folders
    if not path.is_file():
        raise ValueError(f"there is no {what} at {path}")
    found = name(path)
    if fields.get(field) not in (None, found):
        raise ValueError(f"{path} has the {_SAID[field]} {found}, this recipe was made with {fields[field]}")
    return {"path": str(path), field: found}


_SAID = {"fingerprint": "fingerprint", "sha256": "SHA-256"}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fingerprint(path: Path) -> str:
    """Give SHA-256 of a file's size and of 64 evenly spread megabytes of it."""
    size, part = path.stat().st_size, 1 << 20
    found = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for i in range(64):
            file.seek(max(size - part, 0) * i // 63 if size > 64 * part else i * part)
            found.update(file.read(part))
    return found.hexdigest()


class GridRules(_Frozen):
    """On which grid scenes are cut: their own, or UTM at ``spacing_m`` by range-Doppler geocoding over a DEM.

    ``epsg`` is the UTM zone (326xx or 327xx) that all scenes are put on; without it each takes that of its middle.
    ``dem`` is a GeoTIFF of heights over what ``dem_datum`` says, ``orbits`` a folder of precise orbit files (EOF);
    without them the heights and orbits of the product's own annotation are used. Where the folder lies does not
    belong to the recipe: which of its files was used is part of a scene's fingerprint.

    ``mask`` makes no data of what the DEM hides from the radar (shadow), and also of what it lays over other ground.
    Flattened power is no data where less than ``min_area_share`` of the area of level ground is seen (Small 2011).
    """

    kind: Literal["native", "utm"] = "native"
    spacing_m: float = Field(default=10.0, gt=0)
    epsg: int | None = None
    dem: DemFile | None = None
    dem_datum: Literal["ellipsoid", "egm2008", "egm96"] | None = None
    orbits: str | None = Field(default=None, exclude=True)
    resampling: Literal["nearest", "bilinear"] = "bilinear"
    mask: Literal["none", "shadow", "shadow-layover"] = "shadow"
    min_area_share: float = Field(default=0.05, ge=0, lt=1)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.dem is not None and self.dem_datum is None:
            raise ValueError("dem without dem_datum: say whether its heights are over the ellipsoid, egm2008 or egm96")
        if self.kind == "native" and (self.dem is not None or self.orbits is not None):
            raise ValueError("dem and orbits place pixels on a map: they need kind utm")
        return self

    @field_validator("orbits")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        return None if value is None else str(Path(value).resolve())  # workers stand in other folders


class LandFile(_Frozen):
    """Polygons of land, GeoJSON or GeoParquet in WGS 84 longitude and latitude; a recipe may name the path alone.

    What the file holds belongs to the recipe, where it lies does not: ``path`` is left out of every dump.
    """

    path: str | None = Field(default=None, exclude=True)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @model_validator(mode="before")
    @classmethod
    def _look(cls, value: Any) -> Any:
        return _named_by_content(value, "file of land polygons", "sha256", _sha256)


class TileRules(_Frozen):
    """How a scene is cut, and which tiles are left out: size and overlap in pixels, limits as shares and decibels.

    ``min_contrast_db`` holds for ``contrast_db`` of ingest.quality. Limits on land and water hold for shares of a
    tile's ground: by the product's own mask if it has one, else by ``land``; where neither tells, a limit leaves the
    tile out.
    """

    size: int = Field(default=256, ge=8, le=8192)
    overlap: int = Field(default=0, ge=0)
    max_no_data_share: float = Field(default=0.25, ge=0, le=1)
    min_contrast_db: float = Field(default=0.0, ge=0)
    land: LandFile | None = None
    min_land_share: float = Field(default=0.0, ge=0, le=1)
    max_water_share: float = Field(default=1.0, ge=0, le=1)

    @model_validator(mode="after")
    def _advances(self) -> Self:
        if self.overlap >= self.size:
            raise ValueError(f"an overlap of {self.overlap} px leaves nothing of tiles of {self.size} px")
        if self.min_contrast_db > 0 and self.size < 32:
            raise ValueError(f"contrast is measured between blocks of 16 px: a tile of {self.size} px has too few")
        return self


class Sampling(_Frozen):
    """Which of a scene's tiles are kept, so that oceans and deserts do not swamp a corpus; ingest.sampling says how.

    ``keep`` gives the share that is kept of a stratum ("water-flat-dark") or of a group of them ("water",
    "land-flat"); the longest name counts, and 1 where there is none. ``max_tiles_per_stratum`` and
    ``max_tiles_per_scene`` hold for each scene. Water has less land than the first of ``land_edges``, land more than
    the second, coast lies between; a tile is flat below a contrast of ``flat_below_db``, dark below a mean of
    ``dark_below_db`` in its first band. Another ``seed`` keeps other tiles.
    """

    keep: dict[str, float] = Field(default_factory=dict)
    max_tiles_per_stratum: int | None = Field(default=None, ge=1)
    max_tiles_per_scene: int | None = Field(default=None, ge=1)
    land_edges: tuple[float, float] = (0.05, 0.95)
    flat_below_db: float = Field(default=1.0, ge=0)
    dark_below_db: float = -15.0
    seed: int = 0

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if not 0 <= self.land_edges[0] <= self.land_edges[1] <= 1:
            raise ValueError(f"land_edges {self.land_edges}: expected two shares, the lower first")
        for name, share in self.keep.items():
            if not STRATUM.fullmatch(name):
                raise ValueError(
                    f"keep: no stratum {name!r}; expected water, coast, land or unknown, then -flat or -varied,"
                    " then -dark or -bright, or the first one or two of these"
                )
            if not 0 <= share <= 1:
                raise ValueError(f"keep: {name} {share} is not a share from 0 to 1")
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
    sampling: Sampling = Sampling()
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
