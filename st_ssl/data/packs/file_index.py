"""What was found out of each file of a data set, a line for each: added to as it comes, and taken up again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from st_ssl.core.errors import DataError, OutputError
from st_ssl.core.files import replace_text
from st_ssl.core.plain_json import NOT_PLAIN, load_json
from st_ssl.data.loading.parallel_map import parallel_map


class Table(Protocol):
    """What is known of a usable sample, as plain data."""

    def to_json(self) -> dict[str, Any]: ...


_LONGEST = 300  # characters of an error that are told

Found = TypeVar("Found", bound=Table)


@dataclass(frozen=True)
class Record(Generic[Found]):
    """One sample: the size in bytes and time of change of the file it was made from, its table (a video's frames, say;
    None where there is none), why it cannot be used, if so, and how that was found out; ``digest``: the same for
    samples of the same content."""

    size: int
    mtime_ns: int
    table: Found | None
    error: str | None = None
    made_by: str = ""
    digest: str = ""

    def fits(self, path: str) -> bool:
        """Whether the file is still the one that was looked at. Of a folder that cannot be told: its images may have
        changed."""
        return os.path.isfile(path) and state_of([path]) == (self.size, self.mtime_ns)


def state_of(files: Sequence[str]) -> tuple[int, int]:
    """Size in bytes and time of change of files together; (0, 0) where one cannot be read."""
    try:
        states = [os.stat(name) for name in files]
    except (OSError, ValueError):  # ValueError: a NUL in its path
        return 0, 0
    return sum(state.st_size for state in states), max((state.st_mtime_ns for state in states), default=0)


def read_records(file: Path, parse: Callable[[dict[str, Any]], Found]) -> dict[str, Record[Found]]:
    """The records in ``file`` by absolute path, their tables by ``parse``; relative paths are taken from its folder,
    URLs stay as they are. The last line may be cut short (a run that was killed); ``DataError`` with file and line for
    anything else that is no record."""
    records: dict[str, Record[Found]] = {}
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not an index: {error}") from error
    for number, line in enumerate(lines[:-1], 1):  # what follows the last line end is empty or unfinished
        try:
            row = load_json(line)
            table = parse(row["table"]) if row["table"] is not None else None
            path = row["path"] if "://" in row["path"] else os.path.abspath(file.parent / row["path"])
            if not isinstance(row["error"], str | None):
                raise ValueError("error: expected text or null")
            how = (row["error"], str(row["made_by"]), str(row.get("digest", "")))
            records[path] = Record(int(row["size"]), int(row["mtime_ns"]), table, *how)
        except NOT_PLAIN as error:
            told = f"{file}, line {number}: not a record of these data ({repr(error)[:_LONGEST]})"
            raise DataError(f"{told}; remove the file, or name another with --output") from error
    return records


def take_down(
    paths: Sequence[str],
    file: Path,
    made_by: str,
    look: Callable[[str], Record[Found]],
    fits: Callable[[Record[Found], str], bool],
    parse: Callable[[dict[str, Any]], Found],
    crashed: str,
    num_workers: int,
    progress: bool,
) -> dict[str, Record[Found]]:
    """The record of each of ``paths``: those in ``file`` that were ``made_by`` the same and still ``fits`` the path,
    and new ones by ``look``, which are added to it one by one; ``crashed`` is what is wrong with a path that ends the
    process that looks at it. ``parse`` makes a table from plain data."""
    known = read_records(file, parse) if file.is_file() else {}
    asked = set(paths)
    others = {path: record for path, record in known.items() if path not in asked}
    fitting = (path for path in paths if path in known and known[path].made_by == made_by)
    records = {path: known[path] for path in fitting if fits(known[path], path)}
    missing = [path for path in paths if path not in records]
    _write(file, others | records)
    with file.open("a", encoding="utf-8") as out:
        dead = Record[Found](0, 0, None, crashed)
        for path, record in parallel_map(look, missing, num_workers, file.name, len(records), progress, dead):
            records[path] = record = replace(record, made_by=made_by)
            out.write(_line(file, path, record))
            out.flush()
    records = {path: records[path] for path in paths}
    _write(file, others | records)
    return records


def _line(file: Path, path: str, record: Record[Any]) -> str:
    row: dict[str, Any] = {
        "path": path if "://" in path else os.path.relpath(path, file.absolute().parent),
        "size": record.size,
        "mtime_ns": record.mtime_ns,
        "error": record.error,
        "made_by": record.made_by,
        **({"digest": record.digest} if record.digest else {}),
        "table": None if record.table is None else record.table.to_json(),
    }
    return json.dumps(row) + "\n"


def _write(file: Path, records: Mapping[str, Record[Any]]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_text(file, "".join(_line(file, path, record) for path, record in records.items()), alone=True)
    except OSError as error:
        raise OutputError(f"{file} cannot be written ({error.strerror}): name another file with --output") from error
