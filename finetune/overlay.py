"""A picture of a map: the radar image and the classes over it with the legend, or numbers beside it on a ramp."""

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from finetune.legend import IGNORED, LandClass, Legend
from finetune.mosaic import Strip
from finetune.value_strips import ValueStrip
from shards.tile import NO_DATA

if TYPE_CHECKING:
    from matplotlib.patches import Patch

AnyStrip = TypeVar("AnyStrip", Strip, ValueStrip)


@dataclass(slots=True)
class Quicklook:
    """The first band of a scene reduced by a whole factor, filled as the strips come.

    Codes are linear in decibels, so their mean over a block is a mean of decibels: right for the eye, not for numbers.
    """

    shape: tuple[int, int]
    most: int = 900
    _sum: NDArray[np.float64] = field(init=False)
    _count: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        small = tuple(-(-n // self.factor) for n in self.shape)
        self._sum, self._count = np.zeros(small), np.zeros(small, np.int64)

    @property
    def factor(self) -> int:
        """How many scene pixels make one pixel of the quicklook, along each axis."""
        return max(1, -(-max(self.shape) // self.most))

    def add(self, strip: Strip | ValueStrip) -> None:
        """Take in some rows."""
        codes = strip.codes[0]
        row = (strip.row + np.arange(codes.shape[0])) // self.factor
        col = np.arange(codes.shape[1]) // self.factor
        for out, values in ((self._sum, codes.astype(np.float64)), (self._count, codes != NO_DATA)):
            blocks = np.add.reduceat(values, np.flatnonzero(np.diff(col, prepend=-1)), axis=1, dtype=out.dtype)
            np.add.at(out, row, blocks)

    def seen(self, strip: AnyStrip) -> AnyStrip:
        """Take in some rows and pass them on."""
        self.add(strip)
        return strip

    def grey(self) -> NDArray[np.float64]:
        """Give 0..1 stretched between the 2nd and 98th percentile, NaN where nothing was measured."""
        mean: NDArray[np.float64] = np.divide(
            self._sum, self._count, out=np.full(self._sum.shape, np.nan), where=self._count > 0
        )
        if np.isnan(mean).all():
            return mean
        low, high = np.nanpercentile(mean, (2, 98))
        grey: NDArray[np.float64] = np.clip((mean - low) / max(high - low, 1.0), 0, 1)
        return grey


def draw_overlay(
    grey: NDArray[np.float64], ids: NDArray[np.uint8], legend: Legend, title: str, *, opacity: float = 0.6
) -> bytes:
    """Draw the radar image (rows, cols; NaN is no-data) beside the same image under the classes, as PNG bytes.

    ``ids`` are class ids of equal shape, 255 is no-data. The background class stays transparent.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    present = [c for c in legend.classes if (ids == c.id).any()]
    rows, cols = ids.shape
    height = float(np.clip(5.2 * rows / cols, 2.0, 9.0))
    key_rows = -(-max(len(present), 1) // 5)
    figure = Figure(figsize=(11, height + 0.75 + 0.3 * key_rows), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    base = np.where(np.isnan(grey), 1.0, grey)[..., None].repeat(3, 2)
    for axes, image, name in zip(
        figure.subplots(1, 2),
        (base, _painted(base, ids, legend, opacity)),
        ("backscatter", "classes"),
        strict=True,
    ):
        axes.imshow(image, interpolation="nearest")
        axes.set_title(name, fontsize=10)
        axes.set_axis_off()
    figure.suptitle(title, fontsize=11)
    figure.legend(
        handles=[_patch(c, ids, legend) for c in present],
        loc="outside lower center",
        ncols=min(5, max(len(present), 1)),
        fontsize=9,
        frameon=False,
    )
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def draw_values(grey: NDArray[np.float64], values: NDArray[np.float32], title: str, unit: str = "") -> bytes:
    """Draw the radar image beside the values (rows, cols; NaN is no-data) on a colour ramp, as PNG bytes.

    The ramp runs from the 2nd to the 98th percentile.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, cols = values.shape
    height = float(np.clip(5.2 * rows / cols, 2.0, 9.0))
    figure = Figure(figsize=(11, height + 0.75), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    low, high = np.nanpercentile(values, (2, 98)) if np.isfinite(values).any() else (0.0, 1.0)
    left, right = figure.subplots(1, 2)
    left.imshow(np.where(np.isnan(grey), 1.0, grey)[..., None].repeat(3, 2), interpolation="nearest")
    shown = right.imshow(values, cmap="viridis", vmin=low, vmax=max(high, low + 1e-9), interpolation="nearest")
    for axes, name in ((left, "backscatter"), (right, "values")):
        axes.set_title(name, fontsize=10)
        axes.set_axis_off()
    figure.colorbar(shown, ax=right, label=unit, shrink=0.9, extend="both")
    figure.suptitle(title, fontsize=11)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _painted(base: NDArray[np.float64], ids: NDArray[np.uint8], legend: Legend, opacity: float) -> NDArray[np.float64]:
    painted = (ids != IGNORED) & (ids != (IGNORED if legend.background is None else legend.background))
    alpha = np.where(painted, opacity, 0.0)[..., None]
    image: NDArray[np.float64] = base * (1 - alpha) + legend.colours()[ids] / 255.0 * alpha
    return image


def _patch(land_class: LandClass, ids: NDArray[np.uint8], legend: Legend) -> "Patch":
    from matplotlib.patches import Patch

    share = 100 * int((ids == land_class.id).sum()) / max(int((ids != IGNORED).sum()), 1)
    plain = " (not painted)" if land_class.id == legend.background else ""
    red, green, blue = (level / 255 for level in land_class.colour)
    label = f"{land_class.name} {share:.1f} %{plain}"
    return Patch(facecolor=(red, green, blue), edgecolor="0.3", label=label)
