"""Arrays on disk that are complete or not there: the parts of an extraction, and what they are put together to."""

from __future__ import annotations

import io
import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from st_ssl.core.errors import UserError
from st_ssl.core.files import write_atomically

_SUFFIX = ".safetensors"
_NAMES = {"float16": "F16", "float32": "F32", "int64": "I64"}


@dataclass
class Part:
    """The features of some videos. ``indices`` of those that have some, in order; ``bad`` (index, reason) of those that
    have none; ``arrays`` by name, [N, clips, ...] each, row by row those of ``indices``; ``told`` (JSON): what else
    there is to tell of them."""

    indices: list[int]
    bad: list[tuple[int, str]]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)


class PartFolder:
    """The parts of ``num_samples`` samples, ``size`` in each, that are done: one file each."""

    def __init__(self, folder: Path, num_samples: int, size: int) -> None:
        self.folder, self.num_samples, self.size = folder, num_samples, size

    def __len__(self) -> int:
        return math.ceil(self.num_samples / self.size)

    def samples(self, part: int) -> range:
        """The indices of the samples of a part."""
        return range(part * self.size, min(self.num_samples, (part + 1) * self.size))

    def tidy(self) -> dict[int, int]:
        """The parts that are done, each with its number of bad samples. Removes what a killed process left. For a
        single process, before any works."""
        self.folder.mkdir(exist_ok=True)
        for rest in self.folder.glob(".*"):
            rest.unlink()
        return {part: len(self.load(part, arrays=()).bad) for part in self.done()}

    def discard(self, part: int) -> None:
        """Have a part done again."""
        self._file(part).unlink()

    def done(self) -> list[int]:
        """The parts that are done."""
        return sorted(int(file.stem) for file in self.folder.glob(f"*{_SUFFIX}") if file.stem.isdigit())

    def count(self) -> int:
        """The number of samples in all parts that are done."""
        return sum(len(self.samples(part)) for part in self.done())

    def wait(self, progress: Callable[[int, int], None]) -> None:
        """Return when all parts are done, by this process or others. Every 0.2 seconds ``progress`` gets the number of
        finished samples and that of all."""
        while (done := self.count()) < self.num_samples:
            progress(done, self.num_samples)
            time.sleep(0.2)

    def save(self, part: int, content: Part) -> None:
        """Write a part: from then on it is done."""
        from safetensors.numpy import save

        about = {name: json.dumps(getattr(content, name)) for name in ("indices", "bad", "told")}
        data = save({name: np.ascontiguousarray(array) for name, array in content.arrays.items()}, about)
        write_bytes(self._file(part), [data])

    def load(self, part: int, arrays: Iterable[str]) -> Part:
        """A part, with those of its ``arrays`` alone."""
        from safetensors import safe_open

        with safe_open(self._file(part), framework="np") as file:
            about = {name: json.loads(text) for name, text in file.metadata().items()}
            bad = [(int(index), str(reason)) for index, reason in about["bad"]]
            own = {name: file.get_tensor(name) for name in arrays}
            return Part(about["indices"], bad, own, about.get("told", {}))

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, part: int) -> Path:
        return self.folder / f"{part:06d}{_SUFFIX}"


@dataclass(frozen=True)
class Stream:
    """An array of ``shape`` and ``dtype`` whose rows come in ``chunks``: it is never whole in memory."""

    dtype: np.dtype
    shape: tuple[int, ...]
    chunks: Iterable[np.ndarray]

    @property
    def num_bytes(self) -> int:
        """The size of the whole array."""
        return self.dtype.itemsize * math.prod(self.shape)


def write_npy(file: Path, stream: Stream) -> None:
    """Write one array as ``.npy``."""
    header = io.BytesIO()
    about = {"descr": np.lib.format.dtype_to_descr(stream.dtype), "fortran_order": False, "shape": stream.shape}
    np.lib.format.write_array_header_1_0(header, about)
    write_bytes(file, chain([header.getvalue()], _data(stream)))


def write_safetensors(file: Path, streams: Mapping[str, Stream]) -> None:
    """Write several arrays as ``.safetensors``: the length of a JSON header, the header, and the arrays."""
    header, end = {}, 0
    for name, stream in streams.items():
        offsets = [end, end + stream.num_bytes]
        header[name] = {"dtype": _NAMES[stream.dtype.name], "shape": list(stream.shape), "data_offsets": offsets}
        end = offsets[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    write_bytes(file, chain([len(text).to_bytes(8, "little"), text], *map(_data, streams.values())))


def write_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON, a line for each of ``rows``."""
    write_bytes(file, (f"{json.dumps(row)}\n".encode() for row in rows))


def _data(stream: Stream) -> Iterable[bytes]:
    written = 0
    for chunk in stream.chunks:
        assert chunk.shape[1:] == stream.shape[1:], (chunk.shape, stream.shape)
        yield np.ascontiguousarray(chunk, stream.dtype).tobytes()
        written += chunk.nbytes
    assert written == stream.num_bytes, (written, stream)


def write_bytes(file: Path, data: Iterable[bytes]) -> None:
    """Write a file in one step: whatever happens, what has its name is complete. Raises ``UserError`` where the disk
    refuses."""
    try:
        with write_atomically(file, alone=True) as unfinished, unfinished.open("wb") as out:
            for part in data:
                out.write(part)
    except OSError as error:
        raise UserError(f"{file}: could not be written: {error.strerror}") from error
