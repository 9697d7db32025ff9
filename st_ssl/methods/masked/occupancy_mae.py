"""Occupancy-MAE (Min et al., IEEE TIV 2023): hidden voxels of a LiDAR sweep are told from empty space."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn
from torch.nn.functional import avg_pool3d, binary_cross_entropy_with_logits

from st_ssl.augment.points import PointAugment, PointAugmentConfig, Range
from st_ssl.augment.voxel_masking import VoxelMaskConfig, visible_voxels
from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError
from st_ssl.core.exhibits import CloudExhibit, Exhibit
from st_ssl.core.types import PointBatch, View
from st_ssl.data.drives.plans import OneSweep
from st_ssl.data.points.views import point_views
from st_ssl.data.views import each
from st_ssl.encoders.base import CloudEncoder
from st_ssl.encoders.second import Second
from st_ssl.methods.base import METHODS, Losses, Method, Paper
from st_ssl.ops.volumes import Lattice, Volume, Voxels, grid_size, voxelise_range

GREY, ORANGE = (0.6, 0.6, 0.6), (0.9, 0.45, 0.1)
_REACHES = (1, 2, 3)  # cells by which visible ones are dilated, to compare with


class SweepAugmentConfig(PointAugmentConfig):
    """What OpenPCDet does to a sweep: turn it by up to 45 degrees, scale and mirror it."""

    max_angle: float = Field(default=45.0, ge=0.0, le=180.0)
    scale: Range = (0.95, 1.05)
    flip: tuple[float, float, float] = (0.5, 0.5, 0.0)


class OccupancyMAEConfig(Config):
    """Hide voxels and predict, of all cells within the range, which have a point. Cells are ``stride`` voxels wide, at
    most as wide as those of the encoder's volume. ``widths``: of the decoder's layers, each of twice the resolution
    (the last counts for as many as are needed). ``occupied_weight``: what a cell with a point counts for (1 in the
    paper)."""

    name: Literal["occupancy_mae"] = "occupancy_mae"
    mask: VoxelMaskConfig = VoxelMaskConfig()
    stride: Literal[1, 2, 4, 8] = 1
    widths: tuple[int, ...] = Field(default=(32, 8), min_length=1)
    occupied_weight: PositiveFloat = 1.0
    augment: SweepAugmentConfig = SweepAugmentConfig()


@METHODS.register(OccupancyMAEConfig)
class OccupancyMAE(Method[OccupancyMAEConfig]):
    """The encoder sees the visible voxels alone; a light decoder of transposed convolutions fills the whole range.

    The decoder is as published for grids of any size: every layer doubles the resolution, and what comes out is read at
    the middle of each cell. Of the code's masking the sense of the paper is kept, distance from the sensor.
    """

    paper = Paper(
        "Occupancy-MAE: self-supervised pre-training large-scale LiDAR point clouds with masked occupancy autoencoders",
        "Min et al.",
        "IEEE TIV 2023",
        "tell which cells of a sweep are occupied, from some of its voxels",
    )
    modality = "points"
    encoder: Second

    def __init__(self, config: OccupancyMAEConfig, encoder: CloudEncoder) -> None:
        super().__init__(config, encoder)
        if not isinstance(encoder, Second):
            raise ConfigError("method.name=occupancy_mae needs an encoder that can see a part of its voxels: second")
        cloud = encoder.input
        augment = PointAugment(config.augment, cloud.num_points, cloud.unit_sphere, cloud.voxel_size, cloud.centre)
        self.views = point_views(cloud, each(OneSweep(), augment))
        x, y, z = (size * config.stride for size in encoder.voxel)
        self.cell = (x, y, z)
        self.size = grid_size(encoder.range, self.cell, "method.stride: encoder")
        doublings = round(encoder.lattices[-1].cell[0] / x).bit_length() - 1
        if doublings < 0:
            raise ConfigError(f"method.stride={config.stride}: cells wider than those of the encoder's volume")
        widths = [*config.widths, *config.widths[-1:] * doublings][:doublings]
        layers: list[nn.Module] = []
        width = encoder.embed_dim
        for out in widths:
            layers += [
                nn.ConvTranspose3d(width, out, 3, 2, 1, 1, bias=False),
                nn.BatchNorm3d(out),
                nn.ReLU(inplace=True),
            ]
            width = out
        self.decoder = nn.Sequential(*layers, nn.Conv3d(width, 1, 3, padding=1))
        self.doublings = doublings
        self.register_buffer("centres", self._centres(), persistent=False)

    centres: Tensor

    def _centres(self) -> Tensor:
        """The middles of all cells, [Z · Y · X, 3]."""
        axes = [
            low + size * (torch.arange(count, dtype=torch.float32) + 0.5)
            for low, size, count in zip(self.encoder.range[:3], self.cell, self.size, strict=True)
        ]
        z, y, x = torch.meshgrid(*axes[::-1], indexing="ij")
        return torch.stack([x, y, z], 3).view(-1, 3)

    def visible(self, voxels: Voxels, seed: Tensor) -> Voxels:
        """What the encoder sees of ``voxels``, drawn from ``seed`` int64 [B]."""
        cloud, *place = voxels.coordinates.unbind(1)
        z, y, x = place
        _, height, width = self.encoder.shape
        if self.config.mask.distance == "cells":
            distance = (x.square() + y.square()).float().sqrt()
        else:
            low, size = self.encoder.range, self.encoder.voxel
            across = ((x + 0.5) * size[0] + low[0], (y + 0.5) * size[1] + low[1])
            distance = torch.hypot(*across)
        kept = visible_voxels(self.config.mask, distance, cloud, (z * height + y) * width + x, seed)
        return voxels.take(kept)

    def _logits(self, visible: Voxels) -> Tensor:
        """Of every cell of every cloud, [B, Z · Y · X]."""
        volume = self.encoder.volume_of(visible)
        values = self.decoder(volume.values)
        first, cell = volume.lattice.first, volume.lattice.cell
        fine = Lattice(first, (cell[0] / 2**self.doublings, cell[1] / 2**self.doublings, cell[2] / 2**self.doublings))
        clouds = len(values)
        if self._aligned(fine, values):
            return values.flatten(1)
        places = self.centres.to(values.dtype).repeat(clouds, 1)
        cloud = torch.arange(clouds, device=values.device).repeat_interleave(len(self.centres))
        return Volume(values, volume.range, fine).at(places, cloud).view(clouds, -1)

    def _aligned(self, lattice: Lattice, values: Tensor) -> bool:
        """Whether the decoder's cells are those that are asked for."""
        same = torch.allclose(torch.tensor(lattice.first), self.centres[0].cpu().float(), atol=1e-4)
        return same and tuple(values.shape[:1:-1]) == self.size

    def occupied(self, points: PointBatch) -> Tensor:
        """Which cells have a point, bool [B, Z · Y · X]."""
        voxels = voxelise_range(points, self.encoder.range, self.cell)
        cloud, z, y, x = voxels.coordinates.unbind(1)
        width, height, depth = self.size
        found = torch.zeros(len(points), depth * height * width, dtype=torch.bool, device=points.device)
        found[cloud, (z * height + y) * width + x] = True
        return found

    def forward(self, views: list[View]) -> Losses:
        """The mean binary cross entropy over all cells, occupied ones weighted."""
        (view,) = views
        voxels = self.encoder.voxelise(view.points)
        logits = self._logits(self.visible(voxels, view.params["seed"][:, 0].to(view.points.device)))
        truth = self.occupied(view.points)
        weight = torch.where(truth, self.config.occupied_weight, 1.0).to(logits.dtype)
        loss = binary_cross_entropy_with_logits(logits, truth.to(logits.dtype), weight=weight)
        with torch.no_grad():
            found = (logits > 0) & truth
            recall = found.sum(1) / truth.sum(1).clamp_min(1)
        return Losses(loss, {"recall": recall.mean().to(loss.dtype)})

    @torch.no_grad()
    def hidden_recall(self, view: View) -> dict[str, float]:
        """Of the occupied cells that show no visible point the share that is found, in per cent, where half of the
        cells called occupied are: by the ``method``, and by ``dilation``, which calls those cells occupied that have
        the most visible cells around them (the best of three reaches)."""
        voxels = self.encoder.voxelise(view.points)
        visible = self.visible(voxels, view.params["seed"][:, 0].to(view.points.device))
        seen = self._seen(view.points, visible)
        truth = self.occupied(view.points)
        asked = ~seen
        scores = {"method": self._logits(visible).float()}
        width, height, depth = self.size
        grid = seen.float().view(len(seen), 1, depth, height, width)
        for reach in _REACHES:
            near = avg_pool3d(grid, 2 * reach + 1, 1, reach, count_include_pad=True)
            scores[f"dilation {reach}"] = near.view_as(seen)
        found = {name: recall_at_half(score[asked], truth[asked]) for name, score in scores.items()}
        return {"method": found["method"], "dilation": max(found[f"dilation {reach}"] for reach in _REACHES)}

    def _seen(self, points: PointBatch, visible: Voxels) -> Tensor:
        """Which cells have a point of a visible voxel."""
        shown = visible.of_point >= 0
        cloud = torch.arange(len(points), device=points.device).repeat_interleave(points.offsets.diff())
        counts = torch.bincount(cloud[shown], minlength=len(points))
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return self.occupied(PointBatch(points.xyz[shown], offsets))

    @torch.no_grad()
    def exhibits(self, views: list[View]) -> list[Exhibit]:
        """The sweeps, what the encoder sees of them, and as many cells as are occupied, those that are thought most
        likely to be (orange, where nothing was visible)."""
        (view,) = views
        voxels = self.encoder.voxelise(view.points)
        visible = self.visible(voxels, view.params["seed"][:, 0].to(view.points.device))
        seen, truth, logits = (
            self._seen(view.points, visible),
            self.occupied(view.points),
            self._logits(visible),
        )
        shown = visible.of_point >= 0
        parts, colours, counts = [], [], []
        for cloud in range(len(view)):
            best = logits[cloud].topk(int(truth[cloud].sum())).indices
            parts.append(self.centres[best])
            grey, orange = (self.centres.new_tensor(colour) for colour in (GREY, ORANGE))
            colours.append(torch.where(seen[cloud, best, None], grey, orange))
            counts.append(len(best))
        offsets = torch.tensor([0, *counts], device=view.points.device).cumsum(0)
        whose = torch.arange(len(view), device=shown.device).repeat_interleave(view.points.offsets.diff())
        kept = torch.bincount(whose[shown], minlength=len(view))
        return [
            CloudExhibit("input", PointBatch(view.points.xyz, view.points.offsets)),
            CloudExhibit("visible", PointBatch(view.points.xyz[shown], torch.cat([kept.new_zeros(1), kept.cumsum(0)]))),
            CloudExhibit("filled", PointBatch(torch.cat(parts), offsets, {"color": torch.cat(colours)})),
        ]


def recall_at_half(score: Tensor, truth: Tensor) -> float:
    """The largest recall, in per cent, at which at least half of the cells with the highest ``score`` [N] are ``truth``
    (bool [N]); cells of one score count together."""
    order = torch.argsort(score, descending=True, stable=True)
    hits = truth[order].cumsum(0)
    last = torch.ones_like(truth)
    last[:-1] = score[order][1:] != score[order][:-1]
    precision = hits / torch.arange(1, len(hits) + 1, device=hits.device)
    good = hits[last & (precision >= 0.5)]
    return 100 * float(good.max()) / max(1, int(truth.sum())) if len(good) else 0.0
