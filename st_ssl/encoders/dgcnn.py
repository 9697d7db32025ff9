"""DGCNN (Wang et al., ACM TOG 2019): convolutions over the edges to each point's nearest neighbours, found anew in the
features of every layer. The light encoder of objects."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.inputs import CloudNeeds, PointInputConfig
from st_ssl.core.types import Features, PointBatch
from st_ssl.encoders.base import ENCODERS, CloudEncoder
from st_ssl.encoders.point_vit import point_channels
from st_ssl.ops.neighbours import gather_points, nearest

_SLOPE = 0.2


class DGCNNConfig(Config):
    """Edge convolutions of ``widths`` channels over ``neighbours`` points each, and ``dim`` features a point: by
    default the published network for classification."""

    name: Literal["dgcnn"] = "dgcnn"
    widths: tuple[int, ...] = Field(default=(64, 64, 128, 256), min_length=1)
    neighbours: int = Field(default=20, gt=0)
    dim: int = Field(default=1024, gt=0)


class EdgeConv(nn.Module):
    """Features [B, N, C] to [B, N, D]: a layer over (neighbour − point, point), and its maximum over the neighbours.

    The layer is linear before its batch norm, so it is taken apart: each point is multiplied once as a neighbour and
    once as itself, not once an edge.
    """

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * cin, cout, bias=False)
        self.norm = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        difference, itself = self.linear.weight.split(x.shape[2], dim=1)
        there, here = nn.functional.linear(x, difference), nn.functional.linear(x, itself - difference)
        edges = gather_points(there, index) + here.unsqueeze(2)
        edges = self.norm(edges.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return nn.functional.leaky_relu(edges, _SLOPE).max(2).values


@ENCODERS.register(DGCNNConfig)
class DGCNN(CloudEncoder):
    """Clouds to features of each point [P, D] and, as ``pooled``, their maximum over a cloud [B, D]. The published
    classifier takes their mean beside it. Clouds of several sizes are run one by one, which is nothing to its output
    in evaluation; in training batch norm asks for clouds of one size."""

    modality = "points"
    per_point = True

    def __init__(self, config: DGCNNConfig, input: PointInputConfig) -> None:
        super().__init__(config, input)
        if input.num_points is not None and input.num_points < config.neighbours:
            raise ConfigError(
                f"input.num_points {input.num_points} is less than encoder.neighbours {config.neighbours}"
            )
        self.neighbours, self.attributes, self.embed_dim = config.neighbours, input.attributes, config.dim
        widths = (point_channels(input), *config.widths)
        self.edges = nn.ModuleList(EdgeConv(cin, cout) for cin, cout in pairwise(widths))
        self.last = nn.Linear(sum(config.widths), config.dim, bias=False)
        self.norm = nn.BatchNorm1d(config.dim)

    @classmethod
    def needs(cls, config: Any, input: Any) -> CloudNeeds:
        return CloudNeeds(points=config.neighbours, where="encoder.neighbours")

    def forward(self, clip: PointBatch, keep: Tensor | None = None) -> Features:
        """A batch of clouds to features. Raises ``DataError`` where a cloud has fewer points than ``neighbours``, or
        clouds differ in size in training."""
        assert keep is None, "dgcnn has no tokens to hide"
        counts = clip.offsets.diff().tolist()
        if min(counts, default=self.neighbours) < self.neighbours:
            raise DataError(f"a cloud of {min(counts)} points has no encoder.neighbours={self.neighbours}")
        values = torch.cat([clip.xyz, *(clip.attributes[name] for name in self.attributes)], 1)
        if len(set(counts)) <= 1:
            points = self._points(values.view(len(clip), -1, values.shape[1]))
            return Features(pooled=points.max(1).values, points=points.flatten(0, 1))
        if self.training:
            raise DataError(f"dgcnn is trained on clouds of one size, not {sorted(set(counts))}: set input.num_points")
        each = [self._points(cloud[None])[0] for cloud in values.split(counts)]
        return Features(pooled=torch.stack([points.max(0).values for points in each]), points=torch.cat(each))

    def _points(self, x: Tensor) -> Tensor:
        """Clouds [B, N, C] to [B, N, D]."""
        layers = []
        for edge in self.edges:
            x = edge(x, nearest(x.detach(), x.detach(), self.neighbours)[1])
            layers.append(x)
        x = self.last(torch.cat(layers, 2))
        return nn.functional.leaky_relu(self.norm(x.flatten(0, 1)), _SLOPE).view_as(x)
