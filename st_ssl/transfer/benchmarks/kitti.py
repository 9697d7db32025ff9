"""KITTI's object benchmark (Geiger et al., CVPR 2012): a file of text for each frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from st_ssl.core.boxes import Boxes
from st_ssl.core.files import replace_text
from st_ssl.core.types import Entry
from st_ssl.data.drives.dataset import DriveSource
from st_ssl.data.sources.drives.kitti import LAYOUT, to_camera
from st_ssl.data.streams.points.drives import Drive
from st_ssl.transfer.benchmarks.base import Results
from st_ssl.transfer.detection.kitti_metrics import kitti_scores
from st_ssl.transfer.detection.kitti_objects import KittiObjects, in_camera, read_objects, result_text


class KittiResults(Results[Boxes]):
    """``NNNNNN.txt`` of every frame, empty where nothing was found: what the image shows of it. A zip of them, without
    folders, is what the benchmark takes."""

    known = LAYOUT.classes

    def __init__(self, folder: Path, source: DriveSource, entries: Sequence[Entry], classes: Sequence[str]) -> None:
        super().__init__(folder, source, entries, classes)
        self._found: dict[str, KittiObjects] = {}

    def add(self, drive: Drive, at: int, found: Boxes) -> None:
        file = Path(drive.files[at])
        matrix = to_camera(_beside(file, "calib"))
        objects = in_camera(found, self.classes, matrix, drive.cameras[at]())
        self._found[drive.path] = objects
        replace_text(self.folder / f"{file.stem}.txt", result_text(objects))

    def close(self) -> dict[str, float]:
        for drive, at in self.samples:
            if drive.path not in self._found:
                replace_text(self.folder / f"{Path(drive.files[at]).stem}.txt", "")
        judged = [(drive, Path(drive.files[at])) for drive, at in self.samples if at in drive.boxes]
        judged = [(drive, file) for drive, file in judged if drive.path in self._found]
        if not judged:
            return {}
        labels = [read_objects(_beside(file, "label_2")) for _, file in judged]
        names = [name.capitalize() for name in self.classes]
        return kitti_scores([self._found[drive.path] for drive, _ in judged], labels, classes=names)


def _beside(file: Path, folder: str) -> Path:
    """What belongs to the sweep of ``file`` in another ``folder``."""
    return file.parent.parent / folder / f"{file.stem}.txt"
