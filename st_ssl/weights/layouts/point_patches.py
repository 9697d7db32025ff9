"""Transformers over patches of points as their authors publish them: Point-MAE (github.com/Pang-Yatian/Point-MAE) and
Point2Vec (github.com/kabouzeid/point2vec)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from st_ssl.encoders.base import Encoder
from st_ssl.weights.base import LAYOUTS, Layout, LayoutConfig, WeightsError

_TOKENISER = MappingProxyType(
    {"linear1": "first_conv.0", "norm1": "first_conv.1", "linear2": "first_conv.3"}
    | {"linear3": "second_conv.0", "norm2": "second_conv.1", "linear4": "second_conv.3"}
)
_WIDTHS = ("linear1", "linear2", "linear3")  # of the tokeniser, told by shapes
_HEADS = MappingProxyType({192: 3, 384: 6, 768: 12})
_MLP = MappingProxyType({"mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"})
_PRETRAINING = "of pretraining alone"


class PatchesLayoutConfig(LayoutConfig):
    """``heads``: of attention, which no shape tells; null takes that of the published network of this width."""

    heads: int | None = Field(default=None, gt=0)


class PatchesLayout(Layout):
    """What both share. Patches are said nowhere in a file: 64 of 32 points, unless ``encoder.num_groups`` and
    ``encoder.group_size`` say others."""

    config: PatchesLayoutConfig
    prefixes: ClassVar[tuple[str, ...]] = ()
    tokeniser: ClassVar[str]
    position: ClassVar[str]
    blocks: ClassVar[str]
    norm: ClassVar[str]
    init: ClassVar[str] = "point_mae"
    biased: ClassVar[bool]
    """Whether the convolutions before batch norm have a bias."""

    def settings(self) -> dict[str, Any]:
        first, block = f"{self.tokeniser}.first_conv.0.weight", f"{self.blocks}.0."
        self.expect(first, f"{self.position}.2.weight", f"{block}attn.qkv.weight")
        dim = len(self.state[f"{self.position}.2.weight"])
        heads = self.config.heads or _HEADS.get(dim)
        if heads is None:
            known = ", ".join(f"{width} ({number})" for width, number in _HEADS.items())
            told = f"width {dim}, of which nothing tells the heads (published are {known}): give layout.heads=NUMBER"
            raise WeightsError(f"{self.published.path}: {told}")
        if self.state[first].shape[1] != 3:
            raise WeightsError(f"{self.published.path}: is for {self.state[first].shape[1]} numbers a point, not 3")
        hidden = len(self.state[f"{block}mlp.fc1.weight"])
        widths = [len(self.state[f"{self.tokeniser}.{_TOKENISER[name]}.weight"]) for name in _WIDTHS]
        return {
            "encoder": {
                **{"name": "point_vit", "dim": dim, "heads": heads, "tokeniser": widths, "init": self.init},
                "depth": self.count(rf"{re.escape(self.blocks)}\.(\d+)\.norm1\.weight"),
                "mlp_ratio": hidden / dim,
                "qkv_bias": f"{block}attn.qkv.bias" in self.state,
            },
            "input": {"num_points": 1024, "unit_sphere": True},
        }

    def sources(self, key: str) -> tuple[str, ...]:
        part, _, rest = key.partition(".")
        if part == "tokeniser":
            name, _, kind = rest.partition(".")
            if kind == "bias" and name in ("linear1", "linear3") and not self.biased:
                return ()
            return (f"{self.tokeniser}.{_TOKENISER[name]}.{kind}",)
        if part == "blocks":
            number, _, rest = rest.partition(".")
            name, _, kind = rest.rpartition(".")
            return (f"{self.blocks}.{number}.{_MLP.get(name, name)}.{kind}",)
        return (f"{self.position if part == 'position' else self.norm}.{rest}",)

    def make(self, key: str, found: Sequence[Tensor], encoder: Encoder) -> tuple[Tensor, str]:
        if not found:
            return torch.zeros_like(encoder.state_dict()[key], device="cpu"), "zero: this convolution has no bias"
        (tensor,) = found
        return (tensor.squeeze(2), "of a convolution over points") if tensor.dim() == 3 else (tensor, "")


class PointMAELayoutConfig(PatchesLayoutConfig):
    """See ``PatchesLayoutConfig``."""

    name: Literal["point_mae"] = "point_mae"


@LAYOUTS.register(PointMAELayoutConfig)
class PointMAELayout(PatchesLayout):
    """Pretrained files, whose decoder is left over. Fine-tuned ones have a class token that all patches attend to,
    which the encoder has not: these are refused."""

    config: PointMAELayoutConfig
    summary = "Point-MAE, pretrained (Pang-Yatian/Point-MAE)"
    containers: ClassVar[tuple[str, ...]] = ("base_model", "model", "state_dict", "")
    prefixes: ClassVar[tuple[str, ...]] = ("MAE_encoder.",)
    tokeniser, position, blocks, norm = "encoder", "pos_embed", "blocks.blocks", "norm"
    biased = True
    left: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"(MAE_decoder|increase_dim|decoder_pos_embed)\..*|mask_token", _PRETRAINING),
    )

    def settings(self) -> dict[str, Any]:
        settings = super().settings()
        if "cls_token" in self.state:
            raise WeightsError(
                f"{self.published.path}: has a class token, as Point-MAE has it once fine-tuned; the encoder has none: "
                "import the pretrained file"
            )
        return settings


class Point2VecLayoutConfig(PatchesLayoutConfig):
    """See ``PatchesLayoutConfig``."""

    name: Literal["point2vec"] = "point2vec"


@LAYOUTS.register(Point2VecLayoutConfig)
class Point2VecLayout(PatchesLayout):
    """The student of a pretrained file, with the one tokeniser and position network that it shares with the teacher."""

    config: Point2VecLayoutConfig
    summary = "Point2Vec, pretrained (kabouzeid/point2vec)"
    containers: ClassVar[tuple[str, ...]] = ("state_dict", "model", "")
    tokeniser, position, blocks, norm = "tokenizer.embedding", "positional_encoding", "student.blocks", "student.norm"
    biased = False
    init = "torch"
    left: ClassVar[tuple[tuple[str, str], ...]] = ((r"(teacher|decoder|regressor)\..*|mask_token", _PRETRAINING),)
