"""What a method wants to see of a cloud, and how it comes about: cut in the worker, finish on the device."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from st_ssl.augment.point_masking import PointMaskConfig, random_point_mask
from st_ssl.augment.point_segments import SegmentsConfig, segmented
from st_ssl.augment.points import PointAugment, plain
from st_ssl.core.errors import nearest
from st_ssl.core.inputs import PointInputConfig
from st_ssl.core.random import Key, keyed_rng
from st_ssl.core.types import PointBatch, PointCloud, PointView, RawPointView


@dataclass
class CutPointView:
    """One view of one sample: the points that were chosen, which of the cloud's they are (int64 [N]), the parameters
    of what is still to be done to them, and the patches to keep and to mask, if any."""

    cloud: PointCloud
    source: np.ndarray
    params: dict[str, np.ndarray]
    keep: np.ndarray | None = None
    masked: np.ndarray | None = None


@dataclass(frozen=True)
class LabelRule:
    """The labels ``name`` that the points of a cloud must have: those of ``num_classes`` classes, -1 for none, or some
    of those ``ignored``."""

    name: str
    num_classes: int
    ignored: tuple[int, ...] = ()

    def fault(self, cloud: PointCloud) -> str | None:
        """What is wrong with the labels of ``cloud``, if anything."""
        labels = cloud.labels.get(self.name)
        if labels is None:
            return no_labels(cloud, self.name)
        known = labels[~np.isin(labels, self.ignored)] if self.ignored else labels
        if len(known) and not -1 <= known.min() <= known.max() < self.num_classes:
            wrong = known.max() if known.max() >= self.num_classes else known.min()
            return f"{self.name} has {wrong}, which is none of the {self.num_classes} classes"
        return None


def no_labels(cloud: PointCloud, name: str) -> str:
    """What is said of a cloud without the labels ``name``."""
    return f"has no labels named {name!r}{nearest(name, cloud.labels)} (it has: {', '.join(cloud.labels) or 'none'})"


@dataclass(frozen=True)
class PointViews:
    """A method's declaration: how many views, the augmentation of each, and the mask of its ``num_groups`` patches, if
    any. Of a ``block`` mask ``masked`` is one patch, drawn here, and ``keep`` None: the others are those around it.

    ``attributes`` are those that a cloud must have, and ``labels`` what its labels must be: one without is a broken
    sample. ``segments``: cut each cloud into segments, which its points bring along as labels in all views (see
    ``segmented``).

    Every draw is a function of the key it is given, so the views of a sample do not depend on who cuts them or when.
    """

    augment: PointAugment
    mask: PointMaskConfig | None = None
    num_groups: int = 0
    num_views: int = 1
    attributes: tuple[str, ...] = ()
    segments: SegmentsConfig | None = None
    labels: LabelRule | None = None

    def fault(self, cloud: PointCloud) -> str | None:
        """Why ``cloud`` is a broken sample, if it is one. Runs in the worker."""
        missing = [name for name in self.attributes if name not in cloud.attributes]
        if missing:
            there = ", ".join(cloud.attributes)
            return (
                f"has no {' nor '.join(missing)}, which input.attributes asks for: it has "
                f"{there or 'the places of its points alone'} (input.attributes=[{there}])"
            )
        return self.labels.fault(cloud) if self.labels is not None else None

    def cut(self, cloud: PointCloud, key: tuple[Key, ...]) -> list[CutPointView]:
        """All views of one cloud. Runs in the worker."""
        if self.segments is not None:
            cloud = segmented(cloud, self.segments)
        return [self._cut(cloud, key, view) for view in range(self.num_views)]

    def _cut(self, cloud: PointCloud, key: tuple[Key, ...], view: int) -> CutPointView:
        params = self.augment.sample(keyed_rng(*key, "augment", view))
        chosen = CutPointView(*self.augment.cut(cloud, params), params)
        if self.mask is None:
            return chosen
        rng = keyed_rng(*key, "mask", view)
        if self.mask.kind == "block":
            chosen.masked = rng.integers(self.num_groups, size=1)
        else:
            chosen.keep, chosen.masked = random_point_mask(self.num_groups, self.mask.ratio, rng)
        return chosen

    def prepare(self, views: list[RawPointView]) -> list[PointView]:
        """Augment a batch on the device that it is on."""
        return [PointView(self.augment.apply(raw.points, raw.params), raw.keep, raw.masked, raw.pose) for raw in views]


@dataclass(frozen=True)
class PlainViews(PointViews):
    """Views of the share ``span`` of a cloud: of its points in an order of their own, those from the first share to the
    second. Unless ``drawn`` they are the same whatever the key. With ``whole`` there is one more behind them: all
    points of the cloud where they are in their file, with their labels alone."""

    span: tuple[float, float] = (0.0, 1.0)
    drawn: bool = False
    whole: bool = False

    def cut(self, cloud: PointCloud, key: tuple[Key, ...]) -> list[CutPointView]:
        """All views of one cloud. Runs in the worker."""
        views = self._shares(cloud, key if self.drawn else ())
        if self.whole:
            views.append(CutPointView(PointCloud(cloud.xyz, {}, cloud.labels, cloud.pose), np.arange(len(cloud)), {}))
        return views

    def prepare(self, views: list[RawPointView]) -> list[PointView]:
        """Augment a batch on the device that it is on; whole clouds are left alone."""
        if not self.whole:
            return super().prepare(views)
        return [*super().prepare(views[:-1]), PointView(views[-1].points, pose=views[-1].pose)]

    def _shares(self, cloud: PointCloud, key: tuple[Key, ...]) -> list[CutPointView]:
        if self.span == (0.0, 1.0):
            return super().cut(cloud, key)
        first, last = (round(share * len(cloud)) for share in self.span)
        first = min(first, len(cloud) - 1)
        part = np.sort(keyed_rng("part", len(cloud)).permutation(len(cloud))[first : max(last, first + 1)])
        views = super().cut(cloud.take(part), key)
        return [replace(view, source=part[view.source]) for view in views]


@dataclass(frozen=True)
class LabelViews(PointViews):
    """Of a cloud only which labels ``name`` its points have: a "point" for each value, its number of points in the
    label ``COUNT``. One without such labels is a broken sample."""

    augment: PointAugment = field(default_factory=lambda: plain(None, False))
    name: str = ""

    def cut(self, cloud: PointCloud, key: tuple[Key, ...]) -> list[CutPointView]:
        """A single view. Runs in the worker."""
        values, counts = np.unique(cloud.labels[self.name], return_counts=True)
        nowhere = np.zeros((len(values), 3), dtype=np.float32)
        seen = {self.name: values.astype(np.int64), COUNT: counts.astype(np.int64)}
        return [CutPointView(PointCloud(nowhere, {}, seen), np.arange(len(values)), {})]

    def fault(self, cloud: PointCloud) -> str | None:
        return None if self.name in cloud.labels else no_labels(cloud, self.name)


COUNT = "count"


def plain_views(
    input: PointInputConfig, num_views: int = 1, span: tuple[float, float] = (0.0, 1.0), jitter: float = 0.0
) -> PlainViews:
    """What an encoder is shown when it is evaluated: no more than the choice of points, by the key with ``jitter``."""
    augment = plain(input.num_points, input.unit_sphere, input.voxel_size)
    return PlainViews(augment, num_views=num_views, attributes=input.attributes, span=span, drawn=jitter > 0)


def stack_point_views(samples: list[list[CutPointView]]) -> list[RawPointView]:
    """Samples × views to views of batches."""
    return [_stack(list(column)) for column in zip(*samples, strict=True)]


def _stack(column: list[CutPointView]) -> RawPointView:
    clouds = [view.cloud for view in column]
    points = PointBatch(
        _joined([cloud.xyz for cloud in clouds]),
        torch.tensor([0, *np.cumsum([len(cloud) for cloud in clouds]).tolist()]),
        _common([cloud.attributes for cloud in clouds]),
        _common([cloud.labels for cloud in clouds]),
        _joined([view.source for view in column]),
    )
    params = {name: torch.from_numpy(np.stack([view.params[name] for view in column])) for name in column[0].params}
    keep, masked = [v.keep for v in column if v.keep is not None], [v.masked for v in column if v.masked is not None]
    return RawPointView(
        points,
        params,
        torch.from_numpy(np.stack(keep)) if keep else None,
        torch.from_numpy(np.stack(masked)) if masked else None,
        torch.from_numpy(np.stack([np.eye(4) if cloud.pose is None else cloud.pose for cloud in clouds])),
    )


def _common(parts: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """What all clouds have: some files of a folder may have colours and others none."""
    return {name: _joined([part[name] for part in parts]) for name in parts[0] if all(name in part for part in parts)}


def _joined(parts: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts))
