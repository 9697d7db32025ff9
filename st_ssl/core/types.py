"""What the rooms hand to each other. B batch, V views, T frames, H W size, C channels, N points, L tokens, G groups,
K neighbours or kept tokens, D embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from st_ssl.core.boxes import BoxBatch, Boxes

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    TensorMap = Callable[[Tensor], Tensor]


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

    Only ``num_frames`` frames of a video, or sweeps of a recording of points, from ``start`` on belong to it (None:
    all up to the end). ``window``: it is one of several windows of a recording; all of them are in one split.
    ``tags`` are the labels of a sample that has any number of them. ``source`` is the file that a packed sample
    was, from the folder that all of its pack were in.
    """

    path: str
    split: str = "train"
    labels: dict[str, str] = field(default_factory=dict)
    start: int = 0
    num_frames: int | None = None
    tags: tuple[str, ...] = ()
    source: str = ""
    window: bool = False

    @property
    def shown(self) -> str:
        """What people know it by: the file that was packed, or else its path."""
        return self.source or self.path

    @property
    def name(self) -> str:
        """The last part of ``shown``, for captions."""
        return PurePath(self.shown).name


class Mask(NamedTuple):
    """Which tokens an encoder may see, each sorted: ``keep`` int64 [K] is what it sees, ``masked`` int64 [M] what it is
    to predict; [B, K] and [B, M] of a batch. ``keep`` is None where it is found on the device: ``masked`` then says
    around what, see ``block_point_mask``."""

    keep: Any
    masked: Any


ALIKE = "alike"
"""The label of a view, int64 [B], of samples that belong together where the number is the same: see ``PairsConfig``."""


@dataclass
class View:
    """One view of a batch of B samples, on its way from the workers and as a method sees it.

    ``content``: float [B, C, T, H, W], normalised (uint8 [B, T, H, W, 3] before ``Views.prepare``), or a ``PointBatch``
    of B · T clouds, sample by sample. ``at`` int64 [B, T]: which instants of the stream these are. ``labels``: what the
    plan did, by name, [B, ...]; ``pose`` float64 [B, T, 4, 4] takes points to the world. ``params``: what was drawn for
    the transforms, name to [B, 1 or T, k] (a time axis of 1 means the same for all frames). ``masks``: each with its
    own number of tokens. ``sample`` int64 [B]: the index in the data set of what is really shown.
    """

    content: Tensor | PointBatch
    at: Tensor
    labels: dict[str, Tensor] = field(default_factory=dict)
    params: dict[str, Tensor] = field(default_factory=dict)
    masks: tuple[Mask, ...] = ()
    sample: Tensor | None = None

    def __len__(self) -> int:
        return len(self.at)

    @property
    def clip(self) -> Tensor:
        """The content of a view of videos."""
        assert not isinstance(self.content, PointBatch)
        return self.content

    @property
    def points(self) -> PointBatch:
        """The content of a view of clouds."""
        assert isinstance(self.content, PointBatch)
        return self.content

    @property
    def mask(self) -> Mask:
        """The mask of a view that has one."""
        (mask,) = self.masks
        return mask

    def map(self, fn: TensorMap) -> View:
        """The same view with ``fn`` of each tensor."""
        content = self.content.map(fn) if isinstance(self.content, PointBatch) else fn(self.content)
        return self._rows(fn, content)

    def part(self, start: int, stop: int) -> View:
        """The samples ``start`` to ``stop``."""
        if isinstance(self.content, PointBatch):
            clouds = len(self.content) // max(1, len(self))
            content: Tensor | PointBatch = self.content.part(start * clouds, stop * clouds)
        else:
            content = self.content[start:stop]
        return self._rows(lambda tensor: tensor[start:stop], content)

    def joined(self, others: Sequence[View]) -> View:
        """This view's samples, then those of ``others``."""
        import torch

        views = [self, *others]
        if isinstance(self.content, PointBatch):
            content: Tensor | PointBatch = self.content.joined([view.points for view in others])
        else:
            content = torch.cat([view.clip for view in views])
        assert len({(view.sample is None, len(view.masks)) for view in views}) == 1, "views of several kinds"
        return View(
            content,
            torch.cat([view.at for view in views]),
            _joined_tables([view.labels for view in views]),
            _joined_tables([view.params for view in views]),
            tuple(
                Mask(*(None if parts[0] is None else torch.cat(list(parts)) for parts in zip(*masks, strict=True)))
                for masks in zip(*(view.masks for view in views), strict=True)
            ),
            None if self.sample is None else torch.cat([view.sample for view in views if view.sample is not None]),
        )

    def _rows(self, fn: TensorMap, content: Tensor | PointBatch) -> View:
        return View(
            content,
            fn(self.at),
            {name: fn(value) for name, value in self.labels.items()},
            {name: fn(value) for name, value in self.params.items()},
            tuple(Mask(*(None if part is None else fn(part) for part in mask)) for mask in self.masks),
            None if self.sample is None else fn(self.sample),
        )

    def __str__(self) -> str:
        if isinstance(self.content, PointBatch):
            return f"{len(self.content)} clouds of {len(self.content.xyz) / max(1, len(self.content)):.0f} points"
        return f"{tuple(self.content.shape)} (B, T, H, W, C)"


def _joined_tables(tables: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The rows of all tables, by the names that all of them have: some files of a folder may have colours, others
    none."""
    import torch

    shared = [name for name in tables[0] if all(name in table for table in tables)]
    return {name: torch.cat([table[name] for table in tables]) for name in shared}


@dataclass
class PointCloud:
    """One cloud in memory, as a reader gives it.

    ``xyz`` float32 [N, 3] in metres, or in the unit the file has (objects are brought to the unit sphere later).
    ``attributes`` name to float32 [N, k]: ``color`` RGB in 0 … 1, ``normal`` of length 1 (0 where unknown),
    ``intensity`` in 0 … 1, of windows of recordings ``time`` and ``velocity`` (see ``WindowConfig``). ``labels`` name
    to int64 [N], -1 for none: ``segment`` the class, ``instance`` the object, ``part``. ``pose`` float64 [4, 4] takes
    its points to the world; ``time`` is in seconds. ``source`` int64 [N] is the place that each point had in the cloud
    of the file (None: its own). ``boxes`` are around its objects; None where nobody has looked for them.
    """

    xyz: np.ndarray
    attributes: dict[str, np.ndarray] = field(default_factory=dict)
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    pose: np.ndarray | None = None
    time: float | None = None
    source: np.ndarray | None = None
    boxes: Boxes | None = None

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
            np.arange(len(self))[index] if self.source is None else self.source[index],
            self.boxes,
        )


@dataclass
class PointBatch:
    """Clouds one after the other: ``xyz`` float32 [P, 3] with P points in all; cloud b is ``offsets[b]:offsets[b+1]``
    (``offsets`` int64 [B + 1], from 0). ``attributes`` name to float32 [P, k]; ``labels`` name to int64 [P];
    ``source`` int64 [P] is the index that each point had in the cloud it was taken from, for correspondences.
    ``boxes``: those of all clouds, where all have been looked at."""

    xyz: Tensor
    offsets: Tensor
    attributes: dict[str, Tensor] = field(default_factory=dict)
    labels: dict[str, Tensor] = field(default_factory=dict)
    source: Tensor | None = None
    boxes: BoxBatch | None = None

    def __len__(self) -> int:
        """Clouds, not points."""
        return len(self.offsets) - 1

    @property
    def device(self) -> torch.device:
        return self.xyz.device

    def map(self, fn: TensorMap) -> PointBatch:
        """The same batch with ``fn`` of each tensor."""
        return self._rows(fn, fn(self.offsets), None if self.boxes is None else self.boxes.map(fn))

    def part(self, start: int, stop: int) -> PointBatch:
        """The clouds ``start`` to ``stop``."""
        first, last = (int(self.offsets[i]) for i in (start, stop))
        boxes = None if self.boxes is None else self.boxes.part(start, stop)
        return self._rows(lambda tensor: tensor[first:last], self.offsets[start : stop + 1] - first, boxes)

    def joined(self, others: Sequence[PointBatch]) -> PointBatch:
        """This batch's clouds, then those of ``others``."""
        import torch

        batches = [self, *others]
        counts = torch.cat([batch.offsets.diff() for batch in batches])
        sources = [batch.source for batch in batches if batch.source is not None]
        assert len(sources) in (0, len(batches)), "some have source, others not"
        boxes = [batch.boxes for batch in batches if batch.boxes is not None]
        return PointBatch(
            torch.cat([batch.xyz for batch in batches]),
            torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
            _joined_tables([batch.attributes for batch in batches]),
            _joined_tables([batch.labels for batch in batches]),
            torch.cat(sources) if sources else None,
            boxes[0].joined(boxes[1:]) if len(boxes) == len(batches) else None,
        )

    def _rows(self, fn: TensorMap, offsets: Tensor, boxes: BoxBatch | None) -> PointBatch:
        return PointBatch(
            fn(self.xyz),
            offsets,
            {name: fn(value) for name, value in self.attributes.items()},
            {name: fn(value) for name, value in self.labels.items()},
            None if self.source is None else fn(self.source),
            boxes,
        )

    def dense(self) -> Tensor:
        """``xyz`` as [B, N, 3] where all clouds have the same number of points; raises ``ValueError`` otherwise."""
        counts = self.offsets.diff()
        if len(counts) == 0 or (counts != counts[0]).any():
            raise ValueError(f"clouds of {counts.tolist()} points are no dense batch")
        return self.xyz.view(len(self), -1, 3)


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
