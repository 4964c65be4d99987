"""Parameters in parts, one on every rank (FSDP), for encoders that do not fit a device with their optimiser."""

from collections.abc import Iterator

from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from infra.errors import UsageError
from infra.world import World


def shard(module: nn.Module, world: World) -> None:
    """Divide, in place, every parameter among the ranks; buffers stay whole on each.

    Parameters are joined where they are used and divided again: a stage of an encoder or a head at a time. Checkpoints
    keep the plain format.
    """
    if world.size == 1:
        raise UsageError("--sharding fsdp needs several ranks: one rank holds everything in any case")
    mesh = init_device_mesh(world.device.type, (world.size,))
    for unit in _units(module):
        # Again also the outermost: a twin without gradient would otherwise stay joined when it is to follow.
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)


def _units(module: nn.Module) -> Iterator[nn.Module]:
    """Give what is always called as a whole: sequences of layers, and layers outside of them."""
    for child in module.children():
        if isinstance(child, nn.Sequential) or next(child.parameters(recurse=False), None) is not None:
            if any(True for _ in child.parameters()):
                yield child
        else:
            yield from _units(child)
