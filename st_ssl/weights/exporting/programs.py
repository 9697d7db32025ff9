"""Programs of torch: what ``torch.export`` makes, and TorchScript."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from st_ssl.config import Config
from st_ssl.weights.exporting.base import EXPORTS, TRACED, Export, Network

ABOUT = "st_ssl.json"
"""The description within the file."""


class TorchExportConfig(Config):
    """Nothing can be set: the batch is free, frames and size are those of the encoder."""

    name: Literal["torch-export"] = "torch-export"


@EXPORTS.register(TorchExportConfig)
class TorchExport(Export):
    """``torch.export.load(file).module()(clip)``: outputs by name, for any batch; also what AOTInductor compiles."""

    suffix = ".pt2"
    summary = "a program of torch.export, for torch without st_ssl"

    def write(self, network: Network, place: Path, about: dict[str, Any]) -> None:
        free = {"clip": {0: torch.export.Dim("batch")}}
        with torch.no_grad():
            program = torch.export.export(network, (network.clips(TRACED),), dynamic_shapes=free)
        torch.export.save(program, place, extra_files={ABOUT: json.dumps(about)})

    def run(self, network: Network, place: Path, clips: list[Tensor]) -> list[dict[str, Tensor]]:
        program = torch.export.load(place).module()
        return [program(clip) for clip in clips]


class TorchScriptConfig(Config):
    """Nothing can be set: the batch is free, frames and size are those of the encoder."""

    name: Literal["torchscript"] = "torchscript"


@EXPORTS.register(TorchScriptConfig)
class TorchScript(Export):
    """``torch.jit.load(file)(clip)``: outputs by name, for any batch."""

    suffix = ".pt"
    summary = "TorchScript, for what was deployed before torch.export"
    note = "torch develops TorchScript no further: for new deployments there is --to torch-export"

    def write(self, network: Network, place: Path, about: dict[str, Any]) -> None:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # that it is old is told in ``note``; what it traced is checked
            traced = torch.jit.trace(network, network.clips(TRACED), strict=False, check_trace=False)
            torch.jit.save(traced, place, _extra_files={ABOUT: json.dumps(about)})

    def run(self, network: Network, place: Path, clips: list[Tensor]) -> list[dict[str, Tensor]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is old
            program = torch.jit.load(place, map_location="cpu")
        return [program(clip) for clip in clips]
