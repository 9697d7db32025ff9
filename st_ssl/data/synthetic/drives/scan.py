"""Planted drives: what a spinning LiDAR sees of a street, with the truth about it.

A sweep is taken at one instant, as if the motion of the vehicle had been made up for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from st_ssl.core.boxes import Boxes
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import PointCloud
from st_ssl.data.synthetic.design import PlantedConfig
from st_ssl.data.synthetic.drives.bodies import Parts
from st_ssl.data.synthetic.drives.lidar import Rays, meet, spin
from st_ssl.data.synthetic.drives.street import KERB, Street, draw_street

FORMAT_VERSION = 1
HEIGHT = 1.8  # of the sensor above the road, metres
Layout = Literal["own", "kitti", "semantic_kitti", "nuscenes"]
_WEAK = 0.0025  # a return of this strength is lost with the probability 1 / e; 1 is a white wall at 20 m
_LEAVES = 0.6  # the share of the way through something open within which rays end


class SyntheticDriveConfig(PlantedConfig):
    """How many drives, of how many ``sweeps`` each, ``rate`` a second; every ``key_every``-th sweep has boxes. The
    sensor sends ``columns`` rays around in each of ``beams`` rings, which are spread evenly from ``lowest`` to
    ``highest`` degrees. ``noise`` is the deviation of a measured distance in metres, ``dropout`` the share of returns
    that are lost for no reason. An object with fewer than ``min_points`` points has no box."""

    kind: ClassVar[str] = "drive"
    version: ClassVar[int] = FORMAT_VERSION

    num_train: int = Field(default=60, ge=0)
    num_val: int = Field(default=10, ge=0)
    num_test: int = Field(default=20, ge=0)
    sweeps: int = Field(default=40, ge=1)
    rate: float = Field(default=5.0, gt=0)
    key_every: int = Field(default=4, ge=1)
    beams: int = Field(default=32, ge=2)
    columns: int = Field(default=900, ge=8)
    lowest: float = Field(default=-25.0, gt=-90, lt=90)
    highest: float = Field(default=5.0, gt=-90, lt=90)
    max_range: float = Field(default=40.0, gt=0)
    noise: float = Field(default=0.02, ge=0)
    dropout: float = Field(default=0.03, ge=0, lt=1)
    min_points: int = Field(default=3, ge=0)
    seed: int = Field(default=0, ge=0)
    layout: Layout = "own"

    @model_validator(mode="after")
    def _checked(self) -> SyntheticDriveConfig:
        if self.lowest >= self.highest:
            raise ValueError(f"lowest is {self.lowest} degrees, and highest only {self.highest}")
        return self

    @property
    def rays(self) -> Rays:
        """The sensor's."""
        return spin(self.beams, self.columns, self.lowest, self.highest)


@dataclass(frozen=True)
class Scan:
    """A sweep. ``cloud`` has the attribute ``intensity``, the labels ``segment`` (a place in ``SEGMENTS``),
    ``instance`` (the actor, -1 for none) and ``ring``, pose and time, and boxes around all actors within range, also
    hidden ones, with the facts ``track`` (the actor), ``points``, ``visible`` (the share of the rays which would meet
    it if it were alone that do; 0 where none would) and ``parked``. ``parts``: of what there is within range, in the
    sweep's axes."""

    cloud: PointCloud
    parts: Parts


@lru_cache(maxsize=2)
def draw_drive(config: SyntheticDriveConfig, split: str, index: int) -> Street:
    """The street of drive ``index`` of ``split``; ``DataError`` where there is no such drive."""
    config.deal({}, split, index)
    times = np.arange(config.sweeps) / config.rate
    return draw_street(keyed_rng(config.seed, "synthetic-drive", split, index), times)


def scan_sweep(config: SyntheticDriveConfig, split: str, index: int, sweep: int) -> Scan:
    """Sweep ``sweep`` of drive ``index`` of ``split``."""
    street = draw_drive(config, split, index)
    rng = keyed_rng(config.seed, "synthetic-drive", split, index, "sweep", sweep)
    origin, yaw = np.array([*street.place[sweep], HEIGHT]), street.yaw[sweep]
    pose = np.eye(4)
    pose[:2, :2], pose[:3, 3] = _turn(yaw), origin
    actors, near = _boxes(config, street, sweep, pose)
    parts = _parts(config, street, sweep, near).moved(0.0, -origin).moved(-yaw, np.zeros(3))
    distance, part, cosine, alone = _first(config.rays, parts, len(street.actors.classes), rng)
    segment, owner = np.zeros(len(part), dtype=np.int64), np.full(len(part), -1)
    reflectivity, lost = np.zeros((2, len(part)))
    fall = -config.rays.directions[:, 2]
    down = np.flatnonzero((fall > 0) & (distance > (HEIGHT - KERB) / np.maximum(fall, 1e-9)))
    ground, where, level = _ground(street, config.rays.directions[down], pose, distance[down], config.max_range)
    down = down[where]
    distance[down], part[down], cosine[down] = ground, -1, level
    hit, of = np.flatnonzero(part >= 0), part[part >= 0]
    segment[hit], reflectivity[hit], lost[hit] = parts.segment[of], parts.reflectivity[of], parts.lost[of]
    owner[hit] = parts.owner[of]
    places = pose[:2, 3] + (config.rays.directions[down, :2] * ground[:, None]) @ pose[:2, :2].T
    segment[down], reflectivity[down] = street.ground.look(places)
    first = np.bincount(owner[owner >= 0], minlength=len(street.actors.classes))
    back, distance, bright = _returns(config, distance, cosine, reflectivity, lost, rng)
    owner = owner[back]
    points = np.bincount(owner[owner >= 0], minlength=len(first))[near]
    share = first[near] / np.maximum(alone[near], 1)
    actors.facts |= {"points": points, "visible": share.astype(np.float32)}
    cloud = PointCloud(
        (config.rays.directions[back] * distance[:, None]).astype(np.float32),
        {"intensity": bright.astype(np.float32)[:, None]},
        {"segment": segment[back], "instance": owner, "ring": back // config.columns},
        pose,
        float(street.times[sweep]),
        boxes=actors,
    )
    return Scan(cloud, parts)


def _returns(
    config: SyntheticDriveConfig,
    distance: np.ndarray,
    cosine: np.ndarray,
    reflectivity: np.ndarray,
    lost: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What comes back of rays [R]: which do [N], the distances that are measured [N] and the intensities [N]."""
    back = np.flatnonzero(distance <= config.max_range)
    distance, cosine, reflectivity = distance[back], np.maximum(cosine[back], 0.0), reflectivity[back]
    strength = reflectivity * cosine * (20 / distance) ** 2
    stays = (1 - lost[back]) * (1 - config.dropout) * (1 - np.exp(-strength / _WEAK))
    kept = rng.random(len(back)) < stays
    bright = reflectivity * (0.35 + 0.65 * cosine) * np.exp(-distance / 120)
    bright = bright * (1 + 0.08 * rng.normal(size=len(back))) + 0.01 * rng.normal(size=len(back))
    distance = distance + config.noise * rng.normal(size=len(back))
    return back[kept], distance[kept], np.clip(bright[kept], 0, 1)


def _turn(yaw: float) -> np.ndarray:
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s], [s, c]])


def _boxes(config: SyntheticDriveConfig, street: Street, sweep: int, pose: np.ndarray) -> tuple[Boxes, np.ndarray]:
    """Boxes around the actors within range, in the axes of the sweep, and which actors those are."""
    actors = street.actors
    away = actors.place[sweep] - pose[:3, 3]
    near = np.flatnonzero(np.hypot(away[:, 0], away[:, 1]) <= config.max_range)
    size, back = actors.size[near], pose[:2, :2]
    centre = away[near]
    centre[:, :2] = centre[:, :2] @ back
    centre[:, 2] += size[:, 2] / 2
    yaw = (actors.yaw[sweep, near] - street.yaw[sweep] + np.pi) % (2 * np.pi) - np.pi
    values = np.column_stack([centre, size, yaw, actors.velocity[sweep, near] @ back]).astype(np.float32)
    return Boxes(values, actors.classes[near], {"track": near, "parked": actors.parked[near]}), near


def _parts(config: SyntheticDriveConfig, street: Street, sweep: int, near: np.ndarray) -> Parts:
    """What may be seen, in the world."""
    away = np.hypot(*(street.fixed.centre[:, :2] - street.place[sweep]).T)
    fixed = street.fixed.take(away - np.hypot(*street.fixed.half[:, :2].T) < config.max_range)
    actors = street.actors
    moving = actors.parts.take(np.isin(actors.parts.owner, near))
    owner = moving.owner
    moving = moving.strode(actors.phase[sweep, owner])
    return fixed.joined(moving.moved(actors.yaw[sweep, owner], actors.place[sweep, owner]))


def _first(
    rays: Rays, parts: Parts, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """How far each ray gets [R] (inf where it meets nothing), the part that it meets (-1), the cosine there; and how
    many rays would meet each of ``count`` actors if it were alone."""
    pairs = meet(rays, parts)
    through, within = rng.random((2, len(pairs.ray)))
    gap = parts.open[pairs.part]
    some = np.flatnonzero(through >= gap)
    ray, part = pairs.ray[some], pairs.part[some]
    deep = (gap[some] > 0) * _LEAVES * within[some] ** 2
    distance = pairs.enter[some] + deep * (pairs.leave - pairs.enter)[some]
    nearest = np.full(len(rays.directions), np.inf)
    np.minimum.at(nearest, ray, distance)
    won = np.flatnonzero(distance == nearest[ray])
    met, cosine = np.full(len(nearest), -1), np.zeros(len(nearest))
    met[ray[won]], cosine[ray[won]] = part[won], pairs.cosine[some[won]]
    owner = parts.owner[part]
    seen = np.unique(owner[owner >= 0] * len(nearest) + ray[owner >= 0]) // len(nearest)
    return nearest, met, cosine, np.bincount(seen, minlength=count)


def _ground(
    street: Street, rays: np.ndarray, pose: np.ndarray, before: np.ndarray, most: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where ``rays`` [N, 3] that look down meet road, sidewalk or kerb, if that is nearer than ``before`` [N] and
    ``most``: the distances [M], which rays those are [M], and the cosines there [M]."""
    at_kerb, at_road = ((height - HEIGHT) / rays[:, 2] for height in (KERB, 0.0))
    near = np.flatnonzero(at_kerb < np.minimum(before, most))
    rays, at_kerb, at_road = rays[near], at_kerb[near], at_road[near]
    flat = rays[:, :2] @ pose[:2, :2].T

    def on_road(which: np.ndarray, distance: np.ndarray) -> np.ndarray:
        return street.ground.is_road(pose[:2, 3] + flat[which] * distance[:, None])

    everything = np.arange(len(near))
    upper, lower = on_road(everything, at_kerb), on_road(everything, at_road)
    distance, cosine = np.where(upper, at_road, at_kerb), -rays[:, 2]
    face = np.flatnonzero(upper & ~lower)  # down on the road, and into the kerb
    low, high = at_kerb[face], at_road[face]
    for _ in range(10):
        middle = (low + high) / 2
        still = on_road(face, middle)
        low, high = np.where(still, middle, low), np.where(still, high, middle)
    distance[face], cosine[face] = high, 0.7
    nearer = distance < before[near]
    return distance[nearer], near[nearer], cosine[nearer]
