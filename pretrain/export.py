"""Encoders as files: safetensors with a card that says what the input must be."""

import io
import json
import pickle
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from infra.errors import UsageError
from infra.store import Store, open_store, split_object
from pretrain.config import Depth, Frozen, InputSpec
from pretrain.encoder import ResNet, adapt_bands
from pretrain.published import encoder_tensors
from shards.tile import DbScale

CARD = HEADER = "sarsense"
"""The one entry of the text metadata of every safetensors object of this project."""


class EncoderCard(Frozen):
    """What an encoder is, what it reads, and where it comes from. Digests are 64 hex digits, or "" where unknown."""

    format: Literal["sarsense-encoder-1"] = "sarsense-encoder-1"
    method: str
    depth: Depth
    bands: int
    input: InputSpec
    scale: DbScale
    pixels_digest: str
    manifest_digest: str
    run_digest: str
    step: int


def save_encoder(store: Store, key: str, encoder: ResNet, card: EncoderCard) -> None:
    """Put an encoder with its card as one object."""
    store.put(key, encoder_bytes(encoder, card))


def load_encoder(url: str) -> tuple[ResNet, EncoderCard]:
    """Read an encoder (in evaluation mode, on the CPU) and its card.

    Raises UsageError where the object is not an encoder of this project.
    """
    root, key = split_object(url)
    return encoder_of(open_store(root).get(key), url)


def encoder_bytes(encoder: ResNet, card: EncoderCard) -> bytes:
    """Encode an encoder and its card; the same input gives the same bytes."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}
    return save(tensors, metadata={HEADER: card.model_dump_json()})


def encoder_of(data: bytes, name: str) -> tuple[ResNet, EncoderCard]:
    """Decode what ``encoder_bytes`` made; ``name`` is for the message."""
    try:
        card = EncoderCard.model_validate_json(read_header(data)[HEADER])
        encoder = ResNet(card.depth, card.bands)
        encoder.load_state_dict(load(data))
    except (ValueError, KeyError, RuntimeError, ValidationError, SafetensorError) as error:
        raise UsageError(
            f"{name} is not an encoder of this project ({error}): expected encoder.safetensors as"
            " `pretrain` leaves it beside its checkpoints"
        ) from error
    return encoder.eval(), card


def read_header(data: bytes) -> dict[str, Any]:
    """Read the text metadata of safetensors bytes without its tensors. Raises ValueError where there is none."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise ValueError("the file ends inside its header")
    header: dict[str, Any] = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    return header


def load_weights(encoder: ResNet, path: str) -> None:
    """Fill an encoder from a local file of torchvision-named weights (safetensors or .pth); bands are adapted.

    Published checkpoints of DI3CL and MoCo give their query side's encoder. A classifier in the file is left out.
    Raises UsageError where the file is missing or fits another network.
    """
    state = encoder_tensors(read_weights(path))
    try:
        source = ResNet(encoder.depth, state["conv1.weight"].shape[1])
        source.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        raise UsageError(f"{path} does not hold the weights of a ResNet-{encoder.depth}: {error}") from error
    if source.bands != encoder.bands:
        source = adapt_bands(source, encoder.bands)
    encoder.load_state_dict(source.state_dict())


def read_weights_file(path: str) -> bytes:
    """Read a local weights file. Raises UsageError where it is not there."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the weights {path}: {error.strerror} (--encoder.weights)") from None


def read_weights(path: str) -> dict[str, torch.Tensor]:
    """Read the tensors of a local file (.safetensors, or .pth without code). Raises UsageError where it has none."""
    data = read_weights_file(path)
    try:
        if path.endswith(".safetensors"):
            return load(data)
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return dict(found.get("state_dict", found))
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError, AttributeError) as error:
        raise UsageError(f"{path} holds no plain tensors ({error}): expected .safetensors or .pth weights") from error
