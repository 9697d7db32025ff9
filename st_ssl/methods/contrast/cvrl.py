"""CVRL: spatiotemporal contrastive video representation learning (Qian et al., CVPR 2021)."""

from __future__ import annotations

import warnings
from typing import Annotated, Literal

from pydantic import Field, model_validator

from st_ssl.augment.video import Probability, Strength, VideoAugment, VideoAugmentConfig
from st_ssl.core.config import Config
from st_ssl.core.types import ALIKE, View
from st_ssl.data.clip_plans import ClipPair
from st_ssl.data.views import Views, ViewSpec
from st_ssl.encoders.base import ClipEncoder
from st_ssl.methods.base import METHODS, Losses, Method, Outputs, Paper
from st_ssl.objectives.contrastive import info_nce
from st_ssl.parts.projector import projector


class IntervalConfig(Config):
    """How far apart in time the two clips of a video are: see ``ClipPair``. ``frames`` is for ``constant`` alone."""

    distribution: Literal["decreasing", "uniform", "constant"] = "decreasing"
    frames: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _warn_of_ignored(self) -> IntervalConfig:
        if self.frames and self.distribution != "constant":
            warnings.warn(
                f"interval.frames={self.frames} is ignored: the interval is {self.distribution}", stacklevel=3
            )
        return self


class CVRLAugmentConfig(VideoAugmentConfig):
    """What CVRL does to a clip: SimCLR's (2020) augmentation at full strength, with wide crops, colours changed in a
    drawn order, and always blurred. (Our blur mirrors the borders, where the authors' sees black.)"""

    aspect: tuple[float, float] = (0.5, 2.0)
    brightness: Strength = 0.8
    contrast: Strength = 0.8
    saturation: Strength = 0.8
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.2
    jitter_order: Literal["fixed", "random"] = "random"
    blur: Probability = 1.0


class SecondViewConfig(Config):
    """What the augmentation of the second view has otherwise than that of the first."""

    blur: Probability = 0.1
    solarize: Probability = 0.2


class CVRLConfig(Config):
    """Two clips of a video, drawn close rather than far, each with one augmentation for all its frames, must agree.

    Both are augmented by ``augment``, the second with the changes of ``second``; which of them is the earlier one is
    drawn. ``projector_layers`` counts the last one: the authors' code has three hidden ones before it.
    """

    name: Literal["cvrl"] = "cvrl"
    interval: IntervalConfig = IntervalConfig()
    augment: CVRLAugmentConfig = CVRLAugmentConfig()
    second: SecondViewConfig = SecondViewConfig()
    hidden_dim: int = Field(default=2048, gt=0)
    output_dim: int = Field(default=128, gt=0)
    projector_layers: int = Field(default=3, gt=0)
    temperature: float = Field(default=0.1, gt=0)


@METHODS.register(CVRLConfig)
class CVRL(Method[CVRLConfig]):
    """InfoNCE between the projections of two temporally consistent views; other videos are the negatives."""

    paper = Paper(
        "Spatiotemporal contrastive video representation learning",
        "Qian et al.",
        "CVPR 2021",
        "two clips of a video, each with one augmentation for all its frames, agree",
    )

    def __init__(self, config: CVRLConfig, encoder: ClipEncoder) -> None:
        super().__init__(config, encoder)
        clip = encoder.input
        pair = ClipPair(clip.num_frames, clip.stride, config.interval.distribution, config.interval.frames)
        second = config.augment.model_copy(update=config.second.model_dump())
        augments = [VideoAugment(one, clip.size, clip.mean, clip.std) for one in (config.augment, second)]
        self.views = Views(tuple(ViewSpec(pair, (augment,)) for augment in augments))
        self.projector = projector(encoder.embed_dim, config.hidden_dim, config.output_dim, config.projector_layers)

    def outputs(self, views: list[View]) -> Outputs:
        """Two views of [B] videos to their projections, [B, output_dim] each."""
        first, second = (self.projector(self.encoder(view.clip).pooled) for view in views)
        alike = {ALIKE: views[0].labels[ALIKE]} if ALIKE in views[0].labels else {}
        return Outputs({"first": first, "second": second}, alike)

    def losses(self, outputs: Outputs) -> Losses:
        alike = outputs.given.get(ALIKE)
        loss, accuracy = info_nce(outputs["first"], outputs["second"], self.config.temperature, alike)
        return Losses(loss, {"contrast_accuracy": accuracy})
