"""Encoders to fine-tune: what they must give, and how published weights become one."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from finetune.checkpoints import read_tensors
from infra.errors import UsageError
from infra.store import NotFound, Store, open_store, split_object
from pretrain.config import Depth, InputSpec
from pretrain.encoder import BLOCKS, ResNet
from pretrain.export import CARD, EncoderCard, encoder_of, read_header
from shards.tile import DbScale

PUBLISHED = "published"
"""The method of an encoder whose file says nothing of how it was learned."""

HF_WEIGHTS, HF_CONFIG = "model.safetensors", "config.json"
"""Objects of a folder of transformers."""

_PREFERRED = ("encoder_q", "online", "student")
_PROBE = "layer1.0.conv1.weight"


class Encoder(Protocol):
    """Four feature maps of an image, finest first; their usual strides are 4, 8, 16 and 32 pixels."""

    @property
    def channels(self) -> Sequence[int]:
        """Channels of the maps."""
        ...

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        """Give the maps of ``x`` (N, bands, H, W); a map of stride s has ceil(H / s) rows."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Give what can be trained."""
        ...


def date_features(encoder: Callable[[Tensor], Sequence[Tensor]], image: Tensor, dates: int) -> Sequence[Tensor]:
    """Give the feature maps of an image (N, dates * bands, H, W); of two dates, |first - second| of each map.

    Both dates go through the same encoder in one batch, so batch norm sees them alike.
    Source: Daudt et al., Fully Convolutional Siamese Networks for Change Detection, ICIP 2018 (FC-Siam-diff).
    """
    if dates == 1:
        return encoder(image)
    maps = encoder(torch.cat(image.chunk(dates, 1)))
    return [(x[: len(image)] - x[len(image) :]).abs() for x in maps]


def read_encoder(url: str, scale: DbScale) -> tuple[bytes, ResNet, EncoderCard]:
    """Read an encoder (in evaluation mode) and its card; gives the bytes of its file as well.

    ``url`` is an encoder of this project, a file of ResNet weights named as torchvision, timm or torchgeo name them
    (.safetensors, .pth, .pt, .bin), or a folder of transformers with a ResNet. Those have a card of their own with
    the default input and no pixels digest: they take any. Nothing is unpickled but plain tensors.
    Raises UsageError for anything else.
    """
    root, key = split_object(url.rstrip("/"))
    store = open_store(root)
    data = _read(store, key, url)
    if _has_card(data):
        return data, *encoder_of(data, url)
    encoder = resnet_of(read_tensors(data, url), url)
    card = EncoderCard(
        method=PUBLISHED,
        depth=cast(Depth, encoder.depth),
        bands=encoder.bands,
        input=InputSpec(bands=encoder.bands),
        scale=scale,
        pixels_digest="",
        manifest_digest="",
        run_digest="",
        step=0,
    )
    return data, encoder.eval(), card


def resnet_of(tensors: Mapping[str, Tensor], name: str) -> ResNet:
    """Make the ResNet whose weights a checkpoint holds, by their names and shapes; a classifier is left out.

    Raises UsageError where they are not those of a ResNet-18, 34, 50 or 101 with a 7x7 stem.
    """
    state = _named(tensors, name)
    depth = _depth(state, name)
    kernel = state.get("conv1.weight", torch.empty(0))
    if kernel.dim() != 4:
        raise UsageError(
            f"{name} is not an encoder that fits: its stem is not a 7x7 convolution (conv1.weight); only plain ResNets"
            " can be read"
        )
    encoder = ResNet(depth, int(kernel.shape[1]))
    ours = encoder.state_dict()
    for entry, value in ours.items():
        if entry.endswith("num_batches_tracked") and entry not in state:
            state[entry] = value  # left out by some; it changes nothing
    try:
        encoder.load_state_dict({entry: value for entry, value in state.items() if entry in ours})
    except RuntimeError as error:
        said = " ".join(str(error).split())[:200]
        raise UsageError(f"{name} is not an encoder: its weights do not fit a ResNet-{depth} ({said})") from error
    return encoder


def _read(store: Store, key: str, url: str) -> bytes:
    try:
        return store.get(key)
    except (NotFound, IsADirectoryError):
        pass
    try:
        _check_variant(store.get(f"{key}/{HF_CONFIG}"), url)
        return store.get(f"{key}/{HF_WEIGHTS}")
    except NotFound:
        raise UsageError(
            f"no encoder at {url}: expected a weights file, a folder with {HF_CONFIG} and {HF_WEIGHTS}, or the word"
            " random"
        ) from None


def _check_variant(config: bytes, url: str) -> None:
    """Refuse what has the weights of our ResNet but other strides."""
    try:
        said = dict(json.loads(config))
    except (ValueError, TypeError) as error:
        raise UsageError(f"{url} is not an encoder: its {HF_CONFIG} is not JSON ({error})") from error
    if wrong := [flag for flag in ("downsample_in_first_stage", "downsample_in_bottleneck") if said.get(flag)]:
        raise UsageError(f"{url} is not an encoder that fits: its {HF_CONFIG} sets {wrong[0]}")


def _has_card(data: bytes) -> bool:
    try:
        return CARD in read_header(data)
    except (ValueError, AttributeError):
        return False


def _named(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Give the tensors of one ResNet under torchvision's names, without whatever stood before them."""
    if any("embedder.embedder.convolution" in entry for entry in tensors):
        tensors = {_from_transformers(entry): value for entry, value in tensors.items()}
    prefix = _prefix([entry.removesuffix(_PROBE) for entry in tensors if entry.endswith(_PROBE)], name)
    return {entry.removeprefix(prefix): value for entry, value in tensors.items() if entry.startswith(prefix)}


def _prefix(found: Sequence[str], name: str) -> str:
    """Choose one of several networks in a file: the one that was trained by gradients."""
    if not found:
        raise UsageError(
            f"{name} is not an encoder: it holds no ResNet; expected weights named as torchvision, timm, torchgeo or"
            " transformers name them"
            f" ({_PROBE})"
        )
    chosen = found if len(found) == 1 else [p for p in found if any(word in p for word in _PREFERRED)]
    if len(chosen) != 1:
        listed = ", ".join(repr(p) for p in sorted(found))
        raise UsageError(f"{name} holds {len(found)} ResNets, under {listed}: save the one that you mean by itself")
    return chosen[0]


def _from_transformers(entry: str) -> str:
    """Turn a parameter's name of transformers' ResNet into torchvision's."""
    head, found, rest = entry.partition("embedder.embedder.")
    if found:
        return head + rest.replace("convolution", "conv1").replace("normalization", "bn1")
    head, found, rest = entry.partition("encoder.stages.")
    if not found:
        return entry
    stage, _, block, *inner = rest.split(".")
    if inner[0] == "shortcut":
        kind = "0" if inner[1] == "convolution" else "1"
        return ".".join([f"{head}layer{int(stage) + 1}", block, "downsample", kind, *inner[2:]])
    kind = "conv" if inner[2] == "convolution" else "bn"
    return ".".join([f"{head}layer{int(stage) + 1}", block, f"{kind}{int(inner[1]) + 1}", *inner[3:]])


def _depth(state: Mapping[str, Tensor], name: str) -> int:
    blocks = tuple(
        len({entry.split(".")[1] for entry in state if entry.startswith(f"layer{stage}.")}) for stage in range(1, 5)
    )
    bottleneck = "layer1.0.conv3.weight" in state
    for depth, known in BLOCKS.items():
        if known == blocks and bottleneck == (depth >= 50):
            return depth
    kind = "bottleneck" if bottleneck else "basic"
    raise UsageError(
        f"{name} is not an encoder that fits: a ResNet of {blocks} {kind} blocks; expected depth 18, 34, 50 or 101"
    )
