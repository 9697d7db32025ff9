"""Projectors and predictors: small MLPs behind an encoder, thrown away after pretraining."""

from __future__ import annotations

from torch import nn


def projector(cin: int, hidden: int, cout: int, layers: int = 2, norm: bool = True) -> nn.Sequential:
    """``layers`` linear layers [B, cin] to [B, cout] with ReLU (and batch norm, as in SimCLR 2020) between them."""
    modules: list[nn.Module] = []
    for _ in range(layers - 1):
        modules += [nn.Linear(cin, hidden, bias=not norm), *([nn.BatchNorm1d(hidden)] if norm else []), nn.ReLU()]
        cin = hidden
    return nn.Sequential(*modules, nn.Linear(cin, cout))
