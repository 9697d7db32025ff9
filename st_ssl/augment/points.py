"""Augmentation of point clouds that knows their geometry: parameters and a choice of points are drawn once per cloud,
then coordinates, normals and colours follow for the whole batch.

``sample`` draws the parameters of a cloud in the worker; ``cut`` chooses its points there and says which they were;
``apply`` moves, bends and colours a batch on its device. Legend: B batch, N points of a cloud, P of a batch.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from st_ssl.augment import point_cuts as cuts
from st_ssl.augment.point_colour import PointColourConfig, Probability, Strength, apply_colour, sample_colour
from st_ssl.augment.point_noise import elastic, point_normal, random_bits, turn_normals
from st_ssl.core.config import Config
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import PointBatch, PointCloud

Range = tuple[float, float]

_DRAWS = 17  # uniform numbers per cloud, whatever the settings
_JITTER, _COLOUR, _ELASTIC = 1, 2, 3  # streams of a cloud's seed; the elastic distortions take those from 3 on


class PointAugmentConfig(Config):
    """Settings of ``PointAugment``; ranges are (low, high), angles degrees, lengths in the unit of what is fed to the
    encoder: metres, or the radius of the object where that is brought to the unit sphere.

    ``rotation``: about ``z`` (up), or ``y`` where that is up in the files, by up to ± ``max_angle``; or about any axis
    (``so3``; uniform over all rotations of at most that angle) or by a uniform angle about an axis drawn from a cube
    (``axis``, PointContrast, 2020: denser towards its corners); ``tilt``: about a random level axis, by up to ± this.
    ``scale``: one factor, or one for each axis (``anisotropic``); with ``scale_first`` a cloud is brought to the unit
    sphere as it is scaled, so that of the factors their ratios are left (Point2Vec, 2023).
    ``translation``: up to ± this along each axis.
    ``flip``: the probability that x, y, z change sign. ``jitter``: the deviation of a normal shift of every coordinate,
    cut off at ± ``jitter_clip`` (PointNet++, 2017). ``dropout``: the share of the points that is left out, drawn from a
    range, with ``dropout_probability``. ``elastic``: (granularity, magnitude) pairs, one after the other
    (SparseConvNet, 2018), with ``elastic_probability``.

    For sweeps of a LiDAR, which is at the origin: ``beam_dropout`` is the share of the beams that is left out, drawn
    from a range; beams are told apart by their angle above the horizon, and all sweeps of a sample lose the same ones.
    ``fade`` leaves out far points, as rain and fog do: half of them at a distance (metres) drawn from this range, three
    quarters at twice that.

    ``crop``: to a share of the points drawn from ``crop_share``, and to ``crop_points`` at most: those nearest to one
    of them (``sphere``), or in a box around one whose sides are those of the cloud, each times a factor from
    ``crop_aspect`` (``cuboid``). ``frustum``: to what a camera sees, of ``field_of_view``, ``camera_distance`` radii of
    the cloud from one of its points, with ``occlusion`` without what is behind other points; here ``crop_share`` is
    what it should see at least. A setting that the chosen crop ignores is a warning.
    """

    rotation: Literal["none", "y", "z", "so3", "axis"] = "z"
    max_angle: float = Field(default=180.0, ge=0.0, le=180.0)
    tilt: float = Field(default=0.0, ge=0.0, le=180.0)
    scale: Range = (1.0, 1.0)
    anisotropic: bool = False
    scale_first: bool = False
    translation: Strength = 0.0
    flip: tuple[Probability, Probability, Probability] = (0.0, 0.0, 0.0)
    jitter: Strength = 0.0
    jitter_clip: Strength = 0.05
    dropout: Range = (0.0, 0.0)
    dropout_probability: Probability = 1.0
    beam_dropout: Range = (0.0, 0.0)
    fade: Range | None = None
    elastic: tuple[tuple[float, float], ...] = ()
    elastic_probability: Probability = 0.95
    crop: Literal["none", "sphere", "cuboid", "frustum"] = "none"
    crop_share: Range = (0.5, 1.0)
    crop_points: int | None = Field(default=None, gt=0)
    crop_aspect: Range = (0.75, 1.3333)
    field_of_view: float = Field(default=60.0, gt=0.0, lt=180.0)
    camera_distance: Range = (0.5, 2.0)
    occlusion: bool = False
    colour: PointColourConfig = PointColourConfig()

    @property
    def upright(self) -> bool:
        """Whether boxes that are turned about z stay such boxes: no tilt, no factor for each axis, nothing bent."""
        return self.rotation in ("none", "z") and not (self.tilt or self.anisotropic or self.elastic or self.flip[2])

    @field_validator("scale", "crop_aspect", "camera_distance", "fade")
    @classmethod
    def _positive_range(cls, value: Range | None) -> Range | None:
        if value is not None and not 0 < value[0] <= value[1]:
            raise ValueError(f"a range needs 0 < low <= high, got {value}")
        return value

    @field_validator("crop_share")
    @classmethod
    def _share(cls, value: Range) -> Range:
        if not 0 < value[0] <= value[1] <= 1:
            raise ValueError(f"a share of the points needs 0 < low <= high <= 1, got {value}")
        return value

    @field_validator("dropout", "beam_dropout")
    @classmethod
    def _dropout(cls, value: Range) -> Range:
        if not 0 <= value[0] <= value[1] < 1:
            raise ValueError(f"a share to leave out needs 0 <= low <= high < 1, got {value}")
        return value

    @field_validator("elastic")
    @classmethod
    def _elastic(cls, value: tuple[Range, ...]) -> tuple[Range, ...]:
        if not all(granularity > 0 and magnitude >= 0 for granularity, magnitude in value):
            raise ValueError(f"each pair needs a granularity > 0 and a magnitude >= 0, got {value}")
        return value

    @model_validator(mode="after")
    def _warn_of_ignored(self) -> PointAugmentConfig:
        used_by = {
            "crop_share": ("sphere", "cuboid", "frustum"),
            "crop_points": ("sphere", "cuboid"),
            "crop_aspect": ("cuboid",),
            **dict.fromkeys(("field_of_view", "camera_distance", "occlusion"), ("frustum",)),
        }
        for name, users in used_by.items():
            if self.crop not in users and getattr(self, name) != type(self).model_fields[name].default:
                warnings.warn(
                    f"{name} is ignored with crop: {self.crop}; it belongs to crop: {' or '.join(users)}", stacklevel=3
                )
        return self


class PointAugment:
    """Crop, drop, move, bend and colour clouds; ``num_points`` (all where None), ``unit_sphere`` and ``voxel_size``
    are the encoder's. ``centre``: what is not brought to the unit sphere gets the middle of its bounding box above the
    origin and its lowest point at height 0, so that a scene turns about itself; not for LiDAR, whose origin is a place.
    """

    def __init__(
        self,
        config: PointAugmentConfig,
        num_points: int | None = 1024,
        unit_sphere: bool = True,
        voxel_size: float | None = None,
        centre: bool = True,
    ) -> None:
        assert num_points is None or num_points > 0, num_points
        assert voxel_size is None or voxel_size > 0, voxel_size
        if config.scale_first and not unit_sphere:
            warnings.warn("scale_first is ignored: input.unit_sphere is false", stacklevel=2)
        self.config, self.num_points, self.unit_sphere = config, num_points, unit_sphere
        self.voxel_size, self.centre = voxel_size, centre

    geometric: ClassVar[tuple[str, ...]] = ("affine", "seed", "elastic")

    def sample(self, rng: np.random.Generator, meta: Any = None, num_frames: int = 1) -> dict[str, np.ndarray]:
        """Draw the parameters of one cloud: ``affine`` float32 [4, 4], ``seed`` int64 [1] of all that is drawn point
        by point, ``elastic`` float32 [1] (0 or 1), and those of ``sample_colour``. Keys and the count of draws do not
        depend on the settings, so a setting never shifts the draws of another."""
        c = self.config
        seed = rng.integers(1 << 63, size=1)
        draws = rng.random(_DRAWS)
        linear = np.diag(_flips(c, draws[0:3]) * _scales(c, draws[3:6]))
        linear = _rotation(c, draws[[6, 7, 8, 15]]) @ _tilt(c, draws[9:11]) @ linear
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = linear, c.translation * (2 * draws[11:14] - 1)
        bend = float(draws[14] < c.elastic_probability and len(c.elastic) > 0)
        return {
            "affine": affine.astype(np.float32),
            "seed": seed,
            "elastic": np.array([bend], dtype=np.float32),
            **sample_colour(c.colour, rng),
        }

    def cut(self, items: Sequence[PointCloud], params: Mapping[str, np.ndarray]) -> list[PointCloud]:
        """``choose`` from each of the clouds of a view, all by the same parameters."""
        return [self.choose(cloud, params) for cloud in items]

    def choose(self, cloud: PointCloud, params: Mapping[str, np.ndarray]) -> PointCloud:
        """Choose points, and bring them to the unit sphere around their centroid, or above the origin.

        In this order: crop, beams, fading, dropout, one point a voxel (of the view as ``params["affine"]`` will scale
        and turn it), ``num_points`` of what is left. Returns the cloud, whose ``pose`` takes it back to where ``cloud``
        was (to the world, if that had a pose), and whose ``source`` is the place of each of its points in ``cloud``.
        """
        assert len(cloud) > 0, "a cloud without points has no views"
        rng = keyed_rng(int(params["seed"][0]), "cut")
        source = self._crop(cloud.xyz, rng)
        source = source[self._received(cloud.xyz[source], keyed_rng(int(params["seed"][0]), "received"))]
        source = source[self._survivors(len(source), rng)]
        if self.voxel_size is not None:
            linear = params["affine"][:3, :3]
            moved = sum(cloud.xyz[source, i, None] * linear[:, i] for i in range(3))
            source = source[cuts.one_per_voxel(np.asarray(moved), self.voxel_size, rng)]
        if self.num_points is not None:
            source = source[cuts.exactly(len(source), self.num_points, rng)]
        return self._placed(cloud.take(source), params["affine"][:3, :3].astype(np.float64))

    def _crop(self, xyz: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        c, low, high = self.config, *self.config.crop_share
        share = low + (high - low) * rng.random()
        count = min(max(1, round(share * len(xyz))), c.crop_points or len(xyz))
        if c.crop == "sphere":
            return cuts.sphere(xyz, count, rng)
        if c.crop == "cuboid":
            return cuts.cuboid(xyz, count, c.crop_aspect, rng)
        if c.crop == "frustum":
            least = max(1, round(low * len(xyz)))
            seen = cuts.frustum(xyz, c.field_of_view, c.camera_distance, c.occlusion, least, rng)
            return seen if len(seen) else np.arange(len(xyz))
        return np.arange(len(xyz))

    def _received(self, xyz: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The points [N, 3] of a sweep that come back to a worse LiDAR, in worse weather, at least one; int64 [M]."""
        low, high = self.config.beam_dropout
        kept = np.arange(len(xyz))
        if high > 0:
            kept = cuts.some_beams(xyz, low + (high - low) * rng.random(), rng)
        if self.config.fade is not None:
            kept = kept[cuts.faded(xyz[kept], rng.uniform(*self.config.fade), rng)]
        return kept if len(kept) else np.arange(1)

    def _survivors(self, count: int, rng: np.random.Generator) -> np.ndarray:
        low, high = self.config.dropout
        chosen, share = rng.random(2)
        if chosen >= self.config.dropout_probability or high == 0:
            return np.arange(count)
        kept = max(1, count - round((low + (high - low) * share) * count))
        return np.sort(rng.permutation(count)[:kept])

    def _placed(self, cloud: PointCloud, linear: np.ndarray) -> PointCloud:
        """``cloud`` brought to the unit sphere, or above the origin; ``linear`` [3, 3] is what ``apply`` does to it."""
        xyz, radius = cloud.xyz.astype(np.float64), 1.0
        if self.unit_sphere:
            middle = xyz.mean(0)
            away = (xyz - middle) @ linear.T if self.config.scale_first else xyz - middle
            radius = float(np.sqrt((away**2).sum(1).max())) or 1.0  # one point has none
        elif self.centre:
            low, high = xyz.min(0), xyz.max(0)
            middle = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
        else:
            return cloud
        back = np.diag([radius, radius, radius, 1.0])
        back[:3, 3] = middle
        pose = back if cloud.pose is None else cloud.pose @ back
        boxes = None if cloud.boxes is None else cloud.boxes.moved(np.linalg.inv(back))
        return replace(cloud, xyz=((xyz - middle) / radius).astype(np.float32), pose=pose, boxes=boxes)

    @torch.no_grad()
    def apply(self, points: PointBatch, params: Mapping[str, Tensor]) -> PointBatch:
        """Move, jitter and bend a batch of cut clouds, turn its normals and change its colours. ``params`` are those of
        ``sample``, each with an axis B in front and best on the CPU. Labels and sources are handed on; boxes move with
        their points, and are left out where they could not (see ``PointAugmentConfig.upright``)."""
        device = points.xyz.device
        params = {name: spread(value, len(points)) for name, value in params.items()}
        cloud = torch.arange(len(points), device=device).repeat_interleave(
            points.offsets.diff(), output_size=len(points.xyz)
        )
        place = torch.arange(len(points.xyz), device=device) - points.offsets[cloud]
        seed = params["seed"].to(device).flatten()
        affine = params["affine"].to(device, points.xyz.dtype)
        linear = affine[:, :3, :3][cloud]
        # Not a matrix product, whose precision on a GPU depends on global settings (TF32, autocast).
        xyz = (linear * points.xyz[:, None, :]).sum(-1) + affine[:, :3, 3][cloud]
        attributes = dict(points.attributes)
        if "normal" in attributes:
            attributes["normal"] = turn_normals(attributes["normal"], linear)
        if self.config.jitter > 0:
            noise = point_normal(random_bits(seed, _JITTER), cloud, place) * self.config.jitter
            xyz = xyz + noise.clamp_(-self.config.jitter_clip, self.config.jitter_clip)
        if bool((params["elastic"] != 0).any()):
            gate = params["elastic"].to(device).flatten()
            for number, (granularity, magnitude) in enumerate(self.config.elastic):
                stream = random_bits(seed, _ELASTIC + number)
                xyz, slope = elastic(xyz, cloud, stream, granularity, magnitude * gate, "normal" in attributes)
                if slope is not None:
                    attributes["normal"] = turn_normals(attributes["normal"], slope)
        if "color" in attributes:
            stream = random_bits(seed, _COLOUR)
            attributes["color"] = apply_colour(attributes["color"], points.offsets, cloud, place, stream, params)
        boxes = points.boxes.moved(affine) if points.boxes is not None and self.config.upright else None
        return replace(points, xyz=xyz, attributes=attributes, boxes=boxes)

    def turned(self, pose: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """Poses float64 [B, T, 4, 4] of clouds as they were cut, for those that ``apply`` has moved."""
        back = torch.linalg.inv(params["affine"].to(pose.device, pose.dtype))
        return pose @ back[:, None]


def spread(values: Tensor, clouds: int) -> Tensor:
    """The parameters [B, ...] of B samples for each of their ``clouds`` in all, sample by sample."""
    return values if len(values) == clouds else values.repeat_interleave(clouds // len(values), dim=0)


def plain(
    num_points: int | None, unit_sphere: bool, voxel_size: float | None = None, centre: bool = True
) -> PointAugment:
    """The augmentation of evaluation: no more than the choice of points and where they are brought to."""
    return PointAugment(PointAugmentConfig(rotation="none"), num_points, unit_sphere, voxel_size, centre)


def _flips(config: PointAugmentConfig, draws: np.ndarray) -> np.ndarray:
    return np.where(draws < config.flip, -1.0, 1.0)


def _scales(config: PointAugmentConfig, draws: np.ndarray) -> np.ndarray:
    low, high = config.scale
    return low + (high - low) * (draws if config.anisotropic else draws[:1].repeat(3))


def _turn(axis: np.ndarray, angle: float) -> np.ndarray:
    """The rotation by ``angle`` radians about the unit vector ``axis`` (Rodrigues)."""
    x, y, z = axis
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + math.sin(angle) * cross + (1.0 - math.cos(angle)) * (cross @ cross)


def _rotation(config: PointAugmentConfig, draws: np.ndarray) -> np.ndarray:
    limit = math.radians(config.max_angle)
    if config.rotation == "none":
        return np.eye(3)
    if config.rotation in ("y", "z"):
        return _turn(np.eye(3)[1 if config.rotation == "y" else 2], limit * (2 * draws[0] - 1))
    if config.rotation == "axis":
        axis = draws[1:] - 0.5
        return _turn(axis / np.linalg.norm(axis), limit * (2 * draws[0] - 1))
    # Of rotations spread evenly the angle t in 0 … pi has the density (1 - cos t) / pi, and the axis any direction.
    angles = np.linspace(0.0, limit, 1025)
    angle = float(np.interp(draws[0] * (limit - math.sin(limit)), angles - np.sin(angles), angles))
    height, azimuth = 2 * draws[1] - 1, 2 * math.pi * draws[2]
    level = math.sqrt(1 - height**2)
    return _turn(np.array([level * math.cos(azimuth), level * math.sin(azimuth), height]), angle)


def _tilt(config: PointAugmentConfig, draws: np.ndarray) -> np.ndarray:
    azimuth = 2 * math.pi * draws[0]
    return _turn(np.array([math.cos(azimuth), math.sin(azimuth), 0.0]), math.radians(config.tilt) * (2 * draws[1] - 1))
