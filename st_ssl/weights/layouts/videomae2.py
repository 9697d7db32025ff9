"""VideoMAE V2 (Wang et al. 2023) as its authors publish it: github.com/OpenGVLab/VideoMAEv2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from st_ssl.weights.base import LAYOUTS, WeightsError
from st_ssl.weights.layouts.videomae import VideoMAELayout
from st_ssl.weights.plain_vit import ViTLayout, ViTLayoutConfig


class VideoMAE2LayoutConfig(ViTLayoutConfig):
    """Pretrained, fine-tuned or distilled; see ``ViTLayoutConfig``."""

    name: Literal["videomae2"] = "videomae2"


@LAYOUTS.register(VideoMAE2LayoutConfig)
class VideoMAE2Layout(VideoMAELayout):
    """VideoMAE's names, and a ViT-g of patches of 14 pixels, 1408 wide with 16 heads. On the Hub, names begin with
    ``model.``."""

    follows = "videomae"
    summary = "VideoMAE V2, pretrained, fine-tuned or distilled (OpenGVLab): S to g"
    heads: ClassVar[Mapping[int, int]] = {**ViTLayout.heads, 1408: 16}

    def settings(self) -> dict[str, Any]:
        if "blocks.0.attn.scale" in self.state:
            raise WeightsError(
                f"{self.published.path}: has {self.names['blocks.0.attn.scale']!r}: attention by cosine "
                "(cos_attn), which no published VideoMAE V2 has and video_vit does not know"
            )
        return super().settings()
