"""Maps of numbers: the same from every layout of windows, readable by any GIS; and what each task can be asked for."""

import io
import json

import numpy as np
import pystac
import pytest
import rasterio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_corpus import LEGEND, PIXELS_DIGEST, SCALE, SCENES, build
from matplotlib import colormaps
from PIL import Image
from pystac.validation.stac_validator import JsonSchemaSTACValidator
from test_finetune_map import UTM, _pixels, _scene
from test_finetune_map_files import LINEAGE, _source

from finetune.cli import app
from finetune.config import DecoderConfig, FinetuneRun, TargetConfig, TaskConfig
from finetune.legend import Legend
from finetune.map import ValueReport, read_small_values, write_values
from finetune.map_item import value_item
from finetune.model import ModelCard, model_bytes
from finetune.model import build as build_model
from finetune.overlay import draw_values
from finetune.preview import value_page
from finetune.scores_regression import regression_scores
from finetune.value_strips import ValueStrip, value_strips
from infra.command import exit_code
from infra.errors import ResourceError
from pretrain.config import InputSpec
from pretrain.encoder import ResNet
from pretrain.export import EncoderCard

SHARE = TargetConfig(share_of=("water",), unit="share of water")
PAIRS = (("alpha", "beta"),)
TILES = (
    TaskConfig(kind="classification"),
    TaskConfig(kind="multilabel"),
    TaskConfig(kind="regression", level="tile", target=SHARE),
    TaskConfig(kind="change", level="tile", pairs=PAIRS),
)


def _pixelwise(codes: np.ndarray) -> np.ndarray:
    """A number from each pixel alone; eighths, so that every sum is exact."""
    return np.floor(codes[:, 0].astype(np.float32) / 1024) / 8


def _expected(pixels: np.ndarray) -> np.ndarray:
    return np.where((pixels == 0).all(0), np.nan, _pixelwise(pixels[None])[0]).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(5, 70),
    cols=st.integers(5, 70),
    tile=st.integers(8, 64),
    size=st.integers(4, 48),
    share=st.floats(0, 0.9),
    batch=st.integers(1, 5),
)
def test_a_pixelwise_predictor_gives_one_map_for_every_layout(rows, cols, tile, size, share, batch):
    pixels, overlap = _pixels(rows, cols), int(size * share)
    scene = _scene(pixels, tile, 0)
    strips = list(value_strips(_pixelwise, scene, size=size, overlap=overlap, batch=batch, margin=overlap // 2))
    assert [s.row for s in strips] == np.cumsum([0, *(len(s.values) for s in strips)])[:-1].tolist()
    assert (np.concatenate([s.codes for s in strips], 1) == pixels).all()
    np.testing.assert_allclose(np.concatenate([s.values for s in strips]), _expected(pixels), rtol=1e-6)
    assert not scene._held, "every tile was let go"


def test_the_edges_of_windows_do_not_count_with_a_margin():
    pixels = np.ones((2, 90, 70), np.uint16)

    def edgy(codes: np.ndarray) -> np.ndarray:
        out = np.zeros((len(codes), *codes.shape[2:]), np.float32)
        out[:, 4:-4, 4:-4] = 1
        return out

    for margin, wrong in ((0, True), (4, False)):
        strips = value_strips(edgy, _scene(pixels, 32, 0), size=32, overlap=10, margin=margin)
        inner = np.concatenate([s.values for s in strips])[4:-4, 4:-4]
        assert bool((inner < 1).any()) == wrong
    with pytest.raises(ValueError, match="margin 6"):
        next(value_strips(edgy, _scene(pixels, 32, 0), size=32, overlap=10, margin=6))


def _written(path, unit: str = "m") -> ValueReport:
    strips = value_strips(_pixelwise, _scene(_pixels(300, 530), 128, 0), size=96, overlap=24)
    return write_values(path, strips, (300, 530), UTM, {"SCENE": "s1"}, unit)


def test_the_map_reads_back_with_its_unit_and_no_data(tmp_path):
    path = tmp_path / "deep" / "map.tif"
    report, expected = _written(path), _expected(_pixels(300, 530))
    with rasterio.open(path) as file:
        values = file.read(1)
        assert (file.count, file.dtypes, file.units, file.descriptions) == (1, ("float32",), ("m",), ("value",))
        assert np.isnan(file.nodata)
        assert (file.crs.to_epsg(), file.tags()["SCENE"], file.overviews(1)) == (32633, "s1", [2])
        assert file.colorinterp[0] == rasterio.enums.ColorInterp.gray
        assert (file.read_masks(1) == np.where(np.isnan(expected), 0, 255)).all()
    np.testing.assert_array_equal(values, expected)
    assert b"LAYOUT=IFDS_BEFORE_DATA" in path.read_bytes()[8:300]
    assert [p.name for p in path.parent.iterdir()] == ["map.tif"]
    assert (report.pixels, report.no_data, report.unit) == (300 * 530 - 75 * 106, 75 * 106, "m")
    assert report.mean == pytest.approx(np.nanmean(expected, dtype=np.float64))
    assert report.deviation == pytest.approx(np.nanstd(expected, dtype=np.float64))
    assert (report.least, report.most) == (np.nanmin(expected), np.nanmax(expected))
    small = read_small_values(path, 150, 265)
    assert small[149, 264] == pytest.approx(expected[298:, 528:].mean())
    assert np.isnan(small[:37, :53]).all()


def test_a_map_without_data_or_that_fails_half_way(tmp_path):
    strip = ValueStrip(0, np.zeros((1, 4, 8), np.uint16), np.full((4, 8), np.nan, np.float32))
    report = write_values(tmp_path / "empty.tif", [strip], (4, 8), UTM, {}, "")
    assert report == ValueReport(0, 32, None, None, None, None)
    picture = draw_values(np.full((4, 8), np.nan), strip.values, "empty")
    assert b"0 pixels" not in value_page("s", "", picture, report, LINEAGE)
    assert b"32 pixels (100.0 %) hold no measurement" in value_page("s", "", picture, report, LINEAGE)

    def broken():
        yield strip
        raise RuntimeError("tile lost")

    with pytest.raises(RuntimeError, match="tile lost"):
        write_values(tmp_path / "map.tif", broken(), (8, 8), UTM, {}, "")
    assert [p.name for p in tmp_path.iterdir()] == ["empty.tif"]
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot be written"):
        write_values(tmp_path / "file" / "map.tif", [], (8, 8), UTM, {}, "")


def test_the_picture_shows_the_values_on_a_ramp():
    values = np.where(np.arange(400) < 200, -3.0, 7.0)[None].repeat(300, 0).astype(np.float32)
    picture = draw_values(np.full((300, 400), 0.5), values, "s1", "m")
    image = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).reshape(-1, 3)
    low, high = (np.array(colormaps["viridis"](end, bytes=True)[:3]) for end in (0.0, 1.0))
    counts = [int((image == colour).all(1).sum()) for colour in (low, high)]
    assert min(counts) > 10_000, "one half each"
    assert max(counts) < 1.2 * min(counts)


def test_the_item_is_valid_stac_with_unit_and_statistics(tmp_path):
    report = _written(tmp_path / "m.tif", "Mg/ha")
    plain = value_item(_source(shape=(300, 530)), UTM, report, {"map": tmp_path / "m.tif"}, LINEAGE, tmp_path)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    JsonSchemaSTACValidator().validate_core(plain, pystac.STACObjectType.ITEM, "1.1.0")
    assert not any("classification" in name for name in plain["stac_extensions"])
    asset = plain["assets"]["map"]
    assert (asset["data_type"], asset["nodata"], asset["unit"]) == ("float32", "nan", "Mg/ha")
    assert asset["statistics"]["mean"] == report.mean
    assert asset["statistics"]["valid_percent"] == pytest.approx(95)
    assert "estimated by model cccccccccccc" in plain["properties"]["processing:lineage"]
    assert value_item(_source(time=None), UTM, report, {"map": tmp_path / "m.tif"}, LINEAGE, tmp_path) is None


def _model(path, task: TaskConfig) -> str:
    torch.manual_seed(0)
    decoder, legend = DecoderConfig(kind="fcn", channels=8, aux_weight=0), Legend.model_validate(LEGEND)
    encoder = EncoderCard(
        method="random", depth=18, bands=2, input=InputSpec(bands=2), scale=SCALE, pixels_digest=PIXELS_DIGEST,
        manifest_digest="", run_digest="", step=0,
    )  # fmt: skip
    card = ModelCard(
        task=task, encoder=encoder, encoder_url="random", legend=legend, decoder=decoder, crop_px=32, seed=0,
        pixels_digest=PIXELS_DIGEST, manifest_digest="", run_digest="d" * 64, trained_on=(), held_out=(), scores={},
    )  # fmt: skip
    network = build_model(ResNet(18, 2), encoder, legend, decoder, task)
    path.write_bytes(model_bytes(network, card))
    return str(path)


def _run(capsys, *argv: str) -> tuple[int, str, str]:
    code = exit_code(app, list(argv))
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("map-values") / "corpus"
    build(str(folder), SCENES[:2])
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("map-values-model") / "m.safetensors"
    return _model(path, TaskConfig(kind="regression", target=SHARE))


def test_a_number_is_mapped_and_scored_by_the_same_model(data, model, capsys, tmp_path):
    argv = ("--data", data, "--device", "cpu")
    code, out, err = _run(capsys, "map", model, *argv, "--scene", "alpha", "--out", str(tmp_path / "n.tif"))
    assert (code, err) == (0, "")
    assert sorted(p.name for p in tmp_path.glob("n*")) == ["n.html", "n.json", "n.png", "n.tif"]
    with rasterio.open(tmp_path / "n.tif") as file:
        values = file.read(1)
        assert (file.units, file.tags()["SCENE"], file.tags()["PIXELS"]) == (
            ("share of water",),
            "alpha",
            PIXELS_DIGEST,
        )
    assert f"{'mean':<20} {values.mean(dtype=np.float64):>12.5g} share of water" in out
    label = SCENES[0].label
    expected = regression_scores(label[label != 255], values[label != 255])
    code, out, _ = _run(capsys, "score", model, *argv, "--scenes", "alpha", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["scores"] == found["scenes"]["alpha"] == pytest.approx(expected, rel=1e-6)
    code, out, _ = _run(capsys, "score", model, *argv, "--scenes", "alpha")
    assert f"{'rmse':<28}{expected['rmse']:>16.5g}" in out
    assert "class" not in out


def test_what_a_number_cannot_be_asked_for_is_refused(data, model, capsys, tmp_path):
    mapped = ("map", model, "--data", data, "--scene", "alpha", "--out", str(tmp_path / "n.tif"))
    cases = [
        ((*mapped, "--vectors", "water=polygon"), "no classes to outline"),
        ((*mapped, "--before", "beta"), "takes one scene, without --before"),
        ((*mapped, "--margin", "9"), "at most half of the overlap"),
        (("score", model, "--data", data, "--scenes", "alpha", "--boundary", "2"), "draws no contours"),
    ]
    for argv, message in cases:
        code, printed, err = _run(capsys, *argv)
        assert (code, printed) == (2, ""), (argv, err)
        assert message in err
        assert err.count("\n") == 1, err
    assert not list(tmp_path.glob("n*"))


@pytest.mark.parametrize("task", TILES, ids=["classes", "multilabel", "number", "change"])
def test_answers_for_tiles_are_scored_but_not_mapped(task, data, capsys, tmp_path):
    model = _model(tmp_path / "m.safetensors", task)
    code, printed, err = _run(capsys, "map", model, "--data", data, "--scene", "beta", "--out", str(tmp_path / "n.tif"))
    assert (code, printed) == (2, "")
    assert f"of the task {task.kind} of tiles, one answer for each, so there is nothing to map" in err
    assert err.count("\n") == 1
    if task.kind == "change":
        return  # its pair does not lie on one grid here: see the tests of tasks
    code, printed, _ = _run(capsys, "score", model, "--data", data, "--scenes", "beta", "--device", "cpu", "--json")
    main = {"classification": "oa", "multilabel": "f1_micro", "regression": "rmse"}[task.kind]
    assert code == 0
    assert json.loads(printed)["scores"][main] >= 0


def test_the_unit_is_only_a_word():
    metres, plain = (
        FinetuneRun(task=TaskConfig(kind="regression", target=TargetConfig(share_of=("water",), unit=unit)))
        for unit in ("m", "")
    )
    assert metres.identity() == plain.identity()
    assert "unit" not in FinetuneRun().identity()["task"]["target"], "runs of before keep their names"
