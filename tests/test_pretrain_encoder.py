"""The encoder, its way in from codes, and its files."""

import io
from pathlib import Path

import pytest
import torch

from infra.errors import UsageError
from infra.store import open_store
from pretrain.config import InputSpec
from pretrain.encoder import MaxPool, ResNet, adapt_bands, match_bands, to_grey, to_input
from pretrain.export import EncoderCard, encoder_bytes, load_encoder, load_weights, save_encoder
from shards.tile import DbScale

CARD = EncoderCard(
    method="di3cl", depth=18, bands=1, input=InputSpec(), scale=DbScale(), pixels_digest="1" * 64,
    manifest_digest="2" * 64, run_digest="3" * 64, step=7,
)  # fmt: skip


@pytest.mark.parametrize(
    ("depth", "parameters"), [(18, 11_176_512), (34, 21_284_672), (50, 23_508_032), (101, 42_500_160)]
)
def test_sizes_are_those_of_torchvision_without_its_classifier(depth: int, parameters: int):
    with torch.device("meta"):
        encoder = ResNet(depth, bands=3)
    assert sum(p.numel() for p in encoder.parameters()) == parameters


def test_parameters_have_torchvision_names():
    names = set(ResNet(50, 3).state_dict())
    assert {
        "conv1.weight", "bn1.running_var", "layer1.0.conv1.weight", "layer1.0.downsample.0.weight",
        "layer1.0.downsample.1.weight", "layer3.5.conv3.weight", "layer4.2.bn3.num_batches_tracked",
    } <= names  # fmt: skip
    assert len(names) == 318


def test_encoder_equals_the_one_of_transformers():
    import transformers

    config = transformers.ResNetConfig(
        num_channels=2, embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic"
    )
    other = transformers.ResNetModel(config).eval()
    ours = ResNet(18, 2).eval()
    # Both list layers in the order of use, but for the shortcut, which transformers has first in a block.
    theirs = dict(other.named_parameters()) | dict(other.named_buffers())
    state = {}
    for name in ours.state_dict():
        state[name] = theirs[_transformers_name(name)]
    ours.load_state_dict(state)
    x = torch.randn(2, 2, 64, 64)
    expected = other(x, output_hidden_states=True).hidden_states[1:]
    for found, wanted in zip(ours(x), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(17, 12), (48, 48)])
def test_pooling_gives_the_numbers_and_gradients_of_torch(size: tuple[int, int]):
    values = (2 * torch.randn(2, 8, *size, generator=torch.Generator().manual_seed(0))).round()  # many are equal
    values[0, 0, 3, 3] = torch.nan
    plain, ours = (values.clone().requires_grad_() for _ in range(2))
    expected, found = torch.nn.functional.max_pool2d(plain, 3, 2, 1), MaxPool()(ours)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    expected.backward(weights)
    found.backward(weights)
    assert torch.equal(found.nan_to_num(9), expected.nan_to_num(9))
    assert torch.equal(ours.grad, plain.grad)
    assert found.is_contiguous()
    with torch.no_grad():
        assert torch.equal(MaxPool()(values).nan_to_num(9), expected.nan_to_num(9))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_pooling_can_be_traced_and_takes_a_lone_image():
    x = torch.randn(1, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.max_pool2d(x, 3, 2, 1)
    assert torch.equal(MaxPool()(x[0]), expected[0])
    traced = torch.jit.trace(MaxPool(), x)
    torch.jit.save(traced, io.BytesIO())
    assert torch.equal(traced(x), expected)


def _transformers_name(name: str) -> str:
    if not name.startswith("layer"):
        head, rest = name.split(".", 1)
        return f"embedder.embedder.{'convolution' if head == 'conv1' else 'normalization'}.{rest}"
    stage, block, part, *rest = name.split(".")
    base = f"encoder.stages.{int(stage[-1]) - 1}.layers.{block}"
    if part == "downsample":
        return f"{base}.shortcut.{'convolution' if rest[0] == '0' else 'normalization'}.{rest[1]}"
    kind = "convolution" if part.startswith("conv") else "normalization"
    return f"{base}.layer.{int(part[-1]) - 1}.{kind}.{rest[0]}"


@pytest.mark.parametrize("depth", [18, 50])
def test_maps_have_the_channels_and_strides_announced(depth: int):
    encoder = ResNet(depth, 2)
    maps = encoder(torch.zeros(1, 2, 64, 96))
    assert tuple(m.shape[1] for m in maps) == encoder.channels
    assert [tuple(m.shape[2:]) for m in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_an_unknown_depth_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="18, 34, 50, 101"):
        ResNet(20)


def test_codes_become_grey_and_input():
    scale, spec = DbScale(), InputSpec(lo_db=-30, hi_db=0)
    level_db = torch.tensor([-40.0, -30.0, -15.0, 0.0, 5.0])
    codes = torch.cat([torch.tensor([0.0]), (level_db + 60) / 0.002 + 1]).round().to(torch.uint16)
    grey, valid = to_grey(codes, scale, spec)
    assert valid.tolist() == [False, True, True, True, True, True]
    torch.testing.assert_close(grey, torch.tensor([0.0, 0.0, 0.0, 0.5, 1.0, 1.0]), atol=1e-5, rtol=0)
    x = to_input(codes, scale, spec)
    torch.testing.assert_close(x[1:], (grey[1:] - 0.449) / 0.226)
    assert x[0] == 0
    assert torch.equal(to_input(codes.to(torch.int32), scale, spec), x)


@pytest.mark.parametrize("bands", [1, 2, 4])
def test_adapted_bands_answer_equal_bands_as_before(bands: int):
    encoder = ResNet(18, 3).eval()
    band = torch.randn(2, 1, 32, 32)
    found = adapt_bands(encoder, bands).eval()(match_bands(band, bands))[-1]
    torch.testing.assert_close(found, encoder(match_bands(band, 3))[-1], atol=1e-4, rtol=1e-4)


def test_one_band_is_repeated_without_copies():
    encoder, band = ResNet(18, 3), torch.randn(2, 1, 32, 32)
    found, expected = encoder(band), encoder(match_bands(band, 3))
    torch.testing.assert_close(found[0], expected[0], atol=1e-4, rtol=1e-4)
    found[0].sum().backward()
    gradient = encoder.conv1.weight.grad
    assert gradient is not None
    assert torch.equal(gradient[:, :1].expand(-1, 3, -1, -1), gradient)


def test_bands_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="takes 3 bands, the tiles have 2"):
        match_bands(torch.zeros(1, 2, 4, 4), 3)


def test_an_encoder_comes_back_from_its_file(tmp_path: Path):
    encoder = ResNet(18, 1)
    encoder(torch.randn(4, 1, 32, 32))  # moves the running statistics
    save_encoder(open_store(str(tmp_path)), "encoder.safetensors", encoder, CARD)
    found, card = load_encoder(f"{tmp_path}/encoder.safetensors")
    assert card == CARD
    assert not found.training
    assert all(
        torch.equal(a, b) for a, b in zip(found.state_dict().values(), encoder.state_dict().values(), strict=True)
    )
    assert encoder_bytes(found, card) == encoder_bytes(encoder, CARD)


@pytest.mark.parametrize("damage", ["cut", "text", "other"])
def test_what_is_not_an_encoder_is_refused_by_name(tmp_path: Path, damage: str):
    data = encoder_bytes(ResNet(18, 1), CARD)
    from safetensors.torch import save

    bad = {"cut": data[:1000], "text": b"not safetensors", "other": save({"a": torch.zeros(1)})}[damage]
    (tmp_path / "encoder.safetensors").write_bytes(bad)
    with pytest.raises(UsageError, match=r"encoder\.safetensors is not an encoder"):
        load_encoder(str(tmp_path / "encoder.safetensors"))


@pytest.mark.parametrize("kind", ["weights.pth", "weights.safetensors"])
def test_weights_of_torchvision_are_taken_without_their_classifier(tmp_path: Path, kind: str):
    source = ResNet(18, 3)
    state = dict(source.state_dict()) | {"fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}
    if kind.endswith("pth"):
        torch.save(state, tmp_path / kind)
    else:
        from safetensors.torch import save_file

        save_file(state, tmp_path / kind)
    one, three = ResNet(18, 1), ResNet(18, 3)
    load_weights(one, str(tmp_path / kind))
    load_weights(three, str(tmp_path / kind))
    assert torch.equal(three.conv1.weight, source.conv1.weight)
    torch.testing.assert_close(one.conv1.weight, source.conv1.weight.sum(1, keepdim=True))


def test_weights_that_do_not_fit_or_hide_code_are_refused(tmp_path: Path):
    torch.save(ResNet(18, 3).state_dict(), tmp_path / "small.pth")
    with pytest.raises(UsageError, match="does not hold the weights of a ResNet-50"):
        load_weights(ResNet(50, 3), str(tmp_path / "small.pth"))
    hostile = io.BytesIO()
    torch.save({"conv1.weight": Hostile()}, hostile)
    (tmp_path / "hostile.pth").write_bytes(hostile.getvalue())
    with pytest.raises(UsageError, match="no plain tensors"):
        load_weights(ResNet(18, 3), str(tmp_path / "hostile.pth"))
    with pytest.raises(UsageError, match="cannot read the weights"):
        load_weights(ResNet(18, 3), str(tmp_path / "absent.pth"))


class Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("code ran",))
