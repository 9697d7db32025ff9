"""Momentum encoders: how fast a slow copy of a network follows it, and one step of that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from st_ssl.config import Config
from st_ssl.schedule import between, half_cosine, progress


class MomentumConfig(Config):
    """The momentum of a teacher: from ``start`` to ``end`` over the first ``share`` of the run, then constant.

    ``cosine`` is half a cosine (BYOL, Grill et al. 2020), ``linear`` a straight line (data2vec, Baevski et al. 2022).
    """

    shape: Literal["cosine", "linear"] = "cosine"
    start: float = Field(default=0.996, ge=0, le=1)
    end: float = Field(default=1.0, ge=0, le=1)
    share: float = Field(default=1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.start > self.end:
            raise ValueError(f"a momentum rises: start {self.start} must not be above end {self.end}")
        return self

    def at(self, step: int, num_steps: int) -> float:
        """The momentum of update ``step`` (from 0) of ``num_steps``."""
        total = self.share * num_steps
        if self.shape == "cosine":
            return half_cosine(step, total, self.start, self.end)
        return between(self.start, self.end, progress(step, total))


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
