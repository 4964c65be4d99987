"""A trained network over the scenes of a corpus: class maps, and their confusion with the labels."""

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import nn

from finetune.legend import Legend
from finetune.metrics import confusion_matrix
from finetune.mosaic import Predict, SceneTiles, class_strips
from infra.errors import UsageError
from pretrain.encoder import channels_last
from shards.manifest import Source
from shards.reader import Corpus
from shards.tile import Tile


def predictor(network: nn.Module, device: torch.device) -> Predict:
    """Give the network in evaluation mode as a function of arrays.

    Its weights are laid out one way, however it was trained or read: a model just trained and the same read from its
    file give the same digits.
    """
    channels_last(network.to(device).eval())

    def predict(codes: NDArray[np.uint16]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = network(torch.from_numpy(codes).to(device)).float().cpu().numpy()
        return logits

    return predict


def source_of(corpus: Corpus, scene: str) -> Source:
    """Find a scene in the manifest. Raises UsageError with the names that are there."""
    for source in corpus.manifest.sources:
        if source.id == scene:
            return source
    known = sorted(source.id for source in corpus.manifest.sources)
    raise UsageError(f"no scene {scene!r} in {corpus.store.url}; it has {', '.join(known[:12])}")


def scene_tiles(corpus: Corpus, scene: str) -> SceneTiles:
    """Open one scene of a corpus for reading by windows."""
    source = source_of(corpus, scene)
    tiles = corpus.select(scenes=[scene])
    rows = corpus.rows
    columns = (rows.window_row, rows.window_col, rows.window_rows, rows.window_cols)

    def load(n: int) -> Tile:
        return corpus.tile(int(tiles[n]))

    windows = np.stack([column[tiles] for column in columns], 1).astype(np.int64)
    return SceneTiles(source.shape, len(source.polarisations), windows, load)


def labelled_scenes(corpus: Corpus) -> list[str]:
    """Give the names of the scenes that have labels, sorted."""
    labelled = corpus.table["scene"].take(corpus.select(labelled=True))
    return sorted(str(name) for name in pc.unique(labelled).to_pylist())


def scene_confusion(
    predict: Predict, scene: SceneTiles, legend: Legend, *, size: int, overlap: int
) -> NDArray[np.int64]:
    """Count truth against prediction over a whole scene, every labelled pixel once, from its map."""
    classes = len(legend.ids)
    total = np.zeros((classes, classes), np.int64)
    for strip in class_strips(predict, scene, classes, size=size, overlap=overlap):
        truth = legend.to_output(scene.label(strip.row, 0, *strip.outputs.shape))
        total += confusion_matrix(truth, strip.outputs, classes)
    return total
