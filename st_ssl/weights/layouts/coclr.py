"""CoCLR, InfoNCE and UberNCE (Han et al. 2020), TengdaHan/CoCLR: S3D with names and a batch norm of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from st_ssl.encoders.base import Encoder
from st_ssl.weights.base import LAYOUTS, Layout, LayoutConfig, Published, WeightsError

PARTS = {  # of the layers of ours that have weights: the name of each, and the other name that every file has too
    0: ("Conv_1a", "block1.0"),
    2: ("Conv_2b", "block2.1"),
    3: ("Conv_2c", "block2.2"),
    **{5 + i: (f"Mixed_3{x}", f"block3.{1 + i}") for i, x in enumerate("bc")},
    **{8 + i: (f"Mixed_4{x}", f"block4.{1 + i}") for i, x in enumerate("bcdef")},
    **{14 + i: (f"Mixed_5{x}", f"block5.{1 + i}") for i, x in enumerate("bc")},
}


class CoclrLayoutConfig(LayoutConfig):
    """``network`` is which of those in a file of pretraining: the one that was trained (``query``), its moving average
    (``momentum``), or the one of the other stream that chose the positives (``sampler``)."""

    name: Literal["coclr"] = "coclr"
    network: Literal["query", "momentum", "sampler"] = "query"


PLACES = {"query": "encoder_q", "momentum": "encoder_k", "sampler": "sampler"}


@LAYOUTS.register(CoclrLayoutConfig)
class CoclrLayout(Layout):
    """S3D, and S3D-G with gates after the branches of its blocks, become ``s3d``: the files of pretraining, and those
    of the classifiers that were fine-tuned from them. Clips of 32 frames of 128 pixels, as published; files of flow and
    of RGB have the same names."""

    summary = "TengdaHan/CoCLR: S3D of InfoNCE, UberNCE and CoCLR (.pth.tar), or fine-tuned"
    containers = ("state_dict", "model", "")
    prefixes = ("backbone.",)
    governs = ((r"", "encoder.width"),)
    config: CoclrLayoutConfig

    def __init__(self, config: LayoutConfig, published: Published) -> None:
        super().__init__(config, published)
        place = PLACES[self.config.network]
        pretraining = any(name.startswith(tuple(PLACES.values())) for name in self.state)
        self.before = f"{place}.0." if pretraining else ""

    def settings(self) -> dict[str, Any]:
        first, also = (f"{self.before}{part}.conv1.weight" for part in PARTS[0])
        name = also if first not in self.state and also in self.state else first
        if self.before and f"{self.before}layer1.0.conv1.weight" in self.state:
            raise WeightsError(f"{self.published.path}: the network is a 2D-3D ResNet; S3D is what can be imported")
        self.expect(name)
        gated = f"{self.before}Mixed_3b.gating_b0.fc.weight" in self.state
        return {
            "encoder": {
                "name": "s3d",
                "width": self.state[name].shape[0],
                "gating": "blocks" if gated else "none",
                "norm_eps": 1e-5,
            },
            "input": {"num_frames": 32, "stride": 1, "size": 128},
        }

    def sources(self, key: str) -> tuple[str, ...]:
        layer, rest = re.fullmatch(r"features\.(\d+)\.(.*)", key).groups()  # type: ignore[union-attr]
        inside = published_name(int(layer), rest)
        both = tuple(f"{self.before}{part}.{inside}" for part in PARTS[int(layer)])
        return tuple(name for name in both if name in self.state) or both[:1]

    def make(self, key: str, found: Sequence[Tensor], encoder: Encoder) -> tuple[Tensor, str]:
        if len(found) > 1 and not torch.equal(found[0], found[1]):
            first, second = self.sources(key)
            raise WeightsError(f"{self.published.path}: {first!r} and {second!r} name one weight, but differ")
        return found[0], "under two names" if len(found) > 1 else ""

    def why_left(self, name: str) -> str | None:
        place = name.split(".")[0]
        if self.before and name.startswith(self.before[:-2]):
            return "the projection"
        if place in PLACES.values():
            other = next(network for network, there in PLACES.items() if there == place)
            return f"another network of the file (layout.network={other})"
        if place.startswith("queue"):
            return "the queue of pretraining"
        return "the classifier of its own labels" if place in ("final_fc", "final_bn") else None


def published_name(layer: int, rest: str) -> str:
    """What is behind ``features.<layer>.`` in a key of ours, as CoCLR has it behind the name of that layer."""
    *path, what = rest.split(".")
    if path[-1] == "fc":  # a gate: branch1.1.2.fc
        return f"gating_b{path[0].removeprefix('branch')}.fc.{what}"
    kind = "conv" if path[-1] == "0" else "bn"
    if layer in (0, 3):  # over space and over time: 0.1 is the norm of the first
        return f"{kind}{int(path[0]) + 1}.{what}"
    if layer == 2:
        return f"{kind}.{what}"
    branch, *inside, _ = path
    if len(inside) == 2:  # branch1.1.<space or time>
        return f"{branch}.1.{kind}{int(inside[1]) + 1}.{what}"
    return f"{branch}.{inside[0] if inside else 0}.{kind}.{what}"
