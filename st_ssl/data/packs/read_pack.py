"""Packs: samples made quick to read, in a few large files that also suit object storage.

A pack is a folder (or a URL that fsspec understands) with ``pack.json``, and for each shard ``shard-00000.tar``, a
plain tar of files (MP4 of videos, safetensors of clouds), beside ``shard-00000.jsonl``, its list: a line for each
sample with its labels, which file it was (from the folder that all of them were in), where it lies in the tar, its
checksum, and a table of what is in it. A sample is read as one range of bytes.
"""

from __future__ import annotations

import json
import os
import zlib
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from types import UnionType
from typing import Any, ClassVar, Generic, TypeVar, overload

from st_ssl.core.errors import DataError, SampleError, sample_fault
from st_ssl.core.plain_json import NOT_PLAIN, load_json
from st_ssl.core.types import Entry
from st_ssl.data.loading.parallel_map import parallel_map

PACK_FILE = "pack.json"
PACK_FORMAT = {"format": "st_ssl pack", "version": 1}
_DATA_NAMES = {"videos": "video", "clouds": "points"}
MOST_SHARDS = 1_000_000
_BLOCK, _LONGEST = 32, 300  # rows; characters of an error that are told

Opened = TypeVar("Opened")
T = TypeVar("T")


def packed_name(shard: int, place: int, suffix: str) -> str:
    """The name in its tar of the sample at ``place`` of a shard."""
    return f"{shard:05d}-{place:06d}{suffix}"


def _squeezed(rows: Sequence[dict[str, Any]]) -> bytes:
    """Rows of JSON in little room: see ``_row``."""
    return zlib.compress(b"\n".join(json.dumps(row, separators=(",", ":")).encode() for row in rows))


@lru_cache(maxsize=4)
def _lines(block: bytes) -> list[bytes]:
    return zlib.decompress(block).split(b"\n")


def _row(blocks: Sequence[bytes], at: int) -> dict[str, Any]:
    """One row of blocks that hold ``_BLOCK`` rows each, or less."""
    return dict(json.loads(_lines(blocks[at // _BLOCK])[at % _BLOCK]))


class PackedEntries(Sequence[Entry]):
    """The samples of a pack, each made when it is asked for: ``chosen`` has the places of their rows in ``blocks``."""

    def __init__(self, root: str, blocks: Sequence[bytes], chosen: array[int]) -> None:
        self._root, self._blocks, self._chosen = root, blocks, chosen

    def __len__(self) -> int:
        return len(self._chosen)

    @overload
    def __getitem__(self, index: int) -> Entry: ...

    @overload
    def __getitem__(self, index: slice) -> PackedEntries: ...

    def __getitem__(self, index: int | slice) -> Entry | PackedEntries:
        if isinstance(index, slice):
            return PackedEntries(self._root, self._blocks, self._chosen[index])
        row = _row(self._blocks, self._chosen[index])
        path = f"{tar_file(self._root, int(row['name'].partition('-')[0]))}/{row['name']}"
        return Entry(path, row["split"], row["labels"], tags=tuple(row["tags"]), source=row["source"])


class Pack(ABC, Generic[Opened]):
    """A pack to read from: ``entries`` are its samples, ``open`` opens one of them by its ``entry.path``.

    ``root`` is a folder or a URL (``s3://…``, with the fsspec package for it installed). Samples that could not be
    packed are left out, and are in ``failed`` as (path, reason). What is known of a million videos is held in less than
    200 MB. ``DataError`` where the pack is incomplete, not one, or one of something else; with ``whole`` also where the
    tar of a shard is not in the folder (of a URL that is asked for only as it is read).
    """

    items: ClassVar[str]
    """What it holds, "videos" say, in files whose names end in ``suffix``."""
    suffix: ClassVar[str]
    crashed: ClassVar[str]
    """What is said of a sample that ends its process."""
    table: ClassVar[Any]
    """The class of what the list of a shard says of a sample: ``from_json`` makes it from plain data."""

    def __init__(self, root: str, whole: bool = True) -> None:
        self.root = root.rstrip("/")
        stamp = f"{self.root}/{PACK_FILE}"
        settings, items, sizes = _description(self.root)
        if items != self.items:
            raise DataError(
                f"{stamp}: a pack of {items}, not of {self.items}: read it with data.name={_DATA_NAMES[items]}"
            )
        self.config: dict[str, Any] = settings["config"]
        self.failed: list[tuple[str, str]] = []
        self._blocks: list[bytes] = []
        self._starts: list[int] = []
        chosen = array("l")
        for number in range(len(sizes)):
            self._add_shard(number, sizes, chosen)
        self.entries = PackedEntries(self.root, self._blocks, chosen)
        if whole and "://" not in self.root and (gone := self.gone()):
            others = f" (and {len(gone) - 1} more)" if gone[1:] else ""
            raise DataError(f"{self.root} is not complete: {os.path.basename(gone[0])}{others} {_GONE}")

    def _add_shard(self, number: int, sizes: Sequence[int], chosen: array[int]) -> None:
        try:
            rows = read_list(self.root, number, sizes[number], type(self))
        except OSError as error:
            why = f"shard {number} of {len(sizes)} is missing: run `st-ssl prepare pack` again, it goes on from there"
            raise DataError(f"{self.root} is not complete: {why}") from error
        self._starts.append(len(self._blocks))
        for first in range(0, len(rows), _BLOCK):
            block, start = rows[first : first + _BLOCK], _BLOCK * len(self._blocks)
            chosen.extend(start + at for at, row in enumerate(block) if row["error"] is None)
            self._blocks.append(_squeezed(block))
        failed = [row for row in rows if row["error"] is not None]
        self.failed += [(row["source"], f"could not be packed: {row['error']}") for row in failed]

    def gone(self) -> list[str]:
        """The tars of shards that are missing beside their lists."""
        tars = [tar_file(self.root, number) for number in range(len(self._starts))]
        return [tar for tar in tars if not _exists(tar)]

    def row(self, path: str) -> dict[str, Any]:
        """What the list of its shard says of one of ``entries``, by its path."""
        number, place = path.rpartition("/")[2].removesuffix(self.suffix).split("-")
        return _row(self._blocks, _BLOCK * self._starts[int(number)] + int(place))

    def open(self, path: str) -> Opened:
        """One of ``entries``; ``SampleError`` where its bytes are not those that were packed."""
        row = self.row(path)
        try:
            data = _read(path.rpartition("/")[0], row["offset"], row["size"])
        except OSError as error:
            raise SampleError(path, f"the shard cannot be read: {error!r}") from error
        if zlib.crc32(data) != row["crc32"]:
            raise SampleError(path, "damaged: its bytes are not those that were packed")
        return self.made(path, data, self.table.from_json(row["table"]))

    @abstractmethod
    def made(self, path: str, data: bytes, table: Any) -> Opened:
        """The sample that ``data`` holds, opened; ``SampleError`` where it is none."""

    @abstractmethod
    def decode(self, sample: Opened) -> None:
        """Go through all of an opened sample; ``SampleError`` where that cannot be done."""


_GONE = "is missing beside its list: put it back, or run `st-ssl prepare pack` again, which writes it anew"


def _description(root: str) -> tuple[dict[str, Any], str, list[int]]:
    """What ``pack.json`` says, of what the pack is, and the sizes of its shards; ``DataError`` where there is none."""
    stamp = f"{root}/{PACK_FILE}"
    try:
        settings = load_json(_read(stamp))
        if {key: settings.get(key) for key in PACK_FORMAT} != PACK_FORMAT:
            raise ValueError(f"expected {PACK_FORMAT}")
        items = next((items for items in _DATA_NAMES if items in settings), None)
        if items is None:
            raise ValueError(f"expected a number of {' or '.join(_DATA_NAMES)}")
        sizes = shard_sizes(settings[items], settings["config"]["shard_size"], items)
        if settings["shards"] != len(sizes):
            raise ValueError(f"{settings['shards']} shards, expected {len(sizes)} of {settings[items]} {items}")
        return settings, items, sizes
    except (OSError, *NOT_PLAIN) as error:
        raise DataError(f"{stamp}: not the description of a pack: {error}") from error


def packed_items(root: str) -> str:
    """What the pack at ``root`` is of: "videos" or "clouds"; ``DataError`` where it is none."""
    return _description(root.rstrip("/"))[1]


def list_file(root: str, number: int) -> str:
    """The list of a shard."""
    return f"{root}/shard-{number:05d}.jsonl"


def tar_file(root: str, number: int) -> str:
    """The tar of a shard."""
    return f"{root}/shard-{number:05d}.tar"


def is_pack(root: str) -> bool:
    """Whether ``root`` is a URL (nothing else is read from one) or a folder with a ``pack.json``."""
    return "://" in root or os.path.isfile(os.path.join(root, PACK_FILE))


def _read(path: str, offset: int = 0, size: int | None = None) -> bytes:
    """``size`` bytes from ``offset`` of a file or of what a URL names, all where ``size`` is None."""
    if "://" in path:
        end = None if size is None else offset + size
        return _ask(path, lambda system, name: bytes(system.cat_file(name, start=offset, end=end)))
    if size is not None and offset + size > (there := os.path.getsize(path)):
        raise OSError(f"{there} bytes, expected {size} from {offset} on")
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(-1 if size is None else size)


def _exists(path: str) -> bool:
    """Whether there is such a file; of a URL, unless its storage says that there is none."""
    try:
        return _ask(path, lambda system, name: bool(system.info(name))) if "://" in path else os.path.isfile(path)
    except OSError as error:  # it cannot be asked; who reads a sample will hear why
        return not isinstance(error, FileNotFoundError)


def _ask(path: str, question: Callable[[Any, str], T]) -> T:
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


def shard_sizes(num_samples: int, shard_size: int, items: str) -> list[int]:
    """How many samples (``items``: "videos") are in each shard; ``ValueError`` where that is none at all."""
    if not (isinstance(num_samples, int) and isinstance(shard_size, int) and num_samples > 0 and shard_size > 0):
        raise ValueError(f"{num_samples!r} {items} in shards of {shard_size!r}: expected numbers above 0")
    if num_samples > MOST_SHARDS * shard_size:
        raise ValueError(f"{num_samples} {items} in shards of {shard_size}: expected at most {MOST_SHARDS} shards")
    return [min(shard_size, num_samples - first) for first in range(0, num_samples, shard_size)]


def read_list(root: str, number: int, num_samples: int, kind: type[Pack[Any]]) -> list[dict[str, Any]]:
    """The rows of the list of a shard, one for each of its ``num_samples``. ``OSError`` where there is none,
    ``DataError`` with file and line where it is damaged."""
    file = list_file(root, number)
    rows: list[dict[str, Any]] = []
    lines = _read(file).decode(errors="replace").splitlines()
    for line in lines:
        try:
            rows.append(_checked(load_json(line), packed_name(number, len(rows), kind.suffix), kind))
        except NOT_PLAIN as error:
            where = f"{file}, line {len(rows) + 1}"
            raise DataError(f"{where}: damaged: {repr(error)[:_LONGEST]}; remove the file and pack again") from error
    if len(rows) != num_samples:
        wrong = f"{len(rows)} lines, expected {num_samples}"
        raise DataError(f"{file}: damaged: {wrong}; remove the file and pack again")
    return rows


_TYPES: dict[str, type | UnionType] = {
    "split": str,
    "labels": dict,
    "tags": list,
    "source": str,
    "error": str | None,
}
_PLACE_TYPES = {"offset": int, "size": int, "crc32": int, "table": dict}


def _checked(row: Any, name: str, kind: type[Pack[Any]]) -> dict[str, Any]:
    """``row`` itself; one of ``NOT_PLAIN`` where it says nothing of the sample ``name``."""
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
        kind.table.from_json(row["table"])
    return dict(row)


def verify_pack(root: str, kind: type[Pack[Any]], num_workers: int = 0, progress: bool = True) -> list[tuple[str, str]]:
    """Read every sample of a pack, compare its bytes with what was packed and decode all of it; returns (path, reason)
    of those that fail, of those that could not be packed, and of shards whose tar is missing."""
    pack = kind(root if "://" in root else os.path.abspath(root), whole=False)
    gone = pack.gone()
    paths = [entry.path for entry in pack.entries if entry.path.rpartition("/")[0] not in gone]
    found = parallel_map(partial(_verify, pack), paths, num_workers, "verify pack", 0, progress, kind.crashed)
    broken = [(path, reason) for path, reason in found if reason is not None]
    return sorted([*pack.failed, *broken, *((tar, _GONE) for tar in gone)])


def _verify(pack: Pack[Any], path: str) -> str | None:
    try:
        with sample_fault(path):
            pack.decode(pack.open(path))
    except SampleError as error:
        return error.reason
    return None
