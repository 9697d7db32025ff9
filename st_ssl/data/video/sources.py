"""Sources: from what people have (a folder of videos, a list file, a table of factors) to a list of entries."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

from st_ssl.data.video.readers import IMAGE_EXTENSIONS
from st_ssl.errors import DataError, nearest
from st_ssl.types import VideoEntry

_NAMES = "mp4 mkv avi mov webm m4v mpg mpeg ts flv wmv 3gp ogv gif"
VIDEO_EXTENSIONS = tuple(f".{name}" for name in _NAMES.split())
SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
FACTORS_FILE = "factors.csv"
_BOX = ("x0", "y0", "x1", "y1")  # where the object is in the first frame: known, and not a label


def read_source(root: Path, listing: Path | None = None) -> list[VideoEntry]:
    """The videos of one source, in a fixed order; ``entry.path`` is what ``open_video`` takes.

    - ``root`` a folder: all videos in it, at any depth, in byte order of their paths; a folder that holds only images
      is one video. Top folders train / val / validation / test are splits, the folders below them (or at the top,
      where there are no splits) give ``{"label": name}``. With a ``factors.csv`` in it, that table is the source:
      ``path``, perhaps ``split``, and one column for each target.
    - ``listing`` (or ``root`` a file): one ``path label`` on each line, the label being the last field, or one path;
      blank lines and those starting with ``#`` are skipped. Relative paths are taken from ``root``, then from the
      folder of the list.

    Where nothing tells the split it is "train". Single files that are missing are left to the reader; ``DataError``
    where the source as a whole cannot be used, with file, line and what was expected.
    """
    if not root.exists():
        raise DataError(f"{root} does not exist{_sibling(root)}")
    if listing is None and root.is_file():
        root, listing = root.parent, root
    if listing is not None:
        return _read_list(root, listing)
    if (root / FACTORS_FILE).is_file():
        return _read_factors(root)
    return _read_folder(root)


def target_names(entries: Iterable[VideoEntry]) -> list[str]:
    """The names of the targets that any of ``entries`` has a label for, in order of appearance: ``["label"]``, say."""
    return list(dict.fromkeys(name for entry in entries for name in entry.labels))


def _sibling(path: Path) -> str:
    parent = path.absolute().parent
    return nearest(path.name, sorted(os.listdir(parent))) if parent.is_dir() else f", nor does the folder {parent}"


def _read_folder(root: Path) -> list[VideoEntry]:
    seen: Counter[str] = Counter()
    found = sorted(_walk(root, seen), key=lambda path: os.fsencode(path.as_posix()))
    if found:
        return [_entry(root, path) for path in found]
    if not seen:
        raise DataError(f"{root} is empty: expected videos ({_NAMES}), or folders of images")
    instead = ", ".join(f"{count} {suffix or 'without extension'}" for suffix, count in seen.most_common(5))
    raise DataError(f"{root} holds no videos: looked for {_NAMES}, or folders of images only; found {instead}")


def _walk(root: Path, seen: Counter[str]) -> Iterator[PurePath]:
    """Paths of the videos below ``root``, relative to it; ``seen`` counts all files by extension."""
    been = set()
    for folder, folders, files in os.walk(root, followlinks=True):  # data sets are often linked into place
        real = os.path.realpath(folder)
        folders[:] = [name for name in folders if not name.startswith(".") and real not in been]
        files = [name for name in files if not name.startswith(".") and real not in been]
        been.add(real)
        suffixes = [os.path.splitext(name)[1].lower() for name in files]
        seen.update(suffixes)
        here = PurePath(os.path.relpath(folder, root))
        if files and not folders and all(suffix in IMAGE_EXTENSIONS for suffix in suffixes):
            yield here
        yield from (here / name for name, end in zip(files, suffixes, strict=True) if end in VIDEO_EXTENSIONS)


def _entry(root: Path, path: PurePath) -> VideoEntry:
    split, folders = "train", path.parts[:-1]
    if folders and folders[0].lower() in SPLITS:
        split, folders = SPLITS[folders[0].lower()], folders[1:]
    return VideoEntry(str(root / path), split, {"label": folders[0]} if folders else {})


def _lines(path: Path) -> list[str]:
    if path.suffix.lower() in VIDEO_EXTENSIONS:
        raise DataError(f"{path} is a video: expected a folder of videos, or a text file that lists them")
    try:
        # not splitlines(): it also breaks lines at characters that may be part of a file name
        return path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8 (byte {error.start}): expected one video on each line") from error
    except FileNotFoundError as error:
        raise DataError(f"the list {path} does not exist{_sibling(path)}") from error
    except OSError as error:
        raise DataError(f"the list {path} cannot be read: {error.strerror}") from error


def _read_list(root: Path, listing: Path) -> list[VideoEntry]:
    rows = [(at, *_split_line(line)) for at, line in enumerate(_lines(listing), 1) if _counts(line)]
    if not rows:
        raise DataError(f"{listing} lists no videos: expected one `path label`, or one path, on each line")
    labelled = rows[0][2] is not None
    for at, path, label in rows:
        if (label is not None) != labelled:
            has, first = ("a label", "none") if label is not None else ("no label", "one")
            raise DataError(f"{listing}, line {at}: {path} has {has}, while line {rows[0][0]} has {first}")
    folders = list(dict.fromkeys((root, listing.parent)))
    entries = [
        VideoEntry(_resolve(path, folders), labels={} if label is None else {"label": label}) for _, path, label in rows
    ]
    return _some_exist(entries, listing, rows[0][1], folders)


def _counts(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _split_line(line: str) -> tuple[str, str | None]:
    """(path, label): the label is the last field, unless that ends like a video and so ends the path."""
    fields = line.strip().rsplit(maxsplit=1)
    if len(fields) == 1 or fields[1].lower().endswith(VIDEO_EXTENSIONS):
        return line.strip(), None
    return fields[0], fields[1]


def _resolve(path: str, folders: list[Path]) -> str:
    candidates = [str(folder / path) for folder in folders]  # an absolute path stays as it is
    return next((candidate for candidate in candidates if os.path.exists(candidate)), candidates[0])


def _some_exist(entries: list[VideoEntry], table: Path, first: str, folders: list[Path]) -> list[VideoEntry]:
    """One missing file is one broken sample; if all are missing, the folder is wrong."""
    if not any(os.path.exists(entry.path) for entry in entries):
        tried = " and ".join(str(folder) for folder in folders)
        raise DataError(f"{table}: none of the {len(entries)} files listed exists; the first, {first}, not in {tried}")
    return entries


def _read_factors(root: Path) -> list[VideoEntry]:
    table = root / FACTORS_FILE
    rows = csv.reader(_lines(table), strict=True)
    entries: list[VideoEntry] = []
    lines: dict[str, int] = {}
    first = ""
    try:
        header = [name.strip() for name in next(rows)]
        _check_header(table, header)
        for row in rows:
            if not row:
                continue
            where = f"{table}, line {rows.line_num}"
            if len(row) != len(header):
                raise DataError(f"{where}: {len(row)} fields, expected {len(header)} ({', '.join(header)})")
            values = dict(zip(header, (value.strip() for value in row), strict=True))
            path = values.pop("path")
            if not path:
                raise DataError(f"{where}: the path is empty")
            if path in lines:
                raise DataError(f"{where}: {path} is there twice, first on line {lines[path]}")
            lines[path] = rows.line_num
            first = first or path
            split = _split(where, values.pop("split", ""))
            labels = {name: value for name, value in values.items() if name not in _BOX and value}
            entries.append(VideoEntry(str(root / path), split, labels))
    except csv.Error as error:
        raise DataError(f"{table}, line {rows.line_num}: not a table of comma-separated values: {error}") from error
    if not entries:
        raise DataError(f"{table} lists no videos: expected one row for each below the header")
    return _some_exist(entries, table, first, [root])


def _check_header(table: Path, header: list[str]) -> None:
    if "path" not in header:
        found = f"{', '.join(header)}{nearest('path', header)}"
        raise DataError(f"{table}, line 1: no column `path`; the columns are {found}")
    twice = [name for name, count in Counter(header).items() if count > 1 or not name]
    if twice:
        raise DataError(f"{table}, line 1: the column {twice[0]!r} is there twice, or has no name")


def _split(where: str, name: str) -> str:
    """The split by its usual name; an empty cell is "train"."""
    known = SPLITS.get(name.lower() or "train")
    if known is None:
        raise DataError(f"{where}: split {name!r}, expected one of {', '.join(SPLITS)}{nearest(name.lower(), SPLITS)}")
    return known
