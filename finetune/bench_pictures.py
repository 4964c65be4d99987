"""Small pictures that units leave for the page: maps of one held-out scene, and features laid on a plane."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finetune.bench_units import Unit
from finetune.evaluate import Scorer
from finetune.legend import IGNORED
from finetune.mosaic import class_strips
from finetune.overlay import Quicklook
from finetune.predict import predictor, scene_tiles
from finetune.start import Task
from infra.record import canonical_json, digest
from infra.store import NotFound, Store

MOST_PX = 480
"""Pixels of a side of a map at most."""
MOST_POINTS = 1500
"""Cells that a plane of features shows at most."""


@dataclass(frozen=True, slots=True)
class Maps:
    """A held-out scene made small: grey 0..255, truth, prediction; the latter as output numbers, 255 unknown."""

    grey: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    predicted: NDArray[np.uint8]


def most_mixed(matrices: Mapping[str, NDArray[np.int64]]) -> str:
    """Give the scene whose true classes are mixed most (greatest entropy), the same whatever was predicted."""

    def entropy(name: str) -> float:
        counts = matrices[name].sum(1)
        shares = counts[counts > 0] / max(int(counts.sum()), 1)
        return float(-(shares * np.log(shares)).sum())

    return max(sorted(matrices), key=entropy)


def put_maps(store: Store, unit: Unit, task: Task, scorer: Scorer, name: str) -> None:
    """Map a held-out scene, and put it as three PNGs, of which two are the same for every encoder."""
    scene = scene_tiles(task.corpus, name)
    quick = Quicklook(scene.shape, MOST_PX)
    step = slice(quick.factor // 2, None, quick.factor)
    rows: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]] = []
    strips = class_strips(
        predictor(scorer.network, scorer.device),
        scene,
        len(scorer.legend.ids),
        size=scorer.size,
        overlap=scorer.size // 4,
    )
    for strip in strips:
        quick.add(strip)
        truth = scorer.legend.to_output(scene.label(strip.row, 0, *strip.outputs.shape))
        kept = np.arange(strip.row, strip.row + len(truth)) % quick.factor == quick.factor // 2
        rows.append((truth[kept][:, step], strip.outputs[kept][:, step]))
    truth, predicted = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    grey = np.nan_to_num(quick.grey() * 255, nan=0).astype(np.uint8)[: len(truth), : truth.shape[1]]
    place = _place(task.corpus.manifest.digest, name)
    for key, image in ((f"{place}.sar", grey), (f"{place}.truth", truth), (unit.digest, predicted)):
        store.put(f"pictures/{key}.png", png(image))


def read_maps(store: Store, unit: Unit, manifest: str, scene: str) -> Maps | None:
    """Read what ``put_maps`` put; None where it is not there."""
    place = _place(manifest, scene)
    try:
        return Maps(*(_read(store, name) for name in (f"{place}.sar", f"{place}.truth", unit.digest)))
    except NotFound:
        return None


def put_embedding(
    store: Store, unit: Unit, points: NDArray[np.float64], shares: Mapping[str, float], classes: NDArray[np.int64]
) -> None:
    """Put the points (n, 2) of a plane with their classes."""
    record = {"points": points.round(4).tolist(), "classes": classes.tolist(), "shares": dict(shares)}
    store.put(embedding_key(unit), canonical_json(record))


def embedding_key(unit: Unit) -> str:
    """Give the object of a unit's plane."""
    return f"pictures/{unit.digest}.plane.json"


def errors(maps: Maps, background: int | None) -> NDArray[np.uint8]:
    """Paint what is wrong on the grey picture, (rows, cols, 3) uint8.

    With a background class: missed (red), found where nothing is (yellow), another class (magenta); else all red.
    """
    image = np.repeat((maps.grey // 2 + 64)[..., None], 3, 2)
    known = (maps.truth != IGNORED) & (maps.predicted != IGNORED)
    wrong = known & (maps.truth != maps.predicted)
    if background is None:
        image[wrong] = ERROR_COLOURS["wrong"]
        return image
    image[wrong] = ERROR_COLOURS["another class"]
    image[wrong & (maps.predicted == background)] = ERROR_COLOURS["missed"]
    image[wrong & (maps.truth == background)] = ERROR_COLOURS["false alarm"]
    return image


ERROR_COLOURS = {
    "missed": (230, 40, 40),
    "false alarm": (255, 190, 0),
    "another class": (220, 40, 220),
    "wrong": (230, 40, 40),
}


def painted(outputs: NDArray[np.uint8], colours: list[tuple[int, int, int]]) -> NDArray[np.uint8]:
    """Give output numbers their colours, unknown ones white: (rows, cols, 3)."""
    table = np.full((256, 3), 255, np.uint8)
    table[: len(colours)] = colours
    return table[outputs]


def png(image: NDArray[np.uint8], least: int = 1) -> bytes:
    """Encode a picture (rows, cols) or (rows, cols, 3), enlarged by a whole number to at least ``least`` rows."""
    times = -(-least // len(image))
    out = io.BytesIO()
    Image.fromarray(image.repeat(times, 0).repeat(times, 1)).save(out, format="PNG", optimize=True)
    return out.getvalue()


def _read(store: Store, name: str) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(store.get(f"pictures/{name}.png"))) as file:
        found: NDArray[np.uint8] = np.asarray(file)
        return found


def _place(manifest: str, scene: str) -> str:
    key: Any = [manifest, scene]
    return digest(key)[:32]
