"""Boxes around the objects of a sweep: of one sweep as numpy arrays, of a batch as tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

BOX = ("x", "y", "z", "length", "width", "height", "yaw", "vx", "vy")
"""The numbers of a box: its centre and its sizes along its own axes in metres, the angle in radians by which it is
turned about the z axis, from x towards y, and its velocity over the ground in m/s along the axes of the sweep (NaN
where unknown)."""


@dataclass
class Boxes:
    """The boxes of one sweep, in its own coordinates: x ahead, y to the left, z up.

    ``values`` float32 [N, 9]: see ``BOX``. ``classes`` int64 [N], -1 for a box that is neither right nor wrong (KITTI's
    DontCare, or a class that nobody asked for). ``facts``, name to [N, ...], are what a log knows beside: ``track``
    int64 (-1 for none), ``points`` int64, ``image`` float32 [N, 4] (left, top, right, bottom, in pixels), ``truncated``
    and ``occluded`` float32, of predictions ``score`` float32.
    """

    values: np.ndarray
    classes: np.ndarray
    facts: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def none(cls) -> Boxes:
        """No boxes: a sweep that was labelled and shows no object."""
        return cls(np.zeros((0, len(BOX)), np.float32), np.zeros(0, np.int64))

    def take(self, index: np.ndarray) -> Boxes:
        """The boxes ``index`` (int64 [M], or bool [N]), in that order."""
        facts = {name: value[index] for name, value in self.facts.items()}
        return Boxes(self.values[index], self.classes[index], facts)

    def joined(self, other: Boxes) -> Boxes:
        """These boxes, then those of ``other``, with the facts that both have."""
        shared = [name for name in self.facts if name in other.facts]
        return Boxes(
            np.concatenate([self.values, other.values]),
            np.concatenate([self.classes, other.classes]),
            {name: np.concatenate([self.facts[name], other.facts[name]]) for name in shared},
        )

    def moved(self, matrix: np.ndarray) -> Boxes:
        """The boxes where ``matrix`` [4, 4] takes their points to: a turn about z, mirrored or not, one factor for all
        sizes, and a shift."""
        import torch

        one = torch.zeros(len(self), dtype=torch.int64)
        values = move_boxes(torch.from_numpy(self.values), torch.from_numpy(np.asarray(matrix))[None], one)
        return Boxes(values.numpy(), self.classes, self.facts)


@dataclass
class BoxBatch:
    """The boxes of B clouds one after the other: those of cloud b are ``offsets[b]:offsets[b+1]`` (int64 [B + 1], from
    0). ``values`` float32 [M, 9] and ``classes`` int64 [M] as in ``Boxes``; ``facts`` name to [M, ...]."""

    values: Tensor
    classes: Tensor
    offsets: Tensor
    facts: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        """Clouds, not boxes."""
        return len(self.offsets) - 1

    @classmethod
    def of(cls, clouds: Sequence[Boxes]) -> BoxBatch:
        """The boxes of ``clouds`` (at least one), with the facts that all of them have."""
        import torch

        first, *others = clouds
        both = first
        for other in others:
            both = both.joined(other)
        counts = [len(boxes) for boxes in clouds]
        return cls(
            torch.from_numpy(both.values),
            torch.from_numpy(both.classes),
            torch.tensor([0, *np.cumsum(counts).tolist()]),
            {name: torch.from_numpy(value) for name, value in both.facts.items()},
        )

    @property
    def cloud(self) -> Tensor:
        """The number of the cloud that each box is of, int64 [M]."""
        import torch

        counts = self.offsets.diff()
        clouds = torch.arange(len(self), device=self.offsets.device)
        return clouds.repeat_interleave(counts, output_size=len(self.values))

    def boxes(self, number: int) -> Boxes:
        """The boxes of one cloud, as arrays."""
        own = slice(int(self.offsets[number]), int(self.offsets[number + 1]))
        facts = {name: value[own].cpu().numpy() for name, value in self.facts.items()}
        return Boxes(self.values[own].detach().cpu().numpy(), self.classes[own].cpu().numpy(), facts)

    def map(self, fn: Callable[[Tensor], Tensor]) -> BoxBatch:
        """The same boxes with ``fn`` of each tensor."""
        return self._rows(fn, fn(self.offsets))

    def part(self, start: int, stop: int) -> BoxBatch:
        """The boxes of the clouds ``start`` to ``stop``."""
        first, last = (int(self.offsets[i]) for i in (start, stop))
        return self._rows(lambda tensor: tensor[first:last], self.offsets[start : stop + 1] - first)

    def joined(self, others: Sequence[BoxBatch]) -> BoxBatch:
        """The boxes of these clouds, then those of ``others``."""
        import torch

        batches = [self, *others]
        counts = torch.cat([batch.offsets.diff() for batch in batches])
        shared = [name for name in self.facts if all(name in batch.facts for batch in others)]
        return BoxBatch(
            torch.cat([batch.values for batch in batches]),
            torch.cat([batch.classes for batch in batches]),
            torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
            {name: torch.cat([batch.facts[name] for batch in batches]) for name in shared},
        )

    def moved(self, affine: Tensor) -> BoxBatch:
        """The boxes where ``affine`` [B, 4, 4] takes the points of each cloud to: see ``move_boxes``."""
        values = move_boxes(self.values, affine, self.cloud)
        return BoxBatch(values, self.classes, self.offsets, self.facts)

    def _rows(self, fn: Callable[[Tensor], Tensor], offsets: Tensor) -> BoxBatch:
        facts = {name: fn(value) for name, value in self.facts.items()}
        return BoxBatch(fn(self.values), fn(self.classes), offsets, facts)


def move_boxes(values: Tensor, affine: Tensor, cloud: Tensor) -> Tensor:
    """Boxes ``values`` [M, 9] of the clouds ``cloud`` int64 [M], moved with their points by ``affine`` [B, 4, 4].

    A box stays a box where the map turns about z, mirrors, shifts, and scales all axes by one factor: this is for the
    caller to see to. A box that is mirrored once turns the other way.
    """
    import torch

    matrix = affine.to(values.dtype)[cloud]
    linear, shift = matrix[:, :3, :3], matrix[:, :3, 3]
    centre = (linear * values[:, None, :3]).sum(-1) + shift
    size = values[:, 3:6] * linear[:, 0].norm(dim=1, keepdim=True)
    ahead = torch.stack([values[:, 6].cos(), values[:, 6].sin()], 1)
    ahead = (linear[:, :2, :2] * ahead[:, None]).sum(-1)
    yaw = torch.atan2(ahead[:, 1], ahead[:, 0])
    velocity = (linear[:, :2, :2] * values[:, None, 7:9]).sum(-1)
    return torch.cat([centre, size, yaw[:, None], velocity], 1)
