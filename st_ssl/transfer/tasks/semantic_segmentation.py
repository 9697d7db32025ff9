"""Semantic segmentation: a class for every point of a scene."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveInt, field_validator, model_validator
from torch import Tensor, nn

from st_ssl.augment.points import PointAugmentConfig
from st_ssl.augment.sweep_mixing import SweepMixConfig, mix_sweeps
from st_ssl.core.errors import ConfigError
from st_ssl.core.random import Key
from st_ssl.core.types import Entry
from st_ssl.core.verdict import Figure
from st_ssl.data.base import DataSource
from st_ssl.encoders.base import Encoder
from st_ssl.transfer.fitting.label_fractions import Parts, kept_labels
from st_ssl.transfer.tasks.ballot import Shown
from st_ssl.transfer.tasks.base import TASKS
from st_ssl.transfer.tasks.label_survey import Look, check_range, largest, survey
from st_ssl.transfer.tasks.metrics import IGNORE, ConfusionMeter, iou_figure, iou_parts, ious, segmentation_scores
from st_ssl.transfer.tasks.points_common import PointHead, PointLabelConfig, PointLabelTask, boxes, cuts_away, named


class SegmentConfig(PointLabelConfig):
    """``labels``: which labels of the points are learned; -1 and those ``ignored`` are none. ``num_classes``: how many
    classes (null: as many as ``class_names``, or as the data name, or one more than the largest label in the training
    part, ``max_classes`` at most). The labels of all parts are looked at before anything is trained: a scene without
    any is left out, and a label that is no class is an error.

    ``label_points``: how many labelled points of each training scene keep their label, or as a fraction (0.1) which
    share of them (null: all). ``chunk_points``: of a test view with more points the network is fed boxes of at most so
    many, one after the other (null: all of a batch at once). ``background``: classes such as floor, wall and ceiling,
    without which ``foreground_mIoU`` is taken. ``mix``: clouds of a training batch are mixed (LiDAR).

    Scenes are turned about the vertical axis and mirrored in training, and turned for voting."""

    name: Literal["segment"] = "segment"
    labels: str = "segment"
    ignored: tuple[int, ...] = (255,)
    num_classes: int | None = Field(default=None, gt=1)
    label_points: int | float | None = Field(default=None, gt=0)
    chunk_points: int | None = Field(default=None, gt=0)
    background: tuple[Annotated[int, Field(ge=0)], ...] = ()
    augment: PointAugmentConfig = PointAugmentConfig(scale=(0.9, 1.1), flip=(0.5, 0.5, 0.0), jitter=0.005)
    vote_augment: PointAugmentConfig = PointAugmentConfig()
    hidden: tuple[PositiveInt, ...] = ()
    dropout: float = Field(default=0.0, ge=0, lt=1)
    mix: SweepMixConfig | None = None

    @field_validator("label_points")
    @classmethod
    def _count_or_share(cls, value: int | float | None) -> int | float | None:
        if isinstance(value, float) and value > 1:
            raise ValueError(f"is a whole number of points, or a share of at most 1.0, got {value}")
        return value

    @model_validator(mode="after")
    def _same_points(self) -> Self:
        if self.label_points is not None and cuts_away(self.augment):
            raise ValueError("label_points needs the same points in every epoch: no augment.crop, no augment.dropout")
        if self.label_points is not None and self.mix is not None:
            raise ValueError("label_points needs the same points in every epoch: no mix")
        return self


@TASKS.register(SegmentConfig)
class Segment(PointLabelTask):
    """Semantic segmentation with a linear or MLP head on the features of points. Label fractions are of scenes, and
    ``label_points`` those within a scene, as in limited reconstructions and limited annotations (Hou et al. 2021).

    Counted are all points of a test scene's file, whatever ``input.voxel_size`` or ``input.num_points`` leave of it: a
    point that no view has is given the scores of the nearest one that some view has."""

    metric = "mIoU"

    config: SegmentConfig

    def __init__(self, config: SegmentConfig) -> None:
        super().__init__(config)
        self.ignored = config.ignored
        self.told = config.num_classes or len(config.class_names or ())
        self.num_classes = self.told
        # The points that keep their label must be the same ones in every epoch.
        self.fixed_views = config.label_points is not None

    def of_data(self, source: DataSource) -> None:
        if self.config.num_classes is None:
            super().of_data(source)
            self.num_classes = self.told = len(self.class_names or ())

    def learn_classes(self, parts: Parts, look: Look) -> list[str]:
        name = self.name
        found = self.surveyed = survey(parts, look, name, self.config.ignored)
        if not self.told:
            self.num_classes = largest(found.of_training, name, self.config.max_classes) + 1
            if self.num_classes < 2:
                raise ConfigError(f"task.labels: {name!r} of the training part has fewer than 2 classes")
        ignored = ", ".join(["{}", *map(str, self.config.ignored)])
        who = "task.num_classes and task.class_names say" if self.told else "the training part has"
        ways = f"These are those that {who}: task.ignored=[{ignored}] makes it none, task.num_classes=NUMBER a class"
        check_range(found.all, name, self.num_classes, ways)
        if max(self.config.background, default=0) >= self.num_classes:
            raise ConfigError(
                f"task.background={list(self.config.background)}: expected some of the {self.num_classes} classes "
                f"(0 to {self.num_classes - 1})"
            )
        return named(self.class_names, self.num_classes)

    def restore(self, classes: Sequence[str]) -> None:
        self.num_classes, self.blind = len(classes), True

    def count(self) -> int:
        return self.num_classes

    def head(self, encoder: Encoder) -> nn.Module:
        return PointHead(encoder.embed_dim, self.config, self.num_classes)

    def augmented(self, shown: Shown, keys: Sequence[tuple[Key, ...]]) -> Shown:
        varied = super().augmented(shown, keys)
        if self.config.mix is None:
            return varied
        points = mix_sweeps(varied.view.points, self.config.mix, keys, self.name)
        return replace(varied, view=replace(varied.view, content=points))

    def training_targets(self, shown: Shown, seed: int) -> Tensor:
        targets = self.targets(shown)
        if self.config.label_points is None:
            return targets
        kept = torch.full_like(targets, IGNORE)
        bounds = shown.view.points.offsets.tolist()
        for entry, start, stop in zip(shown.entries, bounds[:-1], bounds[1:], strict=True):
            rows = (targets[start:stop] != IGNORE).nonzero().squeeze(1) + start
            chosen = rows[kept_labels(entry.path, seed, len(rows), self.config.label_points)]
            kept[chosen] = targets[chosen]
        return kept

    def pieces(self, shown: Shown) -> Iterable[tuple[int, Shown]]:
        limit = self.config.chunk_points
        return super().pieces(shown) if limit is None else boxes(shown, limit)

    def meter(self) -> ConfusionMeter:
        return ConfusionMeter(self.num_classes, self._figures)

    def _figures(self, confusion: np.ndarray) -> dict[str, float]:
        """mIoU, mAcc and allAcc over the points of all scenes, ``foreground_mIoU`` over the classes that are not
        ``background`` (where any is), and the IoU of every class."""
        each = {f"IoU_{number}": float(100 * value) for number, value in enumerate(ious(confusion))}
        return segmentation_scores(confusion, self.config.background) | each

    @property
    def figure(self) -> Figure:
        return iou_figure

    def outcomes(self, scores: np.ndarray, truth: np.ndarray, sample: np.ndarray, entries: list[Entry]) -> np.ndarray:
        return iou_parts(truth, scores.argmax(1), sample, len(entries), self.num_classes)
