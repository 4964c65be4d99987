"""What the report shows of a scene is exact for any cut into tiles."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from ingest.summary import SceneSummary
from shards.tile import DbScale, Tile

SCALE = DbScale()


@pytest.mark.parametrize(
    ("size", "shape"), [((300, 420), (2, 300, 420)), ((77, 64), (2, 300, 420)), ((9, 7), (1, 40, 30))]
)
def test_histogram_and_canvas_equal_a_plain_reference(size: tuple[int, int], shape: tuple[int, int, int]) -> None:
    power = (np.random.default_rng(0).exponential(0.05, shape)).astype(np.float32)
    power[:, :40, :50] = np.nan
    codes = SCALE.encode(power)
    names = ("VV", "VH")[: shape[0]]
    summary = SceneSummary(shape[1:], names, SCALE)
    for row in range(0, shape[1], size[0]):
        for col in range(0, shape[2], size[1]):
            cut = codes[:, row : row + size[0], col : col + size[1]]
            padded = np.zeros((shape[0], *size), np.uint16)
            padded[:, : cut.shape[1], : cut.shape[2]] = cut
            summary.add(Tile("key", padded, {"window": [row, col, *cut.shape[1:]]}))
    level = SCALE.decode(codes).astype(np.float64)
    for band, name in enumerate(names):
        valid = np.clip(level[band][~np.isnan(level[band])], -49.9, 19.9)
        expected, _ = np.histogram(valid + 1e-5, 140, (-50, 20))
        assert summary.histograms()[name] == expected.tolist()
    with Image.open(BytesIO(summary.quicklook())) as picture:
        assert picture.size == (-(-shape[2] // summary.factor), -(-shape[1] // summary.factor))
        values = np.asarray(picture)
    missing = (np.arange(values.shape[0])[:, None] + 1) * summary.factor <= 40
    missing = missing & ((np.arange(values.shape[1]) + 1) * summary.factor <= 50)
    assert (values[missing] == 0).all()
    assert (values[~missing] > 0).all()
