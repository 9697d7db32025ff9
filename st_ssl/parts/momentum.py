"""Momentum encoders: how fast a slow copy of a network follows it (``training.ema.follow`` is one step of that)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from st_ssl.core.config import Config
from st_ssl.training.schedule import between, half_cosine, progress


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
