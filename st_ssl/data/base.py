"""What the engine knows of data, whatever the modality: a source of samples, and the batches that leave its workers."""

from __future__ import annotations

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from st_ssl.core.config import Config, Place, validate
from st_ssl.core.errors import ConfigError
from st_ssl.core.inputs import CloudNeeds, Modality
from st_ssl.core.random import Key
from st_ssl.core.registry import Registry
from st_ssl.core.types import Entry, View
from st_ssl.data.sources.base import Format, Listing
from st_ssl.data.streams.base import Recording
from st_ssl.data.views import WHOLE, CutView, Reach, Span


@dataclass(frozen=True)
class BadSample:
    """A sample that could not be used, and why."""

    path: str
    reason: str

    @classmethod
    def of(cls, entry: Entry, reason: str) -> BadSample:
        """By the file that people know; of a packed one the reason says where in the pack it is, too."""
        return cls(entry.shown, f"{reason} ({entry.path})" if entry.source else reason)


@dataclass
class Batch:
    """``views`` one per view of the method; ``indices`` int64 [B] the samples used,
    ``wanted`` [B] those of the order (they differ where a broken sample was replaced); ``bad`` what was found broken;
    ``metadata`` float64 [B, k] what the files of the samples used say of themselves without their content (a video:
    width, height, frames per second and number of frames), a trivial baseline for probes. No views: nothing was usable.
    """

    views: Sequence[View]
    indices: Tensor
    wanted: Tensor
    bad: list[BadSample]
    metadata: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.float64))

    def to(self, device: torch.device) -> Batch:
        """Pixels and masks on ``device``; augmentation parameters stay on the CPU, where decisions are taken."""
        if device.type == "cpu":
            return self
        moved = [view.map(lambda tensor: tensor.to(device, non_blocking=True)) for view in self.views]
        views = [replace(new, params=view.params) for new, view in zip(moved, self.views, strict=True)]
        return replace(self, views=views)

    def pin_memory(self) -> Batch:
        """Called by the loader, for copies that overlap with work."""
        return replace(self, views=[view.map(lambda t: t.pin_memory()) for view in self.views])

    def split(self, parts: int) -> list[Batch]:
        """The batch as ``parts`` equal ones, in order."""
        size = len(self.indices) // parts
        assert size * parts == len(self.indices)
        found = []
        for a, b in ((i * size, (i + 1) * size) for i in range(parts)):
            views = [view.part(a, b) for view in self.views]
            found.append(Batch(views, self.indices[a:b], self.wanted[a:b], self.bad, self.metadata[a:b]))
        return found


class CutsViews(Protocol):
    """A declaration of what is to be seen: see ``st_ssl.data.views.Views``."""

    @property
    def num_views(self) -> int: ...

    def cut(self, recording: Recording, key: tuple[Key, ...], step: int = 0, reach: Reach = ...) -> list[CutView]: ...

    def prepare(self, views: Sequence[View]) -> list[View]: ...


class DataSource(ABC):
    """A data set as its configuration describes it. ``num_workers``, ``epoch_size`` and ``max_bad_share`` are what
    every source's configuration has for the engine; ``sample_timeout`` in seconds, for one sample in a worker."""

    modality: ClassVar[Modality] = "video"
    packed: bool = False
    """Whether the samples come from a pack."""
    unit: ClassVar[str] = "clips"
    """What a view of a sample is called."""
    items: ClassVar[str] = "videos"
    """What samples are called."""
    num_workers: int
    epoch_size: int | None
    max_bad_share: float
    sample_timeout: float = 60.0

    def __init__(self, config: Config) -> None:
        self.config = config
        vars(self).update(config.model_dump(include={"num_workers", "epoch_size", "max_bad_share", "sample_timeout"}))
        self.trained: dict[str, Any] = {}
        self.needs = CloudNeeds()
        self.listing: Listing | None = None  # of what ``entries`` found last

    def max_bad(self, num_samples: int) -> float:
        """How many of ``num_samples`` may be broken: see ``too_many``."""
        return max(FREE, self.max_bad_share * num_samples)

    def format(self) -> Format | None:
        """In which format the samples are listed; None where they are planted or packed."""
        return None

    @abstractmethod
    def entries(self) -> Sequence[Entry]:
        """All samples of all splits; raises ``DataError`` where there are none."""

    @property
    def box_classes(self) -> tuple[str, ...]:
        """The classes of boxes around objects, in the order of their numbers; () where samples have no boxes."""
        return ()

    def recordings(self) -> Sequence[Entry]:
        """What pretraining takes its samples from: ``entries``, or the recordings that these are windows of."""
        return self.entries()

    @property
    def point_classes(self) -> tuple[str, ...]:
        """What the labels ``segment`` of points mean, in the order of their numbers; () where the data do not say."""
        return ()

    @property
    def prepared(self) -> dict[str, Any]:
        """How the samples are read where files leave it open, as plain data for ``encoder.json``."""
        return {}

    def follow(self, prepared: Mapping[str, Any], needs: CloudNeeds | None = None) -> None:
        """Read the samples as those of an encoder were, where that fits them: ``prepared`` is from its
        ``encoder.json``. A warning tells where it does not. Samples with less than it ``needs`` are broken."""
        self.trained, self.needs = dict(prepared), needs or CloudNeeds()

    def account(self) -> dict[str, Any]:
        """What was decided and left out, as plain data: for ``prepare.py verify``, ``--dry-run`` and the report. See
        ``account_lines``."""
        return {} if self.listing is None else {"listing": self.listing.summary()}

    @abstractmethod
    def dataset(self, entries: Sequence[Entry], views: CutsViews, seed: Key = 0) -> Dataset[Any]:
        """The samples behind (pass, index) keys, seen as ``views`` declares."""

    @abstractmethod
    def evaluation(self, input: Any, num_views: int = 1, span: Span = WHOLE, jitter: float = 0.0) -> CutsViews:
        """What an encoder with this ``input`` is shown when it is evaluated: ``num_views`` views of a sample, of the
        share ``span`` of it, varied by a draw of the key as far as ``jitter`` (in 0 … 1) goes."""

    @abstractmethod
    def raw_features(self, view: View) -> dict[str, np.ndarray]:
        """What a raw view [B] shows without any network, float [B, k]: baselines for probes, by the names in their
        tables."""


class Chosen(Sequence[Entry]):
    """Those of ``entries`` at ``rows`` (sorted), none of which is made before it is asked for."""

    def __init__(self, entries: Sequence[Entry], rows: np.ndarray) -> None:
        self._entries, self._rows = entries, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        rows = self._rows[index]
        return Chosen(self._entries, rows) if isinstance(index, slice) else self._entries[int(rows)]


def samples_digest(entries: Sequence[Entry]) -> str:
    """What tells whether a run goes on with the samples it began with: their names, wherever they are, and which part
    of a video is one."""
    parts = (f"\0{e.start}\0{e.num_frames}" if e.start or e.num_frames is not None else "" for e in entries)
    names = [Path(e.path).name + part for e, part in zip(entries, parts, strict=True)]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def training_part(entries: Sequence[Entry]) -> Sequence[Entry]:
    """Those of ``entries`` of the split "train"; all of them where there is none."""
    rows = np.flatnonzero(np.fromiter((entry.split == "train" for entry in entries), bool, len(entries)))
    return Chosen(entries, rows) if 0 < len(rows) < len(entries) else entries


FREE = 5
"""So many broken samples never stop a run: in a small folder a handful is a large share and still a handful."""


def too_many(num_bad: int, num_samples: int, max_share: float) -> bool:
    """Whether so many are broken that it is the folder, the decoder or the disk, not the samples."""
    return num_bad > max(FREE, max_share * num_samples)


DATA: Registry[DataSource] = Registry("kind of data", "st_ssl.data")


def of_split(data: Config, number: int) -> DataSource:
    """The data set that ``data`` describes, in its official split ``number``. Raises ``ConfigError`` where there are no
    numbered splits, or not that one."""
    found = DATA.build(data).format()
    if found is None or not found.numbered:
        what = f"the format {found.name} has" if found else "planted and packed samples have"
        raise ConfigError(f"splits: {what} no numbered splits, as UCF101 and HMDB51 do (data.format)")
    most = next(limit.le for limit in type(data).model_fields["split"].metadata if hasattr(limit, "le"))
    if number > most:
        there = ", ".join(map(str, range(1, most + 1)))
        raise ConfigError(f"splits: there is no split {number} ({found.name} has {there})")
    settings, place = data.model_dump() | {"split": number}, Place(Path(f"split {number} of the data"))
    return DATA.build(validate(type(data), settings, place))


def warn_of_ignored(config: Config, keys: Sequence[str]) -> None:
    """Tell which of ``keys`` of a data set's configuration were set and count for nothing: its root is a pack."""
    ignored = [key for key in keys if getattr(config, key) != type(config).model_fields[key].default]
    if ignored:
        warnings.warn(f"ignored with a pack: {', '.join(f'data.{key}' for key in ignored)}", stacklevel=3)
