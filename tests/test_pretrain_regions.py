"""Region pooling against torchvision's C++ results, a plain loop, and geometry."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pretrain.regions import cells_of, matched_cells, plane_pool, region_pool, turns


def plain_roi_align(maps: Tensor, box: Tensor, stride: float) -> Tensor:
    """RoIAlign to one cell with adaptive sampling, sample by sample."""
    channels, height, width = maps.shape
    left, top, right, bottom = (float(v) / stride - 0.5 for v in box)
    ny, nx = math.ceil(bottom - top), math.ceil(right - left)
    total = torch.zeros(channels)
    for i in range(ny):
        for j in range(nx):
            y = top + (i + 0.5) * (bottom - top) / ny
            x = left + (j + 0.5) * (right - left) / nx
            if -1 <= y <= height and -1 <= x <= width:
                total += bilinear(maps, y, x)
    return total / max(nx * ny, 1)


def bilinear(maps: Tensor, y: float, x: float) -> Tensor:
    y, x = min(max(y, 0), maps.shape[1] - 1), min(max(x, 0), maps.shape[2] - 1)
    y0, x0 = math.floor(y), math.floor(x)
    y1, x1 = min(y0 + 1, maps.shape[1] - 1), min(x0 + 1, maps.shape[2] - 1)
    a, b = y - y0, x - x0
    upper = (1 - b) * maps[:, y0, x0] + b * maps[:, y0, x1]
    lower = (1 - b) * maps[:, y1, x0] + b * maps[:, y1, x1]
    return (1 - a) * upper + a * lower


def random_boxes(number: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(number, 2, 2, generator=generator).sort(1).values * size
    return corners.flatten(1)


@pytest.mark.parametrize("samples", [0, 1, 2, 4])
def test_pooling_equals_torchvision(shared_data: Path, samples: int):
    golden = np.load(shared_data / "roi_golden.npz")
    maps, rois = torch.from_numpy(golden["x"]), torch.from_numpy(golden["rois"])
    expected = golden[f"o1_s{samples}_a1"][:, :, 0, 0]
    pooled = [region_pool(maps[int(r[0])][None], r[None, None, 1:], 8, samples=samples)[0, 0] for r in rois]
    assert np.abs(torch.stack(pooled).numpy() - expected).max() < 2e-6


def test_pooling_equals_a_plain_loop_with_the_number_of_samples_known_or_found():
    maps = torch.randn(2, 5, 14, 14, generator=torch.Generator().manual_seed(2))
    boxes = random_boxes(24, 448).view(2, 12, 4)
    expected = torch.stack(
        [torch.stack([plain_roi_align(m, b, 32) for b in bs]) for m, bs in zip(maps, boxes, strict=True)]
    )
    torch.testing.assert_close(region_pool(maps, boxes, 32), expected, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(region_pool(maps, boxes, 32, most=14), expected, atol=2e-6, rtol=1e-5)


def test_pooling_a_ramp_gives_the_centres_of_the_boxes():
    rows, columns = torch.meshgrid(torch.arange(14.0), torch.arange(14.0), indexing="ij")
    ramp = torch.stack([(columns + 0.5) * 32, (rows + 0.5) * 32])[None]
    boxes = 32 + random_boxes(40, 384)[None]
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    torch.testing.assert_close(region_pool(ramp, boxes, 32), centres, atol=1e-3, rtol=1e-5)


def test_pooling_a_flipped_map_over_flipped_boxes_changes_nothing():
    maps, boxes = torch.randn(1, 3, 8, 8), random_boxes(9, 256)[None]
    flipped = boxes.clone()
    flipped[..., 0], flipped[..., 2] = 256 - boxes[..., 2], 256 - boxes[..., 0]
    torch.testing.assert_close(
        region_pool(maps.flip(-1), flipped, 32), region_pool(maps, boxes, 32), atol=1e-5, rtol=1e-5
    )


def test_pooling_has_the_gradient_of_the_plain_loop():
    maps = torch.randn(1, 2, 6, 6, requires_grad=True)
    boxes = random_boxes(5, 48)
    region_pool(maps, boxes[None], 8).square().sum().backward()
    found, maps.grad = maps.grad, None
    torch.stack([plain_roi_align(maps[0], b, 8) for b in boxes]).square().sum().backward()
    assert maps.grad is not None
    torch.testing.assert_close(found, maps.grad, atol=1e-5, rtol=1e-5)


def test_an_empty_box_pools_to_zero():
    boxes = torch.tensor([[[10.0, 10.0, 10.0, 20.0]]])
    assert region_pool(torch.ones(1, 2, 4, 4), boxes, 8).abs().max() == 0


def placed(centres: Tensor, sides: Tensor) -> Tensor:
    return torch.cat([centres - sides / 2, centres + sides / 2], -1)


@pytest.mark.parametrize("exchanged", [False, True])
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("rows", [False, True])
def test_turns_and_flips_are_read_from_matched_boxes_and_cells_show_the_same_ground(
    exchanged: bool, columns: bool, rows: bool
):
    generator = torch.Generator().manual_seed(4)
    centres, sides = torch.rand(3, 6, 2, generator=generator) * 300 + 70, torch.rand(3, 6, 2, generator=generator) * 60
    zoom, shift = torch.tensor([1.3, 0.8]), torch.tensor([-20.0, 11.0])

    def seen(points: Tensor) -> Tensor:
        """From view 1 to view 2."""
        points = points.flip(-1) if exchanged else points
        return (
            points * torch.where(torch.tensor([columns, rows]), -1.0, 1.0) * zoom
            + shift
            + 448 * torch.tensor([columns, rows])
        )

    boxes1 = placed(centres, sides)
    boxes2 = placed(seen(centres), (sides.flip(-1) if exchanged else sides) * zoom)
    assert [flag.tolist() for flag in turns(boxes1, boxes2)] == [[exchanged] * 3, [columns] * 3, [rows] * 3]
    one, two = matched_cells(boxes1, boxes2, 3)
    assert one.shape == two.shape == (3, 54, 4)
    torch.testing.assert_close(
        seen((one[..., :2] + one[..., 2:]) / 2), (two[..., :2] + two[..., 2:]) / 2, atol=1e-3, rtol=0
    )
    areas = [(b[..., 2:] - b[..., :2]).prod(-1) for b in (one, two)]
    torch.testing.assert_close(areas[0] * 1.04, areas[1], atol=0.01, rtol=1e-4)


def test_cells_divide_a_box_row_by_row():
    cells = cells_of(torch.tensor([[[0.0, 10.0, 6.0, 14.0]]]), 2)[0, 0]
    assert cells.flatten(0, 1).tolist() == [[0, 10, 3, 12], [3, 10, 6, 12], [0, 12, 3, 14], [3, 12, 6, 14]]


def test_boxes_that_cannot_tell_count_as_not_turned():
    box = torch.tensor([[[5.0, 5.0, 9.0, 9.0]] * 3])
    assert not any(flag.any() for flag in turns(box, box + 1))


def test_a_plane_is_pooled_as_a_map_of_one_channel():
    plane, boxes = torch.randn(2, 40, 50), random_boxes(12, 150).view(2, 6, 4)
    expected = region_pool(plane.unsqueeze(1), boxes, 4, samples=4)[..., 0]
    torch.testing.assert_close(plane_pool(plane, boxes, 4, 4), expected, atol=1e-6, rtol=1e-5)
