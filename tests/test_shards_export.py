"""A version given out: plain folders, and a Hugging Face layout with card, Croissant and shards unchanged."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from corpora import make_corpus
from PIL import Image

from infra.command import exit_code
from infra.errors import UsageError
from shards import derive
from shards.cli import app
from shards.export import Grey
from shards.manifest import Lineage, add_version
from shards.reader import Corpus
from shards.tile import DbScale
from shards.verify import verify


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    make_corpus(
        str(tmp_path / "c"), counts=(7, 4, 9), label=True, max_bytes=16384, incidence_deg=33.0, quantity="sigma0"
    )
    return Corpus.open(str(tmp_path / "c"))


def run(*line: str) -> None:
    assert exit_code(app, ["export", *line]) == 0


def test_a_folder_holds_each_tile_as_codes_or_decibels(corpus: Corpus, tmp_path: Path) -> None:
    run(corpus.store.url, str(tmp_path / "codes"))
    run(corpus.store.url, str(tmp_path / "db"), "--db")
    for i in range(len(corpus)):
        tile = corpus.tile(i, full_meta=True)
        stem = f"{tile.meta['scene']}/{tile.key}"
        np.testing.assert_array_equal(np.load(tmp_path / f"codes/{stem}.npy"), tile.pixels)
        level = np.load(tmp_path / f"db/{stem}.npy")
        assert level.dtype == np.float32
        np.testing.assert_array_equal(level, -60 + (tile.pixels.astype(np.float32) - 1) * np.float32(0.002))
        np.testing.assert_array_equal(np.load(tmp_path / f"codes/{stem}.label.npy"), tile.label)
        assert json.loads((tmp_path / f"codes/{stem}.json").read_bytes())["time"] == tile.meta["time"]
    told = json.loads((tmp_path / "db/export.json").read_text())
    assert (told["version"], told["pixels"]) == (corpus.manifest.digest, "db")
    assert len(list((tmp_path / "codes").rglob("*.npy"))) == 40


def test_grey_levels_are_a_line_through_the_range(corpus: Corpus, tmp_path: Path) -> None:
    run(corpus.store.url, str(tmp_path / "png"), "--png", "--low", "-22", "--high", "-14")
    tile = corpus.tile(3)
    for band, name in enumerate(("VV", "VH")):
        grey = np.asarray(Image.open(tmp_path / f"png/scene-0/{tile.key}_{name}.png"))
        level = corpus.scale.decode(tile.pixels[band]).astype(float)
        expected = 1 + np.rint(254 * np.clip((level + 22) / 8, 0, 1))
        assert grey.dtype == np.uint8
        assert np.abs(grey - expected).max() <= 1
        assert np.count_nonzero(grey != expected) <= 2  # where float32 falls on the other side of a half
    label = np.asarray(Image.open(tmp_path / f"png/scene-0/{tile.key}.label.png"))
    np.testing.assert_array_equal(label, tile.label)


def test_pngs_can_be_ingested_again(corpus: Corpus, tmp_path: Path) -> None:
    from ingest.chip_set import chip_folder, read_chip_folder
    from ingest.chips import ChipScene
    from ingest.scene import Window

    run(corpus.store.url, str(tmp_path / "png"), "--png", "--low", "-22", "--high", "-12")
    spec, folder = read_chip_folder(tmp_path / "png/chips.yaml")
    chips = chip_folder(folder, spec)
    assert [chip.id for chip in chips] == sorted(corpus.key(i) for i in range(20))
    scene, tile = ChipScene(chips[3]), corpus.tile(3)
    window = Window(0, 0, 16, 16)
    level = 10 * np.log10(scene.power(window))
    assert scene.info.polarisations == ("VV", "VH")
    np.testing.assert_allclose(level, corpus.scale.decode(tile.pixels).clip(-22, -12), atol=5 / 254 + 1e-4)
    np.testing.assert_array_equal(scene.label(window), tile.label)


def test_grey_keeps_black_for_no_data() -> None:
    scale = DbScale()
    codes = np.array([0, 1, 17501, 23751, 30001, 65535], np.uint16)  # none, -60, -25, -12.5, 0, 71.07 dB
    assert Grey().levels(codes, scale).tolist() == [0, 1, 1, 128, 255, 255]
    with pytest.raises(UsageError, match="the first has to be the lower"):
        Grey(0, -25)


def test_one_version_goes_to_the_hub_unchanged(corpus: Corpus, tmp_path: Path) -> None:
    run(corpus.store.url, str(tmp_path / "h"), "--as", "huggingface", "--dali-index", "--date", "2026-01-02")
    copy = Corpus.open(str(tmp_path / "h"))
    assert copy.manifest.digest == corpus.manifest.digest
    assert verify(copy, deep=True).ok
    for shard in corpus.manifest.shards:
        assert (tmp_path / "h" / shard.key).read_bytes() == corpus.store.get(shard.key)
        assert (tmp_path / "h" / shard.key.replace(".tar", ".idx")).read_text().startswith(f"v1.2 {shard.tiles}\n")
    first = (tmp_path / "h/croissant.json").read_bytes()
    run(corpus.store.url, str(tmp_path / "h"), "--as", "huggingface", "--date", "2026-01-02")
    assert (tmp_path / "h/croissant.json").read_bytes() == first


@pytest.fixture
def halves(corpus: Corpus) -> dict[str, Corpus]:
    """Every second tile: each half takes some tiles of every shard."""
    found = {}
    for n, name in enumerate(("train", "test")):
        manifest = derive.take(
            corpus, np.arange(20) % 2 == n, Lineage(made_by="split", parents=(corpus.manifest.digest,))
        )
        add_version(corpus.store, manifest)
        found[name] = Corpus.open(f"{corpus.store.url}@{manifest.digest}")
    return found


@pytest.fixture
def published(halves: dict[str, Corpus], tmp_path: Path) -> Path:
    url = next(iter(halves.values())).store.url
    pairs = [part for n, c in halves.items() for part in ("--split", f"{n}={url}@{c.manifest.digest}")]
    run(url, str(tmp_path / "h"), "--as", "huggingface", *pairs, "--name", "Tiles", "--license", "cc-by-4.0")
    return tmp_path / "h"


def test_splits_of_parts_of_shards_hold_their_tiles_and_no_others(published: Path, halves: dict[str, Corpus]) -> None:
    for name, half in halves.items():
        written = Corpus.open(f"{published}@{name}")
        assert verify(written, deep=True).ok
        assert written.manifest.lineage == Lineage(made_by="export", parents=(half.manifest.digest,))
        assert [s.members for s in written.manifest.shards] == [None] * len(half.manifest.shards)
        for i in range(len(half)):
            before, after = half.tile(i, full_meta=True), written.tile(i, full_meta=True)
            assert (before.key, before.meta) == (after.key, after.meta)
            np.testing.assert_array_equal(before.pixels, after.pixels)
            np.testing.assert_array_equal(before.label, after.label)


@pytest.mark.filterwarnings("ignore")
def test_the_hubs_loader_finds_the_splits(
    published: Path, halves: dict[str, Corpus], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(str(published), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in loaded.items()} == {"train": 10, "test": 10}
    for name, half in halves.items():
        assert loaded[name]["__key__"] == [half.key(i) for i in range(10)]
        np.testing.assert_array_equal(np.asarray(loaded[name][4]["npy"], "u2"), half.tile(4).pixels)


def test_the_card_tells_what_the_manifest_knows(published: Path) -> None:
    _, front, text = (published / "README.md").read_text().split("---\n", 2)
    head = yaml.safe_load(front)
    assert (head["license"], head["pretty_name"], head["size_categories"]) == ("cc-by-4.0", "Tiles", ["n<1K"])
    assert head["configs"][0]["data_files"] == [
        {"split": "train", "path": ["train/*.tar"]},
        {"split": "test", "path": ["test/*.tar"]},
    ]
    for said in (
        "| train | 10 | 10 | 3 | sentinel-1 |",
        "db = -60 + (code.astype('float32') - 1) * 0.002",
        "`sigma0`: sigma nought",
        "numpy.load(io.BytesIO(sample['npy']))",
        "| `scene-2` | sentinel-1 | GRD | IW | VV+VH | 2024-05-06 |  | 9 |",
        Corpus.open(f"{published}@test").manifest.digest,
    ):
        assert said in text


@pytest.mark.filterwarnings("ignore")
def test_croissant_is_valid_and_its_records_are_the_index(published: Path, halves: dict[str, Corpus]) -> None:
    croissant = pytest.importorskip("mlcroissant")
    described = croissant.Dataset(str(published / "croissant.json"))
    assert described.metadata.issues.errors == set()
    for name, half in halves.items():
        records = list(described.records(f"tiles_{name}"))
        assert [r[f"tiles_{name}/key"].decode() for r in records] == [half.key(i) for i in range(10)]
        assert [r[f"tiles_{name}/crc32c"] for r in records] == half.rows.crc32c.tolist()
        assert records[0][f"tiles_{name}/polarisations"] == [b"VV", b"VH"]
    told = json.loads((published / "croissant.json").read_text())
    assert told["conformsTo"] == ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/geo/1.0"]
    assert told["geocr:bandConfiguration"]["geocr:bandNameList"] == ["VV", "VH"]
    assert told["geocr:spatialResolution"] == {"@type": "QuantitativeValue", "value": 10.0, "unitText": "m"}
    assert told["geocr:spectralBandMetadata"][0]["geocr:centerWavelength"]["value"] == 55.47  # c / 5.405 GHz, mm
    assert told["spatialCoverage"]["geo"]["box"] == "49.9 10 50 10.1"
    assert told["temporalCoverage"] == "2024-05-06/2024-05-06"


@pytest.mark.filterwarnings("ignore")
def test_croissant_of_an_index_in_parts(tmp_path: Path) -> None:
    croissant = pytest.importorskip("mlcroissant")
    make_corpus(str(tmp_path / "c"), counts=(7, 4), rows_per_part=5)
    run(str(tmp_path / "c"), str(tmp_path / "h"), "--as", "huggingface")
    described = croissant.Dataset(str(tmp_path / "h/croissant.json"))
    assert len(list(described.records("tiles_train"))) == 11


def test_what_cannot_be_published_together_is_refused(
    corpus: Corpus, halves: dict[str, Corpus], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, out = corpus.store.url, str(tmp_path / "h")
    same = f"{url}@{halves['train'].manifest.digest}"
    for line, status, message in (
        (["--split", f"train={same}", "--split", f"test={url}"], 5, "is in train and in test"),
        (["--split", f"Test={same}"], 2, "is no name for a split"),
        (["--split", "test"], 2, "expected NAME=CORPUS@VERSION"),
    ):
        assert exit_code(app, ["export", url, out, "--as", "huggingface", *line]) == status
        assert message in capsys.readouterr().err
    (tmp_path / "stray/shards").mkdir(parents=True)
    (tmp_path / "stray/shards/old.tar").write_bytes(b"x")
    assert exit_code(app, ["export", url, str(tmp_path / "stray"), "--as", "huggingface"]) == 5
    assert "1 tar files that are not of train" in capsys.readouterr().err
    assert not (tmp_path / "stray/README.md").exists()


def test_scenes_that_would_share_a_folder_are_refused() -> None:
    from shards.export import _folders

    assert _folders(["a b", "c"]) == {"a b": "a_b", "c": "c"}
    with pytest.raises(UsageError, match="would share the folder"):
        _folders(["a b", "A_b"])
