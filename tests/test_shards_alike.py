"""Tiles that look alike: signatures that speckle cannot change, and the same choice as comparing all pairs."""

import json
from pathlib import Path

import numpy as np
import pytest
from corpora import make_corpus, make_tile
from scipy.ndimage import gaussian_filter

from infra.command import exit_code
from shards.alike import first_of_alike, first_of_like, signature
from shards.cli import app
from shards.reader import Corpus
from shards.tile import DbScale, Tile

SCALE = DbScale()
LOOKS = 4.4


def land(place: int, size: int = 128) -> np.ndarray:
    """Two bands of decibels that vary over the ground, the same for the same place."""
    rng = np.random.default_rng([1, place])
    field = gaussian_filter(rng.standard_normal((2, size, size)), (0, size / 10, size / 10))
    return -14 + 3 * field / field.std()


def seen(place: int, date: int, gain_db: float = 0.0) -> np.ndarray:
    """The codes of a place on a date: other speckle, perhaps another level."""
    power = 10 ** ((land(place) + gain_db) / 10)
    speckle = np.random.default_rng([2, place, date]).gamma(LOOKS, 1 / LOOKS, power.shape)
    return SCALE.encode((power * speckle).astype(np.float32))


def test_speckle_and_level_leave_a_signature_as_it_is_and_other_ground_does_not() -> None:
    first, again, brighter = (
        signature(seen(3, date, gain), SCALE.step_db) for date, gain in ((0, 0.0), (1, 0.0), (2, 2.5))
    )
    assert min(first @ again, first @ brighter) > 0.99
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-6)
    others = [signature(seen(place, 0), SCALE.step_db) for place in range(4, 40)]
    assert max(first @ other for other in others) < 0.8


def test_a_signature_is_the_standardised_mean_of_cells() -> None:
    codes = seen(5, 0)
    codes[:, :20, :7] = 0
    expected = []
    for band in codes:
        cells = band.reshape(8, 16, 8, 16).swapaxes(1, 2).reshape(64, -1).astype(np.float64)
        valid = cells > 0
        means = np.where(valid.mean(1) >= 0.5, cells.sum(1) / np.maximum(valid.sum(1), 1), band[band > 0].mean())
        expected.append((means - means.mean()) / means.std())
    flat = np.concatenate(expected)
    np.testing.assert_allclose(signature(codes, SCALE.step_db), flat / np.linalg.norm(flat), atol=2e-6)


def test_a_tile_without_features_has_no_signature() -> None:
    sea = SCALE.encode(np.random.default_rng(0).gamma(LOOKS, 0.01 / LOOKS, (2, 128, 128)).astype(np.float32))
    assert not signature(sea, SCALE.step_db).any()
    assert not signature(np.zeros((1, 16, 16), np.uint16), SCALE.step_db).any()


@pytest.mark.parametrize("least", [0.95, 0.98])
def test_the_choice_is_that_of_all_pairs(least: float) -> None:
    rng = np.random.default_rng(6)
    centres = rng.standard_normal((300, 64))
    rows = centres[rng.integers(0, 300, 1500)] + rng.uniform(0, 0.3, (1500, 1)) * rng.standard_normal((1500, 64))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    keep = np.ones(len(rows), bool)
    for n in range(1, len(rows)):
        keep[n] = not (rows[:n][keep[:n]] @ rows[n] >= least).any()
    found = first_of_like(rows, least)
    assert keep.sum() < 1200, "nothing to find"
    assert (found != keep).mean() <= 0.004, "hashing misses 1 pair of 100 at 0.95"
    kept = rows[found]
    late, _ = np.nonzero(np.tril(kept @ kept.T, -1) >= least)
    assert len(late) <= 5


def dated_tiles(scene: str, count: int, **options: object) -> list[Tile]:
    """A scene per date: tile n of every scene shows place n."""
    date = int(scene.removeprefix("scene-"))
    bands = 1 if date == 2 else 2
    tiles = [make_tile(f"{scene}-{n:04d}", scene, size=128, bands=bands) for n in range(count)]
    return [Tile(t.key, seen(n, date)[:bands], t.meta) for n, t in enumerate(tiles)]


def test_of_the_same_ground_on_two_dates_one_tile_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = str(tmp_path / "corpus")
    make_corpus(url, counts=(6, 8, 3), max_bytes=2**20, tiles=dated_tiles)
    corpus = Corpus.open(url)
    told: list[int] = []
    keep = first_of_alike(corpus, np.ones(len(corpus), bool), 0.95, done=told.append)
    kept = {corpus.key(int(i)) for i in np.flatnonzero(keep)}
    dates = {f"scene-0-{n:04d}" for n in range(6)} | {"scene-1-0006", "scene-1-0007"}
    assert kept == dates | {f"scene-2-{n:04d}" for n in range(3)}, "VV alone is not compared with VV and VH"
    assert told == list(range(1, 18))
    unread = np.ones(len(corpus), bool)
    unread[:6] = False
    assert first_of_alike(corpus, unread, 0.95).sum() == 11, "what was not chosen removes nothing"

    assert exit_code(app, ["select", url, "--drop-alike", "0.95", "--tag", "curated", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tiles"] == 11
    lineage = Corpus.open(f"{url}@curated").manifest.model_dump()["lineage"]
    assert lineage["dials"]["drop_alike"] == 0.95
    assert lineage["dials"]["signature"] == "mean dB on 8 x 8 cells"
