"""Processes that train together: who am I, and how do tensors and objects reach the others with correct gradients.

Every function also works in a single process, where it does nothing, so callers need no second code path.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def is_distributed() -> bool:
    """Whether a process group is up (``torchrun`` with more than one process)."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, 0 in a single process."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if is_distributed() else 1


def average_gradients(module: nn.Module) -> DistributedDataParallel:
    """``module`` with its gradients averaged over all processes. Its buffers, the same everywhere at first, are left
    alone from then on."""
    new = "forward_sync_buffers"  # since torch 2.13, which warns of the older name
    name = new if new in signature(DistributedDataParallel).parameters else "broadcast_buffers"
    alone: dict[str, Any] = {name: False}
    # Without find_unused_parameters DDP lays its buckets out anew after the first step, which changes the order of
    # summation: from three processes on, a resumed run would differ in the last bit from one that was never stopped.
    return DistributedDataParallel(module, find_unused_parameters=True, **alone)


class _GatherWithGradient(torch.autograd.Function):
    """All-gather along the batch. The gradient of a gathered row flows back to the process that computed the row,
    summed over all processes that used it; DDP's averaging then gives the gradient of the mean loss."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(parts, x.contiguous())
        ctx.rows = x.shape[0]
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def gather_with_gradient(x: Tensor) -> Tensor:
    """Rows of all processes in rank order, [B, D] to [world × B, D]; every process must bring equally many."""
    return _GatherWithGradient.apply(x) if is_distributed() else x


def gather_rows(x: Tensor) -> Tensor:
    """Rows of all processes in rank order, detached: [B, ...] to [world × B, ...]."""
    if not is_distributed():
        return x.detach()
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


def max_over_ranks(values: list[float], device: torch.device) -> list[float]:
    """Element-wise maximum over all processes: how they agree on a flag."""
    if not is_distributed():
        return values
    tensor = torch.tensor(values, dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return [float(v) for v in tensor.tolist()]


def sum_over_ranks(values: list[float], device: torch.device) -> list[float]:
    """Element-wise sum over all processes."""
    if not is_distributed():
        return values
    tensor = torch.tensor(values, dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)
    dist.all_reduce(tensor)
    return [float(v) for v in tensor.tolist()]


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean of a detached tensor over all processes."""
    if not is_distributed():
        return x
    x = x.clone()
    dist.all_reduce(x)
    return x / world_size()


def gather_objects(value: Any) -> list[Any]:
    """One small Python object from every process, in rank order. For the rare event, not for every step."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def gather_to_main(value: Any) -> list[Any]:
    """A Python object from every process, in rank order, on the main one; [] on the others."""
    if not is_distributed():
        return [value]
    values: list[Any] | None = [None] * world_size() if rank() == 0 else None
    dist.gather_object(value, values)
    return values or []


def barrier() -> None:
    """Wait for all processes."""
    if is_distributed():
        dist.barrier()
