"""What the segments of a scene have to do with each other, within a view of it and across two."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class SiameseCorrespondence(nn.Module):
    """The features of segments in two views, each with what it corresponds to in its own view and in the other one.

    For the segments x of one view and y of the other, with the same weights Q, K, V and O both ways round,

        x' = x + O [ softmax(xQ (xK)ᵀ / sqrt D) xV , softmax(xQ (yK)ᵀ / sqrt D) yV ].
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.out = nn.Linear(2 * dim, dim)

    def forward(self, first: Tensor, second: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, G, D] of G segments of B scenes in two views, of which ``valid`` bool [B, G] are there in both,
        to such features; 0 where they are not."""
        return self._one(first, second, valid), self._one(second, first, valid)

    def _one(self, x: Tensor, other: Tensor, valid: Tensor) -> Tensor:
        found = [self._attend(x, y, valid) for y in (x, other)]
        return (x + self.out(torch.cat(found, dim=-1))) * valid[..., None]

    def _attend(self, x: Tensor, y: Tensor, valid: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(y).transpose(1, 2) / math.sqrt(x.shape[-1])
        # A scene without segments attends to nothing: -inf would give NaN.
        weights = scores.masked_fill(~valid[:, None], -1e4).softmax(-1)
        return weights @ (self.value(y) * valid[..., None])
