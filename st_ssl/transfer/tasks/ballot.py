"""What is shown of samples, and what several views of one make together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from st_ssl.core.types import Entry, PointBatch
from st_ssl.ops.neighbours import nearest_packed


@dataclass
class Shown:
    """A batch of B samples as it is shown to an encoder: one ``View`` and where it is from."""

    view: Any
    entries: list[Entry]

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def device(self) -> torch.device:
        """Where the view is."""
        return self.view.content.device


class Ballot(Protocol):
    """Takes what views give to what a batch is asked about. ``truth`` [T, ...] is what a ``Meter`` holds it against;
    ``sample`` int64 [T] is the number of the sample in the batch that each of its rows is of."""

    truth: Tensor
    sample: Tensor

    def add(self, shown: Shown, scores: Tensor, first: int = 0) -> None:
        """What the network gives for a view, or for a piece whose first sample is the batch's number ``first``."""

    def means(self) -> Tensor:
        """What all of them say together, as a ``Meter`` takes it."""
        ...


class Votes(Protocol):
    """What ``MeanBallot`` asks of a task."""

    whole: ClassVar[bool]

    def targets(self, shown: Shown) -> Tensor: ...

    def rows(self, shown: Shown) -> tuple[Tensor, Tensor]: ...

    def probabilities(self, scores: Tensor) -> Tensor: ...


class MeanBallot:
    """Adds up the probabilities that views give to T things asked about: the B samples of ``asked``, or all their
    points where ``task`` is about ``whole`` clouds."""

    def __init__(self, task: Votes, asked: Shown) -> None:
        self.task = task
        self.truth = task.targets(asked)
        device = self.truth.device
        self.cloud: PointBatch | None = asked.view.points if task.whole else None
        self.bounds = torch.arange(len(asked) + 1, device=device) if self.cloud is None else self.cloud.offsets
        counts = self.bounds.diff()
        self.sample = torch.arange(len(asked), device=device).repeat_interleave(counts, output_size=len(self.truth))
        self.votes = torch.zeros(len(self.truth), device=device)
        self.sums: Tensor | None = None

    def add(self, shown: Shown, scores: Tensor, first: int = 0) -> None:
        """The ``scores`` [R, K] that a network gives the rows of a view, or of a piece of it whose first sample is the
        batch's number ``first``."""
        sample, place = self.task.rows(shown)
        row = self.bounds[sample + first] + place
        probabilities = self.task.probabilities(scores.float())
        if self.sums is None:
            self.sums = probabilities.new_zeros(len(self.truth), scores.shape[1])
        self.sums.index_add_(0, row, probabilities)
        self.votes.index_add_(0, row, torch.ones_like(row, dtype=self.votes.dtype))

    def means(self) -> Tensor:
        """Probabilities [T, K]: the mean over those that each was given. A point that no view had has those of the
        nearest one of its cloud that some view had (as KPConv, 2019, projects its predictions back)."""
        assert self.sums is not None, "no view was added"
        means = self.sums / self.votes.clamp_min(1).unsqueeze(1)
        seen = self.votes > 0
        if self.cloud is not None and not bool(seen.all()):
            means[~seen] = means[seen][_nearest_seen(self.cloud, seen).to(means.device)]
        return means


def _nearest_seen(cloud: PointBatch, seen: Tensor) -> Tensor:
    """For each point that is not ``seen`` (bool [P]) which of those that are is nearest in its cloud: their number
    among the seen, int64. On the CPU, where a tree is quicker than comparing all."""
    xyz, offsets, seen = cloud.xyz.cpu(), cloud.offsets.cpu(), seen.cpu()
    before = torch.cat([seen.new_zeros(1, dtype=torch.int64), seen.cumsum(0)])[offsets]
    return nearest_packed(xyz[~seen], offsets - before, xyz[seen], before, 1)[1].squeeze(1)
