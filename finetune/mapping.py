"""One scene of a corpus through a fine-tuned model: the map, its legend and its picture."""

from dataclasses import dataclass
from pathlib import Path

import torch

from finetune.legend import Legend
from finetune.map import MapReport, Place, legend_path, read_small, write_map
from finetune.model import ModelCard, check_bands, check_pixels, load_model
from finetune.mosaic import class_strips
from finetune.overlay import Quicklook, draw_overlay
from finetune.predict import predictor, scene_tiles, source_of
from infra.errors import ResourceError, UsageError
from shards.manifest import Source
from shards.reader import Corpus


@dataclass(frozen=True, slots=True)
class Mapped:
    """What was written, and whether the scene has a place on the ground."""

    report: MapReport
    legend: Legend
    legend_path: Path
    picture: Path
    placed: bool


def map_scene(
    model: str,
    data: str,
    scene: str,
    out: Path,
    picture: Path | None,
    window: int | None,
    overlap: int | None,
    device: torch.device,
) -> Mapped:
    """Map a scene. Windows default to the model's crop, a quarter of which overlaps.

    Raises UsageError where model and corpus do not fit: other pixels, other bands, no such scene.
    """
    segmenter, card = load_model(model)
    corpus = Corpus.open(data)
    source = source_of(corpus, scene)
    check_pixels(card.pixels_digest, f"model {model}", corpus)
    check_bands(card.encoder.bands, {scene: tuple(source.polarisations)}, f"model {model}")
    size, overlap = _windows(card, window, overlap)
    look = Quicklook(source.shape)
    strips = class_strips(
        predictor(segmenter, device),
        scene_tiles(corpus, scene),
        len(card.legend.ids),
        size=size,
        overlap=overlap,
    )
    place = place_of(source)
    report = write_map(out, map(look.seen, strips), source.shape, card.legend, place, _tags(card, corpus, source))
    picture = picture or out.with_suffix(".png")
    grey = look.grey()
    title = f"{scene}  {source.polarisations[0]}  {source.time or ''}".strip()
    image = draw_overlay(grey, read_small(out, *grey.shape), card.legend, title)
    try:
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(image)
    except OSError as error:
        raise ResourceError(f"picture {picture} cannot be written: {error}") from error
    return Mapped(report, card.legend, legend_path(out), picture, place != Place())


def place_of(source: Source) -> Place:
    """Give where a scene of a manifest lies."""
    if source.grid is not None:
        return Place(epsg=source.grid.epsg, transform=source.grid.transform)
    return Place(ground=source.ground)


def _windows(card: ModelCard, window: int | None, overlap: int | None) -> tuple[int, int]:
    size = card.crop_px if window is None else window
    chosen = size // 4 if overlap is None else overlap
    if size < 32 or not 0 <= chosen < size:
        raise UsageError(
            f"window {size} with overlap {chosen}: expected at least 32 pixels and an overlap below the window"
        )
    return size, chosen


def _tags(card: ModelCard, corpus: Corpus, source: Source) -> dict[str, str]:
    return {
        "SCENE": source.id,
        "SCENE_FINGERPRINT": source.fingerprint,
        "SENSOR": source.sensor,
        "TIME": source.time or "",
        "POLARISATIONS": " ".join(source.polarisations),
        "MODEL_RUN": card.run_digest,
        "ENCODER": card.encoder_url,
        "MANIFEST": corpus.manifest.digest,
        "PIXELS": corpus.manifest.pixels_digest,
    }
