"""Exported encoders: other libraries compute the same maps from them, and what describes them is complete."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from pystac.extensions.mlm import MLMExtension
from safetensors.torch import load_file, save

from infra.command import command_app, exit_code
from infra.errors import ConflictError, UsageError
from infra.store import open_store
from pretrain.cli_report import export as export_command
from pretrain.cli_report import report as report_command
from pretrain.config import InputSpec
from pretrain.encoder import ResNet
from pretrain.export import EncoderCard, encoder_bytes, save_encoder
from pretrain.export_layouts import LAYOUTS, export, huggingface_name
from shards.tile import DbScale

APP = command_app("pretrain", "test")
APP.command(report_command)
APP.command(export_command)


def card(depth: int = 18, bands: int = 1, method: str = "di3cl") -> EncoderCard:
    return EncoderCard(
        method=method, depth=depth, bands=bands, input=InputSpec(bands=bands), scale=DbScale(),
        pixels_digest="a" * 64, manifest_digest="b" * 64, run_digest="c" * 64, step=7,
    )  # fmt: skip


def stirred(depth: int, bands: int) -> ResNet:
    """An encoder whose batch norms are not those of a new one, so that a lost buffer shows."""
    torch.manual_seed(depth + bands)
    encoder = ResNet(depth, bands)
    encoder.train()
    with torch.no_grad():
        for _ in range(2):
            encoder(torch.randn(4, bands, 64, 64) * 2 + 0.5)
    return encoder.eval()


def saved(folder: Path, depth: int = 18, bands: int = 1, **more: str) -> tuple[str, ResNet]:
    encoder = stirred(depth, bands)
    save_encoder(open_store(str(folder)), "encoder.safetensors", encoder, card(depth, bands, **more))
    return f"{folder}/encoder.safetensors", encoder


@pytest.mark.parametrize(("depth", "bands"), [(18, 1), (50, 2)])
def test_transformers_computes_the_same_maps(tmp_path: Path, depth: int, bands: int) -> None:
    from transformers import ResNetBackbone, ResNetModel

    url, encoder = saved(tmp_path, depth, bands)
    export(url, f"{tmp_path}/hf", "huggingface")
    x = torch.randn(2, bands, 96, 64)
    backbone = ResNetBackbone.from_pretrained(f"{tmp_path}/hf").eval()
    model = ResNetModel.from_pretrained(f"{tmp_path}/hf").eval()
    with torch.no_grad():
        wanted, found = encoder(x), backbone(x).feature_maps
        last = model(x).last_hidden_state
    assert [m.shape for m in found] == [m.shape for m in wanted]
    for ours, theirs in zip(wanted, found, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(last, wanted[-1], rtol=1e-5, atol=1e-5)
    assert set(load_file(f"{tmp_path}/hf/model.safetensors")) == set(model.state_dict())


@pytest.mark.parametrize("layout", ["timm", "torchvision", "torchgeo"])
def test_names_are_those_of_torchvision_and_values_ours(tmp_path: Path, layout: str) -> None:
    url, encoder = saved(tmp_path, 18, 2)
    export(url, f"{tmp_path}/out", layout)
    state = load_file(f"{tmp_path}/out/model.safetensors")
    assert all(torch.equal(state[n], v) for n, v in encoder.state_dict().items())
    assert {"conv1.weight", "bn1.running_mean", "layer2.0.downsample.0.weight", "layer4.1.bn2.bias"} < set(state)
    config = json.loads((tmp_path / "out/config.json").read_text())
    if layout == "timm":
        assert (config["architecture"], config["num_classes"], config["model_args"]) == ("resnet18", 0, {"in_chans": 2})
        assert config["pretrained_cfg"]["input_size"] == [2, 224, 224]
        assert (config["pretrained_cfg"]["mean"], config["pretrained_cfg"]["std"]) == ([0.449] * 2, [0.226] * 2)
    if layout == "torchgeo":
        plain = torch.load(tmp_path / "out" / config["file"], weights_only=True)
        assert all(torch.equal(plain[n], v) for n, v in encoder.state_dict().items())
        from infra.record import sha256

        digest = sha256((tmp_path / "out" / config["file"]).read_bytes())
        assert re.fullmatch(r"resnet18-sar-di3cl-([0-9a-f]{8})\.pth", config["file"])[1] == digest[:8]
        assert config["transforms"]["mean"] == pytest.approx([-35 + 0.449 * 45] * 2)
        assert config["transforms"]["std"] == pytest.approx([0.226 * 45] * 2)


def test_the_stac_item_holds_all_that_the_extension_asks(tmp_path: Path) -> None:
    import pystac

    url, encoder = saved(tmp_path, 18, 1)
    export(url, f"{tmp_path}/out", "torchgeo", licence="CC-BY-4.0")
    plain = json.loads((tmp_path / "out/mlm.json").read_text())
    assert plain["stac_extensions"][0] == "https://stac-extensions.github.io/mlm/v1.5.2/schema.json"
    known = {"name", "architecture", "tasks", "input", "output", "framework", "framework_version", "total_parameters"}
    known |= {"memory_size", "pretrained", "pretrained_source", "hyperparameters"}
    assert {n.removeprefix("mlm:") for n in plain["properties"] if n.startswith("mlm:")} == known
    (given,) = plain["properties"]["mlm:input"]
    assert given["input"] == {
        "shape": [-1, 1, -1, -1], "dim_order": ["batch", "bands", "height", "width"], "data_type": "float32",
    }  # fmt: skip
    assert given["value_scaling"][0] == {
        "type": "z-score",
        "mean": pytest.approx(-14.795),
        "stddev": pytest.approx(10.17),
    }
    assert plain["properties"]["bands"] == [{"name": "backscatter", "description": "backscatter", "unit": "dB"}]
    assert [o["result"]["shape"][1] for o in plain["properties"]["mlm:output"]] == [64, 128, 256, 512]
    assert plain["properties"]["mlm:total_parameters"] == sum(p.numel() for p in encoder.parameters())
    for asset in plain["assets"].values():
        content = (tmp_path / "out" / asset["href"]).read_bytes()
        from infra.record import sha256

        assert (asset["file:size"], asset["file:checksum"]) == (len(content), f"1220{sha256(content)}")
        assert "mlm:model" in asset["roles"]
        assert asset["mlm:artifact_type"]
    # The newest version that pystac knows is 1.4.0; its reader takes the fields that both have.
    old = plain | {"stac_extensions": ["https://stac-extensions.github.io/mlm/v1.4.0/schema.json"]}
    item = pystac.Item.from_dict(old)
    mlm = MLMExtension.ext(item)
    assert (mlm.architecture, mlm.pretrained) == ("ResNet-18", True)
    assert mlm.input[0].bands == ["backscatter"]
    assert mlm.output[3].result.shape == [-1, 512, -1, -1]


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_the_card_says_what_to_feed(tmp_path: Path, layout: str) -> None:
    url, _ = saved(tmp_path, 18, 1)
    export(url, f"{tmp_path}/out", layout, licence="CC-BY-4.0")
    text = (tmp_path / "out/README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["license"] == "cc-by-4.0"
    assert head["pipeline_tag"] == "image-feature-extraction"
    for wanted in (
        "-35 to 10 dB",
        "b" * 64,
        "c" * 64,
        "arXiv 2511.07808",
        "(dB + 35) / 45",
        "## Limits",
        "## Citation",
    ):
        assert wanted in text
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code
    compile(code[1], "card", "exec")


def test_the_cards_own_lines_give_the_networks_input(tmp_path: Path) -> None:
    """Decibels by the card's formula are what our own path from codes gives."""
    import numpy as np

    from pretrain.encoder import to_input

    url, _ = saved(tmp_path)
    export(url, f"{tmp_path}/out", "timm")
    code = re.search(r"```python\n(.*?)encoder =", (tmp_path / "out/README.md").read_text(), re.DOTALL)
    assert code
    scale = DbScale()
    codes = torch.arange(0, 60000, 777, dtype=torch.int32).view(1, 1, -1)
    names = {"numpy": np, "torch": torch, "db": scale.decode(codes[0].numpy().astype(np.uint16))}
    exec(code[1], names)
    torch.testing.assert_close(names["x"][0], to_input(codes, scale, InputSpec())[0], rtol=0, atol=1e-5)


def test_hostile_and_missing_sources_are_refused_in_words(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    url, encoder = saved(tmp_path / "good")
    command = ["export", "--format", "timm", "--out", f"{tmp_path}/out"]
    (tmp_path / "text.safetensors").write_bytes(b"nothing of the kind")
    (tmp_path / "foreign.safetensors").write_bytes(save({"a": torch.ones(2)}))
    for source, words in (
        (f"{tmp_path}/absent.safetensors", "expected a finished run or an encoder"),
        (f"{tmp_path}/empty", "no run at"),
        (f"{tmp_path}/text.safetensors", "is not an encoder of this project"),
        (f"{tmp_path}/foreign.safetensors", "is not an encoder of this project"),
    ):
        assert exit_code(APP, [*command, source]) == 2
        assert words in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
    with torch.no_grad():
        encoder.conv1.weight[0, 0, 0, 0] = torch.nan
    (tmp_path / "nan.safetensors").write_bytes(encoder_bytes(encoder, card()))
    with pytest.raises(UsageError, match="not finite"):
        export(f"{tmp_path}/nan.safetensors", f"{tmp_path}/out", "timm")
    with pytest.raises(UsageError, match="no layout"):
        export(url, f"{tmp_path}/out", "onnx")
    with pytest.raises(UsageError, match="SPDX"):
        export(url, f"{tmp_path}/out", "timm", licence="MIT\nlicense: evil")
    export(url, f"{tmp_path}/out", "timm")
    with pytest.raises(ConflictError, match="already holds"):
        export(url, f"{tmp_path}/out", "torchgeo")


def test_a_hostile_method_name_stays_text(tmp_path: Path) -> None:
    url, _ = saved(tmp_path, method="../../x\n# <script>|`")
    export(url, f"{tmp_path}/out", "torchgeo")
    text = (tmp_path / "out/README.md").read_text()
    assert "<script>" not in text.split("---\n", 2)[2]
    assert "\n# " in text
    assert text.count("\n# ") == 1
    assert json.loads((tmp_path / "out/mlm.json").read_text())["properties"]["mlm:name"] == "resnet18-sar-x-script"


@pytest.mark.parametrize("depth", [18, 50])
def test_every_name_has_one_name_in_transformers(depth: int) -> None:
    names = list(ResNet(depth, 1).state_dict())
    assert len({huggingface_name(n) for n in names}) == len(names)
    with pytest.raises(ValueError, match="no parameter"):
        huggingface_name("fc.weight")
