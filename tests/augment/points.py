"""Clouds for the tests of augmentation, and views of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from st_ssl.augment.points import PointAugment
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import PointBatch, PointCloud
from st_ssl.data.views import packed

OFF: dict[str, Any] = {"rotation": "none"}
WILD: dict[str, Any] = {
    "rotation": "so3",
    "tilt": 20,
    "scale": (0.5, 1.5),
    "anisotropic": True,
    "translation": 0.5,
    "flip": (0.5, 0.5, 0.5),
}


def make_cloud(count: int = 500, seed: int = 0, plane: bool = False) -> PointCloud:
    """Points of the faces of a box with their normals (or of one face, tilted), colours and labels."""
    rng = keyed_rng("cloud", seed)
    at = rng.uniform(-1, 1, (count, 3))
    axis, side = rng.integers(0, 1 if plane else 3, count), rng.choice([-1.0] if plane else [-1.0, 1.0], count)
    at[np.arange(count), axis] = side
    normals = np.eye(3)[axis] * side[:, None]
    turn = Rotation.from_euler("xyz", [0.3, 0.5, 0.7]).as_matrix()
    return PointCloud(
        (at @ turn.T * 2 + [3, 4, 5]).astype(np.float32),
        {"normal": (normals @ turn.T).astype(np.float32), "color": rng.random((count, 3), dtype=np.float32)},
        {"segment": axis * 2 + (side > 0)},
    )


def source_of(cloud: PointCloud) -> np.ndarray:
    """The place that each of its points had: int64 [N]."""
    assert cloud.source is not None
    return cloud.source


def stack(params: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(np.stack([p[k] for p in params])) for k in params[0]}


def view(augment: PointAugment, cloud: PointCloud, *key: int) -> tuple[PointBatch, PointBatch, dict[str, torch.Tensor]]:
    """A batch of one: as it was cut, as it was applied, and its parameters."""
    params = augment.sample(keyed_rng(*key))
    batch = packed(augment.cut([cloud], params))
    return batch, augment.apply(batch, stack([params])), stack([params])
