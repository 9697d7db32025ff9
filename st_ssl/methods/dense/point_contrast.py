"""PointContrast (Xie et al., ECCV 2020): the same point of a scene in two views must look the same to the network."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from st_ssl.augment.point_colour import PointColourConfig
from st_ssl.augment.point_pairs import correspondences
from st_ssl.augment.points import PointAugment, PointAugmentConfig, Range
from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError
from st_ssl.core.inputs import Modality
from st_ssl.core.types import PointView
from st_ssl.data.points.views import PointViews
from st_ssl.encoders.base import Encoder
from st_ssl.methods.base import METHODS, Matches, Method, MethodOutput
from st_ssl.objectives.contrastive import point_info_nce


class PointContrastAugmentConfig(PointAugmentConfig):
    """What PointContrast does to a scene: a free turn about the vertical axis and a part of it for each view. (The
    paper pairs two scans of a room that overlap; a part of a whole scan takes the place of a scan here.)"""

    scale: Range = (0.8, 1.2)
    flip: tuple[float, float, float] = (0.5, 0.5, 0.0)
    jitter: float = 0.005
    crop: Literal["none", "sphere", "cuboid", "frustum"] = "sphere"
    crop_share: Range = (0.6, 0.9)
    colour: PointColourConfig = PointColourConfig()


class PointContrastConfig(Config):
    """Two views of a scene; ``num_pairs`` points of each scene that both show are matched with each other, all other
    matches of the batch being the negatives."""

    name: Literal["point_contrast"] = "point_contrast"
    augment: PointContrastAugmentConfig = PointContrastAugmentConfig()
    output_dim: int = Field(default=32, gt=0)
    num_pairs: int = Field(default=1024, gt=0)
    temperature: float = Field(default=0.4, gt=0)


@METHODS.register(PointContrastConfig)
class PointContrast(Method):
    """PointInfoNCE between the features that the points of a scene have in two views of it."""

    modality: ClassVar[Modality] = "points"
    compares_samples = True
    views: PointViews

    def __init__(self, config: PointContrastConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        if not encoder.per_point:
            needed = "an encoder with a feature for each point, such as sparse_unet"
            raise ConfigError(f"method.name={config.name} needs {needed}")
        augment = PointAugment(config.augment, *_sizes(encoder))
        self.views = PointViews(augment, num_views=2, attributes=encoder.input.attributes)
        self.num_pairs, self.temperature = config.num_pairs, config.temperature
        self.head = nn.Linear(encoder.embed_dim, config.output_dim)

    def outputs(self, views: list[PointView]) -> dict[str, Tensor]:
        """Two views of B scenes to the features of matched points, ``first`` and ``second`` [B, ``num_pairs``,
        ``output_dim``]; where a scene has fewer matches the rows are 0."""
        return self.matched(views, self.features(views))

    def features(self, views: list[PointView]) -> list[Tensor]:
        """What the head makes of all points of each view, [P, ``output_dim``]."""
        found = [self.encoder(view.points).points for view in views]
        return [self.head(points) for points in found if points is not None]

    def matched(self, views: list[PointView], features: list[Tensor]) -> dict[str, Tensor]:
        """``outputs`` from the features of all points."""
        pairs, valid = self.match(*views)
        first, second = (x[pairs[..., i]] * valid[..., None] for i, x in enumerate(features))
        return {"first": first, "second": second}

    def losses(self, outputs: dict[str, Tensor]) -> MethodOutput:
        first, second = (outputs[name].flatten(0, 1) for name in ("first", "second"))
        valid = (first.detach() != 0).any(1)
        loss, accuracy = point_info_nce(first, second, valid, self.temperature)
        return {"loss": loss, "match_accuracy": accuracy, "matched": valid.float().mean()}

    def matches(self, views: list[PointView]) -> Matches:
        """All points that both views show, and the features of all points."""
        first, second = (self.head(self.encoder(view.points).points) for view in views[:2])
        return Matches(correspondences(views[0].points, views[1].points), first, second)

    def match(self, first: PointView, second: PointView) -> tuple[Tensor, Tensor]:
        """Matched points of each of B scenes, evenly chosen from all, int64 [B, ``num_pairs``, 2] (rows of the views'
        points; row 0 where a scene has too few), and which of them are there, bool [B, ``num_pairs``]."""
        pairs = correspondences(first.points, second.points)
        scene = torch.bucketize(pairs[:, 0].contiguous(), first.points.offsets[1:], right=True)
        counts = torch.bincount(scene, minlength=len(first)).tolist()
        chosen = pairs.new_zeros(len(first), self.num_pairs, 2)
        valid = torch.zeros(len(first), self.num_pairs, dtype=torch.bool, device=pairs.device)
        for row, own in enumerate(pairs.split(counts)):
            count = min(len(own), self.num_pairs)
            even = torch.arange(count, device=own.device) * len(own) // max(1, count)
            chosen[row, :count], valid[row, :count] = own[even], True
        return chosen, valid


def _sizes(encoder: Encoder) -> tuple[int | None, bool, float | None]:
    """What a cut makes of the encoder's input. All points of a voxel stay: the encoder takes them together, and the
    more points both views have, the more matches there are."""
    return encoder.input.num_points, encoder.input.unit_sphere, None
