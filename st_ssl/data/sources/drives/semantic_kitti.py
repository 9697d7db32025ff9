"""SemanticKITTI (Behley et al., ICCV 2019), and KITTI's odometry benchmark, whose sweeps it labels."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from st_ssl.core.errors import DataError, SampleError
from st_ssl.data.sources.base import Place
from st_ssl.data.sources.drives.base import Layout, filled_times, numbers, sweeps_in, text_lines
from st_ssl.data.sources.drives.kitti import COLUMNS, from_calib, read_calib
from st_ssl.data.sources.points.base import subfolders
from st_ssl.data.streams.points.drives import Drive, rigid, unposed

CLASSES = {
    **{"car": (10, 252), "bicycle": (11,), "motorcycle": (15,), "truck": (18, 258)},
    **{"other-vehicle": (20, 13, 16, 256, 257, 259), "person": (30, 254), "bicyclist": (31, 253)},
    **{"motorcyclist": (32, 255), "road": (40, 60), "parking": (44,), "sidewalk": (48,), "other-ground": (49,)},
    **{"building": (50,), "fence": (51,), "vegetation": (70,), "trunk": (71,), "terrain": (72,), "pole": (80,)},
    "traffic-sign": (81,),
}
"""The 19 classes of a single sweep, and the labels in files that are of each; results are written as the first."""
IGNORED = (0, 1, 52, 99)
_VAL, _TEST = {8}, set(range(11, 22))
_MAP = np.full(1 << 16, -2, dtype=np.int64)
_MAP[list(IGNORED)] = -1
for _number, _labels in enumerate(CLASSES.values()):
    _MAP[list(_labels)] = _number
_BACK = np.array([own[0] for own in CLASSES.values()], dtype=np.uint32)


def _read(place: Place, rate: float) -> list[Drive]:
    """``sequences/00`` to ``21`` (perhaps in ``dataset``), each with ``velodyne``, ``calib.txt`` and perhaps
    ``labels``, ``times.txt`` and ``poses.txt``; the poses of the odometry benchmark may lie in ``poses/00.txt``.
    08 is "val", from 11 on is "test"."""
    drives = [_sequence(place, folder, rate) for folder in _sequences(place.root)]
    if not drives:
        raise DataError(f"{place.root}: no sequences/*/velodyne/*.bin, as SemanticKITTI has them")
    return drives


def _sequences(root: Path) -> list[Path]:
    """The folders of sequences."""
    folders = [root / "sequences", root / "dataset" / "sequences", root]
    numbered = ([path for path in subfolders(folder) if path.name.isdecimal()] for folder in folders)
    found = ([path for path in own if sweeps_in(path / "velodyne", ".bin")] for own in numbered)
    return next((own for own in found if own), [])


def _sequence(place: Place, folder: Path, rate: float) -> Drive:
    files = sweeps_in(folder / "velodyne", ".bin")
    labels = {at: folder / "labels" / f"{file.stem}.label" for at, file in enumerate(files)}
    readers = {at: partial(read_labels, file) for at, file in labels.items() if file.is_file()}
    number = int(folder.name)
    split = "val" if number in _VAL else "test" if number in _TEST else "train"
    poses, times = _poses(place, folder, len(files)), _times(folder, len(files), rate)
    return Drive(str(folder), split, tuple(map(str, files)), times, poses, labels=readers)


def _poses(place: Place, folder: Path, count: int) -> np.ndarray:
    """Poses float64 [T, 4, 4] of the sweeps in the axes of the first; files have those of the camera."""
    beside = folder.parent.parent / "poses" / f"{folder.name}.txt"
    file = next((file for file in (folder / "poses.txt", beside) if file.is_file()), None)
    poses = unposed(count)
    if file is None:
        return poses
    rows = _rows(file, 12)
    if len(rows) != count:
        place.tell(f"{file}: {len(rows)} poses for {count} sweeps: the others have none")
    calib = folder / "calib.txt"
    to_camera = rigid(from_calib(calib, read_calib(calib), ("Tr", "Tr_velo_to_cam"), 12))
    known = min(len(rows), count)
    poses[:known] = np.linalg.inv(to_camera) @ rigid(rows[:known]) @ to_camera
    return poses


def _times(folder: Path, count: int, rate: float) -> np.ndarray:
    """Times float64 [T] in seconds from the first sweep on."""
    times, file = np.full(count, np.nan), folder / "times.txt"
    if file.is_file():
        rows = _rows(file, 1)[:count, 0]
        times[: len(rows)] = rows
    return filled_times(times, rate)


def _rows(file: Path, count: int) -> np.ndarray:
    """A table of numbers float64 [N, ``count``]. Raises ``SampleError``."""
    rows = []
    for at, line in text_lines(file):
        rows.append(numbers(file, at, line.split()))
        if len(rows[-1]) != count:
            raise SampleError(str(file), f"line {at}: {len(rows[-1])} numbers, expected {count}")
    return np.array(rows).reshape(-1, count)


def read_labels(file: Path, count: int) -> dict[str, np.ndarray]:
    """The labels of ``count`` points, int64 [N]: ``segment`` in the order of ``CLASSES`` (-1 for what is ignored) and
    ``instance`` (-1 for none). Raises ``SampleError`` where there are more or fewer, or one that is none."""
    if file.stat().st_size != 4 * count:
        labels, rest = divmod(file.stat().st_size, 4)
        more = f" and {rest} bytes" if rest else ""
        raise SampleError(str(file), f"{labels} labels{more} for {count} points (uint32, one for each)")
    found = np.fromfile(file, dtype="<u4").astype(np.int64)
    segment, instance = _MAP[found & 0xFFFF], found >> 16
    if (segment == -2).any():
        wrong = int((found & 0xFFFF)[segment == -2][0])
        raise SampleError(str(file), f"label {wrong} is none of SemanticKITTI's")
    return {"segment": segment, "instance": np.where(instance > 0, instance, -1)}


def written_back(segment: np.ndarray) -> np.ndarray:
    """The labels uint32 [N] that the benchmark takes for the classes ``segment`` int64 [N]; 0 for none."""
    return np.where(segment >= 0, _BACK[segment], 0).astype(np.uint32)


LAYOUT = Layout(
    "semantic_kitti",
    _read,
    lambda place: _sequences(place.root),
    segments=lambda drive: tuple(CLASSES),
    columns=COLUMNS,
    intensity_range=(0.0, 1.0),
)
