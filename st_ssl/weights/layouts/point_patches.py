"""Transformers over patches of points as their authors publish them: Point-BERT (github.com/lulutang0608/Point-BERT),
Point-MAE (github.com/Pang-Yatian/Point-MAE) and Point2Vec (github.com/kabouzeid/point2vec)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from st_ssl.encoders.base import Encoder
from st_ssl.weights.base import LAYOUTS, ForeignError, Layout, LayoutConfig, WeightsError

_TOKENISER = MappingProxyType(
    {"linear1": "first_conv.0", "norm1": "first_conv.1", "linear2": "first_conv.3"}
    | {"linear3": "second_conv.0", "norm2": "second_conv.1", "linear4": "second_conv.3"}
)
_WIDTHS = ("linear1", "linear2", "linear3")  # of the tokeniser, told by shapes
_HEADS = MappingProxyType({192: 3, 384: 6, 768: 12})
_CLASS = MappingProxyType({"class_token": "cls_token", "class_position": "cls_pos"})
_MLP = MappingProxyType({"mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"})
_PRETRAINING = "of pretraining alone"


class PatchesLayoutConfig(LayoutConfig):
    """``heads``: of attention, which no shape tells; null takes that of the published network of this width."""

    heads: int | None = Field(default=None, gt=0)


class PatchesLayout(Layout):
    """What all share. Patches are said nowhere in a file: 64 of 32 points, unless ``encoder.num_groups`` and
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
        token = len(self.state[f"{self.tokeniser}.second_conv.3.weight"])
        return {
            "encoder": {
                **({"token_dim": token} if "reduce_dim.weight" in self.state else {}),
                **({"class_token": True} if "cls_token" in self.state else {}),
                **{"name": "point_vit", "dim": dim, "heads": heads, "tokeniser": widths, "init": self.init},
                "depth": self.count(rf"{re.escape(self.blocks)}\.(\d+)\.norm1\.weight"),
                "mlp_ratio": hidden / dim,
                "qkv_bias": f"{block}attn.qkv.bias" in self.state,
            },
            "input": {"num_points": 1024, "unit_sphere": True},
        }

    def sources(self, key: str) -> tuple[str, ...]:
        part, _, rest = key.partition(".")
        if part in _CLASS:
            return (_CLASS[part],)
        if part == "tokeniser":
            name, _, kind = rest.partition(".")
            if name == "reduce":
                return (f"reduce_dim.{kind}",)
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
    """Pretrained files, whose decoder is left over, and fine-tuned ones, whose head is."""

    config: PointMAELayoutConfig
    summary = "Point-MAE, pretrained or fine-tuned (Pang-Yatian/Point-MAE)"
    containers: ClassVar[tuple[str, ...]] = ("base_model", "model", "state_dict", "")
    prefixes: ClassVar[tuple[str, ...]] = ("MAE_encoder.",)
    tokeniser, position, blocks, norm = "encoder", "pos_embed", "blocks.blocks", "norm"
    biased = True
    left: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"(MAE_decoder|increase_dim|decoder_pos_embed)\..*|mask_token", _PRETRAINING),
        (r"cls_head_finetune\..*", "of the classifier"),
    )

    def settings(self) -> dict[str, Any]:
        if "reduce_dim.weight" in self.state:
            raise ForeignError(f"{self.published.path}: not of the layout point_mae: it has reduce_dim, as Point-BERT")
        return super().settings()


class PointBERTLayoutConfig(PatchesLayoutConfig):
    """See ``PatchesLayoutConfig``."""

    name: Literal["point_bert"] = "point_bert"


@LAYOUTS.register(PointBERTLayoutConfig)
class PointBERTLayout(PatchesLayout):
    """The network that was trained, of a pretrained file that also has its slow copy and the tokens' dVAE; or one that
    was fine-tuned, without its head."""

    config: PointBERTLayoutConfig
    summary = "Point-BERT, pretrained or fine-tuned (lulutang0608/Point-BERT)"
    containers: ClassVar[tuple[str, ...]] = ("base_model", "model", "state_dict", "")
    prefixes: ClassVar[tuple[str, ...]] = ("transformer_q.",)
    tokeniser, position, blocks, norm = "encoder", "pos_embed", "blocks.blocks", "norm"
    biased = True
    left: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"(transformer_k|dvae|lm_head|cls_head)\..*|mask_token|queue|queue_ptr", _PRETRAINING),
        (r"cls_head_finetune\..*", "of the classifier"),
    )

    def settings(self) -> dict[str, Any]:
        self.expect("reduce_dim.weight", "cls_token", "cls_pos")
        return super().settings()


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
