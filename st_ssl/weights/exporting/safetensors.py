"""The encoder and its description in one file of safetensors, for ``st_ssl.load`` and ``convert.py import``."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from st_ssl.core.errors import UserError
from st_ssl.weights.bundle import Bundle, read_bundle, write_bundle
from st_ssl.weights.exporting.base import Export, Network


class Safetensors(Export):
    """The weights are the run's to the bit, under the same names."""

    name = "safetensors"
    suffix = ".safetensors"
    clouds = True

    def write(self, network: Network, place: Path, about: dict[str, Any]) -> None:
        head = {} if network.head is None else network.head.state_dict()
        write_bundle(place, Bundle(network.encoder, head, {"classes": network.classes} if network.classes else {}))
        written = read_bundle(place)
        for ours, theirs in ((network.encoder.state_dict(), written.encoder.state_dict()), (head, written.head)):
            for name, tensor in ours.items():
                if not torch.equal(theirs[name], tensor):
                    raise UserError(f"{place.name}: {name} was not written as it is: is the disk sound?")

    def run(self, network: Network, place: Path, clips: list[Tensor]) -> list[dict[str, Tensor]]:
        written = read_bundle(place)
        head = deepcopy(network.head)
        if head is not None:
            head.load_state_dict(written.head)
        read = Network(written.encoder, head)
        return [read(clip) for clip in clips]
