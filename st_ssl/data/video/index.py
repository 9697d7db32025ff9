"""An index of videos: what opening a file finds out, kept on disk, so that no run has to find it out again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from st_ssl.data.parallel import parallel_map
from st_ssl.data.video.readers import READERS, VideoReader, open_video
from st_ssl.data.video.readers.table import FrameTable
from st_ssl.errors import DataError, SampleError
from st_ssl.files import replace_text
from st_ssl.types import VideoEntry

INDEX_FILE = "st_ssl_index.jsonl"
T = TypeVar("T")


@dataclass(frozen=True)
class Record:
    """One video of an index: the size in bytes and time of change of the file it was made from, its frames (None where
    the reader needs no table: a folder of images), why it cannot be used, if so, and how that was found out."""

    size: int
    mtime_ns: int
    table: FrameTable | None
    error: str | None = None
    made_by: str = ""

    def fits(self, path: str) -> bool:
        """Whether the file is still the one that was looked at. Of a folder that cannot be told: its images may have
        changed."""
        if os.path.isdir(path):
            return False
        try:
            status = os.stat(path)
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns)


def read_index(file: Path) -> dict[str, Record]:
    """The records of an index by absolute path; relative ones are taken from the folder of the index,
    URLs stay as they are. The last line may
    be cut short (a run that was killed); ``DataError`` with file and line for anything else that is no record."""
    records: dict[str, Record] = {}
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not an index of videos: {error}") from error
    for number, line in enumerate(lines[:-1], 1):  # what follows the last line end is empty or unfinished
        try:
            row = json.loads(line)
            table = FrameTable.from_json(row["table"]) if row["table"] is not None else None
            path = row["path"] if "://" in row["path"] else os.path.abspath(file.parent / row["path"])
            how = (row["error"], str(row["made_by"]))
            records[path] = Record(int(row["size"]), int(row["mtime_ns"]), table, *how)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file}, line {number}: not a record of an index ({error!r}); make it anew") from error
    return records


def probe(reader: str, path: str) -> Record:
    """Open one video and take down what it is; one that cannot be used gets its reason."""
    try:
        status = os.stat(path)
    except OSError as error:
        return Record(0, 0, None, f"file cannot be read: {error.strerror}")
    try:
        with open_video(path, reader) as video:
            return Record(status.st_size, status.st_mtime_ns, getattr(video, "table", None))
    except SampleError as error:
        return Record(status.st_size, status.st_mtime_ns, None, error.reason)


def decode(reader: str, path: str) -> Record:
    """``probe``, and then decode every frame of it."""
    record = probe(reader, path)
    if record.error is not None:
        return record
    try:
        with open_video(path, reader, record.table) as video:
            for _ in video.frames(range(video.meta.num_frames)):
                continue
    except SampleError as error:
        return Record(record.size, record.mtime_ns, record.table, error.reason)
    return record


def survey(
    entries: Sequence[VideoEntry],
    file: Path,
    look: Callable[[str, str], Record] = probe,
    reader: str = "auto",
    num_workers: int = 1,
    progress: bool = True,
) -> dict[str, Record]:
    """``look`` at every video once and write the index ``file``: ``probe`` it or ``decode`` it whole.

    Taken up where it was stopped: videos that are in the file and have not changed are not looked at again, if they
    were looked at in the same way. Lines are written as they come, and put in the order of ``entries`` at the end;
    those of other videos are kept. A video that ends the process that looks at it is broken.
    """
    if reader not in ("auto", *READERS):
        open_video("", reader)  # raises, and names the nearest
    paths = list(dict.fromkeys(os.path.abspath(entry.path) for entry in entries))
    job = Job(partial(_look, look, reader), lambda path: path, _crashed, lambda path, record: record.fits(path))
    return take_down(paths, file, f"{look.__name__} {reader}", job, num_workers, progress)


@dataclass(frozen=True)
class Job(Generic[T]):
    """How to look at videos: ``work`` gives path and record for what ``item`` makes of a path, in any process;
    ``crashed`` where that ends its process. ``fits``: whether a record is still true."""

    work: Callable[[T], tuple[str, Record]]
    item: Callable[[str], T]
    crashed: Callable[[T], tuple[str, Record]]
    fits: Callable[[str, Record], bool]


def take_down(
    paths: Sequence[str], file: Path, made_by: str, job: Job[T], num_workers: int, progress: bool
) -> dict[str, Record]:
    """The record of each of ``paths``: those in ``file`` that were ``made_by`` the same and still fit, and new ones,
    which are added to it one by one."""
    known = read_index(file) if file.exists() else {}
    fitting = (path for path in paths if path in known and known[path].made_by == made_by)
    records = {path: known[path] for path in fitting if job.fits(path, known[path])}
    missing = [path for path in paths if path not in records]
    asked = set(paths)
    others = {path: record for path, record in known.items() if path not in asked}
    _write(file, others | records)
    with file.open("a", encoding="utf-8") as out:
        items = map(job.item, missing)
        args = (items, num_workers, file.name, len(records), progress, job.crashed, len(missing))
        for path, record in parallel_map(job.work, *args):
            records[path] = record = replace(record, made_by=made_by)
            out.write(_line(file, path, record))
            out.flush()
    records = {path: records[path] for path in paths}
    _write(file, others | records)
    return records


def _crashed(path: str) -> tuple[str, Record]:
    return path, Record(0, 0, None, "the decoder crashed on it")


def _look(look: Callable[[str, str], Record], reader: str, path: str) -> tuple[str, Record]:
    return path, look(reader, path)


def _line(file: Path, path: str, record: Record) -> str:
    row: dict[str, Any] = {
        "path": path if "://" in path else os.path.relpath(path, file.absolute().parent),
        "size": record.size,
        "mtime_ns": record.mtime_ns,
        "error": record.error,
        "made_by": record.made_by,
        "table": None if record.table is None else record.table.to_json(),
    }
    return json.dumps(row) + "\n"


def _write(file: Path, records: dict[str, Record]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_text(file, "".join(_line(file, path, record) for path, record in records.items()))
    except OSError as error:
        raise DataError(f"{file} cannot be written ({error.strerror}): name another file with --output") from error


class Library:
    """Opens videos: those of an index without going through their packets first, all others as they are."""

    def __init__(self, reader: str = "auto", records: dict[str, Record] | None = None) -> None:
        self.reader = reader
        self.records = records or {}

    def open(self, path: str) -> VideoReader:
        """Open one video; raises what ``open_video`` does."""
        record = self.records.get(os.path.abspath(path)) if self.records else None
        table = record.table if record is not None and record.fits(path) else None
        return open_video(path, self.reader, table)
