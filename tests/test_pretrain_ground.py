"""Where pixels of a view lie on the tile, against the kernels that cut the views and against loops."""

import numpy as np
import pytest
import torch
from pretrain_corpus import ground_tile
from torch import Tensor

from pretrain.ground import cell_centres, divided, shared_boxes, to_tile, to_view
from pretrain.pair_run import ViewConfig
from pretrain.resize import resized_crop
from pretrain.views import PairDraw
from shards.feed import generator

SIZE = 64
CROPS = torch.tensor([[3, 10, 40, 32, turn] for turn in range(8)] + [[0, 0, 96, 96, 1]])


def draws(number: int = 12) -> list[dict[str, Tensor]]:
    draw = PairDraw(ViewConfig(size_px=SIZE, min_box_px=16, boxes=4, flip_vertical_share=0.5, turn_share=0.7))
    samples = [draw(ground_tile(n, 96), generator(0, 0, n)) for n in range(number)]
    return [{name: torch.from_numpy(value).unsqueeze(0) for name, value in sample.items()} for sample in samples]


def test_centres_are_where_the_kernel_takes_the_pixels_from():
    columns = np.broadcast_to(np.arange(96) * 100 + 1000, (1, 96, 96)).astype(np.uint16).copy()
    rows = columns.transpose(0, 2, 1).copy()
    for crop in CROPS:
        found = cell_centres(crop.unsqueeze(0), SIZE, SIZE)[0].view(SIZE, SIZE, 2)
        for tile, axis in ((columns, 0), (rows, 1)):
            view = resized_crop(tile, crop.numpy(), SIZE)[0].astype(np.float64)
            position = (view - 1000) / 100 + 0.5  # the value of pixel i belongs to its centre, i + 0.5
            inner = np.s_[4:-4, 4:-4]  # the kernel has no ground beyond the crop
            np.testing.assert_allclose(found[..., axis].numpy()[inner], position[inner], atol=0.05)


def test_centres_against_a_loop():
    found = cell_centres(CROPS, 2, 4)
    for n, (top, left, height, width, turn) in enumerate(CROPS.tolist()):
        for row in range(2):
            for column in range(4):
                across, down = (column + 0.5) / 4, (row + 0.5) / 2
                across = 1 - across if turn & 1 else across
                down = 1 - down if turn & 2 else down
                across, down = (down, across) if turn & 4 else (across, down)
                assert found[n, row * 4 + column].tolist() == pytest.approx(
                    [left + width * across, top + height * down]
                )


def test_matched_boxes_of_the_views_are_the_same_ground():
    for sample in draws():
        one = to_tile(sample["boxes1"], sample["crop1"], SIZE)
        two = to_tile(sample["boxes2"], sample["crop2"], SIZE)
        # Boxes are placed on ground of whole view pixels, and clipped to the view.
        torch.testing.assert_close(one, two, atol=1.01, rtol=0)
        torch.testing.assert_close(to_view(one, sample["crop1"], SIZE), sample["boxes1"], atol=1e-4, rtol=0)


def test_parts_of_the_shared_ground_lie_inside_both_views_and_fill_it():
    for sample in draws():
        a, b = sample["crop1"][0].tolist(), sample["crop2"][0].tolist()
        ground = shared_boxes(sample["crop1"], sample["crop2"])
        expected = [max(a[1], b[1]), max(a[0], b[0]), min(a[1] + a[3], b[1] + b[3]), min(a[0] + a[2], b[0] + b[2])]
        assert ground[0].tolist() == expected
        parts = divided(ground, 3)
        assert parts.shape == (1, 9, 4)
        sides = parts[..., 2:] - parts[..., :2]
        whole = (ground[0, 2] - ground[0, 0]) * (ground[0, 3] - ground[0, 1])
        assert sides.prod(-1).sum().item() == pytest.approx(whole.item(), rel=1e-5)
        for name in ("crop1", "crop2"):
            seen = to_view(parts, sample[name], SIZE)
            assert seen.min() >= -1e-4
            assert seen.max() <= SIZE + 1e-4
            torch.testing.assert_close(to_tile(seen, sample[name], SIZE), parts, atol=1e-4, rtol=0)


def test_parts_run_row_by_row():
    parts = divided(torch.tensor([[0.0, 10.0, 4.0, 16.0]]), 2)
    assert parts[0].tolist() == [[0, 10, 2, 13], [2, 10, 4, 13], [0, 13, 2, 16], [2, 13, 4, 16]]
