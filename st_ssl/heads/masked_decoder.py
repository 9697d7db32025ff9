"""The light decoder of masked autoencoders: narrower and shallower than the encoder, thrown away afterwards."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from st_ssl.augment.masking import Grid
from st_ssl.encoders.transformer import Block, gather_tokens, initialise, sincos_1d


class MaskedDecoder(nn.Module):
    """Visible tokens to predictions for the masked ones (He et al. 2022; VideoMAE 2022).

    ``forward(tokens [B, K, D], keep [B, K], masked [B, M])`` gives [B, M, out_dim], in the order of ``masked``.
    """

    pos_embed: Tensor

    def __init__(self, embed_dim: int, grid: Grid, out_dim: int, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(embed_dim, dim, bias=False)
        self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(dim), std=0.02))
        self.register_buffer("pos_embed", sincos_1d(grid, dim), persistent=False)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, out_dim)
        initialise(self)

    def forward(self, tokens: Tensor, keep: Tensor, masked: Tensor) -> Tensor:
        positions = self.pos_embed.to(tokens.dtype).expand(len(tokens), -1, -1)
        visible = self.embed(tokens) + gather_tokens(positions, keep)
        hidden = self.mask_token.to(visible.dtype) + gather_tokens(positions, masked)
        x = torch.cat([visible, hidden], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, keep.shape[1] :]))  # a loss is taken on the masked ones alone
