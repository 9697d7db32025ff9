"""What there is to see of a batch: one hook for every method, and the report draws whatever it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from st_ssl.core.types import PointBatch


@dataclass(frozen=True)
class ClipExhibit:
    """Clips ``clip`` float [B, 3, T, H, W], RGB in 0 … 1 (an image is a clip of one frame), under a ``caption``."""

    caption: str
    clip: Tensor


@dataclass(frozen=True)
class CloudExhibit:
    """B clouds ``points``, coloured where they have the attribute ``color``, under a ``caption``."""

    caption: str
    points: PointBatch


@dataclass(frozen=True)
class LinksExhibit:
    """Which points of a batch's first two views are the same, ``pairs`` int64 [K, 2] (rows of both views' points), and
    the features by which a method compares them: ``first`` and ``second`` [P, D] of all points of either view."""

    pairs: Tensor
    first: Tensor
    second: Tensor


Exhibit = ClipExhibit | CloudExhibit | LinksExhibit
