"""TiCo: transformation invariance and covariance contrast (Zhu et al., 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from st_ssl.augment.video import Strength, VideoAugment, VideoAugmentConfig
from st_ssl.core.config import Config
from st_ssl.core.types import View
from st_ssl.data.clip_plans import ClipPair
from st_ssl.data.views import Views, each
from st_ssl.encoders.base import ClipEncoder
from st_ssl.methods.base import METHODS, Losses, Method, Moment, Outputs, Paper
from st_ssl.objectives.covariance_contrast import covariance_contrast, second_moment, unit
from st_ssl.parts.momentum import MomentumConfig
from st_ssl.parts.momentum_network import MomentumNetwork
from st_ssl.parts.projector import projector


class TiCoAugmentConfig(VideoAugmentConfig):
    """The augmentation of BYOL (Grill et al. 2020) as far as both views share it, with one draw for all frames of a
    clip. BYOL's solarisation, and its other strength of blur for the second view, are left out."""

    area: tuple[float, float] = (0.08, 1.0)
    saturation: Strength = 0.2


class TiCoConfig(Config):
    """Embeddings agree with those that a momentum encoder gives for another clip of the video, and stay away from the
    main directions of past embeddings, which a moving average of their covariance holds.

    ``rho`` weighs the second term, ``beta`` is the share of the past in the covariance. ``batch_gradient: false``
    stops the gradient at the batch's own share of it: public code differs here, and the default is our reading of the
    method. So are the momentum and the two clips at a uniform distance in time, since the paper has images alone.
    """

    name: Literal["tico"] = "tico"
    augment: TiCoAugmentConfig = TiCoAugmentConfig()
    hidden_dim: int = Field(default=4096, gt=0)
    output_dim: int = Field(default=256, gt=0)
    projector_layers: int = Field(default=2, gt=0)
    rho: float = Field(default=8.0, ge=0)
    beta: float = Field(default=0.9, ge=0, lt=1)
    batch_gradient: bool = True
    momentum: MomentumConfig = MomentumConfig(start=0.99, end=1.0)


@METHODS.register(TiCoConfig)
class TiCo(Method[TiCoConfig]):
    """The first view goes through the encoder, the second through its momentum copy; the covariance is that of the
    first. A loss of ``rho`` is total collapse. The encoder, not the copy, is exported.
    """

    paper = Paper(
        "TiCo: Transformation invariance and covariance contrast for self-supervised visual representation learning",
        "Zhu et al.",
        "arXiv 2022",
        "agree with a momentum encoder, away from the main directions of past embeddings",
    )
    covariance: Tensor

    def __init__(self, config: TiCoConfig, encoder: ClipEncoder) -> None:
        super().__init__(config, encoder)
        clip = encoder.input
        pair = ClipPair(clip.num_frames, clip.stride, "uniform")
        self.views = Views(each(pair, VideoAugment(config.augment, clip.size, clip.mean, clip.std)))
        self.projector = projector(encoder.embed_dim, config.hidden_dim, config.output_dim, config.projector_layers)
        self.momentum = MomentumNetwork(encoder, self.projector)
        self.register_buffer("covariance", torch.zeros(config.output_dim, config.output_dim))

    def outputs(self, views: list[View]) -> Outputs:
        """Two views of [B] videos to embeddings of the first and targets of the second, [B, output_dim] each."""
        first, second = views
        embeddings = self.projector(self.encoder(first.clip).pooled)
        return Outputs({"first": embeddings}, {"second": self.momentum(second.clip)})

    def losses(self, outputs: Outputs) -> Losses:
        """The loss, its two terms, and the embeddings for the covariance."""
        first, config = outputs["first"], self.config
        distance, contrast = covariance_contrast(
            first, outputs["second"], self.covariance, config.beta, config.batch_gradient
        )
        logs = {"distance": distance.detach(), "covariance_contrast": contrast.detach()}
        return Losses(distance + config.rho * contrast, logs, {"embeddings": first})

    def after_update(self, moment: Moment, kept: Mapping[str, Tensor]) -> None:
        """The covariance takes in that of the batch, and the momentum encoder takes its step."""
        own = second_moment(unit(kept["embeddings"]))
        self.covariance.lerp_(own.to(self.covariance.dtype), 1 - self.config.beta)
        momentum = self.config.momentum.at(moment.step, moment.num_steps)
        self.momentum.follow(self.encoder, self.projector, momentum)
