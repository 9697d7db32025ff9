"""Two views of a scene, point by point: what dense contrast shares."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from st_ssl.augment.point_colour import PointColourConfig
from st_ssl.augment.point_pairs import correspondences
from st_ssl.augment.points import PointAugment, PointAugmentConfig, Range
from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError
from st_ssl.core.exhibits import LinksExhibit
from st_ssl.core.types import PointBatch, View
from st_ssl.data.clip_plans import Plan, Still
from st_ssl.data.drives.plans import Pair
from st_ssl.data.views import POSE
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


class SweepPairConfig(Config):
    """Two sweeps of a drive take the place of two views of one cloud. They are ``gap[0]`` to ``gap[1]`` seconds apart.

    Points of the two match where they are within ``radius`` metres of each other in the world, by the poses of the
    sweeps. Objects that moved in between have no match."""

    gap: tuple[NonNegativeFloat, NonNegativeFloat] = (0.5, 1.0)
    radius: PositiveFloat = 0.1


def two_views(sweeps: SweepPairConfig | None) -> Plan:
    """A plan of two views: of one cloud, or of two ``sweeps``."""
    return Still(2) if sweeps is None else Pair(sweeps.gap)


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


def matches(first: View, second: View, sweeps: SweepPairConfig | None = None) -> Tensor:
    """All points that both views of each scene show, as ``correspondences`` has them: the same of one cloud, or those
    of two ``sweeps`` that are near each other in the world."""
    if sweeps is None:
        return correspondences(first.points, second.points)
    return correspondences(*_in_one_frame(first, second), sweeps.radius)


def _in_one_frame(first: View, second: View) -> tuple[PointBatch, PointBatch]:
    """The points of both views in the axes of the world, from where the first sweep was taken."""
    origin = first.labels[POSE][:, 0, :3, 3]
    found = []
    for view in (first, second):
        points, pose = view.points, view.labels[POSE][:, 0]
        cloud = torch.arange(len(points), device=pose.device).repeat_interleave(points.offsets.to(pose.device).diff())
        turn, shift = pose[:, :3, :3], pose[:, :3, 3] - origin
        xyz = (turn[cloud] * points.xyz.to(pose.device, pose.dtype)[:, None]).sum(2) + shift[cloud]
        found.append(PointBatch(xyz.to(points.xyz.device, torch.float32), points.offsets))
    return found[0], found[1]


def match(first: View, second: View, num_pairs: int, sweeps: SweepPairConfig | None = None) -> tuple[Tensor, Tensor]:
    """Matched points of each of B scenes, evenly chosen from all, int64 [B, ``num_pairs``, 2] (rows of the views'
    points; row 0 where a scene has too few), and which of them are there, bool [B, ``num_pairs``]."""
    pairs = matches(first, second, sweeps)
    scene = torch.bucketize(pairs[:, 0].contiguous(), first.points.offsets[1:], right=True)
    counts = torch.bincount(scene, minlength=len(first)).tolist()
    chosen = pairs.new_zeros(len(first), num_pairs, 2)
    valid = torch.zeros(len(first), num_pairs, dtype=torch.bool, device=pairs.device)
    for row, own in enumerate(pairs.split(counts)):
        count = min(len(own), num_pairs)
        even = torch.arange(count, device=own.device) * len(own) // max(1, count)
        chosen[row, :count], valid[row, :count] = own[even], True
    return chosen, valid


def links(
    encoder: CloudEncoder, head: nn.Module, views: list[View], sweeps: SweepPairConfig | None = None
) -> LinksExhibit:
    """All points that the first two views show, and what ``head`` makes of all points."""
    first, second = point_features(encoder, head, views[:2])
    return LinksExhibit(matches(views[0], views[1], sweeps), first, second)
