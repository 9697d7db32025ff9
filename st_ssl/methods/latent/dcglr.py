"""DCGLR: distillation with contrast for point clouds (Fu et al., 2022)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from copy import deepcopy
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from st_ssl.augment.points import PointAugment, PointAugmentConfig, Range
from st_ssl.core.config import Config
from st_ssl.core.types import PointBatch, View
from st_ssl.data.clip_plans import Still
from st_ssl.data.points.views import point_views
from st_ssl.data.views import each
from st_ssl.encoders.base import CloudEncoder, Encoder
from st_ssl.methods.base import METHODS, Losses, Method, Moment, Outputs, Paper
from st_ssl.objectives.queue_contrast import queue_info_nce
from st_ssl.objectives.self_distillation import categories, entropy, self_distillation
from st_ssl.parts.distillation_head import DistillationHead
from st_ssl.parts.momentum import MomentumConfig
from st_ssl.parts.projector import projector
from st_ssl.training.distributed import mean_over_ranks
from st_ssl.training.ema import follow
from st_ssl.training.schedule import between, progress

GLOBALS = 2


class DCGLRAugmentConfig(PointAugmentConfig):
    """What is done to a global crop: a part of the cloud around one of its points, turned about the vertical axis,
    scaled, with a little noise. (Our choice: the paper's settings could not be read.)"""

    scale: Range = (0.8, 1.2)
    jitter: float = Field(default=0.01, ge=0.0)
    crop: Literal["none", "sphere", "cuboid", "frustum"] = "sphere"
    crop_share: Range = (0.6, 1.0)


class LocalConfig(Config):
    """The local crops: how many (``number``), the share of the points that each has (``crop_share``), and how many of
    these are shown (``num_points``). All else is as ``augment`` says."""

    number: int = Field(default=4, ge=0)
    crop_share: Range = (0.2, 0.5)
    num_points: int = Field(default=256, gt=0)


class SharpeningConfig(Config):
    """The teacher's temperature: from ``start`` to ``end`` over the first ``share`` of the run, then constant."""

    start: float = Field(default=0.04, gt=0)
    end: float = Field(default=0.07, gt=0)
    share: float = Field(default=0.3, gt=0, le=1)

    def at(self, step: int, num_steps: int) -> float:
        """The temperature of update ``step`` (from 0) of ``num_steps``."""
        return between(self.start, self.end, progress(step, self.share * num_steps))


class DCGLRConfig(Config):
    """A student sees global and local crops of a cloud, a momentum teacher the two global ones.

    ``distillation`` and ``contrast`` weigh the two losses; 0 leaves one out, with all that belongs to it. Distillation
    is DINO's (2021): from each crop the student finds the teacher's ``categories`` of another global crop. Contrast is
    InfoNCE: the student's projection of a global crop finds the teacher's projection of the other one among those of
    the batch; it is there so that the teacher is updated better.

    Our reading: only the abstract of the paper could be read. Crops, widths, temperatures, weights and momentum are
    ours, from DINO and MoCo v2 at the size of clouds.
    """

    name: Literal["dcglr"] = "dcglr"
    augment: DCGLRAugmentConfig = DCGLRAugmentConfig()
    local: LocalConfig = LocalConfig()
    distillation: float = Field(default=1.0, ge=0)
    contrast: float = Field(default=1.0, ge=0)
    categories: int = Field(default=4096, gt=1)
    head_hidden_dim: int = Field(default=2048, gt=0)
    bottleneck_dim: int = Field(default=256, gt=0)
    student_temperature: float = Field(default=0.1, gt=0)
    teacher_temperature: SharpeningConfig = SharpeningConfig()
    centre_momentum: float = Field(default=0.9, ge=0, le=1)
    hidden_dim: int = Field(default=512, gt=0)
    output_dim: int = Field(default=128, gt=0)
    projector_layers: int = Field(default=2, gt=0)
    temperature: float = Field(default=0.2, gt=0)
    momentum: MomentumConfig = MomentumConfig(start=0.996, end=1.0)

    @model_validator(mode="after")
    def _some_loss(self) -> Self:
        if not self.distillation and not self.contrast:
            raise ValueError("distillation=0 and contrast=0 leave no loss: at least one must be above 0")
        if not self.distillation and "local" in self.model_fields_set and self.local.number:
            warnings.warn(
                f"local.number={self.local.number} is ignored with distillation=0: local crops are distilled alone",
                stacklevel=3,
            )
        return self

    @property
    def num_local(self) -> int:
        """How many local crops there are."""
        return self.local.number if self.distillation else 0


class Heads(nn.Module):
    """What stands behind an encoder: the ``projector`` of the contrast and the ``distillation`` head, each where its
    loss is wanted."""

    def __init__(self, config: DCGLRConfig, dim: int) -> None:
        super().__init__()
        self.projector: nn.Module | None = None
        self.distillation: nn.Module | None = None
        if config.contrast:
            self.projector = projector(dim, config.hidden_dim, config.output_dim, config.projector_layers)
        if config.distillation:
            self.distillation = DistillationHead(dim, config.head_hidden_dim, config.bottleneck_dim, config.categories)


class Teacher(nn.Module):
    """A copy of an encoder and its heads that follows them by a moving average of their parameters. Its batch norm uses
    and counts the batches that it sees itself."""

    def __init__(self, encoder: Encoder, heads: Heads) -> None:
        super().__init__()
        self.encoder = deepcopy(encoder).requires_grad_(False)
        self.heads = deepcopy(heads).requires_grad_(False)

    def follow(self, encoder: nn.Module, heads: nn.Module, momentum: float) -> None:
        """One step towards ``encoder`` and ``heads``; ``momentum`` in [0, 1]: 1 stays, 0 copies."""
        for slow, live in ((self.encoder, encoder), (self.heads, heads)):
            follow(_parameters(slow), _parameters(live), momentum)


def _parameters(network: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


@METHODS.register(DCGLRConfig)
class DCGLR(Method[DCGLRConfig]):
    """Distillation from a momentum teacher, and contrast with it. The teacher's encoder is exported, as in DINO."""

    paper = Paper(
        "Distillation with contrast is all you need for self-supervised point cloud representation learning",
        "Fu et al.",
        "arXiv 2022",
        "a student of global and local crops learns from a momentum teacher by distillation and contrast",
    )
    modality = "points"
    centre: Tensor
    teacher_temperature: Tensor

    def __init__(self, config: DCGLRConfig, encoder: CloudEncoder) -> None:
        super().__init__(config, encoder)
        cloud, local = encoder.input, config.local
        augment = PointAugment(config.augment, cloud.num_points, cloud.unit_sphere, cloud.voxel_size, cloud.centre)
        specs = each(Still(GLOBALS), augment)
        if config.num_local:
            crop = config.augment.model_copy(update={"crop": "sphere", "crop_share": local.crop_share})
            small = PointAugment(crop, local.num_points, cloud.unit_sphere, cloud.voxel_size, cloud.centre)
            specs += each(Still(config.num_local), small)
        self.views = point_views(cloud, specs)
        self.heads = Heads(config, encoder.embed_dim)
        self.teacher = Teacher(encoder, self.heads)
        self.register_buffer("centre", torch.zeros(config.categories))
        self.register_buffer("teacher_temperature", torch.tensor(config.teacher_temperature.at(0, 1)))

    def compares_samples(self) -> bool:
        return self.config.contrast > 0

    def outputs(self, views: list[View]) -> Outputs:
        """Crops of B clouds, global ones first, to what the losses compare: with contrast ``queries`` and ``keys``
        [B, 2, ``output_dim``], with distillation ``student`` [B, V, K] and ``teacher`` [B, 2, K]."""
        features: dict[str, Tensor] = {}
        given: dict[str, Tensor] = {}
        pooled = [_pooled(self.encoder, view.points) for view in views]
        with torch.no_grad():
            targets = [_pooled(self.teacher.encoder, view.points) for view in views[:GLOBALS]]
        if self.heads.projector is not None:
            features["queries"] = _each(self.heads.projector, pooled[:GLOBALS])
            with torch.no_grad():
                given["keys"] = _each(self.teacher.heads.projector, targets)
        if self.heads.distillation is not None:
            features["student"] = _each(self.heads.distillation, pooled)
            with torch.no_grad():
                given["teacher"] = _each(self.teacher.heads.distillation, targets)
        return Outputs(features, given)

    def losses(self, outputs: Outputs) -> Losses:
        """The weighted sum of both losses. Logged beside it are each of them, the share of queries that find their
        key, and two entropies of the teacher in nats: near 0 for ``category_entropy``, one category has won; near the
        logarithm of K for ``teacher_entropy``, it tells nothing."""
        config = self.config
        terms: list[Tensor] = []
        logs: dict[str, Tensor] = {}
        kept: dict[str, Tensor] = {}
        if config.contrast:
            queries, keys = outputs["queries"], outputs["keys"]
            none = keys.new_zeros(0, keys.shape[2])
            found = [
                queue_info_nce(queries[:, q], keys[:, k], none, config.temperature, in_batch=True)
                for q, k in ((0, 1), (1, 0))
            ]
            loss, logs["contrast_accuracy"] = (torch.stack(values).mean() for values in zip(*found, strict=True))
            terms.append(config.contrast * loss)
            logs["contrast"] = loss.detach()
        if config.distillation:
            teacher, temperature = outputs["teacher"], self.teacher_temperature
            loss = self_distillation(outputs["student"], teacher, self.centre, config.student_temperature, temperature)
            terms.append(config.distillation * loss)
            shares = categories(teacher, self.centre, temperature)
            logs["distillation"] = loss.detach()
            logs["teacher_entropy"] = entropy(shares).mean()
            logs["category_entropy"] = entropy(mean_over_ranks(shares.mean((0, 1))))
            kept["teacher"] = teacher.mean(1)
        return Losses(torch.stack(terms).sum(), logs, kept)

    def after_update(self, moment: Moment, kept: Mapping[str, Tensor]) -> None:
        """The centre moves to the mean of the teacher's scores, the teacher to the student."""
        config = self.config
        if "teacher" in kept:
            self.centre.lerp_(kept["teacher"].mean(0).to(self.centre.dtype), 1 - config.centre_momentum)
        self.teacher_temperature.fill_(config.teacher_temperature.at(moment.step + 1, moment.num_steps))
        self.teacher.follow(self.encoder, self.heads, config.momentum.at(moment.step, moment.num_steps))

    def exports(self) -> dict[str, Encoder]:
        return {"encoder": self.teacher.encoder}

    def watched(self) -> dict[str, nn.Module]:
        return {} if self.heads.projector is None else {"projection": self.heads.projector}


def _pooled(encoder: Encoder, points: PointBatch) -> Tensor:
    """Clouds to what an encoder makes of each, [B, D]."""
    pooled: Tensor = encoder(points).pooled
    return pooled


def _each(head: nn.Module | None, pooled: list[Tensor]) -> Tensor:
    """What ``head`` makes of each of V views, [B, V, K]."""
    assert head is not None
    return torch.stack([head(features) for features in pooled], 1)
