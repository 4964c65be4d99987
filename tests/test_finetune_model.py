"""Models as files: the same network comes back, and what does not fit or could hurt is refused by name."""

import hashlib
import io
import json
import os
import pickle
import struct

import pytest
import torch
from labelled_corpus import LEGEND, PIXELS_DIGEST, SCALE, build
from safetensors.torch import load, save

from finetune.config import DecoderConfig, TargetConfig, TaskConfig
from finetune.legend import Legend
from finetune.model import (
    ModelCard,
    check_bands,
    check_legend,
    check_pixels,
    load_network,
    model_bytes,
    model_of,
)
from finetune.model import (
    build as build_segmenter,
)
from infra.errors import UsageError
from infra.store import open_store
from pretrain.config import InputSpec
from pretrain.encoder import ResNet
from pretrain.export import EncoderCard, encoder_bytes

WATER = Legend.model_validate(LEGEND)


def card(**change) -> ModelCard:
    encoder = EncoderCard(
        method="random",
        depth=18,
        bands=2,
        input=InputSpec(bands=2),
        scale=SCALE,
        pixels_digest=PIXELS_DIGEST,
        manifest_digest="",
        run_digest="",
        step=0,
    )
    values = {
        "encoder": encoder,
        "encoder_url": "random",
        "legend": WATER,
        "decoder": DecoderConfig(channels=8, aux_channels=8),
        "crop_px": 32,
        "pixels_digest": PIXELS_DIGEST,
        "manifest_digest": "c" * 64,
        "run_digest": "d" * 64,
        "seed": 0,
        "trained_on": ("alpha",),
        "held_out": ("beta",),
        "scores": {"miou": 0.5, "f1/water": None},
    }
    return ModelCard(**values | change)


@pytest.fixture(scope="module")
def model() -> bytes:
    torch.manual_seed(0)
    made = card()
    return model_bytes(build_segmenter(ResNet(18, 2), made.encoder, WATER, made.decoder), made)


def test_the_same_network_comes_back(model):
    segmenter, found = model_of(model, "m")
    assert found == card()
    assert model_bytes(segmenter, found) == model
    assert not segmenter.training
    open_store("memory://model").put("deep/model.safetensors", model)
    again, _ = load_network("memory://model/deep/model.safetensors")
    codes = torch.randint(0, 65000, (1, 2, 64, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(again(codes), segmenter(codes))


OLD_NAMES = "44679fe35617bd855e82ffe5b9252366904edbfee8257b2709793351a7bf14a4"
"""SHA-256 of the names, shapes and types of all tensors of this model in the first format."""


def test_models_of_the_first_format_are_read(model):
    made, tensors = card(), load(model)
    listed = "\n".join(f"{n} {tuple(t.shape)} {t.dtype}" for n, t in sorted(tensors.items()))
    assert hashlib.sha256(listed.encode()).hexdigest() == OLD_NAMES
    old = json.loads(made.model_dump_json()) | {"format": "sarsense-segmenter-1"}
    del old["task"], old["encoder_digest"]
    kept = ("channels", "pool_scales", "dropout", "aux_weight", "aux_channels")
    old["decoder"] = {name: old["decoder"][name] for name in kept}
    segmenter, found = model_of(save(tensors, metadata={"sarsense": json.dumps(old)}), "old")
    assert (found.task.kind, found.decoder.kind, found.format) == ("segmentation", "upernet", "sarsense-segmenter-1")
    codes = torch.randint(0, 65000, (1, 2, 64, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = segmenter(codes)
    # As the code that knew this format alone computed them.
    assert logits.double().sum().item() == pytest.approx(-1597.75186, rel=1e-4)
    assert logits[0, :, 3, 5].tolist() == pytest.approx([-0.2229, -0.3432], abs=2e-4)


def test_models_of_before_validation_and_other_encoders_are_read(model):
    plain = json.loads(card().model_dump_json())
    del plain["validated_on"], plain["encoder_kind"]
    _, found = model_of(save(load(model), metadata={"sarsense": json.dumps(plain)}), "old")
    assert found == card()
    assert (found.validated_on, found.encoder_kind) == ((), "ResNet")


@pytest.mark.parametrize(
    "change",
    [
        {"decoder": DecoderConfig(kind="danet", channels=8, aux_weight=0)},
        {"decoder": DecoderConfig(kind="deeplabv3plus", channels=8, aux_weight=0, output_stride=16)},
        {"decoder": DecoderConfig(channels=8, aux_weight=0, refine=True, inject="image")},
        {"decoder": DecoderConfig(channels=8, pool="attention"), "task": TaskConfig(kind="multilabel")},
        {
            "decoder": DecoderConfig(kind="linear", aux_weight=0),
            "task": TaskConfig(kind="regression", target=TargetConfig(values={"water": 3.5})),
        },
        {"decoder": DecoderConfig(kind="fcn", channels=8), "task": TaskConfig(kind="change", pairs=(("a", "b"),))},
    ],
    ids=["danet", "dilated", "refined", "multilabel", "regression", "change"],
)
def test_every_head_and_task_comes_back(change):
    torch.manual_seed(1)
    made = card(**change)
    network = build_segmenter(ResNet(18, 2), made.encoder, WATER, made.decoder, made.task).eval()
    if made.task.kind == "regression":
        network.scale_to(12.0, 3.0)
    data = model_bytes(network, made)
    again, found = model_of(data, "m")
    assert found == made
    codes = torch.randint(0, 65000, (1, 2 * made.task.dates, 64, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(again(codes), network(codes))
    assert model_bytes(again, found) == data


class _Bomb:
    def __reduce__(self):
        return os.system, ("touch /tmp/finetune-model-was-executed",)


def _torch_save() -> bytes:
    out = io.BytesIO()
    torch.save({"state": _Bomb()}, out)
    return out.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(_Bomb()),
        _torch_save(),
        b"",
        b"\x80",
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 9) + b'{"a": 1.}',
        save({"w": torch.zeros(2)}),
        save({"w": torch.zeros(2)}, metadata={"sarsense": "{}"}),
    ],
    ids=["pickle", "torch", "empty", "cut", "huge", "list", "json", "no card", "wrong card"],
)
def test_what_is_not_a_model_is_refused_and_never_executed(data):
    with pytest.raises(UsageError, match=r"bad\.bin is not a fine-tuned model.*pickled checkpoints are never"):
        model_of(data, "bad.bin")
    assert not os.path.exists("/tmp/finetune-model-was-executed")


def test_a_cut_model_an_encoder_and_other_widths_are_refused(model):
    made = card()
    wide = card(decoder=DecoderConfig(channels=9, aux_channels=8))
    mixed = model_bytes(build_segmenter(ResNet(18, 2), made.encoder, WATER, made.decoder), wide)
    for data in (model[: len(model) // 2], encoder_bytes(ResNet(18, 2), made.encoder), mixed):
        with pytest.raises(UsageError, match=r"x\.safetensors is not a fine-tuned model"):
            model_of(data, "x.safetensors")


def test_pixels_of_another_recipe_are_refused_with_both_names():
    corpus = build("memory://model-pixels")
    check_pixels(PIXELS_DIGEST, "encoder e", corpus)
    check_pixels("", "published weights", corpus)
    with pytest.raises(UsageError, match=r"encoder e learned from pixels ffffffffffff, .* has pixels aaaaaaaaaaaa"):
        check_pixels("f" * 64, "encoder e", corpus)


def test_bands_and_classes_must_fit():
    check_bands(2, {"a": ("VV", "VH")}, "model m")
    with pytest.raises(UsageError, match=r"model m reads 2 bands, scene b has 1 \(VH\)"):
        check_bands(2, {"a": ("VV", "VH"), "b": ("VH",)}, "model m")
    renamed = Legend.model_validate(
        {**LEGEND, "classes": [*LEGEND["classes"][:1], {**LEGEND["classes"][1], "name": "sea"}]}
    )
    check_legend(WATER, WATER.model_copy(update={"background": None}), "c")
    with pytest.raises(UsageError, match=r"1: 'water'.*1: 'sea'"):
        check_legend(WATER, renamed, "c")
