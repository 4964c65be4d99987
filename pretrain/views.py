"""Two crops of a tile, the ground they share, and boxes on it; compiled, without the interpreter's lock.

Crops follow torchvision's RandomResizedCrop, boxes the rule of SCRL that DI3CL uses, with one difference: the
overlap of two boxes is measured with both in the same frame (the published code mixes two; a dial does as well). A
pair of crops whose shared ground is too small for boxes is drawn again, so that every tile gives the same number of
boxes.

Randomness inside the kernels is SplitMix64 (Steele, Lea, Flood 2014) from one 64-bit seed: the same views on every
machine and under every version of the libraries.
"""

import math
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from pretrain.pair_run import ViewConfig
from pretrain.resize import MIRRORED, TRANSPOSED, UPSIDE_DOWN, resized_crop
from shards.tile import NO_DATA, Tile

AUGMENT_NUMBERS = 8
"""Uniform numbers a sample carries for each view's augmentation on the device."""

CROP_TRIES = 10
PAIR_TRIES = 100

State = NDArray[np.uint64]
Box = NDArray[np.float32]
Codes = NDArray[np.uint16]
Frame = tuple[float, float, float, float, float]

GROUND: Frame = (1.0, 0.0, 1.0, 0.0, math.inf)
"""The frame that boxes are drawn in; see :func:`framed`."""


@dataclass(frozen=True, slots=True)
class PairDraw:
    """Draw two views and their matched boxes from a tile.

    Gives ``view1``, ``view2`` (bands, size, size) uint16 codes with 0 where nothing was measured, ``boxes1``,
    ``boxes2`` (boxes, 4) float32 [left, top, right, bottom] in view pixels, row i of both on the same ground,
    ``crop1``, ``crop2`` (5,) int64 [y, x, h, w, flipped] in tile pixels, and ``numbers1``, ``numbers2`` (8,) float32
    uniform in 0..1 for the augmentation. ``flipped`` is 1 for a view mirrored left to right; with turns or vertical
    flips it is an orientation, as in :func:`pretrain.resize.oriented`.
    """

    config: ViewConfig

    def __call__(self, tile: Tile, generator: np.random.Generator) -> dict[str, NDArray[np.generic]]:
        """Draw from ``generator``; the same generator gives the same views."""
        return self.pair(tile, tile, (0, 0), generator)

    def pair(
        self, tile: Tile, other: Tile, offset: tuple[int, int], generator: np.random.Generator
    ) -> dict[str, NDArray[np.generic]]:
        """Draw view 1 from ``tile`` and view 2 from ``other``, whose first pixel is ``offset`` (down, right) of it.

        Both crops are given in pixels of ``tile``; the second may reach beyond it.
        """
        c = self.config
        pixels, others = self._bands(tile, other, generator)
        seed = generator.integers(2**64, dtype=np.uint64)
        numbers = generator.random((2, AUGMENT_NUMBERS), dtype=np.float32)
        (rows, columns), (rows2, columns2), (down, right) = pixels.shape[1:], others.shape[1:], offset
        crops, boxes1, boxes2 = draw_pair(
            seed, rows, columns, c.size_px, *c.area, *c.aspect, c.flip_share, c.boxes, c.min_box_px, c.max_box_iou,
            c.box_tries, c.flip_vertical_share, c.turn_share, c.mixed_frames, rows2, columns2, down, right,
        )  # fmt: skip
        there = crops[1] - np.array([down, right, 0, 0, 0])
        views = [resized_crop(pixels, crops[0], c.size_px), resized_crop(others, there, c.size_px)]
        view1, view2 = (self._mixed(view, generator) for view in views)
        return {
            "view1": view1, "view2": view2, "boxes1": boxes1, "boxes2": boxes2,
            "crop1": crops[0], "crop2": crops[1], "numbers1": numbers[0], "numbers2": numbers[1],
        }  # fmt: skip

    def _bands(self, tile: Tile, other: Tile, generator: np.random.Generator) -> tuple[Codes, Codes]:
        """Choose the bands of both views: all, or the same polarisation in both, or two, as far as there are."""
        c = self.config
        if c.bands == "all":
            return tile.pixels, other.pixels
        band = int(generator.integers(len(tile.pixels)))
        if c.bands == "one" and other is tile:
            there = band
        else:
            wanted = tile.meta["polarisations"][band]
            found = [k for k, name in enumerate(other.meta["polarisations"]) if (name == wanted) == (c.bands == "one")]
            choice = found or range(len(other.pixels))
            there = choice[int(generator.integers(len(choice)))]
        return tile.pixels[band : band + 1], other.pixels[there : there + 1]

    def _mixed(self, view: Codes, generator: np.random.Generator) -> Codes:
        """Drop a band of a view of several, and swap bands, as the dials ask for."""
        c = self.config
        if len(view) > 1 and c.band_swap_share and generator.random() < c.band_swap_share:
            view = view[generator.permutation(len(view))]
        if len(view) > 1 and c.band_drop_share and generator.random() < c.band_drop_share:
            view[generator.integers(len(view))] = NO_DATA
        return view


@numba.njit(cache=True, nogil=True)
def uniform(state: State) -> float:
    """Give the next number in [0, 1) with 53 random bits."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return float(z >> np.uint64(11)) * 2.0**-53


@numba.njit(cache=True, nogil=True)
def integer(state: State, low: int, high: int) -> int:
    """Give a whole number from low to high, both included."""
    return low + math.floor(uniform(state) * (high - low + 1))


@numba.njit(cache=True, nogil=True)
def draw_crop(
    state: State, rows: int, columns: int, area0: float, area1: float, aspect0: float, aspect1: float, flip: float,
    vertical: float = 0.0, turn: float = 0.0,
) -> NDArray[np.int64]:  # fmt: skip
    """Draw [y, x, h, w, flipped]: area share and log-uniform aspect as RandomResizedCrop, then flips and turn."""
    crop = np.zeros(5, np.int64)
    log0, log1 = math.log(aspect0), math.log(aspect1)
    found = False
    for _ in range(CROP_TRIES):
        target = rows * columns * (area0 + (area1 - area0) * uniform(state))
        aspect = math.exp(log0 + (log1 - log0) * uniform(state))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= columns and 0 < h <= rows:
            crop[0], crop[1] = integer(state, 0, rows - h), integer(state, 0, columns - w)
            crop[2], crop[3] = h, w
            found = True
            break
    if not found:
        whole = columns / rows
        h, w = rows, columns
        if whole < aspect0:
            h = round(columns / aspect0)
        elif whole > aspect1:
            w = round(rows * aspect1)
        crop[0], crop[1], crop[2], crop[3] = (rows - h) // 2, (columns - w) // 2, h, w
    crop[4] = draw_orientation(state, flip, vertical, turn)
    return crop


@numba.njit(cache=True, nogil=True)
def draw_orientation(state: State, flip: float, vertical: float, turn: float) -> int:
    """Draw flips and a turn by quarters: an orientation as in :func:`pretrain.resize.oriented`."""
    orientation = MIRRORED if uniform(state) < flip else 0
    if vertical > 0 and uniform(state) < vertical:
        orientation ^= UPSIDE_DOWN
    if turn > 0 and uniform(state) < turn:
        for _ in range(integer(state, 1, 3)):
            # A quarter to the right is a transposition and a mirror; flips from before change places.
            mirrored, upside_down = orientation & MIRRORED, orientation & UPSIDE_DOWN
            orientation = (orientation & TRANSPOSED) ^ TRANSPOSED
            orientation |= (UPSIDE_DOWN if mirrored else 0) | (0 if upside_down else MIRRORED)
    return orientation


@numba.njit(cache=True, nogil=True)
def framed(box: NDArray[np.int64], frame: Frame) -> tuple[float, float, float, float]:
    """Take [x, y, w, h] to a frame (zoom and shift of x, zoom and shift of y, limit): [left, top, right, bottom]."""
    l, r = box[0] * frame[0] + frame[1], (box[0] + box[2]) * frame[0] + frame[1]  # noqa: E741
    t, b = box[1] * frame[2] + frame[3], (box[1] + box[3]) * frame[2] + frame[3]
    most = frame[4]
    l, r = min(l, r), max(l, r)  # noqa: E741
    return min(max(l, 0.0), most), min(max(t, 0.0), most), min(max(r, 0.0), most), min(max(b, 0.0), most)


@numba.njit(cache=True, nogil=True)
def shared_ground(a: NDArray[np.int64], b: NDArray[np.int64], size: int) -> tuple[int, int, int, int]:
    """Give [left, top] of the crops' intersection in source pixels and its width and height at the lesser zoom.

    Width and height are 0 where the crops do not meet.
    """
    left, right = max(a[1], b[1]), min(a[1] + a[3], b[1] + b[3])
    top, bottom = max(a[0], b[0]), min(a[0] + a[2], b[0] + b[2])
    if left >= right or top >= bottom:
        return 0, 0, 0, 0
    zoom_x, zoom_y = size / max(a[3], b[3]), size / max(a[2], b[2])
    return left, top, round((right - left) * zoom_x), round((bottom - top) * zoom_y)


@numba.njit(cache=True, nogil=True)
def draw_span(state: State, length: int, smallest: int) -> tuple[int, int]:
    """Draw [start, length] of a box along one axis: a random number of cells, one of them, a place inside it."""
    cells = integer(state, 1, length // smallest)
    cell_length = length / cells
    cell = integer(state, 0, cells - 1)
    span = integer(state, smallest, math.floor(cell_length))
    start = integer(state, 0, math.floor(cell_length - span)) + math.floor(cell * cell_length)
    return start, span


@numba.njit(cache=True, nogil=True)
def draw_boxes(
    state: State, width: int, height: int, number: int, smallest: int, max_iou: float, tries: int,
    frame: Frame = GROUND,
) -> NDArray[np.int64]:  # fmt: skip
    """Draw boxes [x, y, w, h] on ground of a whole number of pixels.

    A box is drawn again, at most ``tries`` times, until its IoU with every box before it is below ``max_iou``;
    the last draw is kept whatever it is. The boxes before it are seen in ``frame``.
    """
    boxes, seen = np.zeros((number, 4), np.int64), np.zeros((number, 4))
    for i in range(number):
        for _ in range(tries):
            # Both axes are drawn in turn; the widths of the two spans do not depend on each other.
            x, w = draw_span(state, width, smallest)
            y, h = draw_span(state, height, smallest)
            boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3] = x, y, w, h
            if is_apart(boxes[i], seen[:i], max_iou):
                break
        seen[i, 0], seen[i, 1], seen[i, 2], seen[i, 3] = framed(boxes[i], frame)
    return boxes


@numba.njit(cache=True, nogil=True)
def is_apart(box: NDArray[np.int64], others: NDArray[np.float64], max_iou: float) -> bool:
    """Tell whether the IoU of [x, y, w, h] with every [left, top, right, bottom] is below ``max_iou``."""
    x, y, w, h = box[0], box[1], box[2], box[3]
    for j in range(len(others)):
        across = min(float(x + w), others[j, 2]) - max(float(x), others[j, 0])
        down = min(float(y + h), others[j, 3]) - max(float(y), others[j, 1])
        if across > 0 and down > 0:
            both = across * down
            area = (others[j, 2] - others[j, 0]) * (others[j, 3] - others[j, 1])
            if both >= max_iou * (w * h + area - both):
                return False
    return True


@numba.njit(cache=True, nogil=True)
def project_axis(start: float, length: float, zoom: float, ground_zoom: float, offset: float) -> tuple[float, float]:
    """Take a box's side from the ground's pixels to a view's: [near, far]."""
    near = start * zoom / ground_zoom + offset * zoom
    return near, near + length * zoom / ground_zoom


@numba.njit(cache=True, nogil=True)
def project(
    boxes: NDArray[np.int64],
    left: int,
    top: int,
    crop: NDArray[np.int64],
    other: NDArray[np.int64],
    size: int,
) -> Box:
    """Take boxes from the shared ground to the view of ``crop``: [left, top, right, bottom] in view pixels."""
    zoom_x, zoom_y = size / crop[3], size / crop[2]
    ground_x, ground_y = size / max(crop[3], other[3]), size / max(crop[2], other[2])
    seen = np.empty((len(boxes), 4), np.float32)
    for i in range(len(boxes)):
        l, r = project_axis(boxes[i, 0], boxes[i, 2], zoom_x, ground_x, left - crop[1])  # noqa: E741
        t, b = project_axis(boxes[i, 1], boxes[i, 3], zoom_y, ground_y, top - crop[0])
        if crop[4] & TRANSPOSED:
            l, t, r, b = t, l, b, r  # noqa: E741
        if crop[4] & UPSIDE_DOWN:
            t, b = size - b, size - t
        if crop[4] & MIRRORED:
            l, r = size - r, size - l  # noqa: E741
        seen[i, 0], seen[i, 1] = min(max(l, 0.0), size), min(max(t, 0.0), size)
        seen[i, 2], seen[i, 3] = min(max(r, 0.0), size), min(max(b, 0.0), size)
    return seen


@numba.njit(cache=True, nogil=True)
def first_frame(left: int, top: int, crop: NDArray[np.int64], other: NDArray[np.int64], size: int) -> Frame:
    """Give the frame of the view of ``crop``, mirrored if it is, seen from the shared ground."""
    zoom_x, zoom_y = size / crop[3], size / crop[2]
    ground_x, ground_y = size / max(crop[3], other[3]), size / max(crop[2], other[2])
    scale_x, shift_x = zoom_x / ground_x, (left - crop[1]) * zoom_x
    if crop[4] & MIRRORED:
        scale_x, shift_x = -scale_x, size - shift_x
    return scale_x, shift_x, zoom_y / ground_y, (top - crop[0]) * zoom_y, float(size)


@numba.njit(cache=True, nogil=True)
def draw_pair(
    seed: np.uint64, rows: int, columns: int, size: int, area0: float, area1: float, aspect0: float, aspect1: float,
    flip: float, number: int, smallest: int, max_iou: float, tries: int, vertical: float = 0.0, turn: float = 0.0,
    mixed: bool = False, rows2: int = 0, columns2: int = 0, down: int = 0, right: int = 0,
) -> tuple[NDArray[np.int64], Box, Box]:  # fmt: skip
    """Draw two crops (2, 5) and the boxes of both views, each (number, 4).

    The second crop is drawn from a tile of rows2 x columns2 (0: of the same shape) whose first pixel lies ``down`` and
    ``right`` of the first tile's; both crops are in the first tile's pixels, and the tiles must overlap.
    """
    state = np.empty(1, np.uint64)
    state[0] = seed
    rows2, columns2 = rows2 if rows2 > 0 else rows, columns2 if columns2 > 0 else columns
    crops = np.zeros((2, 5), np.int64)
    left = top = width = height = 0
    for _ in range(PAIR_TRIES):
        crops[0] = draw_crop(state, rows, columns, area0, area1, aspect0, aspect1, flip, vertical, turn)
        crops[1] = draw_crop(state, rows2, columns2, area0, area1, aspect0, aspect1, flip, vertical, turn)
        crops[1, 0] += down
        crops[1, 1] += right
        left, top, width, height = shared_ground(crops[0], crops[1], size)
        if width > smallest and height > smallest:
            break
    if not (width > smallest and height > smallest):
        # Dials that leave crops almost no common ground: see the same crop twice.
        if down != 0 or right != 0 or rows2 != rows or columns2 != columns:
            crops[0, 0], crops[0, 1] = max(down, 0), max(right, 0)
            crops[0, 2] = min(rows, down + rows2) - crops[0, 0]
            crops[0, 3] = min(columns, right + columns2) - crops[0, 1]
        crops[1, :4] = crops[0, :4]
        left, top, width, height = shared_ground(crops[0], crops[1], size)
    frame = first_frame(left, top, crops[0], crops[1], size) if mixed else GROUND
    boxes = draw_boxes(state, width, height, number, smallest, max_iou, tries, frame)
    boxes1 = project(boxes, left, top, crops[0], crops[1], size)
    return crops, boxes1, project(boxes, left, top, crops[1], crops[0], size)
