"""Fine-tuned models as files: safetensors with a card that says what they read, what they find, and how well."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from finetune.config import DecoderConfig
from finetune.legend import Legend
from finetune.segmenter import Segmenter
from infra.errors import UsageError
from infra.store import open_store, split_object
from pretrain.config import Frozen
from pretrain.encoder import ResNet
from pretrain.export import CARD, EncoderCard, read_header
from shards.reader import Corpus


class ModelCard(Frozen):
    """What a fine-tuned model is: its encoder (as it is now), its classes and heads, and where its scores are from.

    ``crop_px`` is the size of the squares it learned from, and of the windows it predicts. ``encoder_url`` is
    "random" where nothing was pretrained. ``scores`` are those on ``held_out``, which took no part in training.
    """

    format: Literal["sarsense-segmenter-1"] = "sarsense-segmenter-1"
    encoder: EncoderCard
    encoder_url: str
    legend: Legend
    decoder: DecoderConfig
    crop_px: int
    pixels_digest: str
    manifest_digest: str
    run_digest: str
    seed: int
    trained_on: tuple[str, ...]
    held_out: tuple[str, ...]
    scores: dict[str, float | None]


def model_bytes(segmenter: Segmenter, card: ModelCard) -> bytes:
    """Encode a model and its card; the same input gives the same bytes."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in segmenter.state_dict().items()}
    return save(tensors, metadata={CARD: card.model_dump_json()})


def load_model(url: str) -> tuple[Segmenter, ModelCard]:
    """Read a model (in evaluation mode, on the CPU) and its card. Raises UsageError for anything else."""
    root, key = split_object(url)
    return model_of(open_store(root).get(key), url)


def model_of(data: bytes, name: str) -> tuple[Segmenter, ModelCard]:
    """Decode what ``model_bytes`` made; ``name`` is for the message. Nothing in the bytes is ever executed."""
    try:
        card = ModelCard.model_validate_json(read_header(data)[CARD])
        segmenter = build(ResNet(card.encoder.depth, card.encoder.bands), card.encoder, card.legend, card.decoder)
        segmenter.load_state_dict(load(data))
    except (ValueError, KeyError, AttributeError, RuntimeError, ValidationError, SafetensorError) as error:
        raise UsageError(
            f"{name} is not a fine-tuned model of this project ({_short(error)}): expected model.safetensors as"
            " `finetune train` leaves it; pickled checkpoints are never opened"
        ) from error
    return segmenter.eval(), card


def build(encoder: ResNet, card: EncoderCard, legend: Legend, decoder: DecoderConfig) -> Segmenter:
    """Put a new head on an encoder."""
    return Segmenter(encoder, len(legend.ids), decoder, card.scale, card.input)


def check_pixels(pixels_digest: str, what: str, corpus: Corpus) -> None:
    """Refuse pixels that were made by another recipe than those the weights know (UsageError naming both).

    An empty digest is a network that never saw stored pixels (published weights): it takes any.
    """
    found = corpus.manifest.pixels_digest
    if pixels_digest not in ("", found):
        raise UsageError(
            f"{what} learned from pixels {pixels_digest[:12]}, corpus {corpus.store.url} has pixels {found[:12]}: "
            "the recipes differ in calibration, speckle filter or scale; "
            "build the corpus again with the recipe of the pretraining corpus"
        )


def check_bands(bands: int, scenes: Mapping[str, tuple[str, ...]], what: str) -> None:
    """Refuse scenes with another number of bands (UsageError naming the first); ``scenes`` -> polarisations."""
    for scene, names in scenes.items():
        if len(names) != bands:
            raise UsageError(
                f"{what} reads {bands} band{'s' if bands > 1 else ''}, scene {scene} has {len(names)} "
                f"({', '.join(names)}): use scenes with the same bands"
            )


def check_legend(known: Legend, found: Legend, corpus: str) -> None:
    """Refuse labels whose ids mean other classes than those the model knows (UsageError naming both)."""
    ours, theirs = dict(zip(known.ids, known.names, strict=True)), dict(zip(found.ids, found.names, strict=True))
    if ours != theirs:
        raise UsageError(f"the model knows the classes {ours}, corpus {corpus} has {theirs}: they cannot be compared")


def _short(error: Exception) -> str:
    text: Any = str(error).splitlines()
    return f"{type(error).__name__}: {text[0][:160]}" if text else type(error).__name__
