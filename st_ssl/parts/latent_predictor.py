"""The narrow transformer that predicts features of hidden tokens from those of visible ones (I-JEPA 2023, V-JEPA
2024); it is thrown away after pretraining."""

from __future__ import annotations

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from st_ssl.augment.masking import Grid
from st_ssl.core.config import Config
from st_ssl.encoders.transformer import Block, Positions, gather_tokens, set_positions


class PredictorConfig(Config):
    """The predictor's width, number of blocks and heads, and what tells it where a token is."""

    dim: int = Field(default=384, gt=0)
    depth: int = Field(default=12, gt=0)
    heads: int = Field(default=16, gt=0)
    positions: Positions = "sincos_3d"

    @model_validator(mode="after")
    def _heads_divide(self) -> PredictorConfig:
        if self.dim % self.heads or self.dim % 2:
            raise ValueError(f"dim {self.dim} must be even and divisible by heads {self.heads}")
        return self


class LatentPredictor(nn.Module):
    """Visible tokens of width ``embed_dim`` to predictions for the masked ones, as wide.

    Each of ``num_masks`` kinds of masks has a mask token of its own, 0 at first. Linear layers begin with a truncated
    normal distribution of deviation 0.02 and a bias of 0.
    """

    pos_embed: Tensor

    def __init__(self, embed_dim: int, grid: Grid, num_masks: int, config: PredictorConfig) -> None:
        super().__init__()
        dim = config.dim
        self.embed = nn.Linear(embed_dim, dim)
        self.mask_tokens = nn.Parameter(torch.zeros(num_masks, dim))
        set_positions(self, config.positions, grid, dim)
        self.blocks = nn.ModuleList(Block(dim, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, embed_dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor, keep: Tensor, masked: Tensor, number: int = 0) -> Tensor:
        """Tokens [B, K, D] at the places ``keep`` [B, K], and the places ``masked`` [B, M] that a mask of the kind
        ``number`` hides, to predictions [B, M, D] in the order of ``masked``."""
        positions = self.pos_embed.to(tokens.dtype).expand(len(tokens), -1, -1)
        visible = self.embed(tokens) + gather_tokens(positions, keep)
        hidden = self.mask_tokens[number].to(visible.dtype) + gather_tokens(positions, masked)
        x = torch.cat([visible, hidden], dim=1)
        for block in self.blocks[:-1]:
            x = block(x)
        x = self.blocks[-1](x, start=keep.shape[1])  # a loss is taken on the masked ones alone
        return self.head(self.norm(x))
