"""Encoders of others: the same features as in the library they come from, and one clear error for what is none."""

import io
import json
import os
import pickle

import pytest
import torch
from labelled_corpus import LEGEND, SCALE, build
from safetensors.torch import save

from finetune.card import card_text
from finetune.config import DecoderConfig, FinetuneRun
from finetune.encoders import PUBLISHED, read_encoder, resnet_of
from finetune.legend import Legend
from finetune.model import ModelCard, load_network, model_bytes
from finetune.segmenter import Segmenter
from finetune.vit_pyramid import SimpleFeaturePyramid, TokenMap
from infra.errors import UsageError
from pretrain.config import InputSpec
from pretrain.encoder import ResNet
from pretrain.export import EncoderCard, encoder_bytes

TINY = {"channels": 8, "aux_channels": 8, "dropout": 0.0}


def torch_bytes(value: object) -> bytes:
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


def random_resnet(depth: int = 18, bands: int = 3) -> ResNet:
    torch.manual_seed(depth)
    made = ResNet(depth, bands)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return made.eval()


def same(a: ResNet, b: ResNet) -> bool:
    x = torch.randn(1, a.bands, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return all(torch.equal(p, q) for p, q in zip(a.eval()(x), b.eval()(x), strict=True))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: save(s),
        lambda s: torch_bytes({**s, "fc.weight": torch.zeros(5, 512), "fc.bias": torch.zeros(5)}),
        lambda s: torch_bytes({"state_dict": {f"module.encoder.{n}": v for n, v in s.items()}, "epoch": 3}),
        lambda s: torch_bytes({"model": {f"backbone.{n}": v for n, v in s.items()}}),
        lambda s: torch_bytes(
            {
                "state_dict": {f"module.encoder_{k}.{n}": v for k in "qk" for n, v in s.items()}
                | {"queue": torch.ones(2)}
            }
        ),
        lambda s: save({n: v for n, v in s.items() if "num_batches" not in n}),
    ],
    ids=["safetensors", "torchvision", "lightning", "nested", "moco", "without counters"],
)
def test_weights_named_as_others_name_them(wrap, tmp_path):
    source = random_resnet()
    path = tmp_path / "weights.bin"
    path.write_bytes(wrap(dict(source.state_dict())))
    data, encoder, card = read_encoder(str(path), SCALE)
    assert same(encoder, source)
    assert (card.method, card.depth, card.bands, card.pixels_digest) == (PUBLISHED, 18, 3, "")
    assert data == path.read_bytes()


@pytest.mark.parametrize("depth", [18, 50])
def test_a_folder_of_transformers(depth, tmp_path):
    from transformers import ResNetConfig, ResNetModel

    kind, widths = ("basic", [64, 128, 256, 512]) if depth == 18 else ("bottleneck", [256, 512, 1024, 2048])
    depths = [2, 2, 2, 2] if depth == 18 else [3, 4, 6, 3]
    torch.manual_seed(0)
    model = ResNetModel(ResNetConfig(num_channels=2, hidden_sizes=widths, depths=depths, layer_type=kind)).eval()
    model.save_pretrained(tmp_path / "hub")
    _, encoder, card = read_encoder(str(tmp_path / "hub"), SCALE)
    x = torch.randn(1, 2, 64, 96)
    with torch.no_grad():
        expected = model(x, output_hidden_states=True).hidden_states[1:]
        for mine, theirs in zip(encoder(x), expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert (card.depth, card.bands) == (depth, 2)
    config = tmp_path / "hub" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "downsample_in_bottleneck": True}))
    with pytest.raises(UsageError, match=r"config\.json sets downsample_in_bottleneck"):
        read_encoder(str(tmp_path / "hub"), SCALE)


def test_our_own_comes_with_its_card(tmp_path):
    card = EncoderCard(
        method="di3cl",
        depth=18,
        bands=1,
        input=InputSpec(),
        scale=SCALE,
        pixels_digest="a" * 64,
        manifest_digest="",
        run_digest="",
        step=1,
    )
    source = random_resnet(18, 1)
    (tmp_path / "e").write_bytes(encoder_bytes(source, card))
    _, encoder, found = read_encoder(str(tmp_path / "e"), SCALE)
    assert found == card
    assert same(encoder, source)


class _Bomb:
    def __reduce__(self):
        return os.system, ("touch /tmp/finetune-encoder-was-executed",)


def _without(*ends: str) -> dict[str, torch.Tensor]:
    return {n: v for n, v in random_resnet().state_dict().items() if not n.endswith(ends)}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pickle.dumps(_Bomb()), "pickled objects are never opened"),
        (torch_bytes({"state_dict": _Bomb()}), "pickled objects are never opened"),
        (torch_bytes([1, 2]), "holds a list, expected names and tensors"),
        (b"", "no plain tensors"),
        (b"\x00" * 8 + b"{", "no plain tensors"),
        (save({"w": torch.zeros(2)}), "it holds no ResNet"),
        (save(_without("layer2.1.conv1.weight")), "do not fit a ResNet-18"),
        (save(_without("layer1.1.conv1.weight", "layer1.1.conv2.weight")), "do not fit a ResNet-18"),
        (save({n: v for n, v in _without().items() if not n.startswith("layer4.1")}), r"\(2, 2, 2, 1\) basic blocks"),
        (save({n: v for n, v in _without().items() if n != "conv1.weight"}), "its stem is not a 7x7"),
        (torch_bytes({f"{k}.{n}": v for k in "ab" for n, v in _without().items()}), "2 ResNets, under 'a.', 'b.'"),
    ],
    ids=["pickle", "torch pickle", "list", "empty", "cut", "other", "missing", "missing block", "depth", "stem", "two"],
)  # fmt: skip
def test_what_is_no_encoder_is_refused_and_never_executed(data, message, tmp_path):
    (tmp_path / "x.pth").write_bytes(data)
    with pytest.raises(UsageError, match=message) as caught:
        read_encoder(str(tmp_path / "x.pth"), SCALE)
    assert "\n" not in str(caught.value)
    assert not os.path.exists("/tmp/finetune-encoder-was-executed")


def test_an_encoder_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match=r"no encoder at .*expected a weights file, a folder with config"):
        read_encoder(str(tmp_path / "none"), SCALE)


def test_a_deeper_resnet_is_named():
    state = {f"layer{s}.{b}.conv3.weight": torch.zeros(1) for s, n in enumerate((3, 8, 36, 3), 1) for b in range(n)}
    state |= {"layer1.0.conv1.weight": torch.zeros(1), "conv1.weight": torch.zeros(64, 3, 7, 7)}
    with pytest.raises(UsageError, match=r"a ResNet of \(3, 8, 36, 3\) bottleneck blocks; expected depth 18, 34, 50"):
        resnet_of(state, "x")


def _vit(dim: int = 24) -> SimpleFeaturePyramid:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=dim,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=64,
        patch_size=16,
        num_channels=2,
    )
    model = ViTModel(config, add_pooling_layer=False)
    tokens = TokenMap(model, lambda x: model(x, interpolate_pos_encoding=True).last_hidden_state)
    return SimpleFeaturePyramid(tokens, dim, 12)


class _Swin(torch.nn.Module):
    """The backbone of transformers as an encoder."""

    def __init__(self) -> None:
        from transformers import SwinBackbone, SwinConfig

        super().__init__()
        config = SwinConfig(
            image_size=64,
            num_channels=2,
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 2, 2],
            window_size=4,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        )
        self.backbone = SwinBackbone(config)
        self.channels = tuple(self.backbone.channels)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return list(self.backbone(x).feature_maps)


@pytest.mark.parametrize("size", [(64, 64), (70, 101)])
def test_a_pyramid_over_tokens_has_the_sizes_of_a_resnet(size):
    torch.manual_seed(0)
    maps = _vit()(torch.randn(1, 2, *size))
    assert [m.shape for m in maps] == [(1, 12, -(-size[0] // s), -(-size[1] // s)) for s in (4, 8, 16, 32)]


def test_places_of_tokens_stay_where_they_are():
    """A trunk that answers with the place itself: the pyramid's maps must rise the same way."""

    class Places(torch.nn.Module):
        def forward(self, x):
            rows, cols = torch.meshgrid(
                torch.arange(x.shape[2] // 16.0), torch.arange(x.shape[3] // 16.0), indexing="ij"
            )
            cells = torch.stack([rows, cols], -1).reshape(1, -1, 2)
            return torch.cat([torch.full((1, 1, 2), -1.0), cells], 1)  # a class token first

    model = Places()
    found = TokenMap(model, model)(torch.zeros(1, 1, 48, 80))
    assert found.shape == (1, 2, 3, 5)
    assert found[0, 0, :, 0].tolist() == [0, 1, 2]
    assert found[0, 1, 0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("make", [_vit, _Swin], ids=["vit", "swin"])
@pytest.mark.parametrize("kind", ["upernet", "unet", "deeplabv3plus", "farseg", "linear"])
def test_decoders_stand_on_transformers(make, kind):
    torch.manual_seed(0)
    network = Segmenter(make(), 3, DecoderConfig(kind=kind, **TINY), SCALE, InputSpec(bands=2)).train()
    codes = torch.randint(1, 65000, (2, 2, 64, 96))
    scores, second = network.both(codes)
    assert scores.shape == second.shape == (2, 3, 64, 96)
    (scores.square().mean() + second.square().mean()).backward()
    grads = [p.grad for p in network.encoder.parameters() if p.grad is not None]
    assert sum(float(g.abs().sum() > 0) for g in grads) > 0.8 * len(grads)


@pytest.mark.parametrize(
    ("make", "kind"), [(_vit, "SimpleFeaturePyramid over ViTModel"), (_Swin, "_Swin")], ids=["vit", "swin"]
)
def test_models_on_transformers_are_saved_and_loaded_into_their_like(make, kind, tmp_path):
    torch.manual_seed(0)
    decoder = DecoderConfig(kind="unet", **TINY)
    network = Segmenter(make(), 2, decoder, SCALE, InputSpec(bands=2)).eval()
    encoder = EncoderCard(
        method="random", depth=50, bands=2, input=InputSpec(bands=2), scale=SCALE, pixels_digest="",
        manifest_digest="", run_digest="", step=0,
    )  # fmt: skip
    card = ModelCard(
        encoder=encoder, encoder_url="random", legend=Legend.model_validate(LEGEND), decoder=decoder, crop_px=64,
        pixels_digest="", manifest_digest="", run_digest="d" * 64, seed=0, trained_on=("a",), held_out=("b",),
        scores={},
    )  # fmt: skip
    path = tmp_path / "model.safetensors"
    path.write_bytes(model_bytes(network, card))
    again, found = load_network(str(path), make())
    assert found == card.model_copy(update={"encoder_kind": kind})
    codes = torch.randint(1, 65000, (1, 2, 64, 96))
    with torch.no_grad():
        assert torch.equal(again(codes), network(codes))
    record = {"summary": {}, "seeds": [{"seed": 0}], "run": FinetuneRun().model_dump()}
    text = card_text(found, record, build("memory://encoders-card").manifest)
    assert f"SAR segmentation of pixels, {kind}, run" in text
    assert "ResNet" not in text
    with pytest.raises(UsageError, match=f"an encoder of the kind {kind}, whose code does not come with this project"):
        load_network(str(path))
    with pytest.raises(UsageError, match=f"of the kind {kind}, it cannot fill one of ResNet"):
        load_network(str(path), random_resnet(18, 2))
    wide = SimpleFeaturePyramid(make().trunk, 24, 16) if make is _vit else torch.nn.Module()
    with pytest.raises(UsageError, match=r"is not a fine-tuned model|cannot fill one of Module"):
        load_network(str(path), wide)


def test_published_weights_take_the_input_of_the_run(tmp_path):
    from finetune.start import make_segmenter, open_start, open_task

    (tmp_path / "imagenet.pth").write_bytes(torch_bytes(dict(random_resnet().state_dict())))
    corpus = build("memory://encoders-start")
    task = open_task("memory://encoders-start", ["delta-held"], lambda _: None)
    start = open_start(str(tmp_path / "imagenet.pth"), corpus, lambda _: None)
    run = FinetuneRun(depth=50, input=InputSpec(lo_db=-25, hi_db=0), decoder=DecoderConfig(**TINY))
    network, card = make_segmenter(task, start, run)
    assert (card.depth, card.bands, card.input.lo_db, card.method) == (18, 2, -25, PUBLISHED)
    source = random_resnet().conv1.weight.sum(1)
    assert torch.allclose(network.encoder.conv1.weight.sum(1), source, atol=1e-6)
