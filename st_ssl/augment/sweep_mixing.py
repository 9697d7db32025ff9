"""Two labelled clouds of a batch become one: LaserMix, PolarMix and Mix3D."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt, field_validator
from torch import Tensor

from st_ssl.core.config import Config
from st_ssl.core.random import Key, keyed_rng
from st_ssl.core.types import PointBatch


class SweepMixConfig(Config):
    """With probability ``p`` each cloud of a batch is mixed with the next one.

    - ``laser`` (LaserMix, Kong et al., CVPR 2023) cuts the angles above the horizon, from ``pitch[0]`` to ``pitch[1]``
      degrees, into equal areas. How many is drawn from ``areas``. Every second area is taken from the next cloud.
    - ``polar`` (PolarMix, Xiao et al., NeurIPS 2022) takes half of all directions from the next cloud, in every second
      mix. It always adds that cloud's points of the classes ``instances`` three times: as they are, and at two other
      angles around the sensor.
    - ``union`` (Mix3D, Nekrasov et al., 3DV 2021) takes all points of both clouds."""

    name: Literal["laser", "polar", "union"]
    p: float = Field(default=1.0, gt=0, le=1)
    pitch: tuple[float, float] = (-25.0, 3.0)
    areas: tuple[PositiveInt, ...] = Field(default=(3, 4, 5, 6), min_length=1)
    instances: tuple[int, ...] = ()

    @field_validator("pitch")
    @classmethod
    def _rising(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not -90 <= value[0] < value[1] <= 90:
            raise ValueError(f"expected two rising angles of -90 to 90 degrees, got {list(value)}")
        return value


@dataclass(frozen=True)
class _Part:
    """Points of a batch: their rows, and by how much they are turned about z (radians)."""

    rows: Tensor
    turn: float = 0.0


def mix_sweeps(
    points: PointBatch, config: SweepMixConfig, keys: Sequence[tuple[Key, ...]], labels: str = "segment"
) -> PointBatch:
    """``points`` with each cloud mixed with the next one (the last with the first), by the draws of its key; of the
    ``labels`` are the ``instances``. Points have no source afterwards, and there are no boxes."""
    count = len(points)
    bounds = points.offsets.tolist()
    rows = [torch.arange(low, high, device=points.device) for low, high in pairwise(bounds)]
    parts: list[list[_Part]] = []
    for number, key in enumerate(keys):
        rng = keyed_rng(*key, "mix")
        own, other = rows[number], rows[(number + 1) % count]
        if count < 2 or rng.random() >= config.p:
            parts.append([_Part(own)])
        else:
            parts.append(_mixed(points, config, own, other, labels, rng))
    every = torch.cat([part.rows for cloud in parts for part in cloud])
    sizes = [sum(len(part.rows) for part in cloud) for cloud in parts]
    xyz = torch.cat([_turned(points.xyz[part.rows], part.turn) for cloud in parts for part in cloud])
    return PointBatch(
        xyz,
        torch.tensor([0, *np.cumsum(sizes).tolist()], device=points.device),
        {name: value[every] for name, value in points.attributes.items()},
        {name: value[every] for name, value in points.labels.items()},
    )


def _mixed(
    points: PointBatch, config: SweepMixConfig, own: Tensor, other: Tensor, labels: str, rng: np.random.Generator
) -> list[_Part]:
    """What one cloud becomes: parts of it and of the ``other``."""
    if config.name == "union":
        return [_Part(own), _Part(other)]
    if config.name == "laser":
        areas = int(rng.choice(config.areas))
        low, high = (math.radians(angle) for angle in config.pitch)
        kept, taken = (_area(points.xyz[part], low, high, areas) % 2 for part in (own, other))
        return [_Part(own[kept == 0]), _Part(other[taken == 1])]
    swap, start, turn = rng.random(3)
    found = [_Part(own)]
    if swap < 0.5:
        first = (2 * start - 1) * math.pi
        kept, taken = (_ahead(points.xyz[part], first) for part in (own, other))
        found = [_Part(own[~kept]), _Part(other[taken])]
    asked = torch.tensor(config.instances, device=other.device, dtype=torch.int64)
    things = other[torch.isin(points.labels[labels][other], asked)]
    turns = (0.0, turn * 2 * math.pi / 3, (turn + 1) * 2 * math.pi / 3)
    return found + [_Part(things, angle) for angle in turns if len(things)]


def _area(xyz: Tensor, low: float, high: float, areas: int) -> Tensor:
    """Which of the equal ``areas`` of angles above the horizon each point is in, from below; int64 [N]."""
    pitch = torch.atan2(xyz[:, 2], xyz[:, :2].norm(dim=1))
    return ((pitch - low) / (high - low) * areas).floor().clamp(0, areas - 1).long()


def _ahead(xyz: Tensor, first: float) -> Tensor:
    """Which points are in the half of the directions that begins at the angle ``first`` (radians), bool [N]."""
    return (torch.atan2(xyz[:, 1], xyz[:, 0]) - first) % (2 * math.pi) < math.pi


def _turned(xyz: Tensor, angle: float) -> Tensor:
    if not angle:
        return xyz
    c, s = math.cos(angle), math.sin(angle)
    x, y, z = xyz.unbind(1)
    return torch.stack([c * x - s * y, s * x + c * y, z], 1)
