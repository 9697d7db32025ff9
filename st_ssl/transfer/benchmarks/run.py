"""A network that fine-tuning kept is asked about a split of a benchmark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from st_ssl.core.errors import ConfigError, nearest
from st_ssl.core.limits import default_workers
from st_ssl.data.drives.config import DriveDataConfig
from st_ssl.data.drives.dataset import DriveSource
from st_ssl.transfer.benchmarks.base import OnBenchmark, Results
from st_ssl.transfer.benchmarks.kitti import KittiResults
from st_ssl.transfer.benchmarks.nuscenes import NuscenesResults
from st_ssl.transfer.benchmarks.semantic_kitti import SemanticKittiResults
from st_ssl.transfer.fitting.evaluate import answers
from st_ssl.transfer.fitting.finetune_config import FitConfig
from st_ssl.transfer.fitting.predict import Network
from st_ssl.transfer.fitting.task_loader import Feed
from st_ssl.transfer.tasks.detection import Detect, sweeps_of

OF_BOXES: Mapping[str, Any] = MappingProxyType({"kitti": KittiResults, "nuscenes": NuscenesResults})
OF_POINTS: Mapping[str, Any] = MappingProxyType({"semantic_kitti": SemanticKittiResults})


def on_benchmark(
    network: Network, root: Path, split: str, folder: Path, device: torch.device, num_workers: int | None = None
) -> OnBenchmark:
    """What ``network`` finds in the key frames of a ``split`` of the benchmark at ``root``, written to ``folder`` as it
    comes. Of KITTI only what the camera sees is looked at.

    Raises ``ConfigError`` where the benchmark takes no such results, or has no such split or class, ``OutputError``
    where ``folder`` holds other files."""
    model, task, classes = network
    finds_boxes = isinstance(task, Detect)
    if not finds_boxes and not task.whole:
        raise ConfigError("--benchmark is for networks that find boxes, or classes of points")
    encoder = model.encoder
    config = DriveDataConfig(
        root=str(root),
        sweeps=encoder.prepared.get("sweeps", 1),
        num_workers=default_workers() if num_workers is None else num_workers,
        max_bad_share=1.0,
    )
    source = DriveSource(config)
    forms = OF_BOXES if finds_boxes else OF_POINTS
    if source.layout.name not in forms:
        what = "boxes" if finds_boxes else "classes of points"
        raise ConfigError(f"{root}: layout {source.layout.name}; --benchmark writes {what} for {', '.join(forms)}")
    if source.layout.name == "kitti":
        source = DriveSource(config.model_copy(update={"in_view": True}))
    source.follow(encoder.prepared, encoder.needs(encoder.config, encoder.input))
    every = source.entries()
    entries = [entry for entry in every if entry.split == split]
    if not entries:
        splits = Counter(entry.split for entry in every)
        there = ", ".join(f"{name} ({count:,} sweeps)" for name, count in splits.items())
        raise ConfigError(f"--benchmark {split}: no such split{nearest(split, splits)} (there are: {there})")
    results: Results[Any] = forms[source.layout.name](folder, source, entries, classes)
    feed = Feed(source, task, encoder.input, device)

    def answered() -> Iterator[str]:
        own = model.to(device)
        for answer in answers(own, task, feed, entries, FitConfig(), task.votes, batch_size=1, compare=False):
            (entry,) = answer.asked.entries
            drive = source.drives[entry.path]
            if finds_boxes:
                results.add(drive, entry.start, sweeps_of(answer.means, answer.truth, answer.sample, 1)[0][0])
            else:
                results.add(drive, entry.start, task.predicted(answer.means, answer.sample, [entry]))
            yield drive.files[entry.start]

    return OnBenchmark(len(entries), feed, answered(), results)
