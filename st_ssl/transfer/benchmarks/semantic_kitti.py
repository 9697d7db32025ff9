"""SemanticKITTI's benchmark of single sweeps (Behley et al., ICCV 2019): a label for every point of a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from st_ssl.core.files import write_atomically
from st_ssl.core.types import Entry
from st_ssl.data.drives.dataset import DriveSource
from st_ssl.data.sources.drives.semantic_kitti import CLASSES, written_back
from st_ssl.data.streams.points.drives import Drive, read_sweep
from st_ssl.transfer.benchmarks.base import Results
from st_ssl.transfer.tasks.metrics import confusion_matrix, ious


class SemanticKittiResults(Results[np.ndarray]):
    """``sequences/11/predictions/000000.label`` of every sweep: uint32 of each of its points, also of those that are
    left out when it is read, which get 0. A zip of ``sequences`` is what the benchmark takes.

    ``mIoU`` and the ``IoU_<class>`` of all 19 classes over all points with a label, in per cent. A point without an
    answer is a miss of its class, and no hit of another."""

    known = tuple(CLASSES)

    def __init__(self, folder: Path, source: DriveSource, entries: Sequence[Entry], classes: Sequence[str]) -> None:
        super().__init__(folder, source, entries, classes)
        self._numbers = np.array([self.known.index(name) for name in classes])
        count = len(self.known) + 1  # the last: no answer
        self._confusion = np.zeros((count, count), dtype=np.int64)
        self._judged = False

    def add(self, drive: Drive, at: int, found: np.ndarray) -> None:
        """``found`` int64 [N]: the class of each point that is not left out, by its place among the network's."""
        kept = read_sweep(drive.files[at], self.source.reading.options, self.source.drives_config.near, _numbered)[0]
        segment = np.full(_points(drive, at), -1, dtype=np.int64)
        segment[kept.labels["place"]] = self._numbers[found]
        self._write(drive, at, segment)
        if at in drive.labels:
            truth = drive.labels[at](len(segment))["segment"]
            told = np.where(segment < 0, len(self.known), segment)
            self._confusion += confusion_matrix(truth, told, len(self._confusion))
            self._judged = True

    def close(self) -> dict[str, float]:
        for drive, at in self.samples:
            if not self._place(drive, at).is_file():
                self._write(drive, at, np.full(_points(drive, at), -1, dtype=np.int64))
        if not self._judged:
            return {}
        each = 100 * np.nan_to_num(ious(self._confusion)[:-1])  # the benchmark counts what is nowhere as 0
        return {"mIoU": float(each.mean())} | {
            f"IoU_{name}": float(value) for name, value in zip(self.known, each, strict=True)
        }

    def _place(self, drive: Drive, at: int) -> Path:
        folder = self.folder / "sequences" / Path(drive.path).name / "predictions"
        return folder / f"{Path(drive.files[at]).stem}.label"

    def _write(self, drive: Drive, at: int, segment: np.ndarray) -> None:
        place = self._place(drive, at)
        place.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(place) as unfinished:
            written_back(segment).astype("<u4").tofile(unfinished)


def _numbered(count: int) -> dict[str, np.ndarray]:
    """The place of each point in its file, as a label that goes with it."""
    return {"place": np.arange(count)}


def _points(drive: Drive, at: int) -> int:
    """How many points the file of a sweep has: four floats each."""
    return Path(drive.files[at]).stat().st_size // 16
