"""MAE of space and time (Feichtenhofer et al. 2022) as its authors publish it: github.com/facebookresearch/mae_st."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from st_ssl.augment.masking import Grid
from st_ssl.encoders.base import Encoder
from st_ssl.weights.base import LAYOUTS, WeightsError
from st_ssl.weights.layouts.videomae import DECODER, HEAD
from st_ssl.weights.plain_vit import Names, ViTLayout, ViTLayoutConfig


class MAESTLayoutConfig(ViTLayoutConfig):
    """Pretrained or fine-tuned. ``frames``: of the clips that a single table of positions is for, which it does not
    tell; null takes those of the ``args`` in the file. See also ``ViTLayoutConfig``."""

    name: Literal["mae_st"] = "mae_st"
    frames: int | None = Field(default=None, gt=0)


@LAYOUTS.register(MAESTLayoutConfig)
class MAESTLayout(ViTLayout):
    """Positions are learned, usually for space and for time apart, and so is that of the class token, which we add to
    it. Fine-tuned, the last norm is of the mean of the tokens."""

    config: MAESTLayoutConfig
    summary = "MAE of space and time, pretrained or fine-tuned (facebookresearch/mae_st): B to H"
    parts = Names(patches="patch_embed.proj", block="blocks.{}.", qkv=("attn.q", "attn.k", "attn.v"), proj="attn.proj")
    left: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"decoder_.*|mask_token", DECODER),
        (r"head\.(weight|bias)", HEAD),
    )

    def settings(self) -> dict[str, Any]:
        self.expect("blocks.0.attn.q.weight")
        size = self.size()
        tubelet, patch = size["tubelet"], size["patch"]
        grid = self._grid(tubelet)
        return {
            "encoder": size
            | {
                "positions": "separable" if self._separable else "learned",
                "qkv_bias": "blocks.0.attn.q.bias" in self.state,
                "class_token": "cls_token" in self.state,
                "norm": "pooled" if "head.weight" in self.state else "tokens",
            },
            "input": {
                "num_frames": grid[0] * tubelet,
                "size": grid[1] * patch,
                "stride": self.told("args", "sampling_rate") or 4,
                "mean": (0.45, 0.45, 0.45),
                "std": (0.225, 0.225, 0.225),
            },
        }

    @property
    def _separable(self) -> bool:
        return "pos_embed_spatial" in self.state

    def _grid(self, tubelet: int) -> Grid:
        """The grid that the positions are of. In a single table they tell no frames."""
        if self._separable:
            self.expect("pos_embed_temporal")
            time, places = self.state["pos_embed_temporal"].shape[1], self.state["pos_embed_spatial"].shape[1]
            side = self.side("pos_embed_spatial", places)
            return time, side, side
        self.expect("pos_embed")
        length = self.state["pos_embed"].shape[1] - ("cls_token" in self.state)
        frames = self.config.frames or self.told("args", "num_frames")
        if frames is None:
            raise WeightsError(
                f"{self.published.path}: has a table of {length} positions and no args: nothing tells of how many "
                "frames they are, and there are grids of several that make as many: give layout.frames=NUMBER"
            )
        time = frames // tubelet
        side = self.side("pos_embed", length // max(time, 1))
        return time, side, side

    def sources(self, key: str) -> tuple[str, ...]:
        if key == "class_token":
            return ("cls_token", "pos_embed_class" if self._separable else "pos_embed")
        renamed = {"pos_embed_time": "pos_embed_temporal", "pos_embed_space": "pos_embed_spatial"}
        return (renamed[key],) if key in renamed else super().sources(key)

    def make(self, key: str, found: Sequence[Tensor], encoder: Encoder) -> tuple[Tensor, str]:
        if key == "class_token":
            return (found[0].float() + found[1][:, :1].float()).flatten(), "with its position"
        if key.startswith("pos_embed"):
            grid = self._grid(self.state[f"{self.parts.patches}.weight"].shape[2])
            if key == "pos_embed_time":
                return self.resized(found[0][0], (grid[0], 1, 1), encoder, of=(True, False))
            if key == "pos_embed_space":
                return self.resized(found[0][0], (1, *grid[1:]), encoder, of=(False, True))
            return self.resized(found[0][0, "cls_token" in self.state :], grid, encoder, of=(True, True))
        return super().make(key, found, encoder)
