"""Batch norm by choice: of a rank's samples, of all ranks' samples together, or of groups within a rank.

Running statistics never touch training, but they are part of the encoder that is saved: :class:`RunningStatistics`
keeps them the mean over the ranks, so that all ranks hold the same numbers after every step, and a restart changes
nothing.
"""

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from infra.world import World

Kind = Literal["local", "sync", "split"]


def convert(module: nn.Module, kind: Kind, world: World, groups: int = 8) -> None:
    """Replace, in place, every batch norm within ``module``; parameters, buffers and their names stay the same.

    local: nothing changes. sync: mean and variance are those of all ranks' samples. split: a rank's samples are
    normalised in ``groups`` equal consecutive parts, as that many ranks would do it.
    """
    if kind == "local" or (kind == "sync" and world.size == 1):
        return
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(child, SyncBatchNorm | SplitBatchNorm):
                setattr(parent, name, _made(child, kind, world, groups))


def _made(norm: _BatchNorm, kind: Kind, world: World, groups: int) -> nn.Module:
    if kind == "sync" and world.device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(norm)  # type: ignore[no-any-return,no-untyped-call]
    made = SyncBatchNorm(norm.num_features) if kind == "sync" else SplitBatchNorm(norm.num_features, groups)
    made.eps, made.momentum = norm.eps, norm.momentum
    made.affine, made.track_running_stats = norm.affine, norm.track_running_stats
    made.weight, made.bias = norm.weight, norm.bias
    made.running_mean, made.running_var = norm.running_mean, norm.running_var
    made.num_batches_tracked = norm.num_batches_tracked
    return made.train(norm.training)


class _Norm(_BatchNorm):
    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"expected (N, C, ...), found {tuple(x.shape)}")

    def _factor(self) -> float:
        """Count a batch, and give its share in the running statistics."""
        self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        return 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Give (N, C, ...) normalised over all axes but C."""
        self._check_input_dim(x)
        return self.trained(x) if self.training else super().forward(x)

    def trained(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class SplitBatchNorm(_Norm):
    """Batch norm of equal consecutive groups of a batch; running statistics are the mean of the groups'."""

    def __init__(self, features: int, groups: int) -> None:
        super().__init__(features)
        self.groups = groups

    def trained(self, x: Tensor) -> Tensor:
        """Normalise each group. Raises ValueError where the groups are not equal."""
        if len(x) % self.groups or len(x) < 2 * self.groups:
            raise ValueError(
                f"{len(x)} samples do not make {self.groups} equal groups of at least 2 (--batch-norm-groups)"
            )
        if self.running_mean is None or self.running_var is None:
            return torch.cat([self._normalised(part, None, None, 0.0) for part in x.chunk(self.groups)])
        means, variances = self.running_mean.repeat(self.groups, 1), self.running_var.repeat(self.groups, 1)
        factor = self._factor()
        parts = zip(x.chunk(self.groups), means, variances, strict=True)
        joined = torch.cat([self._normalised(part, mean, variance, factor) for part, mean, variance in parts])
        self.running_mean.copy_(means.mean(0))
        self.running_var.copy_(variances.mean(0))
        return joined

    def _normalised(self, x: Tensor, mean: Tensor | None, variance: Tensor | None, factor: float) -> Tensor:
        return functional.batch_norm(x, mean, variance, self.weight, self.bias, True, factor, self.eps)


class SyncBatchNorm(_Norm):
    """Batch norm of all ranks' samples, for gloo; torch's own needs a GPU."""

    def trained(self, x: Tensor) -> Tensor:
        """Normalise by the statistics of all ranks."""
        y, mean, variance = _Synced.apply(x, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        if self.running_mean is not None and self.running_var is not None:
            factor = self._factor()
            self.running_mean.lerp_(mean, factor)
            self.running_var.lerp_(variance, factor)
        return y  # type: ignore[no-any-return]


class _Synced(torch.autograd.Function):
    """With xhat = (x - mean) / sd over all ranks' n values: dx = w / sd (dy - mean(dy) - xhat mean(dy xhat)).

    Source: Ioffe and Szegedy 2015, section 3, with the means over all ranks. One sum over the ranks each way.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
        axes = [0, *range(2, x.dim())]
        variance, mean = torch.var_mean(_precise(x), axes, unbiased=False)
        # Sums in float64: the square of a mean far from zero would swallow the variance in float32.
        own = float(x.numel() // x.shape[1])
        m = mean.double()
        sums = torch.cat([m * own, (variance.double() + m * m) * own, m.new_full((1,), own)])
        dist.all_reduce(sums)
        count = sums[-1]
        m, square = (sums[:-1] / count).chunk(2)
        mean, variance = m.to(mean.dtype), (square - m * m).clamp_(min=0).to(mean.dtype)
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, scale, count)
        unbiased = variance * (count / (count - 1)).to(mean.dtype)
        ctx.mark_non_differentiable(mean, unbiased)
        return _normalised(x, mean, scale, weight, bias), mean, unbiased

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, count = ctx.saved_tensors
        axes = [0, *range(2, x.dim())]
        xhat = (_precise(x) - _wide(mean, x)) * _wide(scale, x)
        dbias, dweight = _precise(dy).sum(axes), (dy * xhat).sum(axes)
        sums = torch.cat([dbias, dweight]).double()
        dist.all_reduce(sums)
        first, second = (sums / count).to(xhat.dtype).chunk(2)
        dx = (dy - _wide(first, x) - xhat * _wide(second, x)) * _wide(scale if weight is None else scale * weight, x)
        # The gradients of weight and bias are this rank's: they are averaged with all others.
        return dx.to(x.dtype), None if weight is None else dweight, None if weight is None else dbias, None


def _normalised(x: Tensor, mean: Tensor, scale: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    factor = scale if weight is None else scale * weight
    shift = -mean * factor if bias is None else bias - mean * factor
    return torch.addcmul(_wide(shift, x), x, _wide(factor, x)).to(x.dtype)


def _precise(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _wide(value: Tensor, like: Tensor) -> Tensor:
    return value.view(1, -1, *[1] * (like.dim() - 2))


class RunningStatistics:
    """Keeps running statistics of batch norms that see one rank's samples the mean over all ranks.

    ``begin`` after the forward pass sends them off, ``finish`` after the backward pass puts the means in place.
    """

    def __init__(self, module: nn.Module, world: World) -> None:
        synced = SyncBatchNorm | nn.SyncBatchNorm
        norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and not isinstance(m, synced)]
        found = [b for m in norms if m.track_running_stats for b in (m.running_mean, m.running_var) if b is not None]
        self._buffers: list[Tensor] = found if world.size > 1 else []
        self._size = world.size
        self._going: tuple[Tensor, Any] | None = None

    def begin(self) -> None:
        """Start adding up; training goes on."""
        if self._buffers:
            joined = torch.cat(self._buffers)
            self._going = joined, dist.all_reduce(joined, async_op=True)

    @torch.no_grad()
    def finish(self) -> None:
        """Put the means in place."""
        if self._going is not None:
            (joined, work), self._going = self._going, None
            work.wait()
            parts = torch.split(joined / self._size, [len(b) for b in self._buffers])
            torch._foreach_copy_(self._buffers, list(parts))
