"""Versions made of versions: selected, split, merged, named, compared, copied, and what is left over."""

import itertools
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from corpora import make_corpus, make_source, make_tile
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.command import exit_code
from infra.errors import ConflictError, SarsenseError, UsageError
from infra.store import open_store
from shards import derive
from shards.cli import app
from shards.diff import diff
from shards.heads import head, resolve, set_tag, tags
from shards.index import join_units, put_index
from shards.keep import copy_version, garbage, mark, sweep
from shards.manifest import Lineage, Manifest, add_version, current_digest, publish, read_manifest
from shards.members import shard_url
from shards.mounts import write_mounts
from shards.plan import Plan
from shards.reader import Corpus
from shards.verify import verify
from shards.writer import write_unit


def changed(manifest: Manifest, **update: object) -> Manifest:
    """Another version; a copy of the model would keep the digest it has worked out."""
    return Manifest.model_validate(manifest.model_dump() | update)


LINEAGE = Lineage(made_by="select", parents=())


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    make_corpus(str(tmp_path / "corpus"), counts=(7, 4, 9), label=True, max_bytes=4096)
    return Corpus.open(str(tmp_path / "corpus"))


def shifted(url: str, scenes: dict[str, int], longitude: float = 0.0, codec: str = "npy") -> Corpus:
    """A corpus of scenes side by side: tile n of a scene lies n tenths of a degree further east."""
    store = open_store(url)

    def tiles(scene: str, count: int):
        for n in range(count):
            west = longitude + n / 10
            corners = [[west, 50.0], [west + 0.1, 50.0], [west + 0.1, 49.9], [west, 49.9]]
            yield make_tile(f"{scene}-{n:04d}", scene, footprint=corners)

    joined = join_units([write_unit(store, name, tiles(name, n), codec, 8192) for name, n in scenes.items()])
    _, like = make_corpus(f"memory://like-{codec}", counts=(1,), codec=codec)
    manifest = like.model_copy(
        update={
            "shards": tuple(joined.shards),
            "index": put_index(store, joined.rows),
            "sources": tuple(make_source(name, n) for name, n in scenes.items()),
            "tiles": sum(scenes.values()),
            "bytes": sum(s.bytes for s in joined.shards),
        }
    )
    publish(store, Manifest.model_validate(manifest.model_dump()))
    return Corpus.open(url)


# ---------------------------------------------------------------- one winner


def test_of_writers_that_follow_the_same_version_exactly_one_wins(tmp_path: Path) -> None:
    for number in range(25):
        store, first = make_corpus(str(tmp_path / f"c{number}"), counts=(1,))
        rivals = [changed(first, recipe={"writer": n}) for n in range(8)]
        start, ends = threading.Barrier(8), [""] * 8

        def write(n: int, rivals=rivals, store=store, first=first, start=start, ends=ends) -> None:
            start.wait()
            try:
                ends[n] = publish(store, rivals[n], after=first.digest)
            except ConflictError:
                ends[n] = "lost"

        threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (won,) = [end for end in ends if end != "lost"]
        assert won == current_digest(store) == head(store)[1]
        assert head(store)[0] == 2


def test_a_writer_that_died_before_readers_saw_its_version_is_finished_by_the_next(tmp_path: Path) -> None:
    from shards.heads import take_head

    store, first = make_corpus(str(tmp_path), counts=(2,))
    second = changed(first, recipe={"n": 2})
    add_version(store, second)
    take_head(store, 2, second.digest, first.digest)  # and then its machine lost power
    assert read_manifest(str(tmp_path))[1].digest == first.digest
    with pytest.raises(ConflictError, match="was published at"):
        publish(store, changed(first, recipe={"n": 3}), after=first.digest)
    third = changed(first, recipe={"n": 3})
    publish(store, third, after=current_digest(store))
    assert read_manifest(str(tmp_path))[1].digest == third.digest == current_digest(store)
    assert head(store)[0] == 3


# ---------------------------------------------------------------- names


def test_tags_and_digits_name_versions(corpus: Corpus) -> None:
    store, digest = corpus.store, corpus.manifest.digest
    set_tag(store, "v1", digest)
    set_tag(store, "v1", digest)
    for name in ("v1", digest[:8], digest):
        assert read_manifest(f"{store.url}@{name}")[1].digest == digest
    with pytest.raises(ConflictError, match=r"@v1 is .* already: give --move"):
        set_tag(store, "v1", "0" * 64)
    set_tag(store, "v1", "0" * 64, move=True)
    assert tags(store) == {"v1": "0" * 64}
    with pytest.raises(UsageError, match=r"no version 'v2' of .*there are: v1"):
        resolve(store, "v2")
    with pytest.raises(UsageError, match="is not a tag"):
        set_tag(store, "../v1", digest)


# ---------------------------------------------------------------- selections


def test_a_selection_shares_shards_and_is_whole(corpus: Corpus) -> None:
    chosen = derive.where(corpus.table, "scene <> 'scene-1' and key like '%3'")
    keys = [corpus.key(i) for i in np.flatnonzero(chosen)]
    assert keys == ["scene-0-0003", "scene-2-0003"]
    manifest = derive.take(corpus, chosen, LINEAGE)
    add_version(corpus.store, manifest)
    part = Corpus.open(f"{corpus.store.url}@{manifest.digest}")
    assert [part.key(i) for i in range(len(part))] == keys
    assert {s.key for s in manifest.shards} < {s.key for s in corpus.manifest.shards}
    assert [(s.id, s.tiles) for s in manifest.sources] == [("scene-0", 1), ("scene-2", 1)]
    assert verify(part, deep=True).ok
    for i, key in enumerate(keys):
        np.testing.assert_array_equal(part.tile(i).pixels, corpus.tile(corpus.find(key)).pixels)
        np.testing.assert_array_equal(part.tile(i).label, corpus.tile(corpus.find(key)).label)
    assert sorted(np.concatenate([Plan(part.shard_counts(), 0, 2, 1).tiles(s) for s in range(2)])) == [0, 1]
    assert current_digest(corpus.store) == corpus.manifest.digest


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_any_selection_of_a_selection_is_whole(data: st.DataObject) -> None:
    url = "memory://selections"
    make_corpus(url, counts=(7, 4, 9), max_bytes=4096)
    corpus = Corpus.open(url)
    wanted = set(range(len(corpus)))
    for _ in range(2):
        chosen = np.array(data.draw(st.lists(st.booleans(), min_size=len(corpus), max_size=len(corpus))))
        if not chosen.any():
            with pytest.raises(UsageError, match="no tile"):
                derive.take(corpus, chosen, LINEAGE)
            return
        before = [corpus.key(i) for i in range(len(corpus))]
        manifest = derive.take(corpus, chosen, LINEAGE)
        add_version(corpus.store, manifest)
        corpus = Corpus.open(f"{url}@{manifest.digest}")
        assert [corpus.key(i) for i in range(len(corpus))] == [k for k, c in zip(before, chosen, strict=True) if c]
        report = verify(corpus, deep=True)
        assert report.ok, report.faults
    assert len(wanted) == 20


def test_a_damaged_shard_of_a_selection_is_found(corpus: Corpus) -> None:
    manifest = derive.take(corpus, derive.where(corpus.table, "key = 'scene-0-0001'"), LINEAGE)
    add_version(corpus.store, manifest)
    part = Corpus.open(f"{corpus.store.url}@{manifest.digest}")
    (shard,) = manifest.shards
    data = bytearray(corpus.store.get(shard.key))
    data[int(part.rows.offset[0]) + 5] ^= 1
    corpus.store.put(shard.key, bytes(data))
    assert verify(part).ok
    faults = verify(part, deep=True).faults
    assert [fault.tile for fault in faults] == [None, "scene-0-0001"]


def test_queries_cannot_reach_files_and_name_their_faults(corpus: Corpus, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    with pytest.raises(UsageError, match="the query cannot be used"):
        derive.where(corpus.table, f"(SELECT count(*) FROM read_csv('{secret}')) > 0")
    with pytest.raises(UsageError, match=r"scenes.*the columns are key, shard, scene"):
        derive.where(corpus.table, "scenes = 'x'")


def test_balance_takes_so_many_of_each_and_the_same_ones_in_any_order(corpus: Corpus) -> None:
    kept = derive.balanced(corpus.table, "scene", 5, seed=1)
    scenes = [s for s, k in zip(corpus.table["scene"].to_pylist(), kept, strict=True) if k]
    assert {s: scenes.count(s) for s in set(scenes)} == {"scene-0": 5, "scene-1": 4, "scene-2": 5}
    order = np.random.default_rng(0).permutation(len(corpus))
    turned = derive.balanced(corpus.table.take(order), "scene", 5, seed=1)
    np.testing.assert_array_equal(turned, kept[order])
    assert (derive.balanced(corpus.table, "scene", 5, seed=2) != kept).any()


def test_twins_are_tiles_with_the_same_pixels(tmp_path: Path) -> None:
    make_corpus(str(tmp_path), counts=(3, 2), seed=7)  # one seed: all tiles are alike
    corpus = Corpus.open(str(tmp_path))
    assert [corpus.key(i) for i in np.flatnonzero(derive.first_of_twins(corpus.table))] == ["scene-0-0000"]


# ---------------------------------------------------------------- splits


def test_scenes_are_dealt_whole_in_about_their_shares(tmp_path: Path) -> None:
    corpus = shifted(str(tmp_path), {f"s{n:02d}": 3 + n % 4 for n in range(40)})
    shares = {"train": 60.0, "val": 20.0, "test": 20.0}
    parts = derive.parts_by_scene(corpus, shares, seed=3)
    assert sum(part.astype(int) for part in parts.values()).tolist() == [1] * len(corpus)
    scenes = np.array(corpus.table["scene"].to_pylist())
    owners = [{name for name, part in parts.items() if part[scenes == s].any()} for s in set(scenes)]
    assert all(len(owner) == 1 for owner in owners)
    for name, share in shares.items():
        assert parts[name].mean() == pytest.approx(share / 100, abs=0.04)


def test_bands_are_stripes_of_the_published_rule(tmp_path: Path) -> None:
    corpus = shifted(str(tmp_path), {"a": 50})
    shares = {"train": 60.0, "test": 20.0, "val": 20.0}
    parts = derive.parts_by_band(corpus, shares, angle_rad=np.pi / 2 - 1e-9, bands=10)
    names = ["train"] * 3 + ["test"] + ["val"]
    west = [corner[0] for corner in corpus.table["footprint"].to_pylist()]
    owner = [next(name for name, part in parts.items() if part[i]) for i in np.argsort(west)]
    runs = [owner[0], *(b for a, b in itertools.pairwise(owner) if a != b)]
    assert runs == ["train", "test", "val", "train", "test", "val"]
    counts = {name: int(part.sum()) for name, part in parts.items()}
    assert counts["train"] == pytest.approx(30, abs=3)
    assert sum(counts.values()) == 50
    assert names.count("train") == 3
    with pytest.raises(UsageError, match="exactly 51 bands"):
        derive.parts_by_band(corpus, shares, angle_rad=1.5, bands=51)


# ---------------------------------------------------------------- merging, copying


def test_a_merged_corpus_reads_through_and_a_copy_stands_alone(tmp_path: Path) -> None:
    one = shifted(str(tmp_path / "one"), {"a": 5, "b": 4})
    two = shifted(str(tmp_path / "two"), {"c": 6}, longitude=20.0)
    out = open_store(str(tmp_path / "both"))
    manifest, places = derive.merge([one, two], out)
    again, _ = derive.merge([two, one], out)
    assert again.digest == manifest.digest
    write_mounts(out, places)
    publish(out, manifest)
    both = Corpus.open(out.url)
    assert len(both) == 15
    assert verify(both, deep=True).ok
    for corpus in (one, two):
        for i in range(len(corpus)):
            np.testing.assert_array_equal(both.tile(both.find(corpus.key(i))).pixels, corpus.tile(i).pixels)
    urls = {shard_url(both.store, shard.key) for shard in manifest.shards}
    assert urls == {f"{c.store.url}/{shard.key}" for c in (one, two) for shard in c.manifest.shards}
    done = copy_version(both.store, both.manifest, open_store(str(tmp_path / "copy")))
    assert (done.objects, done.there) == (len(manifest.shards) + len(manifest.index), 0)
    for place in ("one", "two", "both"):
        (tmp_path / place).rename(tmp_path / f"{place}-gone")
    copied = Corpus.open(str(tmp_path / "copy"))
    assert copied.manifest.digest == manifest.digest
    assert verify(copied, deep=True).ok
    again_done = copy_version(copied.store, manifest, open_store(str(tmp_path / "copy")))
    assert (again_done.objects, again_done.bytes) == (0, 0)


def test_unlike_or_overlapping_corpora_are_not_merged(tmp_path: Path) -> None:
    one = shifted(str(tmp_path / "one"), {"a": 2})
    other = shifted(str(tmp_path / "other"), {"b": 2}, codec="blosc2")
    same = shifted(str(tmp_path / "same"), {"a": 3})
    out = open_store(str(tmp_path / "out"))
    with pytest.raises(ConflictError, match="differ in codec"):
        derive.merge([one, other], out)
    with pytest.raises(ConflictError, match="both hold the scene a"):
        derive.merge([one, same], out)


def test_a_mount_to_another_kind_of_place_is_refused(tmp_path: Path) -> None:
    one = shifted(str(tmp_path), {"a": 2})
    write_mounts(one.store, {"@" + "0" * 16: "s3://elsewhere/corpus"})
    with pytest.raises(UsageError, match="only other file:// places"):
        Corpus.open(str(tmp_path))


def test_a_damaged_source_is_not_copied(corpus: Corpus, tmp_path: Path) -> None:
    key = corpus.manifest.shards[0].key
    corpus.store.put(key, corpus.store.get(key)[:-1] + b"x")
    target = open_store(str(tmp_path / "target"))
    with pytest.raises(SarsenseError, match="is damaged: it is not what the manifest says"):
        copy_version(corpus.store, corpus.manifest, target)
    assert current_digest(target) is None


# ---------------------------------------------------------------- differences


def test_what_changed_is_told_by_scene_and_tile(tmp_path: Path) -> None:
    one = shifted(str(tmp_path / "one"), {"a": 5, "b": 4})
    two = shifted(str(tmp_path / "two"), {"b": 5, "c": 1})
    found = diff(one, two)
    assert found.scenes_added == ("c",)
    assert found.scenes_removed == ("a",)
    assert found.tiles_added == ("b-0004", "c-0000")
    assert found.tiles_removed == tuple(f"a-{n:04d}" for n in range(5))
    assert (found.tiles_changed, found.tiles_same) == ((), 4)
    assert found.dials["tiles"] == (9, 6)
    assert "5 tiles removed" in list(found.lines())
    assert list(diff(one, one).lines()) == [f"both are {one.manifest.digest}"]


# ---------------------------------------------------------------- garbage


def test_garbage_is_what_no_version_names_and_old_enough(corpus: Corpus) -> None:
    store = corpus.store
    part = derive.take(corpus, derive.where(corpus.table, "scene = 'scene-0'"), LINEAGE)
    add_version(store, part)
    store.put("shards/stray.tar", b"x" * 512)
    assert [key for key, _ in garbage(store).objects] == ["shards/stray.tar"]
    unnamed = garbage(store, versions=True)
    assert unnamed.versions == (part.digest,)
    assert {key for key, _ in unnamed.objects} == {
        "shards/stray.tar",
        f"manifests/{part.digest}.json",
        part.index[0].key,
    }
    set_tag(store, "keep", part.digest)
    assert garbage(store, versions=True).versions == ()
    found = garbage(store)
    assert sweep(store, found, now=100.0, after_s=10.0).objects == ()  # never marked
    mark(store, found, now=100.0)
    assert sweep(store, found, now=105.0, after_s=10.0).objects == ()  # too young
    assert [key for key, _ in sweep(store, found, now=111.0, after_s=10.0).objects] == ["shards/stray.tar"]
    assert verify(corpus, deep=True).ok
    assert garbage(store).objects == ()


def test_parents_of_a_tagged_version_are_kept(corpus: Corpus) -> None:
    store, first = corpus.store, corpus.manifest
    child = derive.take(
        corpus, derive.where(corpus.table, "scene = 'scene-0'"), Lineage(made_by="select", parents=(first.digest,))
    )
    add_version(store, child)
    set_tag(store, "child", child.digest)
    publish(store, changed(first, recipe={"n": 2}))
    assert garbage(store, versions=True).versions == ()


# ---------------------------------------------------------------- the commands


def test_the_commands_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shifted(str(tmp_path / "c"), {f"s{n}": 4 for n in range(10)})

    def told(*line: str) -> object:
        assert exit_code(app, [*line, "--json"]) == 0, capsys.readouterr().err
        return [json.loads(part) for part in capsys.readouterr().out.splitlines()]

    corpus = str(tmp_path / "c")
    (made,) = told("select", corpus, "--query", "window_row = 32", "--balance", "scene", "--most", "3", "--tag", "v2")
    assert (made["tiles"], made["version"]) == (30, f"file://{corpus}@v2")
    parts = told("split", f"{corpus}@v2", "--parts", "train=80,test=20", "--tag", "v2")
    assert [part["tiles"] for part in parts] == [24, 6]
    assert exit_code(app, ["diff", corpus, f"{corpus}@v2-test"]) == 0
    assert "34 tiles removed" in capsys.readouterr().out
    assert exit_code(app, ["pin", corpus, "v1"]) == 0
    assert exit_code(app, ["pin", f"{corpus}@v2", "v1"]) == 5
    assert "give --move" in capsys.readouterr().err
    (done,) = told("copy", f"{corpus}@v2-test", str(tmp_path / "small"), "--tag", "v1")
    assert exit_code(app, ["verify", f"{tmp_path / 'small'}@v1", "--deep"]) == 0
    assert done["digest"] == parts[1]["digest"]
    assert exit_code(app, ["verify", corpus, "--deep"]) == 0
    assert exit_code(app, ["gc", corpus, "--versions"]) == 0
    assert "found: 0 objects, 0.000 MB, 0 versions" in capsys.readouterr().out
    shifted(str(tmp_path / "d"), {"other": 4})
    (merged,) = told("merge", corpus, str(tmp_path / "d"), "--out", str(tmp_path / "m"))
    assert merged["tiles"] == 44
    assert exit_code(app, ["verify", str(tmp_path / "m"), "--deep"]) == 0
    assert exit_code(app, ["split", corpus, "--parts", "a=1"]) == 2


def test_weights_belong_to_a_version_and_to_the_order_of_reading(tmp_path: Path) -> None:
    corpus = shifted(str(tmp_path), {"a": 6, "b": 4})
    assert corpus.weights() is None
    manifest = derive.weigh(corpus, "id", {"a": 0.5, "b": 2.0}, LINEAGE)
    add_version(corpus.store, manifest)
    weighed = Corpus.open(f"{tmp_path}@{manifest.digest}")
    assert weighed.weights().tolist() == [0.5] * 6 + [2.0] * 4
    assert diff(corpus, weighed).scenes_changed == ("a", "b")
    for bad, message in (({"c": 1.0}, "no scene of .* has id 'c'"), ({"a": 0.0}, "weight a=0.0: expected more")):
        with pytest.raises(UsageError, match=message):
            derive.weigh(corpus, "id", bad, LINEAGE)


# ---------------------------------------------------------------- the same, done fast


@settings(deadline=None, max_examples=12)
@given(st.lists(st.integers(0, 400), min_size=1, max_size=60), st.integers(2, 12))
def test_bands_are_those_of_the_plain_search(places: list[int], bands: int) -> None:
    along = np.array(places) / 200

    def plain() -> list[int] | None:
        for k in np.linspace(0.1, 50, 10000):
            kinds, number = np.unique(np.floor(along / (k / bands)), return_inverse=True)
            if len(kinds) == bands:
                return number.tolist()
        return None

    try:
        found = derive._band_numbers(along, bands).tolist()
    except UsageError:
        found = None
    assert found == plain()


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_a_wrong_number_in_an_index_is_found(data: st.DataObject) -> None:
    """Whatever number of a layout is changed: either no byte moves, or verify says so without reading a shard."""
    make_corpus("memory://layouts", counts=(3, 2), label=True, max_bytes=8192)
    corpus = Corpus.open("memory://layouts")
    name = data.draw(
        st.sampled_from(["offset", "length", "label_offset", "label_length", "meta_offset", "meta_length"])
    )
    i, by = data.draw(st.integers(0, 4)), data.draw(st.sampled_from([-1024, -512, 512, 1024]))
    column = corpus.table[name].to_numpy().copy()
    column[i] += by
    at = corpus.table.column_names.index(name)
    changed_table = corpus.table.set_column(at, name, [column])
    assert verify(corpus).ok
    faults = verify(Corpus(corpus.store, corpus.manifest, changed_table)).faults
    assert faults
    assert "tar file at" in faults[0].found or "the index ends at" in faults[0].found
