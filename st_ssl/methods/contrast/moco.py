"""MoCo: momentum contrast (He et al., CVPR 2020), in its second version (Chen et al., 2020)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import normalize

from st_ssl.augment.video import VideoAugment, VideoAugmentConfig
from st_ssl.core.config import Config
from st_ssl.core.types import View
from st_ssl.data.clip_plans import ClipPair
from st_ssl.data.views import Views, each
from st_ssl.encoders.base import ClipEncoder
from st_ssl.methods.base import METHODS, Losses, Method, Moment, Outputs, Paper
from st_ssl.objectives.queue_contrast import queue_info_nce
from st_ssl.parts.momentum import MomentumConfig
from st_ssl.parts.momentum_network import MomentumNetwork
from st_ssl.parts.projector import projector
from st_ssl.parts.queue import Queue


class MoCoAugmentConfig(VideoAugmentConfig):
    """The augmentation of MoCo v2, with one draw for all frames of a clip."""

    area: tuple[float, float] = (0.2, 1.0)


class MoCoConfig(Config):
    """A query must find the key of another clip of its video, made by a momentum encoder, among a queue of past keys.

    The defaults are those of MoCo v2 for images. The two clips are at a uniform distance in time (our reading; the
    study of MoCo on videos, Feichtenhofer et al. 2021, draws both starts independently). ``queue_size: 0``: no queue;
    the keys of the other videos of the batch, of all processes, are the negatives. ``batch_negatives`` has them beside
    the queue. ``symmetric``: each clip is once the query, and both keys enter the queue; the loss is the mean of both.
    ``projector_norm``: batch norm in the projector, which MoCo v2 does without.
    """

    name: Literal["moco"] = "moco"
    augment: MoCoAugmentConfig = MoCoAugmentConfig()
    hidden_dim: int = Field(default=2048, gt=0)
    output_dim: int = Field(default=128, gt=0)
    projector_layers: int = Field(default=2, gt=0)
    projector_norm: bool = False
    temperature: float = Field(default=0.2, gt=0)
    queue_size: int = Field(default=65536, ge=0)
    batch_negatives: bool = False
    symmetric: bool = False
    momentum: MomentumConfig = MomentumConfig(start=0.999, end=0.999)

    @model_validator(mode="after")
    def _warn_of_ignored(self) -> Self:
        if self.batch_negatives and not self.queue_size:
            warnings.warn(
                "batch_negatives=True is ignored: with queue_size=0 the batch has all negatives", stacklevel=3
            )
        return self


@METHODS.register(MoCoConfig)
class MoCo(Method[MoCoConfig]):
    """InfoNCE between queries of the encoder and keys of its momentum copy. The encoder, not the copy, is exported, as
    published.

    The published code shuffles the keys among processes before batch norm, so that a query cannot recognise its key by
    the statistics of their common batch. Here batch norm is over all processes and the momentum encoder sees the other
    view, without a shuffle: use an encoder without batch norm where that matters.
    """

    paper = Paper(
        "Momentum contrast for unsupervised visual representation learning",
        "He et al.",
        "CVPR 2020",
        "find the key of another clip, made by a momentum encoder, among a queue of past keys",
    )

    def __init__(self, config: MoCoConfig, encoder: ClipEncoder) -> None:
        super().__init__(config, encoder)
        clip = encoder.input
        pair = ClipPair(clip.num_frames, clip.stride, "uniform")
        self.views = Views(each(pair, VideoAugment(config.augment, clip.size, clip.mean, clip.std)))
        self.projector = projector(
            encoder.embed_dim, config.hidden_dim, config.output_dim, config.projector_layers, config.projector_norm
        )
        self.momentum = MomentumNetwork(encoder, self.projector)
        self.queue = Queue(config.queue_size, config.output_dim)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The numbers of the views that are query and key."""
        return [(0, 1), (1, 0)] if self.config.symmetric else [(0, 1)]

    @property
    def in_batch(self) -> bool:
        """Whether the other keys of the batch are negatives."""
        return self.config.batch_negatives or not self.config.queue_size

    def compares_samples(self) -> bool:
        return self.in_batch

    def outputs(self, views: list[View]) -> Outputs:
        """Two views of [B] videos to queries and keys, [B, output_dim] each."""
        queries = {f"query_{q}": self.projector(self.encoder(views[q].clip).pooled) for q, _ in self.pairs}
        return Outputs(queries, {f"key_{k}": self.momentum(views[k].clip) for _, k in self.pairs})

    def losses(self, outputs: Outputs) -> Losses:
        """The mean loss of all queries, and the share of those that find their key."""
        found = [
            queue_info_nce(
                outputs[f"query_{q}"], outputs[f"key_{k}"], self.queue.rows, self.config.temperature, self.in_batch
            )
            for q, k in self.pairs
        ]
        loss, accuracy = (torch.stack(values).mean() for values in zip(*found, strict=True))
        return Losses(loss, {"contrast_accuracy": accuracy}, outputs.given if self.config.queue_size else {})

    def after_update(self, moment: Moment, kept: Mapping[str, Tensor]) -> None:
        """The keys of the update enter the queue, and the momentum encoder takes its step."""
        for keys in kept.values():
            self.queue.push(normalize(keys.to(torch.promote_types(keys.dtype, torch.float32)), dim=1))
        momentum = self.config.momentum.at(moment.step, moment.num_steps)
        self.momentum.follow(self.encoder, self.projector, momentum)
