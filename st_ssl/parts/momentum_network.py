"""A momentum encoder with its projector: a slow copy of both that gets no gradient (MoCo, He et al. 2020)."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from st_ssl.encoders.base import Encoder
from st_ssl.training.ema import follow


class MomentumNetwork(nn.Module):
    """A copy of ``encoder`` and ``projector`` that follows them by an exponential moving average of their parameters.

    Buffers are not averaged: a batch norm of the copy uses, and counts, the batches that the copy itself sees.
    """

    def __init__(self, encoder: Encoder, projector: nn.Module) -> None:
        super().__init__()
        self.encoder = deepcopy(encoder).requires_grad_(False)
        self.projector = deepcopy(projector).requires_grad_(False)

    @torch.no_grad()
    def forward(self, clip: Tensor) -> Tensor:
        """Clips [B, C, T, H, W] to projections [B, D], without gradient."""
        projections: Tensor = self.projector(self.encoder(clip).pooled)
        return projections

    def follow(self, encoder: nn.Module, projector: nn.Module, momentum: float) -> None:
        """One step towards ``encoder`` and ``projector``; ``momentum`` in [0, 1]: 1 stays, 0 copies."""
        for slow, live in ((self.encoder, encoder), (self.projector, projector)):
            follow(_parameters(slow), _parameters(live), momentum)


def _parameters(network: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in network.named_parameters()}
