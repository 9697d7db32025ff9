"""The head of self-distillation: features to scores of categories that no label names (DINO, Caron et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize


class DistillationHead(nn.Module):
    """Features [B, ``dim``] to scores [B, ``categories``]: cosines in -1 … 1 with the directions of the categories.

    Three linear layers with GELU between them lead to ``bottleneck`` channels, which are brought to length 1. Linear
    layers begin with a deviation of 0.02 and without bias, as published.
    """

    def __init__(self, dim: int, hidden: int, bottleneck: int, categories: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.directions = nn.Parameter(torch.randn(categories, bottleneck))
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, features: Tensor) -> Tensor:
        return linear(normalize(self.mlp(features), dim=1), normalize(self.directions, dim=1))
