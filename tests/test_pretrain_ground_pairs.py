"""Cells of two views that pixel-level methods pair show the same ground, under all flips and turns of both views."""

from itertools import product

import numpy as np
import pytest
import torch
from baselines import learner_of, quiet
from numpy.typing import NDArray

from pretrain.pixpro import near
from pretrain.resim import matched, windows
from pretrain.resize import resized_crop

SIZE = 64
FIRST, SECOND = [3, 10, 60, 48], [20, 4, 56, 64]
TURNS = list(product(range(8), repeat=2))


def ground(crop: list[int], turn: int, cells: int) -> NDArray[np.float64]:
    """Where each cell of a view lies: (cells, cells, 2) as [y, x] of the tile, from the turns of the array itself."""
    top, left, height, width = crop
    at = (np.arange(cells) + 0.5) / cells
    places = np.stack(np.meshgrid(top + at * height, left + at * width, indexing="ij"), -1)
    places = places.swapaxes(0, 1) if turn & 4 else places
    places = places[::-1] if turn & 2 else places
    return places[:, ::-1] if turn & 1 else places


def crops(turns: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([[*FIRST, turns[0]]]), torch.tensor([[*SECOND, turns[1]]])


@pytest.mark.parametrize("turn", range(8))
def test_the_reference_is_what_a_view_shows(turn: int):
    y, x = np.mgrid[:96, :96]
    tile = np.stack([1000 + 100 * y, 1000 + 100 * x]).astype(np.uint16)
    shown = (resized_crop(tile, np.array([*FIRST, turn]), SIZE).astype(float) - 1000) / 100 + 0.5
    inner = np.s_[2:-2, 2:-2]  # a view repeats its last pixel at the rim
    np.testing.assert_allclose(shown.transpose(1, 2, 0)[inner], ground(FIRST, turn, SIZE)[inner], atol=0.02)


@pytest.mark.parametrize("turns", TURNS)
def test_pixels_of_pixpro_are_paired_where_their_ground_is_near(turns: tuple[int, int]):
    one, two = (ground(c, t, 4).reshape(16, 2) for c, t in zip((FIRST, SECOND), turns, strict=True))
    longest = max(np.hypot(c[2] / 4, c[3] / 4) for c in (FIRST, SECOND))
    gap = np.hypot(*(one[:, None] - two[None]).transpose(2, 0, 1)) / longest
    assert 8 < (gap < 0.7).sum() < 64
    np.testing.assert_array_equal(near(*crops(turns), (4, 4), 0.7)[0].numpy(), gap < 0.7)


@pytest.mark.parametrize("turns", TURNS)
def test_windows_of_resim_show_the_same_ground_in_view_2(turns: tuple[int, int]):
    boxes = windows(SIZE, 16, 8, torch.device("cpu"))
    there, used = matched(boxes, *crops(turns), SIZE)
    one, two = (ground(c, t, SIZE) for c, t in zip((FIRST, SECOND), turns, strict=True))
    half = np.array(FIRST[2:]) / SIZE / 2
    assert 4 < used.sum() < len(boxes)
    for box, found, whole in zip(boxes.int().tolist(), there[0].numpy(), used[0].tolist(), strict=True):
        seen = one[box[1] : box[3], box[0] : box[2]].reshape(-1, 2)
        near_corner, far_corner = seen.min(0) - half, seen.max(0) + half
        outer = [np.array(SECOND[:2]), np.add(SECOND[:2], SECOND[2:])]
        # float32 rounds what touches the rim to either side
        if (near_corner > outer[0] + 1e-3).all() and (far_corner < outer[1] - 1e-3).all():
            assert whole
        if (near_corner < outer[0] - 1e-3).any() or (far_corner > outer[1] + 1e-3).any():
            assert not whole
            continue
        rows, columns = np.nonzero(((two > near_corner) & (two < far_corner)).all(-1))
        expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(found, expected, atol=0.51)


def test_parts_of_ssccl_are_the_same_ground_in_both_views():
    cells = 3
    learner = learner_of("ssccl", quiet("ssccl", consistency={"cells": cells}))
    top, left = np.maximum(FIRST[:2], SECOND[:2])
    bottom, right = np.minimum(np.add(FIRST[:2], FIRST[2:]), np.add(SECOND[:2], SECOND[2:]))
    for turns in TURNS:
        one, two = crops(turns)
        for view, crop, turn in ((1, FIRST, turns[0]), (2, SECOND, turns[1])):
            boxes = learner._boxes({"crop1": one, "crop2": two}, view)[0].numpy()
            places = ground(crop, turn, SIZE)
            slack = np.array(crop[2:]) / SIZE
            for number, box in enumerate(boxes):
                row, column = divmod(number, cells)
                l, t, r, b = np.rint(box).astype(int)  # noqa: E741
                seen = places[t:b, l:r].reshape(-1, 2)
                near_corner = [top + (bottom - top) * row / cells, left + (right - left) * column / cells]
                far_corner = [top + (bottom - top) * (row + 1) / cells, left + (right - left) * (column + 1) / cells]
                assert (np.abs(seen.min(0) - near_corner) <= slack + 1e-6).all()
                assert (np.abs(seen.max(0) - far_corner) <= slack + 1e-6).all()
