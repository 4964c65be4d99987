"""Checkpoints: one safetensors object each, checked when read, free of pickle, kept by rule."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from safetensors.torch import save as encode
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

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
    store: Store,
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    *,
    step: int,
    run_digest: str,
    keep: int,
    keep_every: int | None = None,
) -> str:
    """Put the state after ``step`` steps as one object, delete old ones as :func:`put` does, and give its key."""
    return put(store, snapshot(module, optimiser), step=step, run_digest=run_digest, keep=keep, keep_every=keep_every)


def snapshot(module: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Copy the state to this machine's memory: later steps do not change it. With fsdp every rank must take part."""
    # In one order on every rank: safetensors reads names in any order, and with it the optimiser has them.
    state = {name: whole(value.detach()) for name, value in sorted(_state(module, optimiser).items())}
    copied = {name: value.to("cpu", non_blocking=True, copy=True) for name, value in state.items()}
    if any(value.is_cuda for value in state.values()):
        torch.cuda.synchronize()
    return {name: value.contiguous() for name, value in copied.items()}


def put(
    store: Store,
    tensors: Mapping[str, Tensor],
    *,
    step: int,
    run_digest: str,
    keep: int,
    keep_every: int | None = None,
) -> str:
    """Put a snapshot as one object and give its key.

    Then all are deleted but the newest ``keep`` and those after a multiple of ``keep_every`` steps. A save that is cut
    off leaves no object, or one whose checksum does not fit its name.
    """
    # One entry: safetensors writes several in an order of its own, and equal states must be equal bytes.
    header = json.dumps({"format": FORMAT, "step": step, "run": run_digest})
    data = encode(dict(tensors), metadata={HEADER: header})
    key = checkpoint_key(step, sha256(data))
    store.put(key, data)
    for old in checkpoint_keys(store)[keep:]:
        named = checkpoint_name(old)
        if keep_every is None or named is None or named[0] % keep_every:
            store.delete(old)
    return key


def latest(store: Store, run_digest: str) -> Checkpoint | None:
    """Read the newest checkpoint that is whole; a damaged one is passed over with a warning.

    Raises UsageError where it belongs to another run or was written by a newer version.
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
        # Whole, as its checksum says: to pass over it would begin again what a newer version has done.
        raise UsageError(
            f"{store.url}/{key} has format {header.get('format')!r}, this version reads {FORMAT!r}:"
            " go on with the version that wrote it, or give another --out"
        )
    if header["run"] != run_digest:
        raise UsageError(
            f"{store.url} holds checkpoints of run {header['run'][:12]}, this is run {run_digest[:12]}:"
            " give the same options as then, or another --out"
        )
    return Checkpoint(key, int(header["step"]), load(data))


def restore(checkpoint: Checkpoint, module: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Put a checkpoint's values into the module and the optimiser."""
    tensors = checkpoint.tensors
    now = module.state_dict()
    given = {n.removeprefix("module."): t for n, t in tensors.items() if n.startswith("module.")}
    # Where nothing is in parts, load_state_dict itself copies, and names what does not fit.
    module.load_state_dict({n: like(t, now[n]) if isinstance(now.get(n), DTensor) else t for n, t in given.items()})
    on_device = any(group.get("fused") or group.get("capturable") for group in optimiser.param_groups)
    for name, parameter in _trained(module, optimiser):
        prefix = f"optim.{name}:"
        found = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        # AdamW keeps its count of steps, a scalar, on the CPU, unless it is one kernel.
        state = {n: t.clone() if t.dim() == 0 and not on_device else like(t, parameter) for n, t in found.items()}
        if state:
            optimiser.state[parameter] = state


def whole(value: Tensor) -> Tensor:
    """Join the parts of a tensor that lie on several ranks; give any other as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def like(value: Tensor, parameter: Tensor) -> Tensor:
    """Copy a tensor to where a parameter is: this rank's part of it where the parameter is in parts."""
    if isinstance(parameter, DTensor) and value.dim():
        moved = value.to(parameter.device)
        # Every rank takes its part of what it has read itself: the ranks do not meet their tensors in one order.
        return distribute_tensor(moved, parameter.device_mesh, parameter.placements, src_data_rank=None)
    # In the parameter's own order of memory, as the optimiser itself makes it.
    return torch.empty_like(parameter).copy_(value) if value.dim() else value.to(parameter.device, copy=True)


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
