"""The box rule of DI3CL in plain Python, written from its description, slow and obvious; the oracle of the kernel.

Boxes are compared in the frame they are drawn in (the published code mixes two frames). ``(x, y, w, h)`` on the
shared ground, ``(y, x, h, w, flipped)`` for a crop.
"""

import math
import random

Crop = tuple[int, int, int, int, int]
Span = tuple[int, int, int, int]


def shared_ground(a: Crop, b: Crop, size: int) -> tuple[int, int, int, int] | None:
    """Left, top in source pixels, width and height at the smaller magnification, or None."""
    x_left, x_right = max(a[1], b[1]), min(a[1] + a[3], b[1] + b[3])
    y_top, y_bottom = max(a[0], b[0]), min(a[0] + a[2], b[0] + b[2])
    if x_left >= x_right or y_top >= y_bottom:
        return None
    sx = min(size / a[3], size / b[3])
    sy = min(size / a[2], size / b[2])
    return x_left, y_top, round((x_right - x_left) * sx), round((y_bottom - y_top) * sy)


def draw_box(rng: random.Random, width: int, height: int, smallest: int) -> Span:
    """One box in grid mode."""
    nx = rng.randint(1, width // smallest)
    ny = rng.randint(1, height // smallest)
    gw, gh = width / nx, height / ny
    cx, cy = rng.randint(0, nx - 1), rng.randint(0, ny - 1)
    bw = rng.randint(smallest, math.floor(gw))
    bh = rng.randint(smallest, math.floor(gh))
    bx = rng.randint(0, math.floor(gw - bw)) + math.floor(cx * gw)
    by = rng.randint(0, math.floor(gh - bh)) + math.floor(cy * gh)
    return bx, by, bw, bh


def iou(a: Span, b: Span) -> float:
    """Intersection over union."""
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(w, 0) * max(h, 0)
    return both / (a[2] * a[3] + b[2] * b[3] - both)


def draw_boxes(
    rng: random.Random, width: int, height: int, number: int, smallest: int, max_iou: float, tries: int
) -> list[Span]:
    """Boxes of one image, each drawn again while it overlaps an earlier one too much."""
    boxes: list[Span] = []
    for _ in range(number):
        for _ in range(tries):
            box = draw_box(rng, width, height, smallest)
            if all(iou(box, other) < max_iou for other in boxes):
                break
        boxes.append(box)
    return boxes


def project(box: Span, left: int, top: int, crop: Crop, other: Crop, size: int) -> tuple[float, float, float, float]:
    """A box in the pixels of the view of ``crop``."""
    sx_v, sy_v = size / crop[3], size / crop[2]
    sx, sy = min(sx_v, size / other[3]), min(sy_v, size / other[2])
    left_v = box[0] * sx_v / sx + (left - crop[1]) * sx_v
    right_v = left_v + box[2] * sx_v / sx
    top_v = box[1] * sy_v / sy + (top - crop[0]) * sy_v
    bottom_v = top_v + box[3] * sy_v / sy
    if crop[4]:
        left_v, right_v = size - right_v, size - left_v
    clip = lambda v: min(max(v, 0.0), float(size))  # noqa: E731
    return clip(left_v), clip(top_v), clip(right_v), clip(bottom_v)


def draw_crop(rng: random.Random, rows: int, columns: int, area=(0.2, 1.0), aspect=(0.75, 4 / 3), flip=0.5) -> Crop:
    """A crop as torchvision's RandomResizedCrop takes it, then a flip."""
    for _ in range(10):
        target = rows * columns * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= columns and 0 < h <= rows:
            y, x = rng.randint(0, rows - h), rng.randint(0, columns - w)
            return y, x, h, w, int(rng.random() < flip)
    whole = columns / rows
    w, h = columns, rows
    if whole < aspect[0]:
        h = round(w / aspect[0])
    elif whole > aspect[1]:
        w = round(h * aspect[1])
    return (rows - h) // 2, (columns - w) // 2, h, w, int(rng.random() < flip)


def draw_pair(rng: random.Random, rows: int, columns: int, size: int, number: int, smallest: int):
    """Two crops, drawn again until their ground has room for boxes, and the boxes of both views; and how often."""
    drawn = 0
    while drawn < 100:
        drawn += 1
        a, b = draw_crop(rng, rows, columns), draw_crop(rng, rows, columns)
        ground = shared_ground(a, b, size)
        if ground is not None and ground[2] > smallest and ground[3] > smallest:
            break
    left, top, width, height = ground
    boxes = draw_boxes(rng, width, height, number, smallest, 0.5, 50)
    seen = ([project(box, left, top, *crops, size) for box in boxes] for crops in ((a, b), (b, a)))
    return (a, b), *seen, drawn
