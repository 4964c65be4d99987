"""Fine-tuned models as files: safetensors with a card that says what they read, what they find, and how well."""

from collections.abc import Mapping
from typing import Any, Literal, cast

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from finetune.classifier import TileNet
from finetune.config import DecoderConfig, TaskConfig
from finetune.encoders import Encoder
from finetune.legend import Legend
from finetune.regressor import Regressor
from finetune.segmenter import Segmenter
from infra.errors import UsageError
from infra.store import open_store, split_object
from pretrain.config import Frozen
from pretrain.encoder import ResNet
from pretrain.export import CARD, EncoderCard, read_header
from shards.reader import Corpus

Network = Segmenter | TileNet | Regressor

RESNET = "ResNet"


class ModelCard(Frozen):
    """What a fine-tuned model is: its task, encoder (as it is now), classes and heads, and where its scores are from.

    ``crop_px`` is the size of the squares it learned from, and of the windows it predicts. ``encoder_url`` is
    "random" where nothing was pretrained. ``scores`` are those on ``held_out``, which took no part in training.
    ``validated_on`` are the scenes by which it was chosen among others, if it was. ``encoder_kind`` names the
    encoder's class where it is not our ResNet; ``encoder.depth`` says nothing then.
    The first format knew one task, segmentation, and one decoder, UperNet.
    """

    format: Literal["sarsense-segmenter-1", "sarsense-model-2"] = "sarsense-model-2"
    task: TaskConfig = TaskConfig()
    encoder: EncoderCard
    encoder_kind: str = RESNET
    encoder_url: str
    encoder_digest: str = ""
    legend: Legend
    decoder: DecoderConfig
    crop_px: int
    pixels_digest: str
    manifest_digest: str
    run_digest: str
    seed: int
    trained_on: tuple[str, ...]
    validated_on: tuple[str, ...] = ()
    held_out: tuple[str, ...]
    scores: dict[str, float | None]


def encoder_kind(encoder: nn.Module) -> str:
    """Name the class of an encoder, and that of its trunk where it has one."""
    if isinstance(encoder, ResNet):
        return RESNET
    trunk = getattr(encoder, "trunk", None)
    inner = getattr(trunk, "model", trunk)
    return type(encoder).__name__ + ("" if inner is None else f" over {type(inner).__name__}")


def model_bytes(network: Network, card: ModelCard) -> bytes:
    """Encode a model and its card, which gets the kind of the encoder; the same input gives the same bytes."""
    card = card.model_copy(update={"encoder_kind": encoder_kind(cast(nn.Module, network.encoder))})
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    return save(tensors, metadata={CARD: card.model_dump_json()})


def load_network(url: str, encoder: Encoder | None = None) -> tuple[Network, ModelCard]:
    """Read a model of any task (in evaluation mode, on the CPU) and its card. Raises UsageError for anything else.

    ``encoder`` is an encoder of the card's kind and size, to be filled: only a ResNet is made from the card alone.
    """
    root, key = split_object(url)
    return model_of(open_store(root).get(key), url, encoder)


def model_of(data: bytes, name: str, encoder: Encoder | None = None) -> tuple[Network, ModelCard]:
    """Decode what ``model_bytes`` made; ``name`` is for the message. Nothing in the bytes is ever executed."""
    try:
        card = ModelCard.model_validate_json(read_header(data)[CARD])
        encoder = _encoder_for(card, name, encoder)
        network = build(encoder, card.encoder, card.legend, card.decoder, card.task)
        network.load_state_dict(load(data))
    except (ValueError, KeyError, AttributeError, RuntimeError, ValidationError, SafetensorError) as error:
        raise UsageError(
            f"{name} is not a fine-tuned model of this project ({_short(error)}): expected model.safetensors as"
            " `finetune train` leaves it; pickled checkpoints are never opened"
        ) from error
    return network.eval(), card


def _encoder_for(card: ModelCard, name: str, given: Encoder | None) -> Encoder:
    """Give what the weights of the encoder go into. Raises UsageError where it has to be given, or is another kind."""
    if given is None and card.encoder_kind == RESNET:
        return ResNet(card.encoder.depth, card.encoder.bands)
    if given is None:
        raise UsageError(
            f"{name} has an encoder of the kind {card.encoder_kind}, whose code does not come with this project: load"
            " it in Python with load_network(url, encoder=...), an encoder of that kind"
        )
    if (found := encoder_kind(cast(nn.Module, given))) != card.encoder_kind:
        raise UsageError(f"{name} has an encoder of the kind {card.encoder_kind}, it cannot fill one of {found}")
    return given


def build(
    encoder: Encoder,
    card: EncoderCard,
    legend: Legend,
    decoder: DecoderConfig,
    task: TaskConfig | None = None,
) -> Network:
    """Put a new head for a task (segmentation by default) on an encoder; ``legend`` has the task's classes."""
    task = task or TaskConfig()
    kind = TileNet if task.tiles else Segmenter
    outputs = 1 if task.kind == "regression" else len(legend.ids)
    network = kind(encoder, outputs, decoder, card.scale, card.input, task.dates)
    return Regressor(network) if task.kind == "regression" else network


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
