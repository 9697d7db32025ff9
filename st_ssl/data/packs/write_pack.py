"""Writing packs: see ``pack.py`` for what they are."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from st_ssl.core.config import Config
from st_ssl.core.errors import DataError, SampleError, sample_fault
from st_ssl.core.files import claim_folder, replace_text, write_atomically
from st_ssl.core.types import Entry
from st_ssl.data.loading.parallel_map import parallel_map
from st_ssl.data.packs.file_index import Table
from st_ssl.data.packs.read_pack import (
    PACK_FILE,
    PACK_FORMAT,
    Content,
    list_file,
    packed_name,
    read_list,
    shard_sizes,
    tar_file,
)


class ShardConfig(Config):
    """``shard_size``: samples in a shard."""

    shard_size: int = Field(default=1000, gt=0)


class Packer(ABC):
    """What is packed of a sample: ``content`` of a pack, made by ``config``. It is sent to other processes."""

    content: Content[Any, Any]

    def __init__(self, config: ShardConfig) -> None:
        self.config = config

    @abstractmethod
    def make(self, entry: Entry, name: str) -> tuple[bytes, Table]:
        """The file that is packed under ``name``, and the table of it; ``SampleError`` where ``entry`` is broken."""


def write_pack(
    entries: Sequence[Entry],
    output: Path,
    packer: Packer,
    part: tuple[int, int] = (0, 1),
    num_workers: int = 0,
    progress: bool = True,
) -> list[tuple[str, str]]:
    """Pack ``entries`` into shards under ``output``; returns (path, reason) of those that could not be packed.

    ``part`` (i, N): only every N-th shard from the i-th on, for N machines at once. A shard that is there is not
    written again, and one that is written is the same to the byte whenever and wherever that happens (with the same
    version of the encoder): samples are named by their path from the folder that all of them are in, wherever that is
    mounted and however it was typed. Unless ``num_workers`` is 0 a sample that crashes its process is one that could
    not be packed. ``DataError`` where ``output`` holds another pack.
    """
    _claim(entries, output, packer)
    named = list(zip(_names(entries), entries, strict=True))
    size = packer.config.shard_size
    cuts = [named[at : at + size] for at in range(0, len(named), size)]
    mine = [number for number in range(len(cuts)) if number % part[1] == part[0]]
    there = [number for number in mine if _list_file(output, number).exists() and _tar(output, number).exists()]
    failed = {number: _failed(output, number, cuts[number], packer) for number in there}
    shards = [Shard(number, cuts[number]) for number in mine if number not in failed]
    work, crashed = partial(write_shard, output, packer), partial(_blame, output, packer.content.items[:-1])
    while shards:
        left = parallel_map(work, shards, num_workers, "shards", 0, progress, crashed)
        shards = [shard for shard in left if shard is not None]
    failed |= {number: _failed(output, number, cuts[number], packer) for number in mine if number not in failed}
    return [sample for number in mine for sample in failed[number]]


def _failed(output: Path, number: int, shard: Sequence[tuple[str, Entry]], packer: Packer) -> list[tuple[str, str]]:
    """(path, reason) of the samples of a written shard that could not be packed."""
    rows = zip(shard, read_list(str(output), number, len(shard), packer.content), strict=True)
    return [(entry.path, row["error"]) for (_, entry), row in rows if row["error"] is not None]


def _claim(entries: Sequence[Entry], output: Path, packer: Packer) -> None:
    note = f". `sources` are the names, labels and splits of the {packer.content.items}"
    claim_folder(output, PACK_FILE, _stamp(entries, packer), "pack", note)


def _stamp(entries: Sequence[Entry], packer: Packer) -> dict[str, Any]:
    config, items = packer.config, packer.content.items
    num_shards = len(shard_sizes(len(entries), config.shard_size, items))
    mine = {**PACK_FORMAT, items: len(entries), "shards": num_shards, "sources": _digest(entries)}
    return {**mine, "config": config.model_dump(mode="json")}


def _digest(entries: Sequence[Entry]) -> str:
    """Of names, segments, labels and splits, whatever folder the samples are mounted in."""
    sources = hashlib.blake2b(digest_size=16)
    for name, entry in zip(_names(entries), entries, strict=True):
        segment = (entry.start, entry.num_frames)
        sources.update(repr((name, segment, entry.split, sorted(entry.labels.items()), entry.tags)).encode())
    return sources.hexdigest()


def _names(entries: Sequence[Entry]) -> list[str]:
    """The path of each sample from the folder that all of them are in, however that folder was named."""
    paths = [os.path.abspath(entry.path) for entry in entries]
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [os.path.relpath(path, root) for path in paths]


def _list_file(output: Path, number: int) -> Path:
    return Path(list_file(str(output), number))


def _tar(output: Path, number: int) -> Path:
    return Path(tar_file(str(output), number))


@dataclass(frozen=True)
class Shard:
    """Samples with the names that they get in the pack; ``crashed``: places of those that crash their process."""

    number: int
    samples: Sequence[tuple[str, Entry]]
    crashed: frozenset[int] = frozenset()


def write_shard(output: Path, packer: Packer, shard: Shard) -> Shard | None:
    """The tar first and then its list, each under its own name only when complete: a list means a finished shard.

    Nothing is left to do then: None. Where it is killed, a file tells which sample it was at."""
    rows = []
    with (
        write_atomically(_tar(output, shard.number), alone=True) as unfinished,
        tarfile.open(unfinished, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        try:
            for place, (source, entry) in enumerate(shard.samples):
                _place_file(output, shard).write_text(str(place))
                name = packed_name(shard.number, place, packer.content.suffix)
                about = {"name": name, "split": entry.split, "labels": entry.labels, "tags": entry.tags}
                crashed = place in shard.crashed
                made = {"error": packer.content.crashed} if crashed else _add(archive, name, entry, packer)
                rows.append({**about, "source": source, **made})
        finally:  # before the list: nobody looks at a finished shard again
            _place_file(output, shard).unlink(missing_ok=True)
    replace_text(_list_file(output, shard.number), "".join(json.dumps(row) + "\n" for row in rows), alone=True)
    return None


def _place_file(output: Path, shard: Shard) -> Path:
    return output / f".shard-{shard.number:05d}.place"


def _blame(output: Path, item: str, shard: Shard) -> Shard:
    """A shard whose process died, to be written without the sample that it was at."""
    file = _place_file(output, shard)
    place = int(file.read_text() or -1) if file.exists() else -1
    if place < 0 or place in shard.crashed:
        raise DataError(f"{output}, shard {shard.number}: its process died, and not on a {item} of it (out of memory?)")
    file.unlink()
    return replace(shard, crashed=shard.crashed | {place})


def _add(archive: tarfile.TarFile, name: str, entry: Entry, packer: Packer) -> dict[str, Any]:
    try:
        with sample_fault(entry.path):
            content, table = packer.make(entry, name)
    except SampleError as error:
        return {"error": error.reason}
    info = tarfile.TarInfo(name)
    info.size = len(content)
    offset = archive.offset + tarfile.BLOCKSIZE  # after the header of one block
    archive.addfile(info, io.BytesIO(content))
    place = {"offset": offset, "size": len(content), "crc32": zlib.crc32(content)}
    return {"error": None, **place, "table": table.to_json()}
