"""Published checkpoints in both naming schemes, written here and compared with a network built the published way."""

import io
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from infra.errors import UsageError
from pretrain.config import EncoderConfig
from pretrain.di3cl_network import DI3CLNetwork, load_published
from pretrain.di3cl_run import ContrastConfig, DI3CLRun, HeadConfig
from pretrain.encoder import ResNet
from pretrain.export import load_weights
from pretrain.published import network_tensors

HIDDEN, DIM, KEYS = 24, 8, 32
NEWER = {
    "low": "low_projector", "global": "global_projector", "local_q": "local_proj_q", "local_k": "local_proj_k",
    "predictor": "local_predictor", "queue": "global_queue", "queue_low": "local_queue",
}  # fmt: skip
OLDER = {
    "low": "low_feature_projector", "global": "global_feature_projector", "local_q": "local_projector_q",
    "local_k": "local_projector_k", "predictor": "predictor", "queue": "queue", "queue_low": "queue2",
}  # fmt: skip
SCHEMES = {"newer": NEWER, "older": OLDER}


class Head(nn.Module):
    def __init__(self, inside: int, *, norm: bool) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(inside, HIDDEN), *([nn.BatchNorm1d(HIDDEN)] if norm else []), nn.ReLU(), nn.Linear(HIDDEN, DIM)
        )


class Published(nn.Module):
    """Tensors arranged as the published code has them, with torchvision's names in the encoder."""

    def __init__(self, names: dict[str, str], depth: int) -> None:
        super().__init__()
        for side in "qk":
            branch = nn.Module()
            branch.encoder = ResNet(depth, 3)
            branch.add_module(names["low"], Head(branch.encoder.channels[2], norm=False))
            branch.add_module(names["global"], Head(branch.encoder.channels[3], norm=False))
            self.add_module(f"encoder_{side}", branch)
            self.add_module(names[f"local_{side}"], Head(branch.encoder.channels[3], norm=True))
        self.add_module(names["predictor"], Head(DIM, norm=True))
        for name in (names["queue"], names["queue_low"]):
            self.register_buffer(name, functional.normalize(torch.randn(DIM, KEYS), dim=0))
        self.register_buffer("queue_ptr", torch.tensor([16]))


@cache
def published(scheme: str) -> Published:
    torch.manual_seed(3)
    made = Published(SCHEMES[scheme], 18)
    with torch.no_grad():
        for name, value in made.state_dict().items():
            if value.is_floating_point() and ("running" in name or ".bn" in name):
                value.uniform_(0.5, 1.5)
    return made.eval()


def write(path: Path, network: Published) -> str:
    """A checkpoint as the published loop writes it."""
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    optimiser = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.03, "params": [0]}]}
    torch.save({"epoch": 400, "arch": "resnet18", "state_dict": state, "optimizer": optimiser}, path)
    return str(path)


def ours(**changes: Any) -> DI3CLNetwork:
    values = {
        "encoder": EncoderConfig(depth=18, bands=3),
        "heads": HeadConfig(hidden=HIDDEN, dim=DIM),
        "contrast": ContrastConfig(queue=KEYS),
    }
    return DI3CLNetwork(DI3CLRun(batch=8, **(values | changes)))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_whole_network_answers_as_the_published_one(tmp_path: Path, scheme: str):
    theirs, network, names = published(scheme), ours(), SCHEMES[scheme]
    load_published(network, write(tmp_path / "published.pth.tar", theirs))
    network.eval()
    x, box = torch.randn(2, 3, 64, 64), torch.tensor([[[0.0, 0.0, 64.0, 64.0]]]).expand(2, -1, -1)
    for side, branch in (("q", network.query), ("k", network.key)):
        published_branch = getattr(theirs, f"encoder_{side}")
        maps = published_branch.encoder(x)
        instance = functional.normalize(getattr(published_branch, names["global"]).net(maps[3].mean((2, 3))))
        contour = functional.normalize(getattr(published_branch, names["low"]).net(maps[2].mean((2, 3))))
        found = branch(x, box, None)
        torch.testing.assert_close(found[0], instance)
        torch.testing.assert_close(found[1][:, 0], contour)
        region = getattr(theirs, names[f"local_{side}"]).net(found[2][:, 0])
        torch.testing.assert_close(branch.region(found[2][:, 0]), region)
    predicted = getattr(theirs, names["predictor"]).net(region)
    torch.testing.assert_close(network.predictor(region), predicted)
    for kind, name in (("instance", names["queue"]), ("contour", names["queue_low"])):
        assert torch.equal(network.queue.get_buffer(kind), theirs.get_buffer(name).t())
    assert network.queue.pointer.item() == 16


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bands", [1, 2, 3])
def test_an_encoder_starts_from_the_query_side(tmp_path: Path, scheme: str, bands: int):
    theirs, encoder = published(scheme), ResNet(18, bands)
    load_weights(encoder, write(tmp_path / "published.pth", theirs))
    band = torch.randn(2, 1, 64, 64)
    expected = theirs.get_submodule("encoder_q.encoder")(band.expand(-1, 3, -1, -1))
    for found, wanted in zip(encoder.eval()(band.expand(-1, bands, -1, -1)), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_a_run_and_its_twin_start_from_a_published_file(tmp_path: Path):
    theirs = published("newer")
    path = write(tmp_path / "published.pth", theirs)
    network = ours(encoder=EncoderConfig(depth=18, bands=3, weights=path))
    expected = theirs.get_submodule("encoder_q.encoder").state_dict()
    for side in (network.query, network.key):
        assert all(torch.equal(value, expected[name]) for name, value in side.encoder.state_dict().items())


def test_a_whole_network_is_adapted_to_one_band(tmp_path: Path):
    theirs = published("older")
    network = ours(encoder=EncoderConfig(depth=18, bands=1))
    load_published(network, write(tmp_path / "published.pth", theirs))
    kernel = theirs.get_submodule("encoder_k.encoder.conv1").weight
    torch.testing.assert_close(network.key.encoder.conv1.weight, kernel.sum(1, keepdim=True))


def test_an_encoder_of_moco_is_taken_too(tmp_path: Path):
    source, encoder = ResNet(18, 3), ResNet(18, 3)
    state: dict[str, Tensor] = {f"module.encoder_q.{name}": value for name, value in source.state_dict().items()}
    state |= {"module.encoder_q.fc.0.weight": torch.zeros(8, 512), "module.encoder_k.conv1.weight": torch.zeros(1)}
    torch.save({"state_dict": state}, tmp_path / "moco.pth")
    load_weights(encoder, str(tmp_path / "moco.pth"))
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in encoder.state_dict().items())


class Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("code ran",))


def test_files_with_code_other_networks_and_other_dials_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    hostile, network = io.BytesIO(), ours()
    state = {f"module.{name}": value for name, value in published("newer").state_dict().items()}
    torch.save({"state_dict": state, "optimizer": Hostile()}, hostile)
    (tmp_path / "hostile.pth").write_bytes(hostile.getvalue())
    for load in (lambda p: load_weights(network.query.encoder, p), lambda p: load_published(network, p)):
        with pytest.raises(UsageError, match="no plain tensors"):
            load(str(tmp_path / "hostile.pth"))
    assert "code ran" not in capsys.readouterr().out
    torch.save(network.query.encoder.state_dict(), tmp_path / "encoder.pth")
    with pytest.raises(UsageError, match=r"not a published DI3CL checkpoint.*encoder_q"):
        load_published(network, str(tmp_path / "encoder.pth"))
    del state["module.queue_ptr"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(UsageError, match="queue_ptr"):
        load_published(network, str(tmp_path / "part.pth"))
    path = write(tmp_path / "good.pth", published("newer"))
    with pytest.raises(UsageError, match=r"does not fit these dials \(--encoder.depth, --heads.hidden"):
        load_published(ours(contrast=ContrastConfig(queue=64)), path)


def test_published_sizes_have_the_published_names():
    """A ResNet-50 without values: names and shapes of its encoders."""
    with torch.device("meta"):
        config = DI3CLRun(encoder=EncoderConfig(depth=50, bands=3), contrast=ContrastConfig(queue=256))
        network, theirs = DI3CLNetwork(config), Published(NEWER, 50)
    found = network_tensors(theirs.state_dict(), 3)
    assert found.keys() == network.state_dict().keys()
    shapes = {n: v.shape for n, v in network.state_dict().items() if ".encoder." in n}
    assert all(found[name].shape == shape for name, shape in shapes.items())
