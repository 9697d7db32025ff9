"""CenterPoint's head (Yin, Zhou, Krähenbühl: CVPR 2021), as OpenPCDet has it: a heat map of centres for each class, and
what a box is beside its centre, read where the map is hot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from st_ssl.core.boxes import BoxBatch
from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError, nearest
from st_ssl.ops.volumes import Range
from st_ssl.transfer.detection.head import Ground, Head, found, suppress

CERTAIN = 1e-4
"""Probabilities stay this far from 0 and 1."""
HEAT_BIAS = -2.19
"""Of heat before training: a probability of 0.1."""


class CentreHeadConfig(Config):
    """``groups`` of classes share what a box is beside its centre, and suppress one another (null: one group of all).
    A centre is drawn as a bump that reaches as far as a box may be shifted and still overlap by ``overlap``, at least
    ``radius`` cells. ``velocity`` is predicted too. Weights: of the heat map, of all of the box, and, within it, of its
    turn and velocity. At most ``candidates`` cells with a score above ``score`` become boxes, those centred within
    ``limits`` (null: the range) that overlap no better one of their group by more than ``nms``: at most ``most`` a
    group."""

    name: Literal["centre"] = "centre"
    groups: tuple[tuple[str, ...], ...] | None = None
    width: int = Field(default=64, gt=0)
    velocity: bool = False
    overlap: float = Field(default=0.1, gt=0, lt=1)
    radius: int = Field(default=2, ge=0)
    heat_weight: NonNegativeFloat = 1.0
    box_weight: NonNegativeFloat = 1.0
    turn_weight: NonNegativeFloat = 1.0
    velocity_weight: NonNegativeFloat = 1.0
    candidates: int = Field(default=500, gt=0)
    score: float = Field(default=0.1, ge=0, lt=1)
    nms: float = Field(default=0.2, ge=0, le=1)
    most: int = Field(default=83, gt=0)
    limits: Range | None = None


class CentreTargets(NamedTuple):
    """Of one group: ``heat`` [B, C, H, W], 1 at centres; and of each of its N boxes the ``cell`` int64 [N, 3]
    (cloud, y, x) and the ``codes`` [N, 8 or 10]: the place in its cell (x, y) in cells, z, log sizes, cosine and sine
    of the yaw, velocity."""

    heat: Tensor
    cell: Tensor
    codes: Tensor


@dataclass(frozen=True)
class Quantity:
    """One part of a box, and how many channels it has."""

    name: str
    width: int


QUANTITIES = (Quantity("center", 2), Quantity("center_z", 1), Quantity("dim", 3), Quantity("rot", 2))
VELOCITY = Quantity("vel", 2)


class Branches(nn.Module):
    """Two convolutions for the heat map and for each quantity: maps [B, C, H, W] by name."""

    def __init__(self, width: int, classes: int, quantities: Sequence[Quantity]) -> None:
        super().__init__()
        for quantity in (*quantities, Quantity("hm", classes)):
            branch = nn.Sequential(_block(width, width), nn.Conv2d(width, quantity.width, 3, padding=1))
            convs = [module for module in branch.modules() if isinstance(module, nn.Conv2d)]
            for conv in convs:
                assert conv.bias is not None
                if quantity.name != "hm":
                    nn.init.kaiming_normal_(conv.weight)
                    nn.init.zeros_(conv.bias)
                elif conv is convs[-1]:
                    nn.init.constant_(conv.bias, HEAT_BIAS)
            self.add_module(quantity.name, branch)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: branch(x) for name, branch in self.named_children()}


class CentreHead(Head):
    """Names of weights are those of OpenPCDet's ``CenterHead``, axes (B, C, y, x)."""

    def __init__(self, config: CentreHeadConfig, width: int, classes: Sequence[str], ground: Ground) -> None:
        """``width`` channels of the map, the names of the ``classes`` in their order, and where the map lies. Raises
        ``ConfigError`` unless the groups have each class once."""
        super().__init__()
        self.config, self.ground = config, ground
        self.groups = _numbers(config.groups or (tuple(classes),), classes)
        self.quantities = (*QUANTITIES, VELOCITY) if config.velocity else QUANTITIES
        self.shared_conv = _block(width, config.width)
        self.heads_list = nn.ModuleList(Branches(config.width, len(group), self.quantities) for group in self.groups)

    def forward(self, bev: Tensor) -> list[dict[str, Tensor]]:
        """[B, C, H, W] to maps by name, of each group."""
        x = self.shared_conv(bev)
        return [head(x) for head in self.heads_list]

    def pack(self, predictions: list[dict[str, Tensor]]) -> Tensor:
        return torch.cat([maps[name] for maps in predictions for name in self._names], 1)

    def unpack(self, packed: Tensor) -> list[dict[str, Tensor]]:
        widths = [width for group in self.groups for width in (*(q.width for q in self.quantities), len(group))]
        parts = iter(packed.split(widths, 1))
        return [{name: next(parts) for name in self._names} for _ in self.groups]

    @property
    def _names(self) -> list[str]:
        return [*(quantity.name for quantity in self.quantities), "hm"]

    @torch.no_grad()
    def targets(self, boxes: BoxBatch) -> list[CentreTargets]:
        """Of each group. A box outside of the range is put at its border; of two in one cell both are asked for."""
        cells = self._cells(boxes.values[:, :2])
        lengths = boxes.values[:, 3:5] / boxes.values.new_tensor(self.ground.cell)
        radius = _radius(lengths, self.config.overlap).int().clamp_min(self.config.radius).long()
        turn = boxes.values[:, 6:7]
        cell = cells.floor()
        codes = torch.cat([cells - cell, boxes.values[:, 2:3], boxes.values[:, 3:6].log(), turn.cos(), turn.sin()], 1)
        if self.config.velocity:
            codes = torch.cat([codes, boxes.values[:, 7:9]], 1)
        cell = torch.cat([boxes.cloud[:, None], cell.long().flip(1)], 1)
        result = []
        for group in self.groups:
            own, number = (boxes.classes[:, None] == boxes.classes.new_tensor(group)).nonzero().unbind(1)
            heat = self._heat(len(boxes), len(group), cell[own], number, radius[own])
            result.append(CentreTargets(heat, cell[own], codes[own]))
        return result

    def loss(
        self, predictions: list[dict[str, Tensor]], targets: list[CentreTargets]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """``heat``, a focal loss over the number of centres, and ``box``, the mean absolute difference of its codes
        over the boxes: sums over groups."""
        heat, box = [], []
        weights = self._weights(targets[0].codes)
        for maps, target in zip(predictions, targets, strict=True):
            heat.append(focal_loss(maps["hm"], target.heat))
            cloud, y, x = target.cell.unbind(1)
            codes = torch.cat([maps[quantity.name] for quantity in self.quantities], 1)[cloud, :, y, x].float()
            known = ~target.codes.isnan()
            off = (codes - target.codes.nan_to_num()).abs() * known
            box.append((off.sum(0) * weights).sum() / max(1, len(off)))
        parts = {
            "heat": torch.stack(heat).sum() * self.config.heat_weight,
            "box": torch.stack(box).sum() * self.config.box_weight,
        }
        return parts["heat"] + parts["box"], parts

    @torch.no_grad()
    def decode(self, predictions: list[dict[str, Tensor]]) -> BoxBatch:
        """The hottest cells as boxes, those of the first group first."""
        groups = [self._boxes(maps) for maps in predictions]
        limits = self.config.limits or self.ground.range
        low, high = (groups[0][0].new_tensor(limits[axis : axis + 3]) for axis in (0, 3))
        clouds = []
        for cloud in range(len(groups[0][0])):
            parts = []
            for (values, scores, numbers), group in zip(groups, self.groups, strict=True):
                place = values[cloud, :, :3]
                good = ((place >= low) & (place <= high)).all(1) & (scores[cloud] > self.config.score)
                value, score, number = values[cloud][good], scores[cloud][good], numbers[cloud][good]
                kept = suppress(value, score, self.config.nms, self.config.most)
                parts.append((value[kept], score[kept], number.new_tensor(group)[number[kept]]))
            value, score, number = (torch.cat(part) for part in zip(*parts, strict=True))
            clouds.append((value, score, number))
        return found(clouds)

    def _boxes(self, maps: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes [B, K, 7 or 9], scores [B, K] and classes of the group int64 [B, K] of the K hottest cells."""
        heat = maps["hm"].float().sigmoid()
        width = heat.shape[3]
        scores, place = heat.flatten(1).topk(min(self.config.candidates, heat[0].numel()))
        number, cell = place // heat[0, 0].numel(), place % heat[0, 0].numel()

        def read(name: str) -> Tensor:
            values = maps[name].float().flatten(2)
            return values.gather(2, cell[:, None].expand(-1, values.shape[1], -1)).transpose(1, 2)

        low, size = (heat.new_tensor(values) for values in (self.ground.range[:2], self.ground.cell))
        centre = (torch.stack([cell % width, cell // width], 2) + read("center")) * size + low
        cos, sin = read("rot").unbind(2)
        parts = [centre, read("center_z"), read("dim").exp(), torch.atan2(sin, cos).unsqueeze(2)]
        if self.config.velocity:
            parts.append(read("vel"))
        return torch.cat(parts, 2), scores, number

    def _cells(self, xy: Tensor) -> Tensor:
        """Places [M, 2] in cells, those outside of the map brought into the cells at its border."""
        cells = (xy - xy.new_tensor(self.ground.range[:2])) / xy.new_tensor(self.ground.cell)
        return torch.minimum(cells.clamp_min(0), cells.new_tensor(self.ground.size) - 0.5)

    def _heat(self, clouds: int, classes: int, cell: Tensor, number: Tensor, radius: Tensor) -> Tensor:
        """A bump around each of the cells [N, 3] of the classes ``number`` [N], as wide as its ``radius`` [N]; where
        bumps meet the higher counts: [B, C, H, W]."""
        width, height = self.ground.size
        heat = torch.zeros(clouds, classes, height, width, device=cell.device)
        if len(cell) == 0:
            return heat
        reach = torch.arange(-int(radius.max()), int(radius.max()) + 1, device=cell.device)
        y, x = (part.flatten() for part in torch.meshgrid(reach, reach, indexing="ij"))
        spread = (2 * radius[:, None] + 1).double() / 6
        bump = torch.exp(-(y**2 + x**2) / (2 * spread**2)).float()
        at_y, at_x = cell[:, 1:2] + y, cell[:, 2:3] + x
        near = torch.maximum(y.abs(), x.abs()) <= radius[:, None]
        near &= (at_y >= 0) & (at_y < height) & (at_x >= 0) & (at_x < width)
        place = ((cell[:, :1] * classes + number[:, None]) * height + at_y) * width + at_x
        return heat.view(-1).scatter_reduce_(0, place[near], bump[near], "amax").view_as(heat)

    def _weights(self, codes: Tensor) -> Tensor:
        turn, velocity = self.config.turn_weight, self.config.velocity_weight
        return codes.new_tensor([1, 1, 1, 1, 1, 1, turn, turn, *[velocity] * (codes.shape[1] - 8)])


def focal_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """CornerNet's (Law and Deng 2018): cells with a heat of 1 are to be found, others the less avoided the hotter they
    are; over the number of the former. ``logits`` and ``heat`` [B, C, H, W]."""
    probability = logits.float().sigmoid().clamp(CERTAIN, 1 - CERTAIN)
    centre = heat == 1
    hits = (probability.log() * (1 - probability) ** 2 * centre).sum()
    misses = ((1 - probability).log() * probability**2 * (1 - heat) ** 4 * ~centre).sum()
    return -(hits + misses) / centre.sum().clamp_min(1)


def _radius(lengths: Tensor, overlap: float) -> Tensor:
    """How far a box of ``lengths`` [M, 2] may be shifted: [M], of the three cases of CornerNet's published code, whose
    roots are all halved, whatever the first coefficient is. Detectors are trained with these."""
    total, area = lengths.sum(1), lengths.prod(1)
    roots = []
    for a, b, c in (
        (1.0, total, area * (1 - overlap) / (1 + overlap)),
        (4.0, 2 * total, (1 - overlap) * area),
        (4 * overlap, -2 * overlap * total, (overlap - 1) * area),
    ):
        roots.append((b + (b**2 - 4 * a * c).sqrt()) / 2)
    return torch.stack(roots).amin(0)


def _block(before: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(inplace=True))


def _numbers(groups: tuple[tuple[str, ...], ...], classes: Sequence[str]) -> list[list[int]]:
    """The numbers of the classes in each group."""
    named = [name for group in groups for name in group]
    for name in named:
        if name not in classes:
            raise ConfigError(f"head.groups has {name!r}, which is no class{nearest(name, classes)}: {list(classes)}")
    if sorted(named) != sorted(classes):
        raise ConfigError(f"head.groups {[list(group) for group in groups]}: expected each of {list(classes)} once")
    return [[classes.index(name) for name in group] for group in groups]
