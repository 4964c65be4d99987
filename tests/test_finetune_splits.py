"""Parts that share no ground, shares of labels that nest, and what pretraining has seen of the test."""

import dataclasses
import json

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_corpus import LEGEND, PIXELS_DIGEST, SCALE, SCENES, Scene, _source, _tiles, build
from pyproj import Geod

from finetune.config import TaskConfig
from finetune.fractions import label_counts, label_fraction, percent_list
from finetune.leaks import equal_area, leaks, pretraining_manifest
from finetune.legend import read_legend
from finetune.splits import named_tiles, only, overlapping, same_ground_tiles, split_corpus
from infra.errors import UsageError
from infra.store import open_store
from shards.derive import parts_by_band, take
from shards.heads import set_tag
from shards.index import join_units, put_index
from shards.manifest import Lineage, Manifest, add_version, publish
from shards.reader import Corpus
from shards.writer import write_unit

WATER = read_legend(LEGEND, "c")


def placed(url: str, scenes=SCENES, step: float = 1e-4) -> Corpus:
    """The labelled corpus, with a place for every tile: scene n begins at n degrees east."""
    store, parts = open_store(url), []
    for scene in scenes:
        tiles = []
        for tile in _tiles(scene, 32):
            row, col, rows, cols = tile.meta["window"]
            west, north = 10.0 + scene.seed + col * step, 50.0 - row * step
            corners = [
                [west, north],
                [west + cols * step, north],
                [west + cols * step, north - rows * step],
                [west, north - rows * step],
            ]
            tiles.append(dataclasses.replace(tile, meta={**tile.meta, "footprint": corners}))
        parts.append(write_unit(store, scene.id, tiles, "npy", 10**8))
    units = join_units(parts)
    counts = np.bincount(units.rows["shard"].to_numpy(), minlength=len(units.shards))
    manifest = Manifest(
        recipe={}, recipe_digest="b" * 64, pixels_digest=PIXELS_DIGEST, scale=SCALE, codec="npy", legend=LEGEND,
        shards=tuple(units.shards), index=put_index(store, units.rows),
        sources=tuple(_source(s, int(n)) for s, n in zip(scenes, counts, strict=True)),
        tiles=int(counts.sum()), bytes=sum(s.bytes for s in units.shards),
    )  # fmt: skip
    publish(store, manifest)
    return Corpus.open(url)


def _tag(corpus: Corpus, name: str, rows: np.ndarray) -> None:
    made = take(corpus, rows, Lineage(made_by="test", parents=(corpus.manifest.digest,)))
    add_version(corpus.store, made)
    set_tag(corpus.store, name, made.digest)


def test_whole_scenes_leave_the_corpus_as_it_is(tmp_path):
    corpus = build("memory://splits-scenes")
    split = split_corpus(corpus, "delta-held", "beta")
    assert (split.train, split.validate, split.test) == (("alpha", "gamma"), ("beta",), ("delta-held",))
    assert split.corpus is corpus
    assert split.notes == ()
    listed = tmp_path / "test.csv"
    listed.write_text("delta-held,1\n\nalpha,2\n")
    assert split_corpus(corpus, str(listed)).test == ("alpha", "delta-held")


@pytest.mark.parametrize(
    ("test", "validate", "message"),
    [
        ("delta", "", "did you mean delta-held"),
        ("", "", "no scene is held out"),
        ("missing.txt", "", "no file, and no scene .missing.txt. in the corpus; it has alpha"),
        ("alpha", "alpha,beta", "scene alpha is named for testing and for choosing"),
        ("alpha,beta,gamma,delta-held", "", "all 4 scenes are held out"),
        ("@nowhere", "", "nowhere"),
        ("alpha", " , ", "no scene is named to choose"),
    ],
)
def test_what_makes_no_split_is_refused(test, validate, message):
    with pytest.raises(UsageError, match=message):
        split_corpus(build("memory://splits-refused"), test, validate)


def test_a_scene_without_labels_cannot_test():
    corpus = build("memory://splits-bare", (*SCENES, Scene("bare", 9, labelled=False)))
    with pytest.raises(UsageError, match="no tile of bare is labelled"):
        split_corpus(corpus, "bare")
    assert "bare" not in split_corpus(corpus, "alpha").train


def test_scenes_of_the_same_ground_are_refused_dropped_or_kept():
    for corpus in (
        build("memory://splits-ground", (*SCENES, Scene("again", 4))),  # tiles without a place: judged by scene
        placed("memory://splits-ground-tiles", (*SCENES, Scene("again", 4))),
    ):
        with pytest.raises(UsageError, match=r"tiles of the train part show ground of the test part.*again"):
            split_corpus(corpus, "delta-held")
        kept = split_corpus(corpus, "delta-held", same_ground="keep")
        assert kept.train == ("again", "alpha", "beta", "gamma")
        assert "scores will flatter" in kept.notes[0]
        dropped = split_corpus(corpus, "delta-held", same_ground="drop")
        assert dropped.train == ("alpha", "beta", "gamma")
        assert {s.id for s in dropped.corpus.manifest.sources} == {"alpha", "beta", "gamma", "delta-held"}
        assert dropped.corpus.manifest.digest != corpus.manifest.digest
        with pytest.raises(UsageError, match="every tile of the train part"):
            split_corpus(corpus, "alpha,beta,gamma,delta-held", same_ground="drop")


def test_geographic_bands_make_parts_that_share_no_ground():
    """One scene cut into stripes: its tiles serve three parts, and what lies across a border is dropped."""
    corpus = placed("memory://splits-bands", (Scene("wide", 1, shape=(80, 640)),))
    rows = parts_by_band(corpus, {"train": 0.6, "test": 0.2, "validate": 0.2}, 1.5, 10)
    for name in ("test", "validate"):
        _tag(corpus, name, rows[name])
    assert named_tiles(corpus, "@test").tolist() == rows["test"].tolist()
    with pytest.raises(UsageError, match="show ground"):
        split_corpus(corpus, "@test", "@validate")
    split = split_corpus(corpus, "@test", "@validate", "drop")
    names = {"train": split.train, "validate": split.validate, "test": split.test}
    assert "wide@test" in split.test
    assert "wide@train" in split.train
    shapes = {}
    for part, scenes in names.items():
        tiles = split.corpus.select(scenes=scenes)
        shapes[part] = shapely.union_all(shapely.from_wkb(split.corpus.table["geometry"].take(tiles).to_pylist()))
        tile = split.corpus.tile(int(tiles[0]))
        assert tile.meta["scene"] in scenes
        assert corpus.tile(corpus.find(tile.key)).pixels.tobytes() == tile.pixels.tobytes()
    for one, other in (("train", "test"), ("train", "validate"), ("validate", "test")):
        common = shapes[one].intersection(shapes[other]).area
        assert common <= 0.05 * min(shapes[one].area, shapes[other].area)
    assert set(names["train"]).isdisjoint(names["test"])
    made = {s.id: s.tiles for s in split.corpus.manifest.sources}
    assert sum(made.values()) == len(split.corpus) == split.corpus.manifest.tiles
    assert split.corpus.manifest.lineage.parents == (corpus.manifest.digest,)


def test_tiles_that_touch_by_a_breadth_do_not_overlap():
    squares = [shapely.box(0, 0, 100, 100), shapely.box(99.5, 0, 199.5, 100), shapely.box(90, 0, 190, 100)]
    ours = np.array(squares[:1], object)
    assert overlapping(ours, np.array(squares[1:2], object)).tolist() == [False]
    assert overlapping(ours, np.array(squares[1:], object)).tolist() == [True]
    corpus = placed("memory://splits-touch")
    half = np.arange(len(corpus)) % 2 == 0
    assert same_ground_tiles(corpus, half, half).sum() == half.sum()


@settings(max_examples=60, deadline=None)
@given(
    tiles=st.integers(1, 300),
    classes=st.integers(2, 8),
    seed=st.integers(0, 50),
    fractions=st.lists(st.floats(0.001, 1.0), min_size=2, max_size=5),
)
def test_fractions_nest_keep_every_class_and_do_not_depend_on_order(tiles, classes, seed, fractions):
    rng = np.random.default_rng([tiles, classes, seed])
    counts = rng.integers(0, 1000, (tiles, classes)) * (rng.random((tiles, classes)) < rng.random(classes) ** 2)
    counts[0, 0] += 1
    keys = [f"tile-{n}" for n in range(tiles)]
    before: set[int] = set()
    for fraction in sorted(fractions):
        found = label_fraction(keys, counts, fraction, seed)
        now = set(found.chosen.tolist())
        assert before <= now
        assert ((counts[found.chosen].sum(0) > 0) == (counts.sum(0) > 0)).all()
        assert found.share >= fraction - 1e-9
        assert found.share == pytest.approx(counts[found.chosen].sum() / counts.sum())
        before = now
    order = rng.permutation(tiles)
    mixed = label_fraction([keys[n] for n in order], counts[order], sorted(fractions)[-1], seed)
    assert {int(order[n]) for n in mixed.chosen} == before
    assert len(label_fraction(keys, counts, 1, seed).chosen) == tiles


def test_a_fraction_has_the_classes_of_the_whole_and_about_its_size():
    """A rare class is in 2 % of the tiles: ten per cent of the labels hold ten per cent of it."""
    rng = np.random.default_rng(0)
    kind = rng.choice(4, 4000, p=[0.6, 0.3, 0.08, 0.02])
    counts = np.array([rng.multinomial(1000, np.eye(4)[k] * 0.7 + np.array([0.2, 0.1, 0, 0])) for k in kind])
    keys = [str(n) for n in range(4000)]
    for fraction in (0.01, 0.05, 0.1, 0.25):
        found = label_fraction(keys, counts, fraction, 3)
        assert found.share == pytest.approx(fraction, abs=2 / 4000)
        whole, part = counts.sum(0) / counts.sum(), found.labels / found.labels.sum()
        assert part == pytest.approx(whole, rel=0.35 if fraction == 0.01 else 0.15)
    one, other = (set(label_fraction(keys, counts, 0.1, s).chosen.tolist()) for s in (1, 2))
    assert 10 < len(one & other) < 100, "other seeds take other tiles"
    with pytest.raises(UsageError, match="expected more than 0"):
        label_fraction(keys, counts, 0, 0)
    with pytest.raises(UsageError, match="nothing in the training tiles"):
        label_fraction(keys, counts * 0, 0.5, 0)
    assert list(percent_list("1,5, 100")) == [0.01, 0.05, 1.0]
    with pytest.raises(UsageError, match="'200' is no share"):
        list(percent_list("200"))


def test_a_fraction_of_a_corpus_is_another_version():
    corpus = build("memory://splits-fraction")
    tiles = corpus.select(scenes=["alpha", "beta"], labelled=True)
    counts = label_counts(corpus, tiles, WATER, TaskConfig())
    expected = [
        [int(((t.label == k) & (t.pixels > 0).any(0)).sum()) for k in (0, 1)]
        for t in (corpus.tile(int(n)) for n in tiles)
    ]
    assert counts.tolist() == expected
    found = label_fraction([corpus.key(int(n)) for n in tiles], counts, 0.3, 1)
    keep = np.ones(len(corpus), bool)
    keep[np.delete(tiles, found.chosen)] = False
    part = only(corpus, keep, "label fraction", {"fraction": 0.3, "seed": 1})
    assert len(part) == len(corpus) - len(tiles) + len(found.chosen)
    assert part.manifest.lineage.dials == {"fraction": 0.3, "seed": 1}
    assert (part.tile(0).pixels == corpus.tile(corpus.find(part.key(0))).pixels).all()
    assert part.shard_counts().sum() == len(part)


def test_labels_of_tiles_with_one_answer_are_answers():
    """Twice as many labelled pixels in a tile are not twice as many labels."""
    corpus = build("memory://splits-answers")
    tiles = corpus.select(labelled=True)
    labels = [corpus.tile(int(n)).label for n in tiles]
    water = np.array([[(label == k).sum() for k in (0, 1)] for label in labels])
    share = water / water.sum(1, keepdims=True)

    def counted(**dials):
        return label_counts(corpus, tiles, WATER, TaskConfig(**dials)).tolist()

    commonest = np.eye(2, dtype=int)[(share[:, 1] > 0.5).astype(int)].tolist()
    assert counted(kind="classification") == commonest
    assert counted(kind="classification", labelled_share=0.99) == [
        row if (label != 255).mean() >= 0.99 else [0, 0] for row, label in zip(commonest, labels, strict=True)
    ]
    assert counted(kind="multilabel", present_share=0.3) == (share >= 0.3).astype(int).tolist()
    share_of = {"kind": "regression", "target": {"share_of": ["water"]}}
    assert counted(**share_of, level="tile") == commonest
    assert counted(**share_of) == water.tolist()
    assert counted(kind="regression", target={"values": {"water": 2.0}}) == (water * [0, 1]).tolist()
    assert counted(kind="regression", level="tile", labelled_share=0, target={"values": {"water": 2.0}}) == [
        [0, int(n > 0)] for n in water[:, 1]
    ]


def test_leaks_have_the_share_of_the_ground_that_was_seen():
    source = build("memory://splits-leaks").manifest.sources[0]

    def at(name: str, west: float, east: float, south: float, north: float, print_: str):
        corners = ((west, north), (east, north), (east, south), (west, south))
        return source.model_copy(update={"id": name, "footprint": corners, "fingerprint": print_, "grid": None})

    test = at("test", 10, 12, 60, 70, "t" * 64)
    known = [
        at("half", 9, 11, 60, 70, "a" * 64),
        at("north", 10, 12, 65, 71, "b" * 64),
        at("apart", 20, 22, 60, 70, "c" * 64),
        at("touching", 12, 13, 60, 70, "d" * 64),
        at("twin", 10, 12, 60, 70, "t" * 64),
    ]
    (found,) = leaks(known[:4], [test])
    # Areas of boxes in degrees: as the sines of their latitudes.
    north = (np.sin(np.radians(70)) - np.sin(np.radians(65))) / (np.sin(np.radians(70)) - np.sin(np.radians(60)))
    assert [(s.scene, s.same) for s in found.seen] == [("half", False), ("north", False)]
    assert [s.share for s in found.seen] == pytest.approx([0.5, north], rel=1e-9)
    assert found.share == pytest.approx(0.5 + north / 2, rel=1e-9)
    geod = Geod(ellps="sphere")
    areas = [abs(geod.polygon_area_perimeter([10, 12, 12, 10], lat)[0]) for lat in ([70, 70, 65, 65], [70, 70, 60, 60])]
    assert north == pytest.approx(areas[0] / areas[1], rel=0.01)
    (found,) = leaks(known, [test])
    assert (found.share, found.seen[0].scene, found.seen[0].same) == (1.0, "twin", True)
    assert not leaks(known[2:4], [test])[0].found
    bare = test.model_copy(update={"footprint": None})
    (found,) = leaks(known, [bare])
    assert (found.share, [s.scene for s in found.seen]) == (None, ["twin"])
    assert json.loads(json.dumps(found.plain()))["seen"][0]["same"]
    assert equal_area(bare) is None
    across = at("across", 179, -179, -10, 10, "e" * 64)
    (found,) = leaks([at("east", 179, 180, -10, 10, "f" * 64)], [across])
    assert found.share == pytest.approx(0.5, rel=1e-9)


def test_the_manifest_of_an_encoder_is_found_by_its_card(tmp_path):
    import torch

    from pretrain.config import InputSpec
    from pretrain.encoder import ResNet
    from pretrain.export import EncoderCard, encoder_bytes

    corpus = build(str(tmp_path / "corpus"))
    other = build(str(tmp_path / "other"), SCENES[:2])
    torch.manual_seed(0)
    card = EncoderCard(
        method="di3cl", depth=18, bands=1, input=InputSpec(), scale=SCALE, pixels_digest=PIXELS_DIGEST,
        manifest_digest=corpus.manifest.digest, run_digest="2" * 64, step=1,
    )  # fmt: skip
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "encoder.safetensors").write_bytes(encoder_bytes(ResNet(18, 1), card))
    for what in (f"{tmp_path}/run", f"{tmp_path}/run/encoder.safetensors"):
        assert pretraining_manifest(what, f"{tmp_path}/corpus").digest == corpus.manifest.digest
        with pytest.raises(UsageError, match="--pretrained-on"):
            pretraining_manifest(what, None)
        with pytest.raises(UsageError, match="does not keep"):
            pretraining_manifest(what, f"{tmp_path}/other")
    assert pretraining_manifest(f"{tmp_path}/other", None).digest == other.manifest.digest
    with pytest.raises(UsageError, match="no corpus, no encoder"):
        pretraining_manifest(f"{tmp_path}/nothing", None)
