"""DSM (Wang et al., AAAI 2021): decoupling the scene and the motion."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import normalize

from st_ssl.augment.local_warp import LocalWarp, LocalWarpConfig
from st_ssl.augment.temporal_disturbance import TemporalDisturbance, TemporalDisturbanceConfig
from st_ssl.augment.video import Probability, Strength, VideoAugment, VideoAugmentConfig
from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError
from st_ssl.core.types import View
from st_ssl.data.clip_plans import Draw, clip_indices, last_start
from st_ssl.data.streams.base import Stream
from st_ssl.data.views import Views, ViewSpec
from st_ssl.encoders.base import ClipEncoder
from st_ssl.methods.base import METHODS, Losses, Method, Moment, Outputs, Paper
from st_ssl.objectives.motion_contrast import double_triplet, queue_contrast
from st_ssl.parts.momentum_network import MomentumNetwork
from st_ssl.parts.queue import Queue


@dataclass(frozen=True)
class SceneClips:
    """The same clip twice, at a uniform start, and with ``other`` another clip of the video.

    Starts that are less than 2 frames apart are brought apart by a third of all possible starts. In a video that has no
    room for two clips the other one is the same.
    """

    num_frames: int
    stride: int
    other: bool = False

    @property
    def num_clips(self) -> int:
        return 3 if self.other else 2

    def draw(self, rng: np.random.Generator, stream: Stream, epoch: int = 0) -> list[Draw]:
        frames = stream.meta.num_frames
        starts = last_start(self.num_frames, self.stride, frames) + 1
        first, second = (int(start) for start in rng.integers(0, starts, 2))
        if abs(first - second) < 2:
            second = (second + starts // 3) % starts
        chosen = [first, first, second][: self.num_clips]
        return [Draw(clip_indices(start, self.num_frames, self.stride, frames)) for start in chosen]


class DSMAugmentConfig(VideoAugmentConfig):
    """What DSM does to a clip: a crop of 7/8 of the shorter side, and colours that always change."""

    crop: Literal["random_resized", "multi_scale", "centre"] = "multi_scale"
    scales: tuple[float, ...] = (0.875,)
    positions: Literal[5, 13] = 13
    flip: Probability = 0.0
    jitter: Probability = 1.0
    brightness: Strength = 0.5
    contrast: Strength = 0.5
    saturation: Strength = 0.25
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.5
    grayscale: Probability = 0.0
    blur: Probability = 0.0


class DSMConfig(Config):
    """The positive of a clip has its motion in a disturbed scene, the negative its scene in a disturbed motion.

    ``contrast``: the positive is a momentum encoder's key, and ``queue`` keys of earlier batches are negatives too.
    ``triplet`` has one network and no queue. ``spatial``: the warp of the positive; null leaves it out.
    ``negative``: the frames of the clip in a disturbed order (``temporal``, as in the paper), or another clip of the
    video (``segment``, as in the released code). ``momentum`` is that of parameters; the momentum encoder's batch norm
    sees the batch, as published.
    """

    name: Literal["dsm"] = "dsm"
    loss: Literal["contrast", "triplet"] = "contrast"
    negative: Literal["temporal", "segment"] = "temporal"
    spatial: LocalWarpConfig | None = LocalWarpConfig()
    temporal: TemporalDisturbanceConfig = TemporalDisturbanceConfig()
    output_dim: int = Field(default=128, gt=0)
    temperature: float = Field(default=0.07, gt=0)
    queue: int = Field(default=16384, gt=0)
    momentum: float = Field(default=0.999, ge=0, le=1)
    margin: float = Field(default=0.5, gt=0)
    augment: DSMAugmentConfig = DSMAugmentConfig()

    @model_validator(mode="after")
    def _warn_of_ignored(self) -> Self:
        ignored = {"margin": "loss=contrast"} if self.loss == "contrast" else {}
        if self.loss == "triplet":
            ignored = dict.fromkeys(("temperature", "queue", "momentum"), "loss=triplet")
        if self.negative == "segment":
            ignored["temporal"] = "negative=segment"
        for name, why in ignored.items():
            if getattr(self, name) != type(self).model_fields[name].default:
                warnings.warn(f"{name} is ignored with {why}", stacklevel=3)
        return self


@METHODS.register(DSMConfig)
class DSM(Method[DSMConfig]):
    """Anchor and positive are the same frames with crops and colours of their own; the negative has the anchor's crop,
    so that nothing but the order of its frames tells it apart."""

    paper = Paper(
        "Enhancing unsupervised video representation learning by decoupling the scene and the motion",
        "Wang et al.",
        "AAAI 2021",
        "pull the same motion in a warped scene, push the same scene with frames out of order",
    )

    def __init__(self, config: DSMConfig, encoder: ClipEncoder) -> None:
        super().__init__(config, encoder)
        clip, broken = encoder.input, config.negative == "temporal"
        if broken and clip.num_frames < 3:
            raise ConfigError(f"method.negative=temporal needs input.num_frames of 3 or more, not {clip.num_frames}")
        augment = VideoAugment(config.augment, clip.size, clip.mean, clip.std)
        warp = [] if config.spatial is None else [LocalWarp(config.spatial)]
        plan = SceneClips(clip.num_frames, clip.stride, other=not broken)
        if broken:
            negative = ViewSpec(plan, (TemporalDisturbance(config.temporal), augment), shares="anchor")
        else:
            negative = ViewSpec(plan, (augment,))
        self.views = Views((ViewSpec(plan, (augment,), name="anchor"), ViewSpec(plan, (augment, *warp)), negative))
        self.head = nn.Linear(encoder.embed_dim, config.output_dim)
        if config.loss == "contrast":
            self.teacher = MomentumNetwork(encoder, self.head)
            self.queue = Queue(config.queue, config.output_dim)

    def compares_samples(self) -> bool:
        return self.config.loss == "triplet"  # with a queue, the negatives are of earlier batches

    def outputs(self, views: list[View]) -> Outputs:
        """Three views of [B] videos to their embeddings of length 1, [B, output_dim] each."""
        anchor, positive, negative = (view.clip for view in views)
        features = {"query": self._embed(anchor), "negative": self._embed(negative)}
        if self.config.loss == "triplet":
            return Outputs(features | {"key": self._embed(positive)})
        return Outputs(features, {"key": _unit(self.teacher(positive))})

    def _embed(self, clip: Tensor) -> Tensor:
        return _unit(self.head(self.encoder(clip).pooled))

    def losses(self, outputs: Outputs) -> Losses:
        """The loss, and the share of anchors that are nearer to their positive than to their negative."""
        query, key, negative = (outputs[name] for name in ("query", "key", "negative"))
        nearer = ((query * key).sum(1) > (query * negative).sum(1)).to(query.dtype).mean()
        if self.config.loss == "triplet":
            return Losses(double_triplet(query, key, negative, self.config.margin), {"motion_accuracy": nearer})
        queue = self.queue.rows.to(query.dtype)
        loss, accuracy = queue_contrast(query, key, negative, queue, self.config.temperature)
        return Losses(loss, {"contrast_accuracy": accuracy, "motion_accuracy": nearer}, {"key": key})

    def after_update(self, moment: Moment, kept: Mapping[str, Tensor]) -> None:
        """The momentum encoder takes its step, and the batch's keys take the place of the oldest ones in the queue."""
        if self.config.loss == "triplet":
            return
        self.teacher.follow(self.encoder, self.head, self.config.momentum)
        self.queue.push(kept["key"])


def _unit(rows: Tensor) -> Tensor:
    """Rows of length 1, in at least float32."""
    return normalize(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=1)
