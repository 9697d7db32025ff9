"""Packs: videos made small and quick to cut clips from, in a few large files that also suit object storage.

A pack is a folder (or a URL that fsspec understands) with ``pack.json``, and for each shard ``shard-00000.tar``, a
plain tar of MP4 files, beside ``shard-00000.jsonl``, its list: a line for each video with its labels, where it came
from, where it lies in the tar, its checksum, and the table of its frames. A video is read as one range of bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from st_ssl.config import Config
from st_ssl.data.parallel import parallel_map
from st_ssl.data.video.readers import VideoReader, open_video
from st_ssl.data.video.readers.pyav import PyAVReader
from st_ssl.data.video.readers.table import FrameTable
from st_ssl.data.video.segment import segment_of
from st_ssl.data.video.writing import encode
from st_ssl.errors import DataError, SampleError
from st_ssl.types import VideoEntry

PACK_FILE = "pack.json"
_FORMAT = {"format": "st_ssl pack", "version": 1}


class PackConfig(Config):
    """How videos are packed. ``short_side`` in pixels (smaller videos keep their size); ``crf``: quality of H.264, less
    is better; ``keyframes``: frames from one key frame to the next; ``shard_size``: videos in a shard."""

    short_side: int = Field(default=256, ge=16)
    crf: int = Field(default=20, ge=0, le=51)
    keyframes: int = Field(default=32, gt=0)
    shard_size: int = Field(default=1000, gt=0)


def write_pack(
    entries: Sequence[VideoEntry],
    output: Path,
    config: PackConfig,
    part: tuple[int, int] = (0, 1),
    reader: str = "auto",
    num_workers: int = 1,
    progress: bool = True,
) -> list[tuple[str, str]]:
    """Pack ``entries`` into shards under ``output``; returns (path, reason) of those that could not be packed.

    ``part`` (i, N): only every N-th shard from the i-th on, for N machines at once. A shard that is there is not
    written again, and one that is written is the same to the byte whenever and wherever that happens (with the same
    version of the encoder). ``DataError`` where ``output`` holds another pack.
    """
    _claim(entries, output, config)
    cuts = [entries[at : at + config.shard_size] for at in range(0, len(entries), config.shard_size)]
    mine = [number for number in range(len(cuts)) if number % part[1] == part[0]]
    missing = [(number, cuts[number]) for number in mine if not _list_file(output, number).exists()]
    for _ in parallel_map(partial(_write_shard, output, config, reader), missing, num_workers, "shards", 0, progress):
        continue
    rows = [row for number in mine for row in _read_list(str(_list_file(output, number)))]
    return [(row["source"], row["error"]) for row in rows if row["error"] is not None]


def _claim(entries: Sequence[VideoEntry], output: Path, config: PackConfig) -> None:
    names = "\n".join(f"{entry.path} {entry.start} {entry.num_frames}" for entry in entries)
    digest = hashlib.blake2b(names.encode(), digest_size=16).hexdigest()
    num_shards = -(-len(entries) // config.shard_size)
    mine = {**_FORMAT, "videos": len(entries), "shards": num_shards, "sources": digest, "config": config.model_dump()}
    stamp = output / PACK_FILE
    if stamp.exists():
        found = json.loads(stamp.read_text(encoding="utf-8"))
        if found != mine:
            raise DataError(f"{output} holds another pack: {stamp.name} says {found}, asked for is {mine}")
        return
    if output.exists() and any(output.iterdir()):
        raise DataError(f"{output} is not empty and has no {stamp.name}: choose an empty or new folder")
    output.mkdir(parents=True, exist_ok=True)
    _write(stamp, (json.dumps(mine, indent=2) + "\n").encode())


def _list_file(output: Path, number: int) -> Path:
    return output / f"shard-{number:05d}.jsonl"


def _write(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.partial")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


def _write_shard(output: Path, config: PackConfig, reader: str, shard: tuple[int, Sequence[VideoEntry]]) -> None:
    """The tar first and then its list, each under its own name only when complete: a list means a finished shard."""
    number, entries = shard
    tar = output / f"shard-{number:05d}.tar"
    unfinished = tar.with_name(f".{tar.name}.{os.getpid()}.partial")
    rows = []
    try:
        with tarfile.open(unfinished, "w", format=tarfile.USTAR_FORMAT) as archive:
            for place, entry in enumerate(entries):
                name = f"{number:05d}-{place:06d}.mp4"
                rows.append(_add(archive, name, entry, config, reader))
        os.replace(unfinished, tar)
    finally:
        unfinished.unlink(missing_ok=True)
    _write(_list_file(output, number), "".join(json.dumps(row) + "\n" for row in rows).encode())


def _add(archive: tarfile.TarFile, name: str, entry: VideoEntry, config: PackConfig, reader: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name,
        "split": entry.split,
        "labels": entry.labels,
        "tags": entry.tags,
        "source": entry.path,
    }
    try:
        content = _shrink(entry, config, reader)
        table = PyAVReader(name, data=content).table
    except SampleError as error:
        return {**row, "error": error.reason}
    info = tarfile.TarInfo(name)
    info.size = len(content)
    offset = archive.offset + tarfile.BLOCKSIZE  # after the header of one block
    archive.addfile(info, io.BytesIO(content))
    place = {"offset": offset, "size": len(content), "crc32": zlib.crc32(content)}
    return {**row, "error": None, **place, "table": table.to_json()}


def _shrink(entry: VideoEntry, config: PackConfig, reader: str) -> bytes:
    with segment_of(open_video(entry.path, reader), entry) as video:
        meta = video.meta
        scale = min(1.0, config.short_side / min(meta.width, meta.height))
        size = tuple(max(2, 2 * round(side * scale / 2)) for side in (meta.width, meta.height))
        frames = (frame for _, frame in video.frames(range(meta.num_frames)))
        file = io.BytesIO()
        encode(file, frames, meta.fps, (size[0], size[1]), config.crf, config.keyframes)
    return file.getvalue()


@dataclass(frozen=True)
class PackedVideo:
    """Where a video of a pack lies: ``size`` bytes from ``offset`` of ``shard``, what they add up to, its frames."""

    shard: str
    offset: int
    size: int
    crc32: int
    table: FrameTable


class Pack:
    """A pack to read from: ``entries`` are its videos, ``open`` opens one of them by its ``entry.path``.

    ``root`` is a folder or a URL (``s3://…``, with the fsspec package for it installed). Videos that could not be
    packed are left out. ``DataError`` where the pack is incomplete or not one.
    """

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        stamp = f"{self.root}/{PACK_FILE}"
        try:
            settings = json.loads(_read(stamp))
            if {key: settings.get(key) for key in _FORMAT} != _FORMAT:
                raise ValueError(f"expected {_FORMAT}")
            num_shards = int(settings["shards"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{stamp}: not the description of a pack: {error}") from error
        self.entries: list[VideoEntry] = []
        self._videos: dict[str, PackedVideo] = {}
        for number in range(num_shards):
            self._add_shard(f"{self.root}/shard-{number:05d}", number, num_shards)

    def _add_shard(self, shard: str, number: int, num_shards: int) -> None:
        try:
            rows = _read_list(f"{shard}.jsonl")
        except OSError as error:
            why = f"shard {number} of {num_shards} is missing: run `prepare.py pack` again, it goes on from there"
            raise DataError(f"{self.root} is not complete: {why}") from error
        for row in rows:
            if row["error"] is None:
                path = f"{shard}.tar/{row['name']}"
                table = FrameTable.from_json(row["table"])
                self._videos[path] = PackedVideo(f"{shard}.tar", row["offset"], row["size"], row["crc32"], table)
                self.entries.append(VideoEntry(path, row["split"], row["labels"], tags=tuple(row["tags"])))

    def open(self, path: str) -> VideoReader:
        """The video of one of ``entries``; ``SampleError`` where its bytes are not those that were packed."""
        video = self._videos[path]
        try:
            content = _read(video.shard, video.offset, video.size)
        except OSError as error:
            raise SampleError(path, f"the shard cannot be read: {error}") from error
        if zlib.crc32(content) != video.crc32:
            raise SampleError(path, "damaged: its bytes are not those that were packed")
        return PyAVReader(path, video.table, content)


def is_pack(root: str) -> bool:
    """Whether ``root`` is a URL (nothing else is read from one) or a folder with a ``pack.json``."""
    return "://" in root or os.path.isfile(os.path.join(root, PACK_FILE))


def _read(path: str, offset: int = 0, size: int | None = None) -> bytes:
    """``size`` bytes from ``offset`` of a file or of what a URL names, all where ``size`` is None."""
    if "://" in path:
        import fsspec

        system, name = fsspec.core.url_to_fs(path)
        return bytes(system.cat_file(name, start=offset, end=None if size is None else offset + size))
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(-1 if size is None else size)


def _read_list(file: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(_read(file).decode().splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise DataError(f"{file}, line {number}: damaged: {error}") from error
    return rows


def verify_pack(root: str, num_workers: int = 1, progress: bool = True) -> list[tuple[str, str]]:
    """Read every video of a pack, compare its bytes with what was packed and decode all its frames; returns (path,
    reason) of those that fail."""
    pack = Pack(root)
    paths = [entry.path for entry in pack.entries]
    results = parallel_map(partial(_verify, pack), paths, num_workers, "videos", 0, progress)
    return sorted(result for result in results if result is not None)


def _verify(pack: Pack, path: str) -> tuple[str, str] | None:
    try:
        with pack.open(path) as video:
            for _ in video.frames(range(video.meta.num_frames)):
                continue
    except SampleError as error:
        return path, error.reason
    return None
