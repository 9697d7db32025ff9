"""A method without the engine: what ``st_ssl.method``, ``st_ssl.view`` and ``st_ssl.views`` do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from st_ssl.core.config import Config, Place, validate
from st_ssl.core.errors import DataError
from st_ssl.core.inputs import INPUTS
from st_ssl.core.types import PointBatch, PointCloud, VideoMeta, View
from st_ssl.data.streams.base import Recording, StillCloud
from st_ssl.data.views import stack
from st_ssl.encoders.base import ENCODERS, Encoder
from st_ssl.methods.base import METHODS, Method


def build(
    name: str, encoder: Encoder | Mapping[str, Any], input: Mapping[str, Any] | None, settings: Mapping[str, Any]
) -> Method[Any]:
    """See ``st_ssl.method``."""
    cls = METHODS.registered(name)
    config = _checked(METHODS.config(name), {"name": name, **settings}, f"method {name}")
    if not isinstance(encoder, Encoder):
        kind = encoder.get("name", "")
        own = _checked(ENCODERS.config(kind), dict(encoder), f"encoder {kind}")
        shape = _checked(INPUTS[cls.modality], dict(input or {}), "input")
        encoder = ENCODERS.build(own, shape)
    return METHODS.build(config, encoder)


def _checked(model: type[Config], values: dict[str, Any], what: str) -> Any:
    return validate(model, values, Place(Path(what)))


def view(content: Tensor | PointBatch) -> View:
    """See ``st_ssl.view``."""
    if isinstance(content, PointBatch):
        return View(content, torch.zeros(len(content), 1, dtype=torch.int64))
    if content.ndim != 5:
        raise DataError(f"st_ssl.view: clips are [B, C, T, H, W], these are {list(content.shape)}")
    return View(content, torch.arange(content.shape[2]).expand(len(content), -1))


class _Frames:
    """A video in memory, uint8 [N, H, W, 3], as a stream."""

    def __init__(self, frames: np.ndarray) -> None:
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
            raise DataError(f"st_ssl.views: a video is uint8 [N, H, W, 3]; this is {frames.dtype} {list(frames.shape)}")
        self.frames = frames
        self.meta = VideoMeta(len(frames), 1.0, frames.shape[2], frames.shape[1])

    def read(self, at: Sequence[int]) -> Any:
        """The frames at ``at``."""
        return ((index, self.frames[index]) for index in at)

    def times(self) -> np.ndarray:
        return np.arange(len(self.frames), dtype=np.float64)

    def close(self) -> None:
        """Nothing is open."""


def views(method: Method[Any], samples: Sequence[np.ndarray | PointCloud], seed: int, epoch: int) -> list[View]:
    """See ``st_ssl.views``."""
    cuts = [method.views.cut(_recording(sample), (seed, epoch, index)) for index, sample in enumerate(samples)]
    return method.views.prepare(stack(cuts, range(len(cuts))))


def _recording(sample: np.ndarray | PointCloud) -> Recording:
    if isinstance(sample, PointCloud):
        return Recording.of(StillCloud(partial(_same, sample)), "points")
    if sample.ndim == 2:
        return Recording.of(StillCloud(partial(_same, PointCloud(sample[:, :3].astype(np.float32)))), "points")
    return Recording.of(_Frames(sample))


def _same(cloud: PointCloud) -> PointCloud:
    return cloud
