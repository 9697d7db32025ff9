"""Planted-factor objects: clouds whose class, style, pose, density, noise and occlusion are known and independent.

Every factor is dealt evenly; what it leaves open (proportions, the exact turn, the details of a class) is drawn for
each object. Files have the same bytes for any number of processes.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from st_ssl.augment.point_cuts import in_front
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import PointCloud
from st_ssl.data.synthetic.design import Planted, PlantedConfig, write_planted
from st_ssl.data.synthetic.primitives import Solid, turned
from st_ssl.data.synthetic.shapes3d import CLASSES, PART_NAMES, build

FORMAT_VERSION = 1
STYLES = {"thin_small": (0.6, 0.7), "thin_large": (0.6, 1.4), "thick_small": (1.5, 0.7), "thick_large": (1.5, 1.4)}
DENSITIES = {"even": (0.0, 0.0, 0.0), "top": (0.0, 0.0, 1.0), "bottom": (0.0, 0.0, -1.0), "front": (1.0, 0.0, 0.0)}
NOISES = {"clean": 0.0, "slight": 0.01, "strong": 0.03}  # deviation in radii of the object
OCCLUSIONS = {"none": 0.0, "half": 0.5, "one_side": 1.0}  # share of the points out of sight that are missing
FACTORS: dict[str, tuple[str, ...]] = {
    "class": CLASSES,
    "style": tuple(STYLES),
    "pose": tuple(f"yaw_{45 * k:03d}" for k in range(8)),
    "density": tuple(DENSITIES),
    "noise": tuple(NOISES),
    "occlusion": tuple(OCCLUSIONS),
}
SPLITS = ("train", "val", "test")
_SWING = 15.0  # degrees around the pose
_STRETCH = 1.7  # each side of the object is multiplied by up to this, or divided
_GRADIENT = 1.5  # logarithm of the density from the middle to one end
_DENSE = 7  # candidates for each point: of a shelf from one side a fifth are seen


class SyntheticShapeConfig(PlantedConfig):
    """How many objects, of how many points each."""

    kind, version = "shape", FORMAT_VERSION

    num_train: int = Field(default=960, ge=0)
    num_val: int = Field(default=120, ge=0)
    num_test: int = Field(default=240, ge=0)
    num_points: int = Field(default=2048, ge=16)
    seed: int = Field(default=0, ge=0)


class PlantedShape(Planted):
    """One object's truth; everything else about it is a function of (seed, split, index)."""

    form: ClassVar[str] = "{:05d}.npz"


def plan_shape(config: SyntheticShapeConfig, split: str, index: int) -> PlantedShape:
    """The factors of object ``index`` of ``split``; ``DataError`` where there is no such object."""
    return PlantedShape(split, index, config.deal(FACTORS, split, index))


def make_shape(config: SyntheticShapeConfig, shape: PlantedShape) -> PointCloud:
    """The cloud of an object about 2 long, with ``normal`` (of the surface before noise) and the label ``part``."""
    rng = keyed_rng(config.seed, "synthetic-shape", shape.split, shape.index)
    factors, count = shape.factors, config.num_points
    solids = build(factors["class"], *STYLES[factors["style"]], rng)
    stretch = np.exp(rng.uniform(-1, 1, 3) * math.log(_STRETCH))
    swing = math.radians(float(factors["pose"][-3:]) + rng.uniform(-_SWING, _SWING))
    turn = turned(swing)
    xyz, normals, area, part = _surface(solids, _DENSE * count, rng)
    low, high = xyz.min(0), xyz.max(0)
    along = (xyz - (low + high) / 2) / ((high - low) / 2)
    area = area * np.exp(_GRADIENT * (along @ np.array(DENSITIES[factors["density"]])))
    # An area under a stretch of space, as for normals.
    normals = normals / stretch
    length = np.sqrt((normals**2).sum(1))
    area, normals = area * length, (normals / length[:, None]) @ turn.T
    xyz = ((xyz - (low + high) / 2) * stretch) @ turn.T
    xyz /= np.sqrt((xyz**2).sum(1).max())
    hidden = _out_of_sight(xyz, normals, rng)
    area = np.where(hidden & (rng.random(len(xyz)) < OCCLUSIONS[factors["occlusion"]]), 0.0, area)
    # A weighted choice without replacement (Efraimidis and Spirakis, 2006).
    order = np.argsort(rng.exponential(size=len(xyz)) / np.maximum(area, 1e-300), kind="stable")[:count]
    xyz = xyz[order] + NOISES[factors["noise"]] * rng.normal(size=(len(order), 3))
    return PointCloud(xyz.astype(np.float32), {"normal": normals[order].astype(np.float32)}, {"part": part[order]})


def _surface(
    solids: list[Solid], count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """About ``count`` points of the surfaces of ``solids``, less those within others: with normals, the area that each
    stands for, and the label of its solid."""
    total = sum(solid.area for solid in solids)
    found = []
    for solid in solids:
        points, normals, area = solid.surface(max(48, round(count * solid.area / total)), rng)
        free = np.ones(len(points), dtype=bool)
        for other in solids:
            if other is not solid:
                free &= ~other.inside(points)
        found.append((points[free], normals[free], area[free], np.full(int(free.sum()), solid.label)))
    points, normals, area, labels = (np.concatenate(part) for part in zip(*found, strict=True))
    return points, normals, area, labels


def _out_of_sight(xyz: np.ndarray, normals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Which points one camera far away, at a random place around the object and 10 to 50 degrees up, does not see."""
    azimuth, up = rng.uniform(0, 2 * math.pi), math.radians(rng.uniform(10, 50))
    to_eye = np.array([math.cos(azimuth) * math.cos(up), math.sin(azimuth) * math.cos(up), math.sin(up)])
    right = np.array([-math.sin(azimuth), math.cos(azimuth), 0.0])
    image = np.stack([xyz @ right, xyz @ np.cross(to_eye, right)], axis=1)
    seen = np.zeros(len(xyz), dtype=bool)
    seen[in_front(image, -(xyz @ to_eye), resolution=64, tolerance=0.08)] = True
    return ~seen | (normals @ to_eye <= 0)


def _make(config: SyntheticShapeConfig, shape: PlantedShape) -> bytes:
    cloud, file = make_shape(config, shape), io.BytesIO()
    np.savez(file, xyz=cloud.xyz, normal=cloud.attributes["normal"], part=cloud.labels["part"].astype(np.int32))
    return file.getvalue()


def write_dataset(root: Path, config: SyntheticShapeConfig, num_workers: int = 2, progress: bool = True) -> Path:
    """Write the data set under ``root`` and return ``root``: the names of the parts in ``synthetic.json``, clouds as
    ``train/*.npz``, ``val/*.npz`` and ``test/*.npz`` (arrays ``xyz``, ``normal``, ``part``), and ``factors.csv`` with
    the truth of each; see ``write_planted``."""
    about, columns = {"parts": list(PART_NAMES)}, ("path", "split", *FACTORS)
    return write_planted(root, config, about, plan_shape, _make, num_workers, progress, columns)
