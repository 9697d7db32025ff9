"""A fine-tuned network on videos and clouds of anybody's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.limits import default_workers
from st_ssl.core.types import Entry
from st_ssl.data.base import BadSample, DataSource
from st_ssl.data.points.dataset import PointDataConfig, PointSource
from st_ssl.data.sources.base import Listing
from st_ssl.data.sources.points import read_source as read_clouds
from st_ssl.data.sources.video import read_source as read_videos
from st_ssl.data.streams.points import is_scene
from st_ssl.data.video.dataset import VideoDataConfig, VideoSource
from st_ssl.transfer.features.cloud_tokens import in_file_frame
from st_ssl.transfer.fitting.evaluate import answers, evaluate
from st_ssl.transfer.fitting.finetune_model import Tuned
from st_ssl.transfer.fitting.finetuned_io import load_tuned
from st_ssl.transfer.fitting.fit_config import FitConfig
from st_ssl.transfer.fitting.task_loader import Feed
from st_ssl.transfer.tasks.base import Shown, Task


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


@dataclass
class Scenes:
    """``segmented`` gives the clouds one after the other, as they are read; ``bad`` is what could not be, up to then.
    ``count``: how many there are."""

    classes: list[str]
    count: int
    segmented: Iterator[Segmented]
    _feed: Feed = field(repr=False)

    @property
    def bad(self) -> list[BadSample]:
        return sorted(self._feed.bad, key=lambda one: one.path)


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
    if task.whole:
        raise ConfigError("this network answers for every point of a cloud: see predict.segment")
    feed, entries = _asked(model, task, files, device, 2 * batch_size, num_workers)
    rows: list[np.ndarray] = []
    seen: list[Entry] = []

    def keep(asked: Shown, means: np.ndarray, truth: np.ndarray, sample: np.ndarray) -> None:
        rows.append(means)
        seen.extend(asked.entries)

    evaluate(model.to(device), task, feed, entries, FitConfig(batch_size=batch_size), task.votes, keep)
    if not seen:
        raise _none(feed, entries)
    return Answers(
        classes, [entry.path for entry in seen], np.concatenate(rows), sorted(feed.bad, key=lambda one: one.path)
    )


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

    return Scenes(classes, len(entries) + len(feed.bad), found(), feed)


def _asked(
    model: Tuned, task: Task, files: Sequence[Path], device: torch.device, few: int, num_workers: int | None
) -> tuple[Feed, list[Entry]]:
    """The samples of ``files``, and what feeds them; up to ``few`` are read in this process."""
    own, read = _KINDS[task.modality]
    entries = [entry for file in files for entry in read(file)]
    if num_workers is None:
        num_workers = default_workers() if len(entries) > few else 0
    source = own(num_workers)
    source.listing = Listing(entries)
    encoder = model.encoder
    source.follow(encoder.prepared, encoder.needs(encoder.config, encoder.input))
    refused = {BadSample.of(entry, why): None for entry in entries if (why := task.refused(entry)) is not None}
    feed = Feed(source, task, model.encoder.input, device, bad=refused)
    kept = [entry for entry in entries if task.refused(entry) is None]
    if not kept:
        raise _none(feed, entries)
    return feed, kept


def _videos(num_workers: int) -> DataSource:
    return VideoSource(VideoDataConfig(num_workers=num_workers, max_bad_share=1.0))


def _clouds(num_workers: int) -> DataSource:
    return PointSource(PointDataConfig(num_workers=num_workers, max_bad_share=1.0))


def _in(file: Path) -> Sequence[Entry]:
    return read_videos(file) if file.is_dir() else [Entry(str(file))]


def _clouds_in(file: Path) -> Sequence[Entry]:
    return read_clouds(file) if file.is_dir() and not is_scene(str(file)) else [Entry(str(file))]


_KINDS: dict[str, tuple[Callable[[int], DataSource], Callable[[Path], Sequence[Entry]]]] = {
    "video": (_videos, _in),
    "points": (_clouds, _clouds_in),
}


def _none(feed: Feed, entries: Sequence[Entry]) -> DataError:
    told = "".join(f"\n  {bad.path}: {bad.reason}" for bad in feed.bad)
    what = "videos" if feed.task.modality == "video" else "clouds"
    return DataError(f"none of {len(entries)} {what} can be read:{told}")
