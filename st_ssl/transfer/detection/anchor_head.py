"""SECOND's head (Yan, Mao, Li: Sensors 2018), as OpenPCDet has it: boxes of one size for each class at every cell and
in two turns, of which the right ones are found and corrected."""

from __future__ import annotations

from collections.abc import Sequence
from math import log, pi
from typing import Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot, smooth_l1_loss

from st_ssl.core.boxes import BoxBatch
from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError
from st_ssl.transfer.detection.head import Ground, Head, found, suppress

IGNORED, NEGATIVE = -2, -1
"""Labels of anchors that have no class."""
DIRECTION = pi / 4
"""Where the first of both directions begins: cars seldom stand there."""
SMALLEST = 1e-5
"""Of sizes, in metres."""


class AnchorConfig(Config):
    """The anchors of a class: ``size`` (length, width, height) and height of the ``bottom`` in metres. One is right
    where its overlap with a box is at least ``matched``, and wrong below ``unmatched``; between, nothing is asked."""

    size: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    bottom: float
    matched: float = Field(gt=0, le=1)
    unmatched: float = Field(ge=0, le=1)


KITTI = {
    "car": AnchorConfig(size=(3.9, 1.6, 1.56), bottom=-1.78, matched=0.6, unmatched=0.45),
    "pedestrian": AnchorConfig(size=(0.8, 0.6, 1.73), bottom=-0.6, matched=0.5, unmatched=0.35),
    "cyclist": AnchorConfig(size=(1.76, 0.6, 1.73), bottom=-0.6, matched=0.5, unmatched=0.35),
}
"""Bottoms are below the sensor: other cars carry it at another height."""


class AnchorHeadConfig(Config):
    """``anchors`` of every class by its name, large letters or small (default: KITTI's), in two ``turns`` (radians).
    Weights: of classes, boxes and directions. At most ``candidates`` with a score of at least ``score`` become boxes,
    at most ``most`` of those that overlap no better one by more than ``nms``."""

    name: Literal["anchor"] = "anchor"
    anchors: dict[str, AnchorConfig] = KITTI
    turns: tuple[float, float] = (0, 1.57)
    class_weight: NonNegativeFloat = 1.0
    box_weight: NonNegativeFloat = 2.0
    direction_weight: NonNegativeFloat = 0.2
    candidates: int = Field(default=4096, gt=0)
    score: float = Field(default=0.1, ge=0, lt=1)
    nms: float = Field(default=0.01, ge=0, le=1)
    most: int = Field(default=500, gt=0)


class AnchorPredictions(NamedTuple):
    """Of A anchors, cell by cell along x and then y, by class and turn in each: logits of ``classes`` [B, A, C], the
    ``codes`` [B, A, 7] that correct an anchor, and logits of both ``directions`` [B, A, 2]."""

    classes: Tensor
    codes: Tensor
    directions: Tensor


class AnchorTargets(NamedTuple):
    """``labels`` int64 [B, A]: the class, ``NEGATIVE`` or ``IGNORED``; and, of those with a class, ``codes`` [B, A, 7]
    and ``directions`` int64 [B, A]."""

    labels: Tensor
    codes: Tensor
    directions: Tensor


class AnchorHead(Head):
    """Names of weights are those of OpenPCDet's ``AnchorHeadSingle``. Velocities are not told."""

    anchors: Tensor

    def __init__(self, config: AnchorHeadConfig, width: int, classes: Sequence[str], ground: Ground) -> None:
        """``width`` channels of the map, the names of the ``classes`` in their order, and where the map lies. Raises
        ``ConfigError`` where a class has no anchors."""
        super().__init__()
        anchors = {name.lower(): anchor for name, anchor in config.anchors.items()}
        missing = [name for name in classes if name.lower() not in anchors]
        if missing:
            raise ConfigError(f"head.anchors has none of class {missing[0]!r}: it has {[*config.anchors]}")
        self.config, self.ground = config, ground
        self.classes = [anchors[name.lower()] for name in classes]
        self.register_buffer("anchors", self._lay_out(), persistent=False)
        self.per_cell = len(classes) * len(config.turns)
        self.conv_cls = nn.Conv2d(width, self.per_cell * len(classes), 1)
        self.conv_box = nn.Conv2d(width, self.per_cell * 7, 1)
        self.conv_dir_cls = nn.Conv2d(width, self.per_cell * 2, 1)
        assert self.conv_cls.bias is not None
        nn.init.constant_(self.conv_cls.bias, -log(99))  # a probability of 0.01
        nn.init.normal_(self.conv_box.weight, std=0.001)

    def forward(self, bev: Tensor) -> AnchorPredictions:
        """[B, C, H, W] to predictions of each anchor."""
        maps = (conv(bev).permute(0, 2, 3, 1) for conv in (self.conv_cls, self.conv_box, self.conv_dir_cls))
        classes, codes, directions = (x.reshape(len(x), self.anchors.shape[0], -1) for x in maps)
        return AnchorPredictions(classes, codes, directions)

    def pack(self, predictions: AnchorPredictions) -> Tensor:
        return torch.cat(predictions, 2)

    def unpack(self, packed: Tensor) -> AnchorPredictions:
        return AnchorPredictions(*packed.split([len(self.classes), 7, 2], 2))

    @torch.no_grad()
    def targets(self, boxes: BoxBatch) -> AnchorTargets:
        """Of each class by itself: anchors that overlap a box enough, and the best of each box, are right. Overlap is
        that of boxes turned to the nearest axis, seen from above."""
        clouds = [self._assign(boxes.part(cloud, cloud + 1)) for cloud in range(len(boxes))]
        labels, codes = (torch.stack(parts) for parts in zip(*clouds, strict=True))
        yaw = codes[..., 6] + self.anchors[:, 6]
        directions = ((yaw - DIRECTION).remainder(2 * pi) / pi).floor().clamp(0, 1).long()
        return AnchorTargets(labels, codes, directions)

    def loss(self, predictions: AnchorPredictions, targets: AnchorTargets) -> tuple[Tensor, dict[str, Tensor]]:
        """``class``, a focal loss, ``box``, smooth absolute differences, and ``direction``, a cross entropy: sums over
        the right anchors of a cloud (of classes, also the wrong ones) by their number, and means over clouds."""
        right = targets.labels >= 0
        share = 1 / (right.sum(1, keepdim=True).clamp_min(1) * len(right))
        logits = predictions.classes.float()
        truth = one_hot(targets.labels.clamp_min(0), logits.shape[2]) * right.unsqueeze(2)
        cared = share * (targets.labels != IGNORED)
        classes = (_focal_loss(logits, truth.to(logits)).sum(2) * cared).sum()
        cloud, anchor = right.nonzero(as_tuple=True)
        weight = share[cloud, 0]
        codes, truth_codes = _by_sines(predictions.codes[cloud, anchor].float(), targets.codes[cloud, anchor])
        off = smooth_l1_loss(codes, truth_codes, reduction="none", beta=1 / 9)
        directions = predictions.directions[cloud, anchor].float()
        off_directions = cross_entropy(directions, targets.directions[cloud, anchor], reduction="none")
        parts = {
            "class": classes * self.config.class_weight,
            "box": (off.sum(1) * weight).sum() * self.config.box_weight,
            "direction": (off_directions * weight).sum() * self.config.direction_weight,
        }
        return parts["class"] + parts["box"] + parts["direction"], parts

    @torch.no_grad()
    def decode(self, predictions: AnchorPredictions) -> BoxBatch:
        """The most probable anchors as boxes; all classes suppress one another."""
        clouds = []
        for logits, codes, directions in zip(*predictions, strict=True):
            scores, classes = logits.float().sigmoid().max(1)
            scores, best = scores.topk(min(self.config.candidates, len(scores)))
            best = best[scores >= self.config.score]
            values = decode_boxes(codes[best].float(), self.anchors[best])
            turn = (values[:, 6] - DIRECTION).remainder(pi) + DIRECTION + pi * directions[best].argmax(1)
            values = torch.cat([values[:, :6], turn[:, None]], 1)
            kept = suppress(values, scores[: len(best)], self.config.nms, self.config.most)
            clouds.append((values[kept], scores[kept], classes[best[kept]]))
        return found(clouds)

    def _lay_out(self) -> Tensor:
        """All anchors [A, 7], the first and the last of a row at the ends of the range."""
        width, height = self.ground.size
        low, high = self.ground.range[:2], self.ground.range[3:5]
        x, y = (
            torch.linspace(start, end, n, dtype=torch.float64)
            for start, end, n in zip(low, high, (width, height), strict=True)
        )
        kinds = [
            (anchor.bottom + anchor.size[2] / 2, *anchor.size, turn)
            for anchor in self.classes
            for turn in self.config.turns
        ]
        anchors = torch.zeros(height, width, len(kinds), 7)
        anchors[..., 0] = x[:, None]
        anchors[..., 1] = y[:, None, None]
        anchors[..., 2:] = torch.tensor(kinds)
        return anchors.view(-1, 7)

    def _assign(self, boxes: BoxBatch) -> tuple[Tensor, Tensor]:
        """Labels [A] and codes [A, 7] for the boxes of one cloud."""
        turns = len(self.config.turns)
        of_class = self.anchors.view(-1, len(self.classes), turns, 7).transpose(0, 1)
        labels, codes = [], []
        for number, (anchor, anchors) in enumerate(zip(self.classes, of_class, strict=True)):
            kind, own = anchors.reshape(-1, 7), boxes.values[boxes.classes == number, :7]
            label, code = torch.full_like(kind[:, 0], NEGATIVE, dtype=torch.int64), torch.zeros_like(kind)
            if len(own):
                right, wrong, truth = _match(aligned_iou(kind, own), anchor.matched, anchor.unmatched)
                label = torch.where(right, number, torch.where(wrong, NEGATIVE, IGNORED))
                code[right] = encode_boxes(own[truth[right]], kind[right])
            labels.append(label.view(-1, turns))
            codes.append(code.view(-1, turns, 7))
        return torch.stack(labels, 1).flatten(), torch.stack(codes, 1).view(-1, 7)


def _match(overlap: Tensor, matched: float, unmatched: float) -> tuple[Tensor, Tensor, Tensor]:
    """For ``overlap`` [A, N] of anchors and boxes: which anchors are right, and which are wrong, bool [A]; and the box
    that each overlaps most, int64 [A]."""
    most, box = overlap.max(1)
    best = overlap.amax(0)
    right = (most >= matched) | ((overlap == best) & (best > 0)).any(1)
    return right, ~right & (most < unmatched), box


def aligned_iou(a: Tensor, b: Tensor) -> Tensor:
    """Overlap seen from above of boxes ``a`` [N, 7] and ``b`` [M, 7], each turned to the nearest axis: [N, M]."""
    corners = []
    for boxes in (a, b):
        turn = (boxes[:, 6:] + pi / 2).remainder(pi) - pi / 2
        half = torch.where(turn.abs() < pi / 4, boxes[:, 3:5], boxes[:, [4, 3]]) / 2
        corners.append((boxes[:, :2] - half, boxes[:, :2] + half))
    (low_a, high_a), (low_b, high_b) = corners
    sides = torch.minimum(high_a[:, None], high_b) - torch.maximum(low_a[:, None], low_b)
    overlap = sides.clamp_min(0).prod(2)
    union = (high_a - low_a).prod(1)[:, None] + (high_b - low_b).prod(1) - overlap
    return overlap / union.clamp_min(1e-6)


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """What corrects ``anchors`` [N, 7] to ``boxes`` [N, 7]: [N, 7]. Shifts are in diagonals and heights of the anchor,
    sizes logarithms of ratios, turns differences."""
    size, base = (x[:, 3:6].clamp_min(SMALLEST) for x in (boxes, anchors))
    unit = torch.cat([base[:, :2].norm(dim=1, keepdim=True).expand(-1, 2), base[:, 2:]], 1)
    shift = (boxes[:, :3] - anchors[:, :3]) / unit
    return torch.cat([shift, (size / base).log(), boxes[:, 6:7] - anchors[:, 6:7]], 1)


def decode_boxes(codes: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of ``encode_boxes``: ``codes`` [N, 7] and ``anchors`` [N, 7] to boxes [N, 7]."""
    base = anchors[:, 3:6]
    unit = torch.cat([base[:, :2].norm(dim=1, keepdim=True).expand(-1, 2), base[:, 2:]], 1)
    place = codes[:, :3] * unit + anchors[:, :3]
    return torch.cat([place, codes[:, 3:6].exp() * base, codes[:, 6:7] + anchors[:, 6:7]], 1)


def _by_sines(codes: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Both [N, 7] with the two terms of the sine of the difference of their turns in place of the turns."""
    a, b = codes[:, 6:], truth[:, 6:]
    return torch.cat([codes[:, :6], a.sin() * b.cos()], 1), torch.cat([truth[:, :6], a.cos() * b.sin()], 1)


def _focal_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Lin et al. (2017) with α 0.25 and γ 2: [B, A, C]."""
    probability = logits.sigmoid()
    miss = truth * (1 - probability) + (1 - truth) * probability
    balance = truth * 0.25 + (1 - truth) * 0.75
    return balance * miss**2 * binary_cross_entropy_with_logits(logits, truth, reduction="none")
