"""ALSO (Boulch et al., CVPR 2023): a feature knows which places around it are before the surface, and which behind."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from st_ssl.augment.point_noise import random_bits, uniform
from st_ssl.augment.points import PointAugment, PointAugmentConfig
from st_ssl.augment.surface_queries import Queries, surface_queries
from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError
from st_ssl.core.types import PointBatch, View
from st_ssl.data.drives.plans import OneSweep
from st_ssl.data.points.views import point_views
from st_ssl.data.views import each
from st_ssl.encoders.base import CloudEncoder
from st_ssl.encoders.volume_encoder import VolumeEncoder
from st_ssl.methods.base import METHODS, Losses, Method, Paper
from st_ssl.ops.neighbours import nearest_packed
from st_ssl.ops.volumes import Volume

_SHOWN = 10  # stream of a cloud's seed


class ALSOAugmentConfig(PointAugmentConfig):
    """What ALSO does to a sweep: turn and mirror it."""

    flip: tuple[float, float, float] = (0.5, 0.0, 0.0)


class ALSOConfig(Config):
    """Of ``queries`` places around a sweep, up to ``reach`` metres from its points, tell which are occupied, and how
    strongly the points beside them shine. The network is shown ``inputs`` points, one a cell of ``cell`` metres. Every
    feature within ``radius`` metres tells a place, of points the ``most`` nearest. ``width``: of the head."""

    name: Literal["also"] = "also"
    queries: int = Field(default=4096, ge=3)
    reach: PositiveFloat = 0.1
    inputs: int = Field(default=80_000, gt=0)
    cell: PositiveFloat | None = 0.05
    radius: PositiveFloat = 1.0
    most: int = Field(default=32, gt=0)
    width: int = Field(default=128, gt=0)
    augment: ALSOAugmentConfig = ALSOAugmentConfig()


class Pairs(NamedTuple):
    """A ``latent`` [N, D] of a support, the query int64 [N] that it is asked about, and where that is ``beside`` the
    support, [N, 3]."""

    latent: Tensor
    query: Tensor
    beside: Tensor


@METHODS.register(ALSOConfig)
class ALSO(Method[ALSOConfig]):
    """Supports are the points that the network is shown, or, of encoders of a range of space, the cells of their volume
    seen from above (at height 0, near where they are so along the ground). Each tells by itself what is around it; the
    head is thrown away.

    Losses are means over the pairs of a sweep, then over sweeps. The intensity is told where the input has it."""

    paper = Paper(
        "ALSO: automotive LiDAR self-supervision by occupancy estimation",
        "Boulch et al.",
        "CVPR 2023",
        "tell which places around the seen surface are empty and which occupied",
    )
    modality = "points"
    encoder: CloudEncoder

    def __init__(self, config: ALSOConfig, encoder: CloudEncoder) -> None:
        super().__init__(config, encoder)
        cloud = encoder.input
        augment = PointAugment(config.augment, None, cloud.unit_sphere, config.cell, cloud.centre)
        self.views = point_views(cloud, each(OneSweep(), augment))
        if not getattr(encoder, "per_point", False):
            raise ConfigError(
                "method.name=also needs an encoder with features of points or of space: second, sparse_unet"
            )
        width = encoder.embed_dim * (encoder.depth if isinstance(encoder, VolumeEncoder) else 1)
        self.latent = nn.Linear(width, config.width)
        layers: list[nn.Module] = [nn.Linear(config.width + 3, config.width)]
        for _ in range(2):
            layers += [nn.ReLU(), nn.Linear(config.width, config.width)]
        self.head = nn.Sequential(*layers, nn.Linear(config.width, 2))

    def _shown(self, points: PointBatch, seed: Tensor) -> PointBatch:
        """At most ``inputs`` points of each cloud."""
        sizes = points.offsets.diff()
        if int(sizes.max()) <= self.config.inputs:
            return points
        cloud = torch.arange(len(points), device=points.device).repeat_interleave(sizes)
        place = torch.arange(len(points.xyz), device=points.device) - points.offsets[cloud]
        order = torch.argsort(uniform(random_bits(seed, _SHOWN)[cloud], place), stable=True)
        order = order[torch.argsort(cloud[order], stable=True)]
        kept = order[
            (torch.arange(len(order), device=order.device) - points.offsets[cloud[order]]) < self.config.inputs
        ]
        kept = kept.sort().values
        counts = torch.bincount(cloud[kept], minlength=len(points))
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        attributes = {name: value[kept] for name, value in points.attributes.items()}
        return PointBatch(points.xyz[kept], offsets, attributes)

    def _pairs(self, points: PointBatch, queries: Queries) -> Pairs:
        """Every query with every support near it."""
        if isinstance(self.encoder, VolumeEncoder):
            return self._cells(self.encoder.volume(points), queries)
        features = self.encoder(points).points
        assert features is not None
        each_has = len(queries.xyz) // len(points)
        bounds = torch.arange(len(points) + 1, device=points.device) * each_has
        most = min(self.config.most, int(points.offsets.diff().min()))
        distance, index = nearest_packed(queries.xyz, bounds, points.xyz, points.offsets, most)
        near = distance <= self.config.radius**2
        query, place = near.nonzero().unbind(1)
        support = index[query, place]
        return Pairs(self.latent(features)[support], query, queries.xyz[query] - points.xyz[support])

    def _cells(self, volume: Volume, queries: Queries) -> Pairs:
        bev = volume.bev()
        first, size = (bev.new_tensor(values[:2]) for values in (volume.lattice.first, volume.cell))
        reach = [int(self.config.radius / float(step)) + 1 for step in size]
        steps = torch.cartesian_prod(*(torch.arange(-far, far + 1, device=bev.device) for far in reach))
        place = queries.xyz[:, :2].to(bev.dtype)
        cells = ((place - first) / size).round().long()[:, None] + steps
        height, width = bev.shape[2:]
        inside = ((cells >= 0) & (cells < cells.new_tensor([width, height]))).all(2)
        middle = cells * size + first
        near = inside & ((place[:, None] - middle).norm(dim=2) <= self.config.radius)
        query, number = near.nonzero().unbind(1)
        x, y = cells[query, number].unbind(1)
        table = self.latent(bev.permute(0, 2, 3, 1)).flatten(0, 2)
        latent = table.index_select(0, (queries.cloud[query] * height + y) * width + x)
        centre = torch.cat([middle[query, number], torch.zeros_like(middle[query, number, :1])], 1)
        return Pairs(latent, query, queries.xyz[query] - centre)

    def _told(self, points: PointBatch, seed: Tensor, queries: Queries) -> tuple[Tensor, Tensor]:
        """The answers [N, 2] of all pairs, and the query int64 [N] of each."""
        pairs = self._pairs(self._shown(points, seed), queries)
        return self.head(torch.cat([pairs.latent, pairs.beside.to(pairs.latent.dtype)], 1)), pairs.query

    def forward(self, views: list[View]) -> Losses:
        """``occupancy``, a cross entropy, and ``intensity``, a mean absolute difference, where it is known."""
        (view,) = views
        points, seed = view.points, view.params["seed"][:, 0].to(view.points.device)
        queries = surface_queries(points, self.config.queries, self.config.reach, seed)
        told, query = self._told(points, seed, queries)
        truth = queries.occupied[query].to(told.dtype)
        off = binary_cross_entropy_with_logits(told[:, 0], truth, reduction="none")
        logs = {"occupancy": _mean(off, queries.cloud[query], len(view))}
        if "intensity" in points.attributes and "intensity" in self.encoder.input.attributes:
            known = queries.point[query] >= 0
            target = points.attributes["intensity"][queries.point[query[known]], 0].to(told.dtype)
            wrong = (told[known, 1] - target).abs()
            logs["intensity"] = _mean(wrong, queries.cloud[query[known]], len(view))
        right = ((told[:, 0] > 0) == queries.occupied[query]).to(told.dtype)
        accuracy = _mean(right, queries.cloud[query], len(view)).detach()
        return Losses(torch.stack([*logs.values()]).sum(), {**logs, "accuracy": accuracy})

    @torch.no_grad()
    def query_accuracy(self, view: View, shift: float = 0.0) -> float:
        """How many pairs are told right, in per cent, where queries are made as if the sensor were ``shift`` metres
        ahead of where it is: a network that knows the geometry of rays is worse at those."""
        points, seed = view.points, view.params["seed"][:, 0].to(view.points.device)
        origin = points.xyz.new_tensor([shift, 0.0, 0.0])
        queries = surface_queries(points, self.config.queries, self.config.reach, seed, origin)
        told, query = self._told(points, seed, queries)
        return 100 * float(((told[:, 0] > 0) == queries.occupied[query]).float().mean())


def _mean(values: Tensor, cloud: Tensor, clouds: int) -> Tensor:
    """The mean over the clouds of the mean of the ``values`` [N] of each; 0 of a cloud without any."""
    sums = values.new_zeros(clouds).index_add(0, cloud, values)
    return (sums / torch.bincount(cloud, minlength=clouds).clamp_min(1)).mean()
