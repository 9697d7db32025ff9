"""Lines of a list: one sample on each, its path first and what is known of it behind, with white space between."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from st_ssl.core.errors import DataError
from st_ssl.data.sources.base import Kind, read_lines
from st_ssl.data.sources.splits import SPLITS

NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")
ANY = 1 << 30
_FEW = 20


class Line(NamedTuple):
    """One line: the path, the fields behind it, and whether the path ends like a file."""

    at: int
    path: str
    fields: tuple[str, ...]
    is_file: bool

    def __str__(self) -> str:
        return " ".join((self.path, *self.fields))


def read_list(file: Path, kind: Kind, is_file: Callable[[str], bool], most: int = ANY) -> list[Line]:
    """The lines of a list as ``split_lines`` has them; ``DataError`` where there are none."""
    lines = split_lines(read_lines(file, kind), is_file, most)
    if not lines:
        raise DataError(f"{file} lists no {kind.name}s: expected one `path label`, or one path, on each line")
    return lines


def split_lines(lines: Sequence[str], is_file: Callable[[str], bool], most: int = ANY) -> list[Line]:
    """Path and fields of each line; blank lines and those starting with ``#`` are left out.

    A path ends behind the last field that ends like a file (``is_file``); a folder has none, and ends before the
    numbers at the end of the line (or before its last field, where that is a word), but before the last ``most`` fields
    at least.
    """
    found = []
    for at, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        ends = [i for i, word in enumerate(words) if is_file(word)]
        if ends:
            count = len(words) - 1 - ends[-1]
        else:
            numbers = next((i for i, word in enumerate(reversed(words)) if not NUMBER.fullmatch(word)), len(words))
            count = min(max(numbers, 1), len(words) - 1, most)
        path, *fields = line.strip().rsplit(maxsplit=count)
        found.append(Line(at, path, tuple(fields), bool(ends)))
    return found


def check_labels(file: object, lines: Sequence[Line], head: int = 0) -> None:
    """``DataError`` where some of ``lines`` have labels behind ``head`` other fields, and others none, or where all end
    with the name of a split, which would be taken for a label."""
    labelled = len(lines[0].fields) > head
    for line in lines:
        if (len(line.fields) > head) != labelled:
            has, first = ("no label", "one") if labelled else ("a label", "none")
            raise DataError(f"{file}, line {line.at}: {line.path} has {has}, while line {lines[0].at} has {first}")
    last = {line.fields[-1].lower() if len(line.fields) > head else "" for line in lines}
    if last <= SPLITS.keys() and (len(last) > 1 or all(len(line.fields) > head + 1 for line in lines)):
        header = "a list has no splits; with a header `path,label,split` and commas between the fields it is a table"
        raise DataError(f"{file}, line {lines[0].at}: `{lines[0]}` ends with a split: {header}")


def separator_hint(line: Line) -> str:
    """What may be wrong with a list of which no file exists: other separators than white space."""
    found = next((mark for mark in (",", ";", "|") if mark in line.path), None)
    if line.fields or found is None or not any(mark in line.path.split(found)[0] for mark in "./\\"):
        return ""  # what does not begin with a path may be a header
    return f". White space separates the fields of a list; for {found!r} write a header above it: `path{found}label`"


def peek_lines(file: Path) -> list[str]:
    """The first lines of ``file`` that are not blank; [] where it cannot be read."""
    try:
        with file.open(encoding="utf-8-sig", errors="replace") as text:
            lines = text.read(1 << 16).split("\n")
    except OSError:
        return []
    return [line for line in lines[: _FEW + 1] if line.strip()]
