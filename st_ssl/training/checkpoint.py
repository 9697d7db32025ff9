"""Checkpoints that survive a killed process and never run code: safetensors, JSON and checksums in one folder each.

``<directory>/step_00000120/`` holds one ``<group>.safetensors`` per group of tensors (model, optimizer, ema ...),
``state.json``, and ``manifest.json`` with the size and SHA-256 of every file. A folder by that name is always complete:
it is written under a hidden name, forced to disk, and renamed in one step.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from st_ssl.core.errors import UserError, nearest
from st_ssl.core.files import sync

JSON = Any  # None, bool, int, float, str, and lists and dicts (with str keys) of these
FORMAT = 1
_STEP = re.compile(r"step_(\d{8,})")
_PARTIAL, _REPLACED = ".tmp-", ".old-"
# Which kernel updates the weights is a choice of this run, not of the one that wrote the checkpoint.
_KERNEL_SETTINGS = {"fused", "foreach", "capturable", "differentiable"}
_SCHEDULED_SETTINGS = {"lr", "initial_lr"}


class CheckpointError(UserError):
    """A checkpoint that cannot be read, written, or applied to what it is loaded into."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint whose files are missing, truncated or altered."""


@dataclass(frozen=True)
class Loaded:
    """One checkpoint in memory: ``tensors`` by group and name, on the CPU; ``state`` as it was given to ``save``."""

    path: Path
    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, JSON]


class Checkpointer:
    """Writes the checkpoints of one run and finds the newest that is whole. One process per directory: rank 0.

    The other ranks of a distributed run call ``load_checkpoint`` with the path that rank 0 found.
    """

    def __init__(self, directory: Path, keep_last: int = 2, keep: Collection[int] = ()) -> None:
        if keep_last < 1:
            raise CheckpointError(f"keep_last must be at least 1, not {keep_last}")
        self.directory = Path(directory)
        self.keep_last = keep_last
        self.keep = frozenset(keep)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{self.directory}: cannot be a folder of checkpoints: {error.strerror}") from error
        self._tidy()

    def save(self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, JSON]) -> Path:
        """Write the checkpoint of ``step``, replacing one of the same step, then prune to the ``keep_last`` newest and
        those of the steps ``keep``.

        Killed at any moment it leaves the earlier checkpoints as they were. Raises CheckpointError where the disk
        refuses (full, read-only) and TypeError for a state that JSON would not give back unchanged.
        """
        assert step >= 0, step
        assert all(group.isidentifier() for group in tensors), list(tensors)
        _check_json(dict(state), "state")
        final = self.directory / f"step_{step:08d}"
        partial = self.directory / f"{_PARTIAL}{final.name}"
        try:
            _remove(partial)
            _write_folder(partial, step, tensors, state)
            self._put_in_place(partial, final)
        except (OSError, SafetensorError) as error:
            self._tidy()
            raise CheckpointError(f"{final}: the checkpoint could not be written: {error}") from error
        kept = {self.directory / f"step_{step:08d}" for step in self.keep}
        others = [path for path in self._folders() if path != final and path not in kept]
        for path in others[self.keep_last - 1 :]:
            self._discard(path)
        return final

    def latest(self) -> Loaded | None:
        """The newest checkpoint whose checksums hold, or None where there is none.

        A damaged one is moved aside as ``*.damaged`` with a warning that says which file and why. One in a newer format
        raises CheckpointError: an older one in its place would silently undo work.
        """
        for path in self._folders():
            try:
                return load_checkpoint(path)
            except DamagedCheckpointError as error:
                aside = _unused_name(path)
                path.rename(aside)
                warnings.warn(f"{error}; moved to {aside.name}, trying the one before", stacklevel=2)
        return None

    def _folders(self) -> list[Path]:
        folders = (path for path in self.directory.iterdir() if path.is_dir())
        found = [(int(match[1]), path) for path in folders if (match := _STEP.fullmatch(path.name))]
        return [path for _, path in sorted(found, reverse=True)]

    def _put_in_place(self, partial: Path, final: Path) -> None:
        replaced = self.directory / f"{_REPLACED}{final.name}"
        _remove(replaced)
        if final.exists():  # a folder cannot be renamed over a full one
            final.rename(replaced)
        partial.rename(final)
        sync(self.directory)
        _remove(replaced)

    def _discard(self, path: Path) -> None:
        hidden = path.with_name(_PARTIAL + path.name)  # killed halfway, the rest must not look like a damaged one
        _remove(hidden)
        path.rename(hidden)
        _remove(hidden)

    def _tidy(self) -> None:
        for path in self.directory.glob(f"{_REPLACED}*"):
            final = self.directory / path.name.removeprefix(_REPLACED)
            if final.exists():
                _remove(path)
            else:  # killed between the two renames of a replacement
                path.rename(final)
        for path in self.directory.glob(f"{_PARTIAL}*"):
            _remove(path)


def load_checkpoint(path: Path) -> Loaded:
    """Read and verify one checkpoint folder.

    Raises DamagedCheckpointError for a missing, truncated or altered file, and CheckpointError for a folder that does
    not exist, a format newer than this code, or a file that may not be read.
    """
    path = Path(path)
    if not path.is_dir():
        known = sorted(p.name for p in path.parent.glob("step_*") if p.is_dir())
        raise CheckpointError(f"{path}: no such checkpoint; {path.parent} holds {known}{nearest(path.name, known)}")
    try:
        manifest = _read_manifest(path)
        for name, expected in manifest["files"].items():
            _verify(path / name, expected["size"], expected["sha256"])
        tensors = {name.removesuffix(".safetensors"): load_file(path / name) for name in manifest["groups"]}
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (SafetensorError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise DamagedCheckpointError(f"{path}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: could not be read: {error}") from error
    return Loaded(path, manifest["step"], tensors, state)


def check_keys(expected: Iterable[str], given: Iterable[str], what: str) -> None:
    """Raise CheckpointError that names the first key of ``expected`` missing from ``given``, and the first to spare."""
    wanted, found = list(expected), list(given)
    missing = [key for key in wanted if key not in set(found)]
    spare = [key for key in found if key not in set(wanted)]
    parts = [f"{missing[0]!r} is missing ({len(missing)} in all){nearest(missing[0], spare)}"] if missing else []
    parts += [f"{spare[0]!r} is unexpected ({len(spare)} in all)"] if spare else []
    if parts:
        raise CheckpointError(f"{what} does not fit: {'; '.join(parts)}")


def flatten_optimizer(opt: torch.optim.Optimizer) -> tuple[dict[str, Tensor], JSON]:
    """The state of an optimiser as tensors ``"<parameter>/<key>"`` and JSON: no pickle.

    Parameters go by the names the optimiser was built with (``param_names``), else by ``"<group>.<position>"``. The
    JSON holds the settings of each group, and the shape and non-tensor state of each parameter. Raises TypeError for
    a setting that JSON cannot hold, such as a learning rate kept in a tensor.
    """
    tensors: dict[str, Tensor] = {}
    groups: list[JSON] = []
    for index, group in enumerate(opt.param_groups):
        settings = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        settings = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
        _check_json(settings, f"param_groups[{index}]")
        parameters = {}
        for name, parameter in _named(index, group):
            state = opt.state.get(parameter, {})
            held = {key: value for key, value in state.items() if isinstance(value, Tensor)}
            plain = {key: value for key, value in state.items() if key not in held}
            _check_json(plain, name)
            tensors.update({f"{name}/{key}": value for key, value in held.items()})
            parameters[name] = {"shape": list(parameter.shape), "tensors": list(held), "values": plain}
        groups.append({"settings": settings, "parameters": parameters})
    return tensors, {"groups": groups}


def restore_optimizer(opt: torch.optim.Optimizer, tensors: Mapping[str, Tensor], saved: JSON) -> None:
    """Give ``opt`` the state that ``flatten_optimizer`` took, so that its next steps are the same to the bit.

    Nothing is changed unless everything fits: CheckpointError names the first parameter that is missing, unexpected,
    in another group or of another shape. Settings come from the checkpoint, as in ``load_state_dict``, with a warning
    for each (other than the scheduled learning rate) that differs; the choice of kernel stays that of ``opt``.
    """
    groups = saved["groups"]
    named = [dict(_named(index, group)) for index, group in enumerate(opt.param_groups)]
    check_keys((n for g in named for n in g), (n for g in groups for n in g["parameters"]), "the optimizer state")
    if len(named) != len(groups):
        raise CheckpointError(f"the optimizer has {len(named)} parameter groups, the checkpoint {len(groups)}")
    keys = [f"{n}/{key}" for g in groups for n, entry in g["parameters"].items() for key in entry["tensors"]]
    check_keys(keys, tensors, "the optimizer state")
    for index, (ours, theirs) in enumerate(zip(named, groups, strict=True)):
        check_keys(ours, theirs["parameters"], f"parameter group {index}")
        for name, parameter in ours.items():
            if list(parameter.shape) != (shape := theirs["parameters"][name]["shape"]):
                raise CheckpointError(f"{name!r} has shape {list(parameter.shape)}, its saved state is for {shape}")
    for index, (group, ours, theirs) in enumerate(zip(opt.param_groups, named, groups, strict=True)):
        _restore_settings(group, theirs["settings"], index)
        for name, parameter in ours.items():
            entry = theirs["parameters"][name]
            state = {key: _placed(key, tensors[f"{name}/{key}"], parameter, group) for key in entry["tensors"]}
            if state or entry["values"]:
                opt.state[parameter] = state | entry["values"]
            else:
                opt.state.pop(parameter, None)


def _named(index: int, group: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    names = group.get("param_names") or [f"{index}.{position}" for position in range(len(group["params"]))]
    return zip(names, group["params"], strict=True)


def _restore_settings(group: dict[str, Any], settings: dict[str, JSON], index: int) -> None:
    for key, value in settings.items():
        if key in _KERNEL_SETTINGS:
            continue
        value = tuple(value) if isinstance(group.get(key), tuple) else value
        if key not in _SCHEDULED_SETTINGS and group.get(key) != value:
            text = f"{key} of parameter group {index}: the checkpoint's {value} is used, not {group.get(key)}"
            warnings.warn(text, stacklevel=3)
        group[key] = value


def _placed(key: str, saved: Tensor, parameter: Tensor, group: dict[str, Any]) -> Tensor:
    """A copy where the optimiser itself would keep it: beside the parameter and in its memory format."""
    if saved.shape == parameter.shape and not (key == "step" and saved.ndim == 0):
        return torch.empty_like(parameter, dtype=saved.dtype, requires_grad=False).copy_(saved)
    on_device = key != "step" or group.get("fused") or group.get("capturable")
    return saved.to(parameter.device if on_device else "cpu", copy=True)


def _write_folder(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, JSON]
) -> None:
    folder.mkdir()
    groups = [f"{group}.safetensors" for group in tensors]
    for name, group in zip(groups, tensors.values(), strict=True):
        save_file(_unshared(group), folder / name)
    (folder / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    files = {p.name: {"size": p.stat().st_size, "sha256": _sha256(p)} for p in sorted(folder.iterdir())}
    manifest = {"format": FORMAT, "step": step, "groups": groups, "files": files}
    manifest["digest"] = _digest(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for path in (*folder.iterdir(), folder):
        sync(path)


def _read_manifest(folder: Path) -> dict[str, JSON]:
    """The manifest, once its own digest holds: every format keeps that rule, so newer is never mistaken for damaged."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        digest = manifest.pop("digest")
        holds = digest == _digest(manifest)
    except FileNotFoundError as error:
        raise DamagedCheckpointError(f"{path}: is missing") from error
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise DamagedCheckpointError(f"{path}: is not a manifest ({error})") from error
    if not holds:
        raise DamagedCheckpointError(f"{path}: its digest does not hold (altered)")
    if manifest["format"] > FORMAT:
        text = f"format {manifest['format']} is newer than this version of st_ssl reads (up to {FORMAT}): upgrade it"
        raise CheckpointError(f"{folder}: {text}")
    return manifest


def _remove(path: Path) -> None:
    """Remove a folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)


def _verify(path: Path, size: int, sha256: str) -> None:
    if not path.is_file():
        raise DamagedCheckpointError(f"{path}: is missing")
    if (found := path.stat().st_size) != size:
        raise DamagedCheckpointError(f"{path}: has {found} bytes, not {size} (truncated or altered)")
    if _sha256(path) != sha256:
        raise DamagedCheckpointError(f"{path}: its SHA-256 is not that of the manifest (altered)")


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors, each with storage of its own as safetensors asks (tied weights are written twice)."""
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        storage = value.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != value.nbytes:
            value = value.clone()
        seen.add(value.untyped_storage().data_ptr())
        plain[name] = value
    return plain


def _check_json(value: object, where: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where}: the key {key!r} is not a str: JSON would change it")
            _check_json(item, f"{where}.{key}")
    elif isinstance(value, list):
        for position, item in enumerate(value):
            _check_json(item, f"{where}[{position}]")
    elif not (value is None or isinstance(value, bool | int | float | str)):
        raise TypeError(f"{where}: {type(value).__name__} cannot be kept as JSON")


def _unused_name(path: Path) -> Path:
    aside, number = path.with_name(f"{path.name}.damaged"), 1
    while aside.exists():
        aside, number = path.with_name(f"{path.name}.{number}.damaged"), number + 1
    return aside


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(manifest: dict[str, JSON]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
