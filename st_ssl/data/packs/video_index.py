"""An index of videos: what opening a file finds out, kept on disk, so that no run has to find it out again."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from st_ssl.core.errors import SampleError, sample_fault
from st_ssl.core.types import Entry
from st_ssl.data.packs import file_index as records
from st_ssl.data.packs.file_index import read_records, take_down
from st_ssl.data.streams.video import MAX_PIXELS, READERS, VideoReader, open_video
from st_ssl.data.streams.video.base import check_whole
from st_ssl.data.streams.video.frame_table import FORMAT, FrameTable
from st_ssl.data.streams.video.image_series import split_series

_PIECE = 1 << 16
INDEX_FILE = "st_ssl_index.jsonl"


Record = records.Record[FrameTable]


def read_index(file: Path) -> dict[str, Record]:
    """The records of an index of videos: see ``read_records``. Those that an older version made are left out, with a
    warning that counts them: it found the frames of some files in another way."""
    records = read_records(file, FrameTable.from_json)
    known = {path: record for path, record in records.items() if record.table is None or record.table.format == FORMAT}
    if old := len(records) - len(known):
        told = f"{file}: {old} of its {len(records)} videos were indexed by another version, and are looked at anew"
        warnings.warn(f"{told}; `st-ssl prepare index {file.parent}` does that once for all", stacklevel=2)
    return known


def probe(reader: str, path: str, max_pixels: int = MAX_PIXELS, whole: bool = False) -> Record:
    """Open one video and take down what it is; one that cannot be used gets its reason."""
    record = Record(*records.state_of([split_series(path)[0]]), None)
    try:
        with sample_fault(path), open_video(path, reader, max_pixels=max_pixels) as video:
            record = replace(record, table=getattr(video, "table", None))
            if whole and os.path.isfile(path):
                check_whole(path)
            for _ in video.read(range(video.meta.num_frames)) if whole else ():
                continue
    except SampleError as error:
        return replace(record, error=error.reason)
    return replace(record, digest=_digest(path)) if whole else record


def decode(reader: str, path: str, max_pixels: int = MAX_PIXELS) -> Record:
    """``probe``, and decode every frame of it, if it is whole."""
    return probe(reader, path, max_pixels, whole=True)


def _digest(path: str) -> str:
    """The same for files of the same bytes, by size, beginning and end; of a folder of images by three of them."""
    file, _ = split_series(path)
    names = [file]
    if os.path.isdir(file):
        inside = sorted(os.listdir(file))
        names = [os.path.join(file, inside[at]) for at in sorted({0, len(inside) // 2, len(inside) - 1})]
    digest = hashlib.blake2b(digest_size=12)
    for name in filter(os.path.isfile, names):
        with open(name, "rb") as content:
            digest.update(content.read(_PIECE))
            size = content.seek(0, os.SEEK_END)
            content.seek(max(0, size - _PIECE))
            digest.update(content.read(_PIECE) + size.to_bytes(8, "little"))
    return f"{path.rpartition('#')[2] if file != path else ''}{digest.hexdigest()}"


def survey(
    entries: Sequence[Entry],
    file: Path,
    look: Callable[..., Record] = probe,
    reader: str = "auto",
    num_workers: int = 0,
    progress: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> dict[str, Record]:
    """``look`` at every video once and write the index ``file``: ``probe`` it or ``decode`` it whole.

    Taken up where it was stopped: videos that are in the file and have not changed are not looked at again, if they
    were looked at in the same way. Lines are written as they come, and put in the order of ``entries`` at the end;
    those of other videos are kept. A video that ends the process that looks at it is broken.
    """
    if reader not in ("auto", *READERS):
        open_video("", reader)  # raises, and names the nearest
    paths = list(dict.fromkeys(os.path.abspath(entry.path) for entry in entries))
    made_by = f"{look.__name__} {reader} {FORMAT}" + (f" {max_pixels}" if max_pixels != MAX_PIXELS else "")
    how = (partial(look, reader, max_pixels=max_pixels), Record.fits, FrameTable.from_json, "the decoder crashed on it")
    return take_down(paths, file, made_by, *how, num_workers, progress)


class Library:
    """Opens videos: those of an index without going through their packets first, all others as they are."""

    def __init__(
        self, reader: str = "auto", records: dict[str, Record] | None = None, max_pixels: int = MAX_PIXELS
    ) -> None:
        self.reader, self.max_pixels = reader, max_pixels
        self.records = records or {}

    def open(self, path: str) -> VideoReader:
        """Open one video; raises what ``open_video`` does."""
        record = self.records.get(os.path.abspath(path)) if self.records else None
        table = record.table if record is not None and record.fits(path) else None
        return open_video(path, self.reader, table, self.max_pixels)
