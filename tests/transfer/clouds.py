"""A source of tiny labelled clouds in memory, and tiny encoders of them: by points, and by tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from st_ssl.augment.points import PointAugment, plain
from st_ssl.config import Config
from st_ssl.data.base import DATA, BadSample, Batch, DataSource
from st_ssl.encoders.base import ENCODERS, Encoder
from st_ssl.inputs import Modality, PointInputConfig
from st_ssl.random import keyed_rng
from st_ssl.transfer.finetune import finetune_model
from st_ssl.types import Features, PointBatch, PointCloud, PointView, RawPointView, VideoEntry

KINDS = ("ball", "disc", "rod")
_SHAPES = {"ball": (1.0, 1.0, 1.0), "disc": (1.0, 1.0, 0.1), "rod": (0.1, 0.1, 1.0)}
INPUT = PointInputConfig(num_points=48)


def cloud(entry: VideoEntry) -> PointCloud:
    """Points in a box whose sides tell its kind. ``segment`` is the upper half, unlabelled in the middle; ``part`` the
    same with numbers of its own for every kind."""
    rng = keyed_rng("cloud", entry.path)
    xyz = (2 * rng.random((60, 3)) - 1) * _SHAPES[entry.labels["kind"]]
    height = xyz[:, 2] / np.abs(xyz[:, 2]).max()
    upper = (height > 0).astype(np.int64)
    segment = np.where(np.abs(height) < 0.15, -1, upper)
    part = upper + 2 * KINDS.index(entry.labels["kind"])
    return PointCloud(xyz.astype(np.float32), {}, {"segment": segment, "part": part})


@dataclass
class Drawn:
    cloud: PointCloud
    source: np.ndarray


@dataclass(frozen=True)
class TinyViews:
    """No more than a choice of points, drawn by the key if ``drawn``."""

    augment: PointAugment
    num_views: int
    drawn: bool

    def cut(self, cloud: PointCloud, key: tuple[int | str, ...]) -> list[Drawn]:
        key = key if self.drawn else ()
        params = [self.augment.sample(keyed_rng(*key, view)) for view in range(self.num_views)]
        return [Drawn(*self.augment.cut(cloud, param)) for param in params]

    def prepare(self, views: list[RawPointView]) -> list[PointView]:
        return [PointView(raw.points) for raw in views]


@dataclass
class TinySample:
    views: list[Drawn]
    index: int
    wanted: int
    bad: list[BadSample]


class TinyDataset(Dataset[TinySample]):
    def __init__(self, entries: Sequence[VideoEntry], views: TinyViews, seed: Any) -> None:
        self.entries, self.views, self.seed = entries, views, seed

    def __getitem__(self, key: tuple[int, int]) -> TinySample:
        epoch, index = key
        bad = [BadSample(self.entries[index].path, "broken")] if "broken" in self.entries[index].path else []
        used = (index + 1) % len(self.entries) if bad else index
        views = self.views.cut(cloud(self.entries[used]), (self.seed, epoch, index))
        return TinySample(views, used, index, bad)


class TinyDataConfig(Config):
    """``train`` and ``test`` clouds of each kind."""

    name: Literal["tiny_clouds"] = "tiny_clouds"
    train: int = 12
    test: int = 6


class TinySource(DataSource):
    """Clouds in memory, with their kind as label."""

    modality: ClassVar[Modality] = "points"
    unit = "clouds"
    num_workers, epoch_size, max_bad_share = 0, None, 0.1

    def __init__(self, config: TinyDataConfig = TinyDataConfig()) -> None:  # noqa: B008
        super().__init__(config)
        self.rows = [
            VideoEntry(f"{split}/{kind}/{i}", split, {"kind": kind})
            for split, count in (("train", config.train), ("test", config.test))
            for kind in KINDS
            for i in range(count)
        ]

    def entries(self) -> list[VideoEntry]:
        return self.rows

    def dataset(self, entries: Sequence[VideoEntry], views: Any, seed: Any = 0) -> TinyDataset:
        return TinyDataset(entries, views, seed)

    def collate(self, samples: list[TinySample]) -> Batch:
        views = [batch_of([sample.views[v] for sample in samples]) for v in range(len(samples[0].views))]
        indices, wanted = (torch.tensor([getattr(s, name) for s in samples]) for name in ("index", "wanted"))
        return Batch(views, indices, wanted, [bad for sample in samples for bad in sample.bad])

    def evaluation(
        self, input: Any, num_views: int = 1, span: tuple[float, float] = (0.0, 1.0), jitter: float = 0.0
    ) -> TinyViews:
        return TinyViews(plain(input.num_points, input.unit_sphere), num_views, jitter > 0)

    def raw_features(self, view: Any) -> np.ndarray:
        return view.points.dense().flatten(1).numpy()


def batch_of(clouds: list[Drawn]) -> RawPointView:
    counts = [len(drawn.cloud) for drawn in clouds]
    points = PointBatch(
        torch.from_numpy(np.concatenate([d.cloud.xyz for d in clouds])),
        torch.tensor([0, *np.cumsum(counts).tolist()]),
        {},
        {n: torch.from_numpy(np.concatenate([d.cloud.labels[n] for d in clouds])) for n in ("segment", "part")},
        torch.from_numpy(np.concatenate([d.source for d in clouds])),
    )
    return RawPointView(points, {"none": torch.zeros(len(clouds), 1)})


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


@pytest.fixture(autouse=True)
def tiny_registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The encoder and the data are known by name for the time of a test, and to no other test."""
    for registry, config, cls in ((ENCODERS, TinyEncoderConfig, TinyEncoder), (DATA, TinyDataConfig, TinySource)):
        name = config.model_fields["name"].default
        registry.names()
        monkeypatch.setitem(registry._classes, name, cls)
        monkeypatch.setitem(registry._configs, name, config)
    finetune_model.cache_clear()
    yield
    finetune_model.cache_clear()
