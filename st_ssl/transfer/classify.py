"""Classification of objects: one label for each cloud."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from st_ssl.encoders.base import Encoder
from st_ssl.errors import ConfigError
from st_ssl.transfer.metrics import classification_scores, confusion_matrix
from st_ssl.transfer.point_tasks import PointTask, PointTaskConfig, mlp
from st_ssl.transfer.subsets import Parts, divide, labelled
from st_ssl.transfer.tasks import TASKS, ShowAll, Shown
from st_ssl.types import Entry, Features


class ClassifyConfig(PointTaskConfig):
    """Which of the labels of a sample is learned (``target``; the only one where null), from which ``features``: the
    encoder's pooled ones, or the mean and the maximum of its tokens beside each other, [2 D]."""

    name: Literal["classify"] = "classify"
    target: str | None = None
    features: Literal["pooled", "mean_max"] = "pooled"


class PooledHead(nn.Module):
    """Scores [B, K] of whole samples."""

    def __init__(self, encoder: Encoder, config: ClassifyConfig, num_classes: int) -> None:
        super().__init__()
        self.features = config.features
        self.mlp = mlp(encoder.embed_dim * (1 if config.features == "pooled" else 2), config, num_classes)

    def forward(self, features: Features, shown: Shown) -> Tensor:
        if self.features == "pooled":
            return self.mlp(features.pooled)
        if features.tokens is None:
            raise ConfigError("task.features: mean_max needs tokens, which this encoder does not give; use pooled")
        return self.mlp(torch.cat([features.tokens.mean(1), features.tokens.amax(1)], 1))


class ClassMeter:
    """Accuracy, and its mean over classes."""

    def __init__(self, num_classes: int) -> None:
        self.confusion = np.zeros((num_classes, num_classes), dtype=np.int64)

    def add(self, scores: np.ndarray, truth: np.ndarray, sample: np.ndarray, entries: list[Entry]) -> None:
        self.confusion += confusion_matrix(truth, scores.argmax(1), len(self.confusion))

    def result(self) -> dict[str, float]:
        return classification_scores(self.confusion)


@TASKS.register(ClassifyConfig)
class Classify(PointTask):
    """One of the labels of a cloud, from pooled features (fine-tuning of PointNet, 2017, to Point-MAE, 2022). Clouds
    without that label are left out."""

    metric: ClassVar[str] = "accuracy"

    def __init__(self, config: ClassifyConfig) -> None:
        super().__init__(config)
        self.settings = config
        self.target = config.target or ""
        self.classes: dict[str, int] = {}

    def group(self, entry: Entry) -> str:
        return entry.labels[self.target]

    def parts(self, entries: Sequence[Entry], val_share: float, repeat: int) -> Parts:
        self.target, known = labelled(entries, self.settings.target)
        return divide(known, self.group, val_share)

    def learn_classes(self, parts: Parts, show: ShowAll) -> list[str]:
        names = sorted({self.group(entry) for entry in parts.train})
        if len(names) < 2:
            raise ConfigError(f"task.target: {self.target!r} has a single class in the training part: {names}")
        self.classes = {name: number for number, name in enumerate(names)}
        return names

    def head(self, encoder: Encoder) -> nn.Module:
        return PooledHead(encoder, self.settings, len(self.classes))

    def targets(self, shown: Shown) -> Tensor:
        """A class that no training sample has cannot be learned; a sample of it counts as unlabelled."""
        labels = [self.classes.get(self.group(entry), -1) for entry in shown.entries]
        return torch.tensor(labels, device=shown.view.points.xyz.device)

    def rows(self, shown: Shown) -> tuple[Tensor, Tensor]:
        rows = torch.arange(len(shown), device=shown.view.points.xyz.device)
        return rows, torch.zeros_like(rows)

    def meter(self) -> ClassMeter:
        return ClassMeter(len(self.classes))
