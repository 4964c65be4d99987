"""An encoder in the layouts of other libraries: parameters renamed, their configuration, a card and a description."""

import io
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from infra.errors import ConflictError, UsageError
from infra.record import sha256
from infra.store import NotFound, Store, open_store
from pretrain.encoder import BLOCKS, STRIDES, ResNet
from pretrain.facts import Facts, gather
from pretrain.mlm import mlm_item
from pretrain.model_card import model_card

WEIGHTS = "model.safetensors"

Files = Mapping[str, bytes]


def export(source: str, out: str, layout: str, *, licence: str = "unknown", data: str | None = None) -> list[str]:
    """Write the encoder of a run in a layout of ``LAYOUTS``, with README.md and mlm.json; gives the objects' URLs.

    Raises UsageError for what is no encoder, and ConflictError where ``out`` already holds one of the files.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"no layout {layout!r}: expected one of {', '.join(LAYOUTS)}")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}", licence):
        raise UsageError(f"{licence!r} is not an SPDX name of a licence: expected something like CC-BY-4.0")
    encoder, facts = gather(source, data=data, licence=licence)
    files = dict(LAYOUTS[layout](encoder, facts))
    files["mlm.json"] = _json(mlm_item(encoder, facts, {n: b for n, b in files.items() if _is_weights(n)}))
    files["README.md"] = model_card(facts, layout, sorted(files)).encode()
    store = open_store(out)
    _check_free(store, files)
    for name, content in files.items():
        store.put(name, content)
    return [f"{out.rstrip('/')}/{name}" for name in files]


def timm_files(encoder: ResNet, facts: Facts) -> Files:
    """Give what ``timm.create_model("local-dir:FOLDER", pretrained=True)`` reads, also from a hub as ``hf-hub:``."""
    spec, bands, size = facts.card.input, encoder.bands, facts.size_px
    config = {
        "architecture": facts.architecture,
        "num_classes": 0,
        "num_features": encoder.channels[-1],
        "global_pool": "avg",
        "model_args": {"in_chans": bands},
        "pretrained_cfg": {
            "tag": facts.name,
            "custom_load": False,
            "input_size": [bands, size, size],
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": [spec.mean] * bands,
            "std": [spec.std] * bands,
            "num_classes": 0,
            "pool_size": [-(-size // STRIDES[-1])] * 2,
            # With a name here, older versions of timm replace the first convolution of two bands by random numbers.
            "first_conv": None,
            "classifier": "fc",
            "license": facts.licence,
        },
        "sarsense": facts.plain(),
    }
    return {WEIGHTS: _safetensors(encoder.state_dict()), "config.json": _json(config)}


def torchvision_files(encoder: ResNet, facts: Facts) -> Files:
    """Give weights under torchvision's names, and what the builder of that name has to be told."""
    config = {
        "builder": f"torchvision.models.{facts.architecture}",
        "in_channels": encoder.bands,
        "num_classes": 0,
        "left_out": ["fc.weight", "fc.bias"],
        "sarsense": facts.plain(),
    }
    return {WEIGHTS: _safetensors(encoder.state_dict()), "config.json": _json(config)}


def torchgeo_files(encoder: ResNet, facts: Facts) -> Files:
    """Give a state dict as TorchGeo's weights are: named with the start of its SHA-256, and the enum's ``meta``.

    ``mean`` and ``std`` are in decibels, after clipping to ``clip_db``.
    """
    buffer = io.BytesIO()
    torch.save({name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}, buffer)
    name = f"{facts.name}-{sha256(buffer.getvalue())[:8]}.pth"
    spec = facts.card.input
    meta = {
        "dataset": f"sarsense manifest {facts.card.manifest_digest[:12] or 'unknown'}",
        "in_chans": encoder.bands,
        "model": facts.architecture,
        "ssl_method": facts.card.method,
        "bands": facts.bands,
    }
    transforms = {
        "clip_db": [spec.lo_db, spec.hi_db],
        "mean": [facts.zero_db] * encoder.bands,
        "std": [facts.one_db] * encoder.bands,
    }
    config = {"file": name, "meta": meta, "transforms": transforms, "sarsense": facts.plain()}
    return {name: buffer.getvalue(), WEIGHTS: _safetensors(encoder.state_dict()), "config.json": _json(config)}


def huggingface_files(encoder: ResNet, facts: Facts) -> Files:
    """Give what ``transformers.ResNetModel.from_pretrained`` and ``ResNetBackbone.from_pretrained`` read."""
    config = {
        "architectures": ["ResNetModel"],
        "model_type": "resnet",
        "num_channels": encoder.bands,
        "embedding_size": 64,
        "hidden_sizes": list(encoder.channels),
        "depths": list(BLOCKS[encoder.depth]),
        "layer_type": "basic" if encoder.depth < 50 else "bottleneck",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,  # the stride is on the 3x3 convolution
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
        "torch_dtype": "float32",
        "sarsense": facts.plain(),
    }
    renamed = {huggingface_name(name): value for name, value in encoder.state_dict().items()}
    return {WEIGHTS: _safetensors(renamed), "config.json": _json(config)}


def huggingface_name(name: str) -> str:
    """Give the name in transformers' ResNetModel of a parameter or buffer of our ResNet."""
    kind = {"conv": "convolution", "bn": "normalization"}
    if stem := re.fullmatch(r"(conv|bn)1\.(\w+)", name):
        return f"embedder.embedder.{kind[stem[1]]}.{stem[2]}"
    found = re.fullmatch(r"layer(\d)\.(\d+)\.(?:(conv|bn)(\d)|downsample\.([01]))\.(\w+)", name)
    if found is None:
        raise ValueError(f"no parameter of a ResNet encoder: {name}")
    stage, block, what, number, shortcut, rest = found.groups()
    under = f"encoder.stages.{int(stage) - 1}.layers.{block}"
    if shortcut is not None:
        return f"{under}.shortcut.{('convolution', 'normalization')[int(shortcut)]}.{rest}"
    return f"{under}.layer.{int(number) - 1}.{kind[what]}.{rest}"


LAYOUTS: Mapping[str, Callable[[ResNet, Facts], Files]] = {
    "timm": timm_files,
    "torchgeo": torchgeo_files,
    "huggingface": huggingface_files,
    "torchvision": torchvision_files,
}


def _check_free(store: Store, files: Mapping[str, bytes]) -> None:
    for name in files:
        try:
            store.info(name)
        except NotFound:
            continue
        raise ConflictError(f"{store.url} already holds {name}: give an empty or new folder (--out)")


def _is_weights(name: str) -> bool:
    return name.endswith((".safetensors", ".pth"))


def _safetensors(state: Mapping[str, Tensor]) -> bytes:
    # transformers refuses a file without this entry.
    return save({n: t.detach().cpu().contiguous() for n, t in state.items()}, metadata={"format": "pt"})


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()
