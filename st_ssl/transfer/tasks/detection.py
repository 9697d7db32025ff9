"""Detection of objects in LiDAR sweeps: boxes around them, by class."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from st_ssl.augment.object_moving import MoveObjects, MoveObjectsConfig
from st_ssl.augment.object_pasting import Bank, PasteObjects, gather_objects
from st_ssl.augment.points import PointAugment, PointAugmentConfig
from st_ssl.core.boxes import BOX, BoxBatch, Boxes
from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError, DataError, UnfitError, nearest
from st_ssl.core.inputs import Modality, PointInputConfig
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import Entry, Features, PointBatch, PointCloud
from st_ssl.core.verdict import Figure
from st_ssl.data.base import CutsViews, DataSource
from st_ssl.data.clip_plans import Still
from st_ssl.data.points.views import point_views
from st_ssl.data.views import Views, each
from st_ssl.encoders.base import Encoder
from st_ssl.encoders.volume_encoder import VolumeFeatures
from st_ssl.ops.boxes import points_in_boxes
from st_ssl.transfer.detection.average_precision import DetectionMeter, Kind, level_figure, level_parts, match
from st_ssl.transfer.detection.detector import Detector, DetectorConfig
from st_ssl.transfer.detection.head import within
from st_ssl.transfer.fitting.label_fractions import Parts
from st_ssl.transfer.tasks.ballot import Shown
from st_ssl.transfer.tasks.base import TASKS, Task
from st_ssl.transfer.tasks.label_survey import Look

OVERLAP = 0.5
"""Of boxes that are the same, where the configuration does not say it for their class."""
LOOKED_AT = 100
"""Training sweeps after which a class has had boxes to learn from, if it ever has."""


class DetectConfig(Config):
    """``detector``: the network on the encoder's volume, and its head. ``classes``: which of the data's are learned and
    counted (null: all); ``primary`` is the one whose average precision chooses the epoch and is judged (null: the
    first). Boxes with fewer than ``min_points`` points of the sweep in them, or centred outside of
    the encoder's range, are neither right nor wrong.

    A box is found by one that overlaps it by ``overlaps`` of its class (0.5 where nothing is said), seen from above or
    in ``3d``. ``augment``: how training sweeps are varied, with their boxes. ``labels``: what a fraction of the labels
    is: every so-manieth of all labelled ``frames``, or all of so many ``drives`` (ALSO, 2023).

    ``paste``: how many objects of each class a training sweep should have (``{car: 15, pedestrian: 10}``). What it
    lacks is pasted from other training sweeps. Only objects of ``paste_points`` points or more are taken.

    ``move``: each object of a training sweep is moved and turned for itself, so far that it stays clear of the others.

    ``balanced``: each pass draws as many sweeps for one class as for another. Sweeps of rare classes are then seen
    several times (CBGS, Zhu et al. 2019)."""

    name: Literal["detect"] = "detect"
    detector: DetectorConfig = DetectorConfig()
    classes: tuple[str, ...] | None = Field(default=None, min_length=1)
    primary: str | None = None
    min_points: int = Field(default=1, ge=0)
    overlaps: dict[str, float] = Field(default={"pedestrian": 0.3, "cyclist": 0.3})
    overlap_of: Kind = "bev"
    augment: PointAugmentConfig = PointAugmentConfig(
        rotation="z", max_angle=45.0, scale=(0.95, 1.05), flip=(0.0, 0.5, 0.0)
    )
    labels: Literal["frames", "drives"] = "frames"
    paste: dict[str, PositiveInt] = Field(default_factory=dict)
    paste_points: PositiveInt = 5
    move: MoveObjectsConfig | None = None
    balanced: bool = False


class DetectionHead(nn.Module):
    """A detector whose predictions are one tensor, clouds first."""

    def __init__(self, encoder: Encoder, config: DetectorConfig, classes: Sequence[str]) -> None:
        super().__init__()
        self.detector = Detector(encoder, config, classes)

    def forward(self, features: Features, shown: Shown) -> Tensor:
        assert isinstance(features, VolumeFeatures)
        return self.detector.head.pack(self.detector(features.volume))


class BoxBallot:
    """Takes the boxes that are found in sweeps. Rows of the truth [T, 11] are the class of a box, its 9 values, and how
    many points are in it; those of ``means`` [K, 12] the sample, the class, the score and the 9 values of a box found.
    There is one view of a sweep."""

    def __init__(self, task: Detect, asked: Shown) -> None:
        self.task, boxes = task, task.known(asked)
        columns = (boxes.classes, *boxes.values.unbind(1), boxes.facts["points"])
        self.truth = torch.stack([column.double() for column in columns], 1)
        self.sample = boxes.cloud
        self._found: list[Tensor] = []

    def add(self, shown: Shown, scores: Tensor, first: int = 0) -> None:
        """What the head gives for a view, or for a piece of it whose first sample is the batch's number ``first``."""
        found = self.task.decode(scores.float())
        columns = (found.cloud + first, found.classes, found.facts["score"], *found.values.unbind(1))
        self._found.append(torch.stack([column.double() for column in columns], 1))

    def means(self) -> Tensor:
        """All boxes found."""
        return torch.cat(self._found)


class BoxMeter:
    """A ``Meter`` of boxes, as a ``BoxBallot`` gives them."""

    def __init__(self, task: Detect) -> None:
        self.task = task
        self.found = DetectionMeter(task.classes, task.overlaps, task.config.overlap_of)

    def add(self, scores: np.ndarray, truth: np.ndarray, sample: np.ndarray, entries: list[Entry]) -> None:
        """Take a batch."""
        for predicted, true in sweeps_of(scores, truth, sample, len(entries)):
            self.found.add(predicted, true)

    def result(self) -> dict[str, float]:
        """The average precision of the class that counts first, of the others, and the mean."""
        return self.found.result()


def sweeps_of(scores: np.ndarray, truth: np.ndarray, sample: np.ndarray, count: int) -> list[tuple[Boxes, Boxes]]:
    """The boxes found and the true ones (with their ``points``) of each of ``count`` sweeps, as a ``Meter`` is given
    them."""
    found = []
    for number in range(count):
        own, true = scores[scores[:, 0] == number], truth[sample == number]
        found.append(
            (
                Boxes(own[:, 3:].astype(np.float32), own[:, 1].astype(np.int64), {"score": own[:, 2]}),
                Boxes(
                    true[:, 1:10].astype(np.float32), true[:, 0].astype(np.int64), {"points": true[:, 10].astype(int)}
                ),
            )
        )
    return found


def with_boxes(cloud: PointCloud) -> PointCloud:
    """``cloud``; raises ``UnfitError`` where nobody has labelled it."""
    if cloud.boxes is None:
        raise UnfitError("has no boxes: nobody has labelled it")
    return cloud


@TASKS.register(DetectConfig)
class Detect(Task):
    """Boxes of objects (SECOND, 2018; CenterPoint, 2021), measured by average precision over all points of the curve.

    What a head says is read with the head that was made last."""

    modality: ClassVar[Modality] = "points"

    config: DetectConfig

    def __init__(self, config: DetectConfig) -> None:
        super().__init__(config)
        self.every: tuple[str, ...] = ()
        self.classes: tuple[str, ...] = ()
        self.blind = False
        self._counts: dict[str, dict[str, int]] = {}
        self._detector: Detector | None = None
        self._train: tuple[Entry, ...] = ()
        self._bank: tuple[tuple[Entry, ...], Bank] = ((), {})
        self._sweeps = 0
        self._given: Counter[int] = Counter()
        self._learned: Counter[int] = Counter()

    def begin(self, train: Sequence[Entry]) -> None:
        self._train = tuple(train)
        self._sweeps, self._given, self._learned = 0, Counter(), Counter()

    @property
    def metric(self) -> str:  # type: ignore[override]
        return f"AP_{self.config.primary or self.classes[0]}"

    @property
    def overlaps(self) -> dict[str, float]:
        """How much boxes of each class overlap that are the same."""
        return {name: self.config.overlaps.get(name, OVERLAP) for name in self.classes}

    def of_data(self, source: DataSource) -> None:
        self.every = source.box_classes
        if not self.every:
            raise ConfigError(f"task.name=detect: these {source.items} have no boxes; drives have (data.name=drives)")
        self._choose(self.every)

    def _choose(self, every: Sequence[str]) -> None:
        """Take the classes that are learned, of all that boxes have."""
        self.classes = self.config.classes or tuple(every)
        for key, names, known in (
            ("classes", self.classes, every),
            ("primary", (self.config.primary or self.classes[0],), self.classes),
            ("paste", tuple(self.config.paste), self.classes),
        ):
            for name in names:
                if name not in known:
                    there = ", ".join(known)
                    raise ConfigError(f"task.{key}: no class {name!r}{nearest(name, known)} (there are: {there})")

    def restore(self, classes: Sequence[str]) -> None:
        self.every, self.blind = tuple(classes), True
        self._choose(self.every)

    def learn_classes(self, parts: Parts, look: Look) -> list[str]:
        train = [entry for entry in parts.train if set(entry.tags) & set(self.classes)]
        if not train:
            raise DataError(
                f"none of {len(parts.train)} training sweeps has a box of {', '.join(self.classes)} (task.classes)"
            )
        for part, entries in (("train", parts.train), ("val", parts.val), ("test", parts.test)):
            if entries:
                self._counts[part] = {name: sum(name in entry.tags for entry in entries) for name in self.classes}
        return list(self.classes)

    def saved(self) -> Config:
        return self.config.model_copy(update={"classes": None})

    def counted(self) -> dict[str, str]:
        return {
            f"sweeps with boxes, {part}": ", ".join(f"{name} {count:,}" for name, count in counts.items())
            for part, counts in self._counts.items()
        }

    def fraction(self, train: Sequence[Entry], share: float, repeat: int) -> list[Entry]:
        """Every n-th of the sweeps, n = 1 / ``share``, from a place that is drawn for the repetition on; or whole
        drives."""
        if share == 1 or not train:
            return list(train)
        if self.config.labels == "drives":
            drives = list(dict.fromkeys(entry.path for entry in train))
            order = keyed_rng("drives", repeat).permutation(len(drives))[: max(1, round(share * len(drives)))]
            kept = {drives[row] for row in order}
            return [entry for entry in train if entry.path in kept]
        count = max(1, round(share * len(train)))
        first = keyed_rng("frames", repeat).random()
        rows = ((np.arange(count) + first) * len(train) / count).astype(int)
        return [train[row] for row in rows]

    def drawn(self, train: Sequence[Entry]) -> list[Entry]:
        """With ``balanced`` for each class that is there an equal share of as many sweeps as there are of all classes
        together, evenly chosen; a sweep of several classes counts for each."""
        if not self.config.balanced:
            return list(train)
        of_class = [[entry for entry in train if name in entry.tags] for name in self.classes]
        of_class = [entries for entries in of_class if entries]
        share = sum(map(len, of_class)) // max(1, len(of_class))
        return [entries[row * len(entries) // share] for entries in of_class for row in range(share)] or list(train)

    def head(self, encoder: Encoder) -> nn.Module:
        head = DetectionHead(encoder, self.config.detector, self.classes)
        self._detector = head.detector
        return head

    @property
    def detector(self) -> Detector:
        """That of the head that was made last."""
        assert self._detector is not None, "a head is made first"
        return self._detector

    def decode(self, packed: Tensor) -> BoxBatch:
        """The boxes that a head's answer means."""
        return self.detector.decode(self.detector.head.unpack(packed))

    def known(self, shown: Shown) -> BoxBatch:
        """The true boxes of sweeps, with the facts ``points``, how many are in them, and ``given``, their class. Boxes
        of classes that are not learned, centred outside of the encoder's range, or with too few points get the class
        -1. No boxes where a restored network is asked."""
        points = shown.view.points
        boxes = points.boxes
        if self.blind:
            none = points.xyz.new_zeros(0, len(BOX))
            nothing = torch.zeros(0, dtype=torch.int64, device=points.device)
            return BoxBatch(none, nothing, torch.zeros_like(points.offsets), {"points": nothing, "given": nothing})
        assert boxes is not None, "``with_boxes`` has seen to it"
        numbers = [self.classes.index(name) if name in self.classes else -1 for name in self.every]
        given = torch.tensor([*numbers, -1], device=points.device)[boxes.classes]
        inside = _count_points(points, boxes)
        low, high = (boxes.values.new_tensor(self.detector.range[axis : axis + 2]) for axis in (0, 3))
        there = ((boxes.values[:, :2] >= low) & (boxes.values[:, :2] < high)).all(1)
        classes = given.masked_fill((inside < self.config.min_points) | ~there, -1)
        return BoxBatch(boxes.values, classes, boxes.offsets, {"points": inside, "given": given})

    def targets(self, shown: Shown) -> Tensor:
        """Boxes [M, 11]: the cloud, the class (-1: none) and the 9 values of each."""
        return _rows(self.known(shown))

    def training_targets(self, shown: Shown, seed: int) -> Tensor:
        """As ``targets``. Warns after the first ``LOOKED_AT`` sweeps of the classes with boxes of which none counts."""
        boxes = self.known(shown)
        if self._sweeps < LOOKED_AT:
            self._sweeps += len(shown)
            self._given.update(boxes.facts["given"].tolist())
            self._learned.update(boxes.classes.tolist())
            if self._sweeps >= LOOKED_AT:
                self._warn_of_lost()
        return _rows(boxes)

    def _warn_of_lost(self) -> None:
        lost = [name for number, name in enumerate(self.classes) if self._given[number] and not self._learned[number]]
        if lost:
            counts = ", ".join(f"{name} {self._given[self.classes.index(name)]}" for name in lost)
            warnings.warn(
                f"the first {self._sweeps} training sweeps have boxes that teach nothing: {counts}; all of them lie "
                f"outside of encoder.range, or hold fewer than task.min_points={self.config.min_points} points: see "
                "`prepare verify --kind drives`",
                stacklevel=2,
            )

    def loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        counts = torch.bincount(targets[:, 0].long(), minlength=len(scores))
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        boxes = BoxBatch(targets[:, 2:], targets[:, 1].long(), offsets)
        return self.detector.loss(self.detector.head.unpack(scores), boxes)[0]

    def weight(self, targets: Tensor) -> float:
        """How many boxes a head learns from, by which it divides; at least one."""
        boxes = BoxBatch(targets[:, 2:], targets[:, 1].long(), targets.new_tensor([0, len(targets)]).long())
        return float(max(1, len(within(boxes, self.detector.range).values)))

    def ballot(self, asked: Shown) -> BoxBallot:
        return BoxBallot(self, asked)

    def meter(self) -> BoxMeter:
        return BoxMeter(self)

    def judged(self, truth: np.ndarray, sample: np.ndarray, entries: list[Entry]) -> int:
        return len(entries)

    @property
    def figure(self) -> Figure:
        return level_figure

    def outcomes(self, scores: np.ndarray, truth: np.ndarray, sample: np.ndarray, entries: list[Entry]) -> np.ndarray:
        name = self.metric.removeprefix("AP_")
        number, overlap = self.classes.index(name), self.overlaps[name]
        pairs = sweeps_of(scores, truth, sample, len(entries))
        return np.stack([level_parts(match(*pair, number, overlap, self.config.overlap_of)) for pair in pairs])

    def training_views(self, source: DataSource, input: PointInputConfig) -> CutsViews:
        augment = PointAugment(self.config.augment, input.num_points, input.unit_sphere, input.voxel_size, input.centre)
        objects: list[PasteObjects | MoveObjects] = []
        if self.config.paste:
            most = {self.every.index(name): count for name, count in self.config.paste.items()}
            objects.append(PasteObjects(self._objects(source, input), most))
        if self.config.move is not None:
            objects.append(MoveObjects(self.config.move))
        return point_views(input, each(Still(1), *objects, augment), with_boxes)

    def _objects(self, source: DataSource, input: PointInputConfig) -> Bank:
        """The objects of the sweeps that are trained on. Those of sweeps that are broken are missing; training tells of
        these."""
        if self._bank[0] != self._train:
            dataset = source.dataset(self._train, source.evaluation(input))
            read = (dataset[0, row] for row in range(len(self._train)))
            sweeps = (one.views[0].content[0] for one in read if one.views and one.index == one.wanted)
            self._bank = self._train, gather_objects(sweeps, self.config.paste_points)
        return self._bank[1]

    def testing_views(self, source: DataSource, input: PointInputConfig, votes: int) -> CutsViews:
        views = source.evaluation(input, votes)
        assert isinstance(views, Views)
        return views if self.blind else Views(views.specs, (*views.first, with_boxes))


def _rows(boxes: BoxBatch) -> Tensor:
    return torch.cat([boxes.cloud[:, None], boxes.classes[:, None], boxes.values], 1)


def _count_points(points: PointBatch, boxes: BoxBatch) -> Tensor:
    """How many points of its own cloud are in each box, int64 [M]; 0 in one that is nowhere."""
    counts = torch.zeros(len(boxes.values), dtype=torch.int64, device=points.device)
    for cloud in range(len(points)):
        own = slice(int(boxes.offsets[cloud]), int(boxes.offsets[cloud + 1]))
        xyz = points.xyz[int(points.offsets[cloud]) : int(points.offsets[cloud + 1])]
        counts[own] = points_in_boxes(xyz, boxes.values[own, :7].nan_to_num(0.0)).sum(0)
    return counts
