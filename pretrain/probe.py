"""What the frozen encoder knows of labelled ground: nearest neighbours among cells or tiles of other scenes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infra.errors import UsageError
from infra.record import sha256
from pretrain.config import InputSpec
from pretrain.encoder import STRIDES, ResNet, match_bands, to_input
from pretrain.knn import nearest_classes, scores
from pretrain.watch_config import WatchConfig
from shards.reader import Corpus
from shards.tile import NO_DATA, Tile

UNLABELLED = 255
CELLS = 64
"""Most cells of a tile that are probed."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A labelled tile ready for the probe: codes (1, bands, rows, cols), which cells of the map count, their classes.

    ``half`` tells on which side of the split its scene is.
    """

    codes: Tensor
    cells: Tensor
    classes: Tensor
    half: bool


class Probe:
    """Classifies labelled ground by nearest neighbours in the features of an encoder that stays as it is.

    Scenes are dealt to two halves; each half is classified from the other, so no scene helps itself.
    """

    def __init__(self, corpus: Corpus, config: WatchConfig, spec: InputSpec, *, one_band: bool) -> None:
        self._config, self._spec, self._scale = config, spec, corpus.scale
        self._samples = read_samples(corpus, config, one_band=one_band)

    @torch.no_grad()
    def __call__(self, encoder: ResNet, device: torch.device) -> dict[str, float]:
        """Give accuracy, macro-F1 and the share of the largest class (what a blind guess reaches)."""
        parts = [self._features(encoder, sample, device) for sample in self._samples]
        features = torch.cat(parts).float()
        classes = torch.cat([s.classes for s in self._samples]).to(device)
        half = torch.cat([torch.full_like(s.classes, s.half, dtype=torch.bool) for s in self._samples]).to(device)
        predicted = torch.empty_like(classes)
        for side in (half, ~half):
            predicted[side] = nearest_classes(features[~side], classes[~side], features[side], self._config.probe_k)
        accuracy, f1 = scores(classes, predicted)
        chance = float(torch.bincount(classes).max()) / len(classes)
        return {"probe_accuracy": accuracy, "probe_macro_f1": f1, "probe_chance": chance}

    def _features(self, encoder: ResNet, sample: Sample, device: torch.device) -> Tensor:
        x = match_bands(to_input(sample.codes.to(device), self._scale, self._spec), encoder.bands)
        found: Tensor = encoder(x)[self._config.probe_stage - 1][0]
        if self._config.probe_of == "tile":
            return found.mean((1, 2)).unsqueeze(0)
        return found.flatten(1).t()[sample.cells.to(device)]


def read_samples(corpus: Corpus, config: WatchConfig, *, one_band: bool) -> list[Sample]:
    """Read the labelled tiles of a probe, evenly over the corpus. Raises UsageError where they teach nothing."""
    numbers = corpus.select(labelled=True)
    name = f"{corpus.store.url} (--watch.probe)"
    if not len(numbers):
        raise UsageError(f"{name} has no labelled tile: expected a corpus built with labels")
    chosen = numbers[np.linspace(0, len(numbers) - 1, min(config.probe_tiles, len(numbers))).astype(np.int64)]
    tiles = [corpus.tile(int(i)) for i in chosen]
    side = halves([str(t.meta["scene"]) for t in tiles])
    samples = [sample_of(t, config, half=bool(h), one_band=one_band) for t, h in zip(tiles, side, strict=True)]
    kept = [s for s in samples if s is not None]
    if len({s.half for s in kept}) < 2:
        raise UsageError(f"{name}: its labelled tiles are of one scene, expected two or more, to score one by another")
    seen = sorted({int(c) for s in kept for c in torch.unique(s.classes)})
    if len(seen) < 2:
        raise UsageError(f"{name}: all its labels are of class {seen[0]}, expected two classes or more")
    return kept


def halves(scenes: Sequence[str]) -> NDArray[np.bool_]:
    """Deal scenes to two halves, in the order of a hash of their names; gives the half of each entry."""
    order = sorted(set(scenes), key=lambda scene: sha256(scene.encode()))
    return np.array([order.index(scene) % 2 == 1 for scene in scenes])


def sample_of(tile: Tile, config: WatchConfig, *, half: bool, one_band: bool) -> Sample | None:
    """Make a tile's sample, cut to whole cells of the last stage; None where too little of it is labelled."""
    rows, cols = (side // STRIDES[-1] * STRIDES[-1] for side in tile.pixels.shape[1:])
    if not rows or not cols or tile.label is None:
        return None
    codes = np.ascontiguousarray(tile.pixels[: 1 if one_band else None, :rows, :cols])
    label = np.where((codes == NO_DATA).all(0), UNLABELLED, tile.label[:rows, :cols])
    whole = config.probe_of == "tile"
    classes = majority(label, (rows, cols) if whole else (STRIDES[config.probe_stage - 1],) * 2).ravel()
    labelled = np.flatnonzero(classes != UNLABELLED)
    if not len(labelled):
        return None
    cells = labelled[np.linspace(0, len(labelled) - 1, min(CELLS, len(labelled))).astype(np.int64)]
    return Sample(torch.from_numpy(codes)[None], torch.from_numpy(cells), torch.from_numpy(classes[cells]).long(), half)


def majority(label: NDArray[np.uint8], cell: tuple[int, int]) -> NDArray[np.uint8]:
    """Give the commonest class of each cell of (height, width) pixels; 255 where less than half is labelled."""
    height, width = cell
    blocks = label.reshape(label.shape[0] // height, height, label.shape[1] // width, width)
    classes = np.unique(label[label != UNLABELLED])
    if not len(classes):
        return np.full((blocks.shape[0], blocks.shape[2]), UNLABELLED, np.uint8)
    counts = np.stack([(blocks == c).sum((1, 3)) for c in classes])
    found = classes[counts.argmax(0)].astype(np.uint8)
    return np.where(2 * counts.sum(0) >= height * width, found, np.uint8(UNLABELLED)).astype(np.uint8)
