"""Writing packs: see ``read_pack.py`` for what they are."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from st_ssl.core.config import Config
from st_ssl.core.errors import SampleError, sample_fault
from st_ssl.core.files import claim_folder, replace_text, write_atomically
from st_ssl.core.types import Entry
from st_ssl.data.loading.parallel_map import parallel_map
from st_ssl.data.packs.file_index import Table
from st_ssl.data.packs.read_pack import (
    PACK_FILE,
    PACK_FORMAT,
    Pack,
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
    """What is packed of a sample: for a ``pack``, made by ``config``. It is sent to other processes."""

    pack: type[Pack[Any]]

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
    size, items = packer.config.shard_size, packer.pack.items
    num_shards = len(shard_sizes(len(entries), size, items))
    stamp = {**PACK_FORMAT, items: len(entries), "shards": num_shards, "sources": _digest(entries)}
    stamp |= {"config": packer.config.model_dump(mode="json")}
    claim_folder(output, PACK_FILE, stamp, "pack", f". `sources` are the names, labels and splits of the {items}")
    named = list(zip(_names(entries), entries, strict=True))
    cuts = [named[at : at + size] for at in range(0, len(named), size)]
    mine = [number for number in range(len(cuts)) if number % part[1] == part[0]]

    def failed(number: int) -> list[tuple[str, str]]:
        rows = zip(cuts[number], read_list(str(output), number, len(cuts[number]), packer.pack), strict=True)
        return [(entry.path, row["error"]) for (_, entry), row in rows if row["error"] is not None]

    files = {number: [Path(name(str(output), number)) for name in (list_file, tar_file)] for number in mine}
    found = {number: failed(number) for number in mine if all(file.exists() for file in files[number])}
    for number in mine:
        if number not in found:
            title = f"shard {number + 1} of {len(cuts)}"
            _write_shard(output, packer, number, cuts[number], title, num_workers, progress)
            found[number] = failed(number)
    return [sample for number in mine for sample in found[number]]


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


def _write_shard(
    output: Path,
    packer: Packer,
    number: int,
    samples: Sequence[tuple[str, Entry]],
    title: str,
    num_workers: int,
    progress: bool,
) -> None:
    """The tar first and then its list, each under its own name only when complete: a list means a finished shard."""
    names = [packed_name(number, place, packer.pack.suffix) for place in range(len(samples))]
    items = [(place, entry, name) for place, ((_, entry), name) in enumerate(zip(samples, names, strict=True))]
    rows: list[dict[str, Any]] = []
    waiting: dict[int, str | tuple[bytes, Table]] = {}  # those before them are not yet made
    with (
        write_atomically(Path(tar_file(str(output), number)), alone=True) as unfinished,
        tarfile.open(unfinished, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        work, crashed = partial(_make, packer), packer.pack.crashed
        for (place, _, _), made in parallel_map(work, items, num_workers, title, 0, progress, crashed):
            waiting[place] = made
            while len(rows) in waiting:
                (source, entry), name = samples[len(rows)], names[len(rows)]
                about = {"name": name, "split": entry.split, "labels": entry.labels, "tags": entry.tags}
                rows.append({**about, "source": source, **_add(archive, name, waiting.pop(len(rows)))})
    replace_text(Path(list_file(str(output), number)), "".join(json.dumps(row) + "\n" for row in rows), alone=True)


def _make(packer: Packer, item: tuple[int, Entry, str]) -> str | tuple[bytes, Table]:
    """The content and table of a sample, or why there is none."""
    _, entry, name = item
    try:
        with sample_fault(entry.path):
            return packer.make(entry, name)
    except SampleError as error:
        return error.reason


def _add(archive: tarfile.TarFile, name: str, made: str | tuple[bytes, Table]) -> dict[str, Any]:
    if isinstance(made, str):
        return {"error": made}
    content, table = made
    info = tarfile.TarInfo(name)
    info.size = len(content)
    offset = archive.offset + tarfile.BLOCKSIZE  # after the header of one block
    archive.addfile(info, io.BytesIO(content))
    place = {"offset": offset, "size": len(content), "crc32": zlib.crc32(content)}
    return {"error": None, **place, "table": table.to_json()}
