"""What is common to the files of all benchmarks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from st_ssl.core.errors import ConfigError, OutputError, nearest
from st_ssl.core.types import Entry
from st_ssl.data.drives.dataset import DriveSource
from st_ssl.data.streams.points.drives import Drive
from st_ssl.transfer.fitting.predict import Asked

Found = TypeVar("Found")


class Results(ABC, Generic[Found]):
    """Writes what a benchmark takes into ``folder``, for the ``entries`` of one split of ``source``, and judges it
    where the split has labels. ``classes`` are those of the network; the benchmark must know all of them (``known``).
    """

    known: Sequence[str]

    def __init__(self, folder: Path, source: DriveSource, entries: Sequence[Entry], classes: Sequence[str]) -> None:
        for name in classes:
            if name not in self.known:
                raise ConfigError(
                    f"the network knows the class {name!r}, and {source.layout.name} does not"
                    f"{nearest(name, self.known)} (it has: {', '.join(self.known)})"
                )
        if folder.is_dir() and any(folder.iterdir()):
            raise OutputError(f"--output {folder}: it holds other files; name a new or an empty folder")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.source, self.classes = folder, source, tuple(classes)
        self.samples = [(source.drives[entry.path], entry.start) for entry in entries]

    @abstractmethod
    def add(self, drive: Drive, at: int, found: Found) -> None:
        """What was found in the sweep ``at`` of a drive."""

    @abstractmethod
    def close(self) -> dict[str, float]:
        """Write what is not yet written, also of sweeps that nothing was said of; the benchmark's figures by name, {}
        where no labels are there."""


@dataclass
class OnBenchmark(Asked):
    """``answered`` gives the paths of the sweeps, as what was found in them is written by ``results``."""

    answered: Iterator[str]
    results: Results[object]
