"""The point data set: from a (pass, index) key to the views of one cloud, with broken files replaced by a rule."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from st_ssl.core.errors import ConfigError, UnfitError
from st_ssl.core.inputs import ATTRIBUTE_WIDTHS, CloudNeeds, Modality, PointInputConfig
from st_ssl.core.random import Key, keyed_seed
from st_ssl.core.types import Entry, PointCloud, View
from st_ssl.data.base import DATA, CutsViews, DataSource, warn_of_ignored
from st_ssl.data.loading.sample_dataset import SampleDataset
from st_ssl.data.loading.worker_heartbeat import Stage
from st_ssl.data.packs.points_read import CloudPack
from st_ssl.data.packs.read_pack import is_pack
from st_ssl.data.points.config import PointDataConfig
from st_ssl.data.points.views import plain_views
from st_ssl.data.sources.base import Format
from st_ssl.data.sources.points import FORMATS, read_source
from st_ssl.data.streams.base import Recording, StillCloud
from st_ssl.data.streams.points import read_cloud
from st_ssl.data.streams.points.reading import Reading, decide
from st_ssl.data.streams.points.sweeps import open_windows, windows_of
from st_ssl.data.streams.points.units import check_range
from st_ssl.data.synthetic import rooms, shapes
from st_ssl.data.views import WHOLE, CutView, Span, Views
from st_ssl.ops.shape_distributions import coarse_occupancy, ordered_coordinates, shape_distributions
from st_ssl.ops.space_time_histogram import space_time_histogram

Read = Callable[[str], PointCloud]


def cloud_dataset(
    entries: Sequence[Entry],
    views: CutsViews,
    seed: Key = 0,
    read: Read = read_cloud,
    needs: CloudNeeds | None = None,
    open: Callable[[Entry], Recording] | None = None,
) -> SampleDataset:
    """Clouds behind (pass, index) keys: see ``SampleDataset``. One with less than the encoder ``needs`` is broken.
    ``open``: how the recording of a sample is opened, where it is more than the cloud that ``read`` gives."""
    check = partial(check_needs, needs=needs or CloudNeeds())
    return SampleDataset(entries, views, open or partial(_recording, read), "clouds", seed, check, _facts, _STAGES)


def _recording(read: Read, entry: Entry) -> Recording:
    return Recording({"points": partial(StillCloud, partial(read, entry.path))})


_STAGES = [
    Stage(f"{doing} took more than {{:g}} s (data.sample_timeout)", f"{doing} crashed")
    for doing in ("reading the cloud", "cutting views of the cloud")
]


def _facts(recording: Recording) -> tuple[float, ...]:
    """The number of points in the file of a cloud, or in the window that a sample is."""
    return (recording.stream().num_points,)


_MOST_CELLS = 2.0**50
"""Of the grid of a cloud: with those of a batch, and turned by any angle, they can be counted in 64 bits."""


def check_needs(view: CutView, needs: CloudNeeds) -> None:
    """``UnfitError`` where a view of a cloud has less than the encoder needs."""
    if not view.params:
        return  # all of a cloud as it lies in its file is nothing that an encoder is fed
    for cloud in view.content:
        if len(cloud) < needs.points:
            raise UnfitError(f"has {len(cloud)} points to show, and {needs.where} need {needs.points}")
        for name, values in cloud.attributes.items():
            if values.shape[1:] != (ATTRIBUTE_WIDTHS[name],):
                raise UnfitError(f"its {name} is {list(values.shape)}: expected {ATTRIBUTE_WIDTHS[name]} columns")
        if needs.voxel_size is not None:
            cells = 2 * np.abs(cloud.xyz).max(axis=0).astype(np.float64) / needs.voxel_size + 1
            if cells.prod() > _MOST_CELLS:
                wide = f"is {np.ptp(cloud.xyz, axis=0).max():.6g} wide"
                raise UnfitError(
                    f"{wide}, too much for voxels of {needs.voxel_size:g} (input.voxel_size): stray points?"
                )


@DATA.register(PointDataConfig)
class PointSource(DataSource):
    """A folder or list of clouds."""

    modality: ClassVar[Modality] = "points"
    unit: ClassVar[str] = "clouds"
    items: ClassVar[str] = "clouds"

    def __init__(self, config: PointDataConfig) -> None:
        super().__init__(config)
        self.points = config
        self.pack = _pack(config)
        self.packed = self.pack is not None
        self._windows: list[Entry] | None = None
        self._reading: Reading | None = None

    def follow(self, prepared: Mapping[str, Any], needs: CloudNeeds | None = None) -> None:
        super().follow(prepared, needs)
        for name, own in (self.points.window.ranges if self.points.window else {}).items():
            if prepared.get(name, own) != own:
                before, now = (f"{low:g} … {high:g}" for low, high in (prepared[name], own))
                warnings.warn(f"the encoder was trained on {name} {before}, and data.window says {now}", stacklevel=2)
        self._reading = None

    @property
    def reading(self) -> Reading:
        """How the clouds are read, decided on first use; what the user should know of it is a warning."""
        if self._reading is None:
            if self.pack is not None:
                self._reading = Reading(replace(self.points.options, **self._packed_ranges(self.pack)))
            else:
                entries = self.listing if self.listing is not None else self.recordings()
                self._reading = decide([entry.path for entry in entries], self.points.options, self.trained)
            for line in self._reading.told:
                warnings.warn(line, stacklevel=3)
        return self._reading

    @staticmethod
    def _packed_ranges(pack: CloudPack) -> dict[str, Any]:
        """The ranges of colours and intensities that became 0 … 1 when the clouds were packed."""
        found = {key: pack.config.get(key) for key in ("color_range", "intensity_range")}
        return {
            key: check_range((float(own[0]), float(own[-1]))) for key, own in found.items() if isinstance(own, list)
        }

    @property
    def prepared(self) -> dict[str, Any]:
        return self.reading.prepared | (self.points.window.ranges if self.points.window else {})

    def account(self) -> dict[str, Any]:
        reading = {} if self.pack is not None else {"reading": self.reading.account()}
        return super().account() | reading

    def entries(self) -> Sequence[Entry]:
        """All clouds of all splits, in a fixed order, or the fixed windows of all recordings. Raises what
        ``recordings`` does."""
        if self.points.window is None or self.packed:
            return self.recordings()
        if self._windows is None:
            options, window = self.points.options, self.points.window
            self._windows = [part for one in self.recordings() for part in windows_of(one, window, options)]
        return self._windows

    def recordings(self) -> Sequence[Entry]:
        """All files of all splits, in a fixed order. Raises ``DataError`` or ``ConfigError`` where ``root`` and
        ``list`` cannot be used: see ``read_source``."""
        if self.pack is not None:
            return self.pack.entries
        self.listing = self.points.listing() or read_source(self._planted())
        return self.listing

    def format(self) -> Format | None:
        place = None if self.pack is not None else self.points.place
        return FORMATS.find(*place, self.points.format)[0] if place is not None else None

    def _planted(self) -> Path:
        """The folder of the planted clouds, written if need be. Raises ``ConfigError`` where windows are asked for."""
        config = self.points
        if config.window is not None:
            raise ConfigError("data.window: planted clouds are not recordings; data.root must name a folder of those")
        if config.format != "auto" or config.split is not None:
            warnings.warn("data.format and data.split are ignored: there is no data.root", stacklevel=2)
        made, module = (config.shapes, shapes) if config.planted == "shapes" else (config.rooms, rooms)
        name = keyed_seed(module.FORMAT_VERSION, made.model_dump_json())
        return module.write_dataset(Path("data") / f"planted-{config.planted}-{name:016x}", made)

    def dataset(self, entries: Sequence[Entry], views: CutsViews, seed: Key = 0) -> SampleDataset:
        read = self.pack.open if self.pack is not None else partial(read_cloud, options=self.reading.options)
        window = None if self.packed else self.points.window
        windows = partial(open_windows, window=window, options=self.reading.options) if window is not None else None
        return cloud_dataset(entries, views, seed, read, self.needs, windows)

    def evaluation(self, input: PointInputConfig, num_views: int = 1, span: Span = WHOLE, jitter: float = 0.0) -> Views:
        """As ``DataSource`` says; a share of a cloud is one of its points, each of which is in one part alone."""
        return plain_views(input, num_views, span, jitter)

    def raw_features(self, view: View) -> dict[str, np.ndarray]:
        return {
            "coordinates": ordered_coordinates(view),
            "occupancy": coarse_occupancy(view),
            "histograms": shape_distributions(view),
            **({} if self.points.window is None or self.packed else {"space and time": space_time_histogram(view)}),
        }


def _pack(config: PointDataConfig) -> CloudPack | None:
    place = os.path.expanduser(config.root or "")
    if not config.root or not is_pack(place):
        return None
    keys = ("list", "format", "split", "surface_points", "bin_columns", "max_points")
    warn_of_ignored(config, (*keys, "columns", "color_range", "intensity_range", "window"))
    return CloudPack(place)
