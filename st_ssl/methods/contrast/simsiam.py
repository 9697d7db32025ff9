"""SimSiam: exploring simple Siamese representation learning (Chen & He, CVPR 2021)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from st_ssl.augment.video import VideoAugment, VideoAugmentConfig
from st_ssl.core.config import Config
from st_ssl.core.types import View
from st_ssl.data.clip_plans import ClipPair
from st_ssl.data.views import Views, each
from st_ssl.encoders.base import ClipEncoder
from st_ssl.methods.base import METHODS, Losses, Method, Paper
from st_ssl.parts.projector import projector
from st_ssl.training.optim import Rule


class SimSiamAugmentConfig(VideoAugmentConfig):
    """The augmentation of MoCo v2 (2020), which SimSiam uses, with one draw for all frames of a clip."""

    area: tuple[float, float] = (0.2, 1.0)


class SimSiamConfig(Config):
    """A predictor maps the projection of one clip to that of another clip of the same video, which gets no gradient.

    The defaults are those of the paper for images. The paper has no videos: two clips at a uniform distance in time are
    our reading. With ``stop_gradient: false`` the target has a gradient too, and the projections collapse onto a line.
    """

    name: Literal["simsiam"] = "simsiam"
    augment: SimSiamAugmentConfig = SimSiamAugmentConfig()
    hidden_dim: int = Field(default=2048, gt=0)
    output_dim: int = Field(default=2048, gt=0)
    projector_layers: int = Field(default=3, gt=0)
    predictor_dim: int = Field(default=512, gt=0)
    stop_gradient: bool = True


@METHODS.register(SimSiamConfig)
class SimSiam(Method[SimSiamConfig]):
    """Negative cosine between prediction and target, the mean over both directions. There are no negatives, and there
    is no momentum encoder.

    The projector ends in a batch norm without weight and bias, the predictor in a linear layer, as published. The bias
    right before that norm changes nothing and is frozen.
    """

    paper = Paper(
        "Exploring simple Siamese representation learning",
        "Chen & He",
        "CVPR 2021",
        "predict the projection of another clip, with a stop-gradient in place of negatives",
    )

    def __init__(self, config: SimSiamConfig, encoder: ClipEncoder) -> None:
        super().__init__(config, encoder)
        clip = encoder.input
        pair = ClipPair(clip.num_frames, clip.stride, "uniform")
        self.views = Views(each(pair, VideoAugment(config.augment, clip.size, clip.mean, clip.std)))
        hidden, dim = config.hidden_dim, config.output_dim
        linear = projector(encoder.embed_dim, hidden, dim, config.projector_layers)
        linear[-1].bias.requires_grad_(False)
        self.projector = nn.Sequential(*linear, nn.BatchNorm1d(dim, affine=False))
        self.predictor = projector(dim, config.predictor_dim, dim, 2)

    def rules(self) -> list[Rule]:
        """The rate of the predictor stays what it is, as published."""
        return [Rule(r"^predictor\.", constant=True)]

    def forward(self, views: list[View]) -> Losses:
        """Two views of [B] videos to a loss from -1 (all agree) to 1. ``projection_spread``: the deviation of the
        normalised projections, 1 where they are all over the sphere, 0 where they are all the same."""
        first, second = (self.projector(self.encoder(view.clip).pooled) for view in views)
        loss = (self._distance(first, second) + self._distance(second, first)) / 2
        return Losses(loss, {"projection_spread": _spread(torch.cat([first, second]).detach())})

    def _distance(self, source: Tensor, target: Tensor) -> Tensor:
        """The mean negative cosine between what is predicted from ``source`` and ``target``, both [B, D]."""
        prediction = self.predictor(source)
        if self.config.stop_gradient:
            target = target.detach()
        wide = torch.promote_types(target.dtype, torch.float32)
        return -cosine_similarity(prediction.to(wide), target.to(wide), dim=1).mean()


def _spread(rows: Tensor) -> Tensor:
    """The mean deviation per channel of the normalised ``rows`` [R, D], times the root of D."""
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
    unit = nn.functional.normalize(wide, dim=1)
    return unit.std(0, correction=0).mean() * rows.shape[1] ** 0.5
