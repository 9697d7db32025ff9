"""A fine-tuned network on videos of anybody's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.limits import default_workers
from st_ssl.core.types import Entry
from st_ssl.data.base import BadSample
from st_ssl.data.sources.video import read_source
from st_ssl.data.video.dataset import VideoDataConfig, VideoSource
from st_ssl.transfer.fitting.evaluate import evaluate
from st_ssl.transfer.fitting.finetuned_io import load_tuned
from st_ssl.transfer.fitting.fit_config import FitConfig
from st_ssl.transfer.fitting.task_loader import Feed
from st_ssl.transfer.tasks.base import Shown


@dataclass(frozen=True)
class Answers:
    """Of N videos that could be read: ``paths`` in the order in which they were named, and ``probabilities`` float32
    [N, K] of ``classes``; and those that could not (``bad``)."""

    classes: list[str]
    paths: list[str]
    probabilities: np.ndarray
    bad: list[BadSample]

    def best(self, row: int, count: int) -> list[tuple[str, float]]:
        """The ``count`` likeliest classes of a video, with their probabilities."""
        order = (-self.probabilities[row]).argsort(kind="stable")[:count]
        return [(self.classes[i], float(self.probabilities[row, i])) for i in order]


def predict(
    folder: Path, videos: Sequence[Path], device: torch.device, batch_size: int = 16, num_workers: int | None = None
) -> Answers:
    """What the network that fine-tuning kept in ``folder`` says of ``videos``, files or folders of them, by the mean
    over the test views of its task. ``num_workers`` processes read them (default: one for each core, up to 8; of a few
    videos this process does).

    Raises ``ConfigError`` where the network is not for videos, ``DataError`` where a folder or all videos cannot be
    read.
    """
    model, task, classes = load_tuned(folder)
    if task.modality != "video":
        raise ConfigError(f"{folder}: this network is for {task.modality}, and predict is for videos")
    entries = [entry for video in videos for entry in (read_source(video) if video.is_dir() else [Entry(str(video))])]
    if num_workers is None:
        num_workers = default_workers() if len(entries) > 2 * batch_size else 0
    source = VideoSource(VideoDataConfig(num_workers=num_workers, max_bad_share=1.0))
    feed = Feed(source, task, model.encoder.input, device)
    rows: list[np.ndarray] = []
    seen: list[Entry] = []

    def keep(asked: Shown, means: np.ndarray, truth: np.ndarray, sample: np.ndarray) -> None:
        rows.append(means)
        seen.extend(asked.entries)

    evaluate(model.to(device), task, feed, entries, FitConfig(batch_size=batch_size), task.votes, keep)
    if not seen:
        told = "".join(f"\n  {bad.path}: {bad.reason}" for bad in feed.bad)
        raise DataError(f"none of {len(entries)} videos can be read:{told}")
    return Answers(classes, [entry.path for entry in seen], np.concatenate(rows), list(feed.bad))
