"""What the sources of all modalities share: places, formats, text files, rows that repeat."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from st_ssl.core.class_order import in_order
from st_ssl.core.errors import ConfigError, DataError, nearest
from st_ssl.core.plain_json import load_json
from st_ssl.core.types import Entry

_ITEM = re.compile(r"#\d{1,18}\Z")
BESIDE = ("annotations", "annotation", "labels", "splits", "ucftraintestlist", "testtrainmulti_7030_splits", "lists")
"""What folders are called that hold lists and labels beside the samples."""
_A_FOLDER = (
    "cannot be read: it is a folder; expected a file, lists in it that are named after splits (train.csv, val.csv, "
    "test.csv), or the annotations of a known data set"
)


class Kind(NamedTuple):
    """What a source has: "video", say, whether a file of a name is one and surely no list, and whether a folder that
    is there is one."""

    name: str
    is_file: Callable[[str], bool]
    is_folder: Callable[[str], bool]


@dataclass(frozen=True)
class Place:
    """Where a source is: ``root`` has the samples, ``notes`` (a file or a folder; ``root`` itself where nothing else is
    named) what is known of them. ``split`` is the official split asked for; ``auto``: nobody named the format;
    ``series`` the series of images asked for in folders of several. ``part``: the split of samples of which nothing
    else says it. ``told`` collects lines for the user: what was decided, and what was left out and how many of them;
    ``lengths`` has the numbers of images of those samples, by path, where they were counted."""

    root: Path
    notes: Path
    split: int | None = None
    auto: bool = False
    series: str | None = None
    part: str = "train"
    told: list[str] = field(default_factory=list, compare=False)
    lengths: dict[str, int] = field(default_factory=dict, compare=False)

    @property
    def number(self) -> int:
        """The official split, the first one where none is asked for."""
        return self.split or 1

    def tell(self, line: str) -> None:
        """Add a ``line`` for the user to ``told``, once."""
        if line not in self.told:
            self.told.append(line)

    @cached_property
    def _folders(self) -> list[list[Path]]:
        """Files of ``notes``, then of the folders in it whose names are those of annotations."""
        if not self.notes.is_dir():
            return [[self.notes]]
        inside = in_folder(self.notes)
        beside = [in_folder(item) for item in inside if item.name.lower() in BESIDE and item.is_dir()]
        return [[Path(item.path) for item in items if item.is_file()] for items in (inside, *beside)]

    def find(self, matches: Callable[[str], object]) -> list[Path]:
        """The files whose names match, all from the first folder that has any."""
        found = ([path for path in files if matches(path.name)] for files in self._folders)
        return next((paths for paths in found if paths), [])


@dataclass(frozen=True)
class Format:
    """One way to tell which samples there are: ``read`` gives the entries of a place, ``matches`` says whether it looks
    like this format (by names of files and the first line of one); ``numbered`` where it has official splits;
    ``lists`` where it reads one file that lists the samples, or several, one for each split (``split_files.py``)."""

    name: str
    read: Callable[[Place], list[Entry]]
    matches: Callable[[Place], object] = lambda place: False
    numbered: bool = False
    lists: bool = False


class Listing(list[Entry]):
    """The entries of a source, in a fixed order. ``format`` is the name of the format they were read as; ``told`` has a
    line for each decision and for each kind of file, folder or row that was left out, with its count. ``lengths`` are
    the numbers of frames of samples that are images, by path."""

    def __init__(self, entries: Iterable[Entry], format: str = "", told: Iterable[str] = ()) -> None:
        super().__init__(entries)
        self.format, self.told = format, list(told)
        self.lengths: dict[str, int] = {}

    def summary(self) -> dict[str, Any]:
        """What there is, as plain data and without a look at any file: ``format``, ``samples``, ``splits`` with their
        counts, ``classes`` (target to class to split to count, classes in order), ``frames`` ([fewest, median, most]
        of the samples of which it is known, ``of_known_length``: series of images and rows with a number of frames),
        how many are ``unlabelled`` where others are not, and ``told``."""
        classes: dict[str, dict[str, Counter[str]]] = {}
        for entry in self:
            for target, name in (*entry.labels.items(), *(("tags", tag) for tag in entry.tags)):
                classes.setdefault(target, {}).setdefault(name, Counter())[entry.split] += 1
        known = (self.lengths.get(entry.path) if entry.num_frames is None else entry.num_frames for entry in self)
        lengths = sorted(length for length in known if length is not None)
        return {
            "format": self.format,
            "samples": len(self),
            "splits": dict(Counter(entry.split for entry in self)),
            "classes": {target: {name: dict(own[name]) for name in in_order(own)} for target, own in classes.items()},
            "frames": [lengths[0], lengths[len(lengths) // 2], lengths[-1]] if lengths else [],
            "of_known_length": len(lengths),
            "unlabelled": sum(not entry.labels and not entry.tags for entry in self) if classes else 0,
            "told": list(self.told),
        }


class NothingFoundError(DataError):
    """A list of which no file exists."""


class Row(NamedTuple):
    """One row of an annotation file: where it stands (``at``: "line 3"), the sample (a ``video``, a cloud) as it is
    written there, and what became of it. The path of the entry is empty where there is no such file."""

    file: Path
    at: str
    video: str
    entry: Entry


def sibling(path: Path) -> str:
    """The end of a message on a ``path`` that does not exist: where it leads to, or the nearest name in the folder
    where it should be."""
    if path.is_symlink():
        return f": it is a link to {os.readlink(path)}, which is not there"
    parent = path.absolute().parent
    return nearest(path.name, sorted(os.listdir(parent))) if parent.is_dir() else f", nor does the folder {parent}"


def in_folder(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    """What is in a ``folder`` and not hidden, in byte order of the names; ``DataError`` where it cannot be listed."""
    try:
        items = [item for item in os.scandir(folder) if not item.name.startswith(".")]
    except OSError as error:
        raise DataError(f"the folder {os.fspath(folder)} cannot be listed: {error.strerror}") from error
    return sorted(items, key=lambda item: os.fsencode(item.name))


def read_lines(path: Path, kind: Kind) -> list[str]:
    """The lines of a text file in UTF-8 (a byte order mark is dropped); ``DataError`` where it is none."""
    if kind.is_file(path.name):
        raise DataError(f"{path} is a {kind.name}: expected a folder of {kind.name}s, or a text file that lists them")
    try:
        # not splitlines(): it also breaks lines at characters that may be part of a file name
        return path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        wrong = f"is not text in UTF-8 (byte {error.start}): expected one {kind.name} on each line"
        raise DataError(f"{path} {wrong}") from error
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist{sibling(path)}") from error
    except OSError as error:
        wrong = _A_FOLDER if path.is_dir() else f"cannot be read: {error.strerror}"
        raise DataError(f"the list {path} {wrong}") from error


def filled_lines(path: Path, kind: Kind) -> list[tuple[int, str]]:
    """Number and text of the lines of a list that are not blank, without the blanks at both ends."""
    return [(at, line.strip()) for at, line in enumerate(read_lines(path, kind), 1) if line.strip()]


def read_json(path: Path, kind: Kind, form: type, expected: str) -> Any:
    """What a JSON file says, of the type ``form``; ``DataError`` with the line, or with what was ``expected``."""
    text = "\n".join(read_lines(path, kind))
    try:
        data = load_json(text)
    except ValueError as error:
        where = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise DataError(f"{path}{where}: not JSON: {error}") from error
    if not isinstance(data, form):
        raise DataError(f"{path}: expected {expected}, found {type(data).__name__}")
    return data


def exists(path: str) -> bool:
    """Whether there is such a file or folder, or one of which it is an item (``a.h5#3``, ``folder#img_*``)."""
    if "\0" in path:
        return False
    folder, _, series = path.rpartition("#")
    return os.path.exists(path) or os.path.isfile(_ITEM.sub("", path)) or ("*" in series and os.path.isdir(folder))


def unique(rows: Iterable[Row], strict: bool = True) -> list[Entry]:
    """The entries, each once: rows that say the same twice are counted in a warning; those that contradict each other
    are a ``DataError``, or count as the first one where not ``strict``."""
    kept: dict[tuple[str, int, int | None], Row] = {}
    repeated: list[Row] = []
    for row in rows:
        first = kept.setdefault((row.entry.path, row.entry.start, row.entry.num_frames), row)
        if first is row:
            continue
        repeated.append(row)
        if strict and first.entry != row.entry:
            where = f"on {first.at}" if first.file == row.file else f"in {first.file}, {first.at}"
            splits = [first.entry.split, row.entry.split]
            said = "labels" if splits[0] == splits[1] else f"splits ({', '.join(splits)})"
            raise DataError(f"{row.file}, {row.at}: {row.video} is there twice, first {where}, with other {said}")
    if repeated:
        first, many = repeated[0], f"{len(repeated)} rows repeat another one and are left out"
        warnings.warn(f"{first.file}: {many}; the first: {first.at}, {first.video}", stacklevel=2)
    return [row.entry for row in kept.values()]


def listed(kind: Kind, file: Path, rows: Sequence[Row], folders: Sequence[str], hint: str = "") -> list[Entry]:
    """The entries of a list whose rows name files. One missing file is one broken sample, left to the reader; where all
    are missing the folder is wrong: ``NothingFoundError``, with ``hint`` behind it."""
    if not rows:
        raise DataError(f"{file} lists no {kind.name}s: expected one row for each below the header")
    if nameless := next((row.at for row in rows if not row.video), None):
        raise DataError(f"{file}, {nameless}: the path is empty")
    entries = unique(rows)
    if not any(exists(entry.path) for entry in entries):
        where = f"{rows[0].video}, not in {' and '.join(folders)}{hint}"
        raise NothingFoundError(f"{file}: none of the {len(entries)} files listed exists; the first, {where}")
    return entries


def found(kind: Kind, notes: Path, root: Path, rows: Sequence[Row], strict: bool = True) -> list[Entry]:
    """The entries of ``rows`` once each, with a warning that counts those missing from ``root``; ``DataError`` if
    all are."""
    missing, total = [row.video for row in rows if not row.entry.path], len(rows)
    if not total:
        raise DataError(f"{notes} lists no {kind.name}s")
    if len(missing) == total:
        raise DataError(f"{notes}: none of the {total} {kind.name}s is in {root}; the first: {missing[0]}")
    if missing:
        lost = f"{len(missing)} of {total} {kind.name}s are not in {root} and are left out"
        warnings.warn(f"{notes}: {lost}; the first: {missing[0]}", stacklevel=3)
    return unique((row for row in rows if row.entry.path), strict)


def find_place(root: str | None, listing: str | None) -> tuple[Path, Path | None] | None:
    """``data.root`` and ``data.list`` as paths, ``~`` expanded; a list without a root stands for both. None where
    neither is given."""
    paths = [Path(path).expanduser() for path in (root, listing) if path]
    return (paths[0], paths[1] if len(paths) > 1 else None) if paths else None


class Formats(dict[str, Format]):
    """The formats of samples of one kind by name, in the order in which they are tried."""

    def __init__(self, kind: Kind, formats: Iterable[Format]) -> None:
        super().__init__((form.name, form) for form in formats)
        self.kind = kind

    def find(
        self, root: Path, listing: Path | None, format: str, split: int | None = None, series: str | None = None
    ) -> tuple[Format, Place]:
        """The format of one source, by its name or ("auto") the first that it looks like, and its place.
        ``ConfigError`` for a format that there is not, ``DataError`` for a place."""
        kind = self.kind.name
        if format not in ("auto", *self):
            raise ConfigError(f"no format {format!r}: one of auto, {', '.join(self)}{nearest(format, self)}")
        for what, path in (("", root), ("the list ", listing)):
            if path is not None and not path.exists():
                raise DataError(f"{what}{path} does not exist{sibling(path)}")
        if root.is_file():
            if listing is not None:
                raise DataError(f"{root} is a file, and the list {listing} another one: expected the folder of {kind}s")
            if self.kind.is_file(root.name):
                alone = f"or a text file that lists them, be it this one alone: data.root={root.parent} data.list=FILE"
                raise DataError(f"{root} is a {kind}: expected a folder of {kind}s, {alone}")
            root, listing = root.parent, root
        place = Place(root, listing or root, split, format == "auto", series)
        chosen = next((form for form in self.values() if form.matches(place)), None) if place.auto else self[format]
        if chosen is None:
            looks = f"looks like none of the formats {', '.join(self)}: name the format (data.format)"
            raise DataError(f"the list {place.notes} {_A_FOLDER if place.notes.is_dir() else looks}")
        return chosen, place

    def read(
        self, root: Path, listing: Path | None, format: str, split: int | None, series: str | None = None
    ) -> Listing:
        """The entries of one source; what its format tells, or warns of, is a warning and in the result. Raises what
        ``find`` and its format do."""
        chosen, place = self.find(root, listing, format, split, series)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            entries = chosen.read(place)
        told = [*place.told, *dict.fromkeys(str(warning.message) for warning in warned)]
        if split is not None and not chosen.numbered and not any("data.split" in line for line in told):
            told.append(f"data.split={split} is ignored: the format {chosen.name} has no numbered splits")
        for line in told:
            warnings.warn(line, stacklevel=3)
        labelled = any(entry.labels or entry.tags for entry in entries)
        if labelled and not any(entry.split in ("val", "test") for entry in entries):
            drawn = f"what is tested on is drawn from all {self.kind.name}s by name"
            told.append(f"{place.notes}: no val or test split: {drawn}")
        found = Listing(entries, chosen.name, told)
        found.lengths = place.lengths
        return found
