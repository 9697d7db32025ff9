"""What the tasks on point clouds share: augmentation for training and voting, features of points, and heads."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import numpy as np
import torch
from pydantic import Field, PositiveInt, field_validator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from st_ssl.augment.points import PointAugment, PointAugmentConfig
from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError
from st_ssl.core.inputs import Modality, PointInputConfig
from st_ssl.core.random import Key, keyed_rng
from st_ssl.core.types import Features, PointBatch
from st_ssl.data.base import CutsViews, DataSource
from st_ssl.data.points.views import LabelRule, augmented_views, plain_views
from st_ssl.ops.interpolation import interpolate
from st_ssl.parts.projector import classifier
from st_ssl.transfer.fitting.label_fractions import Parts
from st_ssl.transfer.tasks.ballot import Shown
from st_ssl.transfer.tasks.base import Task
from st_ssl.transfer.tasks.label_survey import MAX_CLASSES, Surveyed
from st_ssl.transfer.tasks.metrics import IGNORE


class PointTaskConfig(Config):
    """What every task on clouds has. ``augment``: how training clouds are varied; ``votes``: how many views of a test
    cloud are looked at, their scores averaged, of which all but the first are varied by ``vote_augment``, which moves
    points alone: it cuts none away.

    ``hidden``: the widths of the head's layers before the last; () is a linear head. ``dropout`` follows each of them.
    """

    augment: PointAugmentConfig = PointAugmentConfig(rotation="none", scale=(2 / 3, 1.5), translation=0.2)
    votes: int = Field(default=1, gt=0)
    vote_augment: PointAugmentConfig = PointAugmentConfig(rotation="none", scale=(0.8, 1.25))
    hidden: tuple[PositiveInt, ...] = (256, 256)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)

    @field_validator("vote_augment")
    @classmethod
    def _votes_on_all(cls, value: PointAugmentConfig) -> PointAugmentConfig:
        if cuts_away(value):
            raise ValueError("crop and dropout take points away, which voting has no use for: leave them out")
        return value


def cuts_away(config: PointAugmentConfig) -> bool:
    """Whether some of a cloud's points may be missing afterwards."""
    return config.crop != "none" or config.dropout[1] > 0


class PointTask(Task):
    """A task on clouds, whose ``Shown.view`` is of clouds. With ``fixed_views`` training shows the same points of
    a cloud in every epoch, moved in another way."""

    fixed_views: bool = False
    blind: bool = False
    """Whether it is asked about clouds without labels."""

    modality: ClassVar[Modality] = "points"
    config: PointTaskConfig

    def __init__(self, config: PointTaskConfig) -> None:
        super().__init__(config)
        self.votes = config.votes

    def loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(scores, targets, ignore_index=IGNORE, label_smoothing=self.config.label_smoothing)

    def rule(self) -> LabelRule | None:
        """What the labels of points must be, where these are learned."""
        return None

    def training_views(self, source: DataSource, input: PointInputConfig) -> CutsViews:
        if self.fixed_views:
            return plain_views(input, rule=self.rule())
        augment = PointAugment(self.config.augment, input.num_points, input.unit_sphere, input.voxel_size, input.centre)
        rule = self.rule()
        return augmented_views(input, augment, 1, *([rule] if rule else []))

    def testing_views(self, source: DataSource, input: PointInputConfig, votes: int) -> CutsViews:
        return plain_views(input, votes, whole=self.whole, rule=self.rule())

    def augmented(self, shown: Shown, keys: Sequence[tuple[Key, ...]]) -> Shown:
        return moved(shown, self.config.augment, keys) if self.fixed_views else shown

    def varied(self, shown: Shown, vote: int) -> Shown:
        return moved(shown, self.config.vote_augment, [("vote", vote, entry.path) for entry in shown.entries])


class PointLabelConfig(PointTaskConfig):
    """``labels``: which labels of the points are learned, none of them above ``max_classes``; ``class_names``: how the
    classes are called, by label (null: as the data call them, or by number)."""

    labels: str
    max_classes: int = Field(default=MAX_CLASSES, gt=1)
    class_names: tuple[str, ...] | None = Field(default=None, min_length=2)


class PointLabelTask(PointTask):
    """A task on the labels of all points of a cloud's file, which are looked at before anything is trained; those that
    are ``ignored`` are none."""

    whole: ClassVar[bool] = True
    ignored: tuple[int, ...] = ()
    surveyed: Surveyed | None = None
    config: PointLabelConfig

    def __init__(self, config: PointLabelConfig) -> None:
        super().__init__(config)
        self.name, self.class_names = config.labels, config.class_names

    def of_data(self, source: DataSource) -> None:
        if self.config.class_names is None and self.name == "segment":
            self.class_names = source.point_classes or None

    @abstractmethod
    def count(self) -> int:
        """How many classes points have."""

    def usable(self, parts: Parts) -> Parts:
        assert self.surveyed is not None, "the classes are learned first"
        return self.surveyed.parts

    def counted(self) -> dict[str, str]:
        assert self.surveyed is not None, "the classes are learned first"
        classes, told = named(self.class_names, self.count()), {}
        for part, rows in self.surveyed.seen.items():
            if rows:
                counts = self.surveyed.counts(part, len(classes)).tolist()
                each = [f"{name} {count:,}" for name, count in zip(classes, counts, strict=True)]
                more = f", … ({len(each) - 12} more)" if len(each) > 12 else ""
                told[f"points, {part}"] = ", ".join(each[:12]) + more
        return told

    def rule(self) -> LabelRule | None:
        return None if self.blind else LabelRule(self.name, self.count(), self.ignored)

    def targets(self, shown: Shown) -> Tensor:
        if self.blind:
            return torch.full((len(shown.view.points.xyz),), IGNORE, device=shown.device)
        found = cast(Tensor, shown.view.points.labels[self.name])  # ``LabelRule`` has seen to it, as the file was read
        return found.masked_fill(torch.isin(found, found.new_tensor(self.ignored)), IGNORE) if self.ignored else found

    def rows(self, shown: Shown) -> tuple[Tensor, Tensor]:
        return point_rows(shown.view.points)


def moved(shown: Shown, config: PointAugmentConfig, keys: Sequence[tuple[Key, ...]]) -> Shown:
    """The clouds turned, scaled, bent and coloured as ``config`` says, each by the draws of its key."""
    augment = PointAugment(config)
    draws = [augment.sample(keyed_rng(*key)) for key in keys]
    params = {name: torch.from_numpy(np.stack([draw[name] for draw in draws])) for name in draws[0]}
    return replace(shown, view=replace(shown.view, content=augment.apply(shown.view.points, params)))


def point_rows(points: PointBatch) -> tuple[Tensor, Tensor]:
    """The cloud that each point is of, and its index in the file (in the batch's cloud where that is not known)."""
    cloud = torch.repeat_interleave(
        torch.arange(len(points), device=points.xyz.device), points.offsets.diff(), output_size=len(points.xyz)
    )
    if points.source is not None:
        return cloud, points.source
    return cloud, torch.arange(len(cloud), device=cloud.device) - points.offsets[cloud]


def boxes(shown: Shown, limit: int) -> Iterator[tuple[int, Shown]]:
    """The clouds one by one, each cut in halves across the longest side of its box, and these again, until none has
    more than ``limit`` points; with the number that the cloud has in ``shown``."""
    points = shown.view.points
    bounds = points.offsets.tolist()
    for number, entry in enumerate(shown.entries):
        todo = [torch.arange(bounds[number], bounds[number + 1], device=points.xyz.device)]
        while todo:
            rows = todo.pop()
            if len(rows) > limit:
                xyz = points.xyz[rows]
                order = rows[xyz[:, int((xyz.amax(0) - xyz.amin(0)).argmax())].argsort()]
                todo += [order[: len(order) // 2], order[len(order) // 2 :]]
            elif len(rows):
                own = PointBatch(
                    points.xyz[rows],
                    torch.tensor([0, len(rows)], device=rows.device),
                    {name: values[rows] for name, values in points.attributes.items()},
                    {name: values[rows] for name, values in points.labels.items()},
                    None if points.source is None else points.source[rows],
                )
                yield number, Shown(replace(shown.view, content=own), [entry])


def named(names: Sequence[str] | None, count: int) -> list[str]:
    """``count`` classes by their ``names``, or else by number; ``ConfigError`` where these are not as many."""
    if names is not None and len(names) != count:
        raise ConfigError(f"task.class_names: {len(names)} names for {count} classes")
    return list(names or map(str, range(count)))


def point_features(features: Features, points: PointBatch) -> Tensor:
    """One feature for each point, [P, D]: the encoder's own, or those of its tokens carried over from their centres
    (PointNet++, 2017). Raises ``ConfigError`` where it gives neither."""
    if features.points is not None:
        return features.points
    if features.tokens is None or features.centres is None:
        raise ConfigError("this encoder gives no features of points, nor of places: it cannot segment")
    counts = points.offsets.diff()
    if bool((counts == counts[0]).all()):
        return interpolate(points.dense(), features.centres, features.tokens).flatten(0, 1)
    clouds = [points.xyz[a:b].unsqueeze(0) for a, b in zip(points.offsets[:-1], points.offsets[1:], strict=True)]
    parts = zip(clouds, features.centres.split(1), features.tokens.split(1), strict=True)
    return torch.cat([interpolate(xyz, centres, tokens)[0] for xyz, centres, tokens in parts])


class PointHead(nn.Module):
    """Scores of every point from its own feature."""

    def __init__(self, width: int, config: PointTaskConfig, num_classes: int) -> None:
        super().__init__()
        self.mlp = classifier(width, config.hidden, config.dropout, num_classes)

    def forward(self, features: Features, shown: Shown) -> Any:
        return self.mlp(point_features(features, shown.view.points))
