"""Where this process stands among the ranks of a training job."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class World:
    """Rank, number of ranks, and the device of this rank. One process needs no process group."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def lead(self) -> bool:
        """Whether this rank writes what is written once."""
        return self.rank == 0

    def share(self, total: int) -> slice:
        """Give this rank's part of ``total`` equal places. Raises ValueError where they do not divide."""
        if total % self.size:
            raise ValueError(f"{total} places do not divide among {self.size} ranks")
        each = total // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def all_gather(self, value: Tensor) -> Tensor:
        """Join every rank's ``value`` (equal shapes, any type) along axis 0 in rank order, without gradient."""
        if self.size == 1:
            return value.detach()
        # As bytes: gloo and nccl know neither uint16 nor bool.
        plain = value.detach().contiguous()
        flat = plain.view(torch.uint8).reshape(-1) if plain.dim() else plain.reshape(1).view(torch.uint8)
        joined = torch.empty(self.size * flat.numel(), dtype=torch.uint8, device=flat.device)
        dist.all_gather(list(joined.chunk(self.size)), flat)
        shape = (self.size * plain.shape[0], *plain.shape[1:]) if plain.dim() else (self.size,)
        return joined.view(plain.dtype).reshape(shape)

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Average named numbers over the ranks; every rank gives the same names and gets the same result."""
        if self.size == 1:
            return dict(values)
        names = sorted(values)
        together = torch.tensor([values[n] for n in names], dtype=torch.float64, device=self.device)
        dist.all_reduce(together)
        return dict(zip(names, (together / self.size).tolist(), strict=True))

    def any(self, flag: bool) -> bool:
        """Tell every rank whether any rank says so."""
        if self.size == 1:
            return flag
        told = torch.tensor([float(flag)], device=self.device)
        dist.all_reduce(told, op=dist.ReduceOp.MAX)
        return bool(told.item())

    def from_lead(self, value: Any) -> Any:
        """Give every rank the plain value that rank 0 has."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]


def current(device: Device = "auto") -> World:
    """Find this process's place: from torch.distributed where a group runs, else one rank of one."""
    joined = dist.is_available() and dist.is_initialized()
    rank, size = (dist.get_rank(), dist.get_world_size()) if joined else (0, 1)
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return World(rank, size, torch.device("cpu"))
    index = torch.cuda.current_device() if joined else 0
    return World(rank, size, torch.device("cuda", index))
