"""Programs of torch: what ``torch.export`` makes, and TorchScript."""

from __future__ import annotations

import json
import shutil
import warnings
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor

from st_ssl.core.config import Config
from st_ssl.weights.exporting.base import EXPORTS, TRACED, Export, Network

ABOUT = "st_ssl.json"
"""The description within the file."""


def forget_places(program: torch.export.ExportedProgram) -> None:
    """Take out of ``program`` which lines of code its operations come from: these name folders of whoever exported."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)


def _without_places(traced: Path, place: Path) -> None:
    """Copy an archive of TorchScript without its records for debuggers, which name folders of whoever exported."""
    with zipfile.ZipFile(traced) as archive, zipfile.ZipFile(place, "w") as copy:
        for entry in archive.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                with archive.open(entry) as source, copy.open(entry.filename, "w", force_zip64=True) as target:
                    shutil.copyfileobj(source, target)


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
        forget_places(program)
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
            with TemporaryDirectory(dir=place.parent, prefix=".traced.") as folder:
                torch.jit.save(traced, Path(folder) / place.name, _extra_files={ABOUT: json.dumps(about)})
                _without_places(Path(folder) / place.name, place)

    def run(self, network: Network, place: Path, clips: list[Tensor]) -> list[dict[str, Tensor]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is old
            program = torch.jit.load(place, map_location="cpu")
        return [program(clip) for clip in clips]
