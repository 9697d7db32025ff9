"""Planted-factor objects: clouds whose class, style, pose, density, noise and occlusion are known and independent.

Every factor is dealt evenly; what it leaves open (proportions, the exact turn, the details of a class) is drawn for
each object. Files have the same bytes for any number of processes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import Field

from st_ssl.augment.point_cuts import in_front
from st_ssl.core.errors import DataError
from st_ssl.core.files import claim_folder, csv_text, replace_text, write_atomically
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import PointCloud
from st_ssl.data.loading.parallel_map import parallel_map
from st_ssl.data.synthetic.design import PlantedConfig, deal
from st_ssl.data.synthetic.primitives import Solid
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

    num_train: int = Field(default=960, ge=0)
    num_val: int = Field(default=120, ge=0)
    num_test: int = Field(default=240, ge=0)
    num_points: int = Field(default=2048, ge=16)
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class PlantedShape:
    """One object's truth; everything else about it is a function of (seed, split, index)."""

    split: str
    index: int
    factors: dict[str, str]

    @property
    def path(self) -> str:
        """Where the cloud lies, relative to the root of the data set."""
        return f"{self.split}/{self.index:05d}.npz"


def plan_shape(config: SyntheticShapeConfig, split: str, index: int) -> PlantedShape:
    """The factors of object ``index`` of ``split``; ``DataError`` where there is no such object."""
    count = config.count(split)
    if not 0 <= index < count:
        raise DataError(f"object {index} of split {split!r}: there are objects 0 to {count - 1}")
    factors = {
        factor: deal(values, count, config.seed, "synthetic-shape", split, factor)[index]
        for factor, values in FACTORS.items()
    }
    return PlantedShape(split, index, factors)


def make_shape(config: SyntheticShapeConfig, shape: PlantedShape) -> PointCloud:
    """The cloud of an object about 2 long, with ``normal`` (of the surface before noise) and the label ``part``."""
    rng = keyed_rng(config.seed, "synthetic-shape", shape.split, shape.index)
    factors, count = shape.factors, config.num_points
    solids = build(factors["class"], *STYLES[factors["style"]], rng)
    stretch = np.exp(rng.uniform(-1, 1, 3) * math.log(_STRETCH))
    swing = math.radians(float(factors["pose"][-3:]) + rng.uniform(-_SWING, _SWING))
    turn = np.array([[math.cos(swing), -math.sin(swing), 0], [math.sin(swing), math.cos(swing), 0], [0, 0, 1]])
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


def _write(root: Path, config: SyntheticShapeConfig, shape: PlantedShape) -> None:
    cloud = make_shape(config, shape)
    with write_atomically(root / shape.path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, xyz=cloud.xyz, normal=cloud.attributes["normal"], part=cloud.labels["part"].astype(np.int32))


def write_dataset(root: Path, config: SyntheticShapeConfig, num_workers: int = 2, progress: bool = True) -> Path:
    """Write the data set under ``root`` and return ``root``: ``synthetic.json`` (first) with the configuration and the
    names of the parts, clouds as ``train/*.npz``, ``val/*.npz`` and ``test/*.npz`` (arrays ``xyz``, ``normal``,
    ``part``), and ``factors.csv`` (last) with the truth of each.

    A run that was stopped is taken up where it ended; a finished data set returns at once. A folder that holds anything
    else is a ``DataError`` and is left as it is. ``num_workers`` processes are spawned; 0 or 1 stays in this one.
    """
    root = Path(root)
    what = {"format": "st_ssl synthetic shapes", "version": FORMAT_VERSION, "config": config.model_dump()}
    claim_folder(root, "synthetic.json", {**what, "parts": list(PART_NAMES)}, "set of synthetic shapes")
    for split in SPLITS:
        (root / split).mkdir(exist_ok=True)
    shapes = [plan_shape(config, split, i) for split in SPLITS for i in range(config.count(split))]
    missing = [shape for shape in shapes if not (root / shape.path).exists()]
    if not missing and (root / "factors.csv").exists():
        return root
    write = partial(_write, root, config)
    for _ in parallel_map(write, missing, num_workers, "synthetic shapes", len(shapes) - len(missing), progress):
        continue
    rows = [(shape.path, shape.split, *shape.factors.values()) for shape in shapes]
    replace_text(root / "factors.csv", csv_text([["path", "split", *FACTORS], *rows]))
    return root
