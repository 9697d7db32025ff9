"""Files of weights as they are handed around, read without running anything that is in them.

Safetensors hold tensors alone. What ``torch.save`` wrote is a program that builds objects: torch's restricted reader
(``weights_only``) builds tensors and plain containers, and the settings that repositories put beside them
(``argparse.Namespace``, numbers of NumPy) are taken by stand-ins of this file. Everything else is refused by name.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from st_ssl.core.errors import SampleError, nearest
from st_ssl.data.streams.points.pickled import load_plain
from st_ssl.weights.base import Published, WeightsError

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".pyth", ".pkl", ".tar", ".ckpt")
_FOLDER_FILES = ("model.safetensors", "pytorch_model.bin", "encoder.safetensors")
_BESIDE = {
    "config.json": "config",
    "encoder.json": "encoder.json",
    "preprocessor_config.json": "preprocessor",
    "video_preprocessor_config.json": "preprocessor",
}
_DEEPEST = 8


def read_published(path: Path) -> Published:
    """The tensors of a file, or of a folder as Hugging Face lays it out (``config.json`` beside ``model.safetensors``
    or ``pytorch_model.bin``, in parts with an ``.index.json`` or whole). Nothing in it is run.

    Raises ``WeightsError`` where there is none, it is damaged or no file of weights, or it needs code to be read.
    """
    files = weight_files(path)
    found = _Drawers(Path(path))
    for file in files:
        found.sort(_read(file))
    if not found.groups:
        names = [name or "its own level" for name in (*found.skipped, *found.about)] or ["nothing"]
        listed = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        raise WeightsError(f"{path}: holds no tensors under names, but {listed}")
    for file in _beside(Path(path)):
        found.about[_BESIDE[file.name]] = _json(file)
    return Published(Path(path), found.groups, found.about, found.skipped)


def weight_files(path: Path) -> list[Path]:
    """The files that ``path`` stands for: itself, or those of a folder. ``WeightsError`` where there are none."""
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        near = nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""
        raise WeightsError(f"{path}: no such file or folder{near}")
    for name in _FOLDER_FILES:
        if (path / name).is_file():
            return [path / name]
        if (index := path / f"{name}.index.json").is_file():
            return _parts(index)
    found = sorted(p.name for p in path.iterdir() if p.suffix in SUFFIXES)
    hint = f": name one of {', '.join(found[:5])}" if found else ""
    raise WeightsError(f"{path}: a folder without {' or '.join(_FOLDER_FILES[:2])}{hint}")


def _beside(path: Path) -> list[Path]:
    """The files with settings of what ``path`` stands for. A file of another name has none: folders of downloads hold
    settings of anything."""
    folder = path if path.is_dir() else path.parent
    belongs = path.is_dir() or path.name in _FOLDER_FILES
    return [folder / name for name in _BESIDE if belongs and (folder / name).is_file()]


def fingerprint(path: Path) -> dict[str, str]:
    """The SHA-256 of every file that is read for ``path``, also of those with settings, by its name."""
    sums = {}
    for part in (*weight_files(path), *_beside(Path(path))):
        with part.open("rb") as file:
            sums[part.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def _parts(index: Path) -> list[Path]:
    names = _json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(n, str) and Path(n).name == n for n in names.values()):
        raise WeightsError(f"{index}: expected weight_map, from names of tensors to names of files beside it")
    files = [index.parent / name for name in sorted(set(names.values()))]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise WeightsError(f"{index}: names {len(files)} files, of which these are missing: {', '.join(missing)}")
    return files


def _json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{file}: not JSON that can be read: {error}") from error
    if not isinstance(data, dict):
        raise WeightsError(f"{file}: expected a JSON object, found {type(data).__name__}")
    return data


class _Drawers:
    """What was read, laid out as ``Published`` has it: named tensors by place, plain data, and what is neither.

    Raises ``WeightsError`` for tensors that are not plain: quantised, sparse, or without their numbers.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.groups: dict[str, dict[str, Tensor]] = {}
        self.about: dict[str, Any] = {}
        self.skipped: dict[str, str] = {}

    def sort(self, tree: Any, place: str = "") -> None:
        """Take the tensors and facts of ``tree``, found at ``place``, and note what is skipped and why."""
        if not isinstance(tree, Mapping):
            self.skipped[place] = f"{type(tree).__name__} in place of names and tensors"
            return
        if not all(isinstance(key, str) for key in tree):
            self.skipped[place] = "tensors by number (as optimisers keep them)"
            return
        for key, value in tree.items():
            inner = f"{place}.{key}" if place else key
            if isinstance(value, Settings):
                value = value.values
            if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
                value = torch.tensor(value)  # a copy: arrays of files cannot be written to
            if isinstance(value, Tensor):
                if value.is_quantized or value.layout != torch.strided or value.device.type != "cpu":
                    raise WeightsError(f"{self.path}: {inner!r} is quantised, sparse or without its numbers")
                self.groups.setdefault(place, {})[key] = value.detach()
            elif (plain := self._plain(value)) is not _NOT_PLAIN:
                self.about[inner] = plain
            elif inner.count(".") < _DEEPEST and isinstance(value, Mapping):
                self.sort(value, inner)
            else:
                self.skipped[inner] = f"{type(value).__name__} in place of names and tensors"

    def _plain(self, value: Any, depth: int = 0) -> Any:
        """``value`` if it is what JSON could hold, else ``_NOT_PLAIN``. Stand-ins are None."""
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, StandIn):
            return None
        if depth > _DEEPEST:
            return _NOT_PLAIN
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            items = {key: self._plain(item, depth + 1) for key, item in value.items()}
            return _NOT_PLAIN if not items or any(item is _NOT_PLAIN for item in items.values()) else items
        if isinstance(value, list | tuple):
            members = [self._plain(item, depth + 1) for item in value]
            return _NOT_PLAIN if any(item is _NOT_PLAIN for item in members) else members
        return _NOT_PLAIN


_NOT_PLAIN = object()


# Reading one file


class StandIn:
    """In place of an object of no importance: it takes whatever it is given and does nothing with it."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class Settings(StandIn):
    """In place of ``argparse.Namespace``: its ``values`` are told, where they are plain."""

    values: dict[str, Any] = {}  # noqa: RUF012

    def __setstate__(self, state: Any) -> None:
        self.values = dict(state) if isinstance(state, Mapping) else {}


_STAND_INS: list[Any] = [
    (Settings, "argparse.Namespace"),
    (Settings, "types.SimpleNamespace"),
    *(
        (StandIn, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ),
    *((StandIn, f"numpy.{name}") for name in ("dtype", "ndarray", "float64", "float32", "int64")),
    *(
        (StandIn, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")  # the latter from Python 3.13
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "Path")
    ),
]


def _read(file: Path) -> Any:
    """What is in one file: nested mappings with tensors at their ends."""
    try:
        with file.open("rb") as stream:
            start = stream.read(512)
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read: {error.strerror}") from error
    _refuse_others(file, start)
    if file.suffix == ".safetensors" or (start[8:10] == b'{"' and not start.startswith(b"PK")):
        return _read_safetensors(file)
    if start.startswith(b"PK"):
        _check_archive(file)
        return _load(file, mmap=True)
    if file.suffix == ".pkl":  # without torch, as Caffe2 does: plain data and arrays
        try:
            return load_plain(str(file))
        except SampleError as error:
            raise WeightsError(f"{error}") from error
    if not start.startswith(b"\x80"):
        raise WeightsError(f"{file}: no file of weights: it begins with {start[:12]!r}")
    return _load(file, mmap=False)  # as torch wrote before 1.6


def _refuse_others(file: Path, start: bytes) -> None:
    """Raise ``WeightsError`` for what people have in place of weights."""
    size = file.stat().st_size
    text = start.lstrip().lower()
    if not start:
        what = "is empty: copy or download it again"
    elif text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        what = "is a web page: what was downloaded is the page about the file, or one that asks to log in"
    elif start.startswith(b"version https://git-lfs"):
        what = f"is a pointer of Git LFS ({size} bytes) in place of the file: run `git lfs pull` in its repository"
    elif start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf")) or start[257:262] == b"ustar":
        what = "is a packed archive: unpack it and name the file of weights in it"
    elif start.startswith(b"\x89HDF"):
        what = "is HDF5 (of Keras): weights of torch or safetensors are read"
    elif start.startswith((b"{", b"[")) and file.suffix == ".json":
        what = "is JSON: name the file of weights, or the folder that both are in"
    else:
        return
    raise WeightsError(f"{file}: {what}")


def _read_safetensors(file: Path) -> dict[str, Any]:
    try:
        with safe_open(file, framework="pt") as opened:
            tensors: dict[str, Any] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            metadata = opened.metadata()
    except (OSError, SafetensorError) as error:
        what = f"truncated or damaged, or no safetensors ({error})"
        raise WeightsError(f"{file}: {what}: copy or download it again") from error
    return tensors | ({"metadata": dict(metadata)} if metadata else {})


def _check_archive(file: Path) -> None:
    """Raise ``WeightsError`` for a zip archive that is not whole, or not of ``torch.save``."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        what = f"truncated: an archive without its end ({error})"  # where the list of what is in it stands
        raise WeightsError(f"{file}: {what}: copy or download it again") from error
    if any(name.endswith("/constants.pkl") for name in names):
        raise WeightsError(
            f"{file}: is a TorchScript archive, which is a program. Where you trust it, take its weights out:\n"
            + _snippet(file, f'torch.jit.load({_quoted(file.name)}, map_location="cpu").state_dict()')
        )
    if not any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        first = ", ".join(names[:3]) or "nothing"
        raise WeightsError(f"{file}: a zip archive, but not of torch.save: it has no data.pkl (it holds {first})")


def _load(file: Path, mmap: bool) -> Any:
    """What ``torch.save`` wrote, by torch's restricted reader."""
    try:
        with torch.serialization.safe_globals(_STAND_INS):
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # damage shows in any way, and the reader's own error has no public name
        raise _explained(file, error) from error


_WANTED = re.compile(r"GLOBAL (\S+)")


def _explained(file: Path, error: Exception) -> WeightsError:
    wanted = _WANTED.search(str(error))
    if wanted or "Unsupported operand" in str(error) or type(error).__name__ == "UnpicklingError":
        what = f"asks for {wanted[1]}" if wanted else f"is no plain data ({str(error).splitlines()[-1].strip()})"
        return WeightsError(
            f"{file}: {what}, which is code that reading it would run: only tensors and plain settings are read. Where "
            "you trust the file, save its tensors anew where running it does no harm (a container, another user):\n"
            + _snippet(file, f'torch.load({_quoted(file.name)}, map_location="cpu", weights_only={False})')
        )
    said = f"{type(error).__name__}: {error}".splitlines()[0].removesuffix(": ")
    return WeightsError(
        f"{file}: truncated or damaged, or no file of weights ({said}; {file.stat().st_size} bytes): copy or download "
        "it again"
    )


def _snippet(file: Path, read: str) -> str:
    """Three lines that make safetensors of what ``read`` gives."""
    return (
        "  import torch; from safetensors.torch import save_file\n"
        f'  state = {read}  # ["model"] or ["state_dict"] where it is in one\n'
        f"  save_file({{k: v.contiguous().clone() for k, v in state.items()}}, {_quoted(f'{file.stem}.safetensors')})"
    )


def _quoted(name: str) -> str:
    """``name`` in Python; what JSON has between its quotes is the same there."""
    return json.dumps(name, ensure_ascii=False)
