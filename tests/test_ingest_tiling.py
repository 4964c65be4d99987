import json
import tracemalloc
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from ingest import tiling
from ingest.despeckle import Despeckled
from ingest.recipe import SpeckleRules, TileRules
from ingest.scene import SceneInfo, Window
from ingest.speckle import filter_power
from ingest.tiling import cut, tile_key, windows
from shards.tile import DbScale, Tile

SCALE = DbScale()
PLAIN = SpeckleRules()


@dataclass
class ComputedScene:
    """A scene whose pixels are arithmetic on their place: any size, no memory."""

    rows: int
    cols: int
    bands: tuple[str, ...] = ("VV", "VH")
    labelled: bool = False
    id: str = "SCENE_1"
    placed: bool = True
    hole: tuple[slice, slice] | None = None
    west: float = 10.0
    read: list[Window] = field(default_factory=list)

    @property
    def info(self) -> SceneInfo:
        return SceneInfo(
            id=self.id, sensor="sentinel-1", product="GRDH", mode="IW", polarisations=self.bands,
            shape=(self.rows, self.cols), spacing_m=(10.0, 10.0), looks=4.4, time="2024-05-06T07:08:09Z",
            orbit="ascending", fingerprint="0" * 64, footprint=None, quantity="gamma0", platform="S1A",
            processing="Sentinel-1 IPF 003.40",
        )  # fmt: skip

    def power(self, window: Window) -> NDArray[np.float32]:
        assert window.row >= 0
        assert window.col >= 0
        assert window.row + window.rows <= self.rows
        assert window.col + window.cols <= self.cols
        self.read.append(window)
        i, j = np.ogrid[window.row : window.row + window.rows, window.col : window.col + window.cols]
        noise = (i * np.int64(2654435761) + j * np.int64(40503) * (i % 97 + 1)) % 65521
        plane = (0.02 + noise.astype(np.float32) / np.float32(655210)).astype(np.float32)
        out = np.stack([plane / np.float32(1 + 3 * band) for band in range(len(self.bands))])
        if self.hole is not None:
            gone = np.zeros((self.rows, self.cols), bool)
            gone[self.hole] = True
            out[:, gone[window.row : window.row + window.rows, window.col : window.col + window.cols]] = np.nan
        return out

    def label(self, window: Window) -> NDArray[np.uint8] | None:
        if not self.labelled:
            return None
        i, j = np.ogrid[window.row : window.row + window.rows, window.col : window.col + window.cols]
        return ((i // 5 + j // 7) % 9).astype(np.uint8)

    def locate(self, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.float64] | None:
        return np.stack([self.west + cols * 1e-4, 50 - rows * 1e-4], axis=1) if self.placed else None

    def incidence_deg(self, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.float64] | None:
        return 30 + cols * 0.01 + rows * 0.0001 if self.placed else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None: ...


def rules(size: int, overlap: int = 0, limit: float = 0.25) -> TileRules:
    return TileRules(size=size, overlap=overlap, max_no_data_share=limit)


@settings(deadline=None, max_examples=200)
@given(
    rows=st.integers(1, 90), cols=st.integers(1, 90), size=st.integers(8, 40), overlap=st.integers(0, 39),
    budget=st.sampled_from([1, 500, 3000, 1 << 20]),
)  # fmt: skip
def test_every_pixel_is_covered_and_no_tile_leaves_the_scene(rows, cols, size, overlap, budget) -> None:
    overlap %= size
    seen = np.zeros((rows, cols), int)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiling, "_BLOCK_PIXELS", budget)
        grid = list(windows((rows, cols), rules(size, overlap)))
    for w in grid:
        assert (w.rows, w.cols) == (min(size, rows), min(size, cols))
        assert w.row + w.rows <= rows
        assert w.col + w.cols <= cols
        seen[w.row : w.row + w.rows, w.col : w.col + w.cols] += 1
    assert seen.min() >= 1
    assert len(set(grid)) == len(grid)
    step = size - overlap
    assert len(grid) == np.prod([1 + max(0, -(-(length - size) // step)) for length in (rows, cols)])


def test_the_grid_of_a_scene_that_does_not_divide() -> None:
    grid = list(windows((1000, 300), rules(256, 32)))
    assert sorted({w.row for w in grid}) == [0, 224, 448, 672, 744]
    assert sorted({w.col for w in grid}) == [0, 44]
    assert sorted({w.row for w in windows((768, 256), rules(256))}) == [0, 256, 512]


@pytest.mark.parametrize("kind", ["none", "lee", "refined-lee"])
@pytest.mark.parametrize(("pixels", "rows"), [(1, 1), (20_000, 1), (20_000, 150), (1 << 23, 256)])
def test_blocks_of_reading_never_change_a_tile(monkeypatch, kind: str, pixels: int, rows: int) -> None:
    scene = ComputedScene(170, 330, labelled=True, hole=np.s_[20:60, 100:140])
    speckle = SpeckleRules(kind=kind, size=7)
    monkeypatch.setattr(tiling, "_BLOCK_PIXELS", pixels)
    monkeypatch.setattr(tiling, "_BLOCK_ROWS", rows)
    everything = Window(0, 0, 170, 330)
    whole = SCALE.encode(filter_power(scene.power(everything), kind, 7, 4.4))
    labels = scene.label(everything)
    assert labels is not None
    tiles = list(cut(Despeckled(scene, speckle), rules(48, 8, limit=0.9), SCALE))
    assert len(tiles) == len(list(windows((170, 330), rules(48, 8))))
    for tile in tiles:
        row, col, _, _ = tile.meta["window"]
        np.testing.assert_array_equal(tile.pixels, whole[:, row : row + 48, col : col + 48])
        assert tile.label is not None
        np.testing.assert_array_equal(tile.label, labels[row : row + 48, col : col + 48])
        assert tile.pixels.dtype == np.uint16
        assert tile.label.dtype == np.uint8
        assert tile.pixels.flags.c_contiguous
        assert tile.label.flags.c_contiguous


def by_place(tiles: list[Tile]) -> dict[tuple[int, int], Tile]:
    return {(t.meta["window"][0], t.meta["window"][1]): t for t in tiles}


def test_what_a_tile_says_of_itself() -> None:
    scene = ComputedScene(100, 130)
    tile = by_place(list(cut(Despeckled(scene, PLAIN), rules(64), SCALE)))[36, 66]
    power = scene.power(Window(36, 66, 64, 64)).astype(np.float64)
    measured = {name: tile.meta[name] for name in ("mean_db", "std_db", "p02_db", "p98_db", "contrast_db")}
    assert measured["mean_db"] == pytest.approx(list(10 * np.log10(power.mean(axis=(1, 2)))), abs=6e-4)
    level = 10 * np.log10(power).reshape(2, -1)
    assert measured["std_db"] == pytest.approx(list(level.std(axis=1)), abs=2e-3)
    for name, q in (("p02_db", 2), ("p98_db", 98)):
        assert measured[name] == pytest.approx(np.percentile(level, q, axis=1, method="inverted_cdf"), abs=2e-3)
    blocks = 10 * np.log10(power[0].reshape(4, 16, 4, 16).mean(axis=(1, 3)))
    assert measured["contrast_db"] == pytest.approx(blocks.std(), abs=6e-4)
    expected = {
        "scene": "SCENE_1", "sensor": "sentinel-1", "product": "GRDH", "mode": "IW", "polarisations": ["VV", "VH"],
        "window": [36, 66, 64, 64], "time": "2024-05-06T07:08:09Z", "orbit": "ascending", "looks": 4.4,
        "spacing_m": [10.0, 10.0], "valid_share": 1.0, "quantity": "gamma0", "platform": "S1A",
        "processing": "Sentinel-1 IPF 003.40", "incidence_deg": round(30 + 97.5 * 0.01 + 67.5 * 0.0001, 3),
        "land_share": None, "water_share": None, **measured,
        "footprint": [[10.00655, 49.99645], [10.01295, 49.99645], [10.01295, 49.99005], [10.00655, 49.99005]],
    }  # fmt: skip
    assert json.loads(json.dumps(tile.meta)) == expected
    assert tile.key == "SCENE_1-000036-000066"
    assert tile.label is None
    np.testing.assert_array_equal(tile.pixels, SCALE.encode(power.astype(np.float32)))


def test_a_scene_without_place_and_with_looks_of_the_recipe() -> None:
    scene = ComputedScene(40, 40, placed=False)
    (tile,) = cut(Despeckled(scene, SpeckleRules(kind="lee", size=5, looks=2.0)), rules(40), SCALE)
    assert (tile.meta["footprint"], tile.meta["incidence_deg"]) == (None, None)
    assert tile.meta["looks"] == 2.0
    expected = filter_power(scene.power(Window(0, 0, 40, 40)), "lee", 5, 2.0)
    np.testing.assert_array_equal(tile.pixels, SCALE.encode(expected))


def test_a_scene_smaller_than_a_tile_is_filled_up_with_no_data() -> None:
    scene = ComputedScene(48, 60, labelled=True)
    (tile,) = cut(Despeckled(scene, PLAIN), rules(64, limit=0.0), SCALE)  # padding is not lack of data
    assert tile.pixels.shape == (2, 64, 64)
    assert tile.meta["window"] == [0, 0, 48, 60]
    assert tile.meta["valid_share"] == round(48 * 60 / 64**2, 6)
    assert (tile.pixels[:, :48, :60] > 0).all()
    assert (tile.pixels[:, 48:] == 0).all()
    assert (tile.pixels[:, :, 60:] == 0).all()
    assert tile.label is not None
    assert (tile.label[48:] == 255).all()
    assert (tile.label[:, 60:] == 255).all()
    assert tile.label[:48, :60].max() == 8


def test_tiles_with_too_much_no_data_are_left_out() -> None:
    scene = ComputedScene(128, 192, hole=np.s_[0:64, 16:140])
    places = {
        limit: set(by_place(list(cut(Despeckled(scene, PLAIN), rules(64, limit=limit), SCALE))))
        for limit in (0, 0.2, 0.75, 1)
    }
    lower = {(64, 0), (64, 64), (64, 128)}
    assert places[0] == lower
    assert places[0.2] == lower | {(0, 128)}  # 12 of 64 columns are missing
    assert places[0.75] == lower | {(0, 128), (0, 0)}  # 48 of 64: exactly the limit
    assert places[1] == places[0.75]  # a tile of nothing is never kept
    tile = by_place(list(cut(Despeckled(scene, PLAIN), rules(64, limit=0.2), SCALE)))[0, 128]
    assert tile.meta["valid_share"] == round(52 / 64, 6)
    assert (tile.pixels[:, :, :12] == 0).all()


def test_a_pixel_is_valid_where_every_band_is() -> None:
    class HalfBlind(ComputedScene):
        def power(self, window: Window) -> NDArray[np.float32]:
            out = super().power(window)
            out[1, : window.rows // 4] = np.nan
            out[0, 0, 0] = np.inf
            return out

    (tile,) = cut(Despeckled(HalfBlind(32, 32), PLAIN), rules(32), SCALE)
    assert tile.meta["valid_share"] == 0.75
    assert tile.pixels[0, 0, 0] == 0  # infinite power is no measurement
    assert (tile.pixels[0, 0, 1:] > 0).all()
    assert np.isfinite(tile.meta["mean_db"]).all()


def test_dark_tiles_have_a_finite_mean() -> None:
    class Dark(ComputedScene):
        def power(self, window: Window) -> NDArray[np.float32]:
            return super().power(window) * np.float32(-1)

    (tile,) = cut(Despeckled(Dark(32, 32), PLAIN), rules(32), SCALE)
    assert tile.meta["mean_db"] == [-60.0, -60.0]
    assert (tile.pixels == 1).all()


def test_keys_are_safe_and_never_shared() -> None:
    at = Window(7, 1234567, 1, 1)
    assert tile_key("S1A_IW-2", at) == "S1A_IW-2-000007-1234567"
    odd = [tile_key(name, at) for name in ("a.b", "a/b", "a_b", "a b", "é")]
    assert len(set(odd)) == 5
    assert all(set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_") for key in odd)


def test_overlap_as_large_as_the_tile_is_refused() -> None:
    with pytest.raises(ValidationError, match="leaves nothing of tiles of 16 px"):
        rules(16, 16)


def _peak_bytes(scene: ComputedScene, take: int) -> int:
    tracemalloc.start()
    try:
        for n, _tile in enumerate(cut(Despeckled(scene, SpeckleRules(kind="lee", size=7), 1), rules(256), SCALE)):
            if n == take:
                break
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_scene(monkeypatch) -> None:
    monkeypatch.setattr(tiling, "_BLOCK_PIXELS", 1 << 19)
    small = _peak_bytes(ComputedScene(600, 5000, bands=("VV",)), take=30)
    huge = ComputedScene(200_000, 300_000, bands=("VV",))
    assert _peak_bytes(huge, take=40) < 1.1 * small
    assert max(w.rows * w.cols for w in huge.read) <= (256 + 6) * (2048 + 6)


def test_a_wide_scene_is_read_in_whole_blocks_with_little_twice() -> None:
    read = [tiling._hull(block) for block in tiling._blocks((1030, 26_000), rules(256))]
    assert sum(w.rows * w.cols for w in read) < 1.3 * 1030 * 26_000
    assert max(w.rows * w.cols for w in read) < 9_000_000
