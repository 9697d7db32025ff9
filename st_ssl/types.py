"""What the rooms hand to each other. B batch, V views, T frames, H W size, C channels, L tokens, D embedding."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class VideoMeta:
    """What is known of a video before decoding it. ``fps`` in frames per second, sizes in pixels as displayed."""

    num_frames: int
    fps: float
    width: int
    height: int


@dataclass(frozen=True)
class VideoEntry:
    """One row of a video source: where it is, to which split it belongs, and its labels by target name.

    Only ``num_frames`` frames from ``start`` on belong to it (None: all up to the end). ``tags`` are the labels of a
    video that has any number of them; nothing uses them yet.
    """

    path: str
    split: str = "train"
    labels: dict[str, str] = field(default_factory=dict)
    start: int = 0
    num_frames: int | None = None
    tags: tuple[str, ...] = ()


class Mask(NamedTuple):
    """Token indices of one clip, each sorted: ``keep`` int64 [K] is what an encoder sees, ``masked`` int64 [L - K]."""

    keep: np.ndarray
    masked: np.ndarray


@dataclass
class RawView:
    """One view of a batch on its way from the workers: uint8 pixels, and the parameters of what is still to be done.

    ``frames`` uint8 [B, T, H, W, 3], already cropped and resized; ``params`` name to [B, 1 or T, k] (a time axis of 1
    means the same for all frames of a clip); ``frame_index`` int64 [B, T]; ``keep`` / ``masked`` int64 [B, K] / [B, M].
    """

    frames: Tensor
    params: dict[str, Tensor]
    frame_index: Tensor
    keep: Tensor | None = None
    masked: Tensor | None = None


@dataclass
class View:
    """One view as a method sees it: ``clip`` float [B, C, T, H, W], normalised; masks as in ``RawView``."""

    clip: Tensor
    frame_index: Tensor
    keep: Tensor | None = None
    masked: Tensor | None = None

    def __len__(self) -> int:
        return self.clip.shape[0]


@dataclass
class Features:
    """What every encoder returns: ``tokens`` [B, L, D] or ``map`` [B, D, T, H, W], and ``pooled`` [B, D]."""

    pooled: Tensor
    tokens: Tensor | None = None
    map: Tensor | None = None

    def as_tokens(self) -> Tensor:
        """The local features as [B, L, D], whichever form the encoder gives them in."""
        if self.tokens is not None:
            return self.tokens
        assert self.map is not None
        return self.map.flatten(2).transpose(1, 2)
