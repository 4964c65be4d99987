"""What frozen features know of labelled ground: cells of every stage, neighbours, and a linear probe."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from finetune.config import TaskConfig
from finetune.encoders import Encoder
from finetune.legend import IGNORED, Legend
from finetune.predict import scene_tiles
from finetune.start import Task
from finetune.targets import tile_class
from infra.errors import UsageError
from pretrain.encoder import STRIDES, to_input
from pretrain.export import EncoderCard
from pretrain.knn import nearest_classes
from pretrain.probe import majority
from shards.reader import Corpus
from shards.tile import NO_DATA

WHOLE = STRIDES[-1]
"""Images are filled up with no-data to whole cells of the last stage."""

CALIBRATION_IMAGES = 64

Calibrated = TypeVar("Calibrated", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Image:
    """Codes (bands, rows, cols) in whole cells of the last stage, and the class of each cell of a grid, 255 unknown.

    Of a tile that has one answer the grid is (1, 1).
    """

    codes: NDArray[np.uint16]
    classes: NDArray[np.uint8]


def make_image(
    codes: NDArray[np.uint16], label: NDArray[np.uint8] | None, cell_px: int, legend: Legend, task: TaskConfig
) -> Image:
    """Fill up codes and ids of classes, and give every cell its commonest class if half of it is labelled."""
    rows, cols = (-side % WHOLE for side in codes.shape[1:])
    given = np.full(codes.shape[1:], IGNORED, np.uint8) if label is None else legend.to_output(label)
    given[(codes == NO_DATA).all(0)] = IGNORED
    if task.tiles:
        classes = tile_class(torch.from_numpy(given)[None], legend, task).numpy().astype(np.uint8).reshape(1, 1)
    else:
        classes = majority(np.pad(given, ((0, rows), (0, cols)), constant_values=IGNORED), (cell_px, cell_px))
    return Image(np.pad(codes, ((0, 0), (0, rows), (0, cols)), constant_values=NO_DATA), classes)


@dataclass(frozen=True, slots=True)
class Images:
    """Images by number, read when they are asked for."""

    count: int
    load: Callable[[int], Image]

    def __iter__(self) -> Iterator[Image]:
        return map(self.load, range(self.count))


def training_images(task: Task, cell_px: int, config: TaskConfig) -> Images:
    """Give the tiles to learn from, in the order of ``training_tiles``."""
    tiles = task.training_tiles()

    def load(n: int) -> Image:
        tile = task.corpus.tile(int(tiles[n]))
        return make_image(tile.pixels, tile.label, cell_px, task.legend, config)

    return Images(len(tiles), load)


def held_out_images(task: Task, cell_px: int, config: TaskConfig) -> Images:
    """Give the held-out scenes in windows as large as the tiles, every pixel once; of tiles with one answer, those."""
    if config.tiles:
        held = Task(task.corpus, task.legend, task.held_out, task.train)
        return training_images(held, cell_px, config)
    side = _side(task.corpus)
    scenes = {name: scene_tiles(task.corpus, name) for name in task.held_out}
    windows = [
        (name, row, col, min(side, scene.shape[0] - row), min(side, scene.shape[1] - col))
        for name, scene in scenes.items()
        for row in range(0, scene.shape[0], side)
        for col in range(0, scene.shape[1], side)
    ]

    def load(n: int) -> Image:
        name, *window = windows[n]
        scene = scenes[name]
        image = make_image(scene.pixels(*window), scene.label(*window), cell_px, task.legend, config)
        for other in scenes.values():
            other.forget(window[0] if other is scene else other.shape[0])
        return image

    return Images(len(windows), load)


def _side(corpus: Corpus) -> int:
    largest = int(max(corpus.rows.rows.max(), corpus.rows.cols.max()))
    return -(-largest // WHOLE) * WHOLE


@dataclass(frozen=True, slots=True)
class Cells:
    """Labelled cells (n,) in the order of their images: which image, which place in its grid, which class."""

    image: NDArray[np.int64]
    place: NDArray[np.int64]
    classes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.image)

    @classmethod
    def of(cls, images: Iterable[Image]) -> "Cells":
        """Read the labelled cells of images."""
        parts = [np.zeros((3, 0), np.int64)]
        for number, image in enumerate(images):
            flat = image.classes.ravel()
            place = np.flatnonzero(flat != IGNORED)
            parts.append(np.stack([np.full(len(place), number), place, flat[place]]))
        return cls(*np.concatenate(parts, 1))

    def take(self, which: NDArray[np.int64]) -> "Cells":
        """Give some of them."""
        return Cells(self.image[which], self.place[which], self.classes[which])


def draw_cells(cells: Cells, images: NDArray[np.int64] | None, most: int, key: Sequence[int]) -> NDArray[np.int64]:
    """Draw at most so many cells, of some images or of all; gives their sorted numbers. The same for the same key."""
    inside = np.arange(len(cells)) if images is None else np.flatnonzero(np.isin(cells.image, images))
    luck = np.random.default_rng(list(key)).random(len(cells))[inside]
    return np.sort(inside[np.argsort(luck, kind="stable")[:most]])


@torch.no_grad()
def calibrated(encoder: Calibrated, inputs: Iterable[Tensor]) -> Calibrated:
    """Replace the running statistics of batch norm by those of images (n, bands, rows, cols), which need no labels."""
    norms = [part for part in encoder.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
        norm.train()
    if norms:
        for x in inputs:
            encoder(x)
    return encoder.eval()


def calibration_batches(images: Images, card: EncoderCard, device: torch.device, batch: int = 8) -> Iterator[Tensor]:
    """Give inputs of images chosen evenly, in batches of equal shapes.

    A lone image that is one cell of the last stage is left out: batch norm has no variance of one value.
    """
    chosen = np.unique(np.linspace(0, images.count - 1, min(images.count, CALIBRATION_IMAGES)).astype(np.int64))
    loaded = (images.load(int(n)).codes for n in chosen)
    for _, same in itertools.groupby(loaded, key=lambda codes: codes.shape):
        while group := list(itertools.islice(same, batch)):
            if len(group) > 1 or max(group[0].shape[1:]) > WHOLE:
                yield _input(np.stack(group), card, device)


def _input(codes: NDArray[np.uint16], card: EncoderCard, device: torch.device) -> Tensor:
    return to_input(torch.from_numpy(codes.astype(np.int32)).to(device), card.scale, card.input)


@torch.no_grad()
def features(
    encoder: Encoder, card: EncoderCard, images: Images, cells: Cells, stages: Sequence[int], device: torch.device
) -> dict[int, Tensor]:
    """Give the features (cells, channels) of each stage on the device; only images with such cells are read.

    Raises UsageError where they are infinite or undefined: neighbours would find some class all the same.
    """
    found: dict[int, list[Tensor]] = {stage: [] for stage in stages}
    numbers, first = np.unique(cells.image, return_index=True)
    for number, places in zip(numbers, np.split(cells.place, first[1:]), strict=True):
        image = images.load(int(number))
        maps = encoder(_input(image.codes[None], card, device))
        for stage in stages:
            grid = to_grid(maps[stage - 1], (image.classes.shape[0], image.classes.shape[1]))
            found[stage].append(grid[0].flatten(1).t()[torch.from_numpy(places).to(device)])
    whole = {stage: torch.cat(found.pop(stage)) for stage in stages}
    if wrong := [str(stage) for stage, x in whole.items() if not bool(torch.isfinite(x).all())]:
        raise UsageError(f"features of stage {', '.join(wrong)} are infinite or undefined: the weights are damaged")
    return whole


def to_grid(features: Tensor, shape: tuple[int, int]) -> Tensor:
    """Bring a map (n, channels, rows, cols) to a grid: the mean where that is coarser, bilinear where it is finer."""
    if features.shape[-2] >= shape[0]:
        return functional.adaptive_avg_pool2d(features, shape)
    return functional.interpolate(features, shape, mode="bilinear", align_corners=False)


def standardised(known: Tensor, *others: Tensor) -> list[Tensor]:
    """Bring features to mean 0 and deviation 1 by the first."""
    mean, deviation = known.mean(0), known.std(0, correction=0) + 1e-6
    return [(x - mean) / deviation for x in (known, *others)]


def logistic(x: Tensor, y: Tensor, l2: float, rounds: int = 200) -> Callable[[Tensor], Tensor]:
    """Fit a multinomial logistic regression to features (n, d) of classes (n,); gives a function to classes.

    Least mean cross-entropy + l2 / 2 times the squared weights, the biases free; from zero by L-BFGS, so that nothing
    is drawn.
    """
    present, target = torch.unique(y, return_inverse=True)
    weights = torch.zeros(x.shape[1], len(present), device=x.device, dtype=x.dtype, requires_grad=True)
    bias = torch.zeros(len(present), device=x.device, dtype=x.dtype, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights, bias], max_iter=rounds, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value: Tensor = functional.cross_entropy(x @ weights + bias, target) + l2 / 2 * weights.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimiser.step(loss)  # type: ignore[no-untyped-call]
    return lambda z: present[(z @ weights.detach() + bias.detach()).argmax(1)]


def classify(
    use: str, known: Tensor, classes: Tensor, queries: Tensor, neighbours: int, l2: float
) -> NDArray[np.uint8]:
    """Give the classes of queries by the named probe; features are standardised by the known ones."""
    known, queries = standardised(known, queries)
    if use == "knn":
        found = nearest_classes(known, classes, queries, neighbours)
    else:
        found = logistic(known, classes, l2)(queries)
    return found.cpu().numpy().astype(np.uint8)


def plane(known: Tensor, points: Tensor) -> tuple[NDArray[np.float64], Mapping[str, float]]:
    """Lay points on the two directions in which they spread most, standardised by the known ones; and their shares."""
    z = standardised(known, points)[1].double()
    z = z - z.mean(0)
    _, strength, directions = torch.linalg.svd(z, full_matrices=False)
    share = strength.square() / strength.square().sum().clamp(min=1e-12)
    # The sign of a direction means nothing: let the largest part point up.
    signs = torch.sign(directions[:2].gather(1, directions[:2].abs().argmax(1, keepdim=True)))
    placed = (z @ (directions[:2] * signs).t()).cpu().numpy()
    if placed.shape[1] < 2:  # a single point has no second direction
        placed = np.pad(placed, ((0, 0), (0, 1)))
    return placed, {"first": float(share[0]), "second": float(share[1]) if len(share) > 1 else 0.0}
