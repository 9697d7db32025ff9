"""What a method wants to see: one ``ViewSpec`` a view. Its plan says when, its transforms how, its masks what is
hidden.

``Views.cut`` runs in the worker (plan, read, cut), ``Views.prepare`` on the device (pixels of a whole batch).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from st_ssl.core.boxes import BoxBatch
from st_ssl.core.random import Key, keyed_rng
from st_ssl.core.types import Mask, PointBatch, PointCloud, View
from st_ssl.data.clip_plans import Draw, Plan
from st_ssl.data.streams.base import Recording, nearest_instants

POSE, PATH = "pose", "path"
"""Labels of views: the poses of what is seen, and those of sweeps on the way, which are turned like them."""
_UNMOVED = np.eye(4)


class Transform(Protocol):
    """One step of an augmentation: parameters first, then pixels or points."""

    def sample(self, rng: np.random.Generator, meta: Any, num_frames: int) -> dict[str, np.ndarray]:
        """The parameters of one view of ``num_frames`` instants: name to [1 or T, k], or [k]."""

    def cut(self, items: Any, params: Mapping[str, np.ndarray]) -> Any:
        """What the worker does with the items of a view, in order: list in, array [T, ...] or list out."""

    def apply(self, content: Any, params: Mapping[str, Tensor]) -> Any:
        """What is done to the content of a batch on its device."""


class MaskPlan(Protocol):
    """Draws which tokens of a sample are hidden. How many a mask keeps may depend on ``batch_rng`` alone, which is the
    same for all samples of a batch."""

    def draw(self, rng: np.random.Generator, batch_rng: np.random.Generator, recording: Recording) -> Mask: ...


@dataclass(frozen=True)
class ViewSpec:
    """One view of a recording.

    ``plan``: which instants of the ``stream`` ("" is the first one). Views of a stream with an equal plan take its
    draws in order, so that one plan can draw a pair. ``transforms``: what is done to what is there, one after the
    other. ``masks``: each hides other tokens. ``shares``: the ``name`` of an earlier view whose instants, and whose
    ``geometric`` parameters of transforms, this one takes: by index on the same stream, by nearest time on another.
    ``drawn=False``: the view is the same in every epoch.
    """

    plan: Plan
    transforms: tuple[Transform, ...] = ()
    masks: tuple[MaskPlan, ...] = ()
    stream: str = ""
    name: str = ""
    shares: str | None = None
    drawn: bool = True

    def draws_with(self, other: ViewSpec) -> bool:
        """Whether both take draws of one plan on one stream, the next after the other."""
        return (self.plan, self.stream, self.drawn) == (other.plan, other.stream, other.drawn)


def each(plan: Plan, *transforms: Transform, masks: Sequence[MaskPlan] = (), stream: str = "") -> tuple[ViewSpec, ...]:
    """One view for each draw of ``plan``, all with the same transforms and masks."""
    return (ViewSpec(plan, transforms, tuple(masks), stream),) * plan.num_clips


@dataclass
class CutView:
    """One view of one sample as the worker made it, as numpy arrays: see ``View``. ``content`` is an array [T, ...] or
    a list of T clouds."""

    content: Any
    at: np.ndarray
    labels: dict[str, np.ndarray]
    params: dict[str, np.ndarray]
    masks: tuple[Mask, ...] = ()


Step = Callable[[Any], Any]
Reach = Callable[[int], None]
Span = tuple[float, float]
"""A share of a sample, from the first number to the second, in 0 … 1."""
WHOLE: Span = (0.0, 1.0)


@dataclass(frozen=True)
class Views:
    """All views that a method declares. ``first``: what is done once to each item that is read, before any view is cut
    of it: it may add labels, or raise ``ValueError`` for what cannot be used.

    Every draw is a function of the key it is given, so the views of a sample do not depend on who cuts them or when.
    """

    specs: tuple[ViewSpec, ...]
    first: tuple[Step, ...] = ()

    @property
    def num_views(self) -> int:
        return len(self.specs)

    @cached_property
    def _together(self) -> list[list[int]]:
        """The numbers of the views that draw together."""
        groups: list[list[int]] = []
        for number, spec in enumerate(self.specs):
            if spec.shares is not None:
                continue
            same = [group for group in groups if spec.draws_with(self.specs[group[0]])]
            if same and len(same[-1]) < spec.plan.num_clips:
                same[-1].append(number)
            else:
                groups.append([number])
        for group in groups:
            count = self.specs[group[0]].plan.num_clips
            assert len(group) == count, f"{len(group)} views of a plan that draws {count}"
        return groups

    def cut(
        self, recording: Recording, key: tuple[Key, ...], step: int = 0, reach: Reach = lambda _: None
    ) -> list[CutView]:
        """All views of one recording, each stream read in one pass. Runs in the worker; raises what the streams raise.
        ``key`` is (seed, epoch, sample), ``step`` the update that the batch is for; ``reach(1)`` is called once all is
        read."""
        draws = self._draw(recording, key)
        raw = self._read(recording, draws)
        reach(1)
        items = {name: {index: self._begun(item) for index, item in own.items()} for name, own in raw.items()}
        views: list[CutView] = []
        for number, (spec, draw) in enumerate(zip(self.specs, draws, strict=True)):
            own = key if spec.drawn else ()
            meta, found = recording.stream(spec.stream).meta, items[spec.stream or recording.first]
            params: dict[str, np.ndarray] = {}
            content: Any = [found[i] for i in draw.at.tolist()]
            for place, transform in enumerate(spec.transforms):
                told = transform.sample(keyed_rng(*own, "augment", *_at(number, place)), meta, len(draw.at))
                if spec.shares is not None:
                    other = views[self._numbered(spec.shares)].params
                    told |= {name: other[name] for name in getattr(transform, "geometric", ()) if name in other}
                assert not told.keys() & params.keys(), f"two transforms draw {sorted(told.keys() & params.keys())}"
                params |= told
                content = transform.cut(content, params)
            masks = []
            for place, mask in enumerate(spec.masks):
                batch_rng = keyed_rng(key[0] if key else 0, "batch", step, number, place)
                masks.append(mask.draw(keyed_rng(*own, "mask", *_at(number, place)), batch_rng, recording))
            views.append(CutView(content, draw.at, dict(draw.labels), params, tuple(masks)))
        return views

    def _draw(self, recording: Recording, key: tuple[Key, ...]) -> list[Draw]:
        """The instants of each view."""
        drawn: dict[int, Draw] = {}
        epoch = int(key[1]) if len(key) > 1 else 0
        for first, *others in self._together:
            spec = self.specs[first]
            rng = keyed_rng(*(key if spec.drawn else ()), "clips", *([first] if first else []))
            found = spec.plan.draw(rng, recording.stream(spec.stream), epoch)
            drawn |= dict(zip((first, *others), found, strict=True))
        for number, spec in enumerate(self.specs):
            if spec.shares is not None:
                other = self._numbered(spec.shares)
                drawn[number] = self._shared(recording, spec.stream, drawn[other], self.specs[other].stream)
        return [drawn[number] for number in range(len(self.specs))]

    @staticmethod
    def _shared(recording: Recording, own: str, draw: Draw, other: str) -> Draw:
        """The instants of a view of the stream ``own`` that takes those of another, drawn for ``other``."""
        if (own or recording.first) == (other or recording.first):
            return draw
        times = recording.stream(other).times()[draw.at]
        return Draw(nearest_instants(recording.stream(own).times(), times), draw.labels)

    def _numbered(self, name: str) -> int:
        """The number of the view ``name``."""
        return [spec.name for spec in self.specs].index(name)

    def _read(self, recording: Recording, draws: Sequence[Draw]) -> dict[str, dict[int, Any]]:
        """The items of each stream that some view asks for, by their index."""
        wanted: dict[str, set[int]] = {}
        for spec, draw in zip(self.specs, draws, strict=True):
            wanted.setdefault(spec.stream or recording.first, set()).update(draw.at.tolist())
        return {name: dict(recording.stream(name).read(sorted(at))) for name, at in wanted.items()}

    def _begun(self, item: Any) -> Any:
        """An item after what is done first."""
        return reduce(lambda found, step: step(found), self.first, item)

    def prepare(self, views: Sequence[View]) -> list[View]:
        """Do to a batch, on the device that it is on, what the worker has left to be done. Where all views are made
        alike, several may have been joined to one."""
        specs = self.specs
        if len(views) < len(specs):
            assert len({spec.transforms for spec in specs}) == 1, "only views that are made alike can be joined"
            specs = specs[: len(views)]
        return [self._prepared(spec, view) for spec, view in zip(specs, views, strict=True)]

    def _prepared(self, spec: ViewSpec, view: View) -> View:
        content, labels = view.content, dict(view.labels)
        for transform in spec.transforms:
            content = transform.apply(content, view.params)
            turned = getattr(transform, "turned", None)
            if turned is not None:
                labels |= {name: turned(labels[name], view.params) for name in (POSE, PATH) if name in labels}
        return replace(view, content=content, labels=labels)


def _at(number: int, place: int) -> tuple[int, ...]:
    """The end of the key of a draw for the view ``number``; the first transform and mask have none of their own."""
    return (number, place) if place else (number,)


def stack(samples: Sequence[Sequence[CutView]], indices: Sequence[int] | None = None) -> list[View]:
    """Samples × views to views of batches; ``indices``: which sample of the data set each is."""
    return [_stack(list(column), indices) for column in zip(*samples, strict=True)]


def _stack(column: list[CutView], indices: Sequence[int] | None) -> View:
    labels = {name: np.stack([view.labels[name] for view in column]) for name in column[0].labels}
    if isinstance(column[0].content, list):
        clouds: list[PointCloud] = [cloud for view in column for cloud in view.content]
        content: Any = packed(clouds)
        poses = [_UNMOVED if cloud.pose is None else cloud.pose for cloud in clouds]
        labels[POSE] = np.stack(poses).reshape(len(column), -1, 4, 4)
    else:
        content = torch.from_numpy(np.stack([view.content for view in column]))
    masks = zip(*(view.masks for view in column), strict=True)
    return View(
        content,
        torch.from_numpy(np.stack([view.at for view in column])),
        {name: torch.from_numpy(value) for name, value in labels.items()},
        {name: torch.from_numpy(np.stack([view.params[name] for view in column])) for name in column[0].params},
        tuple(Mask(_tensor([m.keep for m in own]), _tensor([m.masked for m in own])) for own in masks),
        None if indices is None else torch.tensor(list(indices)),
    )


def _tensor(parts: list[np.ndarray | None]) -> Tensor | None:
    return None if parts[0] is None else torch.from_numpy(np.stack([part for part in parts if part is not None]))


def packed(clouds: Sequence[PointCloud]) -> PointBatch:
    """Clouds one after the other, with the attributes, labels and boxes that all of them have."""
    sources = [np.arange(len(cloud)) if cloud.source is None else cloud.source for cloud in clouds]
    boxes = [cloud.boxes for cloud in clouds if cloud.boxes is not None]
    return PointBatch(
        _joined([cloud.xyz for cloud in clouds]),
        torch.tensor([0, *np.cumsum([len(cloud) for cloud in clouds]).tolist()]),
        _common([cloud.attributes for cloud in clouds]),
        _common([cloud.labels for cloud in clouds]),
        _joined(sources),
        BoxBatch.of(boxes) if len(boxes) == len(clouds) else None,
    )


def _common(parts: list[dict[str, np.ndarray]]) -> dict[str, Tensor]:
    """What all clouds have: some files of a folder may have colours and others none."""
    return {name: _joined([part[name] for part in parts]) for name in parts[0] if all(name in part for part in parts)}


def _joined(parts: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts))
