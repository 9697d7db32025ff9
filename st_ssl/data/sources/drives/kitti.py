"""KITTI's object benchmark (Geiger et al., 2012): single sweeps, with the objects that the camera sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from st_ssl.core.errors import DataError, SampleError
from st_ssl.data.sources.base import Place
from st_ssl.data.sources.drives.base import NOT_LABELLED, Layout, box_values, known_name, numbers, sweeps_in, text_lines
from st_ssl.data.sources.points.base import lists_in, names_in
from st_ssl.data.streams.points.drives import Camera, Drive, NamedBoxes, rigid, unposed

NAMES = {
    **{"Car": "car", "Van": "van", "Truck": "truck", "Pedestrian": "pedestrian", "Person_sitting": "person_sitting"},
    **{"Cyclist": "cyclist", "Tram": "tram", "Misc": "misc", "DontCare": NOT_LABELLED},
}
COLUMNS = ("x", "y", "z", "intensity")
LABEL_LINE = "type truncated occluded alpha left top right bottom height width length x y z rotation_y [score]"
_IMAGE = (1242, 375)  # pixels of most images
_NOWHERE = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0]
_PNG = b"\x89PNG\r\n\x1a\n"


def _read(place: Place, rate: float) -> list[Drive]:
    """``training/velodyne/000000.bin``; ``ImageSets/train.txt`` and ``val.txt`` (Chen et al., 2015) are splits where
    they are there. ``testing`` is "test"."""
    training, sets = place.root / "training", place.root / "ImageSets"
    files = {file.stem: file for file in sweeps_in(training / "velodyne", ".bin")}
    if not files:
        raise DataError(f"{place.root}: no training/velodyne/*.bin, as KITTI's object benchmark has them")
    told = {name: split for list_, split in lists_in([sets], "{}.txt", ("train", "val")) for _, name in names_in(list_)}
    if gone := sorted(told.keys() - files.keys()):
        place.tell(f"{sets}: {len(gone)} of {len(told)} frames are not there, {gone[0]} say")
    drives = [
        _frame(training, file, told.get(name, "train")) for name, file in files.items() if name in (told or files)
    ]
    if left := len(files) - len(drives):
        place.tell(f"{sets}: {left} of {len(files)} frames are in none of its lists and are left out")
    testing = place.root / "testing"
    return drives + [_frame(testing, file, "test") for file in sweeps_in(testing / "velodyne", ".bin")]


def _frame(part: Path, file: Path, split: str) -> Drive:
    """One sweep, which knows no other."""
    label, calib = (part / folder / f"{file.stem}.txt" for folder in ("label_2", "calib"))
    boxes = {0: partial(read_boxes, label, calib)} if label.is_file() else {}
    image = part / "image_2" / f"{file.stem}.png"
    cameras = {0: partial(camera, calib, image)} if calib.is_file() else {}
    return Drive(str(file), split, (str(file),), np.zeros(1), unposed(1), boxes, cameras=cameras)


def read_calib(file: Path) -> dict[str, np.ndarray]:
    """The numbers of a file of lines ``name: numbers``, float64 [k] each. Raises ``SampleError``."""
    found = {}
    for at, line in text_lines(file):
        name, _, values = line.partition(":")
        if values and name != "calib_time":
            found[name.strip()] = np.array(numbers(file, at, values.split()))
    return found


def from_calib(file: Path, calib: Mapping[str, np.ndarray], names: Sequence[str], count: int) -> np.ndarray:
    """The ``count`` numbers of the first of ``names`` that a calibration has. Raises ``SampleError``."""
    name = next((name for name in names if name in calib), None)
    if name is None:
        raise SampleError(str(file), f"no line {' or '.join(names)} (there are: {', '.join(calib) or 'none'})")
    if len(calib[name]) != count:
        raise SampleError(str(file), f"{name}: {len(calib[name])} numbers, expected {count}")
    return calib[name]


def to_camera(file: Path, suffix: str = "") -> np.ndarray:
    """The matrix float64 [4, 4] from points of a sweep to the rectified camera (x right, y down, z ahead). Raises
    ``SampleError``."""
    calib = read_calib(file)
    turn = np.eye(4)
    turn[:3, :3] = from_calib(file, calib, ("R0_rect", "R_rect"), 9).reshape(3, 3)
    move = from_calib(file, calib, (f"Tr_velo_to_cam{suffix}", f"Tr_velo_cam{suffix}"), 12)
    return turn @ rigid(move)


def camera(calib: Path, image: Path) -> Camera:
    """The left colour camera; its image has the usual size where it is not there. Raises ``SampleError``."""
    projection = from_calib(calib, read_calib(calib), ("P2",), 12).reshape(3, 4)
    return Camera(projection @ to_camera(calib), *_size(image))


def _size(image: Path) -> tuple[int, int]:
    """Width and height of a PNG, from its header."""
    if not image.is_file():
        return _IMAGE
    with image.open("rb") as file:
        head = file.read(24)
    return (int.from_bytes(head[16:20]), int.from_bytes(head[20:24])) if head[:8] == _PNG else _IMAGE


def read_boxes(
    file: Path, calib: Path, names: Mapping[str, str] = NAMES, suffix: str = "", more: Sequence[int] = (15, 16)
) -> NamedBoxes:
    """The objects of a file of labels, as boxes of the sweep: the centre of the bottom is raised by half the height,
    and angles about the camera's y axis become those about z. A region that nobody labelled is nowhere: all NaN.

    Facts: ``image`` [N, 4], ``truncated``, ``occluded``. ``more``: how many columns a line may have. Raises
    ``SampleError``.
    """
    matrix = np.linalg.inv(to_camera(calib, suffix))
    lines, kinds, boxes, facts = [], [], [], []
    for at, line in text_lines(file):
        words = line.split()
        if len(words) not in more:
            many = " or ".join(map(str, more))
            raise SampleError(str(file), f"line {at}: {len(words)} columns, expected {many}: {LABEL_LINE}")
        lines.append(f"line {at}")
        kinds.append(known_name(file, lines[-1], words[0], names))
        values = numbers(file, at, words[1:15])
        facts.append([*values[:2], *values[3:7]])
        boxes.append(_box(matrix, values[7:]) if kinds[-1] != NOT_LABELLED else _NOWHERE)
    found = box_values(file, boxes, lines)
    found[[kind == NOT_LABELLED for kind in kinds]] = np.nan
    known = np.array(facts, dtype=np.float32).reshape(-1, 6)
    return NamedBoxes(found, tuple(kinds), {"truncated": known[:, 0], "occluded": known[:, 1], "image": known[:, 2:]})


def _box(matrix: np.ndarray, values: Sequence[float]) -> list[float]:
    """The seven numbers of a box of a sweep from those of a label; ``matrix`` [4, 4] is from camera to sweep."""
    height, width, length, *bottom, turn = values
    x, y, z = matrix[:3, :3] @ np.array(bottom) + matrix[:3, 3]
    return [float(x), float(y), float(z) + height / 2, length, width, height, wrapped(-turn - np.pi / 2)]


def wrapped(angle: float) -> float:
    """The same angle in -pi … pi."""
    return float((angle + np.pi) % (2 * np.pi) - np.pi)


LAYOUT = Layout(
    "kitti",
    _read,
    lambda place: sweeps_in(place.root / "training" / "velodyne", ".bin"),
    NAMES,
    ("car", "pedestrian", "cyclist"),
    columns=COLUMNS,
    intensity_range=(0.0, 1.0),
)
