import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.annotation import BurstTiming, Image
from ingest.geometry import GroundGrid
from ingest.scene import SceneRejected, Window
from ingest.sentinel1_bursts import Mosaic, bursts_of

INTERVAL_S = 0.002
START = np.datetime64("2020-05-11T13:51:19.418775", "us")


def image(offsets: list[int], valid: list[tuple[int, int]], lines: int, samples: int = 50) -> Image:
    """An image of bursts that start at line offsets, with valid lines first..last."""
    bursts = []
    for offset, (first, last) in zip(offsets, valid, strict=True):
        inside = (np.arange(lines) >= first) & (np.arange(lines) <= last)
        time = START + np.timedelta64(round(offset * INTERVAL_S * 1e6), "us")
        bursts.append(BurstTiming(time, np.where(inside, 5, -1), np.where(inside, samples - 6, -1)))
    fields: dict[str, Any] = dict.fromkeys((f.name for f in dataclasses.fields(Image)), "")
    grid = GroundGrid(np.array([0.0, 1.0]), np.array([0.0, 1.0]), np.zeros((2, 2)), np.zeros((2, 2)))
    fields |= {"line_interval_s": INTERVAL_S, "bursts": tuple(bursts), "grid": grid}
    return Image(**(fields | {"shape": (lines * len(offsets), samples)}))


@st.composite
def layouts(draw: Any) -> tuple[list[int], list[tuple[int, int]], int]:
    lines, count = draw(st.integers(10, 40)), draw(st.integers(1, 5))
    steps = draw(st.lists(st.integers(max(lines // 2, 1), lines + 2), min_size=count - 1, max_size=count - 1))
    offsets = np.cumsum([0, *steps]).tolist()
    return offsets, [(draw(st.integers(0, 2)), lines - 1 - draw(st.integers(0, 2))) for _ in offsets], lines


@settings(max_examples=200, deadline=None)
@given(layouts())
def test_every_moment_is_shown_once(layout: tuple[list[int], list[tuple[int, int]], int]) -> None:
    """Against a plain search: a row shows the line of its moment that lies deeper inside its burst, or none."""
    offsets, valid, lines = layout
    mosaic = Mosaic.of([image(offsets, valid, lines)], "x")
    top = offsets[0] + valid[0][0]
    shown = np.full(mosaic.rows, -1)
    for rows, part in mosaic.parts(Window(0, 0, mosaic.rows, 50)):
        assert (shown[rows] == -1).all()
        shown[rows] = np.arange(part.row, part.row + part.rows)
    assert mosaic.rows == offsets[-1] + valid[-1][1] + 1 - top
    for row, line in enumerate(shown):
        candidates = {
            n * lines + row + top - offset: min(row + top - offset - first, last - (row + top - offset))
            for n, (offset, (first, last)) in enumerate(zip(offsets, valid, strict=True))
            if first <= row + top - offset <= last
        }
        assert (line == -1) == (not candidates)
        if line >= 0:
            assert mosaic.rows_of(np.array([float(line)]))[0] == row or line % lines == 0
            assert candidates[line] >= max(candidates.values()) - 1 or len(candidates) > 2


@settings(max_examples=60, deadline=None)
@given(layouts(), st.data())
def test_parts_of_a_window_are_those_of_the_whole(
    layout: tuple[list[int], list[tuple[int, int]], int], data: st.DataObject
) -> None:
    mosaic = Mosaic.of([image(*layout)], "x")
    row = data.draw(st.integers(0, mosaic.rows - 1))
    rows = data.draw(st.integers(1, mosaic.rows - row))

    def shown(window: Window) -> list[int]:
        lines = np.full(window.rows, -1)
        for place, part in mosaic.parts(window):
            lines[place] = np.arange(part.row, part.row + part.rows)
        return list(lines)

    assert shown(Window(row, 0, rows, 50)) == shown(Window(0, 0, mosaic.rows, 50))[row : row + rows]


def test_a_line_counts_where_every_polarisation_has_it() -> None:
    one, other = image([0, 15], [(2, 18), (1, 19)], 20), image([0, 15], [(0, 16), (3, 19)], 20, 48)
    mosaic = Mosaic.of([one, other], "x")
    assert [tuple(piece) for piece in mosaic.pieces] == [(0, 2, 15), (16, 23, 17)]  # a gap of one row between them
    assert mosaic.valid(Window(1, 0, 3, 50)).sum(axis=1).tolist() == [0, 38, 38]
    assert [(b.first_line, b.last_line) for b in bursts_of(one)] == [(0, 19), (20, 39)]


def test_bursts_that_cannot_be_joined_are_refused() -> None:
    good = image([0, 15], [(2, 18), (1, 19)], 20)
    for images, message in [
        ([good, image([0, 16], [(2, 18), (1, 19)], 20)], "polarisations whose bursts are of different times"),
        ([image([0, 15], [(2, 18), (5, 4)], 20)], "a burst without a valid sample"),
        ([image([0, -15], [(2, 18), (1, 19)], 20)], "bursts that do not follow each other in time"),
        ([image([0, 900], [(2, 18), (1, 19)], 20)], "bursts that do not follow each other in time"),
    ]:
        with pytest.raises(SceneRejected, match=message):
            Mosaic.of(images, "x")
