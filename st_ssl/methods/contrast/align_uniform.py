"""Alignment and uniformity as the loss (Wang and Isola, ICML 2020)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import normalize

from st_ssl.augment.video import Probability, VideoAugment, VideoAugmentConfig
from st_ssl.core.config import Config
from st_ssl.core.types import View
from st_ssl.data.clip_plans import RandomClips
from st_ssl.data.views import Views, each
from st_ssl.encoders.base import ClipEncoder
from st_ssl.methods.base import METHODS, Losses, Method, Outputs, Paper
from st_ssl.objectives.alignment import alignment, uniformity
from st_ssl.parts.projector import projector


class AlignUniformAugmentConfig(VideoAugmentConfig):
    """The augmentation of the paper's STL-10 runs, one for all frames of a clip."""

    area: tuple[float, float] = (0.08, 1.0)
    jitter: Probability = 1.0
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.4
    blur: Probability = 0.0


class AlignUniformConfig(Config):
    """``align_weight`` × alignment of two clips of a video + ``uniform_weight`` × uniformity of all videos.

    ``alpha`` is the power of the distance between positives, ``t`` how fast the repulsion falls with the squared
    distance; defaults are the paper's for STL-10 (for ImageNet 3 × alignment + uniformity with t = 3). ``normalise``:
    projections have length 1, as in the paper; without it the two measures have no fixed range. The projector has the
    widths of the paper's fully connected layers. Our reading: the paper pairs two crops of an image, here the clips are
    drawn independently as well.
    """

    name: Literal["align_uniform"] = "align_uniform"
    align_weight: float = Field(default=1.0, ge=0)
    uniform_weight: float = Field(default=1.0, ge=0)
    alpha: float = Field(default=2.0, ge=1)
    t: float = Field(default=2.0, gt=0)
    normalise: bool = True
    augment: AlignUniformAugmentConfig = AlignUniformAugmentConfig()
    hidden_dim: int = Field(default=4096, gt=0)
    output_dim: int = Field(default=128, gt=0)
    projector_layers: int = Field(default=3, gt=0)

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if self.align_weight == self.uniform_weight == 0:
            raise ValueError("align_weight and uniform_weight are both 0: nothing would be learned")
        return self


@METHODS.register(AlignUniformConfig)
class AlignUniform(Method[AlignUniformConfig]):
    """Two clips of a video come close, and all videos spread evenly. Uniformity is of the whole batch of all processes,
    for each clip by itself, then averaged: a video's own two clips do not repel each other."""

    paper = Paper(
        "Understanding contrastive representation learning through alignment and uniformity on the hypersphere",
        "Wang and Isola",
        "ICML 2020",
        "positives lie close, and all features spread evenly over the sphere",
    )

    def __init__(self, config: AlignUniformConfig, encoder: ClipEncoder) -> None:
        super().__init__(config, encoder)
        clip = encoder.input
        plan = RandomClips(clip.num_frames, clip.stride, num_clips=2)
        self.views = Views(each(plan, VideoAugment(config.augment, clip.size, clip.mean, clip.std)))
        self.projector = projector(encoder.embed_dim, config.hidden_dim, config.output_dim, config.projector_layers)

    def outputs(self, views: list[View]) -> Outputs:
        """Two views of [B] videos to their projections, [B, output_dim] each."""
        first, second = (self.projector(self.encoder(view.clip).pooled) for view in views)
        return Outputs({"first": first, "second": second})

    def losses(self, outputs: Outputs) -> Losses:
        """Both measures are logged, whatever their weights."""
        config = self.config
        first, second = (self._scaled(outputs[name]) for name in ("first", "second"))
        align = alignment(first, second, config.alpha)
        uniform = (uniformity(first, config.t) + uniformity(second, config.t)) / 2
        loss = config.align_weight * align + config.uniform_weight * uniform
        return Losses(loss, {"alignment": align, "uniformity": uniform})

    def _scaled(self, x: Tensor) -> Tensor:
        """Of length 1, in at least float32, or as it is."""
        return normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=1) if self.config.normalise else x
