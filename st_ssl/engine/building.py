"""A method and its encoders, as a run begins with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from st_ssl.core.errors import ConfigError, DataError, nearest
from st_ssl.core.random import keyed_seed
from st_ssl.encoders.base import ENCODERS, Encoder
from st_ssl.encoders.start import Started, start_from
from st_ssl.engine.run_config import RunConfig
from st_ssl.methods.base import METHODS, Method
from st_ssl.training.checkpoint import Loaded, load_checkpoint


@dataclass
class Built:
    """A method, what became of the weights that its encoders started from, by the name of the encoder, and the digests
    of files that frozen encoders are from."""

    method: Method[Any]
    started: dict[str, Started]

    @property
    def frozen(self) -> dict[str, str]:
        """The prefix in the method's state of each frozen encoder that is from a file, and the digest of the file."""
        found = {}
        for name, started in self.started.items():
            encoder = getattr(self.method, name, None)
            if isinstance(encoder, Encoder) and encoder.frozen:
                found[f"{name}."] = started.digest
        return found


def build_method(config: RunConfig, start: bool = True) -> Method[Any]:
    """The method around its encoders: see ``build``."""
    return build(config, start).method


def build(config: RunConfig, start: bool = True) -> Built:
    """The method around its encoders, freshly initialised or (with ``start``) with the weights that they start from; a
    function of ``config`` and those files. Raises ``ConfigError`` where the method takes other encoders, or weights do
    not fit."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(keyed_seed(config.seed, "weights"))
        encoder = ENCODERS.build(config.encoder, config.input)
        further = {name: ENCODERS.build(one.encoder, one.input) for name, one in config.encoders.items()}
        starts = {"encoder": (encoder, config.weights, config.frozen)}
        starts |= {name: (further[name], one.weights, one.frozen) for name, one in config.encoders.items()}
        started = {}
        for name, (own, weights, frozen) in starts.items():
            if weights is not None and start:
                started[name] = start_from(own, Path(weights.run))
            if frozen:
                own.freeze()
        _check_further(METHODS.registered(config.method.name), config)
        method = METHODS.build(config.method, encoder, **further)
    for _, weights, _ in starts.values():
        if weights is not None and start:
            for part in weights.parts:
                _load_part(method, Path(weights.run), part)
    return Built(method, started)


def with_checkpoint(config: RunConfig, loaded: Loaded) -> Method[Any]:
    """The method of a run in evaluation mode, with the weights of one of its checkpoints. Raises ``DataError`` where
    they do not fit."""
    frozen = tuple(loaded.state["frozen"])  # encoders that are in files of their own
    method = build_method(config, start=bool(frozen))
    kept = {name: own for name, own in method.state_dict().items() if name.startswith(frozen)}
    try:
        method.load_state_dict(kept | loaded.tensors["model"])
    except RuntimeError as error:
        raise DataError(f"{loaded.path} does not fit config.yaml: {error}") from error
    return method.eval()


def averaged(method: Method[Any], exported: Encoder, slow: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The moving average of an exported encoder, out of that of its ``method``, ``slow``; None of an encoder that is a
    teacher, and so an average already."""
    if not any(p.requires_grad for p in exported.parameters()):
        return None
    (prefix,) = (f"{name}." for name, module in method.named_modules() if module is exported)
    return {name.removeprefix(prefix): value for name, value in slow.items() if name.startswith(prefix)}


def _check_further(method: type[Method[Any]], config: RunConfig) -> None:
    """Raise ``ConfigError`` where ``encoders`` are not those that ``method`` takes beside the first."""
    wanted = list(signature(method.__init__).parameters)[3:]
    if sorted(wanted) != sorted(config.encoders):
        takes = f"takes the further encoders {wanted}" if wanted else "takes one encoder"
        raise ConfigError(f"encoders: method.name={config.method.name} {takes}, not {sorted(config.encoders)}")


def _load_part(method: Method[Any], run: Path, part: str) -> None:
    """Put the part of that name of the newest checkpoint of ``run`` into ``method``."""
    folders = sorted((run / "checkpoints").glob("step_*"))
    if not folders:
        raise ConfigError(f"weights.parts: {run} has no checkpoints to take {part!r} from")
    module = dict(method.named_children()).get(part)
    if module is None:
        names = [name for name, _ in method.named_children()]
        raise ConfigError(f"weights.parts: this method has no part {part!r}{nearest(part, names)} (it has: {names})")
    prefix = f"{part}."
    tensors = load_checkpoint(folders[-1]).tensors["model"]
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    try:
        module.load_state_dict(own)
    except RuntimeError as error:
        raise ConfigError(f"weights.parts: {part!r} of {run} does not fit: {error}") from error
