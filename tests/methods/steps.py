"""A method at a tiny size and what it is fed: views as the workers cut them, of videos or clouds of noise, without
files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from st_ssl.core.config import merge, read_yaml
from st_ssl.core.inputs import InputConfig, PointInputConfig
from st_ssl.core.types import PointCloud, VideoMeta, View
from st_ssl.data.streams.base import Recording, StillCloud
from st_ssl.data.views import stack
from st_ssl.encoders.base import ENCODERS, Encoder, random_encoder
from st_ssl.methods.base import METHODS, Method
from tests.methods.small import recorded, small
from tests.runs import ROOT

INPUTS: dict[str, InputConfig | PointInputConfig] = {
    "video": InputConfig(num_frames=4, stride=2, size=16),
    "points": PointInputConfig(num_points=48),
}
TINY_ENCODERS: list[dict[str, Any]] = [
    {"name": "r3d", "depth": 10, "width": 4},
    {"name": "video_vit", "dim": 24, "depth": 2, "heads": 3, "patch": 4},
    {"name": "point_vit", "dim": 24, "depth": 3, "heads": 3, "num_groups": 10, "group_size": 6, "drop_path": 0.0},
    {"name": "dgcnn", "widths": [8, 12], "neighbours": 6, "dim": 24},
    {"name": "sparse_unet", "variant": "tiny", "stem": 4},
]


class NoiseReader:
    """A video of 20 frames of blocky noise, 32 × 24 pixels, that depends on ``seed`` alone."""

    meta = VideoMeta(num_frames=20, fps=25.0, width=32, height=24)

    def __init__(self, seed: int) -> None:
        blocks = np.random.default_rng(seed).integers(0, 256, (20, 6, 8, 3), dtype=np.uint8)
        self.pixels = blocks.repeat(4, axis=1).repeat(4, axis=2)

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        return ((i, self.pixels[i]) for i in indices)

    def times(self) -> np.ndarray:
        return np.arange(self.meta.num_frames) / self.meta.fps

    def close(self) -> None:
        """Nothing is open."""


def noise_cloud(seed: int, num_points: int = 96) -> PointCloud:
    """Coloured points on two planes that depend on ``seed`` alone."""
    rng = np.random.default_rng(seed)
    xyz = ((rng.random((2, num_points // 2, 2)) - 0.5) @ rng.normal(size=(2, 2, 3))).reshape(-1, 3)
    return PointCloud(xyz.astype(np.float32), {"color": rng.random((num_points, 3), dtype=np.float32)})


class NoiseDrive:
    """Four sweeps of points around a sensor that moves and turns, which depend on ``seed`` alone."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.world = rng.uniform((-14, -14, -4), (14, 14, 10), (96, 3))
        angles, shifts = 0.1 * np.arange(4) * rng.uniform(-1, 1), np.arange(4) * rng.uniform(0.5, 1)
        poses = np.tile(np.eye(4), (4, 1, 1))
        poses[:, 0, 0] = poses[:, 1, 1] = np.cos(angles)
        poses[:, 0, 1], poses[:, 1, 0], poses[:, 0, 3] = -np.sin(angles), np.sin(angles), shifts
        self.meta = SimpleNamespace(num_frames=4, poses=poses, posed=np.ones(4, bool))

    def read(self, at: Sequence[int]) -> Iterator[tuple[int, PointCloud]]:
        for index in at:
            pose = self.meta.poses[index]
            xyz = (self.world - pose[:3, 3]) @ pose[:3, :3]
            yield index, PointCloud(xyz.astype(np.float32), pose=pose)

    def times(self) -> np.ndarray:
        return np.arange(4) / 10

    def close(self) -> None:
        """Nothing is open."""


def noise_recording(kind: str, seed: int) -> Recording:
    """A video, a cloud or a drive of noise as a recording."""
    if kind == "drives":
        return Recording({"sweeps": lambda: NoiseDrive(seed)})
    modality = kind
    if modality == "points":
        return Recording({"points": lambda: StillCloud(lambda: noise_cloud(seed))})
    return Recording({"video": lambda: NoiseReader(seed)})


def tiny_encoder(row: dict[str, Any], changes: dict[str, Any] | None = None) -> Encoder:
    input = INPUTS[ENCODERS.registered(row["name"]).modality]
    input = type(input).model_validate(input.model_dump() | (changes or {}))
    return random_encoder(ENCODERS.config(row["name"]).model_validate(row), input, seed=0)


def build(name: str, encoder: dict[str, Any] | None = None, **settings: Any) -> Any:
    """The method ``name`` at its small size, in training mode, around ``encoder`` or its own small one; ``settings``
    are laid on those of ``SMALL``."""
    own = small(name)
    config = METHODS.config(name).model_validate(merge(own["method"], settings))
    built = tiny_encoder(own["encoder"], own.get("input", {})) if encoder is None else tiny_encoder(encoder)
    torch.manual_seed(0)
    return METHODS.build(config, built).train()


def recipe(name: str) -> dict[str, Any]:
    """What configs/pretrain/NAME.yaml says."""
    return read_yaml(ROOT / "configs" / "pretrain" / f"{name}.yaml")[0]


def raw_views(method: Method[Any], batch: int = 4, first: int = 0) -> list[View]:
    """The views that ``method`` declares, of ``batch`` videos or clouds."""
    seeds = range(first, first + batch)
    kind = recorded(method.config.name)
    return stack([method.views.cut(noise_recording(kind, i), (0, 0, i)) for i in seeds], seeds)
