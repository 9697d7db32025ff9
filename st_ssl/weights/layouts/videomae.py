"""VideoMAE (Tong et al. 2022) as its authors publish it: github.com/MCG-NJU/VideoMAE."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from st_ssl.weights.base import LAYOUTS, Published
from st_ssl.weights.plain_vit import ViTLayout, ViTLayoutConfig

DECODER = "the decoder of pretraining"
HEAD = "the classifier of fine-tuning: its classes are those of its own data"


class VideoMAELayoutConfig(ViTLayoutConfig):
    """Pretrained or fine-tuned; see ``ViTLayoutConfig``."""

    name: Literal["videomae"] = "videomae"


@LAYOUTS.register(VideoMAELayoutConfig)
class VideoMAELayout(ViTLayout):
    """Queries and values have a bias, keys have none; the sin-cos positions are not stored. Fine-tuned, the last norm
    is ``fc_norm``, of the mean of all tokens. Frames and pixels are of the ``args`` of the training, or 16 × 224²."""

    summary = "VideoMAE, pretrained or fine-tuned (MCG-NJU): Ti to H"
    left: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"decoder\..*|encoder_to_decoder\.weight|mask_token", DECODER),
        (r"head\.(weight|bias)", HEAD),
    )

    def __init__(self, config: ViTLayoutConfig, published: Published) -> None:
        super().__init__(config, published)
        self.last_norm = "fc_norm" if "fc_norm.weight" in self.state else "norm"

    def settings(self) -> dict[str, Any]:
        self.expect("blocks.0.attn.q_bias", "blocks.0.attn.v_bias")
        return {
            "encoder": self.size() | {"norm": "pooled" if self.last_norm == "fc_norm" else "tokens"},
            "input": {
                "num_frames": self.told("args", "num_frames") or 16,
                "size": self.told("args", "input_size") or 224,
                "stride": self.told("args", "sampling_rate") or 4,
            },
        }

    def qkv(self, kind: str) -> tuple[str, ...]:
        return ("attn.qkv.weight",) if kind == "weight" else ("attn.q_bias", "attn.v_bias")
