"""Checkpoints: one safetensors object each, checked when read, free of pickle, the newest few kept."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from safetensors.torch import save as encode
from torch import Tensor, nn

from infra.errors import UsageError
from infra.record import sha256
from infra.store import Corrupt, NotFound, Store
from pretrain.export import HEADER, read_header
from pretrain.run_folder import checkpoint_key, checkpoint_keys, checkpoint_name

FORMAT = "sarsense-checkpoint-1"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A state that was read and checked: ``step`` steps are done."""

    key: str
    step: int
    tensors: Mapping[str, Tensor]


def save(
    store: Store, module: nn.Module, optimiser: torch.optim.Optimizer, *, step: int, run_digest: str, keep: int
) -> str:
    """Put the state after ``step`` steps as one object, delete all but the newest ``keep``, and give its key.

    A save that is cut off leaves no object, or one whose checksum does not fit its name.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in _state(module, optimiser).items()}
    # One entry: safetensors writes several in an order of its own, and equal states must be equal bytes.
    header = json.dumps({"format": FORMAT, "step": step, "run": run_digest})
    data = encode(tensors, metadata={HEADER: header})
    key = checkpoint_key(step, sha256(data))
    store.put(key, data)
    for old in checkpoint_keys(store)[keep:]:
        store.delete(old)
    return key


def latest(store: Store, run_digest: str) -> Checkpoint | None:
    """Read the newest checkpoint that is whole; a damaged one is passed over with a warning.

    Raises UsageError where it belongs to another run.
    """
    for key in checkpoint_keys(store):
        try:
            return read(store, key, run_digest)
        except (ValueError, KeyError, SafetensorError, Corrupt, NotFound) as error:
            _log.warning("%s/%s is damaged (%s); trying the one before", store.url, key, error)
    return None


def read(store: Store, key: str, run_digest: str) -> Checkpoint:
    """Read one checkpoint. Raises ValueError where it is damaged, UsageError where it is of another run."""
    data = store.get(key)
    named = checkpoint_name(key)
    if named is None or sha256(data)[:16] != named[1]:
        raise ValueError("its content does not have the checksum in its name")
    header = json.loads(read_header(data)[HEADER])
    if header.get("format") != FORMAT:
        raise ValueError(f"format {header.get('format')!r}, expected {FORMAT!r}")
    if header["run"] != run_digest:
        raise UsageError(
            f"{store.url} holds checkpoints of run {header['run'][:12]}, this is run {run_digest[:12]}:"
            " give the same options as then, or another --out"
        )
    return Checkpoint(key, int(header["step"]), load(data))


def restore(checkpoint: Checkpoint, module: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Put a checkpoint's values into the module and the optimiser."""
    tensors = checkpoint.tensors
    module.load_state_dict({n.removeprefix("module."): t for n, t in tensors.items() if n.startswith("module.")})
    for name, parameter in _trained(module, optimiser):
        prefix = f"optim.{name}:"
        found = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        # AdamW keeps its count of steps, a scalar, on the CPU.
        state = {n: t.clone() if t.dim() == 0 else t.to(parameter.device, copy=True) for n, t in found.items()}
        if state:
            optimiser.state[parameter] = state


def _state(module: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = {f"module.{name}": value for name, value in module.state_dict().items()}
    for name, parameter in _trained(module, optimiser):
        for kind, value in optimiser.state.get(parameter, {}).items():
            if value is not None:
                state[f"optim.{name}:{kind}"] = torch.as_tensor(value)
    return state


def _trained(module: nn.Module, optimiser: torch.optim.Optimizer) -> Iterator[tuple[str, nn.Parameter]]:
    moved = {id(p) for group in optimiser.param_groups for p in group["params"]}
    return ((name, p) for name, p in module.named_parameters() if id(p) in moved)
