"""The data set of drives: whole ones for pretraining, their labelled sweeps for probing and fine-tuning."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from st_ssl.core.class_order import in_order
from st_ssl.core.errors import ConfigError, DataError, SampleError, nearest, sample_fault
from st_ssl.core.inputs import CloudNeeds, Modality, PointInputConfig
from st_ssl.core.random import Key, keyed_seed
from st_ssl.core.types import Entry, View
from st_ssl.data.base import DATA, CutsViews, DataSource
from st_ssl.data.drives.config import DriveDataConfig
from st_ssl.data.loading.sample_dataset import SampleDataset
from st_ssl.data.loading.worker_heartbeat import Stage
from st_ssl.data.points.dataset import check_needs
from st_ssl.data.points.views import plain_views
from st_ssl.data.sources.base import Listing
from st_ssl.data.sources.drives import Layout, read_drives
from st_ssl.data.sources.drives.base import NOT_LABELLED
from st_ssl.data.streams.base import Recording
from st_ssl.data.streams.points.drives import Drive, DriveSweeps, Dropped, SweepOptions, read_sweep, unposed
from st_ssl.data.streams.points.reading import Reading, decide
from st_ssl.data.synthetic import drives as planted
from st_ssl.data.views import WHOLE, Span, Views
from st_ssl.ops.shape_distributions import coarse_occupancy, ordered_coordinates, shape_distributions

_STAGES = [
    Stage(f"{doing} took more than {{:g}} s (data.sample_timeout)", f"{doing} crashed")
    for doing in ("reading sweeps", "cutting views of sweeps")
]
_LOOKED_AT = 8  # sweeps whose returns are counted


@dataclass(frozen=True)
class Survey:
    """What the boxes of all key frames are: ``tags``, by drive and sweep, the names of their classes as the layout has
    them; ``counts`` of boxes by name; the files that are ``broken``."""

    tags: Mapping[str, Mapping[int, tuple[str, ...]]]
    counts: Counter[str]
    broken: tuple[SampleError, ...]

    @classmethod
    def of(cls, drives: Sequence[Drive]) -> Survey:
        """Reads all boxes."""
        tags: dict[str, dict[int, tuple[str, ...]]] = {drive.path: {} for drive in drives}
        counts: Counter[str] = Counter()
        broken = []
        for drive in drives:
            for at, read in drive.boxes.items():
                try:
                    with sample_fault(drive.files[at]):
                        names = read().names
                except SampleError as error:
                    broken.append(error)  # told again, as a broken sample, by the worker that meets it
                    continue
                counts.update(names)
                tags[drive.path][at] = tuple(dict.fromkeys(names))
        return cls(tags, counts, tuple(broken))


def numbered_classes(config: DriveDataConfig, layout: Layout, found: Mapping[str, int]) -> dict[str, int]:
    """The names of classes that are learned and, of those that count as another, with their numbers, in order of
    these. ``found`` are the names that boxes have. Raises ``ConfigError`` for a class that there is not."""
    classes = config.classes or layout.classes or tuple(in_order({config.renamed.get(name, name) for name in found}))
    there = {*found, *layout.names.values()}
    for name in config.renamed:
        if there and name not in there:
            known = ", ".join(in_order(there))
            raise ConfigError(f"data.renamed: no box is a {name!r}{nearest(name, there)} (there are: {known})")
    for place, name in enumerate(classes):
        hint = nearest(name, there)
        if name in classes[:place]:
            raise ConfigError(f"data.classes: {name!r} is there twice")
        if there and name not in there and name not in config.renamed.values() and (hint or layout.names):
            known = ", ".join(in_order(there))
            raise ConfigError(f"data.classes: no box is a {name!r}{hint} (there are: {known})")
    numbers = {name: place for place, name in enumerate(classes)}
    for name, other in config.renamed.items():
        if other not in classes or name in classes:
            wrong = f"{other!r} is no class" if other not in classes else f"{name!r} is a class of its own"
            raise ConfigError(f"data.renamed: {name}: {other}, but {wrong} (data.classes: {', '.join(classes)})")
        numbers[name] = numbers[other]
    return numbers


def open_drive(entry: Entry, drives: Mapping[str, Drive], how: SweepOptions) -> Recording:
    """The recording of ``entry``: one stream, of its ``sweeps``. A file that is in none of ``drives`` is one alone."""
    drive = drives.get(entry.path)
    if drive is None:
        drive = Drive(entry.path, entry.split, (entry.path,), np.zeros(1), unposed(1))
    return Recording({"sweeps": partial(DriveSweeps, drive, how, entry.start, entry.num_frames)})


def pieces(drive: Entry, sweeps: int, most: int | None) -> list[Entry]:
    """A ``drive`` of so many sweeps as equal pieces (give or take one) of ``most`` at most; as it is where that is
    None, or enough."""
    if most is None or sweeps <= most:
        return [drive]
    bounds = np.linspace(0, sweeps, -(-sweeps // most) + 1).round().astype(int).tolist()
    return [replace(drive, start=start, num_frames=stop - start) for start, stop in pairwise(bounds)]


def _facts(recording: Recording) -> tuple[float, ...]:
    """The number of points of what was read."""
    return (recording.stream().num_points,)


@DATA.register(DriveDataConfig)
class DriveSource(DataSource):
    """Drives of a LiDAR."""

    modality: ClassVar[Modality] = "points"
    unit: ClassVar[str] = "sweeps"
    items: ClassVar[str] = "drives"

    def __init__(self, config: DriveDataConfig) -> None:
        super().__init__(config)
        self.drives_config = config
        self._reading: Reading | None = None

    @cached_property
    def _found(self) -> tuple[Layout, list[Drive], list[str]]:
        config = self.drives_config
        found = read_drives(self._root(), config.layout, config.rate, config.topic)
        if config.sweeps > 1 and not any(drive.posed.any() for drive in found[1]):
            raise ConfigError(f"data.sweeps={config.sweeps} needs poses, and no drive at {self._root()} has any")
        return found

    def _root(self) -> Path:
        """Where the drives are; planted ones are written if need be."""
        config = self.drives_config
        if config.place is not None:
            return config.place
        if config.layout != "auto":
            warnings.warn("data.layout is ignored: there is no data.root (data.planted.layout)", stacklevel=2)
        name = keyed_seed(config.planted.version, config.planted.model_dump_json())
        return planted.write_dataset(Path("data") / f"planted-drives-{name:016x}", config.planted)

    @property
    def layout(self) -> Layout:
        """How the drives are kept."""
        return self._found[0]

    @cached_property
    def drives(self) -> dict[str, Drive]:
        """All drives of all splits, by their paths, in a fixed order. Raises ``DataError`` where the root cannot be
        used."""
        return {drive.path: drive for drive in self._found[1]}

    @cached_property
    def survey(self) -> Survey:
        """What boxes there are."""
        return Survey.of(list(self.drives.values()))

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The numbers of classes by the names that boxes have: see ``numbered_classes``."""
        return numbered_classes(self.drives_config, self.layout, self.survey.counts)

    @property
    def box_classes(self) -> tuple[str, ...]:
        return tuple(name for place, (name, number) in enumerate(self.numbers.items()) if number == place)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names that boxes may have, in the order of their numbers in the fact ``kind``: those of the layout, or
        else those found."""
        return tuple(dict.fromkeys(self.layout.names.values())) or tuple(in_order(self.survey.counts))

    @property
    def point_classes(self) -> tuple[str, ...]:
        return self.layout.segments(next(iter(self.drives.values())))

    @property
    def reading(self) -> Reading:
        """How the sweeps are read, decided on first use; what the user should know of it is a warning."""
        if self._reading is None:
            options = self.drives_config.options(self.layout.columns, self.layout.intensity_range)
            if options.named and options.intensity_range is not None:
                self._reading = Reading(options)
            else:
                files = [file for drive in self.drives.values() for file in drive.files]
                self._reading = decide(files, options, self.trained)
            for line in self._reading.told:
                warnings.warn(line, stacklevel=3)
        return self._reading

    @property
    def sweep_options(self) -> SweepOptions:
        """How a stream of sweeps reads them."""
        config = self.drives_config
        kinds = {name: place for place, name in enumerate(self.kinds)}
        return SweepOptions(self.reading.options, config.sweeps, config.near, config.in_view, self.numbers, kinds)

    def follow(self, prepared: Mapping[str, Any], needs: CloudNeeds | None = None) -> None:
        super().follow(prepared, needs)
        before, now = prepared.get("sweeps", 1), self.drives_config.sweeps
        if prepared and before != now:
            warnings.warn(f"the encoder was trained on {before} sweeps a cloud, and data.sweeps={now}", stacklevel=2)
        self._reading = None

    @property
    def prepared(self) -> dict[str, Any]:
        merged = self.drives_config.sweeps
        return self.reading.prepared | ({"sweeps": merged} if merged > 1 else {})

    def recordings(self) -> Sequence[Entry]:
        """The drives of all splits, or their pieces, in a fixed order; their ``tags`` are the classes of the boxes in
        them. Raises ``DataError`` where the root cannot be used, ``ConfigError`` for classes that there are not."""
        if self.listing is None:
            told = [*self._found[2], *self._told()]
            entries = []
            for drive in self.drives.values():
                names = {name for own in self.survey.tags[drive.path].values() for name in self._known(own)}
                whole = Entry(drive.path, drive.split, tags=tuple(in_order(names)))
                entries += pieces(whole, len(drive), self.drives_config.piece)
            self.listing = Listing(entries, self.layout.name, told)
            self.listing.lengths = {drive.path: len(drive) for drive in self.drives.values()}
            for line in told:
                warnings.warn(line, stacklevel=2)
        return self.listing

    def entries(self) -> Sequence[Entry]:
        """The key frames of all drives, in a fixed order: one sweep each, of several one drive has windows of it."""
        self.recordings()
        found = []
        for drive in self.drives.values():
            tags, window = self.survey.tags[drive.path], len(drive) > 1
            for at in self._keys(drive):
                own = tuple(self._known(tags.get(at, ())))
                found.append(Entry(drive.path, drive.split, start=at, num_frames=1, tags=own, window=window))
        if not found:
            raise DataError(f"{self._root()}: no key frames in {len(self.drives)} drives (data.key_frames=false: all)")
        return found

    @cached_property
    def _labelled(self) -> dict[str, str]:
        """What the key frames of each split are told by: ``boxes`` where some drive has those, or else ``labels``, or
        else the log's ``keys``; none of them where no drive has any."""
        found: dict[str, str] = {}
        for kind in ("keys", "labels", "boxes"):
            found |= {drive.split: kind for drive in self.drives.values() if len(getattr(drive, kind))}
        return found

    def _keys(self, drive: Drive) -> Sequence[int]:
        """The sweeps of a drive that are probed and fine-tuned."""
        kind = self._labelled.get(drive.split) if self.drives_config.key_frames else None
        return range(len(drive)) if kind is None else sorted(map(int, getattr(drive, kind)))

    def _known(self, names: Sequence[str]) -> list[str]:
        """The classes that are learned of those that boxes are of, each once."""
        own = {self.box_classes[self.numbers[name]]: None for name in names if name in self.numbers}
        return list(own)

    def _told(self) -> list[str]:
        """What people should know of the boxes."""
        told, survey = [], self.survey
        if survey.broken:
            first = survey.broken[0]
            count = len(survey.broken)
            told.append(f"files of boxes that are broken: {count}, the first: {first.path}: {first.reason}")
        others = {
            name: count for name, count in survey.counts.most_common() if name not in (*self.numbers, NOT_LABELLED)
        }
        if others and self.numbers:
            named = ", ".join(f"{name} {count}{nearest(name, self.box_classes)}" for name, count in others.items())
            told.append(
                f"boxes that are neither right nor wrong (data.classes has {', '.join(self.box_classes)}): {named}"
            )
        if survey.counts and (gone := [name for name in self.box_classes if not self._boxes_of(name)]):
            told.append(f"no box is of {', '.join(gone)} (data.classes)")
        return told

    def _boxes_of(self, name: str) -> int:
        """How many boxes are of the class ``name``."""
        number = self.numbers[name]
        return sum(self.survey.counts[own] for own, other in self.numbers.items() if other == number)

    def account(self) -> dict[str, Any]:
        listing = self.recordings()
        assert isinstance(listing, Listing)
        drives = list(self.drives.values())
        sweeps, keys = sum(map(len, drives)), sum(len(self._keys(drive)) for drive in drives)
        posed = sum(int(drive.posed.sum()) for drive in drives)
        boxes = ", ".join(f"{name} {self._boxes_of(name)}" for name in self.box_classes) or "none"
        summary = listing.summary() | {"key": "layout", "items": "drives", "parts": "sweeps"}
        summary["told"] = [
            f"{sweeps} sweeps, {posed} with a pose; {keys} key frames; boxes: {boxes}",
            *self._returns(drives),
            *summary["told"],
        ]
        return {"listing": summary, "reading": self.reading.account()}

    def _returns(self, drives: Sequence[Drive]) -> list[str]:
        """What is left out of the sweeps, counted in some of them."""
        files = [(file, drive.axes) for drive in drives for file in drive.files]
        seen: list[Dropped] = []
        for place in np.unique(np.linspace(0, len(files) - 1, _LOOKED_AT).round().astype(int)).tolist():
            try:
                file, axes = files[place]
                seen.append(read_sweep(file, self.reading.options, self.drives_config.near, None, axes)[1])
            except SampleError:
                continue  # told by the worker that meets it
        parts = {"at the origin": "origin", "nowhere (not finite)": "nowhere", "near the sensor (data.near)": "near"}
        counts = {words: sum(getattr(one, name) for one in seen) for words, name in parts.items()}
        left = ", ".join(f"{count} {words}" for words, count in counts.items() if count)
        total = sum(one.points for one in seen)
        return [f"left out of {total} returns in {len(seen)} sweeps looked at: {left}"] if left else []

    def dataset(self, entries: Sequence[Entry], views: CutsViews, seed: Key = 0) -> SampleDataset:
        """As ``DataSource`` says; entries that are files of no drive are sweeps alone."""
        open = partial(open_drive, drives=self.drives, how=self.sweep_options)
        check = partial(check_needs, needs=self.needs)
        return SampleDataset(entries, views, open, "sweeps", seed, check, _facts, _STAGES)

    def evaluation(self, input: PointInputConfig, num_views: int = 1, span: Span = WHOLE, jitter: float = 0.0) -> Views:
        """As ``DataSource`` says; a share of a sweep is one of its points. Raises ``ConfigError`` for an ``input`` that
        moves sweeps, whose origin is the sensor and whose unit is the metre."""
        if input.unit_sphere or input.centre:
            raise ConfigError(
                "sweeps of drives stay where the sensor saw them, in metres: expected input.unit_sphere=false and "
                f"input.centre=false, not {str(input.unit_sphere).lower()} and {str(input.centre).lower()}"
            )
        return plain_views(input, num_views, span, jitter)

    def raw_features(self, view: View) -> dict[str, np.ndarray]:
        return {
            "coordinates": ordered_coordinates(view),
            "occupancy": coarse_occupancy(view),
            "histograms": shape_distributions(view),
        }
