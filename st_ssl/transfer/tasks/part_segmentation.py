"""Part segmentation: which part of an object of known category every point belongs to."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from st_ssl.core.class_order import in_order
from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.types import Entry, Features
from st_ssl.core.verdict import Figure, mean_figure
from st_ssl.encoders.base import Encoder
from st_ssl.parts.projector import classifier
from st_ssl.transfer.fitting.label_fractions import Parts, divide, labelled
from st_ssl.transfer.tasks.ballot import Shown
from st_ssl.transfer.tasks.base import TASKS
from st_ssl.transfer.tasks.label_survey import Look, PointLabels, Surveyed, check_range, largest, survey
from st_ssl.transfer.tasks.metrics import IGNORE, part_scores, shape_iou
from st_ssl.transfer.tasks.points_common import PointLabelConfig, PointLabelTask, named, point_features, point_rows


class PartConfig(PointLabelConfig):
    """``target``: the label of a shape that is its category (the only one where null); ``labels``: the labels of its
    points. Which parts a category has is seen in its training shapes (none above ``max_classes``), or told by
    ``parts``: category to labels. All shapes are looked at before anything is trained, as in semantic segmentation.
    ``class_names``: those of the parts of all categories, by label."""

    name: Literal["part"] = "part"
    target: str | None = None
    labels: str = "part"
    parts: dict[str, tuple[int, ...]] | None = None


class PartHead(nn.Module):
    """Scores of every point from its own feature and place, the pooled feature of its shape, and its category."""

    def __init__(
        self, encoder: Encoder, config: PartConfig, categories: dict[str, int], target: str, count: int
    ) -> None:
        super().__init__()
        self.categories, self.target = categories, target
        width = 2 * encoder.embed_dim + 3 + len(categories)
        self.mlp = classifier(width, config.hidden, config.dropout, count)

    def forward(self, features: Features, shown: Shown) -> Tensor:
        points = shown.view.points
        cloud, _ = point_rows(points)
        own = point_features(features, points)
        numbers = [self.categories[entry.labels[self.target]] for entry in shown.entries]
        category = one_hot(torch.tensor(numbers, device=own.device), len(self.categories)).to(own.dtype)
        shape = torch.cat([features.pooled.to(own.dtype), category], 1)
        return self.mlp(torch.cat([own, points.xyz.to(own.dtype), shape[cloud]], 1))


class PartMeter:
    """IoU of every shape over the parts of its category, among which alone a prediction is chosen."""

    def __init__(self, parts: dict[str, tuple[int, ...]], target: str) -> None:
        self.parts, self.target = parts, target
        self.found: dict[str, list[float]] = {name: [] for name in parts}

    def add(self, scores: np.ndarray, truth: np.ndarray, sample: np.ndarray, entries: list[Entry]) -> None:
        """As a ``Meter``."""
        categories = [entry.labels[self.target] for entry in entries]
        parts = [self.parts[category] for category in categories]
        each = shape_ious(among(scores, sample, parts), truth, sample, parts)
        for category, value in zip(categories, each.tolist(), strict=True):
            if not np.isnan(value):
                self.found[category].append(value)

    def result(self) -> dict[str, float]:
        """The mean over shapes, and over categories, in per cent."""
        return part_scores(self.found)


def among(scores: np.ndarray, sample: np.ndarray, parts: Sequence[tuple[int, ...]]) -> np.ndarray:
    """The best of the ``parts`` of its sample for each row of ``scores`` [R, K]: int64 [R]."""
    best = np.zeros(len(scores), dtype=np.int64)
    for number, own in enumerate(parts):
        rows = np.flatnonzero(sample == number)
        columns = np.array(own)
        best[rows] = columns[scores[np.ix_(rows, columns)].argmax(1)]
    return best


def shape_ious(
    predicted: np.ndarray, truth: np.ndarray, sample: np.ndarray, parts: Sequence[tuple[int, ...]]
) -> np.ndarray:
    """``shape_iou`` of each shape, of whose category are ``parts``; NaN for one without labels."""
    each = np.full(len(parts), np.nan)
    for number, own in enumerate(parts):
        rows = sample == number
        if (truth[rows] != IGNORE).any():
            each[number] = shape_iou(truth[rows], predicted[rows], own)
    return each


@TASKS.register(PartConfig)
class PartSegment(PointLabelTask):
    """Part segmentation as on ShapeNetPart (Yi et al. 2016). Shapes of a category that no training shape has are left
    out, as are shapes without a category. Counted are all points of a shape's file, as in semantic segmentation, where
    many count those alone that the network was fed."""

    metric = "instance_mIoU"

    config: PartConfig

    def __init__(self, config: PartConfig) -> None:
        super().__init__(config)
        self.target = config.target or ""
        self.known: dict[str, tuple[int, ...]] = {}

    def group(self, entry: Entry) -> str:
        return entry.labels[self.target]

    def parts(self, entries: Sequence[Entry], repeat: int) -> Parts:
        self.target, known = labelled(entries, self.config.target)
        parts = divide(known, self.group)
        there = {self.group(entry) for entry in parts.train}
        val, test = ([entry for entry in part if self.group(entry) in there] for part in (parts.val, parts.test))
        if not test:
            raise DataError(f"no test shape is of a category that training shapes have: {', '.join(in_order(there))}")
        return Parts(parts.train, val, test, parts.tested)

    def learn_classes(self, parts: Parts, look: Look) -> list[str]:
        categories = in_order(self.group(entry) for entry in parts.train)
        found = self.surveyed = survey(parts, look, self.config.labels)
        if self.config.parts is None:
            self.known = self._seen(found.of_training)
            if broken := [name for name in categories if name not in self.known]:
                raise DataError(
                    f"none of the training shapes of {', '.join(broken)} can be read, to see which parts they have"
                )
        else:
            missing = [name for name in categories if not self.config.parts.get(name)]
            if missing:
                raise ConfigError(f"task.parts: no parts are given for {', '.join(missing)}")
            self.known = {name: self.config.parts[name] for name in categories}
        ways = "These are those that training shapes have, or task.parts and task.class_names say"
        check_range(found.all, self.config.labels, self.count(), ways)
        self._tell_foreign(found)
        return named(self.config.class_names, self.count())

    def _seen(self, train: Sequence[PointLabels]) -> dict[str, tuple[int, ...]]:
        """The parts of each category."""
        largest(train, self.config.labels, self.config.max_classes)
        seen: dict[str, set[int]] = {}
        for row in train:
            seen.setdefault(self.group(row.entry), set()).update(row.values.tolist())
        known = {name: tuple(sorted(seen[name])) for name in in_order(seen)}
        if empty := [name for name, labels in known.items() if not labels]:
            raise ConfigError(f"task.labels: no point of a {' or '.join(empty)} has a label {self.config.labels!r}")
        return known

    def _tell_foreign(self, found: Surveyed) -> None:
        """Warn of shapes with a part that their category does not have: no answer is right there."""
        foreign = [row for row in found.all if not set(row.values.tolist()) <= set(self.known[self.group(row.entry)])]
        if foreign:
            entry, category = foreign[0].entry, self.group(foreign[0].entry)
            labels = sorted(set(foreign[0].values.tolist()) - set(self.known[category]))
            warnings.warn(
                f"task.labels={self.config.labels}: {len(foreign)} shapes have parts that their category has in no "
                f"training shape, where no answer is right: {entry.shown} ({category}) has "
                f"{', '.join(map(str, labels))}; task.parts says which parts there are",
                stacklevel=4,
            )

    def saved(self) -> PartConfig:
        return self.config.model_copy(update={"target": self.target, "parts": self.known})

    def restore(self, classes: Sequence[str]) -> None:
        if not self.config.parts:
            super().restore(classes)  # of before the parts were kept
        self.known, self.blind = dict(self.config.parts or {}), True

    def refused(self, entry: Entry) -> str | None:
        category, known = entry.labels.get(self.target), ", ".join(self.known)
        if category is None:
            return f"its category is not told: expected the folder above, with a folder for each of {known}"
        return None if category in self.known else f"its category {category!r} is none of {known}"

    def count(self) -> int:
        seen = 1 + max(part for parts in self.known.values() for part in parts)
        return max(seen, len(self.config.class_names or ()))

    def head(self, encoder: Encoder) -> nn.Module:
        categories = {name: number for number, name in enumerate(self.known)}
        return PartHead(encoder, self.config, categories, self.target, self.count())

    def predicted(self, scores: np.ndarray, sample: np.ndarray, entries: list[Entry]) -> np.ndarray:
        return among(scores, sample, [self.known[self.group(entry)] for entry in entries])

    def meter(self) -> PartMeter:
        return PartMeter(self.known, self.target)

    @property
    def figure(self) -> Figure:
        return mean_figure

    def outcomes(self, scores: np.ndarray, truth: np.ndarray, sample: np.ndarray, entries: list[Entry]) -> np.ndarray:
        """The IoU of each shape, and 1 for it."""
        ious = shape_ious(
            self.predicted(scores, sample, entries), truth, sample, [self.known[self.group(e)] for e in entries]
        )
        known = ~np.isnan(ious)
        return np.stack([np.where(known, ious, 0.0), known.astype(np.float64)], 1)
