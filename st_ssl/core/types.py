"""What the rooms hand to each other. B batch, V views, T frames, H W size, C channels, N points, L tokens, G groups,
K neighbours or kept tokens, D embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    TensorMap = Callable[[Tensor], Tensor]


_Holder = TypeVar("_Holder", "RawView", "View", "RawPointView", "PointView", "PointBatch")


@dataclass(frozen=True)
class VideoMeta:
    """What is known of a video before decoding it. ``fps`` in frames per second, sizes in pixels as displayed."""

    num_frames: int
    fps: float
    width: int
    height: int


@dataclass(frozen=True)
class Entry:
    """One row of a source, a video or a cloud: where it is, to which split it belongs, and its labels by target name.

    Of a video only ``num_frames`` frames from ``start`` on belong to it (None: all up to the end). ``tags`` are the
    labels of a sample that has any number of them. ``source`` is the file that a packed sample
    was, from the folder that all of its pack were in.
    """

    path: str
    split: str = "train"
    labels: dict[str, str] = field(default_factory=dict)
    start: int = 0
    num_frames: int | None = None
    tags: tuple[str, ...] = ()
    source: str = ""

    @property
    def shown(self) -> str:
        """What people know it by: the file that was packed, or else its path."""
        return self.source or self.path

    @property
    def name(self) -> str:
        """The last part of ``shown``, for captions."""
        return PurePath(self.shown).name


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

    def __len__(self) -> int:
        return len(self.frames)

    def map(self, fn: TensorMap) -> RawView:
        """The same view with ``fn`` of each tensor."""
        return _map(self, fn)

    def part(self, start: int, stop: int) -> RawView:
        """The samples ``start`` to ``stop``."""
        return _map(self, lambda tensor: tensor[start:stop])

    def joined(self, others: Sequence[RawView]) -> RawView:
        """This view's samples, then those of ``others``."""
        return _joined([self, *others])

    def __str__(self) -> str:
        return f"{tuple(self.frames.shape)} (B, T, H, W, C)"


@dataclass
class View:
    """One view as a method sees it: ``clip`` float [B, C, T, H, W], normalised; masks as in ``RawView``."""

    clip: Tensor
    frame_index: Tensor
    keep: Tensor | None = None
    masked: Tensor | None = None

    def __len__(self) -> int:
        return self.clip.shape[0]

    def part(self, start: int, stop: int) -> View:
        """The samples ``start`` to ``stop``."""
        return _map(self, lambda tensor: tensor[start:stop])

    def joined(self, others: Sequence[View]) -> View:
        """This view's samples, then those of ``others``."""
        return _joined([self, *others])

    @property
    def content(self) -> Tensor:
        """What an encoder is fed."""
        return self.clip


@dataclass
class PointCloud:
    """One cloud in memory, as a reader gives it.

    ``xyz`` float32 [N, 3] in metres, or in the unit the file has (objects are brought to the unit sphere later).
    ``attributes`` name to float32 [N, k]: ``color`` RGB in 0 … 1, ``normal`` of length 1 (0 where unknown),
    ``intensity`` in 0 … 1. ``labels`` name to int64 [N], -1 for none: ``segment`` the class, ``instance`` the object,
    ``part``. ``pose`` float64 [4, 4] takes its points to the world; ``time`` is in seconds.
    """

    xyz: np.ndarray
    attributes: dict[str, np.ndarray] = field(default_factory=dict)
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    pose: np.ndarray | None = None
    time: float | None = None

    def __len__(self) -> int:
        return len(self.xyz)

    def take(self, index: np.ndarray) -> PointCloud:
        """The points ``index`` (int64 [M], or bool [N]), in that order, with all that belongs to them."""
        return PointCloud(
            self.xyz[index],
            {name: values[index] for name, values in self.attributes.items()},
            {name: values[index] for name, values in self.labels.items()},
            self.pose,
            self.time,
        )


@dataclass
class PointBatch:
    """Clouds one after the other: ``xyz`` float32 [P, 3] with P points in all; cloud b is ``offsets[b]:offsets[b+1]``
    (``offsets`` int64 [B + 1], from 0). ``attributes`` name to float32 [P, k]; ``labels`` name to int64 [P];
    ``source`` int64 [P] is the index that each point had in the cloud it was taken from, for correspondences."""

    xyz: Tensor
    offsets: Tensor
    attributes: dict[str, Tensor] = field(default_factory=dict)
    labels: dict[str, Tensor] = field(default_factory=dict)
    source: Tensor | None = None

    def __len__(self) -> int:
        """Clouds, not points."""
        return len(self.offsets) - 1

    @property
    def device(self) -> torch.device:
        return self.xyz.device

    def map(self, fn: TensorMap) -> PointBatch:
        """The same batch with ``fn`` of each tensor."""
        return _map(self, fn)

    def part(self, start: int, stop: int) -> PointBatch:
        """The clouds ``start`` to ``stop``."""
        first, last = (int(self.offsets[i]) for i in (start, stop))
        own = _map(self, lambda tensor: tensor[first:last])
        return replace(own, offsets=self.offsets[start : stop + 1] - first)

    def joined(self, others: Sequence[PointBatch]) -> PointBatch:
        """This batch's clouds, then those of ``others``."""
        import torch

        counts = torch.cat([batch.offsets.diff() for batch in (self, *others)])
        return replace(_joined([self, *others]), offsets=torch.cat([counts.new_zeros(1), counts.cumsum(0)]))

    def dense(self) -> Tensor:
        """``xyz`` as [B, N, 3] where all clouds have the same number of points; raises ``ValueError`` otherwise."""
        counts = self.offsets.diff()
        if len(counts) == 0 or (counts != counts[0]).any():
            raise ValueError(f"clouds of {counts.tolist()} points are no dense batch")
        return self.xyz.view(len(self), -1, 3)


@dataclass
class RawPointView:
    """One view of a batch of clouds on its way from the workers: the points that were chosen, as they lie in their
    files, and ``params`` name to [B, k] of what is still to be done to them; masks as in ``RawView``. ``pose`` float64
    [B, 4, 4] takes the points of each cloud, before ``params``, to where its file has them."""

    points: PointBatch
    params: dict[str, Tensor]
    keep: Tensor | None = None
    masked: Tensor | None = None
    pose: Tensor | None = None

    def __len__(self) -> int:
        return len(self.points)

    def map(self, fn: TensorMap) -> RawPointView:
        """The same view with ``fn`` of each tensor."""
        return replace(_map(self, fn), points=self.points.map(fn))

    def part(self, start: int, stop: int) -> RawPointView:
        """The samples ``start`` to ``stop``."""
        return replace(_map(self, lambda tensor: tensor[start:stop]), points=self.points.part(start, stop))

    def joined(self, others: Sequence[RawPointView]) -> RawPointView:
        """This view's samples, then those of ``others``."""
        return replace(_joined([self, *others]), points=self.points.joined([view.points for view in others]))

    def __str__(self) -> str:
        return f"{len(self)} clouds of {len(self.points.xyz) / max(1, len(self)):.0f} points"


@dataclass
class PointView:
    """One view of a batch of clouds as a method sees it; masks and ``pose`` as in ``RawPointView``."""

    points: PointBatch
    keep: Tensor | None = None
    masked: Tensor | None = None
    pose: Tensor | None = None

    def __len__(self) -> int:
        return len(self.points)

    def part(self, start: int, stop: int) -> PointView:
        """The samples ``start`` to ``stop``."""
        return replace(_map(self, lambda tensor: tensor[start:stop]), points=self.points.part(start, stop))

    @property
    def content(self) -> PointBatch:
        """What an encoder is fed."""
        return self.points


def _map(holder: _Holder, fn: TensorMap) -> _Holder:
    """A copy of a dataclass with ``fn`` of each tensor, also of those in its mappings; what else it has stays."""
    changed: dict[str, Any] = {}
    for item in fields(holder):
        value = getattr(holder, item.name)
        if isinstance(value, dict):
            changed[item.name] = {name: fn(tensor) for name, tensor in value.items()}
        elif value is not None and not isinstance(value, PointBatch):
            changed[item.name] = fn(value)
    return replace(holder, **changed)


def _joined(holders: Sequence[_Holder]) -> _Holder:
    """The rows of the tensors of all holders, in order, also of those in their mappings that all of them have."""
    import torch

    first = holders[0]
    changed: dict[str, Any] = {}
    for item in fields(first):
        values = [getattr(holder, item.name) for holder in holders]
        assert len({value is None for value in values}) == 1, f"some have {item.name}, others not"
        if isinstance(values[0], dict):
            # Some files of a folder may have colours and others none.
            shared = [name for name in values[0] if all(name in value for value in values)]
            changed[item.name] = {name: torch.cat([value[name] for value in values]) for name in shared}
        elif values[0] is not None and not isinstance(values[0], PointBatch):
            changed[item.name] = torch.cat(values)
    return replace(first, **changed)


@dataclass
class Features:
    """What every encoder returns: ``tokens`` [B, L, D] or ``map`` [B, D, T, H, W], and ``pooled`` [B, D]. Of clouds
    ``points`` [P, D] one for each point of the batch; with ``tokens`` the ``centres`` [B, L, 3] they are at."""

    pooled: Tensor
    tokens: Tensor | None = None
    map: Tensor | None = None
    points: Tensor | None = None
    centres: Tensor | None = None

    def as_tokens(self) -> Tensor:
        """The local features as [B, L, D], whichever form the encoder gives them in."""
        if self.tokens is not None:
            return self.tokens
        assert self.map is not None
        return self.map.flatten(2).transpose(1, 2)
