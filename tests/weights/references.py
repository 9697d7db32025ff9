"""Published video transformers written out plainly, under the names of their repositories: oracles for the layouts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def randomise(module: nn.Module) -> Any:
    """Random numbers by which all layers matter, also in biases and norms, which would hide mistakes at their
    defaults."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            fan_in = parameter[0].numel() if parameter.ndim in (2, 5) else 25
            parameter.normal_(std=fan_in**-0.5, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)
    return module.eval()


@torch.inference_mode()
def largest_difference(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    assert theirs.std() > 0.1  # that of zeros would be small, too
    return float((ours - theirs).abs().max())


class Attention(nn.Module):
    """In one matrix with a bias for queries and values (VideoMAE), or in three (mae_st)."""

    q: Any
    k: Any
    v: Any

    def __init__(self, dim: int, heads: int, joined: bool) -> None:
        super().__init__()
        self.heads, self.joined = heads, joined
        if joined:
            self.qkv = nn.Linear(dim, 3 * dim, bias=False)
            self.q_bias, self.v_bias = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
        else:
            self.q, self.k, self.v = (nn.Linear(dim, dim) for _ in range(3))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        if self.joined:
            q, k, v = self.qkv(x).chunk(3, dim=-1)
            q, v = q + self.q_bias, v + self.v_bias
        else:
            q, k, v = self.q(x), self.k(x), self.v(x)
        outputs = []
        for query, key, value in zip(*(part.chunk(self.heads, dim=-1) for part in (q, k, v)), strict=True):
            scores = torch.einsum("bqd,bkd->bqk", query, key) / query.shape[-1] ** 0.5
            outputs.append(scores.softmax(-1) @ value)
        joined: Tensor = self.proj(torch.cat(outputs, dim=-1))
        return joined


class Block(nn.Module):
    mlp: Any

    def __init__(self, dim: int, heads: int, hidden: int, joined: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads, joined)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, hidden), "fc2": nn.Linear(hidden, dim)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        hidden = nn.functional.gelu(self.mlp["fc1"](self.norm2(x)))
        return x + torch.as_tensor(self.mlp["fc2"](hidden))


class Network(nn.Module):
    """A transformer over tubelets of 2 frames of 8 × 8 pixels, without positions. ``tuned`` has a classifier."""

    patch_embed: Any
    norm: Any
    fc_norm: Any

    def __init__(
        self, *, dim: int = 24, depth: int = 2, heads: int = 3, hidden: int = 96, joined: bool, tuned: bool
    ) -> None:
        super().__init__()
        self.tuned = tuned
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(3, dim, (2, 8, 8), (2, 8, 8))})
        self.blocks = nn.ModuleList(Block(dim, heads, hidden, joined) for _ in range(depth))
        if tuned:
            self.head = nn.Linear(dim, 5)

    def embedded(self, clip: Tensor) -> Tensor:
        x: Tensor = self.patch_embed["proj"](clip)
        return x.flatten(2).transpose(1, 2)

    def through(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class VideoMAE(Network):
    """Tokens of a clip; the mean of them, normed, where ``tuned``."""

    def __init__(self, tuned: bool = False, **size: int) -> None:
        super().__init__(joined=True, tuned=tuned, **size)
        dim = self.patch_embed["proj"].out_channels
        setattr(self, "fc_norm" if tuned else "norm", nn.LayerNorm(dim, eps=1e-6))

    def forward(self, clip: Tensor) -> Tensor:
        x = self.embedded(clip)
        place, channel = torch.arange(x.shape[1]).double(), torch.arange(x.shape[2])
        angle = place[:, None] / 10000 ** (channel // 2 * 2 / x.shape[2])
        x = self.through(x + torch.where(channel % 2 == 0, angle.sin(), angle.cos()).float())
        output: Tensor = self.fc_norm(x.mean(1)) if self.tuned else self.norm(x)
        return output


class MAEST(Network):
    """Tokens of a clip of 4 frames of 24 × 24 pixels; the mean of them, normed, where ``tuned``. ``single``: one table
    of positions in place of two."""

    pos_embed: Tensor
    pos_embed_spatial: Tensor
    pos_embed_temporal: Tensor
    pos_embed_class: Tensor
    cls_token: Tensor

    def __init__(self, tuned: bool = False, single: bool = False, class_token: bool = True) -> None:
        super().__init__(joined=False, tuned=tuned)
        self.single, self.with_class = single, class_token
        shapes: dict[str, Sequence[int]] = {"pos_embed": (1, 18 + class_token, 24)}
        if not single:
            shapes = {"pos_embed_spatial": (1, 9, 24), "pos_embed_temporal": (1, 2, 24)}
        if class_token:
            shapes = {"cls_token": (1, 1, 24), **shapes, **({} if single else {"pos_embed_class": (1, 1, 24)})}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))
        self.norm = nn.LayerNorm(24, eps=1e-6)

    def forward(self, clip: Tensor) -> Tensor:
        x = self.embedded(clip)
        if self.with_class:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        if self.single:
            positions = self.pos_embed
        else:
            rows = [self.pos_embed_spatial[0] + self.pos_embed_temporal[0, t] for t in range(2)]
            positions = torch.cat([self.pos_embed_class[0], *rows] if self.with_class else rows)
        x = self.through(x + positions)
        first = int(self.with_class)
        output: Tensor = self.norm(x[:, first:].mean(1)) if self.tuned else self.norm(x)[:, first:]
        return output
