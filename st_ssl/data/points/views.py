"""What is seen of clouds: what they must have, and what an encoder is shown of one when it is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from st_ssl.augment.points import PointAugment, plain
from st_ssl.core.errors import UnfitError, nearest
from st_ssl.core.inputs import PointInputConfig
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import PointBatch, PointCloud
from st_ssl.data.clip_plans import Still
from st_ssl.data.views import WHOLE, Span, Views, ViewSpec, each


@dataclass(frozen=True)
class LabelRule:
    """The labels ``name`` that the points of a cloud must have: those of ``num_classes`` classes, -1 for none, or some
    of those ``ignored``."""

    name: str
    num_classes: int
    ignored: tuple[int, ...] = ()

    def __call__(self, cloud: PointCloud) -> PointCloud:
        """``cloud``; raises ``UnfitError`` where its labels are others."""
        labels = labels_of(cloud, self.name)
        known = labels[~np.isin(labels, self.ignored)] if self.ignored else labels
        if len(known) and not -1 <= known.min() <= known.max() < self.num_classes:
            wrong = known.max() if known.max() >= self.num_classes else known.min()
            raise UnfitError(f"{self.name} has {wrong}, which is none of the {self.num_classes} classes")
        return cloud


def labels_of(cloud: PointCloud, name: str) -> np.ndarray:
    """The labels ``name`` int64 [N] of a cloud. Raises ``UnfitError`` where it has none."""
    if name not in cloud.labels:
        there = ", ".join(cloud.labels) or "none"
        raise UnfitError(f"has no labels named {name!r}{nearest(name, cloud.labels)} (it has: {there})")
    return cloud.labels[name]


@dataclass(frozen=True)
class Attributes:
    """The attributes ``names`` that a cloud must have."""

    names: tuple[str, ...]

    def __call__(self, cloud: PointCloud) -> PointCloud:
        """``cloud``; raises ``UnfitError`` where it lacks some."""
        missing = [name for name in self.names if name not in cloud.attributes]
        if missing:
            there = ", ".join(cloud.attributes)
            has = f"it has {there or 'the places of its points alone'} (input.attributes=[{there}])"
            raise UnfitError(f"has no {' nor '.join(missing)}, which input.attributes asks for: {has}")
        return cloud


def point_views(input: PointInputConfig, specs: Sequence[ViewSpec], *first: Any) -> Views:
    """Views of clouds that must have what ``input`` says; ``first``: what else is done to each cloud that is read."""
    return Views(tuple(specs), (Attributes(input.attributes), *first))


@dataclass(frozen=True)
class Only:
    """A transform that draws nothing: of each cloud only what ``of`` makes of it."""

    of: Callable[[PointCloud], PointCloud]

    def sample(self, rng: np.random.Generator, meta: Any, num_frames: int) -> dict[str, np.ndarray]:
        """Nothing."""
        return {}

    def cut(self, items: Sequence[PointCloud], params: Mapping[str, np.ndarray]) -> list[PointCloud]:
        """``of`` each of the clouds."""
        return [self.of(cloud) for cloud in items]

    def apply(self, content: PointBatch, params: Mapping[str, Tensor]) -> PointBatch:
        """Nothing is done to a batch."""
        return content


@dataclass(frozen=True)
class Share:
    """The share ``span`` of a cloud: of its points in an order of their own, those from the first share to the
    second."""

    span: Span

    def __call__(self, cloud: PointCloud) -> PointCloud:
        """That part of ``cloud``."""
        first, last = (round(share * len(cloud)) for share in self.span)
        first = min(first, len(cloud) - 1)
        return cloud.take(np.sort(keyed_rng("part", len(cloud)).permutation(len(cloud))[first : max(last, first + 1)]))


def as_it_lies(cloud: PointCloud) -> PointCloud:
    """All points of a cloud where they are in their file, with their labels alone."""
    return PointCloud(cloud.xyz, {}, cloud.labels, cloud.pose)


def count_labels(cloud: PointCloud, name: str) -> PointCloud:
    """Of a cloud only which labels ``name`` its points have: a "point" for each value, its number of points in the
    label ``COUNT``. Raises ``UnfitError`` for one without such labels."""
    values, counts = np.unique(labels_of(cloud, name), return_counts=True)
    nowhere = np.zeros((len(values), 3), dtype=np.float32)
    return PointCloud(nowhere, {}, {name: values.astype(np.int64), COUNT: counts.astype(np.int64)})


COUNT = "count"


def label_views(name: str) -> Views:
    """A single view, of which labels ``name`` the points of a cloud have."""
    return Views((ViewSpec(Still(), (Only(partial(count_labels, name=name)),)),))


def plain_views(
    input: PointInputConfig,
    num_views: int = 1,
    span: Span = WHOLE,
    jitter: float = 0.0,
    whole: bool = False,
    rule: LabelRule | None = None,
) -> Views:
    """What an encoder is shown when it is evaluated: no more than the choice of points, by the key with ``jitter``, of
    the share ``span`` of the cloud. With ``whole`` there is one more view behind them: see ``as_it_lies``. ``rule``:
    what labels the points must have."""
    augment = plain(input.num_points, input.unit_sphere, input.voxel_size, input.centre)
    specs = [ViewSpec(Still(num_views), (augment,), drawn=jitter > 0)] * num_views
    if whole:
        specs.append(ViewSpec(Still(), (Only(as_it_lies),), name="whole"))
    return point_views(input, specs, *([rule] if rule else []), *([Share(span)] if span != WHOLE else []))


def augmented_views(input: PointInputConfig, augment: PointAugment, num_views: int = 1, *first: Any) -> Views:
    """``num_views`` views of a cloud, each with a draw of ``augment``."""
    return point_views(input, each(Still(num_views), augment), *first)
