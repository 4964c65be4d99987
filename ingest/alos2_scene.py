"""What every ALOS-2 product is once it is open: an image of power on a map or in slant range, and its angles."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ingest.mapgrid import MapPlace
from ingest.recipe import Quantity
from ingest.scene import GroundPoint, SceneInfo, SceneRejected, Window

Floats = NDArray[np.float64]
_NODES = 33
_GROUND_POINTS = 9
_BLOCK_ROWS = 16  # what fits the cache


class Angles(Protocol):
    """Incidence angles of an image."""

    def at(self, rows: Floats, cols: Floats) -> Floats:
        """Give (n,) degrees at pixel centres, NaN where there is none."""
        ...


@dataclass(frozen=True, slots=True)
class AngleGrid:
    """Incidence angles (n, m) in degrees at some ``lines`` (n,) and ``pixels`` (m,), bilinear between them."""

    lines: Floats
    pixels: Floats
    degrees: Floats

    @classmethod
    def over(cls, shape: tuple[int, int], angle: Callable[[Floats, Floats], Floats]) -> Self:
        """Measure an angle that changes slowly at nodes over an image of (rows, cols) pixels."""
        lines, pixels = nodes(shape, _NODES)
        rows, cols = (a.ravel() for a in np.meshgrid(lines, pixels, indexing="ij"))
        return cls(lines, pixels, angle(rows, cols).reshape(len(lines), len(pixels)))

    def at(self, rows: Floats, cols: Floats) -> Floats:
        """Give (n,) degrees at pixel centres."""
        i, t = _cell(self.lines, np.asarray(rows, np.float64))
        j, u = _cell(self.pixels, np.asarray(cols, np.float64))
        upper = self.degrees[i, j] * (1 - u) + self.degrees[i, j + 1] * u
        lower = self.degrees[i + 1, j] * (1 - u) + self.degrees[i + 1, j + 1] * u
        return np.asarray(upper * (1 - t) + lower * t)

    def window(self, window: Window) -> Floats:
        """Give (rows, cols) degrees of a window; a pixel's angle does not depend on the window it is read in."""
        i, t = _cell(self.lines, np.arange(window.row, window.row + window.rows, dtype=np.float64))
        j, u = _cell(self.pixels, np.arange(window.col, window.col + window.cols, dtype=np.float64))
        left = self.degrees[i] * (1 - t)[:, None] + self.degrees[i + 1] * t[:, None]
        return np.asarray(left[:, j] * (1 - u) + left[:, j + 1] * u)


def _cell(at: Floats, position: Floats) -> tuple[NDArray[np.intp], Floats]:
    cell = np.clip(np.searchsorted(at, position, side="right") - 1, 0, len(at) - 2)
    return cell, (position - at[cell]) / (at[cell + 1] - at[cell])


def nodes(shape: tuple[int, int], most: int) -> tuple[Floats, Floats]:
    """Give lines and pixels of an image, evenly spread from the first to the last, at least two of each."""
    rows, cols = shape
    ends = [np.linspace(0.0, max(size - 1.0, 1.0), min(most, max(size, 2))) for size in (rows, cols)]
    return ends[0], ends[1]


def relative(wanted: Quantity, native: Quantity, angles: AngleGrid | None, where: str) -> AngleGrid | None:
    """Give the angles by which native power becomes the wanted quantity; None where it is that already.

    Raises SceneRejected where the one cannot be made from the other.
    """
    if wanted == native:
        return None
    if native == "gamma0-terrain":
        raise SceneRejected(
            f"{where} comes as gamma0 with the terrain already flattened, which cannot be turned back into {wanted}: "
            "use a recipe with pixels.quantity: gamma0-terrain"
        )
    if wanted == "gamma0-terrain":
        raise SceneRejected(
            f"{where} holds {native} with the terrain not flattened, and ALOS-2 products are not flattened here: use a "
            "recipe with pixels.quantity: gamma0, or the terrain-flattened mosaic or level 2.2 product of the place"
        )
    if angles is None:
        raise SceneRejected(
            f"{where} holds {native} and states no orbit to work out incidence angles: {wanted} cannot be made; use a "
            f"recipe with pixels.quantity: {native}"
        )
    return angles


def convert(power: NDArray[np.float32], wanted: Quantity, angles: AngleGrid | None, window: Window) -> None:
    """Turn sigma0 into beta0 or gamma0 in place: sigma0 = beta0 sin(inc) = gamma0 cos(inc), on the ellipsoid."""
    if angles is None:
        return
    for row in range(0, window.rows, _BLOCK_ROWS):
        part = power[:, row : row + _BLOCK_ROWS]
        radians = np.radians(angles.window(Window(window.row + row, window.col, part.shape[1], window.cols)))
        part /= (np.sin(radians) if wanted == "beta0" else np.cos(radians)).astype(np.float32)


def ground_points(place: MapPlace, shape: tuple[int, int]) -> tuple[GroundPoint, ...]:
    """Give points that place an image whose map has no EPSG code; none where it has one."""
    if place.grid is not None:
        return ()
    rows, cols = (a.ravel() for a in np.meshgrid(*nodes(shape, _GROUND_POINTS), indexing="ij"))
    lonlat = place.locate(rows, cols)
    return tuple(
        GroundPoint(float(row), float(col), float(lon), float(lat))
        for row, col, (lon, lat) in zip(rows, cols, lonlat, strict=True)
    )


class Alos2Scene:
    """An open product; see :class:`ingest.scene.Scene`. Reading is safe from several threads.

    ``read`` gives power of a window, ``locate`` degrees of pixel centres; ``stack`` closes what is open.
    """

    def __init__(
        self,
        info: SceneInfo,
        read: Callable[[Window], NDArray[np.float32]],
        locate: Callable[[Floats, Floats], Floats],
        angles: Angles | None,
        stack: ExitStack,
    ) -> None:
        self._info, self._read, self._locate, self._angles, self._stack = info, read, locate, angles, stack

    @property
    def info(self) -> SceneInfo:
        """What is known without reading pixels."""
        return self._info

    def power(self, window: Window) -> NDArray[np.float32]:
        """Read linear power of ``info.quantity``, (bands, rows, cols) float32, NaN where there is no data."""
        rows, cols = self._info.shape
        if min(window) < 0 or window.row + window.rows > rows or window.col + window.cols > cols:
            raise ValueError(f"{window} is not within the {rows} x {cols} pixels of {self._info.id}")
        return self._read(window)

    def label(self, window: Window) -> None:
        """Give None: a product has no labels."""
        return None

    def locate(self, rows: Floats, cols: Floats) -> Floats:
        """Give (n, 2) longitude and latitude in degrees of pixel centres."""
        return self._locate(rows, cols)

    def incidence_deg(self, rows: Floats, cols: Floats) -> Floats | None:
        """Give the incidence angle (n,) in degrees at pixel centres, or None where the product has none.

        It is on the ellipsoid, from the orbit, for CEOS products; of mosaics and level 2.2 it is the local angle that
        comes with them.
        """
        return None if self._angles is None else self._angles.at(rows, cols)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()
