"""Programs of ``torch.export``, for torch without st_ssl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from st_ssl.weights.exporting.base import TRACED, Export, Network

ABOUT = "st_ssl.json"
"""The description within the file."""


def forget_places(program: torch.export.ExportedProgram) -> None:
    """Take out of ``program`` which lines of code its operations come from: these name folders of whoever exported."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)


class TorchExport(Export):
    """``torch.export.load(file).module()(clip)``: outputs by name, for any batch; also what AOTInductor compiles."""

    name = "torch-export"
    suffix = ".pt2"

    def write(self, network: Network, place: Path, about: dict[str, Any]) -> None:
        free = {"clip": {0: torch.export.Dim("batch")}}
        with torch.no_grad():
            program = torch.export.export(network, (network.clips(TRACED),), dynamic_shapes=free)
        forget_places(program)
        torch.export.save(program, place, extra_files={ABOUT: json.dumps(about)})

    def run(self, network: Network, place: Path, clips: list[Tensor]) -> list[dict[str, Tensor]]:
        program = torch.export.load(place).module()
        return [program(clip) for clip in clips]
