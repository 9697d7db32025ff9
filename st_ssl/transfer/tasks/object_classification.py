"""Classification of objects: one label for each cloud."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from st_ssl.core.errors import ConfigError
from st_ssl.core.types import Features
from st_ssl.encoders.base import Encoder
from st_ssl.parts.projector import classifier
from st_ssl.transfer.tasks.ballot import Shown
from st_ssl.transfer.tasks.base import TASKS
from st_ssl.transfer.tasks.labels import Labels, LabelTask
from st_ssl.transfer.tasks.metrics import ConfusionMeter, classification_scores
from st_ssl.transfer.tasks.points_common import PointTask, PointTaskConfig


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
        width = encoder.embed_dim * (1 if config.features == "pooled" else 2)
        self.mlp = classifier(width, config.hidden, config.dropout, num_classes)

    def forward(self, features: Features, shown: Shown) -> Tensor:
        if self.features == "pooled":
            return self.mlp(features.pooled)
        if features.tokens is None:
            raise ConfigError("task.features: mean_max needs tokens, which this encoder does not give; use pooled")
        return self.mlp(torch.cat([features.tokens.mean(1), features.tokens.amax(1)], 1))


@TASKS.register(ClassifyConfig)
class Classify(LabelTask, PointTask):
    """One of the labels of a cloud, from pooled features (fine-tuning of PointNet, 2017, to Point-MAE, 2022). Clouds
    without that label are left out."""

    metric = "accuracy"

    config: ClassifyConfig

    def __init__(self, config: ClassifyConfig) -> None:
        super().__init__(config)
        self.labels = Labels(config.target)

    def head(self, encoder: Encoder) -> nn.Module:
        return PooledHead(encoder, self.config, len(self.labels.classes))

    def meter(self) -> ConfusionMeter:
        return ConfusionMeter(len(self.labels.classes), classification_scores)
