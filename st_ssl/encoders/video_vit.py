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
from st_ssl.config import Config
from st_ssl.encoders.base import ENCODERS, Encoder, InputConfig
from st_ssl.encoders.transformer import Block, Positions, gather_tokens, initialise, set_positions
from st_ssl.errors import ConfigError
from st_ssl.types import Features

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
    the backward pass, for memory.
    """

    name: Literal["video_vit"] = "video_vit"
    variant: Literal["Ti", "S", "B", "L", "H"] = "B"
    dim: int | None = Field(default=None, gt=0)
    depth: int | None = Field(default=None, gt=0)
    heads: int | None = Field(default=None, gt=0)
    patch: int = Field(default=16, gt=0)
    tubelet: int = Field(default=2, gt=0)
    mlp_ratio: float = Field(default=4.0, gt=0)
    positions: Positions = "sincos_1d"
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    checkpoint: bool = False

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
class VideoViT(Encoder):
    """Clips [B, 3, T, H, W] to tokens [B, L, D] and their mean [B, D]. With ``keep`` [B, K] only those tokens are
    embedded and attended to: [B, K, D]."""

    grid: Grid
    pos_embed: Tensor

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
        set_positions(self, config.positions, self.grid, dim)
        rates = [config.drop_path * i / max(1, depth - 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(dim, heads, config.mlp_ratio, rate) for rate in rates)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        initialise(self)

    def forward(self, clip: Tensor, keep: Tensor | None = None) -> Features:
        """Normalised clips [B, 3, T, H, W], and the tokens to see [B, K] if not all, to features."""
        patches = tubelets(clip, self.vit.tubelet, self.vit.patch, keep)  # hidden tokens cost nothing
        positions = self.pos_embed.to(patches.dtype)[None]
        if keep is not None:
            positions = gather_tokens(positions.expand(len(keep), -1, -1), keep)
        x = self.embed(patches) + positions
        for block in self.blocks:
            if self.vit.checkpoint and self.training:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        x = self.norm(x)
        return Features(pooled=x.mean(1), tokens=x)
