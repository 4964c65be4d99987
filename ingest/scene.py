"""What every product looks like once it is open: a grid of linear power that is read by windows."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from infra.errors import SarsenseError


class SceneRejected(SarsenseError):
    """A product that cannot be used while others can. The only error that a build sets aside and goes on from."""


class Window(NamedTuple):
    """A rectangle of scene pixels: first row, first column, number of rows, number of columns."""

    row: int
    col: int
    rows: int
    cols: int


class GroundPoint(NamedTuple):
    """A pixel centre (fractional, zero based) and where it lies (degrees, WGS 84)."""

    row: float
    col: float
    lon: float
    lat: float


@dataclass(frozen=True, slots=True)
class MapGrid:
    """A scene that lies on a map: EPSG code and affine (a, b, c, d, e, f) of pixel corners in rasterio's order."""

    epsg: int
    transform: tuple[float, float, float, float, float, float]


@dataclass(frozen=True, slots=True)
class SceneInfo:
    """What is known of a scene before its pixels are read.

    ``shape`` is (rows, cols). ``polarisations`` names the bands in order ("VV", "HV", ... or a chip's band names).
    ``time`` is the ISO 8601 UTC start of sensing or None. ``looks`` is the nominal equivalent number of looks.
    A scene is placed by ``grid`` (map projected) or by ``ground`` points (radar geometry), or by neither.
    ``fingerprint`` is the SHA-256 that names the product's content wherever it is stored.
    ``warnings`` says in words what a user should know (noise could not be removed, ...).
    ``quantity`` is what power is ("sigma0", "beta0", "gamma0", or "gamma0-terrain" where the terrain is flattened).
    ``platform`` is the satellite ("S1A"), ``processing`` the processor with its version. Copies of one acquisition
    that were processed at different times share ``acquisition``.
    """

    id: str
    sensor: str
    product: str
    mode: str
    polarisations: tuple[str, ...]
    shape: tuple[int, int]
    spacing_m: tuple[float, float] | None
    looks: float
    time: str | None
    orbit: str | None
    fingerprint: str
    footprint: tuple[tuple[float, float], ...] | None
    grid: MapGrid | None = None
    ground: tuple[GroundPoint, ...] = ()
    warnings: tuple[str, ...] = ()
    quantity: str = "sigma0"
    platform: str | None = None
    processing: str | None = None
    acquisition: str | None = None


class Scene(Protocol):
    """An open product. Windows may be read in any order, and how they are cut never changes a pixel."""

    @property
    def info(self) -> SceneInfo:
        """What is known without reading pixels."""
        ...

    def power(self, window: Window) -> NDArray[np.float32]:
        """Read calibrated linear power, (bands, rows, cols) float32, NaN where there is no data.

        Thermal noise is removed, so values may be negative. Raises SceneRejected for unreadable pixels.
        """
        ...

    def label(self, window: Window) -> NDArray[np.uint8] | None:
        """Read class ids, (rows, cols) uint8 with 255 for unlabelled, or None where the scene has no labels."""
        ...

    def locate(self, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Give (n, 2) longitude and latitude in degrees of pixel centres (fractional, zero based), or None."""
        ...

    def incidence_deg(self, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Give the (n,) incidence angle on the ellipsoid in degrees at pixel centres, or None where it is unknown."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...
