"""Synthetic rooms as scans see them: a few sensors send rays, so that what is hidden has no points and what is far away
few. Every point knows its class and its object. Files have the same bytes for any number of processes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from st_ssl.core.files import sync, write_atomically
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import PointCloud
from st_ssl.data.synthetic.design import Planted, PlantedConfig, write_planted
from st_ssl.data.synthetic.rooms_layout import SEGMENTS, Look, Room, draw_room

FORMAT_VERSION = 1
_LOWEST, _HIGHEST = -75.0, 75.0  # degrees between which a sensor sends rays
_RAYS = 2  # for each point: without a ceiling a third of them meets nothing
_GRAZING = 0.05  # cosine below which a surface sends nothing back


class SyntheticRoomConfig(PlantedConfig):
    """How many rooms, of how many points each (or a few less), scanned from how many places; ``noise`` is the deviation
    of a measured distance in metres at 1 m (it grows with the square root of the distance); half of the rooms have a
    ceiling."""

    kind, version = "room", FORMAT_VERSION

    num_train: int = Field(default=40, ge=0)
    num_val: int = Field(default=8, ge=0)
    num_test: int = Field(default=12, ge=0)
    num_points: int = Field(default=100_000, ge=100)
    num_views: int = Field(default=4, ge=1)
    noise: float = Field(default=0.003, ge=0.0)
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class Scan:
    """What the sensors saw: the cloud, the place of the sensor of each point [N, 3], and the room itself."""

    cloud: PointCloud
    sensor: np.ndarray
    room: Room


def scan_room(config: SyntheticRoomConfig, split: str, index: int) -> Scan:
    """Room ``index`` of ``split``, with ``color``, ``normal`` (towards the sensor) and the labels ``segment`` (a place
    in ``SEGMENTS``) and ``instance`` (-1 for walls, floor and ceiling). ``DataError`` where there is no such room."""
    ceiling = config.deal({"ceiling": ("yes", "no")}, split, index)["ceiling"] == "yes"
    rng = keyed_rng(config.seed, "synthetic-room", split, index)
    room = draw_room(rng, ceiling)
    light = _Light(rng, room)
    shares = np.diff(np.linspace(0, config.num_points, config.num_views + 1).round().astype(int))
    parts = [_look_around(room, light, int(share), config.noise, rng) for share in shares]
    xyz, color, normal, segment, instance, sensor = (np.concatenate(part) for part in zip(*parts, strict=True))
    cloud = PointCloud(
        xyz.astype(np.float32),
        {"color": color.astype(np.float32), "normal": normal.astype(np.float32)},
        {"segment": segment, "instance": instance},
    )
    return Scan(cloud, sensor, room)


class _Light:
    """One lamp below the ceiling and light from everywhere, each with a tint."""

    def __init__(self, rng: np.random.Generator, room: Room) -> None:
        self.place = room.size * [rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8), 0.95]
        self.ambient = rng.uniform(0.3, 0.6) * rng.uniform(0.85, 1.15, 3)
        self.direct = rng.uniform(0.4, 0.9) * rng.uniform(0.85, 1.15, 3)

    def on(self, xyz: np.ndarray, normal: np.ndarray) -> np.ndarray:
        """What falls on surfaces [N, 3], as factors [N, 3]; nothing throws shadows."""
        away = self.place - xyz
        distance = np.sqrt((away**2).sum(1))
        facing = np.maximum((away * normal).sum(1) / distance, 0.0) / (1.0 + 0.08 * distance**2)
        return self.ambient + facing[:, None] * self.direct


def _look_around(
    room: Room, light: _Light, count: int, noise: float, rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    """One scan of ``count`` points, or of as many as there are: xyz, color, normal, segment, instance, sensor, with N
    rows each."""
    origin = _stand(room, rng)
    rays, distance, which, normal = _rays(room, origin, _RAYS * count, rng)
    hit = np.flatnonzero(np.isfinite(distance) & (-(rays * normal).sum(1) > _GRAZING))
    hit = np.sort(rng.permutation(hit)[:count])
    rays, distance, which, normal = rays[hit], distance[hit], which[hit], normal[hit]
    exact = origin + rays * distance[:, None]
    color = np.zeros_like(exact)
    for number in np.unique(which):
        own = which == number
        piece = room.pieces[number]
        at = piece.solid.local(exact[own]) * piece.solid.size
        color[own] = _paint(piece.look, at, rng)
    gain = rng.uniform(0.85, 1.15)  # of this sensor's exposure
    color = color * light.on(exact, normal) * gain + 0.02 * rng.normal(size=color.shape)
    distance = distance + noise * np.sqrt(distance) * rng.normal(size=len(distance))
    segment, instance = (np.array([getattr(p, k) for p in room.pieces]) for k in ("segment", "instance"))
    sensor = np.broadcast_to(origin, exact.shape)
    measured = origin + rays * distance[:, None]
    return measured, np.clip(color, 0, 1), normal, segment[which], instance[which], sensor


def _stand(room: Room, rng: np.random.Generator) -> np.ndarray:
    """A place for a sensor where nothing is; over the furniture if need be."""
    for attempt in range(100):
        height = rng.uniform(1.2, 1.7) if attempt < 50 else rng.uniform(1.7, room.size[2] - 0.1)
        place = np.array([*(rng.uniform(0.12, 0.88, 2) * room.size[:2]), height])
        if not any((np.abs(piece.solid.local(place[None])) < 1.1).all() for piece in room.pieces):
            return place
    raise AssertionError("a room without a free place")


def _rays(room: Room, origin: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """``count`` rays, spread evenly over the sphere but for its poles [N, 3]; the distance of what each meets first
    [N], the piece that is [N] and its normal there [N, 3]."""
    low, high = (math.sin(math.radians(angle)) for angle in (_LOWEST, _HIGHEST))
    up = low + (high - low) * (np.arange(count) + rng.random(count)) / count
    around = rng.uniform(0, 2 * math.pi, count)
    level = np.sqrt(1 - up**2)
    rays = np.stack([level * np.cos(around), level * np.sin(around), up], axis=1)
    distance, which, normal = np.full(count, np.inf), np.zeros(count, dtype=np.int64), np.zeros((count, 3))
    for number, piece in enumerate(room.pieces):
        away = piece.solid.centre - origin
        along = rays @ away
        reach = (piece.solid.size**2).sum()  # of the ball around it, squared
        near = np.flatnonzero((away @ away - along * np.abs(along) <= reach) | (away @ away <= reach))
        there, facing = piece.solid.cast(origin, rays[near])
        first = there < distance[near]
        nearer = near[first]
        distance[nearer], which[nearer], normal[nearer] = there[first], number, facing[first]
    return rays, distance, which, normal


def _paint(look: Look, at: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The colours [N, 3] of a surface at ``at`` [N, 3], in metres along its own axes."""
    cell = np.floor(at / look.period + 0.25)  # a face lies at a whole number of cells more often than at a quarter
    if look.pattern == "plain":
        share = np.zeros(len(at))
    elif look.pattern == "stripes":
        share = (cell[:, 0] + cell[:, 1]) % 2
    elif look.pattern == "checks":
        share = cell.sum(1) % 2
    else:
        share = rng.random(len(at))
    return look.first + share[:, None] * (look.second - look.first)


class _Scanned(Planted):
    form: ClassVar[str] = "room_{:05d}"


def _plan(config: SyntheticRoomConfig, split: str, index: int) -> _Scanned:
    return _Scanned(split, index, {})


def _make(config: SyntheticRoomConfig, room: Planted) -> dict[str, np.ndarray]:
    cloud = scan_room(config, room.split, room.index).cloud
    return {
        "coord": cloud.xyz,
        "color": (cloud.attributes["color"] * 255).round().astype(np.uint8),
        "normal": cloud.attributes["normal"],
        **{name: cloud.labels[name].astype(np.int32) for name in ("segment", "instance")},
    }


def _save(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """A folder with its own name is complete."""
    with write_atomically(folder) as unfinished:
        unfinished.mkdir()
        for name, array in arrays.items():
            np.save(unfinished / f"{name}.npy", array)
            sync(unfinished / f"{name}.npy")


def write_dataset(root: Path, config: SyntheticRoomConfig, num_workers: int = 2, progress: bool = True) -> Path:
    """Write the data set under ``root`` and return ``root``: the names of the classes in ``synthetic.json``, and rooms
    in Pointcept's form: ``train/room_00000/`` (and ``val``, ``test``) with ``coord.npy`` float32 [N, 3], ``color.npy``
    uint8, ``normal.npy`` float32, ``segment.npy`` and ``instance.npy`` int32 [N]; see ``write_planted``."""
    about = {"classes": list(SEGMENTS)}
    return write_planted(root, config, about, _plan, _make, num_workers, progress, save=_save)
