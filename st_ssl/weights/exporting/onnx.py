"""ONNX, for ONNX Runtime, TensorRT, OpenVINO and the like."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from st_ssl.core.errors import MissingDependencyError
from st_ssl.weights.exporting.base import TRACED, Export, Network

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LARGEST = 1_800_000_000
"""Bytes of weights in the file itself; a file of ONNX holds less than 2 GiB, so more are put beside it."""


class Onnx(Export):
    """Made by torch's exporter, checked by ONNX Runtime on the CPU. Input ``clip``, outputs by name."""

    name = "onnx"
    suffix = ".onnx"

    def require(self, network: Network) -> None:
        for package in PACKAGES:
            try:
                __import__(package)
            except ImportError as error:
                raise MissingDependencyError(package, "export", "--to onnx") from error

    def write(self, network: Network, place: Path, about: dict[str, Any]) -> None:
        clip = network.clips(TRACED)
        names = list(about["outputs"])
        size = sum(tensor.nbytes for tensor in network.state_dict().values())
        log = logging.getLogger("torch.onnx")
        level = log.level
        try:
            log.setLevel(logging.ERROR)  # what it says of its own rewriting is no concern of the user
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")
                program = torch.onnx.export(
                    network,
                    (clip,),
                    dynamo=True,
                    dynamic_shapes=({0: torch.export.Dim("batch")},),
                    input_names=["clip"],
                    output_names=names,
                    verbose=False,
                )
        finally:
            log.setLevel(level)
        assert program is not None
        program.model.metadata_props["st_ssl"] = json.dumps(about)
        for node in program.model.graph.all_nodes():
            node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)  # it names folders of whoever exported
        program.save(place, external_data=size > LARGEST)

    def run(self, network: Network, place: Path, clips: list[Tensor]) -> list[dict[str, Tensor]]:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(place), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return [
            dict(zip(names, map(torch.from_numpy, session.run(None, {"clip": clip.numpy()})), strict=True))
            for clip in clips
        ]
