"""A fine-tuned network on videos and clouds of anybody's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from st_ssl.core.boxes import Boxes
from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.inputs import Modality
from st_ssl.core.limits import default_workers
from st_ssl.core.types import Entry
from st_ssl.data.base import DATA, BadSample, DataSource
from st_ssl.data.sources.base import Listing
from st_ssl.data.sources.points import read_source as read_clouds
from st_ssl.data.sources.video import read_source as read_videos
from st_ssl.data.streams.points import is_scene
from st_ssl.transfer.features.cloud_tokens import in_file_frame
from st_ssl.transfer.fitting.evaluate import answers
from st_ssl.transfer.fitting.finetune_config import FitConfig
from st_ssl.transfer.fitting.finetune_model import Tuned, load_tuned
from st_ssl.transfer.fitting.task_loader import Feed
from st_ssl.transfer.tasks.base import Task
from st_ssl.transfer.tasks.detection import Detect, sweeps_of


@dataclass(frozen=True)
class Answers:
    """Of N samples that could be read: ``paths`` in the order in which they were named, and ``probabilities`` float32
    [N, K] of ``classes``; and those that could not (``bad``)."""

    classes: list[str]
    paths: list[str]
    probabilities: np.ndarray
    bad: list[BadSample]

    def best(self, row: int, count: int) -> list[tuple[str, float]]:
        """The ``count`` likeliest classes of a sample, with their probabilities."""
        order = (-self.probabilities[row]).argsort(kind="stable")[:count]
        return [(self.classes[i], float(self.probabilities[row, i])) for i in order]


@dataclass(frozen=True)
class Segmented:
    """What is said of the points of one file, all of them but those that are nowhere (NaN), in its order: ``xyz``
    float64 [N, 3] as the file has it, the class ``segment`` int64 [N], and its ``probability`` float32 [N]."""

    path: str
    xyz: np.ndarray
    segment: np.ndarray
    probability: np.ndarray


@dataclass(frozen=True)
class FoundBoxes:
    """The ``boxes`` (with their ``score``) that were found in the sweep of one file, in its axes, best first, and its
    points ``xyz`` float32 [N, 3]."""

    path: str
    boxes: Boxes
    xyz: np.ndarray


@dataclass
class Asked:
    """A network that is asked about ``count`` samples, which are read one after the other."""

    count: int
    _feed: Feed = field(repr=False)

    @property
    def bad(self) -> list[BadSample]:
        """The samples that could not be read up to now, by path."""
        return sorted(self._feed.bad, key=lambda one: one.path)


@dataclass
class Sweeps(Asked):
    """``found`` gives the boxes of the sweeps, in the order in which they are read."""

    classes: list[str]
    found: Iterator[FoundBoxes]


@dataclass
class Scenes(Asked):
    """``segmented`` gives the clouds, in the order in which they are read."""

    classes: list[str]
    segmented: Iterator[Segmented]


Network = tuple[Tuned, Task, list[str]]


def predict(
    network: Path | Network,
    files: Sequence[Path],
    device: torch.device,
    batch_size: int = 16,
    num_workers: int | None = None,
) -> Answers:
    """What a network that fine-tuning kept (a folder, or as ``load_tuned`` gives it) says of ``files``, which are
    videos or clouds or folders of them, each as a whole: by the mean over the test views of its task. ``num_workers``
    processes read them (default: one for each core, up to 8; of a few files this process does).

    Raises ``ConfigError`` where the network answers for points (see ``segment``), ``DataError`` where a folder or all
    files cannot be read.
    """
    model, task, classes = load_tuned(network) if isinstance(network, Path) else network
    if isinstance(task, Detect):
        raise ConfigError("this network finds boxes: see predict.find_boxes")
    if task.whole:
        raise ConfigError("this network answers for every point of a cloud: see predict.segment")
    feed, entries = _asked(model, task, files, device, 2 * batch_size, num_workers)
    settings = FitConfig(batch_size=batch_size)
    rows: list[np.ndarray] = []
    paths: list[str] = []
    for answer in answers(model.to(device), task, feed, entries, settings, task.votes, compare=False):
        rows.append(answer.means)
        paths += [entry.path for entry in answer.asked.entries]
    if not paths:
        raise _none(feed, entries)
    return Answers(classes, paths, np.concatenate(rows), sorted(feed.bad, key=lambda one: one.path))


def segment(
    network: Path | Network, files: Sequence[Path], device: torch.device, num_workers: int | None = None
) -> Scenes:
    """What a network that fine-tuning kept says of every point of ``files``, which are clouds or folders of them, by
    the mean over the test views of its task; a point that no view has is answered for by the nearest one that some view
    has. One cloud is in memory at once, and those that the ``num_workers`` processes have read ahead.

    Raises ``ConfigError`` where the network is not for points of clouds, ``DataError`` where a folder cannot be read,
    and from ``segmented`` where all files cannot be.
    """
    model, task, classes = load_tuned(network) if isinstance(network, Path) else network
    if not task.whole:
        raise ConfigError("this network answers for whole samples: see predict.predict")
    feed, entries = _asked(model, task, files, device, 1, num_workers)

    def found() -> Iterator[Segmented]:
        none = True
        own = model.to(device)
        for answer in answers(own, task, feed, entries, FitConfig(), task.votes, batch_size=1, compare=False):
            none = False
            view, (entry,) = answer.asked.view, answer.asked.entries
            chosen = task.predicted(answer.means, answer.sample, [entry])
            probability = answer.means[np.arange(len(chosen)), chosen].astype(np.float32)
            yield Segmented(entry.path, in_file_frame(view, 0, view.points.xyz), chosen.astype(np.int64), probability)
        if none:
            raise _none(feed, entries)

    return Scenes(len(entries) + len(feed.bad), feed, classes, found())


def find_boxes(
    network: Path | Network,
    files: Sequence[Path],
    device: torch.device,
    least: float = 0.0,
    num_workers: int | None = None,
) -> Sweeps:
    """The boxes, with a score of ``least`` or more, that a network which fine-tuning kept finds in ``files``, which are
    sweeps or folders of them, each for itself.

    Raises ``ConfigError`` where the network is not for boxes, or was fed several sweeps at once, ``DataError`` where a
    folder cannot be read, and from ``found`` where all files cannot be."""
    model, task, classes = load_tuned(network) if isinstance(network, Path) else network
    if not isinstance(task, Detect):
        raise ConfigError("this network finds no boxes: see predict.predict and predict.segment")
    if (merged := model.encoder.prepared.get("sweeps", 1)) > 1:
        raise ConfigError(
            f"this network is fed {merged} sweeps at once, and files alone have no poses to merge them by"
        )
    feed, entries = _asked(model, task, files, device, 4, num_workers)

    def found() -> Iterator[FoundBoxes]:
        none = True
        for answer in answers(model.to(device), task, feed, entries, FitConfig(), 1, batch_size=1, compare=False):
            none = False
            (boxes, _), (entry,) = sweeps_of(answer.means, answer.truth, answer.sample, 1)[0], answer.asked.entries
            score = boxes.facts["score"]
            order = np.argsort(-score, kind="stable")
            own = boxes.take(order[score[order] >= least])
            yield FoundBoxes(entry.path, own, answer.asked.view.points.xyz.cpu().numpy())
        if none:
            raise _none(feed, entries)

    return Sweeps(len(entries) + len(feed.bad), feed, classes, found())


def _asked(
    model: Tuned, task: Task, files: Sequence[Path], device: torch.device, few: int, num_workers: int | None
) -> tuple[Feed, list[Entry]]:
    """The samples of ``files``, and what feeds them; up to ``few`` are read in this process."""
    entries = [entry for file in files for entry in _samples_in(file, task.modality)]
    if num_workers is None:
        num_workers = default_workers() if len(entries) > few else 0
    data = DATA.config(task.modality).model_validate({"num_workers": num_workers, "max_bad_share": 1.0})
    source: DataSource = DATA.build(data)
    source.listing = Listing(entries)
    encoder = model.encoder
    source.follow(encoder.prepared, encoder.needs(encoder.config, encoder.input))
    why = [task.refused(entry) for entry in entries]
    refused = {BadSample.of(entry, told): None for entry, told in zip(entries, why, strict=True) if told is not None}
    feed = Feed(source, task, encoder.input, device, bad=refused)
    kept = [entry for entry, told in zip(entries, why, strict=True) if told is None]
    if not kept:
        raise _none(feed, entries)
    return feed, kept


def _samples_in(file: Path, modality: Modality) -> Sequence[Entry]:
    """``file`` itself, or the samples in a folder that is none."""
    if not file.is_dir() or (modality == "points" and is_scene(str(file))):
        return [Entry(str(file))]
    return read_videos(file) if modality == "video" else read_clouds(file)


def _none(feed: Feed, entries: Sequence[Entry]) -> DataError:
    told = "".join(f"\n  {bad.path}: {bad.reason}" for bad in feed.bad)
    what = "videos" if feed.task.modality == "video" else "clouds"
    return DataError(f"none of {len(entries)} {what} can be read:{told}")
