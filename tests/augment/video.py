"""What the tests of video augmentation share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from st_ssl.augment.video import VideoAugment, VideoAugmentConfig, undo_normalise
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import VideoMeta

META = VideoMeta(num_frames=100, fps=25.0, width=320, height=240)
NEUTRAL = {"flip": 0.0, "brightness": 1.0, "contrast": 1.0, "saturation": 1.0}
NEUTRAL |= {"hue": 0.0, "grayscale": 0.0, "blur": 0.0, "solarize": 0.0}
CROPS = ("random_resized", "multi_scale", "centre")


def augment(**settings_: Any) -> VideoAugment:
    clip = {name: settings_.pop(name) for name in ("size", "mean", "std") if name in settings_}
    return VideoAugment(VideoAugmentConfig(**settings_), **clip)


def pixels(*shape: int, key: str = "pixels") -> np.ndarray:
    return keyed_rng(key).integers(0, 256, shape, dtype=np.uint8)


def batch_params(a: VideoAugment, batch: int, num_frames: int, key: str = "p") -> dict[str, Tensor]:
    drawn = [a.sample(keyed_rng(key, i), META, num_frames) for i in range(batch)]
    return {name: torch.from_numpy(np.stack([d[name] for d in drawn])) for name in drawn[0]}


def set_params(batch: int, values: dict[str, float], rows: int = 1) -> dict[str, Tensor]:
    params = {name: torch.full((batch, rows, 1), value) for name, value in (NEUTRAL | values).items()}
    return params | {"colour_order": torch.zeros(batch, rows, 1, dtype=torch.int64)}


def rgb(a: VideoAugment, frames: np.ndarray | Tensor, params: dict[str, Tensor]) -> Tensor:
    return undo_normalise(a.apply(torch.as_tensor(frames), params), a.mean, a.std)
