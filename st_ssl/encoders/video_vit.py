"""The video transformer: a plain ViT over tubelets (Dosovitskiy et al. 2021; ViViT 2021) that can be fed a part of its
tokens (VideoMAE 2022, ST-MAE 2022)."""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from st_ssl.augment.masking import Grid
from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError
from st_ssl.core.types import Features
from st_ssl.encoders.base import ENCODERS, ClipEncoder, CloudEncoder, InputConfig
from st_ssl.encoders.positions import resize_grid, rotary_table
from st_ssl.encoders.transformer import Block, Positions, gather_tokens, initialise, positions_of, set_positions

SIZES: dict[str, tuple[int, int, int]] = {  # embedding, blocks, heads
    "Ti": (192, 12, 3),
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "H": (1280, 32, 16),
}


class VideoViTConfig(Config):
    """A video transformer. ``variant`` sets ``dim``, ``depth`` and ``heads`` where they are not given.

    A token is a tubelet of ``tubelet`` frames × ``patch`` × ``patch`` pixels. ``checkpoint`` recomputes each block in
    the backward pass, for memory. The rest is what published networks differ in:

    ``positions`` may be learned for space and for time apart (``separable``, ST-MAE, Feichtenhofer et al. 2022) or
    turn the queries and keys of every block (``rope_3d``, V-JEPA 2, Assran et al. 2025). ``class_token`` adds a token
    that stands for no place; ``pooling`` tells whether it or the mean of the others is the clip's feature. ``norm``:
    the last norm is of the tokens, or of their mean after pooling, the tokens then being left without (fine-tuned
    VideoMAE's ``fc_norm``), or there is none. ``last_norm_eps`` is ``norm_eps`` where it is not given.
    """

    name: Literal["video_vit"] = "video_vit"
    variant: Literal["Ti", "S", "B", "L", "H"] = "B"
    dim: int | None = Field(default=None, gt=0)
    depth: int | None = Field(default=None, gt=0)
    heads: int | None = Field(default=None, gt=0)
    patch: int = Field(default=16, gt=0)
    tubelet: int = Field(default=2, gt=0)
    mlp_ratio: float = Field(default=4.0, gt=0)
    positions: Positions | Literal["rope_3d"] = "sincos_1d"
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    checkpoint: bool = False
    qkv_bias: bool = True
    class_token: bool = False
    pooling: Literal["mean", "class"] = "mean"
    norm: Literal["tokens", "pooled", "none"] = "tokens"
    norm_eps: float = Field(default=1e-6, gt=0)
    last_norm_eps: float | None = Field(default=None, gt=0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(embedding, blocks, heads)."""
        dim, depth, heads = SIZES[self.variant]
        return self.dim or dim, self.depth or depth, self.heads or heads

    @model_validator(mode="after")
    def _heads_divide(self) -> VideoViTConfig:
        dim, _, heads = self.shape
        if dim % heads or dim % 2:
            raise ValueError(f"dim {dim} must be even and divisible by heads {heads}")
        if self.positions == "rope_3d" and (dim // heads < 6 or dim // heads % 2):
            raise ValueError(
                f"positions=rope_3d needs an even number of channels per head, at least 6, not {dim // heads}"
            )
        if self.pooling == "class" and not self.class_token:
            raise ValueError("pooling=class needs class_token=true")
        if self.positions == "rope_3d" and self.class_token:
            raise ValueError("positions=rope_3d gives a class token no place: class_token must be false")
        return self


def tubelets(clip: Tensor, tubelet: int, patch: int, index: Tensor | None = None) -> Tensor:
    """Clips [B, C, T, H, W] to flattened tubelets [B, L, C × tubelet × patch × patch], L in (time, row, column) order
    and each tubelet in (channel, time, row, column) order. With ``index`` [B, K] those alone, the others unread."""
    if index is None:
        return rearrange(clip, "b c (t dt) (h dh) (w dw) -> b (t h w) (c dt dh dw)", dt=tubelet, dh=patch, dw=patch)
    grid = rearrange(clip, "b c (t dt) (h dh) (w dw) -> b t h w c dt dh dw", dt=tubelet, dh=patch, dw=patch)
    rows, columns = grid.shape[2:4]
    sample = torch.arange(len(clip), device=clip.device)[:, None]
    return grid[sample, index // (rows * columns), index // columns % rows, index % columns].flatten(2)


def untubelets(tokens: Tensor, grid: Grid, tubelet: int, patch: int) -> Tensor:
    """The inverse of ``tubelets``: [B, L, C × tubelet × patch × patch] to [B, C, T, H, W]."""
    t, h, w = grid
    return rearrange(
        tokens,
        "b (t h w) (c dt dh dw) -> b c (t dt) (h dh) (w dw)",
        **{"t": t, "h": h, "w": w, "dt": tubelet, "dh": patch, "dw": patch},
    )


@ENCODERS.register(VideoViTConfig)
class VideoViT(ClipEncoder):
    """Clips [B, 3, T, H, W] to tokens [B, L, D] and their mean [B, D]. With ``keep`` [B, K] only those tokens are
    embedded and attended to: [B, K, D]. A class token is never among the tokens; it may be what is pooled."""

    grid: Grid
    rotary: Tensor

    def __init__(self, config: VideoViTConfig, input: InputConfig) -> None:
        super().__init__(config, input)
        if input.num_frames % config.tubelet or input.size % config.patch:
            raise ConfigError(
                f"input.num_frames {input.num_frames} and input.size {input.size} must be multiples of "
                f"encoder.tubelet {config.tubelet} and encoder.patch {config.patch}"
            )
        dim, depth, heads = config.shape
        self.vit = config
        self.embed_dim = dim
        side = input.size // config.patch
        self.grid = (input.num_frames // config.tubelet, side, side)
        self.embed = nn.Linear(3 * config.tubelet * config.patch**2, dim)
        self._set_positions(dim, dim // heads)
        self.class_token = nn.Parameter(nn.init.normal_(torch.empty(dim), std=0.02)) if config.class_token else None
        rates = [config.drop_path * i / max(1, depth - 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            Block(dim, heads, config.mlp_ratio, rate, config.qkv_bias, norm_eps=config.norm_eps) for rate in rates
        )
        last = nn.LayerNorm(dim, eps=config.last_norm_eps or config.norm_eps)
        self.norm = nn.Identity() if config.norm == "none" else last
        initialise(self)

    def _set_positions(self, dim: int, head_dim: int) -> None:
        kind = self.vit.positions
        if kind == "rope_3d":
            self.register_buffer("rotary", rotary_table(self.grid, head_dim), persistent=False)
        else:
            set_positions(self, kind, self.grid, dim)

    def resized(self, name: str, value: Tensor, source: ClipEncoder | CloudEncoder) -> Tensor | None:
        """Learned positions, interpolated to this grid."""
        if not isinstance(source, VideoViT) or value.shape[-1] != self.embed_dim:
            return None
        (t, h, w), (own_t, own_h, own_w) = source.grid, self.grid
        if name == "pos_embed":
            return resize_grid(value, source.grid, self.grid)
        if name == "pos_embed_time":
            return resize_grid(value, (t, 1, 1), (own_t, 1, 1))
        return resize_grid(value, (1, h, w), (1, own_h, own_w)) if name == "pos_embed_space" else None

    def _places(self, keep: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """What to add to the tokens that are seen, [1, L, D] or [B, K, D], and what to turn their queries and keys by,
        [2, L, D'] or [2, B, K, D']; one of the two."""
        if self.vit.positions == "rope_3d":
            return None, self.rotary if keep is None else self.rotary[:, keep]
        table = positions_of(self)[None]
        return table if keep is None else gather_tokens(table.expand(len(keep), -1, -1), keep), None

    def forward(self, clip: Tensor, keep: Tensor | None = None) -> Features:
        """Normalised clips [B, 3, T, H, W], and the tokens to see [B, K] if not all, to features."""
        patches = tubelets(clip, self.vit.tubelet, self.vit.patch, keep)  # hidden tokens cost nothing
        added, rotary = self._places(keep)
        x = self.embed(patches)
        if added is not None:
            x = x + added.to(patches.dtype)
        if self.class_token is not None:
            x = torch.cat([self.class_token.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
        for block in self.blocks:
            if self.vit.checkpoint and self.training:
                x = checkpoint(block, x, 0, rotary, use_reentrant=False)
            else:
                x = block(x, 0, rotary)
        if self.vit.norm == "tokens":
            x = self.norm(x)
        tokens = x if self.class_token is None else x[:, 1:]
        pooled = tokens.mean(1) if self.vit.pooling == "mean" else x[:, 0]
        return Features(pooled=self.norm(pooled) if self.vit.norm == "pooled" else pooled, tokens=tokens)
