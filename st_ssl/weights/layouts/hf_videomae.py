"""VideoMAE as ``transformers`` keeps it: VideoMAEModel, VideoMAEForPreTraining, VideoMAEForVideoClassification."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from st_ssl.weights.base import LAYOUTS, Published
from st_ssl.weights.layouts.videomae import DECODER, HEAD
from st_ssl.weights.plain_vit import Names, ViTLayout, ViTLayoutConfig


class HFVideoMAELayoutConfig(ViTLayoutConfig):
    """Of a folder with ``config.json``, or a file alone; see ``ViTLayoutConfig``."""

    name: Literal["hf-videomae"] = "hf-videomae"


@LAYOUTS.register(HFVideoMAELayoutConfig)
class HFVideoMAELayout(ViTLayout):
    """Heads, frames, pixels and the epsilon of norms are those of ``config.json``, or else transformers' defaults; the
    colours' mean those of ``preprocessor_config.json``, or else ImageNet's.
    Files on the Hub call the biases ``q_bias`` and ``v_bias``, what transformers 5 saves ``query.bias`` and
    ``value.bias``; keys have none."""

    summary = "VideoMAE of transformers: the folder or file of save_pretrained, or of the Hub (MCG-NJU/videomae-*)"
    containers: ClassVar[tuple[str, ...]] = ("",)
    prefixes: ClassVar[tuple[str, ...]] = ("videomae.",)
    left: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"decoder\..*|encoder_to_decoder\.weight|mask_token", DECODER),
        (r"classifier\.(weight|bias)", HEAD),
    )
    parts = Names(
        patches="embeddings.patch_embeddings.projection",
        block="encoder.layer.{}.",
        qkv=tuple(f"attention.attention.{name}" for name in ("query", "key", "value")),
        proj="attention.output.dense",
        norm1="layernorm_before",
        norm2="layernorm_after",
        fc1="intermediate.dense",
        fc2="output.dense",
    )

    def __init__(self, config: ViTLayoutConfig, published: Published) -> None:
        super().__init__(config, published)
        norms = (name for name in ("fc_norm", "layernorm") if f"{name}.weight" in self.state)
        self.last_norm = next(norms, "")

    def settings(self) -> dict[str, Any]:
        config, size = self.hub_config(), self.size()
        first = self.parts.block.format(0)
        bias = any(f"{first}{name}" in self.state for name in self.qkv("bias"))
        self.agree(
            hidden_size=len(self.state[f"{self.parts.patches}.weight"]),
            intermediate_size=len(self.state[f"{first}{self.parts.fc1}.weight"]),
            patch_size=size["patch"],
            tubelet_size=size["tubelet"],
            qkv_bias=bias,
            qv_bias=bias,  # as transformers 5 calls it
            use_mean_pooling=self.last_norm != "layernorm",  # which is what leaves that norm out
        )
        return {
            "encoder": size
            | {
                "qkv_bias": bias,
                "norm": {"fc_norm": "pooled", "layernorm": "tokens", "": "none"}[self.last_norm],
                "norm_eps": config.get("layer_norm_eps", 1e-12),
                # transformers leaves the epsilon of this one alone at torch's default
                "last_norm_eps": 1e-5 if self.last_norm == "fc_norm" else None,
            },
            "input": {
                "num_frames": self.told("config", "num_frames") or 16,
                "size": self.told("config", "image_size") or 224,
                **self.hub_colours(),
            },
        }

    def qkv(self, kind: str) -> tuple[str, ...]:
        if kind == "weight":
            return super().qkv(kind)
        old = ("attention.attention.q_bias", "attention.attention.v_bias")
        new = ("attention.attention.query.bias", "attention.attention.value.bias")
        return old if f"{self.parts.block.format(0)}{old[0]}" in self.state else new
