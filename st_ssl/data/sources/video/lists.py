"""Lists: one video on each line, its path first and numbers or a label behind it: see ``list_lines.py``."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from st_ssl.core.errors import DataError
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Place, Row, listed
from st_ssl.data.sources.list_lines import ANY, NUMBER, Line, check_labels, read_list, separator_hint
from st_ssl.data.sources.paths import Finder
from st_ssl.data.sources.split_files import by_split
from st_ssl.data.sources.video.base import VIDEO, is_video

_INTEGER = re.compile(r"-?\d{1,18}")  # what an int64 holds


Parts = tuple[int, int, tuple[str, ...]]
"""What is behind a path: the start, the number of frames (-1: all there are) and labels."""


@dataclass(frozen=True)
class Layout:
    """What stands behind the path: a start, a number of frames, and ``fewest`` to ``most`` labels.

    ``whole``: -1 frames mean the whole video, and the start of a folder of images is the number in an image's name,
    not a count of those before it.
    """

    form: str
    meaning: str
    start: bool = False
    count: bool = False
    fewest: int = 0
    most: int = 1
    whole: bool = False
    words: bool = False

    @property
    def head(self) -> int:
        """How many fields stand before the labels."""
        return self.start + self.count

    def parts(self, line: Line) -> Parts | None:
        """What ``line`` says; None where it cannot be read in this way."""
        head, labels = line.fields[: self.head], line.fields[self.head :]
        if len(head) < self.head or not all(map(_INTEGER.fullmatch, head)):
            return None
        many = len(labels) > self.most and not (self.words and not all(map(NUMBER.fullmatch, labels)))
        start, count = int(head[0]) if self.start else 0, int(head[-1]) if self.count else -1
        negative = self.count and count < 0 and not (self.whole and count == -1)
        return None if many or negative or start < 0 or len(labels) < self.fewest else (start, count, labels)


LAYOUTS = {
    "list": Layout("path label", "a label", words=True),
    "multilabel": Layout("path label label …", "several labels", fewest=1, most=ANY),
    "videomae": Layout("path start num_frames", "start and number of frames", start=True, count=True, whole=True),
    "rawframes": Layout("folder num_frames label", "number of frames and labels", count=True, most=ANY),
    "rawframes_offset": Layout(
        "folder offset num_frames label", "offset, number of frames and labels", start=True, count=True, most=ANY
    ),
}


def _read(place: Place, name: str) -> list[Entry]:
    file = place.notes
    lines = read_list(file, VIDEO, is_video, 1 if name == "list" and not place.auto else ANY)
    if place.auto:
        name = _guess(file, lines)
    layout = LAYOUTS[name]
    rows = [(line, parts) for line in lines if (parts := layout.parts(line))]
    if len(rows) < len(lines):
        line = next(line for line in lines if not layout.parts(line))
        raise DataError(f"{file}, line {line.at}: `{line}`, expected `{layout.form}` (data.format={name})")
    check_labels(file, lines, layout.head)
    tagged = name == "multilabel" or (not layout.words and any(len(labels) > 1 for _, (_, _, labels) in rows))
    # The images of a folder are numbered from 1, unless a line for it starts at 0.
    from_one = {line.path for line in lines if layout.whole and not line.is_file}
    from_one -= {line.path for line, (start, _, _) in rows if start == 0}
    finder = Finder(VIDEO, [place.root, file.parent])
    found = []
    for (line, (start, count, labels)), path in zip(rows, finder.all([line.path for line in lines]), strict=True):
        first = 0 if layout.whole and count == -1 else start - (line.path in from_one)
        label = {"label": " ".join(labels)} if labels and not tagged else {}
        tags = tuple(dict.fromkeys(labels)) if tagged else ()
        entry = Entry(path, place.part, label, first, None if count == -1 else count, tags)
        found.append(Row(file, f"line {line.at}", line.path, entry))
    hint = f"; read as `{layout.form}`, data.format names another" if place.auto and name != "list" else ""
    return listed(VIDEO, file, found, finder.folders, hint or separator_hint(lines[0]))


def _guess(file: Path, lines: Sequence[Line]) -> str:
    """The only layout that all lines can have; ``DataError`` where there are several, or none."""
    if all(len(line.fields) <= 1 for line in lines) or not all(NUMBER.fullmatch(f) for n in lines for f in n.fields):
        return "list"
    longest = max(lines, key=lambda line: len(line.fields))
    where = f"{file}, line {longest.at}: `{longest}`"
    fits = [name for name in LAYOUTS if name != "list" and _fits(name, lines)]
    if not fits:
        forms = ", ".join(f"`{layout.form}`" for layout in LAYOUTS.values())
        other = next((line for line in lines if len(line.fields) != len(longest.fields)), None)
        differs = f", unlike line {other.at}: `{other}`" if other else ""
        expected = f"expected one of {forms} on all lines (data.format names it)"
        raise DataError(f"{where}{differs}: no format has that; {expected}")
    if len(fits) > 1:
        fits += [] if any(line.is_file for line in lines) else ["list"]
        ways = ", ".join(f"data.format={name} ({LAYOUTS[name].meaning})" for name in fits)
        raise DataError(f"{where} can be read in {len(fits)} ways; say which: {ways}")
    if fits[0] == "multilabel" or len({len(line.fields) for line in lines}) > 1:
        several = f"read as `{LAYOUTS[fits[0]].form}`, several labels a video (see line {longest.at})"
        warnings.warn(f"{file}: {several}; data.format={fits[0]} says that this is meant", stacklevel=2)
    return fits[0]


def _fits(name: str, lines: Sequence[Line]) -> bool:
    """Whether all lines can be in this layout, by the numbers in them alone."""
    layout = LAYOUTS[name]
    rows = [parts for line in lines if (parts := layout.parts(line))]
    if len(rows) < len(lines):
        return False
    for _, count, labels in rows:
        if len(set(labels)) < len(labels) or not all(map(str.isdigit, labels)):
            return False  # a label stands once and is not negative
        if layout.count and count in (0, 1):
            return False  # a clip has at least two frames
    if name == "multilabel":
        return all(line.is_file for line in lines)
    lengths = {len(labels) for _, _, labels in rows}
    if name == "videomae":
        # three numbers behind a folder are what rawframes_offset is for, but for the -1
        either = lengths == {1} and not any(line.is_file or line.fields[1] == "-1" for line in lines)
        return len(lengths) == 1 and not either
    return min(lengths) > 0 and not (name == "rawframes_offset" and any(line.is_file for line in lines))


FORMATS = (
    # any other file that is named is a list, in the layout that fits
    by_split(Format("list", partial(_read, name="list"), lambda place: place.notes != place.root), VIDEO),
    *(by_split(Format(name, partial(_read, name=name)), VIDEO) for name in LAYOUTS if name != "list"),
)
