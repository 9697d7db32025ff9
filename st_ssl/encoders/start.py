"""Weights to start from: those of an encoder that an earlier run left, or that was imported."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from st_ssl.core.errors import ConfigError
from st_ssl.encoders.base import ENCODERS, Encoder, describe_encoder, load_weights


@dataclass
class Started:
    """What became of the weights of a file: the ``digest`` (SHA-256) of the file, and the names of tensors that were
    ``taken``, ``resized`` to another size of input, ``other`` in shape, ``missing`` in the file, or ``unused`` of
    it."""

    place: Path
    digest: str
    taken: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def told(self) -> str:
        """One line for people: how many tensors were taken, and the names of those that were not."""
        parts = [f"{len(self.taken)} tensors taken from {self.place}"]
        for names, what in (
            (self.resized, "resized to this input"),
            (self.other, "left out, of another shape"),
            (self.missing, "not in the file"),
            (self.unused, "of the file not used"),
        ):
            if names:
                more = f", … ({len(names) - 3} more)" if len(names) > 3 else ""
                parts.append(f"{len(names)} {what} ({', '.join(names[:3])}{more})")
        return "; ".join(parts)


def start_from(encoder: Encoder, place: Path) -> Started:
    """Put the weights of the encoder in the folder ``place`` into ``encoder``, by name; positions are interpolated to
    its input. Tensors of another shape are left as they are, and told.

    Raises ``ConfigError`` where there is no encoder, or nothing of it fits; ``UserError`` where it is damaged.
    """
    config, input = describe_encoder(place)
    file = place / "encoder.safetensors"
    found = load_weights(file)
    started = Started(place, hashlib.sha256(file.read_bytes()).hexdigest())
    own = encoder.state_dict()
    differ = any(name in found and found[name].shape != tensor.shape for name, tensor in own.items())
    before = ENCODERS.build(config, input) if differ else None
    new: dict[str, Tensor] = {}
    for name, tensor in own.items():
        value = found.get(name)
        if value is None:
            started.missing.append(name)
        elif value.shape == tensor.shape:
            started.taken.append(name)
            new[name] = value
        elif before is not None and (fitted := encoder.resized(name, value, before)) is not None:
            started.resized.append(name)
            new[name] = fitted
        else:
            started.other.append(name)
    started.unused = [name for name in found if name not in own]
    if not started.taken:
        raise ConfigError(f"weights={place}: nothing of this {config.model_dump()['name']} fits the encoder of the run")
    encoder.load_state_dict(own | new)
    return started
