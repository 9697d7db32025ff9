"""Two views of a scene, point by point: what dense contrast shares."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from st_ssl.augment.point_colour import PointColourConfig
from st_ssl.augment.point_pairs import correspondences
from st_ssl.augment.points import PointAugment, PointAugmentConfig, Range
from st_ssl.core.errors import ConfigError
from st_ssl.core.exhibits import LinksExhibit
from st_ssl.core.types import View
from st_ssl.encoders.base import CloudEncoder


class SceneAugmentConfig(PointAugmentConfig):
    """What dense contrast does to a scene: a free turn about the vertical axis and a part of it for each view. (The
    paper pairs two scans of a room that overlap; a part of a whole scan takes the place of a scan here.)"""

    scale: Range = (0.8, 1.2)
    flip: tuple[float, float, float] = (0.5, 0.5, 0.0)
    jitter: float = 0.005
    crop: Literal["none", "sphere", "cuboid", "frustum"] = "sphere"
    crop_share: Range = (0.6, 0.9)
    colour: PointColourConfig = PointColourConfig()


def require_points(encoder: CloudEncoder, method: str) -> None:
    """Raise ``ConfigError`` where ``encoder`` has no feature for each point."""
    if not encoder.per_point:
        raise ConfigError(f"method.name={method} needs an encoder with a feature for each point, such as sparse_unet")


def scene_augment(config: PointAugmentConfig, encoder: CloudEncoder) -> PointAugment:
    """The augmentation of scenes. All points of a voxel stay: the encoder takes them together, and the more points both
    views have, the more matches there are."""
    shown = encoder.input
    return PointAugment(config, shown.num_points, shown.unit_sphere, None, shown.centre)


def point_features(encoder: CloudEncoder, head: nn.Module, views: list[View]) -> list[Tensor]:
    """What ``head`` makes of all points of each view, [P, D]."""
    found = [encoder(view.points).points for view in views]
    return [head(points) for points in found if points is not None]


def match(first: View, second: View, num_pairs: int) -> tuple[Tensor, Tensor]:
    """Matched points of each of B scenes, evenly chosen from all, int64 [B, ``num_pairs``, 2] (rows of the views'
    points; row 0 where a scene has too few), and which of them are there, bool [B, ``num_pairs``]."""
    pairs = correspondences(first.points, second.points)
    scene = torch.bucketize(pairs[:, 0].contiguous(), first.points.offsets[1:], right=True)
    counts = torch.bincount(scene, minlength=len(first)).tolist()
    chosen = pairs.new_zeros(len(first), num_pairs, 2)
    valid = torch.zeros(len(first), num_pairs, dtype=torch.bool, device=pairs.device)
    for row, own in enumerate(pairs.split(counts)):
        count = min(len(own), num_pairs)
        even = torch.arange(count, device=own.device) * len(own) // max(1, count)
        chosen[row, :count], valid[row, :count] = own[even], True
    return chosen, valid


def links(encoder: CloudEncoder, head: nn.Module, views: list[View]) -> LinksExhibit:
    """All points that the first two views show, and what ``head`` makes of all points."""
    first, second = point_features(encoder, head, views[:2])
    return LinksExhibit(correspondences(views[0].points, views[1].points), first, second)
