"""The pieces that every transformer here is made of: blocks, drop path, sin-cos positions."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from st_ssl.augment.masking import Grid
from st_ssl.encoders.positions import rotate


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): drops a sample's residual branch with probability ``p`` in training."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if self.p == 0 or not self.training:
            return x
        alive = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) >= self.p
        return x * alive.to(x.dtype) / (1 - self.p)


def attend(q: Tensor, k: Tensor, v: Tensor, *, dropout: float = 0.0) -> Tensor:
    """Scaled dot-product attention, [B, H, Q, D] and twice [B, H, L, D] to [B, H, Q, D]; ``dropout`` of its weights.

    Fused where that is fastest. On CPUs the fused kernel is slower in bfloat16 than in float32: up to a thousand
    tokens the product written out takes a half to a fifth of its time. It rounds the scores to bfloat16.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and k.shape[-2] <= 1024 and dropout == 0:
        return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1, dtype=q.dtype) @ v
    return scaled_dot_product_attention(q, k, v, dropout_p=dropout)


class Attention(nn.Module):
    """Multi-head self-attention, tokens [B, L, D] to those from ``start`` on, [B, L - start, D]. ``dropout`` of the
    attention weights in training; ``rotary``: the ``rotary_table`` of the tokens, to turn queries and keys by."""

    def __init__(self, dim: int, heads: int, qkv_bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, start: int = 0, rotary: Tensor | None = None) -> Tensor:
        b, length, dim = x.shape
        q, k, v = self.qkv(x).view(b, length, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        dropout = self.dropout if self.training else 0.0
        return self.proj(attend(q[:, :, start:], k, v, dropout=dropout).transpose(1, 2).reshape(b, length - start, dim))


class Block(nn.Module):
    """Pre-norm transformer block (Dosovitskiy et al. 2021), tokens [B, L, D] to those from ``start`` on."""

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        qkv_bias: bool = True,
        attention_dropout: float = 0.0,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, heads, qkv_bias, attention_dropout)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        hidden = int(dim * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, start: int = 0, rotary: Tensor | None = None) -> Tensor:
        x = x[:, start:] + self.drop_path(self.attn(self.norm1(x), start, rotary))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def initialise(module: nn.Module) -> None:
    """Xavier-uniform linear layers with zero bias, as the masked autoencoders use."""
    for child in module.modules():
        if isinstance(child, nn.Linear):
            nn.init.xavier_uniform_(child.weight)
            if child.bias is not None:
                nn.init.zeros_(child.bias)


def sincos(positions: Tensor, dim: int) -> Tensor:
    """Sine (even channels) and cosine (odd channels) of [L] positions at ``dim`` / 2 frequencies: [L, dim] float32."""
    frequency = 10000 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angle = positions.double()[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :dim].float()


def sincos_1d(grid: Grid, dim: int) -> Tensor:
    """Positions of the flattened grid as one sequence, [L, D]: what VideoMAE (2022) uses."""
    return sincos(torch.arange(grid[0] * grid[1] * grid[2]), dim)


def sincos_3d(grid: Grid, dim: int) -> Tensor:
    """A quarter of the channels for time, three eighths each for height and width, [L, D], rounded to even numbers."""
    space = (3 * dim // 8) // 2 * 2
    time = dim - 2 * space
    t, h, w = torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")
    return torch.cat(
        [sincos(t.flatten(), time), sincos(h.flatten(), space), sincos(w.flatten(), space)],
        dim=1,
    )


Positions = Literal["sincos_1d", "sincos_3d", "learned", "separable"]


def set_positions(module: nn.Module, kind: Positions, grid: Grid, dim: int) -> None:
    """Give ``module`` its ``pos_embed`` [L, D]: a parameter if it is learned, else a table that is not saved.
    Positions learned for time and for space apart (``separable``) are ``pos_embed_time`` [T', D] and
    ``pos_embed_space`` [H'W', D]; their table is the sum.
    """
    if kind == "separable":
        t, h, w = grid
        module.pos_embed_time = nn.Parameter(nn.init.trunc_normal_(torch.empty(t, dim), std=0.02))
        module.pos_embed_space = nn.Parameter(nn.init.trunc_normal_(torch.empty(h * w, dim), std=0.02))
    elif kind == "learned":
        length = grid[0] * grid[1] * grid[2]
        module.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(length, dim), std=0.02))
    else:
        table = sincos_1d(grid, dim) if kind == "sincos_1d" else sincos_3d(grid, dim)
        module.register_buffer("pos_embed", table, persistent=False)


def positions_of(module: nn.Module) -> Tensor:
    """The table [L, D] of what ``set_positions`` gave ``module``."""
    if not hasattr(module, "pos_embed_time"):
        return cast(Tensor, module.pos_embed)
    time, space = cast(Tensor, module.pos_embed_time), cast(Tensor, module.pos_embed_space)
    return (space + time[:, None]).flatten(0, 1)


def gather_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Rows ``index`` [B, K] of ``tokens`` [B, L, D]: [B, K, D]."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))
