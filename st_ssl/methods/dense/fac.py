"""FAC (Liu et al., CVPR 2023): PointContrast whose pairs know of foreground. Points of a segment are each other's
positives, only foreground asks, and segments of foreground are told from those of background."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from st_ssl.augment.point_segments import FOREGROUND, REGION, SegmentsConfig, segmented
from st_ssl.core.config import Config
from st_ssl.core.exhibits import CloudExhibit, Exhibit
from st_ssl.core.inputs import Modality
from st_ssl.core.types import PointBatch, View
from st_ssl.data.points.views import point_views
from st_ssl.data.views import each
from st_ssl.encoders.base import CloudEncoder
from st_ssl.methods.base import METHODS, Losses, Method, Outputs, Paper
from st_ssl.objectives.contrastive import foreground_info_nce, point_info_nce, region_info_nce
from st_ssl.parts.correspondence import SiameseCorrespondence
from st_ssl.parts.point_matching import (
    SceneAugmentConfig,
    SweepPairConfig,
    links,
    match,
    matches,
    point_features,
    require_points,
    scene_augment,
    two_views,
)


class FACConfig(Config):
    """A reconstruction of the paper: the code that its authors released trains DepthContrast (2021). It has no
    segments, no foreground and no correspondence network, so all numbers here are our reading.

    Two views of a scene that is cut into ``segments``. Of those that both views show with ``min_points`` points at
    least, ``num_foreground`` and ``num_background`` take part, with ``points_per_segment`` points each: as many of a
    small thing as of a large one.

    ``region_weight``: of the contrast between points, by segments; ``segment_weight``: of that between segments,
    foreground against background; ``point_weight``: of PointContrast's own between ``num_pairs`` matched points, which
    is all that is left where the other two are 0.

    ``sweeps``: the views are of two sweeps of a drive. The segments are those of the first, and a point of the second
    is of the segment of the point that it is matched with."""

    name: Literal["fac"] = "fac"
    augment: SceneAugmentConfig = SceneAugmentConfig()
    output_dim: int = Field(default=32, gt=0)
    num_pairs: int = Field(default=1024, gt=0)
    temperature: float = Field(default=0.4, gt=0)
    segments: SegmentsConfig = SegmentsConfig()
    num_foreground: int = Field(default=24, gt=0)
    num_background: int = Field(default=24, gt=0)
    points_per_segment: int = Field(default=8, gt=0)
    min_points: int = Field(default=4, gt=0)
    point_weight: float = Field(default=0.0, ge=0)
    region_weight: float = Field(default=1.0, ge=0)
    segment_weight: float = Field(default=1.0, ge=0)
    sweeps: SweepPairConfig | None = None

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if self.point_weight == self.region_weight == self.segment_weight == 0:
            raise ValueError("point_weight, region_weight and segment_weight are all 0: nothing would be learned")
        return self


@dataclass
class _Chosen:
    """Segments of B scenes in two views, foreground in the first slots, G in all. ``valid`` bool [B, G]: whether there
    is one in a slot. Of each view ``rows`` int64 [B, G, R] are points of it, of which ``there`` bool [B, G, R] exist,
    and ``slot`` int64 [P] says in which slot of all B x G each point of the batch is (B x G: in none)."""

    valid: Tensor
    rows: tuple[Tensor, Tensor]
    there: tuple[Tensor, Tensor]
    slot: tuple[Tensor, Tensor]


@METHODS.register(FACConfig)
class FAC(Method[FACConfig]):
    """The sum of two contrasts, each with its weight.

    Regional grouping: ``region_info_nce``, where points of foreground segments ask for the points of their segment in
    the other view among those of all segments. Foreground against background: ``foreground_info_nce``, both ways round,
    on segments, whose features are the means of their points and then go through a ``SiameseCorrespondence``.

    The paper over-segments with VCCS. How foreground is told without labels, whether the points of a segment compete,
    and the layers of the network are choices made here, the simplest that do what the paper says: ``oversegment`` takes
    large smooth surfaces for background, each positive is set against the negatives alone, and the network is attention
    within a view and across views, with the same weights for both."""

    paper = Paper(
        "FAC: 3D representation learning via foreground aware feature contrast",
        "Liu et al.",
        "CVPR 2023",
        "points of a foreground segment are each other's positives, and foreground is told from background",
    )
    modality: ClassVar[Modality] = "points"

    def __init__(self, config: FACConfig, encoder: CloudEncoder) -> None:
        super().__init__(config, encoder)
        require_points(encoder, config.name)
        cut = [partial(segmented, config=config.segments)] if config.region_weight or config.segment_weight else []
        plan = each(two_views(config.sweeps), scene_augment(config.augment, encoder))
        self.views = point_views(encoder.input, plan, *cut)
        self.head = nn.Linear(encoder.embed_dim, config.output_dim)
        if config.segment_weight:
            self.correspondence = SiameseCorrespondence(config.output_dim)

    def outputs(self, views: list[View]) -> Outputs:
        """Two views of B scenes to features, 0 where there is none, of which those with a weight of 0 are left out:
        ``first`` and ``second`` of matched points as PointContrast has them, ``region_first`` and ``region_second`` of
        points [B, G, R, ``output_dim``] and ``segment_first`` and ``segment_second`` [B, G, ``output_dim``] of the same
        G segments, foreground before background. Given is which of them are there, by the same names."""
        config = self.config
        first, second = point_features(self.encoder, self.head, views)
        outputs = Outputs({})
        if config.point_weight:
            pairs, valid = match(views[0], views[1], config.num_pairs, config.sweeps)
            for number, (name, x) in enumerate((("first", first), ("second", second))):
                outputs.features[name] = x[pairs[..., number]] * valid[..., None]
            outputs.given["valid"] = valid
        if not config.region_weight and not config.segment_weight:
            return outputs
        chosen = self.choose(*self._shared_segments(*views))
        if config.region_weight:
            for name, x, rows, there in zip(
                ("first", "second"), (first, second), chosen.rows, chosen.there, strict=True
            ):
                outputs.features[f"region_{name}"] = x[rows] * there[..., None]
                outputs.given[f"in_{name}"] = there
        if config.segment_weight:
            means = (_means(x, slot, chosen.valid) for x, slot in zip((first, second), chosen.slot, strict=True))
            one, other = self.correspondence(*means, chosen.valid)
            outputs.features |= {"segment_first": one, "segment_second": other}
            outputs.given["segment_valid"] = chosen.valid
        return outputs

    def losses(self, outputs: Outputs) -> Losses:
        config = self.config
        logs: dict[str, Tensor] = {}
        terms = []
        if config.point_weight:
            first, second, valid = (outputs[name].flatten(0, 1) for name in ("first", "second", "valid"))
            loss, accuracy = point_info_nce(first, second, valid, config.temperature)
            logs |= {"point_loss": loss, "match_accuracy": accuracy, "matched": valid.float().mean()}
            terms.append(config.point_weight * loss)
        if config.region_weight:
            logs |= self._regions(outputs)
            terms.append(config.region_weight * logs["region_loss"])
        if config.segment_weight:
            logs["segment_loss"] = self._segments(outputs)
            terms.append(config.segment_weight * logs["segment_loss"])
        return Losses(torch.stack(terms).sum(), logs)

    def _regions(self, outputs: Outputs) -> dict[str, Tensor]:
        first, second = (outputs[f"region_{name}"].flatten(0, 1) for name in ("first", "second"))
        valid = (outputs["in_first"].flatten(0, 1), outputs["in_second"].flatten(0, 1))
        anchors = torch.zeros(outputs["in_first"].shape[:2], dtype=torch.bool, device=first.device)
        anchors[:, : self.config.num_foreground] = True
        loss, accuracy = region_info_nce(first, second, valid, anchors.flatten(), self.config.temperature)
        filled = valid[0].any(1).view(anchors.shape)[:, : self.config.num_foreground].to(loss.dtype).mean()
        return {"region_loss": loss, "region_accuracy": accuracy, "foreground_filled": filled}

    def _segments(self, outputs: Outputs) -> Tensor:
        split, there = self.config.num_foreground, outputs["segment_valid"]
        both = [outputs[f"segment_{name}"] for name in ("first", "second")]
        a, b = (x[:, :split].flatten(0, 1) for x in both)
        background = torch.cat([x[:, split:].flatten(0, 1) for x in both])
        valid, known = there[:, :split].flatten(), there[:, split:].flatten().repeat(2)
        ways = [
            foreground_info_nce(x, y, valid, background, known, self.config.temperature) for x, y in ((a, b), (b, a))
        ]
        return torch.stack(ways).mean()

    def _shared_segments(self, first: View, second: View) -> tuple[View, View]:
        """The views, whose segments have the same numbers in both."""
        if self.config.sweeps is None:
            return first, second
        pairs = matches(first, second, self.config.sweeps)
        pairs = pairs[torch.argsort(pairs[:, 1], stable=True)]
        pairs = pairs[torch.diff(pairs[:, 1], prepend=pairs.new_full((1,), -1)) != 0]  # one for each of the second
        own, other = first.points.labels, second.points.labels
        region, foreground = torch.full_like(other[REGION], -1), torch.zeros_like(other[FOREGROUND])
        region[pairs[:, 1]], foreground[pairs[:, 1]] = own[REGION][pairs[:, 0]], own[FOREGROUND][pairs[:, 0]]
        points = replace(second.points, labels={**other, REGION: region, FOREGROUND: foreground})
        return first, replace(second, content=points)

    def choose(self, first: View, second: View) -> _Chosen:
        """Segments that both views of each scene show, evenly chosen from all, and as evenly points of each."""
        config, batches = self.config, (first.points, second.points)
        numbers = config.num_foreground, config.num_background
        size = config.points_per_segment
        valid = torch.zeros(len(first), sum(numbers), dtype=torch.bool, device=first.points.xyz.device)
        rows = tuple(batch.offsets.new_zeros(*valid.shape, size) for batch in batches)
        there = tuple(torch.zeros_like(x, dtype=torch.bool) for x in rows)
        slot = tuple(torch.full_like(batch.labels[REGION], valid.numel()) for batch in batches)
        for scene in range(len(first)):
            parts = [_Regions.of(batch, scene) for batch in batches]
            slots, regions = _common(parts, numbers, config.min_points)
            valid[scene, slots] = True
            for part, own_rows, own_there, own_slot in zip(parts, rows, there, slot, strict=True):
                own_rows[scene, slots], own_there[scene, slots] = part.points(regions, size)
                own_slot[part.begin : part.end] = part.slots(regions, slots + scene * valid.shape[1], valid.numel())
        return _Chosen(valid, rows, there, slot)  # type: ignore[arg-type]

    def exhibits(self, views: list[View]) -> list[Exhibit]:
        """The segments of the first view, each in a colour of its own, background in grey; and which of its points find
        themselves in the second."""
        matched: list[Exhibit] = [links(self.encoder, self.head, views, self.config.sweeps)]
        points = views[0].points
        if REGION not in points.labels:
            return matched
        region, foreground = points.labels[REGION], points.labels[FOREGROUND] == 1
        turn = region[:, None] * torch.tensor([0.618, 0.382, 0.236], device=region.device)
        color = torch.where(foreground[:, None], turn.frac().abs(), 0.7 + 0.2 * turn[:, :1].frac().abs())
        return [CloudExhibit("segments", replace(points, attributes={"color": color})), *matched]


@dataclass
class _Regions:
    """The points ``begin`` to ``end`` of a batch, one scene: the segment of each, their number of points, and whether
    they are foreground. ``order`` has the points by segment; those of segment r begin at ``starts[r]``."""

    begin: int
    end: int
    region: Tensor
    counts: Tensor
    foreground: Tensor
    order: Tensor
    starts: Tensor

    @classmethod
    def of(cls, points: PointBatch, scene: int) -> _Regions:
        begin, end = points.offsets[scene : scene + 2].tolist()
        region, foreground = (points.labels[name][begin:end] for name in (REGION, FOREGROUND))
        counts = torch.bincount(region + 1)  # the first is of those in none
        front = torch.zeros_like(counts).index_put_((region + 1,), foreground) > 0
        order = torch.argsort(region, stable=True) + begin
        return cls(begin, end, region, counts[1:], front[1:], order, counts.cumsum(0)[:-1])

    def points(self, regions: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Up to ``size`` points of each of ``regions`` [S], evenly chosen: rows of the batch [S, size], and which of
        them are there, bool [S, size]."""
        count = self.counts[regions, None]
        number = count.clamp(max=size)
        place = torch.arange(size, device=count.device).expand(len(regions), -1)
        there = place < number
        even = torch.where(there, place * count // number, 0)
        return torch.where(there, self.order[self.starts[regions, None] + even], 0), there

    def slots(self, regions: Tensor, slots: Tensor, none: int) -> Tensor:
        """The slot of each point, where ``regions`` [S] are in ``slots`` [S], and ``none`` that of all others."""
        table = torch.full((len(self.counts) + 1,), none, device=self.counts.device)
        table[regions + 1] = slots
        return table[self.region + 1]


def _common(parts: list[_Regions], numbers: tuple[int, int], least: int) -> tuple[Tensor, Tensor]:
    """The slots and segments, int64 [S] each, of up to ``numbers`` (foreground, background) segments, evenly chosen,
    that have ``least`` points in both parts."""
    known = min(len(part.counts) for part in parts)
    shared = torch.stack([part.counts[:known] >= least for part in parts]).all(0)
    foreground, slots, regions, begin = parts[0].foreground[:known], [], [], 0
    for number, wanted in zip(numbers, (foreground, ~foreground), strict=True):
        own = (shared & wanted).nonzero().squeeze(1)
        count = min(len(own), number)
        slots.append(begin + torch.arange(count, device=own.device))
        regions.append(own[torch.arange(count, device=own.device) * len(own) // max(1, count)])
        begin += number
    return torch.cat(slots), torch.cat(regions)


def _means(features: Tensor, slot: Tensor, valid: Tensor) -> Tensor:
    """The mean of ``features`` [P, D] over the points of each slot, [B, G, D]; 0 where there is no segment."""
    slots = valid.numel()
    features = features.to(torch.promote_types(features.dtype, torch.float32))  # bfloat16 cannot add up thousands
    sums = features.new_zeros(slots + 1, features.shape[1]).index_add(0, slot, features)[:-1]
    counts = torch.bincount(slot, minlength=slots + 1)[:-1].clamp(min=1)
    return (sums / counts[:, None]).view(*valid.shape, -1) * valid[..., None]
