"""Pooling of tokens by attention, as attentive probes have it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from st_ssl.core.errors import ConfigError


class AttentivePool(nn.Module):
    """Learned queries that gather what they look for in the same tokens (attentive probing, V-JEPA 2024).

    For a learned query, keys and values are linear in the tokens, so the key projection folds into the query and the
    value projection can follow the pooling: [B, L, D] tokens cost L × D × heads per query, not L × D².
    ``width`` is that of what a query gathers: ``heads`` times a share of D, rounded up.
    """

    def __init__(self, dim: int, queries: int, heads: int) -> None:
        super().__init__()
        inner = math.ceil(dim / heads)
        self.width = heads * inner
        self.query = nn.Parameter(torch.randn(queries, heads, dim) * dim**-0.5)
        self.value = nn.Parameter(torch.randn(queries, heads, dim, inner) * dim**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, L, D] to what each query gathers, [B, queries, width]."""
        queries, heads, _ = self.query.shape
        weights = (tokens @ self.query.flatten(0, 1).T).softmax(1)
        pooled = (weights.transpose(1, 2) @ tokens).unflatten(1, (queries, heads))
        return torch.einsum("bqhd,qhde->bqhe", pooled, self.value).flatten(2)


class QueryPool(nn.Module):
    """One learned query and what multi-head attention gathers for it, normalised: for networks trained with it.

    Nothing is folded here: the query begins near nothing, so that at first it takes the mean of all tokens, and the
    norm makes what little differs between clips large enough to learn from. Raises ``ConfigError`` where ``heads`` do
    not divide ``dim``.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ConfigError(f"task.attention_heads={heads} must divide the {dim} channels of the encoder")
        self.query = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, dim), std=0.02))
        self.attend = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, L, D] to [B, D]."""
        query = self.query.expand(tokens.shape[0], -1, -1)  # len(tokens) would be a constant in a traced program
        gathered, _ = self.attend(query, tokens, tokens, need_weights=False)
        return self.norm(gathered[:, 0])
