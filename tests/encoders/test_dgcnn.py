from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.inputs import PointInputConfig
from st_ssl.core.types import PointBatch
from st_ssl.encoders.base import count_parameters
from st_ssl.encoders.dgcnn import DGCNN, DGCNNConfig

TINY: dict[str, Any] = {"widths": (6, 8), "neighbours": 4, "dim": 10}


def build(attributes: tuple[str, ...] = (), **changes: Any) -> DGCNN:
    torch.manual_seed(0)
    input = PointInputConfig.model_validate({"num_points": 20, "attributes": attributes})
    encoder = DGCNN(DGCNNConfig(**(TINY | changes)), input).double()
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return encoder


def clouds(counts: tuple[int, ...] = (20, 20)) -> PointBatch:
    generator = torch.Generator().manual_seed(1)
    xyz = torch.randn(sum(counts), 3, dtype=torch.float64, generator=generator)
    normal = torch.randn(sum(counts), 3, dtype=torch.float64, generator=generator)
    return PointBatch(xyz, torch.tensor([0, *counts]).cumsum(0), {"normal": normal})


def slow(encoder: DGCNN, x: Tensor) -> Tensor:
    """Clouds [B, N, C] to [B, N, D] as the paper draws it: every edge built, then a 1 × 1 convolution."""

    def norm(x: Tensor, n: Any) -> Tensor:
        axes = [0, *range(2, x.ndim)]
        shape = [1, -1] + [1] * (x.ndim - 2)
        mean, var = (x.mean(axes), x.var(axes, correction=0)) if encoder.training else (n.running_mean, n.running_var)
        x = (x - mean.view(shape)) / (var.view(shape) + n.eps).sqrt()
        return x * n.weight.view(shape) + n.bias.view(shape)

    layers = []
    for edge in encoder.edges:
        assert isinstance(edge.linear, nn.Linear)
        near = torch.cdist(x, x).argsort(2)[:, :, : encoder.neighbours]
        there = torch.stack([cloud[index] for cloud, index in zip(x, near, strict=True)])
        pair = torch.cat([there - x[:, :, None], x[:, :, None].expand_as(there)], 3).permute(0, 3, 1, 2)
        out = norm(torch.nn.functional.conv2d(pair, edge.linear.weight[..., None, None]), edge.norm)
        x = leaky_relu(out, 0.2).amax(3).transpose(1, 2)
        layers.append(x)
    out = torch.cat(layers, 2) @ encoder.last.weight.T
    return leaky_relu(norm(out.transpose(1, 2), encoder.norm), 0.2).transpose(1, 2)


@pytest.mark.parametrize("training", [False, True])
def test_features_and_gradients_are_those_of_the_slow_reference(training: bool) -> None:
    encoder, points = build(("normal",)).train(training), clouds()
    values = torch.cat([points.xyz, points.attributes["normal"]], 1).view(2, 20, 6)
    expected, features = slow(encoder, values), encoder(points)
    torch.testing.assert_close(features.points.view(2, 20, 10), expected)
    torch.testing.assert_close(features.pooled, expected.amax(1))
    weight = torch.randn(2, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    parameters = list(encoder.parameters())
    found = torch.autograd.grad((features.pooled * weight).sum(), parameters)
    truth = torch.autograd.grad((expected.amax(1) * weight).sum(), parameters)
    for (name, _), a, b in zip(encoder.named_parameters(), found, truth, strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_size_is_the_published_one() -> None:
    encoder = DGCNN(DGCNNConfig(), PointInputConfig())
    edges = 2 * (3 * 64 + 64 * 64 + 64 * 128 + 128 * 256) + 2 * (64 + 64 + 128 + 256)
    assert count_parameters(encoder) == edges + 512 * 1024 + 2 * 1024
    # 1.81 M with the published head for 40 classes, on mean and maximum
    wide, narrow = nn.Linear(2048, 512, bias=False), nn.Linear(512, 256)
    head = nn.Sequential(wide, nn.BatchNorm1d(512), narrow, nn.BatchNorm1d(256), nn.Linear(256, 40))
    assert round((count_parameters(encoder) + count_parameters(head)) / 1e6, 2) == 1.81


def test_clouds_of_several_sizes_are_each_as_by_itself() -> None:
    encoder, points = build().eval(), clouds((20, 12))
    features = encoder(points)
    assert features.points.shape == (32, 10)
    for i in range(2):
        torch.testing.assert_close(encoder(points.part(i, i + 1)).pooled[0], features.pooled[i])
    with pytest.raises(DataError, match=r"clouds of one size, not \[12, 20\]: set input\.num_points"):
        encoder.train()(points)


def test_clouds_too_small_are_refused() -> None:
    with pytest.raises(DataError, match=r"a cloud of 3 points has no encoder\.neighbours=4"):
        build()(clouds((20, 3)))
    with pytest.raises(ConfigError, match=r"input\.num_points 20 is less than encoder\.neighbours 21"):
        build(neighbours=21)
