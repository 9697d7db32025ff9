"""An encoder in one file: the weights as safetensors, what they are of in the metadata."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from st_ssl.core.errors import UserError
from st_ssl.core.plain_json import NOT_PLAIN, load_json
from st_ssl.encoders.base import ENCODERS, Encoder, description, parse_description, parse_prepared

KEY = "st_ssl"
"""Where in the metadata the description is."""
HEAD = "head."
"""What the names of a head's weights begin with."""


@dataclass(frozen=True)
class Bundle:
    """An encoder in eval mode on the CPU, the weights of the head that was fine-tuned with it, if any, and what else
    the file tells of them."""

    encoder: Encoder
    head: dict[str, Tensor] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


def write_bundle(file: Path, bundle: Bundle) -> None:
    """Write ``bundle`` to ``file``: the keys of the encoder as they are, the head's with ``HEAD`` in front."""
    from safetensors.torch import save_file

    weights = dict(bundle.encoder.state_dict())
    assert not any(name.startswith(HEAD) for name in weights), "an encoder has no head"
    weights |= {f"{HEAD}{name}": tensor for name, tensor in bundle.head.items()}
    told = {**bundle.about, **description(bundle.encoder)}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    save_file(plain, file, metadata={KEY: json.dumps(told)})  # of several their order would be left to chance


def read_bundle(file: Path) -> Bundle:
    """What ``write_bundle`` wrote. Raises ``UserError`` naming the file where it is damaged, is of something else, or
    its keys are not those of the encoder that it tells of."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            weights: dict[str, Tensor] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if KEY not in metadata:
            raise UserError(
                f"{file}: has no description of an encoder in its metadata, so it was not exported by st_ssl: bring "
                "published weights in by `st-ssl convert import`"
            )
        told = load_json(metadata[KEY])
        encoder = ENCODERS.build(*parse_description(told, str(file)))
        encoder.prepared = parse_prepared(told, str(file))
        encoder.load_state_dict({name: tensor for name, tensor in weights.items() if not name.startswith(HEAD)})
    except UserError:
        raise
    except (OSError, SafetensorError, RuntimeError, *NOT_PLAIN) as error:
        raise UserError(f"{file}: cannot be loaded: {error}") from error
    head = {name.removeprefix(HEAD): tensor for name, tensor in weights.items() if name.startswith(HEAD)}
    about = {name: value for name, value in told.items() if name not in description(encoder)}
    return Bundle(encoder.eval(), head, about)
