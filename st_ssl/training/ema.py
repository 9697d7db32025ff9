"""An exponential moving average of a module's weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from st_ssl.training.checkpoint import CheckpointError, check_keys


@torch.no_grad()
def follow(slow: Mapping[str, Tensor], live: Mapping[str, Tensor], momentum: float) -> None:
    """One step of ``slow ← momentum · slow + (1 - momentum) · live``, in place and in the precision of ``slow``.

    Both are tensors by the same names, as ``state_dict`` gives them. Floats are averaged; integers and booleans (such
    as the batch count of a BatchNorm) are copied. ``momentum`` in [0, 1]: 1 keeps what there is, 0 copies.
    """
    assert 0 <= momentum <= 1, momentum
    assert slow.keys() == live.keys(), slow.keys() ^ live.keys()
    floats = [name for name, tensor in live.items() if tensor.is_floating_point()]
    if floats:
        targets = [live[name].to(slow[name].dtype) for name in floats]
        torch._foreach_lerp_([slow[name] for name in floats], targets, 1 - momentum)
    for name in live.keys() - set(floats):
        slow[name].copy_(live[name])


class EMA:
    """A slow copy of ``module``: ``slow ← decay · slow + (1 - decay) · module`` (Polyak & Juditsky, 1992).

    It covers every tensor of the module's state dict. Floats are averaged, 16-bit ones in float32 since a step of
    1 - decay would be rounded away; integers and booleans (such as the batch count of a BatchNorm) are copied.
    Build it once the module is on its device.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._slow = {name: tensor.to(_slow_dtype(tensor), copy=True) for name, tensor in _tensors(module).items()}

    def update(self, decay: float) -> None:
        """Take one step towards the module as it is now; ``decay`` in [0, 1]: 1 keeps the average, 0 copies."""
        follow(self._slow, _tensors(self.module), decay)

    def state_dict(self) -> dict[str, Tensor]:
        """The average by the module's own names. The tensors are the live ones, not copies."""
        return dict(self._slow)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what ``state_dict`` gave. Raises CheckpointError for names or shapes that do not fit."""
        _copy(tensors, self._slow)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def _slow_dtype(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32) if tensor.is_floating_point() else tensor.dtype


def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    check_keys(target, source, "the moving average")
    for name, tensor in target.items():
        if tensor.shape != source[name].shape:
            raise CheckpointError(f"{name!r} has shape {list(tensor.shape)}, not {list(source[name].shape)}")
    for name, tensor in target.items():
        tensor.copy_(source[name])
