"""How well contours and centre lines are hit: counts of pixels that lie near the other map's, added up over scenes."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from finetune.legend import IGNORED
from finetune.thinning import thin

Mask = NDArray[np.bool_]
Labels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Matched:
    """Pixels of lines in truth and prediction, and those within the tolerance of the other's; parts add up."""

    truth: int = 0
    truth_matched: int = 0
    predicted: int = 0
    predicted_matched: int = 0

    def __add__(self, other: "Matched") -> "Matched":
        return Matched(
            self.truth + other.truth,
            self.truth_matched + other.truth_matched,
            self.predicted + other.predicted,
            self.predicted_matched + other.predicted_matched,
        )

    @property
    def completeness(self) -> float:
        """Share of the true line that was found (recall); NaN without one."""
        return self.truth_matched / self.truth if self.truth else math.nan

    @property
    def correctness(self) -> float:
        """Share of the predicted line that is right (precision); NaN without one."""
        return self.predicted_matched / self.predicted if self.predicted else math.nan

    @property
    def quality(self) -> float:
        """Matched prediction / (prediction + true line that was missed); NaN where both are empty."""
        whole = self.predicted + self.truth - self.truth_matched
        return self.predicted_matched / whole if whole else math.nan

    @property
    def f1(self) -> float:
        """Harmonic mean of completeness and correctness; 0 where one map has lines and the other none."""
        if not self.truth and not self.predicted:
            return math.nan
        r, p = (0.0 if math.isnan(v) else v for v in (self.completeness, self.correctness))
        return 2 * r * p / (r + p) if r + p else 0.0


def within(mask: Mask, distance_px: float) -> Mask:
    """Tell which pixels lie at most so far (Euclidean, centre to centre) from a pixel of the mask."""
    if not mask.any():
        return np.zeros_like(mask)
    # A touch above the distance: the transform's square roots may land on either side of a whole number.
    near: Mask = ndimage.distance_transform_edt(~mask) <= distance_px + 1e-9
    return near


def contour(labels: Labels, output: int) -> Mask:
    """Mark the pixels of a class that touch a pixel of another class by a side; 255 is no class, and no contour."""
    inside, other = labels == output, (labels != output) & (labels != IGNORED)
    touched = np.zeros_like(inside)
    touched[1:] |= other[:-1]
    touched[:-1] |= other[1:]
    touched[:, 1:] |= other[:, :-1]
    touched[:, :-1] |= other[:, 1:]
    marked: Mask = inside & touched
    return marked


def match(truth: Mask, predicted: Mask, distance_px: float, inside: slice = slice(None)) -> Matched:
    """Count line pixels and those within a distance of the other's line; ``inside`` are the rows that count."""
    t, p = truth[inside], predicted[inside]
    return Matched(
        int(t.sum()),
        int((t & within(predicted, distance_px)[inside]).sum()) if t.any() else 0,
        int(p.sum()),
        int((p & within(truth, distance_px)[inside]).sum()) if p.any() else 0,
    )


def boundary_match(truth: Labels, predicted: Labels, classes: int, tolerance_px: float) -> list[Matched]:
    """Match the contours of every class of two label rasters (rows, cols) of output numbers.

    Where the truth is 255 the prediction is left out, too. Their F1 is the boundary F1 of Csurka et al., "What is a
    good evaluation measure for semantic segmentation?", BMVC 2013.
    """
    return boundary_match_rows([(truth, predicted)], classes, tolerance_px)


def boundary_match_rows(parts: Iterable[tuple[Labels, Labels]], classes: int, tolerance_px: float) -> list[Matched]:
    """Match contours of one scene that comes in strips of rows from top to bottom; strips never change the counts.

    Memory holds a strip and the rows within the tolerance of it.
    """
    totals = [Matched()] * classes
    for truth, predicted, inside in _with_margins(parts, math.ceil(tolerance_px) + 1):
        seen = np.where(truth == IGNORED, np.uint8(IGNORED), predicted)
        for k in range(classes):
            totals[k] += match(contour(truth, k), contour(seen, k), tolerance_px, inside)
    return totals


def _with_margins(
    parts: Iterable[tuple[Labels, Labels]], margin: int, least: int = 256
) -> Iterator[tuple[Labels, Labels, slice]]:
    """Give rows with up to ``margin`` rows above and below, and which of them count: each row counts once."""
    held: tuple[Labels, Labels] | None = None
    begin = 0  # first row of what is held that has not counted yet
    for truth, predicted in parts:
        if truth.shape != predicted.shape:
            raise ValueError(f"truth has shape {truth.shape} and the prediction {predicted.shape}")
        held = (truth, predicted) if held is None else (np.vstack([held[0], truth]), np.vstack([held[1], predicted]))
        end = len(held[0]) - margin
        if end - begin >= least:
            yield *held, slice(begin, end)
            drop = max(end - margin, 0)
            held, begin = (held[0][drop:], held[1][drop:]), end - drop
    if held is not None:
        yield *held, slice(begin, None)


def line_match(truth: Mask, predicted: Mask, buffer_px: float, *, centre_lines: bool = True) -> Matched:
    """Match road masks (rows, cols) by the buffer method; lengths are counts of pixels.

    With ``centre_lines`` both masks are thinned first, so that wide roads weigh no more than narrow ones; without it
    every pixel of the masks counts, which is Mnih's relaxed precision and recall. Completeness, correctness and
    quality: Wiedemann, Heipke, Mayer and Jamet, "Empirical evaluation of automatically extracted road axes", 1998.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"truth has shape {truth.shape} and the prediction {predicted.shape}")
    return match(*((thin(truth), thin(predicted)) if centre_lines else (truth, predicted)), buffer_px)


@dataclass(slots=True)
class LineScore:
    """Gathers the strips of scenes and matches the lines of one class scene by scene.

    Thinning needs a whole scene: its two masks are held as bits, a 26,000-pixel-square scene in 170 MB.
    """

    output: int
    buffer_px: float
    _truth: list[NDArray[np.uint8]] = field(default_factory=list, init=False)
    _predicted: list[NDArray[np.uint8]] = field(default_factory=list, init=False)
    _cols: int = field(default=0, init=False)

    def add(self, truth: Labels, predicted: Labels) -> None:
        """Take in the next rows of output numbers; where the truth is 255 nothing counts."""
        self._cols = truth.shape[1]
        counted = truth != IGNORED
        self._truth.append(np.packbits(truth == self.output, axis=1))
        self._predicted.append(np.packbits((predicted == self.output) & counted, axis=1))

    def finish(self) -> Matched:
        """Match the scene that was taken in, and begin anew."""
        if not self._truth:
            return Matched()
        truth, predicted = (self._mask(rows) for rows in (self._truth, self._predicted))
        self._truth, self._predicted = [], []
        return line_match(truth, predicted, self.buffer_px)

    def _mask(self, rows: Sequence[NDArray[np.uint8]]) -> Mask:
        return np.unpackbits(np.vstack(rows), axis=1, count=self._cols).astype(bool)
