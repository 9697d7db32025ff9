"""TREND (Chen et al., NeurIPS 2025): a sweep tells what the sensor will see later, by rendering it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor, nn

from st_ssl.augment.point_noise import random_bits, uniform
from st_ssl.augment.points import PointAugment, PointAugmentConfig, Range
from st_ssl.augment.voxel_masking import VoxelMaskConfig, visible_voxels
from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError
from st_ssl.core.exhibits import CloudExhibit, Exhibit
from st_ssl.core.types import PointBatch, View
from st_ssl.data.clip_plans import Draw
from st_ssl.data.drives.plans import Ahead
from st_ssl.data.points.views import point_views
from st_ssl.data.streams.base import Stream
from st_ssl.data.views import PATH, POSE, each
from st_ssl.encoders.base import CloudEncoder
from st_ssl.encoders.volume_encoder import VolumeEncoder
from st_ssl.methods.base import METHODS, Losses, Method, Paper
from st_ssl.ops.boxes import points_in_boxes
from st_ssl.ops.rays import leave_box, ray_weights, refine, spread
from st_ssl.ops.volumes import Volume
from st_ssl.parts.recurrent_volume import RecurrentVolume, actions, sinusoids

UNIT = 25.6
"""Metres that a range of 1 is, in losses and in what the field is told."""
_RAYS, _JITTER = 20, 24  # streams of a cloud's seed
_MOVING = 0.5  # m/s from which on an object moves
_TIME = 32  # numbers that time is told by


class TrendAugmentConfig(PointAugmentConfig):
    """One turn, scale and mirror image for both sweeps."""

    scale: Range = (0.95, 1.05)
    flip: tuple[float, float, float] = (0.0, 0.5, 0.0)


class TrendConfig(Config):
    """Render ``rays`` of the present sweep and of one of the next, ``stride`` sweeps apart, which is drawn by
    ``shares``; the second is drawn from the epoch ``stages[0]`` on, the third from ``stages[1]`` on, and so on (without
    stages all are from the start). ``hidden``: the share of the present voxels that training hides from the encoder.

    ``ground``: points below this height, in metres from the sensor, give no rays. A ray is looked at in ``coarse`` even
    places from ``near`` metres on, then in ``fine`` more where it seems to end. ``width``: of the volume that goes
    through time; ``hidden_width``: of the field's layers."""

    name: Literal["trend"] = "trend"
    shares: tuple[float, ...] = Field(default=(0.5, 0.25, 0.15, 0.1), min_length=1)
    stride: int = Field(default=1, gt=0)
    stages: tuple[int, ...] = ()
    hidden: float = Field(default=0.9, ge=0, lt=1)
    ground: float | None = -1.4
    rays: int = Field(default=12_288, gt=0)
    near: PositiveFloat = 1.0
    coarse: int = Field(default=16, gt=1)
    fine: int = Field(default=16, ge=0)
    width: int = Field(default=128, gt=0)
    hidden_width: int = Field(default=64, gt=0)
    augment: TrendAugmentConfig = TrendAugmentConfig()

    @model_validator(mode="after")
    def _checked(self) -> TrendConfig:
        if self.stages and (len(self.stages) != len(self.shares) - 1 or list(self.stages) != sorted(self.stages)):
            raise ValueError(f"stages {self.stages}: expected {len(self.shares) - 1} rising epochs")
        return self


@dataclass(frozen=True)
class Growing:
    """``Ahead``, of as few steps as the ``stages`` of an epoch allow."""

    shares: tuple[float, ...]
    stride: int
    stages: tuple[int, ...]
    num_clips: int = 1

    def draw(self, rng: np.random.Generator, stream: Stream, epoch: int = 0) -> list[Draw]:
        steps = 1 + sum(epoch >= stage for stage in self.stages) if self.stages else len(self.shares)
        (drawn,) = Ahead(self.shares[:steps], self.stride).draw(rng, stream, epoch)
        path = drawn.labels[PATH]
        rest = np.repeat(path[-1:], len(self.shares) + 1 - len(path), axis=0)  # of one shape in all epochs
        return [Draw(drawn.at, {**drawn.labels, PATH: np.concatenate([path, rest])})]


class Rays(NamedTuple):
    """R rays of every cloud, in the axes of the present sweep: ``origin`` and unit ``direction`` [B · R, 3], the
    ``range`` [B · R] that was measured, of which ``cloud`` int64 [B · R] each is, and the ``point`` int64 [B · R] of
    the batch that it met."""

    origin: Tensor
    direction: Tensor
    range: Tensor
    cloud: Tensor
    point: Tensor


class TimedField(nn.Module):
    """Signed distances to the surface, and intensities, at places in a volume at a time. Distances are in ``UNIT``s."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        layers = (nn.Linear(3 + _TIME + width, hidden), nn.Softplus(100), nn.Linear(hidden, hidden), nn.Softplus(100))
        self.geometry = nn.Sequential(*layers)
        self.distance = nn.Linear(hidden, 1)
        nn.init.constant_(self.distance.bias, 0.05)  # nothing is there at first
        self.direction = nn.Sequential(nn.Linear(3, 16), nn.ReLU())
        self.intensity = nn.Sequential(nn.Linear(16 + hidden + width, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, volume: Volume, xyz: Tensor, cloud: Tensor, step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Distances [Q], what is known of the geometry [Q, hidden], and features [Q, C] at places [Q, 3] of clouds
        int64 [Q], so many steps ahead as ``step`` [B] says."""
        found = volume.at(xyz, cloud)
        told = torch.cat([xyz / UNIT, sinusoids(step, _TIME, 2.0)[cloud], found], 1)
        geometry = self.geometry(told)
        return self.distance(geometry).squeeze(1), geometry, found


@METHODS.register(TrendConfig)
class Trend(Method[TrendConfig]):
    """The encoder's volume of the present sweep is taken forward step by step, told only how the sensor moves; a field
    of signed distances in it renders how far each ray of a sweep goes, and how strongly its point shines.

    There is no public code. Where the text is silent this is our reading: the three terms of the loss (range,
    intensity, and the distance at the points that were seen) weigh the same, ranges in units of 25.6 m; later sweeps
    are drawn with .5, .25, .15, .1; the field has two layers of 64; a ray is looked at in 16 even places and 16 where
    it seems to end. How much of its weight a ray spends is logged (``opacity``)."""

    paper = Paper(
        "TREND: unsupervised 3D representation learning via temporal forecasting for LiDAR perception",
        "Chen et al.",
        "NeurIPS 2025",
        "forecast later sweeps of a drive by rendering them from the present one",
    )
    modality = "points"
    encoder: VolumeEncoder

    def __init__(self, config: TrendConfig, encoder: CloudEncoder) -> None:
        super().__init__(config, encoder)
        if not isinstance(encoder, VolumeEncoder):
            raise ConfigError("method.name=trend needs an encoder of a range of space: second or pillars")
        cloud = encoder.input
        augment = PointAugment(config.augment, cloud.num_points, cloud.unit_sphere, cloud.voxel_size, cloud.centre)
        self.views = point_views(cloud, each(Growing(config.shares, config.stride, config.stages), augment))
        self.mask = VoxelMaskConfig(edges=(), hidden=(config.hidden,))
        self.shines = "intensity" in cloud.attributes
        self.project = nn.Conv3d(encoder.embed_dim, config.width, 1)
        self.recurrent = RecurrentVolume(config.width)
        self.field = TimedField(config.width, config.hidden_width)
        self.sharpness = nn.Parameter(torch.tensor(0.3))

    def _volumes(self, view: View) -> tuple[Volume, Volume]:
        """Of the present sweep, and of the later one: what the present one lets expect of it."""
        present = _sweeps(view.points, 0)
        voxels = self.encoder.voxelise(present)
        if self.training:
            cloud, z, y, x = voxels.coordinates.unbind(1)
            number = (z << 40) | (y << 20) | x
            kept = visible_voxels(self.mask, torch.zeros_like(number, dtype=torch.float32), cloud, number, _seed(view))
            voxels = voxels.take(kept)
        volume = self.encoder.volume_of(voxels)
        now = self.project(volume.values)
        moves = actions(view.labels[PATH]).to(now.dtype)
        ahead, steps = [now], view.labels["step"][:, 0]
        for step in range(int(steps.max())):
            ahead.append(self.recurrent(ahead[-1], moves[:, step]))
        later = torch.stack(ahead, 1)[torch.arange(len(now), device=now.device), steps]
        return Volume(now, volume.range, volume.lattice), Volume(later, volume.range, volume.lattice)

    def rays(self, view: View, which: int, among: Tensor | None = None) -> Rays:
        """Rays of the present (0) or the later sweep (1), to points above the ground within the range, drawn with
        replacement. ``among``: bool [P], which points of the batch of that sweep they are drawn from besides."""
        points = _sweeps(view.points, which)
        pose = view.labels[POSE]
        here = (torch.linalg.inv(pose[:, 0]) @ pose[:, which]).to(points.xyz.dtype)
        cloud = _cloud_of(points)
        places = (here[cloud, :3, :3] * points.xyz[:, None]).sum(2) + here[cloud, :3, 3]
        low, high = (places.new_tensor(self.encoder.range[side : side + 3]) for side in (0, 3))
        good = ((places >= low) & (places < high)).all(1)
        if self.config.ground is not None:
            good &= points.xyz[:, 2] > self.config.ground
        good &= (places - here[cloud, :3, 3]).norm(dim=1) > self.config.near
        if among is not None:
            good &= among
        chosen = good.nonzero().squeeze(1)
        counts = torch.bincount(cloud[chosen], minlength=len(points))
        first = counts.cumsum(0) - counts
        count = self.config.rays
        whose = torch.arange(len(points), device=cloud.device).repeat_interleave(count)
        number = torch.arange(count, device=cloud.device).repeat(len(points))
        draw = (uniform(random_bits(_seed(view), _RAYS + which)[whose], number) * counts[whose]).long()
        there = counts[whose] > 0
        whose = whose[there]
        point = chosen[(first[whose] + torch.minimum(draw[there], counts[whose] - 1))]
        origin = here[whose, :3, 3]
        reach = places[point] - origin
        length = reach.norm(dim=1)
        return Rays(origin, reach / length[:, None], length, whose, point)

    def render(self, volume: Volume, rays: Rays, step: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        """How far the rays go, in metres, and the sum of their weights: [R] each."""
        config = self.config
        far = leave_box(rays.origin, rays.direction, volume.range)
        jitter = None
        if self.training:
            counts = torch.bincount(rays.cloud, minlength=len(seed))
            number = torch.arange(len(far), device=far.device) - (counts.cumsum(0) - counts)[rays.cloud]
            number = number[:, None] * config.coarse + torch.arange(config.coarse, device=far.device)
            jitter = uniform(random_bits(seed, _JITTER)[rays.cloud][:, None], number).to(far.dtype)
        ranges = spread(config.near, far, config.coarse, jitter)
        if config.fine:
            with torch.no_grad():
                weights = ray_weights(self._distances(volume, rays, ranges, step), self._sharp())
            ranges = torch.cat([ranges, refine(ranges, weights, config.fine)], 1).sort(1).values
        weights = ray_weights(self._distances(volume, rays, ranges, step), self._sharp())
        middle = (ranges[:, 1:] + ranges[:, :-1]) / 2
        return (weights * middle).sum(1), weights.sum(1)

    def _sharp(self) -> Tensor:
        return (10 * self.sharpness).exp().clamp(1e-6, 1e6)

    def _distances(self, volume: Volume, rays: Rays, ranges: Tensor, step: Tensor) -> Tensor:
        """Signed distances [R, N] at ``ranges`` [R, N]."""
        places = rays.origin[:, None] + ranges[..., None] * rays.direction[:, None]
        cloud = rays.cloud[:, None].expand_as(ranges).flatten()
        return self.field(volume, places.flatten(0, 1), cloud, step)[0].view_as(ranges)

    def _terms(self, view: View, volume: Volume, which: int, step: Tensor) -> dict[str, Tensor]:
        """The terms of the loss on one sweep: means over the rays of a cloud, then over clouds."""
        rays = self.rays(view, which)
        clouds = len(view)
        far, opacity = self.render(volume, rays, step, _seed(view))
        seen = rays.origin + rays.range[:, None] * rays.direction
        distance, geometry, found = self.field(volume, seen, rays.cloud, step)
        terms = {
            "range": _mean((far - rays.range).abs() / UNIT, rays.cloud, clouds),
            "surface": _mean(distance.abs(), rays.cloud, clouds),
        }
        if self.shines:
            target = _sweeps(view.points, which).attributes["intensity"][rays.point, 0].to(far.dtype)
            told = torch.cat([self.field.direction(rays.direction), geometry, found], 1)
            shine = self.field.intensity(told).squeeze(1).sigmoid()
            terms["intensity"] = _mean((shine - target).abs(), rays.cloud, clouds)
        return {**terms, "opacity": _mean(opacity, rays.cloud, clouds).detach()}

    def forward(self, views: list[View]) -> Losses:
        """The terms of the present sweep and of the later one; logged are those of the later one, and ``now`` and
        ``later``, the sums."""
        (view,) = views
        now, later = self._volumes(view)
        steps = view.labels["step"][:, 0].to(now.values.dtype)
        terms = [self._terms(view, now, 0, torch.zeros_like(steps)), self._terms(view, later, 1, steps)]
        sums = [torch.stack([value for name, value in own.items() if name != "opacity"]).sum() for own in terms]
        return Losses(sums[0] + sums[1], {**terms[1], "now": sums[0], "later": sums[1]})

    @torch.no_grad()
    def future_errors(self, view: View) -> dict[str, float]:
        """The mean error in metres of the ranges of the later sweep: ``rendered``; by ``copy``, the range of the
        present point, as seen from where the sensor will be, that lies nearest to the ray; and ``still``, rendered
        from the volume of the present sweep, as if nothing moved. Over all rays, and over those that meet an object
        that moves (``moving rendered``, …), where boxes have velocities."""
        assert not self.training, "errors are those of evaluation"
        now, later = self._volumes(view)
        steps = view.labels["step"][:, 0].to(later.values.dtype)
        kinds: dict[str, Tensor | None] = {"": None}
        if view.points.boxes is not None:
            kinds["moving "] = _on_moving(view)
        found: dict[str, float] = {}
        for kind, among in kinds.items():
            rays = self.rays(view, 1, among)
            if len(rays.range):
                guesses = {
                    "rendered": self.render(later, rays, steps, _seed(view))[0],
                    "still": self.render(now, rays, torch.zeros_like(steps), _seed(view))[0],
                    "copy": self._copied(view, rays),
                }
                found |= {kind + name: float((far - rays.range).abs().mean()) for name, far in guesses.items()}
        return found

    def _copied(self, view: View, rays: Rays) -> Tensor:
        """The range of the present point nearest to each ray, [R]."""
        present = _sweeps(view.points, 0)
        far = torch.zeros_like(rays.range)
        for cloud in range(len(view)):
            own = rays.cloud == cloud
            if bool(own.any()):
                places = present.xyz[present.offsets[cloud] : present.offsets[cloud + 1]] - rays.origin[own][:1]
                length = places.norm(dim=1)
                nearest = (rays.direction[own] @ (places / length.clamp_min(1e-6)[:, None]).T).argmax(1)
                far[own] = length[nearest]
        return far

    @torch.no_grad()
    def exhibits(self, views: list[View]) -> list[Exhibit]:
        """The present sweep, rays of the later one as they were measured, and as they are rendered, all as seen from
        the present one; points are grey, or orange where they are more than a metre off."""
        (view,) = views
        _, later = self._volumes(view)
        present, rays = _sweeps(view.points, 0), self.rays(view, 1)
        far, _ = self.render(later, rays, view.labels["step"][:, 0].to(later.values.dtype), _seed(view))
        counts = torch.bincount(rays.cloud, minlength=len(view))
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        colours = torch.where(
            ((far - rays.range).abs() > 1)[:, None], far.new_tensor((0.9, 0.45, 0.1)), far.new_tensor((0.6, 0.6, 0.6))
        )
        ends = [rays.origin + length[:, None] * rays.direction for length in (rays.range, far)]
        return [
            CloudExhibit("present sweep", PointBatch(present.xyz, present.offsets)),
            CloudExhibit("later sweep", PointBatch(ends[0], offsets)),
            CloudExhibit("rendered", PointBatch(ends[1], offsets, {"color": colours})),
        ]


def _seed(view: View) -> Tensor:
    return view.params["seed"][:, 0].to(view.points.device)


def _cloud_of(points: PointBatch) -> Tensor:
    """The cloud of each point, int64 [P]."""
    clouds = torch.arange(len(points), device=points.device)
    return clouds.repeat_interleave(points.offsets.diff(), output_size=len(points.xyz))


def _sweeps(points: PointBatch, which: int) -> PointBatch:
    """The first or the second of the two sweeps of each sample."""
    cloud = _cloud_of(points)
    rows = (cloud % 2 == which).nonzero().squeeze(1)
    counts = points.offsets.diff()[which::2]
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return PointBatch(points.xyz[rows], offsets, {name: value[rows] for name, value in points.attributes.items()})


def _on_moving(view: View) -> Tensor:
    """Which points of the later sweeps are in the box of an object that moves, bool [P]."""
    points, boxes = _sweeps(view.points, 1), view.points.boxes
    assert boxes is not None
    found = torch.zeros(len(points.xyz), dtype=torch.bool, device=points.device)
    for cloud in range(len(view)):
        own = slice(int(points.offsets[cloud]), int(points.offsets[cloud + 1]))
        values = boxes.values[int(boxes.offsets[2 * cloud + 1]) : int(boxes.offsets[2 * cloud + 2])]
        moving = values[values[:, 7:9].norm(dim=1) > _MOVING, :7]
        found[own] = points_in_boxes(points.xyz[own], moving).any(1)
    return found


def _mean(values: Tensor, cloud: Tensor, clouds: int) -> Tensor:
    """The mean over the clouds of the mean of the ``values`` [N] of each; 0 of a cloud without any."""
    sums = values.new_zeros(clouds).index_add(0, cloud, values)
    return (sums / torch.bincount(cloud, minlength=clouds).clamp_min(1)).mean()
