"""A scene is cut into tiles: coded as decibels, and told where they came from.

Tiles lie on a grid of ``size - overlap`` pixels. A last row or column that would stick out of the scene is moved
back to end at its edge (it then overlaps its neighbour more). A scene smaller than a tile gives one tile, filled
up with no-data to the right and below. Tiles with too much no-data, or with nothing else, are left out.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from infra.record import sha256
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


def cut(scene: Scene, tiles: TileRules, scale: DbScale) -> Iterator[Tile]:
    """Give the tiles of a scene, block by block of the grid, in an order that only its shape and the rules decide.

    Raises SceneRejected for unreadable pixels.
    """
    for block in _blocks(scene.info.shape, tiles):
        yield from _cut_block(scene, block, tiles, scale)


def _cut_block(scene: Scene, block: list[Window], tiles: TileRules, scale: DbScale) -> Iterator[Tile]:
    around = _hull(block)
    power = scene.power(around)
    label = scene.label(around)
    for window in block:
        inside = np.s_[..., *_slices(window, around)]
        seen = np.isfinite(power[inside]).all(axis=0)
        # The limit is about what the scene lacks, not about the padding of a scene smaller than a tile.
        if not seen.any() or 1 - seen.mean() > tiles.max_no_data_share:
            continue
        tile_power = _pad(power[inside], tiles.size, np.nan)
        valid_share = float(seen.sum()) / tiles.size**2
        yield Tile(
            key=tile_key(scene.info.id, window),
            pixels=scale.encode(tile_power),
            meta=_meta(scene, window, valid_share, _mean_db(tile_power, scale)),
            label=None if label is None else _pad(label[inside], tiles.size, UNLABELLED),
        )


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


def _hull(block: list[Window]) -> Window:
    first, last = block[0], block[-1]
    return Window(first.row, first.col, last.row + last.rows - first.row, last.col + last.cols - first.col)


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


def _mean_db(power: NDArray[np.float32], scale: DbScale) -> list[float]:
    """Mean power of each band's valid pixels in decibels; the floor of the scale where the mean is not positive."""
    means = np.asarray(np.nanmean(power, axis=(1, 2), dtype=np.float64)).tolist()
    least = 10 ** (scale.floor_db / 10)
    return [round(10 * math.log10(max(mean, least)), 3) for mean in means]


def _meta(scene: Scene, window: Window, valid_share: float, mean_db: list[float]) -> dict[str, object]:
    info: SceneInfo = scene.info
    return {
        "scene": info.id,
        "sensor": info.sensor,
        "product": info.product,
        "mode": info.mode,
        "polarisations": list(info.polarisations),
        "window": list(window),
        "footprint": _footprint(scene, window),
        "time": info.time,
        "orbit": info.orbit,
        "looks": info.looks,
        "spacing_m": None if info.spacing_m is None else list(info.spacing_m),
        "valid_share": round(valid_share, 6),
        "mean_db": mean_db,
    }


def _footprint(scene: Scene, window: Window) -> list[list[float]] | None:
    """Corners of the window's corner pixels, clockwise from the upper left, to 1e-7 degrees (a centimetre)."""
    top, left = window.row - 0.5, window.col - 0.5
    bottom, right = top + window.rows, left + window.cols
    rows, cols = np.array([top, top, bottom, bottom]), np.array([left, right, right, left])
    corners: Any = scene.locate(rows, cols)
    return None if corners is None else [[round(float(lon), 7), round(float(lat), 7)] for lon, lat in corners]
