"""Writing packs: see ``pack.py`` for what they are."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from st_ssl.config import Config
from st_ssl.data.parallel import parallel_map
from st_ssl.data.video.pack import PACK_FILE, PACK_FORMAT, list_file, packed_name, read_list, shard_sizes
from st_ssl.data.video.readers import open_video
from st_ssl.data.video.readers.pyav import PyAVReader
from st_ssl.data.video.segment import segment_of
from st_ssl.data.video.writing import encode
from st_ssl.errors import DataError, SampleError
from st_ssl.files import claim_folder, replace_text, write_atomically
from st_ssl.types import Entry

_CRASHED = "the decoder crashed on it"


class PackConfig(Config):
    """How videos are packed. ``short_side`` in pixels (smaller videos keep their size); ``crf``: quality of H.264, less
    is better; ``keyframes``: frames from one key frame to the next; ``shard_size``: videos in a shard."""

    short_side: int = Field(default=256, ge=16)
    crf: int = Field(default=20, ge=0, le=51)
    keyframes: int = Field(default=32, gt=0)
    shard_size: int = Field(default=1000, gt=0)


def write_pack(
    entries: Sequence[Entry],
    output: Path,
    config: PackConfig,
    part: tuple[int, int] = (0, 1),
    reader: str = "auto",
    num_workers: int = 1,
    progress: bool = True,
    retry: bool = False,
) -> list[tuple[str, str]]:
    """Pack ``entries`` into shards under ``output``; returns (path, reason) of those that could not be packed.

    ``part`` (i, N): only every N-th shard from the i-th on, for N machines at once. A shard that is there is not
    written again, and one that is written is the same to the byte whenever and wherever that happens (with the same
    version of the encoder): videos are named by their path from the folder that all of them are in, wherever that is
    mounted and however it was typed. ``retry``: those of its shards in which a video failed, or has another size by
    now, are packed anew. With two processes or more a video on which the decoder crashes is one that could not be
    packed. ``DataError`` where ``output`` holds another pack, or shards of what the videos were before.
    """
    if retry:
        _forget(entries, output, config, part)
    _claim(entries, output, config)
    named = list(zip(_names(entries), entries, strict=True))
    cuts = [named[at : at + config.shard_size] for at in range(0, len(named), config.shard_size)]
    mine = [number for number in range(len(cuts)) if number % part[1] == part[0]]
    there = [number for number in mine if _list_file(output, number).exists()]
    failed = {number: _failed(output, number, cuts[number]) for number in there}
    shards = [_Shard(number, cuts[number]) for number in mine if number not in failed]
    work, crashed = partial(_write_shard, output, config, reader), partial(_blame, output)
    while shards:
        left = parallel_map(work, shards, num_workers, "shards", 0, progress, crashed)
        shards = [shard for shard in left if shard is not None]
    failed |= {number: _failed(output, number, cuts[number]) for number in mine if number not in failed}
    return [video for number in mine for video in failed[number]]


def _failed(output: Path, number: int, shard: Sequence[tuple[str, Entry]]) -> list[tuple[str, str]]:
    """(path, reason) of the videos of a written shard that could not be packed. ``DataError`` where it was packed from
    others: where another machine was the first to try again, ``pack.json`` tells of the new sizes already."""
    failed = []
    for (_, entry), row in zip(shard, read_list(str(output), number, len(shard)), strict=True):
        if row["bytes"] != (size := _size(entry)):
            raise DataError(
                f"{_list_file(output, number)}: {entry.path} had {row['bytes']} bytes when it was packed, and has "
                f"{size} now: the same command with --retry packs this shard again"
            )
        if row["error"] is not None:
            failed.append((entry.path, row["error"]))
    return failed


def _claim(entries: Sequence[Entry], output: Path, config: PackConfig) -> None:
    note = ". `sources` are the names, labels and splits of the videos; where only their `sizes` differ --retry will do"
    claim_folder(output, PACK_FILE, _stamp(entries, config), "pack", note)


def _stamp(entries: Sequence[Entry], config: PackConfig) -> dict[str, Any]:
    num_shards = len(shard_sizes(len(entries), config.shard_size))
    sources, sizes = _digests(entries)
    mine = {**PACK_FORMAT, "videos": len(entries), "shards": num_shards, "sources": sources, "sizes": sizes}
    return {**mine, "config": config.model_dump()}


def _forget(entries: Sequence[Entry], output: Path, config: PackConfig, part: tuple[int, int]) -> None:
    """Remove the lists of the shards that are to be packed anew, and then say of which sizes the pack now is."""
    try:
        found = json.loads((output / PACK_FILE).read_text(encoding="utf-8"))
        mine = _stamp(entries, config)
        if {**found, "sizes": mine["sizes"]} != mine:
            return
    except (OSError, ValueError, TypeError):
        return  # nothing to try again, or another pack: claiming the folder tells
    for number, first in enumerate(range(0, len(entries), config.shard_size)):
        file = _list_file(output, number)
        if number % part[1] == part[0] and file.exists():
            shard = entries[first : first + config.shard_size]
            rows = read_list(str(output), number, len(shard))
            if any(row["error"] is not None or row["bytes"] != _size(e) for row, e in zip(rows, shard, strict=True)):
                file.unlink()
    if found != mine:
        replace_text(output / PACK_FILE, json.dumps(mine, indent=2) + "\n")


def _digests(entries: Sequence[Entry]) -> tuple[str, str]:
    """What is packed, whatever folder it is mounted in: one of names, segments, labels and splits, one of sizes."""
    sources, sizes = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    for name, entry in zip(_names(entries), entries, strict=True):
        segment = (entry.start, entry.num_frames)
        sources.update(repr((name, segment, entry.split, sorted(entry.labels.items()), entry.tags)).encode())
        sizes.update(repr(_size(entry)).encode())
    return sources.hexdigest(), sizes.hexdigest()


def _names(entries: Sequence[Entry]) -> list[str]:
    """The path of each video from the folder that all of them are in, however that folder was named."""
    paths = [os.path.abspath(entry.path) for entry in entries]
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [os.path.relpath(path, root) for path in paths]


def _size(entry: Entry) -> int:
    return os.path.getsize(entry.path) if os.path.isfile(entry.path) else 0


def _list_file(output: Path, number: int) -> Path:
    return Path(list_file(str(output), number))


@dataclass(frozen=True)
class _Shard:
    """Videos with the names that they get in the pack; ``crashed``: places of those that crash the decoder."""

    number: int
    videos: Sequence[tuple[str, Entry]]
    crashed: frozenset[int] = frozenset()


def _write_shard(output: Path, config: PackConfig, reader: str, shard: _Shard) -> _Shard | None:
    """The tar first and then its list, each under its own name only when complete: a list means a finished shard.

    Nothing is left to do then: None. Where it is killed, a file tells which video it was at."""
    tar = output / f"shard-{shard.number:05d}.tar"
    rows = []
    try:
        with (
            write_atomically(tar, alone=True) as unfinished,
            tarfile.open(unfinished, mode="w", format=tarfile.USTAR_FORMAT) as archive,
        ):
            for place, (source, entry) in enumerate(shard.videos):
                _place_file(output, shard).write_text(str(place))
                name = packed_name(shard.number, place)
                about = {"name": name, "split": entry.split, "labels": entry.labels, "tags": entry.tags}
                crashed = place in shard.crashed
                made = {"error": _CRASHED} if crashed else _add(archive, name, entry, config, reader)
                rows.append({**about, "source": source, "bytes": _size(entry), **made})
        replace_text(_list_file(output, shard.number), "".join(json.dumps(row) + "\n" for row in rows), alone=True)
    finally:
        _place_file(output, shard).unlink(missing_ok=True)
    return None


def _place_file(output: Path, shard: _Shard) -> Path:
    return output / f".shard-{shard.number:05d}.place"


def _blame(output: Path, shard: _Shard) -> _Shard:
    """A shard whose process died, to be written without the video that it was at."""
    file = _place_file(output, shard)
    place = int(file.read_text() or -1) if file.exists() else -1
    if place < 0 or place in shard.crashed:
        raise DataError(f"{output}, shard {shard.number}: its process died, and not on a video of it (out of memory?)")
    file.unlink()
    return replace(shard, crashed=shard.crashed | {place})


def _add(archive: tarfile.TarFile, name: str, entry: Entry, config: PackConfig, reader: str) -> dict[str, Any]:
    try:
        content = _shrink(entry, config, reader)
        table = PyAVReader(name, data=content).table
    except SampleError as error:
        return {"error": error.reason}
    info = tarfile.TarInfo(name)
    info.size = len(content)
    offset = archive.offset + tarfile.BLOCKSIZE  # after the header of one block
    archive.addfile(info, io.BytesIO(content))
    place = {"offset": offset, "size": len(content), "crc32": zlib.crc32(content)}
    return {"error": None, **place, "table": table.to_json()}


def _shrink(entry: Entry, config: PackConfig, reader: str) -> bytes:
    with segment_of(open_video(entry.path, reader), entry) as video:
        meta = video.meta
        scale = min(1.0, config.short_side / min(meta.width, meta.height))
        size = tuple(max(2, 2 * round(side * scale / 2)) for side in (meta.width, meta.height))
        frames = (frame for _, frame in video.frames(range(meta.num_frames)))
        file = io.BytesIO()
        encode(file, frames, meta.fps, (size[0], size[1]), config.crf, config.keyframes)
    return file.getvalue()
