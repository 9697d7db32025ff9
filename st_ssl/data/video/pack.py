"""Packs: videos made small and quick to cut clips from, in a few large files that also suit object storage.

A pack is a folder (or a URL that fsspec understands) with ``pack.json``, and for each shard ``shard-00000.tar``, a
plain tar of MP4 files, beside ``shard-00000.jsonl``, its list: a line for each video with its labels, which file it
was (from the folder that all of them were in), where it lies in the tar, its checksum, and the table of its frames. A
video is read as one range of bytes.
"""

from __future__ import annotations

import json
import os
import zlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, overload

from st_ssl.data.records import Job, take_down
from st_ssl.data.video.index import Record
from st_ssl.data.video.readers import VideoReader
from st_ssl.data.video.readers.pyav import PyAVReader
from st_ssl.data.video.readers.table import FrameTable
from st_ssl.errors import DataError, SampleError
from st_ssl.types import Entry

PACK_FILE = "pack.json"
PACK_FORMAT = {"format": "st_ssl pack", "version": 1}
_BLOCK = 32


def packed_name(shard: int, place: int) -> str:
    """The name in its tar of the video at ``place`` of a shard."""
    return f"{shard:05d}-{place:06d}.mp4"


@dataclass(frozen=True)
class PackedVideo:
    """Where a video of a pack lies: ``size`` bytes from ``offset`` of ``shard``, what they add up to, its frames."""

    shard: str
    offset: int
    size: int
    crc32: int
    table: FrameTable


class Rows:
    """Rows of JSON in little room: their text, compressed in blocks; a row is read anew whenever it is asked for."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._rest: list[bytes] = []
        self._seen: tuple[int, list[bytes]] = (-1, [])

    def __len__(self) -> int:
        return _BLOCK * len(self._blocks) + len(self._rest)

    def append(self, row: dict[str, Any]) -> None:
        """One more row, at the end."""
        self._rest.append(json.dumps(row, separators=(",", ":")).encode())
        if len(self._rest) == _BLOCK:
            self._blocks.append(zlib.compress(b"\n".join(self._rest)))
            self._rest = []

    def __getitem__(self, at: int) -> Any:
        block, line = divmod(at, _BLOCK)
        if block == len(self._blocks):
            return json.loads(self._rest[line])
        seen, lines = self._seen
        if seen != block:
            lines = zlib.decompress(self._blocks[block]).split(b"\n")
            self._seen = block, lines
        return json.loads(lines[line])


class PackedEntries(Sequence[Entry]):
    """The videos of a pack, each made when it is asked for: ``chosen`` has their numbers in ``rows``."""

    def __init__(self, root: str, rows: Rows, chosen: array[int]) -> None:
        self._root, self._rows, self._chosen = root, rows, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    @overload
    def __getitem__(self, index: int) -> Entry: ...

    @overload
    def __getitem__(self, index: slice) -> PackedEntries: ...

    def __getitem__(self, index: int | slice) -> Entry | PackedEntries:
        if isinstance(index, slice):
            return PackedEntries(self._root, self._rows, self._chosen[index])
        return _entry(self._root, self._rows[self._chosen[index]])


class Pack:
    """A pack to read from: ``entries`` are its videos, ``open`` opens one of them by its ``entry.path``.

    ``root`` is a folder or a URL (``s3://…``, with the fsspec package for it installed). Videos that could not be
    packed are left out, and are in ``failed`` as (path, reason). What is known of a million videos is held in less than
    200 MB. ``DataError`` where the pack is incomplete or not one.
    """

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        stamp = f"{self.root}/{PACK_FILE}"
        try:
            settings = json.loads(_read(stamp))
            if {key: settings.get(key) for key in PACK_FORMAT} != PACK_FORMAT:
                raise ValueError(f"expected {PACK_FORMAT}")
            sizes = shard_sizes(settings["videos"], settings["config"]["shard_size"])
            if settings["shards"] != len(sizes):
                raise ValueError(f"{settings['shards']} shards, expected {len(sizes)} of {settings['videos']} videos")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{stamp}: not the description of a pack: {error}") from error
        self.failed: list[tuple[str, str]] = []
        self._rows = Rows()
        self._starts: list[int] = []
        chosen = array("l")
        for number in range(len(sizes)):
            self._add_shard(number, sizes, chosen)
        self.entries = PackedEntries(self.root, self._rows, chosen)

    def _add_shard(self, number: int, sizes: Sequence[int], chosen: array[int]) -> None:
        try:
            rows = read_list(self.root, number, sizes[number])
        except OSError as error:
            why = f"shard {number} of {len(sizes)} is missing: run `prepare.py pack` again, it goes on from there"
            raise DataError(f"{self.root} is not complete: {why}") from error
        self._starts.append(len(self._rows))
        for row in rows:
            if row["error"] is not None:
                self.failed.append((row["source"], f"could not be packed: {row['error']}"))
            else:
                chosen.append(len(self._rows))
            self._rows.append(row)

    def find(self, path: str) -> PackedVideo:
        """Where one of ``entries`` lies, by its path."""
        row = self._row(path)
        table = FrameTable.from_json(row["table"])
        return PackedVideo(path.rpartition("/")[0], row["offset"], row["size"], row["crc32"], table)

    def checksum(self, path: str) -> int:
        """Of what the list says of one of ``entries``: where it lies, its bytes and its frames."""
        row = self._row(path)
        said = {key: row[key] for key in ("offset", "size", "crc32", "table")}
        return zlib.crc32(json.dumps(said, sort_keys=True).encode())

    def _row(self, path: str) -> dict[str, Any]:
        number, place = path.rpartition("/")[2].removesuffix(".mp4").split("-")
        return dict(self._rows[self._starts[int(number)] + int(place)])

    def open(self, path: str) -> VideoReader:
        """The video of one of ``entries``; ``SampleError`` where its bytes are not those that were packed."""
        return open_packed(path, self.find(path))


def _shard_path(root: str, number: int) -> str:
    return f"{root}/shard-{number:05d}"


def list_file(root: str, number: int) -> str:
    """The list of a shard."""
    return f"{_shard_path(root, number)}.jsonl"


def _entry(root: str, row: dict[str, Any]) -> Entry:
    path = f"{_shard_path(root, int(row['name'].partition('-')[0]))}.tar/{row['name']}"
    return Entry(path, row["split"], row["labels"], tags=tuple(row["tags"]), source=row["source"])


def open_packed(path: str, video: PackedVideo) -> VideoReader:
    """A video of a pack; ``SampleError`` where its bytes are not those that were packed."""
    try:
        content = _read(video.shard, video.offset, video.size)
    except (OSError, MemoryError, OverflowError) as error:  # the latter two: a list that asks for more than there is
        raise SampleError(path, f"the shard cannot be read: {error!r}") from error
    if zlib.crc32(content) != video.crc32:
        raise SampleError(path, "damaged: its bytes are not those that were packed")
    return PyAVReader(path, video.table, content)


def is_pack(root: str) -> bool:
    """Whether ``root`` is a URL (nothing else is read from one) or a folder with a ``pack.json``."""
    return "://" in root or os.path.isfile(os.path.join(root, PACK_FILE))


def _read(path: str, offset: int = 0, size: int | None = None) -> bytes:
    """``size`` bytes from ``offset`` of a file or of what a URL names, all where ``size`` is None."""
    if "://" in path:
        end = None if size is None else offset + size
        return bytes(_ask(path, lambda system, name: system.cat_file(name, start=offset, end=end)))
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(-1 if size is None else size)


def _ask(path: str, question: Callable[[Any, str], Any]) -> Any:
    """The answer of the storage that a URL names; ``OSError`` where it has none."""
    import fsspec

    try:
        return question(*fsspec.core.url_to_fs(path))
    except ImportError as error:
        raise DataError(f"{path}: {error}") from error  # it says which package reads such URLs
    except OSError:
        raise
    except Exception as error:  # each kind of storage has errors of its own
        raise OSError(f"{path}: {error!r}") from error


def shard_sizes(num_videos: int, shard_size: int) -> list[int]:
    """How many videos are in each shard; ``ValueError`` where that is none at all."""
    if not (isinstance(num_videos, int) and isinstance(shard_size, int) and num_videos > 0 and shard_size > 0):
        raise ValueError(f"{num_videos!r} videos in shards of {shard_size!r}: expected numbers above 0")
    return [min(shard_size, num_videos - first) for first in range(0, num_videos, shard_size)]


def read_list(root: str, number: int, num_videos: int) -> list[dict[str, Any]]:
    """The rows of the list of a shard, one for each of its ``num_videos``. ``OSError`` where there is none,
    ``DataError`` with file and line where it is damaged."""
    file = list_file(root, number)
    rows: list[dict[str, Any]] = []
    lines = _read(file).decode(errors="replace").splitlines()
    for line in lines:
        try:
            rows.append(_checked(json.loads(line), packed_name(number, len(rows))))
        except (KeyError, TypeError, ValueError) as error:
            where = f"{file}, line {len(rows) + 1}"
            raise DataError(f"{where}: damaged: {error!r}; remove the file and pack again") from error
    if len(rows) != num_videos:
        wrong = f"{len(rows)} lines, expected {num_videos}"
        raise DataError(f"{file}: damaged: {wrong}; remove the file and pack again")
    return rows


_TYPES: dict[str, type | UnionType] = {
    "split": str,
    "labels": dict,
    "tags": list,
    "source": str,
    "bytes": int,
    "error": str | None,
}
_PLACE_TYPES = {"offset": int, "size": int, "crc32": int, "table": dict}


def _checked(row: Any, name: str) -> dict[str, Any]:
    """``row`` itself; ``KeyError``, ``TypeError`` or ``ValueError`` where it says nothing of the video ``name``."""
    if row["name"] != name:
        raise ValueError(f"{row['name']} is not {name}")
    types = _TYPES | (_PLACE_TYPES if row["error"] is None else {})
    if wrong := [key for key, kind in types.items() if not isinstance(row[key], kind)]:
        raise TypeError(f"{wrong[0]}: {row[wrong[0]]!r}")
    if texts := [text for text in (*row["tags"], *row["labels"].values()) if not isinstance(text, str)]:
        raise TypeError(f"a label or tag is {texts[0]!r}")
    if row["error"] is None:
        if row["offset"] < 0 or row["size"] <= 0:
            raise ValueError(f"{row['size']} bytes from {row['offset']}")
        FrameTable.from_json(row["table"])
    return dict(row)


def verify_pack(root: str, file: Path, num_workers: int = 1, progress: bool = True) -> list[tuple[str, str]]:
    """Read every video of a pack, compare its bytes with what was packed and decode all its frames; returns (path,
    reason) of those that fail, and of those that could not be packed.

    What was found is kept in ``file``, an index, as it comes: taken up where it was stopped, only those are read again
    that failed, whose shard has another size or time of change, or of which the list says something else.
    """
    pack = Pack(root if "://" in root else os.path.abspath(root))
    states: dict[str, tuple[int, int]] = {}

    def known(path: str) -> Record:
        shard = path.rpartition("/")[0]
        if shard not in states:
            states[shard] = _state(shard)
        return Record(*states[shard], None, listed=pack.checksum(path))

    def fits(path: str, record: Record) -> bool:
        return replace(record, made_by="") == known(path)

    job = Job(_verify, lambda path: (path, pack.find(path), known(path)), _crashed, fits, FrameTable.from_json)
    records = take_down([entry.path for entry in pack.entries], file, "verify pack", job, num_workers, progress)
    broken = [(path, record.error) for path, record in records.items() if record.error is not None]
    return sorted([*pack.failed, *broken])


_Item = tuple[str, PackedVideo, Record]


def _verify(item: _Item) -> tuple[str, Record]:
    path, place, known = item
    try:
        with open_packed(path, place) as video:
            for _ in video.frames(range(video.meta.num_frames)):
                continue
    except SampleError as error:
        return path, replace(known, error=error.reason)
    return path, known


def _crashed(item: _Item) -> tuple[str, Record]:
    return item[0], replace(item[2], error="the decoder crashed on it")


def _state(path: str) -> tuple[int, int]:
    """Size in bytes and time of change of a file, or for a URL a number for what its storage says of versions; zeros
    where there is none."""
    try:
        if "://" not in path:
            status = os.stat(path)
            return status.st_size, status.st_mtime_ns
        about = _ask(path, lambda system, name: system.info(name))
    except OSError:
        return 0, 0
    version = [str(about.get(key)) for key in ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated")]
    return int(about.get("size") or 0), zlib.crc32("\n".join(version).encode())
