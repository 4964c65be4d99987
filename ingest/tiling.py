"""A scene is cut into tiles: coded as decibels, measured, and told where they came from.

Tiles lie on a grid of ``size - overlap`` pixels. A last row or column that would stick out of the scene is moved
back to end at its edge (it then overlaps its neighbour more). A scene smaller than a tile gives one tile, filled
up with no-data to the right and below. Tiles that break a limit of the recipe, or hold no data, are left out.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from infra.record import sha256
from ingest.land import GroundShares, open_land, own_shares
from ingest.quality import Content, Spread, content, spread
from ingest.recipe import TileRules
from ingest.scene import Scene, SceneInfo, Window
from shards.tile import DbScale, Tile

_Value = TypeVar("_Value", bound=np.generic)

UNLABELLED = 255
"""The class id of a pixel without a label."""

# A block of tiles is read and cut at a time: at most this many pixels of each band, so that memory does
# not grow with the scene, and at least this many rows where they fit, so that halos are read once for many tiles.
_BLOCK_PIXELS = 1 << 23
_BLOCK_ROWS = 256


def cut(scene: Scene, tiles: TileRules, scale: DbScale, dropped: Counter[str] | None = None) -> Iterator[Tile]:
    """Give the tiles of a scene, block by block of the grid, in an order that only its shape and the rules decide.

    ``dropped`` counts the tiles that are left out, by reason. Raises SceneRejected for unreadable pixels.
    """
    counts: Counter[str] = Counter() if dropped is None else dropped
    for block in _blocks(scene.info.shape, tiles):
        places = _wanted(_places(scene, block, tiles), tiles, counts)
        if places:
            yield from _cut_block(scene, places, tiles, scale, counts)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tile lies, what its ground is and at which angle it is seen, all known before pixels are read."""

    window: Window
    footprint: list[list[float]] | None
    ground: GroundShares | None
    incidence_deg: float | None


def _cut_block(
    scene: Scene, places: list[_Place], tiles: TileRules, scale: DbScale, dropped: Counter[str]
) -> Iterator[Tile]:
    around = _hull([place.window for place in places])
    power = np.ascontiguousarray(scene.power(around))
    label = scene.label(around)
    for place in places:
        window = place.window
        found = content(power, _within(window, around), scale)
        if reason := _too_poor(found, window, tiles):
            dropped[reason] += 1
            continue
        inside = np.s_[..., *_slices(window, around)]
        codes = scale.encode(_pad(power[inside], tiles.size, np.nan))
        yield Tile(
            key=tile_key(scene.info.id, window),
            pixels=codes,
            meta=_meta(scene.info, place, found, spread(codes, scale), found.valid / tiles.size**2),
            label=None if label is None else _pad(label[inside], tiles.size, UNLABELLED),
        )


def _wanted(places: list[_Place], tiles: TileRules, dropped: Counter[str]) -> list[_Place]:
    wanted = []
    for place in places:
        if reason := _wrong_ground(place.ground, tiles):
            dropped[reason] += 1
        else:
            wanted.append(place)
    return wanted


def _wrong_ground(ground: GroundShares | None, tiles: TileRules) -> str | None:
    if tiles.min_land_share == 0 and tiles.max_water_share == 1:
        return None
    if ground is None:
        return "land unknown"
    if ground.land < tiles.min_land_share:
        return "too little land"
    return "too much water" if ground.water > tiles.max_water_share else None


def _too_poor(found: Content, window: Window, tiles: TileRules) -> str | None:
    # The limit is about what the scene lacks, not about the padding of a scene smaller than a tile.
    if not found.valid or 1 - found.valid / (window.rows * window.cols) > tiles.max_no_data_share:
        return "no-data"
    if found.contrast_db is not None and found.contrast_db < tiles.min_contrast_db:
        return "low contrast"
    return None


def windows(shape: tuple[int, int], tiles: TileRules) -> Iterator[Window]:
    """Give where the tiles of a scene of (rows, cols) pixels lie, without those outside the scene, in reading order.

    A window ends with the scene: where it is smaller than a tile, the rest of the tile is no-data.
    """
    for block in _blocks(shape, tiles):
        yield from block


def tile_key(scene_id: str, window: Window) -> str:
    """Name a tile after its scene and its first row and column, with letters, digits, ``-`` and ``_`` only.

    An id with other characters gets some digits of its digest, so that no two scenes share names.
    """
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", scene_id)
    if name != scene_id:
        name = f"{name}-{sha256(scene_id.encode())[:8]}"
    return f"{name}-{window.row:06d}-{window.col:06d}"


def _starts(length: int, size: int, overlap: int) -> list[int]:
    if length <= size:
        return [0]
    return [*range(0, length - size, size - overlap), length - size]


def _blocks(shape: tuple[int, int], tiles: TileRules) -> Iterator[list[Window]]:
    """Group the grid into rectangles of neighbouring tiles that are read at once."""
    rows, cols = shape
    tops = _starts(rows, tiles.size, tiles.overlap)
    lefts = _starts(cols, tiles.size, tiles.overlap)
    step = tiles.size - tiles.overlap
    down = max(1, _BLOCK_ROWS // step)
    across = max(1, _BLOCK_PIXELS // (down * step + tiles.overlap) // step)
    for i in range(0, len(tops), down):
        for j in range(0, len(lefts), across):
            yield [
                Window(top, left, min(tiles.size, rows), min(tiles.size, cols))
                for top in tops[i : i + down]
                for left in lefts[j : j + across]
            ]


def _within(window: Window, around: Window) -> Window:
    return window._replace(row=window.row - around.row, col=window.col - around.col)


def _hull(block: list[Window]) -> Window:
    top, left = min(w.row for w in block), min(w.col for w in block)
    bottom, right = max(w.row + w.rows for w in block), max(w.col + w.cols for w in block)
    return Window(top, left, bottom - top, right - left)


def _slices(window: Window, around: Window) -> tuple[slice, slice]:
    row, col = window.row - around.row, window.col - around.col
    return slice(row, row + window.rows), slice(col, col + window.cols)


def _pad(pixels: NDArray[_Value], size: int, fill: float) -> NDArray[_Value]:
    """Fill the last two axes up to ``size`` to the right and below."""
    rows, cols = pixels.shape[-2:]
    if rows == cols == size:
        return np.ascontiguousarray(pixels)
    out = np.full((*pixels.shape[:-2], size, size), fill, dtype=pixels.dtype)
    out[..., :rows, :cols] = pixels
    return out


def _meta(info: SceneInfo, place: _Place, found: Content, levels: Spread, valid_share: float) -> dict[str, object]:
    return {
        "scene": info.id,
        "sensor": info.sensor,
        "platform": info.platform,
        "product": info.product,
        "processing": info.processing,
        "mode": info.mode,
        "quantity": info.quantity,
        "polarisations": list(info.polarisations),
        "window": list(place.window),
        "footprint": place.footprint,
        "time": info.time,
        "orbit": info.orbit,
        "incidence_deg": place.incidence_deg,
        "looks": info.looks,
        "spacing_m": None if info.spacing_m is None else list(info.spacing_m),
        "valid_share": round(valid_share, 6),
        "land_share": None if place.ground is None else place.ground.land,
        "water_share": None if place.ground is None else place.ground.water,
        "mean_db": found.mean_db,
        "std_db": levels.std_db,
        "p02_db": levels.p02_db,
        "p98_db": levels.p98_db,
        "contrast_db": found.contrast_db,
    }


def _places(scene: Scene, block: list[Window], tiles: TileRules) -> list[_Place]:
    corners = _footprints(scene, block)
    grounds = [_rounded(own_shares(scene, window)) for window in block]
    if tiles.land is not None and corners is not None and None in grounds:
        land = open_land(tiles.land).shares(corners)
        grounds = [own or _rounded(GroundShares(k, 1 - k)) for own, k in zip(grounds, land.tolist(), strict=True)]
    footprints = [None] * len(block) if corners is None else [_degrees(ring) for ring in corners]
    angles = _incidence_deg(scene, block)
    return [_Place(*place) for place in zip(block, footprints, grounds, angles, strict=True)]


def _footprints(scene: Scene, block: list[Window]) -> NDArray[np.float64] | None:
    """Corners (n, 4, 2) of the windows' corner pixels, clockwise from the upper left."""
    top, left, rows, cols = np.array(block, np.float64).T
    top, left = top - 0.5, left - 0.5
    bottom, right = top + rows, left + cols
    at = (np.stack(sides, axis=1).ravel() for sides in ((top, top, bottom, bottom), (left, right, right, left)))
    corners = scene.locate(*at)
    return None if corners is None else corners.reshape(-1, 4, 2)


def _incidence_deg(scene: Scene, block: list[Window]) -> list[float | None]:
    """Incidence angle at the middle of each window, to a thousandth of a degree."""
    row, col, rows, cols = np.array(block, np.float64).T
    angles = scene.incidence_deg(row + (rows - 1) / 2, col + (cols - 1) / 2)
    if angles is None:
        return [None] * len(block)
    return [round(angle, 3) if math.isfinite(angle) else None for angle in angles.tolist()]


def _degrees(ring: NDArray[np.float64]) -> list[list[float]]:
    """Round to 1e-7 degrees, a centimetre."""
    return [[round(lon, 7), round(lat, 7)] for lon, lat in ring.tolist()]


def _rounded(shares: GroundShares | None) -> GroundShares | None:
    return None if shares is None else GroundShares(round(shares.land, 6), round(shares.water, 6))
