"""Scenes of a corpus through a fine-tuned model: map of classes or numbers, and what goes with it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from finetune.areas import Place
from finetune.change import pair_scene
from finetune.legend import Legend
from finetune.map import (
    MapReport,
    ValueReport,
    legend_path,
    read_small,
    read_small_values,
    write_map,
    write_values,
)
from finetune.map_item import map_item, value_item
from finetune.model import ModelCard, check_bands, check_pixels, model_of
from finetune.mosaic import SceneTiles, class_strips
from finetune.overlay import Quicklook, draw_overlay, draw_values
from finetune.predict import predictor, scene_tiles, source_of
from finetune.preview import map_page, value_page
from finetune.regressor import Regressor
from finetune.segmenter import Segmenter
from finetune.value_strips import value_strips
from finetune.vectors import Kind, VectorDials, file_words, parse_wanted, write_vectors
from infra.errors import ResourceError, UsageError
from infra.record import sha256
from infra.store import open_store, split_object
from shards.manifest import Source
from shards.reader import Corpus


@dataclass(frozen=True, slots=True)
class MapDials:
    """How scenes are mapped: windows in pixels (None: the model's crop, a quarter of which overlaps), and what is made.

    ``margin`` pixels of a window's edges do not count, ``vectors`` is such as ``water=polygon,road=line``. A model of
    change needs the earlier scene of the same grid, ``before``.
    """

    before: str | None = None
    window: int | None = None
    overlap: int | None = None
    margin: int = 0
    confidence: bool = True
    vectors: str = ""
    shapes: VectorDials = field(default_factory=VectorDials)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model with its card, where it lies, and the SHA-256 of its file."""

    network: Segmenter | Regressor
    card: ModelCard
    url: str
    digest: str

    @classmethod
    def open(cls, url: str) -> "LoadedModel":
        """Read a model of land classes, their change, or a number of pixels. Raises UsageError for anything else."""
        root, key = split_object(url)
        data = open_store(root).get(key)
        network, card = model_of(data, url)
        if card.task.tiles or not isinstance(network, Segmenter | Regressor):
            raise UsageError(
                f"model {url} is of the task {card.task.kind} of tiles, one answer for each, so there is nothing to"
                " map: expected a model of pixels (segmentation, regression, change)"
            )
        return cls(network, card, url, sha256(data))


@dataclass(frozen=True, slots=True)
class Mapped:
    """What was written: ``files`` by name (map, legend, confidence, preview, page, item, vectors_<class>).

    A map of numbers has no legend. ``shapes`` counts polygons or lines by class name, ``placed`` says whether the
    scene has a place on the ground.
    """

    scene: str
    report: MapReport | ValueReport
    legend: Legend | None
    files: dict[str, Path]
    placed: bool
    shapes: dict[str, int] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether the scene holds no data."""
        return (self.report.mean if isinstance(self.report, ValueReport) else self.report.confidence) is None


def check_scenes(model: LoadedModel, corpus: Corpus, scenes: list[str], dials: MapDials) -> None:
    """Refuse what cannot be mapped before anything is: other pixels, other bands, no such scene or class."""
    check_pixels(model.card.pixels_digest, f"model {model.url}", corpus)
    if (model.card.task.dates == 2) != (dials.before is not None):
        need = "needs an earlier scene (--before)" if dials.before is None else "takes one scene, without --before"
        raise UsageError(f"model {model.url} is of the task {model.card.task.kind}: it {need}")
    named = [*scenes, *([] if dials.before is None else [dials.before])]
    bands = {scene: tuple(source_of(corpus, scene).polarisations) for scene in named}
    check_bands(model.card.encoder.bands, bands, f"model {model.url}")
    if dials.vectors and model.card.task.kind == "regression":
        raise UsageError(f"model {model.url} gives numbers: there are no classes to outline, leave out --vectors")
    parse_wanted(dials.vectors, model.card.legend)
    _windows(model.card, dials)


def map_scene(
    model: LoadedModel,
    corpus: Corpus,
    scene: str,
    out: Path,
    device: torch.device,
    dials: MapDials | None = None,
    picture: Path | None = None,
) -> Mapped:
    """Map one scene: ``map.tif`` and beside it map.confidence.tif, .legend.json, .png, .html, .json, .<class>.parquet.

    A map of numbers has .png, .html and .json only. The STAC item comes last: where it is, everything is.
    Raises UsageError where model and corpus do not fit.
    """
    dials = dials or MapDials()
    check_scenes(model, corpus, [scene], dials)
    pictures = {"preview": picture or out.with_suffix(".png"), "page": out.with_suffix(".html")}
    if isinstance(model.network, Regressor):
        return _map_values(model, corpus, scene, out, device, dials, pictures)
    return _map_classes(model, corpus, scene, out, device, dials, pictures)


def _map_values(
    model: LoadedModel,
    corpus: Corpus,
    scene: str,
    out: Path,
    device: torch.device,
    dials: MapDials,
    pictures: Mapping[str, Path],
) -> Mapped:
    source = source_of(corpus, scene)
    place, lineage = place_of(source), lineage_of(model, corpus, source)
    look, unit = Quicklook(source.shape), model.card.task.target.unit
    size, overlap = _windows(model.card, dials)
    predict, tiles = predictor(model.network, device), scene_tiles(corpus, scene)
    strips = value_strips(predict, tiles, size=size, overlap=overlap, margin=dials.margin)
    report = write_values(out, map(look.seen, strips), source.shape, place, _tags(lineage, source), unit)
    files, grey, what = {"map": out, **pictures}, look.grey(), _what(source)
    image = draw_values(grey, read_small_values(out, *grey.shape), f"{source.id}  {what}", unit)
    _write(files["preview"], image)
    _write(files["page"], value_page(source.id, f"{source.sensor} {what}", image, report, lineage))
    _put_item(value_item(source, place, report, files, lineage, out.parent), files)
    return Mapped(scene, report, None, files, place.known)


def _map_classes(
    model: LoadedModel,
    corpus: Corpus,
    scene: str,
    out: Path,
    device: torch.device,
    dials: MapDials,
    pictures: Mapping[str, Path],
) -> Mapped:
    source, legend = source_of(corpus, scene), model.card.legend
    place, lineage = place_of(source), lineage_of(model, corpus, source)
    if dials.before is not None:
        lineage["scene_before"] = dials.before
    files = {"map": out, "legend": legend_path(out)}
    if dials.confidence:
        files["confidence"] = out.with_suffix(".confidence.tif")
    look = Quicklook(source.shape)
    size, overlap = _windows(model.card, dials)
    strips = class_strips(
        predictor(model.network, device),
        _tiles(model, corpus, scene, dials),
        len(legend.ids),
        size=size,
        overlap=overlap,
        margin=dials.margin,
    )
    tags = _tags(lineage, source)
    report = write_map(out, map(look.seen, strips), source.shape, legend, place, tags, files.get("confidence"))
    shapes = _vectors(out, legend, place, parse_wanted(dials.vectors, legend), dials.shapes, files)
    files |= pictures
    _draw(look, source, legend, report, lineage, shapes, files)
    _put_item(map_item(source, place, legend, report, files, lineage, out.parent), files)
    return Mapped(scene, report, legend, files, place.known, shapes)


def _put_item(item: Mapping[str, Any] | None, files: dict[str, Path]) -> None:
    if item is not None:
        files["item"] = files["map"].with_suffix(".json")
        _write(files["item"], (json.dumps(item, indent=1, ensure_ascii=False) + "\n").encode())


def _tiles(model: LoadedModel, corpus: Corpus, scene: str, dials: MapDials) -> SceneTiles:
    if dials.before is None:
        return scene_tiles(corpus, scene)
    return pair_scene(corpus, dials.before, scene, model.card.task.changed)


def place_of(source: Source) -> Place:
    """Give where a scene of a manifest lies."""
    if source.grid is not None:
        return Place(epsg=source.grid.epsg, transform=source.grid.transform)
    return Place(ground=source.ground)


def lineage_of(model: LoadedModel, corpus: Corpus, source: Source) -> dict[str, str]:
    """Name everything that a map comes from, as flat text; digests are 64 hex digits."""
    card = model.card
    return {
        "scene": source.id,
        "scene_fingerprint": source.fingerprint,
        "recipe": corpus.manifest.recipe_digest,
        "pixels": corpus.manifest.pixels_digest,
        "manifest": corpus.manifest.digest,
        "model": model.digest,
        "run": card.run_digest,
        "encoder": card.encoder_url,
        "encoder_run": card.encoder.run_digest,
        "trained_on_manifest": card.manifest_digest,
    }


def _vectors(
    out: Path, legend: Legend, place: Place, wanted: Mapping[str, Kind], dials: VectorDials, files: dict[str, Path]
) -> dict[str, int]:
    counts = {}
    ids, words = dict(zip(legend.names, legend.ids, strict=True)), file_words(legend)
    for name, kind in wanted.items():
        safe = words[name]
        path = files[f"vectors_{safe}"] = out.with_suffix(f".{safe}.parquet")
        counts[name] = write_vectors(path, out, ids[name], name, kind, place, dials)
    return counts


def _draw(
    look: Quicklook,
    source: Source,
    legend: Legend,
    report: MapReport,
    lineage: Mapping[str, str],
    shapes: Mapping[str, int],
    files: Mapping[str, Path],
) -> None:
    grey = look.grey()
    what = _what(source)
    image = draw_overlay(grey, read_small(files["map"], *grey.shape), legend, f"{source.id}  {what}")
    _write(files["preview"], image)
    _write(files["page"], map_page(source.id, f"{source.sensor} {what}", image, legend, report, lineage, shapes))


def _what(source: Source) -> str:
    return f"{source.polarisations[0]}  {source.time or ''}".strip()


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise ResourceError(f"{path} cannot be written: {error}") from error


def _windows(card: ModelCard, dials: MapDials) -> tuple[int, int]:
    size = card.crop_px if dials.window is None else dials.window
    overlap = size // 4 if dials.overlap is None else dials.overlap
    if size < 32 or not 0 <= overlap < size:
        raise UsageError(
            f"window {size} with overlap {overlap}: expected at least 32 pixels and an overlap below the window"
        )
    if not 0 <= 2 * dials.margin <= overlap:
        raise UsageError(f"margin {dials.margin}: expected at most half of the overlap, which is {overlap}")
    return size, overlap


def _tags(lineage: Mapping[str, str], source: Source) -> dict[str, str]:
    return {
        "SCENE": source.id,
        "SCENE_FINGERPRINT": source.fingerprint,
        "SENSOR": source.sensor,
        "TIME": source.time or "",
        "POLARISATIONS": " ".join(source.polarisations),
        "MODEL": lineage["model"],
        "MODEL_RUN": lineage["run"],
        "ENCODER": lineage["encoder"],
        "RECIPE": lineage["recipe"],
        "MANIFEST": lineage["manifest"],
        "PIXELS": lineage["pixels"],
    }
