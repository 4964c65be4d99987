"""The page of a version: self-contained, the same every time, and its figures are the index's."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from corpora import make_corpus
from PIL import Image

from infra.command import exit_code
from shards import derive
from shards.cli import app
from shards.manifest import Lineage, add_version
from shards.reader import Corpus
from shards.report import drawn, overlay, report, stretched
from shards.report_figures import Shown, band_levels, closeups


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    url = str(tmp_path / "c")
    make_corpus(
        url, counts=(7, 4, 9), label=True, incidence_deg=33.3, quantity="sigma0", orbit="ascending", platform="S1A"
    )
    return Corpus.open(url)


def cells(page: str) -> list[list[str]]:
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]


def test_a_page_needs_nothing_else_and_is_the_same_again(corpus: Corpus) -> None:
    page = report([corpus], ["corpus"], seed=3, tiles=5)
    assert report([corpus], ["corpus"], seed=3, tiles=5) == page
    assert report([corpus], ["corpus"], seed=4, tiles=5) != page
    assert drawn(20, 3, 5).tolist() != drawn(20, 4, 5).tolist()
    text = page.decode()
    assert not re.search(r"<script|https?://|src=\"(?!data:)|@import|url\(", text)
    rows = cells(text)
    assert ["version", corpus.manifest.digest] in rows
    assert ["tiles", "20, 20 with label"] in rows
    assert ["sentinel-1", "S1A", "-", "sigma0", "ascending", "VV+VH", "16 x 16", "20"] in rows
    assert ["sentinel-1 VV", "20", "-10.5", "-10.5", "-10.5", "-", "-", "-"] in rows
    pictures = [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"base64,([^\"]+)", text)]
    assert [p.size for p in pictures].count((16 * 3 + 6, 16)) == 5  # two bands and the label, 3 pixels between
    for i in drawn(20, 3, 5):
        assert corpus.key(int(i)) in text


def test_two_versions_stand_side_by_side_with_what_changed(corpus: Corpus, tmp_path: Path) -> None:
    lineage = Lineage(made_by="select", parents=(corpus.manifest.digest,), dials={"query": "scene <> 'scene-1'"})
    part = derive.take(corpus, derive.where(corpus.table, "scene <> 'scene-1'"), lineage)
    add_version(corpus.store, part)
    url, out = corpus.store.url, tmp_path / "page.html"
    assert exit_code(app, ["report", url, f"{url}@{part.digest}", "--out", str(out), "--tiles", "2"]) == 0
    text = out.read_text()
    rows = cells(text)
    assert ["scenes", "1", "0", "0"] in rows
    assert ["tiles", "4", "0", "0"] in rows
    assert ["scenes removed", "scene-1"] in rows
    assert ["version", corpus.manifest.digest, part.digest] in rows
    assert [part.digest[:12], "select", "query = scene &lt;&gt; &#x27;scene-1&#x27;"] in rows
    assert "16 tiles are the same." in text


def test_what_has_no_place_time_or_angle_is_said(tmp_path: Path) -> None:
    make_corpus(str(tmp_path / "c"), counts=(3,), footprint=None, time=None)
    corpus = Corpus.open(str(tmp_path / "c"))
    assert "No tile knows its angle." in report([corpus], ["c"], tiles=1).decode()
    assert closeups([Shown("c", corpus.manifest, corpus.table)]) is None


def test_a_damaged_tile_is_said_instead_of_shown(corpus: Corpus) -> None:
    key = corpus.manifest.shards[0].key
    data = bytearray(corpus.store.get(key))
    data[int(corpus.rows.offset[0]) + 200] ^= 1
    corpus.store.put(key, bytes(data))
    text = report([Corpus.open(corpus.store.url)], ["c"], tiles=20).decode()
    assert "scene-0-0000 cannot be shown" in text


def test_levels_are_split_by_band(corpus: Corpus) -> None:
    assert {n: v.tolist() for n, v in band_levels(corpus.table, "mean_db")} == {
        "sentinel-1 VH": [-17.25] * 20,
        "sentinel-1 VV": [-10.5] * 20,
    }


def test_the_stretch_ends_at_two_quantiles_and_no_data_is_black() -> None:
    level = np.linspace(-20, -10, 10_000, dtype=np.float32).reshape(100, 100)
    missing = np.zeros((100, 100), bool)
    missing[5] = True
    level[5] = np.nan
    grey, low, high = stretched(level, missing)
    assert (low, high) == pytest.approx(tuple(np.quantile(level[~missing], (0.02, 0.98))))
    assert grey[5].max() == 0
    assert grey[0, 0] == 0
    assert grey[-1, -1] == 255
    assert stretched(np.zeros((600, 300), np.float32), np.zeros((600, 300), bool))[0].shape == (200, 100)


def test_labels_take_the_legends_colours() -> None:
    picture = np.full((2, 2, 3), 100, np.uint8)
    label = np.array([[0, 1], [255, 1]], np.uint8)
    legend = {"classes": [{"id": 1, "name": "water", "colour": [0, 0, 255]}]}
    mixed = overlay(picture, label, legend)
    assert mixed[0, 1].tolist() == mixed[1, 1].tolist() == [45, 45, 185]
    assert mixed[1, 0].tolist() == [100, 100, 100]
