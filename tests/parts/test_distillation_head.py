from __future__ import annotations

import torch
from torch import nn

from st_ssl.parts.distillation_head import DistillationHead


def test_scores_are_cosines_with_the_directions() -> None:
    torch.manual_seed(0)
    head = DistillationHead(6, 8, 4, 10).double()
    features = torch.randn(5, 6, dtype=torch.float64)
    scores = head(features)
    assert scores.shape == (5, 10)
    bottleneck = head.mlp(features)
    for row, hidden in enumerate(bottleneck):
        for k, direction in enumerate(head.directions):
            cosine = torch.dot(hidden, direction) / (hidden.norm() * direction.norm())
            torch.testing.assert_close(scores[row, k], cosine)
    with torch.no_grad():
        head.directions.mul_(3.0)  # no gain to learn
    torch.testing.assert_close(head(features), scores)


def test_it_begins_as_published() -> None:
    torch.manual_seed(0)
    head = DistillationHead(64, 128, 32, 16)
    linear = [m for m in head.mlp if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(64, 128), (128, 128), (128, 32)]
    assert sum(isinstance(m, nn.GELU) for m in head.mlp) == 2
    assert all((m.bias == 0).all() for m in linear)
    assert all(abs(float(m.weight.std()) - 0.02) < 0.002 for m in linear)
    assert not any(isinstance(m, nn.BatchNorm1d) for m in head.modules())
