"""Pairs of tiles of the same ground: which are found, and that both views show it, told by the pixels themselves."""

import pickle
from dataclasses import dataclass

import numpy as np
import pytest

from infra.errors import UsageError
from infra.record import digest
from infra.store import open_store
from pretrain.config import Reading
from pretrain.pair_run import PairRun, ViewConfig
from pretrain.partners import PartnerDraw, Partners, with_partners
from pretrain.resize import resized_crop
from pretrain.views import PairDraw
from shards.feed import LocalFeed
from shards.index import join_units, put_index
from shards.manifest import Manifest, Source, SourceGrid, publish
from shards.plan import Plan
from shards.reader import Corpus, ShardCorrupt
from shards.tile import DbScale, Tile
from shards.writer import write_unit

SIDE, STEP = 48, 50
EAST, NORTH = 500_000.0, 5_500_000.0


@dataclass(frozen=True)
class Pass:
    """A scene on a map grid whose first pixel lies ``down`` and ``right`` of the first one's."""

    name: str
    down: float = 0
    right: float = 0
    sensor: str = "sentinel-1"
    time: str = "2024-05-06T07:08:09Z"
    pixel_m: float = 10.0
    epsg: int = 32632
    placed: bool = True


def ground(down: int, right: int, rows: int = SIDE, columns: int = SIDE) -> np.ndarray:
    y, x = np.mgrid[down : down + rows, right : right + columns]
    return np.stack([1000 + STEP * x, 1000 + STEP * y]).astype(np.uint16)


def tiles_of(scene: Pass):
    for row, column in ((0, 0), (0, SIDE), (SIDE, 0)):
        place = round(scene.down) + row + 100, round(scene.right) + column + 100
        meta = {
            "scene": scene.name, "sensor": scene.sensor, "polarisations": ["VV", "VH"],
            "window": [row, column, SIDE, SIDE], "footprint": None, "time": scene.time, "valid_share": 1.0,
            "mean_db": [-12.0, -18.0],
        }  # fmt: skip
        yield Tile(f"{scene.name}-{row}-{column}", ground(*place), meta)


def source_of(scene: Pass) -> Source:
    p = scene.pixel_m
    grid = SourceGrid(epsg=scene.epsg, transform=(p, 0.0, EAST + p * scene.right, 0.0, -p, NORTH - p * scene.down))
    return Source(
        id=scene.name, sensor=scene.sensor, product="GRD", mode="IW", polarisations=("VV", "VH"),
        shape=(2 * SIDE, 2 * SIDE), spacing_m=(p, p), time=scene.time, orbit=None, fingerprint=digest(scene.name),
        footprint=None, grid=grid if scene.placed else None, tiles=3,
    )  # fmt: skip


def corpus_of(folder, *passes: Pass) -> Corpus:
    store = open_store(str(folder))
    units = join_units([write_unit(store, p.name, tiles_of(p), "npy", 100_000) for p in passes])
    manifest = Manifest(
        recipe={}, recipe_digest=digest({}), pixels_digest=digest({}), scale=DbScale(), codec="npy",
        shards=tuple(units.shards), index=put_index(store, units.rows), sources=tuple(source_of(p) for p in passes),
        tiles=3 * len(passes), bytes=sum(s.bytes for s in units.shards),
    )  # fmt: skip
    publish(store, manifest)
    return Corpus.open(str(folder))


def views(**dials) -> ViewConfig:
    return ViewConfig(**{"size_px": 32, "min_box_px": 8, "boxes": 3, "bands": "all", "partner_share": 1.0} | dials)


def pairs_of(corpus: Corpus, config: ViewConfig) -> set[tuple[str, str, int, int]]:
    partners, found = Partners.of(corpus, config), set()
    for i in range(len(corpus)):
        others, offsets = partners.of_tile(corpus.key(i))
        found |= {
            (corpus.key(i), corpus.key(int(j)), int(d), int(r)) for j, (d, r) in zip(others, offsets, strict=True)
        }
    return found


def test_partners_are_those_that_plain_arithmetic_finds(tmp_path):
    passes = [Pass("a"), Pass("b", 10, 6, time="2024-06"), Pass("c", -12, 20, sensor="alos-2")]
    corpus = corpus_of(tmp_path, *passes)
    expected = set()
    starts = {
        t.key: (p.name, t.meta["window"][0] + p.down, t.meta["window"][1] + p.right)
        for p in passes
        for t in tiles_of(p)
    }
    for one, (scene, y, x) in starts.items():
        for other, (scene2, y2, x2) in starts.items():
            shared = max(0, SIDE - abs(y2 - y)) * max(0, SIDE - abs(x2 - x))
            if scene != scene2 and shared and shared >= 0.25 * (2 * SIDE**2 - shared):
                expected.add((one, other, int(y2 - y), int(x2 - x)))
    assert len(expected) > 8
    assert pairs_of(corpus, views()) == expected
    assert Partners.of(corpus, views()).share() == 1.0
    strict = {p for p in expected if abs(p[2]) <= 10 and abs(p[3]) <= 6}
    assert pairs_of(corpus, views(partner_iou=0.5)) == strict


def test_kinds_ask_for_another_date_or_another_sensor(tmp_path):
    corpus = corpus_of(tmp_path, Pass("a"), Pass("b", time="2024-06"), Pass("c", sensor="alos-2"), Pass("d"))
    scenes = {
        kind: {(a[0], b[0]) for a, b, *_ in pairs_of(corpus, views(partner_kind=kind, partner_iou=0.9))}
        for kind in ("any", "date", "sensor")
    }
    assert scenes["any"] == {(a, b) for a in "abcd" for b in "abcd" if a != b}
    assert scenes["date"] == {("a", "b"), ("b", "a"), ("d", "b"), ("b", "d")}
    assert scenes["sensor"] == {(a, "c") for a in "abd"} | {("c", a) for a in "abd"}


@pytest.mark.parametrize(
    "other", [{"down": 0.5}, {"pixel_m": 20.0}, {"epsg": 32633}, {"placed": False}, {"right": 3 * SIDE}], ids=str
)
def test_grids_that_differ_or_tiles_that_do_not_meet_are_refused(tmp_path, other: dict):
    corpus = corpus_of(tmp_path, Pass("a"), Pass("b", **other))
    config = PairRun(views=views())
    placed = 1 if other == {"placed": False} else 2
    with pytest.raises(UsageError, match=f"{placed} of 2 scenes are on a map grid"):
        with_partners(PairDraw(config.views), corpus, config)


def test_without_the_dial_the_draw_stays_what_it_is(tmp_path):
    corpus = corpus_of(tmp_path, Pass("a"), Pass("b"))
    draw = PairDraw(views(partner_share=0.0))
    assert with_partners(draw, corpus, PairRun(views=draw.config)) is draw


def test_both_views_show_the_ground_that_crops_and_boxes_tell(tmp_path):
    corpus = corpus_of(tmp_path, Pass("a"), Pass("b", 10, 6, time="2024-06"))
    config = PairRun(views=views(flip_vertical_share=0.5, turn_share=0.5))
    draw = with_partners(PairDraw(config.views), corpus, config)
    world = ground(0, 0, 400, 400)
    away = 0
    for key in range(200):
        tile = corpus.tile(key % len(corpus))
        drawn = draw(tile, np.random.default_rng(key))
        start = np.array([*(tile.pixels[::-1, 0, 0].astype(int) - 1000) // STEP, 0, 0, 0])
        for view in (1, 2):
            seen = resized_crop(world, drawn[f"crop{view}"] + start, 32)
            np.testing.assert_array_equal(drawn[f"view{view}"], seen)
        y, x, h, w, _ = drawn["crop2"]
        away += min(y, x) < 0 or max(y + h, x + w) > SIDE
    assert away > 50


def test_the_share_of_second_views_from_partners_is_the_one_asked_for(tmp_path):
    corpus = corpus_of(tmp_path, Pass("a"), Pass("b", time="2024-06"))
    asked = []

    class Asked(Corpus):
        def tile(self, i, **options):
            asked.append(i)
            return super().tile(i, **options)

    watched = Asked(corpus.store, corpus.manifest, corpus.table)
    draw = PartnerDraw(PairDraw(views(partner_share=0.3)), watched, Partners.of(corpus, views()))
    for key in range(600):
        draw(corpus.tile(0), np.random.default_rng(key))
    assert len(asked) / 600 == pytest.approx(0.3, abs=0.06)
    assert {corpus.key(i) for i in asked} == {"b-0-0"}


def test_batches_are_the_same_for_any_number_of_ranks_and_threads(tmp_path):
    corpus = corpus_of(tmp_path, Pass("a"), Pass("b", 10, 6), Pass("c", 3, -8))
    config = PairRun(views=views(partner_share=0.5, turn_share=0.5))
    draw = pickle.loads(pickle.dumps(with_partners(PairDraw(config.views), corpus, config)))
    plan = Plan(corpus.shard_counts(), 1, 2, 4)
    alone = [b.arrays for b in LocalFeed(corpus, plan, draw, threads=1).batches(0, 6)]
    for rank in (0, 1):
        part = [b.arrays for b in LocalFeed(corpus, plan, draw, rank, 2, threads=3).batches(0, 6)]
        for whole, half in zip(alone, part, strict=True):
            for name in whole:
                np.testing.assert_array_equal(half[name], whole[name][2 * rank : 2 * rank + 2])


def test_a_damaged_partner_ends_the_run_or_is_left_out(tmp_path):
    corpus = corpus_of(tmp_path, Pass("a"), Pass("b"))
    shard = tmp_path / corpus.manifest.shards[int(corpus.rows.shard[corpus.find("b-0-0")])].key
    data = bytearray(shard.read_bytes())
    data[int(corpus.rows.offset[corpus.find("b-0-0")]) + 200] ^= 1
    shard.write_bytes(data)
    fails, skips = (
        with_partners(PairDraw(views()), corpus, PairRun(views=views(), reading=Reading(on_corrupt=how)))
        for how in ("fail", "skip")
    )
    tile = corpus.tile(corpus.find("a-0-0"))
    with pytest.raises(ShardCorrupt, match="b-0-0"):
        fails(tile, np.random.default_rng(1))
    drawn = skips(tile, np.random.default_rng(1))
    y, x, h, w, _ = drawn["crop2"]
    assert 0 <= y <= y + h <= SIDE
    assert 0 <= x <= x + w <= SIDE


def test_one_polarisation_is_the_same_in_both_passes_and_cross_is_another(tmp_path):
    corpus = corpus_of(tmp_path, Pass("a"), Pass("b"))
    flat = [Tile(k, np.stack([np.full((SIDE, SIDE), v, np.uint16) for v in (100, 200)]), corpus.tile(0).meta)
            for k in ("a-0-0", "b-0-0")]  # fmt: skip
    for bands, same in (("one", True), ("cross", False)):
        draw = PairDraw(views(bands=bands))
        for key in range(20):
            drawn = draw.pair(*flat, (0, 0), np.random.default_rng(key))
            assert (drawn["view1"].max() == drawn["view2"].max()) == same
