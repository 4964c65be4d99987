"""Frozen features: cells, probes beside scikit-learn, and the plane that the page shows."""

import gc
import io

import numpy as np
import pytest
import torch
from labelled_corpus import LEGEND, SCALE, SCENES, Scene, build
from matplotlib.figure import Figure
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from small_encoder import SmallEncoder

from finetune.bench_figures import _marks, planes
from finetune.bench_frozen import (
    Cells,
    Images,
    calibrated,
    calibration_batches,
    classify,
    draw_cells,
    features,
    held_out_images,
    logistic,
    make_image,
    plane,
    to_grid,
    training_images,
)
from finetune.bench_pictures import ERROR_COLOURS, Maps, errors, most_mixed, painted, png
from finetune.config import FinetuneRun, TaskConfig
from finetune.experiment import open_experiment
from finetune.legend import read_legend
from infra.errors import UsageError
from pretrain.config import InputSpec
from pretrain.encoder import ResNet, to_input
from pretrain.export import EncoderCard
from pretrain.probe import majority
from shards.tile import Tile

CARD = EncoderCard(
    method="random", depth=18, bands=2, input=InputSpec(bands=2), scale=SCALE, pixels_digest="", manifest_digest="",
    run_digest="", step=0,
)  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def task():
    build("memory://bench-frozen")
    return open_experiment("memory://bench-frozen", FinetuneRun(), lambda _: None, hold_out="beta,delta-held").task


@pytest.fixture
def points():
    """Three classes in five dimensions that overlap a little."""
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(3, 5)) * 1.5
    y = rng.integers(3, size=400)
    x = centres[y] + rng.normal(size=(400, 5)) * (1, 2, 1, 0.5, 3)
    return x[:300], y[:300], x[300:], y[300:]


def test_the_linear_probe_is_scikit_learns_logistic_regression(points):
    x, y, queries, truth = points
    scaler = StandardScaler().fit(x)
    l2 = 0.02
    oracle = LogisticRegression(C=1 / (len(x) * l2), max_iter=2000, tol=1e-10).fit(scaler.transform(x), y)
    wanted = oracle.predict(scaler.transform(queries))
    found = classify("linear", torch.tensor(x), torch.tensor(y), torch.tensor(queries), 0, l2)
    assert (found == wanted).mean() > 0.99
    assert (found == truth).mean() > 0.8
    many = scaler.transform(np.random.default_rng(4).normal(size=(5000, 5)) * 4)
    same = logistic(torch.tensor(scaler.transform(x)), torch.tensor(y), l2)(torch.tensor(many)).numpy()
    assert (same == oracle.predict(many)).mean() > 0.999


def test_a_class_that_is_not_there_is_never_found(points):
    x, y, queries, _ = (torch.tensor(part) for part in points)
    known = y != 1
    found = classify("linear", x[known], y[known], queries, 0, 0.01)
    assert set(found.tolist()) == {0, 2}


def test_the_neighbours_are_scikit_learns(points):
    x, y, queries, _ = points
    scaler = StandardScaler().fit(x)
    oracle = KNeighborsClassifier(7, metric="cosine").fit(scaler.transform(x), y)
    found = classify("knn", torch.tensor(x), torch.tensor(y), torch.tensor(queries), 7, 0.0)
    assert (found == oracle.predict(scaler.transform(queries))).all()


def test_the_plane_is_that_of_principal_components(points):
    x, _, queries, _ = points
    found, shares = plane(torch.tensor(x), torch.tensor(queries))
    oracle = PCA(2).fit(StandardScaler().fit(x).transform(queries))
    assert (shares["first"], shares["second"]) == pytest.approx(tuple(oracle.explained_variance_ratio_), rel=1e-5)
    wanted = oracle.transform(StandardScaler().fit(x).transform(queries))
    np.testing.assert_allclose(np.abs(found), np.abs(wanted), atol=1e-4)


def test_a_single_point_has_a_plane_too(points):
    found, shares = plane(torch.tensor(points[0]), torch.tensor(points[2][:1]))
    assert found.tolist() == [[0, 0]]
    picture = planes([("x", {"points": found, "classes": [1], "shares": shares})], read_legend(LEGEND, "c"))
    assert picture.startswith(b"\x89PNG")


def test_maps_of_all_stages_come_to_one_grid():
    fine = torch.arange(16.0).view(1, 1, 4, 4)
    assert to_grid(fine, (2, 2)).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert to_grid(fine, (4, 4)).equal(fine)
    assert to_grid(fine, (1, 1)).item() == 7.5
    coarse = torch.tensor([[[[0.0, 4.0]]]])
    assert to_grid(coarse, (2, 4))[0, 0, 0].tolist() == [0.0, 1.0, 3.0, 4.0]


def test_an_image_is_filled_up_and_its_cells_have_the_commonest_class():
    legend = read_legend(LEGEND, "c")
    codes = np.full((2, 40, 33), 900, np.uint16)
    codes[:, :16, :16] = 0
    label = np.ones((40, 33), np.uint8)
    label[:, :20] = 0
    image = make_image(codes, label, 16, legend, TaskConfig())
    assert image.codes.shape == (2, 64, 64)
    assert image.codes[:, 40:].max() == image.codes[:, :, 33:].max() == 0
    # Row 2 has 8 of 16 labelled rows, column 2 only one of 16 columns, and the first cell no data.
    assert image.classes.tolist() == [[255, 1, 255, 255], [0, 1, 255, 255], [0, 1, 255, 255], [255] * 4]
    whole = make_image(codes, label, 16, legend, TaskConfig(kind="classification"))
    assert whole.classes.tolist() == [[0]]


def test_held_out_cells_are_every_labelled_cell_once(task):
    found = Cells.of(held_out_images(task, 16, TaskConfig()))
    wanted = 0
    for scene in SCENES:
        if scene.id in task.held_out:
            wanted += int((majority(scene.label, (16, 16)) != 255).sum())
    assert len(found) == wanted > 80
    tiles = Cells.of(held_out_images(task, 16, TaskConfig(kind="classification")))
    assert len(tiles) == len(task.corpus.select(scenes=task.held_out))


def test_tiles_of_held_out_scenes_are_let_go():
    scenes = tuple(Scene(f"s{n}", n, (128, 128)) for n in range(1, 6))
    build("memory://bench-many", scenes, tile=32)
    opened = open_experiment("memory://bench-many", FinetuneRun(), lambda _: None, hold_out="s1,s2,s3,s4")
    images = held_out_images(opened.task, 16, TaskConfig())
    before, held = _tiles_in_memory(), []
    for number, _ in enumerate(images, start=1):
        if number % 16 == 0:
            held.append(_tiles_in_memory() - before)
    assert len(held) == 4
    assert max(held) <= 2 * 4, "two rows of the tiles of one scene, however many scenes there are"


def _tiles_in_memory() -> int:
    return sum(type(thing) is Tile for thing in gc.get_objects())


def test_cells_are_drawn_alike_for_every_encoder_and_from_the_tiles_alone(task):
    cells = Cells.of(training_images(task, 16, TaskConfig()))
    few, many = np.array([1, 4]), np.array([0, 1, 4, 6])
    drawn = draw_cells(cells, many, 40, (1, 0))
    assert len(drawn) == len(set(drawn.tolist())) == 40
    assert set(cells.image[drawn].tolist()) == set(many.tolist())
    assert (drawn == draw_cells(cells, many, 40, (1, 0))).all()
    assert (drawn != draw_cells(cells, many, 40, (1, 1))).any()
    inside = set(draw_cells(cells, few, 10**6, (1, 0)).tolist())
    assert inside < set(draw_cells(cells, many, 10**6, (1, 0)).tolist())
    assert inside >= {n for n in drawn.tolist() if cells.image[n] in few}


def test_statistics_of_batch_norm_are_those_of_the_images(task):
    torch.manual_seed(0)
    encoder = SmallEncoder(2)
    images = training_images(task, 16, TaskConfig())
    calibrated(encoder, calibration_batches(images, CARD, CPU))
    with torch.no_grad():
        maps = [
            encoder.stages[0](to_input(torch.from_numpy(image.codes.astype(np.int32))[None], SCALE, CARD.input))
            for image in images
        ]
    # The statistics are the mean over batches of 8, 8 and so on, which here are equally large but for the last.
    groups = [torch.cat(maps[n : n + 8]) for n in range(0, len(maps), 8)]
    wanted = torch.stack([group.mean((0, 2, 3)) for group in groups]).mean(0)
    torch.testing.assert_close(encoder.norms[0].running_mean, wanted)
    assert not encoder.training
    before = encoder.norms[0].running_mean.clone()
    encoder.norms[0].running_mean += 100
    calibrated(encoder, calibration_batches(images, CARD, CPU))
    torch.testing.assert_close(encoder.norms[0].running_mean, before)


def test_a_lone_image_of_one_cell_is_not_calibrated_on():
    image = make_image(np.full((2, 32, 32), 900, np.uint16), None, 16, read_legend(LEGEND, "c"), TaskConfig())
    shapes = [tuple(x.shape) for x in calibration_batches(Images(9, lambda n: image), CARD, CPU)]
    assert shapes == [(8, 2, 32, 32)]
    calibrated(ResNet(18, 2), calibration_batches(Images(9, lambda n: image), CARD, CPU))


def test_features_without_numbers_are_refused(task):
    encoder = SmallEncoder(2).eval()
    with torch.no_grad():
        encoder.stages[1].weight.fill_(torch.nan)
    images = training_images(task, 16, TaskConfig())
    cells = Cells.of(images).take(np.arange(3))
    assert features(encoder, CARD, images, cells, (1,), CPU)[1].shape == (3, 8)
    with pytest.raises(UsageError, match="features of stage 2, 3 are infinite or undefined"):
        features(encoder, CARD, images, cells, (1, 2, 3), CPU)


def test_features_stand_in_the_order_of_their_cells(task):
    torch.manual_seed(0)
    encoder = SmallEncoder(2).eval()
    images = training_images(task, 16, TaskConfig())
    cells = Cells.of(images)
    drawn = cells.take(draw_cells(cells, None, 25, (0,)))
    read: list[int] = []

    def load(n: int):
        read.append(n)
        return images.load(n)

    found = features(encoder, CARD, Images(images.count, load), drawn, (1, 3), CPU)
    assert {stage: tuple(x.shape) for stage, x in found.items()} == {1: (25, 8), 3: (25, 12)}
    assert read == sorted(set(drawn.image.tolist()))
    n, place = int(drawn.image[7]), int(drawn.place[7])
    with torch.no_grad():
        maps = encoder(to_input(torch.from_numpy(images.load(n).codes.astype(np.int32))[None], SCALE, CARD.input))
    row, col = divmod(place, 4)
    torch.testing.assert_close(found[3][7], maps[2][0, :, row, col])
    torch.testing.assert_close(found[1][7], maps[0][0, :, 4 * row : 4 * row + 4, 4 * col : 4 * col + 4].mean((1, 2)))


def test_an_encoder_that_failed_in_one_panel_stands_in_the_legend_all_the_same():
    few, all_of_them = Figure().subplots(1, 2)
    for axes, names in ((few, "a"), (all_of_them, "ab")):
        for name in names:
            axes.plot([0, 1], label=name)
    assert list(_marks([few, all_of_them])) == ["a", "b"]


def test_the_scene_that_is_shown_is_the_most_mixed_in_truth():
    plain, mixed = np.array([[90, 90], [1, 0]]), np.array([[50, 0], [20, 20]])
    assert most_mixed({"a": plain, "b": mixed, "c": plain}) == "b"
    assert most_mixed({"a": plain, "b": plain}) == "a"


def test_errors_are_painted_by_their_kind():
    truth = np.array([[0, 1, 0, 1, 2, 255]], np.uint8)
    predicted = np.array([[0, 1, 1, 0, 1, 1]], np.uint8)
    maps = Maps(np.full((1, 6), 200, np.uint8), truth, predicted)
    grey = [164, 164, 164]
    kinds = [list(ERROR_COLOURS[kind]) for kind in ("false alarm", "missed", "another class", "wrong")]
    assert errors(maps, 0)[0].tolist() == [grey, grey, *kinds[:3], grey]
    assert errors(maps, None)[0].tolist() == [grey, grey, *kinds[3:] * 3, grey]
    assert painted(truth, [(1, 2, 3), (4, 5, 6), (7, 8, 9)])[0, 4:].tolist() == [[7, 8, 9], [255, 255, 255]]
    with Image.open(io.BytesIO(png(truth, 4))) as picture:
        assert picture.size == (24, 4)
        assert np.asarray(picture)[::4, ::4].tolist() == truth.tolist()
