"""A scene put together from its tiles, predicted window by window, given back row by row.

The windows of prediction are cut from the scene and not from its tiles, so how a corpus was tiled never changes a map.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from finetune.legend import IGNORED
from shards.tile import NO_DATA, Tile

Predict = Callable[[NDArray[np.uint16]], NDArray[np.float32]]
"""Codes (n, bands, rows, cols) -> logits (n, classes, rows, cols)."""


@dataclass(slots=True)
class SceneTiles:
    """The pixels and labels of one scene, read by windows from its stored tiles.

    ``shape`` is (rows, cols) of the scene, ``windows`` (n, 4) row, col, rows, cols of each tile, ``load`` reads the
    n-th tile. Read from the top downwards and ``forget`` what is behind: memory stays at a strip of tiles.
    """

    shape: tuple[int, int]
    bands: int
    windows: NDArray[np.int64]
    load: Callable[[int], Tile]
    _held: dict[int, Tile] = field(default_factory=dict, init=False)

    def pixels(self, row: int, col: int, rows: int, cols: int) -> NDArray[np.uint16]:
        """Give codes (bands, rows, cols); what no tile covers is no-data, also beyond the scene."""
        out = np.full((self.bands, rows, cols), NO_DATA, np.uint16)
        for n, there, here in self._overlaps(row, col, rows, cols):
            out[:, *there] = self._tile(n).pixels[:, *here]
        return out

    def label(self, row: int, col: int, rows: int, cols: int) -> NDArray[np.uint8]:
        """Give class ids (rows, cols); what no labelled tile covers is 255."""
        out = np.full((rows, cols), IGNORED, np.uint8)
        for n, there, here in self._overlaps(row, col, rows, cols):
            label = self._tile(n).label
            if label is not None:
                out[there] = label[here]
        return out

    def forget(self, row: int) -> None:
        """Let go of the tiles that end above a row of the scene."""
        for n in [n for n in self._held if self.windows[n, 0] + self.windows[n, 2] <= row]:
            del self._held[n]

    def _tile(self, n: int) -> Tile:
        if n not in self._held:
            self._held[n] = self.load(n)
        return self._held[n]

    def _overlaps(
        self, row: int, col: int, rows: int, cols: int
    ) -> Iterator[tuple[int, tuple[slice, slice], tuple[slice, slice]]]:
        first = self.windows[:, :2]
        top, end = np.maximum(first, (row, col)), np.minimum(first + self.windows[:, 2:], (row + rows, col + cols))
        for n in np.flatnonzero((top < end).all(1)):
            (r0, c0), (r1, c1), (tr, tc) = top[n], end[n], first[n]
            yield (
                int(n),
                (slice(r0 - row, r1 - row), slice(c0 - col, c1 - col)),
                (slice(r0 - tr, r1 - tr), slice(c0 - tc, c1 - tc)),
            )


@dataclass(frozen=True, slots=True)
class Strip:
    """Some finished rows of a scene: where they begin, their codes (bands, rows, cols), and what was predicted.

    ``outputs`` (rows, cols) uint8 are output numbers, 255 where no band has data; ``confidence`` (rows, cols) is the
    probability of that class, 0 where there is none.
    """

    row: int
    codes: NDArray[np.uint16]
    outputs: NDArray[np.uint8]
    confidence: NDArray[np.float32]


def class_strips(
    predict: Predict, scene: SceneTiles, classes: int, *, size: int, overlap: int, batch: int = 8, margin: int = 0
) -> Iterator[Strip]:
    """Predict a scene from overlapping windows of ``size`` pixels and give its rows from top to bottom.

    Where windows overlap their logits are averaged with weights that fall towards the edges. The outer ``margin``
    pixels of a window, which see past its edge, do not count but at the edges of the scene: a network that sees no
    further than that gives the same map for every size and overlap. Memory: ``size`` rows of logits. Raises
    ValueError where windows could not advance or would leave gaps.
    """
    total = np.zeros((classes, size, max(scene.shape[1], size)), np.float32)
    for top, sums, share in weighted_sums(predict, scene, total, overlap=overlap, batch=batch, margin=margin):
        yield _strip(scene, top, sums, share)


def weighted_sums(
    predict: Predict,
    scene: SceneTiles,
    total: NDArray[np.floating],
    *,
    overlap: int,
    batch: int = 8,
    margin: int = 0,
) -> Iterator[tuple[int, NDArray[np.floating], NDArray[np.float32]]]:
    """Give finished rows: where they begin, weighted sums (outputs, rows, cols), and the weights' sum (rows, cols).

    ``total`` is where they are added up, zeros (outputs, size, at least the scene's columns and the size): what is
    given lies in it and must be used before the next rows are asked for.
    """
    size = total.shape[1]
    if not 0 <= overlap < size:
        raise ValueError(f"overlap {overlap} must be at least 0 and less than the window size {size}")
    if not 0 <= 2 * margin <= overlap:
        raise ValueError(f"margin {margin} must be at least 0 and at most half of the overlap {overlap}")
    rows, cols = scene.shape
    down, across = _Axis.of(rows, size, overlap, margin), _Axis.of(cols, size, overlap, margin)
    for top, following in zip(down.starts, [*down.starts[1:], rows], strict=True):
        for group in _groups(across.starts, batch):
            _add_windows(total, predict, scene, top, group, down, across)
        done = following - top
        # The weights' sum divides every class alike and so never changes the order; the softmax needs it.
        share = across.total(0, cols)[None] * down.total(top, done)[:, None]
        yield top, total[:, :done, :cols], share
        total[:, : size - done] = total[:, done:].copy()
        total[:, max(size - done, 0) :] = 0
        scene.forget(following)


def starts(length: int, size: int, overlap: int) -> list[int]:
    """Give where windows begin along an axis: even steps, and the last one ends with the scene."""
    if length <= size:
        return [0]
    return [*range(0, length - size, size - overlap), length - size]


def edge_weights(size: int, margin: int = 0, *, first: bool = False, last: bool = False) -> NDArray[np.float32]:
    """Give the weight along one axis of a window: 1 at the edges, rising by 1 per pixel to the middle.

    With a margin, that many pixels weigh 0 at both edges, but at none that is the scene's (``first``, ``last``).
    """
    ramp = np.arange(1, size + 1)
    low, high = ramp - (0 if first else margin), ramp[::-1] - (0 if last else margin)
    return np.maximum(np.minimum(low, high), 0).astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Axis:
    """The windows along one axis of a scene: where they begin, and the weights of their pixels."""

    starts: list[int]
    weights: dict[int, NDArray[np.float32]]

    @classmethod
    def of(cls, length: int, size: int, overlap: int, margin: int) -> "_Axis":
        begins = starts(length, size, overlap)
        ends = (begins[0], begins[-1])
        weights = {b: edge_weights(size, margin, first=b == ends[0], last=b == ends[1]) for b in begins}
        return cls(begins, weights)

    def total(self, first: int, count: int) -> NDArray[np.float32]:
        """Give the sum of the weights of all windows, from a pixel of the scene on."""
        out = np.zeros(count, np.float32)
        for begin, weight in self.weights.items():
            low, high = max(begin, first), min(begin + len(weight), first + count)
            if low < high:
                out[low - first : high - first] += weight[low - begin : high - begin]
        return out


def _groups(items: Sequence[int], n: int) -> Iterator[Sequence[int]]:
    return (items[i : i + n] for i in range(0, len(items), n))


def _add_windows(
    total: NDArray[np.floating],
    predict: Predict,
    scene: SceneTiles,
    top: int,
    lefts: Sequence[int],
    down: _Axis,
    across: _Axis,
) -> None:
    size = total.shape[1]
    codes = {left: scene.pixels(top, left, size, size) for left in lefts}
    measured = [left for left in lefts if (codes[left] != NO_DATA).any()]
    if not measured:
        return
    logits = predict(np.stack([codes[left] for left in measured]))
    for left, scores in zip(measured, logits, strict=True):
        total[:, :, left : left + size] += scores * (down.weights[top][:, None] * across.weights[left][None])


def _strip(scene: SceneTiles, row: int, total: NDArray[np.floating], share: NDArray[np.float32]) -> Strip:
    rows, cols = share.shape
    codes = scene.pixels(row, 0, rows, cols)
    empty = (codes == NO_DATA).all(0)
    outputs = total.argmax(0).astype(np.uint8)
    outputs[empty] = IGNORED
    best, others = total.max(0), np.zeros((rows, cols), np.float32)
    for one in total:  # class by class: the logits are the largest thing in memory, and need no second copy
        others += np.exp((one - best) / share)
    return Strip(row, codes, outputs, np.where(empty, np.float32(0), 1 / others))
