"""ONCE (Mao et al., NeurIPS 2021): two sweeps a second, most of them without labels."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from st_ssl.core.errors import DataError, SampleError
from st_ssl.data.sources.base import Place, read_json
from st_ssl.data.sources.drives.base import SWEEP, Layout, box_values, known_name, rotation_of
from st_ssl.data.sources.points.base import names_in, subfolders
from st_ssl.data.streams.points.drives import Drive, NamedBoxes, unposed

NAMES = {"Car": "car", "Bus": "bus", "Truck": "truck", "Pedestrian": "pedestrian", "Cyclist": "cyclist"}
_SETS = ("train", "val", "test", "raw_small", "raw_medium", "raw_large")


def _read(place: Place, rate: float) -> list[Drive]:
    """``data/000000/000000.json`` with ``lidar_roof/TIME.bin``; ``ImageSets/*.txt`` name the sequences of each split,
    and those of ``raw_small``, ``raw_medium`` and ``raw_large`` are "train", without labels. The axes are left as they
    are in the files."""
    folders = _sequences(place.root)
    if not folders:
        raise DataError(f"{place.root}: no data/*/*.json with lidar_roof beside it, as ONCE has them")
    told: dict[str, str] = {}
    for name in _SETS:
        file = place.root / "ImageSets" / f"{name}.txt"
        if file.is_file():
            told |= {row: name if name in _SETS[:3] else "train" for _, row in names_in(file) if row not in told}
    left = [folder.name for folder in folders if told and folder.name not in told]
    if left:
        place.tell(f"{place.root}: {len(left)} sequences are in none of ImageSets and are left out, {left[0]} say")
    return [_sequence(folder, told.get(folder.name, "train")) for folder in folders if folder.name not in left]


def _sequences(root: Path) -> list[Path]:
    """The folders of sequences."""
    return [path for path in subfolders(root / "data") if (path / f"{path.name}.json").is_file()]


def _sequence(folder: Path, split: str) -> Drive:
    file = folder / f"{folder.name}.json"
    frames = read_json(file, SWEEP, dict, "an object with frames").get("frames")
    if not isinstance(frames, list) or not frames:
        raise DataError(f"{file}: no frames in it")
    try:
        frames = sorted(frames, key=lambda frame: int(frame["frame_id"]))
        times = np.array([int(frame["frame_id"]) for frame in frames], dtype=np.int64)
        numbers = np.array([frame["pose"] for frame in frames], dtype=np.float64).reshape(len(frames), 7)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file}: a frame without a frame_id or a pose of 7 numbers: {error}") from error
    poses = unposed(len(frames))
    poses[:, :3, :3] = rotation_of(numbers[:, [3, 0, 1, 2]])
    poses[:, :3, 3], poses[:, 3] = numbers[:, 4:], (0, 0, 0, 1)
    boxes = {at: partial(read_boxes, file, frame["annos"]) for at, frame in enumerate(frames) if frame.get("annos")}
    files = tuple(str(folder / "lidar_roof" / f"{frame['frame_id']}.bin") for frame in frames)
    return Drive(str(folder), split, files, (times - times[0]) / 1e3, poses, boxes)


def read_boxes(file: Path, annos: dict[str, Any]) -> NamedBoxes:
    """The boxes of one frame of ``file``. Raises ``SampleError``."""
    names, rows = annos.get("names"), annos.get("boxes_3d")
    if not isinstance(names, list) or not isinstance(rows, list) or len(names) != len(rows):
        raise SampleError(str(file), "annos need as many names as boxes_3d")
    if wrong := next((row for row in rows if len(row) != 7), None):
        raise SampleError(str(file), f"a box of {len(wrong)} numbers, expected x y z length width height yaw")
    places = [f"box {number}" for number in range(1, len(rows) + 1)]
    known = tuple(known_name(file, at, name, NAMES) for at, name in zip(places, names, strict=True))
    return NamedBoxes(box_values(file, rows, places), known)


LAYOUT = Layout(
    "once",
    _read,
    lambda place: _sequences(place.root),
    NAMES,
    tuple(NAMES.values()),
    columns=("x", "y", "z", "intensity"),
    intensity_range=(0.0, 255.0),
)
