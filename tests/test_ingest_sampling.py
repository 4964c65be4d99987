"""Sampling depends on keys and the seed alone; a stricter rule keeps a part of what a milder one keeps."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from test_ingest_tiling import SCALE, ComputedScene

from ingest.recipe import Sampling, TileRules
from ingest.sampling import Tally, chance, sample, share_of, stratum
from ingest.tiling import cut
from shards.tile import Tile

PIXELS = np.zeros((1, 8, 8), np.uint16)


def tile(number: int, land: float | None = 1.0, contrast_db: float | None = 2.0, mean_db: float = -10.0) -> Tile:
    return Tile(f"scene-{number:06d}", PIXELS, {"land_share": land, "contrast_db": contrast_db, "mean_db": [mean_db]})


def kept(tiles: list[Tile], rules: Sampling) -> list[str]:
    tally = Tally()
    found = [t.key for t in sample(iter(tiles), rules, tally)]
    assert sum(tally.had.values()) == len(tiles)
    assert sum(tally.kept.values()) == len(found) == len(tiles) - tally.dropped["sampling"]
    return found


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ((0.0, 0.2, -22.0), "water-flat-dark"),
        ((0.0499, 1.0, -15.0), "water-varied-bright"),
        ((0.05, 0.999, -14.9), "coast-flat-bright"),
        ((0.95, 3.0, -15.1), "coast-varied-dark"),
        ((0.951, 0.5, -6.0), "land-flat-bright"),
        ((None, None, -6.0), "unknown-varied-bright"),
    ],
)
def test_strata(values: tuple[float | None, float | None, float], name: str) -> None:
    assert stratum(tile(0, *values).meta, Sampling()) == name


def test_the_longest_name_counts() -> None:
    keep = {"water": 0.1, "water-flat": 0.01, "land-flat-dark": 0.5}
    names = ("water-flat-dark", "water-varied-dark", "land-flat-dark", "land-flat-bright", "coast-flat-dark")
    assert [share_of(name, keep) for name in names] == [0.01, 0.1, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("keep", [{"sea": 0.5}, {"water-dark": 0.5}, {"water": 1.5}, {"water-flat-dark-x": 0.1}])
def test_what_is_no_stratum_or_no_share_is_refused(keep: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=r"no stratum|not a share"):
        Sampling(keep=keep)


def test_shares_are_kept_on_the_whole_and_other_seeds_keep_others() -> None:
    tiles = [tile(n, land=0.0 if n % 2 else 1.0) for n in range(20_000)]
    first, other = (kept(tiles, Sampling(keep={"water": 0.1}, seed=seed)) for seed in (0, 1))
    water = [key for key in first if int(key[-6:]) % 2]
    assert len(first) - len(water) == 10_000
    assert len(water) == pytest.approx(1000, abs=4 * np.sqrt(10_000 * 0.1 * 0.9))
    both = len(set(water) & set(other))
    assert both == pytest.approx(100, abs=45)


def test_chances_are_frozen() -> None:
    assert [round(chance(f"S1A_IW-{n:06d}-000000", 0), 6) for n in range(3)] == [0.010777, 0.040739, 0.849538]
    assert min(chance(str(n), 7) for n in range(5000)) < 0.001


LANDS = st.sampled_from([0.0, 0.5, 1.0, None])
KEEP = st.dictionaries(st.sampled_from(["water", "coast", "land", "unknown"]), st.sampled_from([0.0, 0.3, 0.7]))
LIMIT = st.none() | st.integers(1, 12)


@settings(deadline=None, max_examples=150)
@given(lands=st.lists(LANDS, max_size=40), keep=KEEP, stratum_limit=LIMIT, scene_limit=LIMIT, seed=st.integers(0, 9))
def test_order_never_matters_and_limits_hold(lands, keep, stratum_limit, scene_limit, seed) -> None:
    rules = Sampling(keep=keep, max_tiles_per_stratum=stratum_limit, max_tiles_per_scene=scene_limit, seed=seed)
    tiles = [tile(n, land) for n, land in enumerate(lands)]
    found = kept(tiles, rules)
    assert found == sorted(found)  # in the order of the scene
    shuffled = random.Random(seed).sample(tiles, len(tiles))
    assert set(kept(shuffled, rules)) == set(found)
    assert len(found) <= (scene_limit or len(tiles))
    ground = Counter("none" if lands[int(key[-6:])] is None else str(lands[int(key[-6:])]) for key in found)
    assert max(ground.values(), default=0) <= (stratum_limit or len(tiles))
    milder = kept(tiles, Sampling(keep={k: min(1.0, v + 0.3) for k, v in keep.items()}, seed=seed))
    assert set(found) <= set(milder)
    # No tile was left out in vain: what the limits refused has a higher number than all that they kept.
    if scene_limit is not None and stratum_limit is None:
        passed = kept(tiles, Sampling(keep=keep, seed=seed))
        assert set(found) == set(sorted(passed, key=lambda key: chance(key, seed))[:scene_limit])


def test_a_scene_is_sampled_as_it_is_cut() -> None:
    scene = ComputedScene(512, 512, placed=False)
    cuts = list(cut(scene, TileRules(size=64), SCALE))
    assert len(cuts) == 64
    tally = Tally()
    few = list(sample(cut(scene, TileRules(size=64), SCALE, tally.dropped), Sampling(max_tiles_per_scene=10), tally))
    assert [t.key for t in few] == sorted(sorted((t.key for t in cuts), key=lambda key: chance(key, 0))[:10])
    assert tally.as_json()["dropped"] == {"sampling": 54}
    assert tally.reasons() == "54 for sampling"
    assert list(sample([], Sampling(max_tiles_per_scene=10), untouched := Tally())) == []
    assert not untouched.dropped  # so that a scene of no-data alone is told from one that sampling emptied
