"""Batch normalisation over the batch of all processes, on any device: torch's SyncBatchNorm is for GPUs alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class DistributedBatchNorm(_BatchNorm):
    """Batch normalisation (Ioffe & Szegedy, 2015) whose batch is that of all processes of the default group.

    Input and output [B, C, ...] with at least 2 dimensions; B may differ between processes, and be 0 on some. The
    running statistics and the keys of the state dict are those of ``BatchNorm``, and equal on all processes. The
    gradient of the input is that of the sum of the losses of all processes; those of weight and bias are each
    process's own share, for DDP to reduce. In evaluation, or with a single process, it is plain BatchNorm.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected an input of at least 2 dimensions, got shape {list(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        distributed = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        if not self.training or not distributed:
            return super().forward(input)
        self._check_input_dim(input)
        output, mean, var, count = _GlobalBatchNorm.apply(input, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            self._track(mean, var * (count / (count - 1)))
        return output

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor) -> None:
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        factor = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        for running, value in ((self.running_mean, mean), (self.running_var, var)):
            running.mul_(1 - factor).add_(value.to(running.dtype), alpha=factor)


def convert_batchnorm(module: nn.Module, device_type: str) -> nn.Module:
    """``module`` with every BatchNorm over all processes: SyncBatchNorm on "cuda", DistributedBatchNorm elsewhere.

    Parameters and buffers are the same objects as before, so an optimiser built earlier still holds. The module is
    changed in place; only where it is itself a BatchNorm is the returned one new.
    """
    if device_type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    if isinstance(module, _BatchNorm):
        return _distributed(module)
    twins: dict[nn.Module, nn.Module] = {}  # a layer used in two places stays one layer
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, _BatchNorm):
                parent._modules[name] = twins.setdefault(child, _distributed(child))
    return module


def _distributed(old: _BatchNorm) -> DistributedBatchNorm:
    new = DistributedBatchNorm(old.num_features, old.eps, old.momentum, old.affine, old.track_running_stats)
    for name, parameter in old._parameters.items():
        new._parameters[name] = parameter
    for name, buffer in old._buffers.items():
        new._buffers[name] = buffer
    return new.train(old.training)


class _GlobalBatchNorm(torch.autograd.Function):
    """(input, weight, bias, eps) to (output, mean [C], biased variance [C], count): statistics over all processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, ...]:
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        axes, shape = _axes(x)
        mean, var, count = _global_statistics(values, axes, shape)
        invstd = torch.rsqrt(var + eps)
        normed = (values - mean.view(shape)) * invstd.view(shape)
        output = normed if weight is None else normed * weight.to(normed.dtype).view(shape)
        output = output if bias is None else output + bias.to(normed.dtype).view(shape)
        ctx.save_for_backward(x, weight, mean, invstd, count)
        ctx.mark_non_differentiable(mean, var, count)
        return output.to(x.dtype), mean, var, count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the output [B, C, ...] to those of input, weight [C] and bias [C]. That of the input counts
        the outputs of all processes; those of weight and bias are of this process alone, for DDP to average."""
        x, weight, mean, invstd, count = ctx.saved_tensors
        axes, shape = _axes(x)
        grad = grads[0].to(mean.dtype)
        normed = (x.to(mean.dtype) - mean.view(shape)) * invstd.view(shape)
        local = torch.stack([grad.sum(axes), (grad * normed).sum(axes)])
        grad_x = None
        if ctx.needs_input_grad[0]:
            both = local.clone()
            dist.all_reduce(both)
            mean_grad, mean_projected = (both / count).view(2, *shape).unbind()
            scale = invstd if weight is None else invstd * weight.to(mean.dtype)
            grad_x = ((grad - mean_grad - normed * mean_projected) * scale.view(shape)).to(x.dtype)
        grad_weight = local[1].to(weight.dtype) if ctx.needs_input_grad[1] else None
        grad_bias = local[0].to(weight.dtype) if ctx.needs_input_grad[2] else None
        return grad_x, grad_weight, grad_bias, None


def _axes(x: Tensor) -> tuple[list[int], list[int]]:
    return [axis for axis in range(x.dim()) if axis != 1], [1, -1] + [1] * (x.dim() - 2)


def _global_statistics(values: Tensor, axes: list[int], shape: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance and count over all processes from those of each (Chan et al., 1979), in one exchange."""
    size = values.numel() // values.shape[1]
    mean = values.sum(axes) / max(size, 1)
    squares = (values - mean.view(shape)).square().sum(axes)  # centred first: sums of raw squares cancel
    own = torch.cat([mean, squares, values.new_tensor([size])])
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own)
    table = torch.stack(parts)
    (means, squares), counts = table[:, :-1].unflatten(1, (2, -1)).unbind(1), table[:, -1:]
    count = counts.sum()
    if count <= 1:
        raise ValueError(f"batch statistics need more than 1 value per channel over all processes, got {int(count)}")
    mean = (means * counts).sum(0) / count
    var = (squares.sum(0) + (counts * (means - mean).square()).sum(0)) / count
    return mean, var, count
