"""The contract between a method and everything else: what it wants to see, and what it makes of that."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from st_ssl.core.config import Config
from st_ssl.core.inputs import Modality
from st_ssl.core.registry import Registry
from st_ssl.data.base import Views
from st_ssl.encoders.base import Encoder

MethodOutput = dict[str, Tensor]
"""Scalars by name; ``"loss"`` is what is minimised, the others are logged."""


@dataclass
class Matches:
    """Which points of a batch's first two views are the same, ``pairs`` int64 [K, 2] (rows of both views' points), and
    the features by which a method compares them: ``first`` and ``second`` [P, D] of all points of either view."""

    pairs: Tensor
    first: Tensor
    second: Tensor


class Method(nn.Module, ABC):
    """A pretraining method around an encoder.

    ``views`` declares what the method wants to see. Its work is in two parts, so that a loss which compares samples
    can be taken over a batch that does not fit in memory at once: ``outputs`` maps the views of some samples to
    tensors whose first axis is the sample, and ``losses`` maps those of the whole batch to scalars.
    """

    modality: ClassVar[Modality] = "video"
    encoder: Encoder
    views: Views
    compares_samples: ClassVar[bool] = False
    """Whether a sample's loss depends on the other samples of the batch."""

    def __init__(self, config: Config, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder

    @abstractmethod
    def outputs(self, views: list[Any]) -> dict[str, Tensor]:
        """Views to tensors, samples along the first axis."""

    @abstractmethod
    def losses(self, outputs: dict[str, Tensor]) -> MethodOutput:
        """Outputs of a whole batch to scalars, ``"loss"`` among them."""

    def forward(self, views: list[Any], output_gradients: dict[str, Tensor] | None = None) -> MethodOutput:
        """The losses of a batch. With ``output_gradients`` (of the whole batch's loss by this part's outputs), the
        scalar whose gradient is this part's share: gradient caching (Gao et al. 2021)."""
        outputs = self.outputs(views)
        if output_gradients is None:
            return self.losses(outputs)
        terms = [(outputs[name] * gradient).sum() for name, gradient in output_gradients.items()]
        return {"loss": torch.stack(terms).sum()}

    def after_update(self, step: int, num_steps: int) -> None:
        """Called once the optimiser has taken update ``step`` (from 0) of ``num_steps``: where a teacher follows its
        student. What it changes must be in the state dict, and depend on nothing else, for a run to be resumed."""

    def pictures(self, views: list[Any]) -> dict[str, Any]:
        """What there is to see besides the views, for the report: captions to clips [B, 3, T, H, W] in 0 … 1, or to a
        ``PointBatch`` of B clouds (coloured, where they have the attribute ``color``)."""
        return {}

    def matches(self, views: list[Any]) -> Matches | None:
        """For the report, of a method that compares the points of two views; None of any other."""
        return None


METHODS: Registry[Method] = Registry("method", "st_ssl.methods")
