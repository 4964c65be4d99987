"""Centre lines of a mask: thinned until one pixel wide."""

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

AROUND = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
"""The eight neighbours P2 to P9: from above clockwise, as (row, col) steps."""


def thin(mask: Mask) -> Mask:
    """Thin a mask (rows, cols) to lines of one pixel that keep its connections.

    Only pixels that touch what was taken away are looked at again, so the cost goes with the area of the mask and not
    of the scene. Source: Zhang and Suen, "A fast parallel algorithm for thinning digital patterns", CACM 27(3), 1984.
    """
    rows, cols = mask.shape
    field = np.zeros((rows + 2, cols + 2), np.uint8)
    field[1:-1, 1:-1] = mask
    flat = field.reshape(-1)
    steps = np.array([r * (cols + 2) + c for r, c in AROUND])
    active = [np.flatnonzero(flat)] * 2
    while active[0].size or active[1].size:
        for part, table in enumerate(_TABLES):
            look = active[part]
            gone = look[table[_codes(flat, look, steps)]]
            flat[gone] = 0
            # What lost a neighbour may go next: in the other half and, next time round, in this one.
            touched = _touched(flat, gone, steps)
            active[part] = touched
            active[1 - part] = np.union1d(active[1 - part][flat[active[1 - part]] > 0], touched)
    return field[1:-1, 1:-1].astype(bool)


def _codes(flat: NDArray[np.uint8], at: NDArray[np.int64], steps: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Give the neighbours of pixels as bits, P2 the lowest."""
    code = np.zeros(at.size, np.uint8)
    for bit, step in enumerate(steps):
        code |= flat[at + step] << np.uint8(bit)
    return code


def _touched(flat: NDArray[np.uint8], gone: NDArray[np.int64], steps: NDArray[np.int64]) -> NDArray[np.int64]:
    around = np.unique(gone[:, None] + steps)
    return around[flat[around] > 0]


def _table(first: tuple[int, int, int], second: tuple[int, int, int]) -> Mask:
    """Tell for each of the 256 neighbourhoods whether its middle goes; P numbers as in the paper."""
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    p = {n + 2: bits[:, n] for n in range(8)}
    count = bits.sum(1)
    rises = ((bits == 0) & (np.roll(bits, -1, axis=1) == 1)).sum(1)
    product_1 = p[first[0]] * p[first[1]] * p[first[2]]
    product_2 = p[second[0]] * p[second[1]] * p[second[2]]
    table: Mask = (count >= 2) & (count <= 6) & (rises == 1) & (product_1 == 0) & (product_2 == 0)
    return table


_TABLES = (_table((2, 4, 6), (4, 6, 8)), _table((2, 4, 8), (2, 6, 8)))
