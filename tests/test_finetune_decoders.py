"""Every decoder alike: sizes, gradients, learning by heart, seeds; then what is special to each."""

import math

import numpy as np
import pytest
import torch
from labelled_corpus import SCALE, Scene
from small_encoder import SmallEncoder
from torch import nn
from torch.nn import functional

from finetune.config import DecoderConfig
from finetune.decoder_attention import ChannelAttention, PlaceAttention
from finetune.decoder_farseg import FarSeg
from finetune.decoder_pyramid import DilatedContext
from finetune.decoders import DECODERS, make_decoder
from finetune.dilation import dilate
from finetune.refine import Refined
from finetune.segmenter import SegmentationLearner, Segmenter
from infra.errors import UsageError
from pretrain.config import InputSpec
from pretrain.encoder import ResNet

INPUTS = (6, 8, 10, 12)
KINDS = tuple(DECODERS)
READ = {"fcn": {3}, "danet": {3}, "pspnet": {3}, "deeplabv3plus": {0, 3}}
"""Maps that a decoder looks at, where those are not all four."""
REFINED = (
    {"inject": "stage1"},
    {"refine": True},
    {"refine": True, "inject": "stage1"},
    {"refine": True, "inject": "image"},
)


def config(kind: str = "upernet", **more) -> DecoderConfig:
    return DecoderConfig(kind=kind, **{"channels": 16, "dropout": 0.0, "aux_weight": 0.0} | more)


def maps(rows: int, cols: int, strides=(4, 8, 16, 32), n: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(rows * 1000 + cols)
    sizes = [(-(-rows // s), -(-cols // s)) for s in strides]
    return [torch.randn(n, c, *size, generator=generator) for c, size in zip(INPUTS, sizes, strict=True)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(64, 64), (33, 97), (100, 36)])
def test_any_size_gives_a_score_for_every_class(kind, size):
    head = make_decoder(INPUTS, 2, 5, config(kind)).eval()
    features = maps(*size)
    out = head(features)
    assert out.shape == (2, 5, *features[min(READ.get(kind, {0}))].shape[2:])
    assert out.isfinite().all()


@pytest.mark.parametrize("more", REFINED, ids=lambda m: "-".join(map(str, m.values())))
@pytest.mark.parametrize("kind", ["upernet", "pspnet", "linear"])
def test_refinements_sit_on_any_decoder(kind, more):
    head = make_decoder(INPUTS, 2, 5, config(kind, **more))
    assert isinstance(head, Refined)
    image = torch.randn(2, 2, 61, 77)
    out = head(maps(61, 77), image)
    assert out.shape[2:] == ((61, 77) if more.get("refine") else (16, 20))
    out.square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in head.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter_and_every_map(kind):
    torch.manual_seed(0)
    head = make_decoder(INPUTS, 2, 5, config(kind))
    for module in head.modules():  # the attentions begin as the identity, which hides what is behind
        if isinstance(module, PlaceAttention | ChannelAttention):
            nn.init.constant_(module.gain, 0.5)
    features = [x.requires_grad_() for x in maps(96, 128)]
    head(features).square().mean().backward()
    dead = [name for name, p in head.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # a shift before batch norm, or one that every key shares, changes nothing
    assert all(name.endswith(("key.bias",)) for name in dead), dead
    assert {i for i, x in enumerate(features) if x.grad is not None} == READ.get(kind, {0, 1, 2, 3})


@pytest.mark.parametrize("kind", KINDS)
def test_one_seed_one_network(kind):
    made = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        made.append(make_decoder(INPUTS, 2, 4, config(kind)).state_dict())
    assert all(torch.equal(made[0][n], made[1][n]) for n in made[0])
    assert not all(torch.equal(made[0][n], made[2][n]) for n in made[0])


def _learned(chosen: DecoderConfig, steps: int = 40) -> float:
    """Share of right pixels after learning one patch of a simulated scene by heart."""
    torch.manual_seed(0)
    scene = Scene("s", 5, (64, 64))
    batch = {"codes": torch.from_numpy(scene.codes)[None], "label": torch.from_numpy(scene.label)[None]}
    batch = {name: value.expand(2, *value.shape[1:]) for name, value in batch.items()}
    segmenter = Segmenter(SmallEncoder(), 2, chosen, SCALE, InputSpec(bands=2)).train()
    learner = SegmentationLearner(segmenter, chosen.aux_weight)
    optimiser = torch.optim.AdamW(learner.parameters(), lr=0.01)
    for step in range(steps):
        optimiser.zero_grad()
        losses = learner.losses(batch, step)
        losses["loss"].backward()
        optimiser.step()
    return float(losses["accuracy"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_patch_is_learned_by_heart(kind):
    # One map of 2 x 2 cells cannot draw a shore; all others can.
    assert _learned(config(kind, channels=8)) > (0.75 if READ.get(kind) == {3} else 0.9)


@pytest.mark.parametrize("more", REFINED, ids=lambda m: "-".join(map(str, m.values())))
def test_a_patch_is_learned_by_heart_with_refinements(more):
    assert _learned(config(channels=8, **more)) > 0.9


def test_attention_of_places_is_that_of_the_definition():
    torch.manual_seed(1)
    block, x = PlaceAttention(16), torch.randn(2, 16, 3, 5)
    assert torch.equal(block(x), x)
    nn.init.constant_(block.gain, 0.7)
    query, key, value = (f(x).reshape(2, -1, 15) for f in (block.query, block.key, block.value))
    expected = x.clone()
    for n in range(2):
        for i in range(15):
            weight = torch.stack([query[n, :, i] @ key[n, :, j] for j in range(15)]).softmax(0)
            seen = sum(weight[j] * value[n, :, j] for j in range(15))
            expected[n, :, i // 5, i % 5] += 0.7 * seen
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_attention_of_channels_is_that_of_the_definition():
    torch.manual_seed(2)
    block, x = ChannelAttention(), torch.randn(1, 4, 3, 3)
    nn.init.constant_(block.gain, 0.3)
    flat = x[0].reshape(4, 9)
    alike = flat @ flat.T
    weight = torch.stack([(row.max() - row).softmax(0) for row in alike])
    torch.testing.assert_close(block(x)[0], x[0] + 0.3 * (weight @ flat).reshape(4, 3, 3), rtol=1e-5, atol=1e-5)


def test_relation_to_the_scene_weighs_between_nothing_and_everything():
    head = FarSeg(INPUTS, 3, config("farseg")).eval()
    relation = head.relations[0].double()
    level, scene = torch.randn(1, 16, 4, 4).double(), torch.randn(1, 12, 1, 1).double()
    out, plain = relation(scene, level), relation.again(level)
    inner = (relation.scene(scene) * relation.content(level)).sum(1, keepdim=True)
    torch.testing.assert_close(out, plain / (1 + torch.exp(-inner)))


def test_dilated_context_sees_as_far_as_its_rates():
    block = DilatedContext(4, 6, (6, 12, 18)).eval()
    x = torch.randn(1, 4, 65, 65, requires_grad=True)
    for module in block.whole.modules():  # leave out the mean over the whole map
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
    block(x)[0, :, 32, 32].sum().backward()
    rows = x.grad.abs().sum((0, 1, 3)).nonzero()[:, 0]
    assert (int(rows.min()), int(rows.max())) == (32 - 18, 32 + 18)
    assert {int(r) - 32 for r in rows} == {-18, -12, -6, 0, 6, 12, 18}


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("stride", [8, 16])
def test_a_dilated_encoder_agrees_with_itself_where_both_look(depth, stride):
    torch.manual_seed(0)
    plain, fine = ResNet(depth, 1).eval(), ResNet(depth, 1).eval()
    fine.load_state_dict(plain.state_dict())
    dilate(fine, stride)
    x = torch.randn(1, 1, 128, 96)
    with torch.no_grad():
        for a, b, usual in zip(plain(x), fine(x), (4, 8, 16, 32), strict=True):
            step = max(usual // stride, 1)
            assert b.shape[2] == math.ceil(128 / min(usual, stride))
            torch.testing.assert_close(b[:, :, ::step, ::step], a, rtol=1e-4, atol=1e-4)


def test_only_a_resnet_is_dilated():
    with pytest.raises(UsageError, match="only a ResNet can be dilated, this encoder is a SmallEncoder"):
        Segmenter(SmallEncoder(), 2, config(output_stride=8), SCALE, InputSpec(bands=2))
    made = Segmenter(ResNet(18, 2), 2, config("deeplabv3plus", output_stride=16), SCALE, InputSpec(bands=2))
    rates = [block.depth.dilation for block in made.decoder.context.dilated]
    assert rates == [(6, 6), (12, 12), (18, 18)]
    codes = torch.from_numpy(np.ones((2, 2, 50, 70), np.uint16))
    assert made(codes).shape == (2, 2, 50, 70)


def test_the_rise_is_bilinear_then_convolution_then_norm():
    torch.manual_seed(0)
    head = make_decoder(INPUTS, 2, 3, config(refine=True)).eval()
    features, image = maps(32, 32, n=1), torch.randn(1, 2, 32, 32)
    x = head.body(features)
    for block, size in zip(head.rise, (16, 32), strict=True):
        x = functional.interpolate(x, (size, size), mode="bilinear")
        x = functional.gelu(functional.group_norm(functional.conv2d(x, block.conv.weight, padding=1), 16))
    expected = functional.conv2d(x, head.classifier.weight, head.classifier.bias, padding=1)
    torch.testing.assert_close(head(features, image), expected, rtol=1e-4, atol=1e-5)


def test_filters_on_the_image_need_the_rise():
    with pytest.raises(ValueError, match="set refine too"):
        config(inject="image")
