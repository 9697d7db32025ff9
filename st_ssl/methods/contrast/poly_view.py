"""Poly-view contrastive learning (Shidani et al., ICLR 2024)."""

from __future__ import annotations

import warnings
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator

from st_ssl.augment.video import Strength, VideoAugment, VideoAugmentConfig
from st_ssl.core.config import Config
from st_ssl.core.types import View
from st_ssl.data.clip_plans import RandomClips
from st_ssl.data.views import Views, each
from st_ssl.encoders.base import ClipEncoder
from st_ssl.methods.base import METHODS, Losses, Method, Outputs, Paper
from st_ssl.objectives.multi_view import Aggregate, poly_view
from st_ssl.parts.projector import projector


class PolyViewAugmentConfig(VideoAugmentConfig):
    """SimCLR's (2020) augmentation at full strength, one for all frames of a clip."""

    area: tuple[float, float] = (0.08, 1.0)
    brightness: Strength = 0.8
    contrast: Strength = 0.8
    saturation: Strength = 0.8
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.2


class PolyViewConfig(Config):
    """``num_views`` clips of a video, drawn independently, are compared all at once.

    ``aggregate``: how the other views of a sample count together, see ``poly_view``; ``unit_mean`` belongs to
    ``sufficient_statistics``. Our reading: the paper compares images with SimCLR, so temperature, projector and
    augmentation are SimCLR's for ImageNet; that the mean of the other views is not normalised again, and 4 views as the
    default, are ours.
    """

    name: Literal["poly_view"] = "poly_view"
    num_views: int = Field(default=4, ge=2)
    aggregate: Aggregate = "geometric"
    unit_mean: bool = False
    augment: PolyViewAugmentConfig = PolyViewAugmentConfig()
    hidden_dim: int = Field(default=2048, gt=0)
    output_dim: int = Field(default=128, gt=0)
    projector_layers: int = Field(default=2, gt=0)
    temperature: float = Field(default=0.1, gt=0)

    @model_validator(mode="after")
    def _warn_of_ignored(self) -> Self:
        if self.unit_mean and self.aggregate != "sufficient_statistics":
            warnings.warn(f"unit_mean is ignored: aggregate is {self.aggregate}", stacklevel=3)
        return self


@METHODS.register(PolyViewConfig)
class PolyView(Method[PolyViewConfig]):
    """Each clip must find all other clips of its video among those of other videos. With two clips it is SimCLR."""

    paper = Paper(
        "Poly-view contrastive learning",
        "Shidani et al.",
        "ICLR 2024",
        "each of many views of a sample is compared with all its others at once",
    )

    def __init__(self, config: PolyViewConfig, encoder: ClipEncoder) -> None:
        super().__init__(config, encoder)
        clip = encoder.input
        plan = RandomClips(clip.num_frames, clip.stride, config.num_views)
        self.views = Views(each(plan, VideoAugment(config.augment, clip.size, clip.mean, clip.std)))
        self.projector = projector(encoder.embed_dim, config.hidden_dim, config.output_dim, config.projector_layers)

    def outputs(self, views: list[View]) -> Outputs:
        """V views of [B] videos to their projections, [B, V, output_dim]."""
        return Outputs({"clips": torch.stack([self.projector(self.encoder(view.clip).pooled) for view in views], 1)})

    def losses(self, outputs: Outputs) -> Losses:
        config = self.config
        loss, accuracy = poly_view(outputs["clips"], config.temperature, config.aggregate, config.unit_mean)
        return Losses(loss, {"contrast_accuracy": accuracy})
