"""A first-in, first-out queue of past embeddings, as a buffer: the memory of MoCo (2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize


class Queue(nn.Module):
    """The last ``size`` rows that were pushed, ``rows`` [size, dim], in no particular order.

    It begins with random directions of length 1. ``push`` belongs into ``after_update`` of a method, with the rows of
    all processes, so that all have the same queue.
    """

    rows: Tensor
    next: Tensor
    """Which row is overwritten next: int64, no axes."""

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("rows", normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("next", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Overwrite the oldest rows by ``rows`` [N, dim]; of more than fit, the last ones stay."""
        size = len(self.rows)
        skipped = max(0, len(rows) - size)
        places = torch.arange(skipped, len(rows), device=self.rows.device) + self.next
        self.rows[places % size] = rows[skipped:].to(self.rows.dtype)
        self.next.copy_((self.next + len(rows)) % size)
