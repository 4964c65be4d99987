"""What every simulated sensor does alike: strips of known ground with speckle, and the rasters of the truth."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import rasterio
from numpy.typing import NDArray

from infra.errors import UsageError
from ingest.truth import POLARISATIONS, UNLABELLED, Band, Land, speckle

STRIP_ROWS = 256
SMALLEST = 32


class PixelGrid(Protocol):
    """Where the pixels of an image lie."""

    @property
    def rows(self) -> int:
        """Number of lines."""
        ...

    @property
    def cols(self) -> int:
        """Number of samples."""
        ...

    def metres(
        self, row: NDArray[np.float64], col: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Give metres east and north of the place for pixel centres."""
        ...


@dataclass(frozen=True, slots=True)
class Strip:
    """Some whole lines of a scene: class ids (255 outside the data), speckled sigma0 per polarisation (NaN there)."""

    row: int
    labels: NDArray[np.uint8]
    power: Mapping[str, NDArray[np.float32]]


class Valid(Protocol):
    """Tells which pixels the sensor measured."""

    def __call__(self, row: NDArray[np.float64], col: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Give True for pixels inside the data; row is (rows, 1), col is (1, cols)."""
        ...


def strips(
    land: Land, grid: PixelGrid, valid: Valid, band: Band, polarisations: Sequence[str], looks: float
) -> Iterator[Strip]:
    """Render a scene strip by strip: memory does not grow with its number of lines."""
    col = np.arange(grid.cols, dtype=np.float64)[None, :]
    for number, first in enumerate(range(0, grid.rows, STRIP_ROWS)):
        row = np.arange(first, min(first + STRIP_ROWS, grid.rows), dtype=np.float64)[:, None]
        east_m, north_m = grid.metres(row, col)
        ground = land.at(east_m.astype(np.float32, order="C"), north_m.astype(np.float32, order="C"))
        inside = valid(row, col)
        power = {
            name: np.where(
                inside,
                ground.sigma0(band, name) * speckle(land.seed, band, name, number, looks, inside.shape),
                np.float32(np.nan),
            )
            for name in polarisations
        }
        yield Strip(first, np.where(inside, ground.classes, UNLABELLED).astype(np.uint8), power)


class TruthRasters:
    """The label raster of a scene, and on demand its speckled sigma0 before noise and rounding, as GeoTIFF."""

    def __init__(
        self, stem: Path, shape: tuple[int, int], georeference: Mapping[str, Any], polarisations: Sequence[str] = ()
    ) -> None:
        self._polarisations = tuple(polarisations)
        profile = {"driver": "GTiff", "height": shape[0], "width": shape[1], "compress": "deflate", **georeference}
        with ExitStack() as opening:
            self._labels = opening.enter_context(
                rasterio.open(f"{stem}_labels.tif", "w", count=1, dtype="uint8", nodata=UNLABELLED, **profile)
            )
            if polarisations:
                count = len(self._polarisations)
                self._power = opening.enter_context(
                    rasterio.open(f"{stem}_sigma0.tif", "w", count=count, dtype="float32", nodata=np.nan, **profile)
                )
                self._power.descriptions = self._polarisations
            self._open = opening.pop_all()

    def write(self, strip: Strip) -> None:
        """Append a strip."""
        rows, cols = strip.labels.shape
        window = ((strip.row, strip.row + rows), (0, cols))
        self._labels.write(strip.labels, 1, window=window)
        for band, name in enumerate(self._polarisations, start=1):
            self._power.write(strip.power[name], band, window=window)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()


def check_request(rows: int, cols: int, seed: int, lon: float, lat: float, polarisations: Sequence[str]) -> None:
    """Refuse a scene that cannot be simulated. Raises UsageError."""
    if min(rows, cols) < SMALLEST:
        raise UsageError(f"a simulated scene needs at least {SMALLEST} x {SMALLEST} pixels, got {rows} x {cols}")
    if seed < 0:
        raise UsageError(f"the seed must not be negative, got {seed}")
    if not (-180 <= lon <= 180 and -80 <= lat <= 80):
        raise UsageError(f"longitude {lon}, latitude {lat}: expected -180..180 and -80..80 degrees (UTM)")
    if (
        not polarisations
        or len(set(polarisations)) != len(polarisations)
        or not set(polarisations) <= set(POLARISATIONS)
    ):
        raise UsageError(f"polarisations {list(polarisations)}: expected some of {', '.join(POLARISATIONS)}, each once")
