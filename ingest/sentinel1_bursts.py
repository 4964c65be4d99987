"""TOPS images without their bursts: lines of the image that each burst gives, once for every moment of azimuth time.

A sub-swath is imaged in bursts that overlap by some ten per cent and lie one below the other in the file. Their lines
fall on one grid of azimuth time; in an overlap the earlier burst counts up to its middle and the later one from there
(Sentinel-1 Product Definition, S1-RS-MDA-52-7440, section 5.1).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ingest.annotation import BurstTiming, Image
from ingest.calibrate import Burst
from ingest.scene import SceneRejected, Window


class Piece(NamedTuple):
    """Consecutive rows of a scene that are consecutive lines of the file: the first of each, and their number."""

    row: int
    line: int
    rows: int


@dataclass(frozen=True, slots=True)
class Mosaic:
    """Which line of the file each row of the scene is; rows between pieces, where bursts leave a gap, are no data.

    ``starts`` (bursts,) is the row at which each burst's first line would lie. ``first_valid`` and ``last_valid``
    (lines of the file,) are the samples between which the file holds an image, -1 where none.
    """

    rows: int
    burst_lines: int
    starts: NDArray[np.int64]
    pieces: tuple[Piece, ...]
    first_valid: NDArray[np.int64]
    last_valid: NDArray[np.int64]

    @classmethod
    def of(cls, images: Sequence[Image], name: str) -> Self:
        """Lay out the bursts of all polarisations of one sub-swath; where they differ, a line counts if all have it.

        Raises SceneRejected where burst times do not ascend, leave long gaps, or differ between polarisations.
        """
        first, last = (np.stack([_joined(i.bursts, end) for i in images]) for end in ("first_valid", "last_valid"))
        none = (first < 0).any(axis=0)
        first_valid, last_valid = np.where(none, -1, first.max(axis=0)), np.where(none, -1, last.min(axis=0))
        offsets = {tuple(_offsets(image)) for image in images}
        if len(offsets) > 1:
            raise SceneRejected(f"{name} has polarisations whose bursts are of different times")
        starts = np.array(offsets.pop(), np.int64)
        lines = images[0].shape[0] // len(starts)
        spans = [_span(first_valid[n * lines : (n + 1) * lines], int(start)) for n, start in enumerate(starts)]
        if any(span is None for span in spans):
            raise SceneRejected(f"{name} has a burst without a valid sample")
        cut = list(_cut([span for span in spans if span is not None]))
        top = cut[0][0]
        if (np.diff(starts) <= 0).any() or cut[-1][1] - top > images[0].shape[0] + lines:
            raise SceneRejected(f"{name} has bursts that do not follow each other in time")
        pieces = tuple(
            Piece(begin - top, n * lines + begin - int(start), end - begin)
            for n, ((begin, end), start) in enumerate(zip(cut, starts, strict=True))
            if end > begin
        )
        return cls(cut[-1][1] - top, lines, starts - top, pieces, first_valid, last_valid)

    def parts(self, window: Window) -> Iterator[tuple[slice, Window]]:
        """Give the rows of a window, counted from its first, and the window of the file that they are."""
        for piece in self.pieces:
            begin = max(window.row, piece.row)
            end = min(window.row + window.rows, piece.row + piece.rows)
            if begin < end:
                line = piece.line + begin - piece.row
                yield slice(begin - window.row, end - window.row), Window(line, window.col, end - begin, window.cols)

    def valid(self, window: Window) -> NDArray[np.bool_]:
        """Give where a window of the file holds an image, (rows, cols)."""
        col = np.arange(window.col, window.col + window.cols)
        lines = slice(window.row, window.row + window.rows)
        return (col >= self.first_valid[lines, None]) & (col <= self.last_valid[lines, None])

    def rows_of(self, lines: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give the row (fractional, perhaps outside the scene) whose azimuth time is that of each line of the file."""
        burst = np.clip(lines // self.burst_lines, 0, len(self.starts) - 1).astype(np.int64)
        return self.starts[burst] + lines - burst * self.burst_lines


def bursts_of(image: Image) -> tuple[Burst, ...]:
    """Give the bursts of an image as calibration wants them."""
    lines = image.shape[0] // max(len(image.bursts), 1)
    return tuple(Burst(n * lines, (n + 1) * lines - 1, burst.time) for n, burst in enumerate(image.bursts))


def _joined(bursts: Sequence[BurstTiming], field: str) -> NDArray[np.int64]:
    return np.concatenate([getattr(burst, field) for burst in bursts])


def _offsets(image: Image) -> list[int]:
    """Give the line interval at which each burst starts, counted from the first."""
    seconds = [(burst.time - image.bursts[0].time) / np.timedelta64(1, "s") for burst in image.bursts]
    return [round(s / image.line_interval_s) for s in seconds]


def _span(first_valid: NDArray[np.int64], start: int) -> tuple[int, int] | None:
    """Give the first row of a burst that holds an image, and the one after the last."""
    found = np.flatnonzero(first_valid >= 0)
    return (start + int(found[0]), start + int(found[-1]) + 1) if len(found) else None


def _cut(spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Cut spans that overlap in the middle of what they share."""
    begin = spans[0][0]
    for (_, end), following in zip(spans, [*spans[1:], None], strict=True):
        middle = (following[0] + end) // 2 if following and following[0] < end else end
        yield begin, max(middle, begin)
        if following:
            begin = max(following[0], middle)
