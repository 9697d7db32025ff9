"""Small encoders, and their exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from st_ssl.encoders.base import ENCODERS, Encoder, random_encoder
from st_ssl.weights.exporting.base import Network, export_network, exports
from tests.encoders.hf_videomae import randomise
from tests.encoders.small import INPUTS, SMALL, modality

CLASSES = ["a", "b", "c"]


def encoder_of(name: str, **changes: Any) -> Encoder:
    """The encoder ``name`` at its smallest, random in every parameter."""
    config = ENCODERS.config(name).model_validate({"name": name, **SMALL[name], **changes})
    encoder = random_encoder(config, INPUTS[modality(name)], 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        randomise(encoder)
    return encoder


def export(name: str, encoder: Encoder, folder: Path, head: nn.Module | None = None) -> tuple[Path, dict[str, Any]]:
    """Where ``encoder`` went in ``folder``, and what was told of it."""
    place = folder / f"out{exports()[name].suffix}"
    return place, export_network(Network(encoder, head, CLASSES if head else []), name, place)
