"""What changes over a run as a function of the step alone, so that a resumed run needs no state for it."""

from __future__ import annotations

import math
import warnings
from typing import Literal, Self

from pydantic import Field, model_validator

from st_ssl.core.config import Config


class ScheduleConfig(Config):
    """Linear warm-up from ``warmup_lr`` over ``warmup_epochs``, then half a cosine down to ``min_lr``, or constant, or
    ``exponential``: times ``decay`` after ``every`` so many updates, but not below ``min_lr``.

    ``min_lr`` and ``warmup_lr`` are rates as used, not scaled with the batch. With ``of_peak`` they are shares of the
    peak rate, and so scale with the batch as it does (VideoMAE, 2022).
    """

    name: Literal["cosine", "constant", "exponential"] = "cosine"
    warmup_epochs: float = Field(default=0.0, ge=0)
    min_lr: float = Field(default=0.0, ge=0)
    warmup_lr: float = Field(default=0.0, ge=0)
    of_peak: bool = False
    decay: float = Field(default=0.99, gt=0, le=1)
    every: int = Field(default=250, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("min_lr", "warmup_lr") if self.of_peak else ():
            if getattr(self, name) > 1:
                raise ValueError(f"{name}={getattr(self, name)}: with of_peak it is a share of the peak, 0 … 1")
        if self.of_peak and not self.min_lr and not self.warmup_lr:
            warnings.warn("of_peak=true is ignored: min_lr and warmup_lr are 0", stacklevel=2)
        if self.name == "constant" and self.min_lr:
            warnings.warn(f"min_lr={self.min_lr} is ignored: the schedule is constant", stacklevel=2)
        for name in ("decay", "every") if self.name != "exponential" else ():
            if getattr(self, name) != ScheduleConfig.model_fields[name].default:
                warnings.warn(f"{name}={getattr(self, name)} is ignored: the schedule is not exponential", stacklevel=2)
        if self.warmup_lr and not self.warmup_epochs:
            warnings.warn(f"warmup_lr={self.warmup_lr} is ignored: warmup_epochs is 0", stacklevel=2)
        return self


def lr_at(step: int, total_steps: int, steps_per_epoch: float, config: ScheduleConfig, peak: float) -> float:
    """The learning rate of step ``step`` (from 0): cosine decay with warm-up (Loshchilov & Hutter, 2017; Goyal et al.,
    2017).

    ``peak`` is reached at the first step after warm-up, by the cosine ``min_lr`` at ``total_steps``, one past the last.
    A run that
    ends before its warm-up follows the warm-up line throughout. Neither ``min_lr`` nor ``warmup_lr`` can lift the rate
    above ``peak`` (a small batch may scale the peak below them).
    """
    warmup = round(config.warmup_epochs * steps_per_epoch)
    unit = peak if config.of_peak else 1.0
    if step < warmup:
        return between(min(config.warmup_lr * unit, peak), peak, step / warmup)
    if config.name == "constant":
        return peak
    if config.name == "exponential":
        return max(peak * config.decay ** ((step - warmup) // config.every), min(config.min_lr * unit, peak))
    return half_cosine(step - warmup, total_steps - warmup, peak, min(config.min_lr * unit, peak))


def half_cosine(step: int, total: float, start: float, end: float) -> float:
    """Half a cosine from ``start`` at step 0 to ``end`` at ``total`` and after."""
    return between(start, end, (1 - math.cos(math.pi * progress(step, total))) / 2)


def between(start: float, end: float, weight: float) -> float:
    """Exact at both ends: a momentum of 1 must be 1."""
    return start * (1 - weight) + end * weight


def progress(step: int, total: float) -> float:
    """The share of ``total`` steps that are done, 0 … 1."""
    return min(max(step / total, 0.0), 1.0) if total > 0 else 1.0
