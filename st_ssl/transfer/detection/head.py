"""What the heads of detectors share: where their map lies, what they return, and the boxes that count."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from st_ssl.core.boxes import BOX, BoxBatch
from st_ssl.ops.boxes import box_corners, nms
from st_ssl.ops.volumes import Range


@dataclass(frozen=True)
class Ground:
    """The map of a head: ``range`` in metres, seen from above in cells of ``cell`` metres along x and y."""

    range: Range
    cell: tuple[float, float]

    @property
    def size(self) -> tuple[int, int]:
        """Cells along x and y."""
        low, high = self.range[:2], self.range[3:5]
        x, y = (round((b - a) / size) for a, b, size in zip(low, high, self.cell, strict=True))
        return x, y


class Head(nn.Module, ABC):
    """From maps [B, C, H, W] to boxes. ``targets`` and ``loss`` train it, ``decode`` reads its predictions."""

    ground: Ground

    @abstractmethod
    def forward(self, bev: Tensor) -> Any:
        """Predictions of a map [B, C, H, W], rows along y and columns along x, over ``ground``."""

    @abstractmethod
    def pack(self, predictions: Any) -> Tensor:
        """Predictions as one tensor, clouds first."""

    @abstractmethod
    def unpack(self, packed: Tensor) -> Any:
        """The predictions that ``pack`` was given."""

    @abstractmethod
    def targets(self, boxes: BoxBatch) -> Any:
        """What the predictions should be for ``boxes``. Those of class -1 are left out."""

    @abstractmethod
    def loss(self, predictions: Any, targets: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its parts, which add up to it."""

    @abstractmethod
    def decode(self, predictions: Any) -> BoxBatch:
        """The boxes found, best first, with their ``score`` 0 … 1 among the facts; a velocity that the head does not
        tell is NaN."""


def within(boxes: BoxBatch, range: Range) -> BoxBatch:
    """The boxes that a head can learn from: of a known class (not -1), of a size above 0, and with a corner in
    ``range``."""
    corners = box_corners(boxes.values[:, :7])
    low, high = corners.new_tensor(range[:3]), corners.new_tensor(range[3:])
    seen = ((corners >= low) & (corners <= high)).all(2).any(1)
    seen &= (boxes.classes >= 0) & (boxes.values[:, 3:6] > 0).all(1)
    counts = torch.cat([boxes.offsets.new_zeros(1), seen.long().cumsum(0)])
    facts = {name: value[seen] for name, value in boxes.facts.items()}
    return BoxBatch(boxes.values[seen], boxes.classes[seen], counts[boxes.offsets], facts)


def suppress(values: Tensor, scores: Tensor, threshold: float, most: int) -> Tensor:
    """The rows int64 of ``values`` [K, 7 or more] to keep, at most ``most``, best first: of those whose overlap seen
    from above exceeds ``threshold`` the one with the highest of ``scores`` [K]."""
    return nms(values[:, :7], scores, threshold)[:most]


def found(clouds: list[tuple[Tensor, Tensor, Tensor]]) -> BoxBatch:
    """The boxes [K, 7 or 9], scores [K] and classes [K] of each cloud as one batch."""
    values, scores, classes = (torch.cat(parts) for parts in zip(*clouds, strict=True))
    unknown = values.new_full((len(values), len(BOX) - values.shape[1]), torch.nan)
    counts = classes.new_tensor([0, *(len(part) for part, _, _ in clouds)])
    return BoxBatch(torch.cat([values, unknown], 1), classes, counts.cumsum(0), {"score": scores})
