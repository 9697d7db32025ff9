"""The point data set: from a (pass, index) key to the views of one cloud, with broken files replaced by a rule."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from st_ssl.core.config import Config
from st_ssl.core.errors import SampleError
from st_ssl.core.inputs import Modality, PointInputConfig
from st_ssl.core.limits import default_workers
from st_ssl.core.random import Key, keyed_seed
from st_ssl.core.types import Entry, PointCloud, RawPointView
from st_ssl.data.base import DATA, Batch, DataSource, warn_of_ignored
from st_ssl.data.loading.loader import TIMEOUT
from st_ssl.data.loading.sample_dataset import Sample, SampleDataset, batch_of
from st_ssl.data.loading.worker_heartbeat import Stage
from st_ssl.data.packs.points_read import CloudPack
from st_ssl.data.packs.read_pack import is_pack
from st_ssl.data.points.views import CutPointView, PointViews, plain_views, stack_point_views
from st_ssl.data.sources.base import Format
from st_ssl.data.sources.points import PointFormat, format_of, read_source
from st_ssl.data.streams.points import ReadOptions, read_cloud
from st_ssl.data.synthetic import rooms, shapes
from st_ssl.data.synthetic.rooms import SyntheticRoomConfig
from st_ssl.data.synthetic.shapes import SyntheticShapeConfig
from st_ssl.ops.shape_distributions import coarse_occupancy, ordered_coordinates, shape_distributions


class PointDataConfig(Config):
    """Clouds: where they are and how they are read.

    ``root``: a folder of clouds, a list of ``path label`` lines, or a pack (a folder or URL); nothing means planted
    ones, which are written on first use: ``planted`` says whether objects (``shapes``) or furnished ``rooms``.
    ``list``: a list or table whose paths are relative to ``root``, or where a data set's lists are. ``format``: what
    that is, where its looks do not tell (configs/README.md has the formats). ``split``: the area of S3DIS that is held
    out (default: 5). ``surface_points``: how many points are drawn on a mesh, the same ones every time.
    ``bin_columns``: how many float32 numbers a point has in ``.bin`` files (default: 4, or 5 where only that fits or
    the name ends in ``.pcd.bin``). ``epoch_size``: how many clouds make an epoch (default: all of them).
    ``sample_timeout``: seconds that a worker may spend on one cloud, which is then taken as broken.
    """

    name: Literal["points"] = "points"
    root: str | None = None
    list: str | None = None
    format: PointFormat = "auto"
    split: int | None = Field(default=None, ge=1, le=6)
    surface_points: int = Field(default=8192, gt=1)
    bin_columns: int | None = Field(default=None, ge=3, le=16)
    planted: Literal["shapes", "rooms"] = "shapes"
    shapes: SyntheticShapeConfig = SyntheticShapeConfig()
    rooms: SyntheticRoomConfig = SyntheticRoomConfig()
    num_workers: int = Field(default_factory=default_workers, ge=0)
    epoch_size: int | None = Field(default=None, gt=0)
    max_bad_share: float = Field(default=0.1, ge=0, le=1)
    sample_timeout: float = Field(default=TIMEOUT, gt=0)

    @property
    def options(self) -> ReadOptions:
        """What readers are told."""
        return ReadOptions(self.surface_points, self.bin_columns)


class PointDataset(SampleDataset[CutPointView, int]):
    """Clouds behind (pass, index) keys: see ``SampleDataset``."""

    def __init__(
        self,
        entries: Sequence[Entry],
        views: PointViews,
        seed: Key = 0,
        read: Callable[[str], PointCloud] = read_cloud,
    ) -> None:
        super().__init__(entries, "clouds", seed)
        self.views = views
        self.read = read
        cutting = "cutting the cloud into segments and views" if views.segments else "cutting views of the cloud"
        self.stages = [
            Stage(f"{doing} took more than {{:g}} s (data.sample_timeout)", f"{doing} crashed")
            for doing in ("reading the cloud", cutting)
        ]

    def _cut(self, entry: Entry, key: tuple[Key, ...]) -> tuple[list[CutPointView], int]:
        cloud = self.read(entry.path)
        if (fault := self.views.fault(cloud)) is not None:
            raise SampleError(entry.path, fault)
        self.reach(1)
        return self.views.cut(cloud, key), len(cloud)


@DATA.register(PointDataConfig)
class PointSource(DataSource):
    """A folder or list of clouds."""

    modality: ClassVar[Modality] = "points"
    unit: ClassVar[str] = "clouds"
    items: ClassVar[str] = "clouds"

    def __init__(self, config: PointDataConfig) -> None:
        super().__init__(config)
        self.points = config
        self.num_workers = config.num_workers
        self.epoch_size = config.epoch_size
        self.max_bad_share = config.max_bad_share
        self.sample_timeout = config.sample_timeout
        self.options = config.options
        self.pack = _pack(config)

    def entries(self) -> Sequence[Entry]:
        """All clouds of all splits, in a fixed order. Raises ``DataError`` or ``ConfigError`` where ``root`` and
        ``list`` cannot be used: see ``read_source``."""
        config = self.points
        if self.pack is not None:
            return self.pack.entries
        if (place := self._place()) is None:
            return read_source(self._planted())
        return read_source(*place, config.format, config.split)

    def format(self) -> Format | None:
        place = None if self.pack is not None else self._place()
        return format_of(*place, self.points.format) if place is not None else None

    def _place(self) -> tuple[Path, Path | None] | None:
        """``root`` and ``list`` as paths; None where neither is given."""
        root, listing = (Path(path).expanduser() if path else None for path in (self.points.root, self.points.list))
        root, listing = (listing, None) if root is None else (root, listing)
        return (root, listing) if root is not None else None

    def _planted(self) -> Path:
        """The folder of the planted clouds, written if need be."""
        config = self.points
        if config.format != "auto" or config.split is not None:
            warnings.warn("data.format and data.split are ignored: there is no data.root", stacklevel=2)
        made = config.shapes if config.planted == "shapes" else config.rooms
        module = shapes if config.planted == "shapes" else rooms
        name = keyed_seed(module.FORMAT_VERSION, made.model_dump_json())
        return module.write_dataset(Path("data") / f"planted-{config.planted}-{name:016x}", made)

    def dataset(self, entries: Sequence[Entry], views: PointViews, seed: Key = 0) -> PointDataset:
        read = self.pack.open if self.pack is not None else partial(read_cloud, options=self.options)
        return PointDataset(entries, views, seed, read)

    def collate(self, samples: list[Sample[CutPointView, int]]) -> Batch:
        return collate(samples)

    def evaluation(
        self, input: PointInputConfig, num_views: int = 1, span: tuple[float, float] = (0.0, 1.0), jitter: float = 0.0
    ) -> PointViews:
        """As ``DataSource`` says; a share of a cloud is one of its points, each of which is in one part alone."""
        return plain_views(input, num_views, span, jitter)

    def raw_features(self, view: RawPointView) -> dict[str, np.ndarray]:
        return {
            "coordinates": ordered_coordinates(view),
            "occupancy": coarse_occupancy(view),
            "histograms": shape_distributions(view),
        }


def _pack(config: PointDataConfig) -> CloudPack | None:
    place = os.path.expanduser(config.root or "")
    if not config.root or not is_pack(place):
        return None
    warn_of_ignored(config, ("list", "format", "split", "surface_points", "bin_columns"))
    return CloudPack(place)


def collate(samples: list[Sample[CutPointView, int]]) -> Batch:
    """Samples to a batch, with the number of points in their files as metadata; without views where one of them had no
    usable replacement."""
    return batch_of(samples, stack_point_views, lambda num_points: (num_points,))
