"""Everything that can be scored of a segmentation in one pass over the scenes: classes, contours, centre lines."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.contours import LineScore, Matched, boundary_match_rows
from finetune.evaluate import Scorer, scored_scenes
from finetune.fit import require_labels
from finetune.legend import IGNORED, Legend
from finetune.metrics import Scores, confusion_matrix, scores
from finetune.model import ModelCard, Network, check_bands, check_legend, check_pixels
from finetune.mosaic import Predict, SceneTiles, class_strips
from finetune.predict import predictor
from finetune.segmenter import Segmenter
from finetune.targets import task_legend
from infra.errors import UsageError
from shards.reader import Corpus


@dataclass(frozen=True, slots=True)
class ContourDials:
    """What is scored beside classes: contours within ``boundary_px``, centre lines of a class within ``buffer_px``."""

    boundary_px: float | None = None
    lines: str | None = None
    buffer_px: float = 3.0

    def check(self, legend: Legend) -> None:
        """Raise UsageError for a class that the legend does not have, or distances below 0."""
        if self.lines is not None and self.lines not in legend.names:
            raise UsageError(f"no class {self.lines!r} with lines: there are {', '.join(legend.names)}")
        for name, value in (("boundary", self.boundary_px), ("buffer", self.buffer_px)):
            if value is not None and not 0 <= value <= 100:
                raise UsageError(f"{name} of {value} pixels: expected 0 to 100")


@dataclass(frozen=True, slots=True)
class SceneScore:
    """Counts of one or more scenes; they add up."""

    matrix: NDArray[np.int64]
    contours: tuple[Matched, ...] = ()
    line: Matched = field(default_factory=Matched)

    def __add__(self, other: "SceneScore") -> "SceneScore":
        contours = tuple(a + b for a, b in zip(self.contours, other.contours, strict=True))
        return SceneScore(self.matrix + other.matrix, contours, self.line + other.line)

    def classes(self, legend: Legend) -> Scores:
        """Give the scores of the classes."""
        return scores(self.matrix, legend)

    def flat(self, legend: Legend, dials: ContourDials) -> dict[str, float | None]:
        """Give every number under one name; what is undefined is None.

        Beside those of ``Scores.flat``: ``boundary_f1/<class>`` and their mean ``boundary_f1``, and
        ``completeness/<class>``, ``correctness/<class>``, ``quality/<class>`` of lines.
        """
        numbers: dict[str, float] = {}
        if self.contours:
            each = {f"boundary_f1/{n}": m.f1 for n, m in zip(legend.names, self.contours, strict=True)}
            defined = [value for value in each.values() if not math.isnan(value)]
            numbers |= {"boundary_f1": float(np.mean(defined)) if defined else math.nan, **each}
        if dials.lines is not None:
            for name in ("completeness", "correctness", "quality"):
                numbers[f"{name}/{dials.lines}"] = getattr(self.line, name)
        shown = {name: None if math.isnan(value) else value for name, value in numbers.items()}
        return {**self.classes(legend).flat(), **shown}


def score_scene(
    predict: Predict, scene: SceneTiles, legend: Legend, dials: ContourDials, *, size: int, overlap: int
) -> SceneScore:
    """Predict a scene once and count classes, contours and lines; every labelled pixel counts once."""
    classes = len(legend.ids)
    matrix = np.zeros((classes, classes), np.int64)
    line = None if dials.lines is None else LineScore(legend.names.index(dials.lines), dials.buffer_px)

    def rows() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        nonlocal matrix
        for strip in class_strips(predict, scene, classes, size=size, overlap=overlap):
            truth = legend.to_output(scene.label(strip.row, 0, *strip.outputs.shape))
            truth[strip.outputs == IGNORED] = IGNORED  # not measured: nothing could be found there
            matrix += confusion_matrix(truth, strip.outputs, classes)
            if line is not None:
                line.add(truth, strip.outputs)
            yield truth, strip.outputs

    contours: tuple[Matched, ...] = ()
    if dials.boundary_px is not None:
        contours = tuple(boundary_match_rows(rows(), classes, dials.boundary_px))
    else:
        for _ in rows():
            pass
    return SceneScore(matrix, contours, line.finish() if line is not None else Matched())


def score_scenes(
    predict: Predict, scenes: Mapping[str, SceneTiles], legend: Legend, dials: ContourDials, *, size: int
) -> tuple[SceneScore, dict[str, SceneScore]]:
    """Score whole scenes: all together, and each by itself. Windows overlap by a quarter."""
    dials.check(legend)
    each = {n: score_scene(predict, s, legend, dials, size=size, overlap=size // 4) for n, s in scenes.items()}
    first, *others = each.values()
    return sum(others, first), each


def score_model(
    network: Network,
    card: ModelCard,
    url: str,
    corpus: Corpus,
    legend: Legend,
    names: Sequence[str],
    dials: ContourDials,
    device: torch.device,
) -> tuple[dict[str, float | None], dict[str, dict[str, float | None]]]:
    """Score a model of any task on labelled scenes of a corpus: flat numbers of all together, and of each scene.

    Pixel classes have ``pixels``, too. Raises UsageError where model and corpus do not fit.
    """
    check_pixels(card.pixels_digest, f"model {url}", corpus)
    check_bands(card.encoder.bands, require_labels(corpus, names), f"model {url}")
    if card.task.kind != "regression":
        check_legend(card.legend, task_legend(legend, card.task), corpus.store.url)
    scenes = scored_scenes(corpus, card.task, names)
    if not scenes:
        raise UsageError(f"none of {', '.join(names)} is the later scene of a pair that the model knows")
    if isinstance(network, Segmenter):
        total, each = score_scenes(predictor(network, device), scenes, card.legend, dials, size=card.crop_px)
        flat = {n: s.flat(card.legend, dials) for n, s in each.items()}
        return {"pixels": int(total.matrix.sum()), **total.flat(card.legend, dials)}, flat
    if dials.boundary_px is not None or dials.lines is not None:
        raise UsageError(f"a model of the task {card.task.kind} draws no contours: leave out --boundary and --lines")
    overall, by_scene = Scorer(network, card.task, card.legend, legend, card.crop_px, device).score(scenes)
    return overall.flat(), {name: result.flat() for name, result in by_scene.items()}


def seen_before(card: ModelCard, names: Sequence[str], *, whole: bool) -> Iterator[str]:
    """Say which scenes the model knows already; ``whole``: every tile of them is scored.

    The card names parts of a scene as ``<scene>@<part>`` (see ``finetune.splits``).
    """
    for known, part, words in (
        (card.trained_on, "train", "the model learned from {}: these scores say nothing about new scenes"),
        (card.validated_on, "validate", "the model was chosen by its scores on {}: they flatter"),
    ):
        parts = {one.removesuffix(f"@{part}") for one in known if one.endswith(f"@{part}")}
        if seen := sorted(set(names) & (parts | set(known) if whole else set(known))):
            yield "warning: " + words.format(", ".join(seen))
        elif seen := sorted(set(names) & parts):
            yield f"the {part} part of the model has tiles of {', '.join(seen)}, too: they must not be among these"
