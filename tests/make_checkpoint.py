"""Makes golden/checkpoint-1.safetensors, a checkpoint that every later version must read: python make_checkpoint.py."""

from pathlib import Path

import torch
from torch import nn

from infra.store import open_store
from pretrain.checkpoint import save

PLACE = Path(__file__).parent / "golden" / "checkpoint-1.safetensors"
RUN = "c" * 64
STEP = 7


def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
    """A network and an optimiser that have learnt nothing."""
    module = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2))
    module.register_buffer("queue", torch.zeros(3))
    return module, torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)


def state() -> tuple[nn.Module, torch.optim.Optimizer]:
    """The same with known numbers."""
    module, optimiser = fresh()
    with torch.no_grad():
        for start, value in enumerate(module.state_dict().values()):
            value.copy_((torch.arange(value.numel()) + start).view(value.shape) / 8)
        for start, parameter in enumerate(module.parameters()):
            momentum = (torch.arange(parameter.numel()) - start).view(parameter.shape) / 16
            optimiser.state[parameter]["momentum_buffer"] = momentum
    return module, optimiser


def encoded() -> bytes:
    """The bytes of the checkpoint as this version writes it."""
    store = open_store("memory://make-checkpoint")
    return store.get(save(store, *state(), step=STEP, run_digest=RUN, keep=1))


if __name__ == "__main__":
    PLACE.write_bytes(encoded())
