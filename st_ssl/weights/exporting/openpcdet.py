"""SECOND's network, and a detector on it, as OpenPCDet loads them (spconv 2.2 and later)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from st_ssl.core.errors import ConfigError, UserError
from st_ssl.encoders.second import Second
from st_ssl.weights.exporting.base import Export, Network
from st_ssl.weights.importing import import_weights

_PARTS = {"detector.bev.": "backbone_2d.", "detector.head.": "dense_head."}


class OpenPCDet(Export):
    """``--ckpt`` or ``--pretrained_model`` of its tools: ``model_state`` with the names of ``backbone_3d``, and of a
    detector of ``backbone_2d`` and ``dense_head``. Ranges, voxels and classes are for its configuration to say."""

    name = "openpcdet"
    suffix = ".pth"
    clouds = True

    def require(self, network: Network) -> None:
        if not isinstance(network.encoder, Second):
            raise ConfigError("--to openpcdet is for encoders of its form: second")

    def write(self, network: Network, place: Path, about: dict[str, Any]) -> None:
        state = {f"backbone_3d.{name}": value.detach().cpu() for name, value in network.encoder.state_dict().items()}
        head: dict[str, Tensor] = {} if network.head is None else network.head.state_dict()
        for name, value in head.items():
            part = next((part for part in _PARTS if name.startswith(part)), None)
            if part is None:
                raise ConfigError("--to openpcdet has a place for heads of detectors alone")
            state[_PARTS[part] + name.removeprefix(part)] = value.detach().cpu()
        torch.save({"model_state": state, "epoch": 0, "it": 0, "version": "st_ssl, kernels [out, z, y, x, in]"}, place)
        read = import_weights(place, "openpcdet").encoder.state_dict()
        for name, value in network.encoder.state_dict().items():
            if not torch.equal(read[name], value.cpu()):
                raise UserError(f"{place.name}: {name} was not written as it is: is the disk sound?")

    def run(self, network: Network, place: Path, clips: list[Tensor]) -> list[dict[str, Tensor]]:
        raise AssertionError("weights are compared as they are written")
