"""Small MLPs behind an encoder: projectors and predictors, thrown away after pretraining, and classifiers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def projector(cin: int, hidden: int, cout: int, layers: int = 2, norm: bool = True) -> nn.Sequential:
    """``layers`` linear layers [B, cin] to [B, cout] with ReLU (and batch norm, as in SimCLR 2020) between them."""
    modules: list[nn.Module] = []
    for _ in range(layers - 1):
        modules += [nn.Linear(cin, hidden, bias=not norm), *([nn.BatchNorm1d(hidden)] if norm else []), nn.ReLU()]
        cin = hidden
    return nn.Sequential(*modules, nn.Linear(cin, cout))


def classifier(cin: int, hidden: Sequence[int], dropout: float, num_classes: int) -> nn.Sequential:
    """[R, cin] to scores [R, num_classes]; between the layers, of the widths ``hidden``, batch norm, ReLU and dropout.
    Without ``hidden`` it is linear."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(cin, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout)]
        cin = width
    return nn.Sequential(*layers, nn.Linear(cin, num_classes))
