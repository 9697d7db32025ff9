"""The light decoder of masked point networks: it alone is told where the masked patches are."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from st_ssl.core.config import Config
from st_ssl.encoders.point_vit import through
from st_ssl.encoders.transformer import Block, initialise


class PointDecoderConfig(Config):
    """The decoder's number of blocks and heads, and how much of it is dropped in training; it is as wide as the
    encoder. ``init``: linear layers begin as ``xavier`` (Point-MAE), or as ``torch`` makes them with a mask token cut
    off at one deviation (Point2Vec). ``norm_eps`` is that of both papers."""

    depth: int = Field(default=4, gt=0)
    heads: int = Field(default=6, gt=0)
    drop_path: float = Field(default=0.1, ge=0, lt=1)
    qkv_bias: bool = False
    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    norm_eps: float = Field(default=1e-5, gt=0)
    init: Literal["xavier", "torch"] = "xavier"


def mask_token(dim: int, cut: float) -> nn.Parameter:
    """A mask token [D], normal with a deviation of 0.02, within ± ``cut``."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(dim), std=0.02, a=-cut, b=cut))


class PointDecoder(nn.Module):
    """Visible tokens to predictions for the masked ones (Point-MAE, Pang et al. 2022; Point2Vec, Zeid et al. 2023).

    ``forward(tokens [B, K', D], visible [B, K', D], masked [B, M, D])``, the last two position embeddings, gives
    [B, M, out_dim] in the order of ``masked``. Positions are added to the input of every block.
    """

    def __init__(self, dim: int, out_dim: int, config: PointDecoderConfig) -> None:
        super().__init__()
        self.mask_token = mask_token(dim, 0.02 if config.init == "torch" else 2.0)
        rates = [config.drop_path * i / max(1, config.depth - 1) for i in range(config.depth)]
        self.blocks = nn.ModuleList(
            Block(dim, config.heads, 4.0, rate, config.qkv_bias, config.attention_dropout, config.norm_eps)
            for rate in rates
        )
        self.norm = nn.LayerNorm(dim, eps=config.norm_eps)
        self.head = nn.Linear(dim, out_dim)
        if config.init == "xavier":
            initialise(self)

    def forward(self, tokens: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
        hidden = self.mask_token.to(tokens.dtype).expand(*masked.shape[:2], -1)
        positions = torch.cat([visible, masked], 1)
        x = through(self.blocks[:-1], torch.cat([tokens, hidden], 1), positions)
        x = self.blocks[-1](x + positions, start=visible.shape[1])  # a loss is taken on the masked ones alone
        return self.head(self.norm(x))
