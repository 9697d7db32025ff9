"""What the layouts of drives share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np

from st_ssl.core.boxes import BOX
from st_ssl.core.errors import DataError, SampleError, nearest
from st_ssl.data.sources.base import Kind, Place, filled_lines, in_folder
from st_ssl.data.sources.points.base import CLOUD
from st_ssl.data.streams.points.drives import Drive

SWEEP = Kind("sweep", CLOUD.is_file, lambda folder: False)
NOT_LABELLED = "dontcare"
"""What we call a region of which nobody said what is in it: its box is nowhere."""
_LONGEST = 1.5  # seconds to one neighbour, from which a velocity is known
_DIGITS = re.compile(r"([0-9]+)")
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Layout:
    """One way to keep drives. ``read`` gives those of a place, without a look at any sweep; ``matches`` says whether it
    looks like this one.

    ``names``: the classes that its boxes may have there, and what we call them (none: any class, under its own name);
    ``classes``: those that are learned where nobody asks for others. ``segments`` are the classes of points of a drive.
    ``columns`` and ``intensity_range`` say what is in its files, where that is fixed.
    """

    name: str
    read: Callable[[Place, float], list[Drive]]
    matches: Callable[[Place], object]
    names: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    classes: tuple[str, ...] = ()
    segments: Callable[[Drive], tuple[str, ...]] = lambda drive: ()
    columns: tuple[str, ...] = ()
    intensity_range: tuple[float, float] | None = None


def natural(name: str) -> list[tuple[int, int | str]]:
    """The key to sort names by, numbers in them by value: 2 before 10."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in _DIGITS.split(name) if part]


def sweeps_in(folder: Path, suffix: str = "") -> list[Path]:
    """The files of a folder that are sweeps (or whose names end in ``suffix``), by their names; [] where there is no
    such folder. Text is notes."""
    items = [Path(item.path) for item in (in_folder(folder) if folder.is_dir() else ()) if item.is_file()]
    found = [path for path in items if (path.name.endswith(suffix) if suffix else CLOUD.is_file(path.name))]
    return sorted(found, key=lambda path: natural(path.name))


def fields(path: Path, kind: str, counts: Sequence[int]) -> list[tuple[int, list[str]]]:
    """Number and words of the lines of a text file, without those that are blank or begin with ``#``. ``SampleError``
    where one has another number of words than ``counts``; ``kind`` says what was expected."""
    rows = []
    for at, line in text_lines(path):
        words = line.partition("#")[0].split()
        if words and len(words) not in counts:
            many = " or ".join(map(str, counts))
            raise SampleError(str(path), f"line {at}: {len(words)} columns, expected {many}: {kind}")
        if words:
            rows.append((at, words))
    return rows


def text_lines(path: Path) -> list[tuple[int, str]]:
    """Number and text of the lines of a file that are not blank; ``SampleError`` where it is none."""
    try:
        return filled_lines(path, SWEEP)
    except DataError as error:
        raise SampleError(str(path), str(error)) from error


def numbers(path: Path, at: int, words: Sequence[str]) -> list[float]:
    """``words`` as numbers; ``SampleError`` where one is none."""
    try:
        return [float(word) for word in words]
    except ValueError as error:
        wrong = next(word for word in words if not _is_number(word))
        raise SampleError(str(path), f"line {at}: {wrong!r} is no number") from error


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def box_values(path: Path, rows: Sequence[Sequence[float]], places: Sequence[str]) -> np.ndarray:
    """Boxes float64 [N, 9] from ``rows`` of 7 or 9 numbers; ``SampleError`` where one is nowhere or has no size, with
    which of ``places`` it is from: "line 3", say."""
    values = np.full((len(rows), len(BOX)), np.nan, dtype=np.float64)
    for number, (row, at) in enumerate(zip(rows, places, strict=True)):
        values[number, : len(row)] = row
        if not np.isfinite(values[number, :7]).all():
            raise SampleError(str(path), f"{at}: a box at {_told(row[:3])}, {_told(row[3:7])} is not finite")
        if (values[number, 3:6] <= 0).any():
            raise SampleError(str(path), f"{at}: a box of length, width and height {_told(row[3:6])}")
    return values


def _told(row: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in row)


def known_name(path: Path, at: str, name: str, names: Mapping[str, str]) -> str:
    """What we call the class ``name`` of a layout; ``SampleError`` where it has no such class."""
    if name not in names:
        known = ", ".join(names)
        raise SampleError(str(path), f"{at}: no class {name!r}{nearest(name, names)} (there are: {known})")
    return names[name]


def yaw_of(rotation: np.ndarray) -> np.ndarray:
    """The angle about z of the x axis that ``rotation`` [..., 3, 3] turns, [...]."""
    return np.arctan2(rotation[..., 1, 0], rotation[..., 0, 0])


def rotation_of(quaternion: np.ndarray) -> np.ndarray:
    """The rotation [..., 3, 3] of unit quaternions w, x, y, z [..., 4]; NaN where one has no length."""
    q = np.asarray(quaternion, dtype=np.float64)
    length = np.linalg.norm(q, axis=-1, keepdims=True)
    w, x, y, z = np.moveaxis(q / np.where(length > 1e-6, length, np.nan), -1, 0)
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    return np.stack(rows, axis=-1).reshape(*q.shape[:-1], 3, 3)


def velocities(places: np.ndarray, track: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Velocities float64 [N, 3] of boxes at ``places`` [N, 3], by the rule of nuScenes' devkit: from where its
    ``track`` int64 [N] was before to where it is afterwards, or between one of these and now. NaN for one alone, or
    where that is longer than 1.5 s (3 s from before to afterwards)."""
    order = np.lexsort((seconds, track))
    same = track[order][1:] == track[order][:-1]
    has_before, has_after = np.append(False, same), np.append(same, False)
    at = np.arange(len(order))
    first, last = order[at - has_before], order[at + has_after]
    time = seconds[last] - seconds[first]
    known = (has_before | has_after) & (time <= _LONGEST * (1 + (has_before & has_after)))
    found = np.full(places.shape, np.nan)
    found[order[known]] = ((places[last] - places[first]) / np.where(time, time, np.nan)[:, None])[known]
    return found


def filled_times(times: np.ndarray, rate: float) -> np.ndarray:
    """``times`` float64 [T] with those that are NaN from their neighbours, or at ``rate`` a second beyond them."""
    index, known = np.arange(len(times)), np.isfinite(times)
    if not known.any():
        return index / rate
    first, last = index[known][[0, -1]]
    filled = np.interp(index, index[known], times[known])
    return filled - np.maximum(first - index, 0) / rate + np.maximum(index - last, 0) / rate
