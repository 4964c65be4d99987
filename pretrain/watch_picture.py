"""A picture of pairs of views as the encoder gets them, with the boxes that show the same ground."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

VIEWS = "views"
"""Where the pictures lie in the store of a run."""
SIDE = 256
"""Least side of a drawn view in pixels of the picture."""
GAP = 6

Side = tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]
"""Greys (N, S, S), where nothing was measured (N, S, S), boxes (N, R, 4) [left, top, right, bottom]."""

COLOURS = (
    "#ff5d4d", "#4da3ff", "#57d66a", "#ffd23f", "#c77dff", "#ff9f45", "#3fe0d0", "#ff7ab8", "#b5e04a", "#d9d9d9",
)  # fmt: skip
NOTHING = (40, 44, 74)


def view_key(step: int) -> str:
    """Name the picture taken after ``step``."""
    return f"{VIEWS}/step-{step:09d}.png"


def pairs_png(first: Side, second: Side) -> bytes:
    """Draw each tile's two views beside each other, a tile to a row; boxes of one colour and number belong together."""
    from PIL import Image

    count, side = first[0].shape[:2]
    zoom = -(-SIDE // side)
    height, width = count * (side * zoom + GAP) - GAP, 2 * side * zoom + GAP
    whole = Image.new("RGB", (width, height), "white")
    for row in range(count):
        for column, (greys, missing, boxes) in enumerate((first, second)):
            view = _view(greys[row], missing[row], boxes[row], zoom)
            whole.paste(view, (column * (side * zoom + GAP), row * (side * zoom + GAP)))
    buffer = io.BytesIO()
    whole.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _view(grey: NDArray[np.float32], missing: NDArray[np.bool_], boxes: NDArray[np.float32], zoom: int) -> Any:
    from PIL import Image, ImageDraw

    # Greys keep to the middle of a wide dB range: stretched, so that ground is seen.
    shown = grey[~missing]
    low, high = np.quantile(shown, (0.01, 0.99)) if shown.size else (0.0, 1.0)
    level = np.clip((grey - low) / max(float(high - low), 1e-3), 0, 1)
    pixels = np.repeat((255 * level).astype(np.uint8)[:, :, None], 3, 2)
    pixels[missing] = NOTHING
    view = Image.fromarray(pixels.repeat(zoom, 0).repeat(zoom, 1))
    draw = ImageDraw.Draw(view)
    for number, box in enumerate(boxes):
        left, top, right, bottom = (float(v) * zoom for v in box)
        colour = COLOURS[number % len(COLOURS)]
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=2)
        draw.text((left + 4, top + 2), str(number + 1), fill=colour)
    return view
