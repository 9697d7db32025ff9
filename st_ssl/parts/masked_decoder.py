"""The light decoder of masked autoencoders: narrower and shallower than the encoder, thrown away afterwards."""

from __future__ import annotations

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from st_ssl.augment.masking import Grid
from st_ssl.core.config import Config
from st_ssl.encoders.transformer import Block, Positions, gather_tokens, initialise, positions_of, set_positions


class DecoderConfig(Config):
    """The decoder's width, number of blocks and heads, and what tells it where a token is.

    ``class_token`` adds a token of its own that stands for no place, and ``embed_bias`` a bias to the layer that takes
    the encoder's tokens to its width (both ST-MAE, Feichtenhofer et al. 2022).
    """

    dim: int = Field(default=384, gt=0)
    depth: int = Field(default=4, gt=0)
    heads: int = Field(default=6, gt=0)
    positions: Positions = "sincos_1d"
    class_token: bool = False
    embed_bias: bool = False

    @model_validator(mode="after")
    def _heads_divide(self) -> DecoderConfig:
        if self.dim % self.heads or self.dim % 2:
            raise ValueError(f"dim {self.dim} must be even and divisible by heads {self.heads}")
        return self


class MaskedDecoder(nn.Module):
    """Visible tokens to predictions for the masked ones (He et al. 2022; VideoMAE 2022).

    ``forward(tokens [B, K, D], keep [B, K], masked [B, M])`` gives [B, M, out_dim], in the order of ``masked``.
    """

    def __init__(self, embed_dim: int, grid: Grid, out_dim: int, config: DecoderConfig) -> None:
        super().__init__()
        dim = config.dim
        self.embed = nn.Linear(embed_dim, dim, bias=config.embed_bias)
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(dim), std=0.02))
        set_positions(self, config.positions, grid, dim)
        self.class_token = nn.Parameter(nn.init.normal_(torch.empty(dim), std=0.02)) if config.class_token else None
        self.blocks = nn.ModuleList(Block(dim, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, out_dim)
        initialise(self)

    def forward(self, tokens: Tensor, keep: Tensor, masked: Tensor) -> Tensor:
        positions = positions_of(self).to(tokens.dtype).expand(len(tokens), -1, -1)
        visible = self.embed(tokens) + gather_tokens(positions, keep)
        hidden = self.mask_token.to(visible.dtype) + gather_tokens(positions, masked)
        x = torch.cat([visible, hidden], dim=1)
        if self.class_token is not None:
            x = torch.cat([self.class_token.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
        for block in self.blocks[:-1]:
            x = block(x)
        x = self.blocks[-1](x, start=x.shape[1] - masked.shape[1])  # a loss is taken on the masked ones alone
        return self.head(self.norm(x))
