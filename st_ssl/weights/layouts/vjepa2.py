"""V-JEPA 2 (Assran et al. 2025) as github.com/facebookresearch/vjepa2 and ``transformers`` publish it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor

from st_ssl.augment.masking import Grid
from st_ssl.encoders.base import Encoder
from st_ssl.weights.base import LAYOUTS, Published, WeightsError
from st_ssl.weights.plain_vit import TIMM, Names, ViTLayout, ViTLayoutConfig

NEWER = ("patch_embed_img.proj.weight", "video_mod_embed", "norms_block.0.weight")
FIRST = {1568: 224, 4608: 384}
"""How many positions the tables of the first V-JEPA have (Bardes et al. 2024; 16 frames), by the pixels of a side."""


class VJEPA2LayoutConfig(ViTLayoutConfig):
    """``rotary``: false for the first V-JEPA, whose table of positions is added to the tokens; null: true, unless the
    file has such a table (V-JEPA 2 may have one of zeros). See also ``ViTLayoutConfig``."""

    name: Literal["vjepa2"] = "vjepa2"
    rotary: bool | None = None


@LAYOUTS.register(VJEPA2LayoutConfig)
class VJEPA2Layout(ViTLayout):
    """Of the networks in a file it takes the target encoder (``layout.container=encoder`` for the other). What no
    shape tells is 64 frames of 256 pixels: rotary positions go on for as many as ``input`` asks for."""

    config: VJEPA2LayoutConfig
    summary = (
        "V-JEPA 2 (facebookresearch/vjepa2, or VJEPA2Model of transformers), L to g; V-JEPA with layout.rotary=false"
    )
    containers: ClassVar[tuple[str, ...]] = ("target_encoder", "ema_encoder", "encoder", "")
    prefixes: ClassVar[tuple[str, ...]] = ("vjepa2.", "backbone.", "encoder.")
    left: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"predictor\..*", "the predictor of pretraining"),
        (r"pooler\..*|classifier\.(weight|bias)", "the attentive classifier: its classes are those of its own data"),
    )
    heads: ClassVar[Mapping[int, int]] = {**ViTLayout.heads, 1408: 22}
    hub = Names(
        patches="embeddings.patch_embeddings.proj",
        block="layer.{}.",
        qkv=tuple(f"attention.{name}" for name in ("query", "key", "value")),
        proj="attention.proj",
    )

    def __init__(self, config: VJEPA2LayoutConfig, published: Published) -> None:
        super().__init__(config, published)
        of_hub = f"{self.hub.patches}.weight" in self.state
        self.parts, self.last_norm = (self.hub, "layernorm") if of_hub else (TIMM, "norm")

    def settings(self) -> dict[str, Any]:
        if newer := next((name for name in NEWER if name in self.state), None):
            raise WeightsError(
                f"{self.published.path}: has {self.names[newer]!r}: V-JEPA 2.1 embeds the modality and has several "
                "last norms, which video_vit does not know"
            )
        if self.parts is TIMM:
            self.expect("blocks.0.attn.qkv.bias")  # by which it is told from VideoMAE
        size = self.size()
        bias = f"{self.parts.block.format(0)}{self.qkv('bias')[0]}" in self.state
        dim = len(self.state[f"{self.parts.patches}.weight"])
        self.agree(hidden_size=dim, patch_size=size["patch"], tubelet_size=size["tubelet"], qkv_bias=bias)
        ratio = self.hub_config().get("mlp_ratio")
        if isinstance(ratio, int | float) and abs(dim * ratio - dim * size["mlp_ratio"]) >= 1:
            self.agree(mlp_ratio=size["mlp_ratio"])
        return {
            "encoder": size
            | {
                "positions": "rope_3d" if self._rotary() else "learned",
                "qkv_bias": bias,
                "norm_eps": self.hub_config().get("layer_norm_eps", 1e-6),
            },
            "input": self._input(),
        }

    def _input(self) -> dict[str, Any]:
        if not self._rotary():
            grid, patch = self._table(), self.state[f"{self.parts.patches}.weight"].shape[-1]
            return {"num_frames": 16, "size": grid[1] * patch}
        frames, size = self.told("config", "frames_per_clip"), self.told("config", "crop_size")
        return {"num_frames": frames or 64, "size": size or 256, **self.hub_colours()}

    def _rotary(self) -> bool:
        table = self.state.get("pos_embed")
        if self.config.rotary is False and table is None:
            raise WeightsError(f"{self.published.path}: layout.rotary=false, but it has no 'pos_embed'")
        if self.config.rotary is None and table is not None and table.shape[1] in FIRST and bool(table.any()):
            raise WeightsError(
                f"{self.published.path}: has a table of {table.shape[1]} positions, as the first V-JEPA has for 16 "
                f"frames of {FIRST[table.shape[1]]} pixels: layout.rotary=false adds it to the tokens, as that needs; "
                "layout.rotary=true leaves it, as V-JEPA 2 needs"
            )
        return self.config.rotary is not False

    def _table(self) -> Grid:
        """The grid of a stored table, of 16 frames."""
        time = 16 // self.state[f"{self.parts.patches}.weight"].shape[2]
        side = self.side("pos_embed", self.state["pos_embed"].shape[1] // time)
        return time, side, side

    def make(self, key: str, found: Sequence[Tensor], encoder: Encoder) -> tuple[Tensor, str]:
        if key == "pos_embed":
            return self.resized(found[0][0], self._table(), encoder, of=(True, True))
        return super().make(key, found, encoder)

    def why_left(self, name: str) -> str | None:
        if name == "pos_embed":
            return "a table of positions that rotary ones are in place of"
        return super().why_left(name)
