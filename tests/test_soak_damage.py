"""Damage to the patch index, and what the command says; of shards and manifests: test_shards_reader, _manifest."""

import numpy as np
import pytest
from corpora import make_corpus

from infra.command import exit_code
from infra.store import Store
from shards.cli import app
from shards.index import IndexDamaged, read_index
from shards.manifest import Manifest


@pytest.fixture(scope="module")
def corpus() -> tuple[Store, Manifest]:
    return make_corpus("memory://soak-damage", (4, 4), size=8, rows_per_part=4)


def test_any_of_200_flipped_bits_of_an_index_part_is_found(corpus: tuple[Store, Manifest]) -> None:
    store, manifest = corpus
    assert len(manifest.index) == 2
    rng, found = np.random.default_rng(6), 0
    for n in range(200):
        key = manifest.index[n % 2].key
        whole = store.get(key)
        broken, bit = bytearray(whole), int(rng.integers(0, 8 * len(whole)))
        broken[bit // 8] ^= 1 << bit % 8
        store.put(key, bytes(broken))
        with pytest.raises(IndexDamaged, match=f"{key} is damaged"):
            read_index(store, manifest)
        found += 1
        store.put(key, whole)
    assert found == 200
    assert read_index(store, manifest).num_rows == 8


def test_an_index_part_cut_at_any_block_is_found(corpus: tuple[Store, Manifest]) -> None:
    store, manifest = corpus
    key = manifest.index[1].key
    whole = store.get(key)
    assert len(whole) > 4 * 512
    for size in range(0, len(whole), 512):
        store.put(key, whole[:size])
        with pytest.raises(IndexDamaged, match=f"{key} is damaged: expected {len(whole)} bytes"):
            read_index(store, manifest)
    store.put(key, whole)


@pytest.mark.parametrize("prefix", ["manifest.json", "manifests/", "index/", "shards/"])
def test_the_command_names_what_is_damaged_and_ends_with_an_error(
    prefix: str, corpus: tuple[Store, Manifest], capsys: pytest.CaptureFixture[str]
) -> None:
    store, manifest = corpus
    (key, *_) = [found.key for found in store.list(prefix)]
    whole = store.get(key)
    place = (
        f"memory://soak-damage/manifests/{manifest.digest}.json" if prefix == "manifests/" else "memory://soak-damage"
    )
    rng = np.random.default_rng(7)
    for n in range(8):
        broken = bytearray(whole)
        broken[int(rng.integers(len(whole)))] ^= 1 << n % 8
        store.put(key, bytes(broken))
        assert exit_code(app, ["verify", place, "--deep"]) == 1
        told = capsys.readouterr()
        assert key in told.err + told.out
        assert "Traceback" not in told.err
    store.put(key, whole)
    assert exit_code(app, ["verify", place, "--deep"]) == 0
