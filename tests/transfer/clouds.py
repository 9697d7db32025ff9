"""A source of tiny labelled clouds in memory, and tiny encoders of them: by points, and by tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from st_ssl.core.config import Config
from st_ssl.core.errors import SampleError
from st_ssl.core.inputs import Modality, PointInputConfig
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import Entry, Features, PointBatch, PointCloud
from st_ssl.data.base import DATA, DataSource
from st_ssl.data.loading.sample_dataset import SampleDataset
from st_ssl.data.points.dataset import cloud_dataset
from st_ssl.data.points.views import plain_views
from st_ssl.data.views import Views
from st_ssl.encoders.base import ENCODERS, Encoder
from st_ssl.ops.shape_distributions import coarse_occupancy
from st_ssl.training.optim import OptimConfig
from st_ssl.training.schedule import ScheduleConfig
from st_ssl.transfer.fitting.finetune_config import FinetuneConfig, finetune_model
from st_ssl.transfer.tasks.base import TASKS

KINDS = ("ball", "disc", "rod")
_SHAPES = {"ball": (1.0, 1.0, 1.0), "disc": (1.0, 1.0, 0.1), "rod": (0.1, 0.1, 1.0)}
INPUT = PointInputConfig(num_points=48)


def cloud(path: str) -> PointCloud:
    """Points in a box whose sides tell its kind. ``segment`` is the upper half, unlabelled in the middle; ``part`` the
    same with numbers of its own for every kind."""
    if "broken" in path:
        raise SampleError(path, "broken")
    kind = path.split("/")[1]
    rng = keyed_rng("cloud", path)
    xyz = (2 * rng.random((60, 3)) - 1) * _SHAPES[kind]
    height = xyz[:, 2] / np.abs(xyz[:, 2]).max()
    upper = (height > 0).astype(np.int64)
    segment = np.where(np.abs(height) < 0.15, -1, upper)
    part = upper + 2 * KINDS.index(kind)
    return PointCloud(xyz.astype(np.float32), {}, {"segment": segment, "part": part})


class TinyDataConfig(Config):
    """``train`` and ``test`` clouds of each kind."""

    name: Literal["tiny_clouds"] = "tiny_clouds"
    train: int = 12
    test: int = 6


class TinySource(DataSource):
    """Clouds in memory, with their kind as label."""

    modality: ClassVar[Modality] = "points"
    unit = items = "clouds"
    num_workers, epoch_size, max_bad_share = 0, None, 0.1

    def __init__(self, config: TinyDataConfig = TinyDataConfig()) -> None:  # noqa: B008
        super().__init__(config)
        self.rows = [
            Entry(f"{split}/{kind}/{i}", split, {"kind": kind})
            for split, count in (("train", config.train), ("test", config.test))
            for kind in KINDS
            for i in range(count)
        ]

    def entries(self) -> list[Entry]:
        return self.rows

    def dataset(self, entries: Sequence[Entry], views: Any, seed: Any = 0) -> SampleDataset:
        return cloud_dataset(entries, views, seed, cloud)

    def evaluation(
        self, input: Any, num_views: int = 1, span: tuple[float, float] = (0.0, 1.0), jitter: float = 0.0
    ) -> Views:
        return plain_views(input, num_views, span, jitter)

    def raw_features(self, view: Any) -> dict[str, np.ndarray]:
        return {"raw": coarse_occupancy(view)}


class TinyEncoderConfig(Config):
    """``tokens``: how many points of a cloud become tokens; 0 for features of all points."""

    name: Literal["tiny_points"] = "tiny_points"
    dim: int = 16
    tokens: int = 0


class TinyEncoder(Encoder):
    """The same MLP for every point, with batch norm and dropout, so that modes differ in what they touch."""

    modality = "points"

    def __init__(self, config: TinyEncoderConfig, input: PointInputConfig) -> None:
        super().__init__(config, input)
        self.embed_dim, self.tokens = config.dim, config.tokens
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(3, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1)),
                nn.Sequential(nn.Linear(32, config.dim)),
            ]
        )

    def forward(self, clip: PointBatch, keep: Tensor | None = None) -> Features:
        x = clip.xyz
        for block in self.blocks:
            x = block(x)
        pooled = torch.stack([x[a:b].amax(0) for a, b in zip(clip.offsets[:-1], clip.offsets[1:], strict=True)])
        if not self.tokens:
            return Features(pooled, points=x)
        starts = clip.offsets[:-1, None] + torch.arange(self.tokens)
        return Features(pooled, tokens=x[starts], centres=clip.xyz[starts])


STILL = {"rotation": "none"}


def settings(task: dict[str, Any], **changes: Any) -> FinetuneConfig:
    """A quick configuration for a task without augmentation; ``changes`` are of other keys."""
    base: dict[str, Any] = {
        "epochs": 6,
        "batch_size": 8,
        "optim": OptimConfig(lr=0.03, lr_batch=None, weight_decay=0.0),
        "schedule": ScheduleConfig(warmup_epochs=1),
        "seeds": 1,
        "curve": False,
        "task": TASKS.config(task["name"]).model_validate({"hidden": [], "dropout": 0.0, "augment": STILL} | task),
        "data": None,
    }
    return FinetuneConfig(**base | changes)


def register(patch: pytest.MonkeyPatch) -> None:
    """The encoder and the data are known by name until ``patch`` is undone."""
    for registry, config, cls in ((ENCODERS, TinyEncoderConfig, TinyEncoder), (DATA, TinyDataConfig, TinySource)):
        name = config.model_fields["name"].default
        registry.names()
        patch.setitem(registry._classes, name, cls)
        patch.setitem(registry._configs, name, config)
    finetune_model.cache_clear()


@pytest.fixture(autouse=True)
def tiny_registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The encoder and the data are known by name for the time of a test, and to no other test."""
    register(monkeypatch)
    yield
    finetune_model.cache_clear()
