"""SimCLR (Chen et al., ICML 2020) carried over to clouds: two views of an object agree, those of others do not."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from st_ssl.augment.points import PointAugment, PointAugmentConfig, Range
from st_ssl.core.config import Config
from st_ssl.core.types import View
from st_ssl.data.points.views import augmented_views
from st_ssl.encoders.base import CloudEncoder
from st_ssl.methods.base import METHODS, Losses, Method, Outputs, Paper
from st_ssl.objectives.contrastive import info_nce
from st_ssl.parts.projector import projector


class SimCLRAugmentConfig(PointAugmentConfig):
    """What takes the place of an image's crop and colours (our reading): a part of the cloud around one of its points,
    turned about the vertical axis, stretched along each axis, with a little noise."""

    scale: Range = (0.8, 1.25)
    anisotropic: bool = True
    jitter: float = Field(default=0.01, ge=0.0)
    crop: Literal["none", "sphere", "cuboid", "frustum"] = "sphere"
    crop_share: Range = (0.6, 1.0)


class SimCLRConfig(Config):
    """Two views of a cloud, augmented independently, find each other among all views of the batch.

    Projector and temperature are the paper's for images; it has no clouds.
    """

    name: Literal["simclr"] = "simclr"
    augment: SimCLRAugmentConfig = SimCLRAugmentConfig()
    hidden_dim: int = Field(default=2048, gt=0)
    output_dim: int = Field(default=128, gt=0)
    projector_layers: int = Field(default=2, gt=0)
    temperature: float = Field(default=0.1, gt=0)


@METHODS.register(SimCLRConfig)
class SimCLR(Method[SimCLRConfig]):
    """InfoNCE between the projections of two views of a cloud. There is no queue and no momentum encoder, and both
    views have a gradient."""

    paper = Paper(
        "A simple framework for contrastive learning of visual representations",
        "Chen et al.",
        "ICML 2020",
        "two views of a cloud agree, and other clouds are the negatives",
    )
    modality = "points"
    projector: nn.Module

    def __init__(self, config: SimCLRConfig, encoder: CloudEncoder) -> None:
        super().__init__(config, encoder)
        cloud = encoder.input
        augment = PointAugment(config.augment, cloud.num_points, cloud.unit_sphere, cloud.voxel_size, cloud.centre)
        self.views = augmented_views(cloud, augment, 2)
        self.projector = projector(encoder.embed_dim, config.hidden_dim, config.output_dim, config.projector_layers)

    def outputs(self, views: list[View]) -> Outputs:
        """Two views of [B] clouds to their projections, [B, ``output_dim``] each."""
        first, second = (self.projector(self.encoder(view.points).pooled) for view in views)
        return Outputs({"first": first, "second": second})

    def losses(self, outputs: Outputs) -> Losses:
        loss, accuracy = info_nce(outputs["first"], outputs["second"], self.config.temperature)
        return Losses(loss, {"contrast_accuracy": accuracy})
