"""What fine-tuning would do, for people to read before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from st_ssl.data.base import DataSource
from st_ssl.encoders.base import count_parameters
from st_ssl.transfer.fitting.finetune_config import FinetuneConfig
from st_ssl.transfer.fitting.finetune_setup import Setup
from st_ssl.transfer.fitting.fit import check_batch
from st_ssl.transfer.fitting.label_fractions import FEW, Parts


def plan(
    source: DataSource,
    runs: Sequence[Path],
    config: FinetuneConfig,
    device: torch.device,
    looked: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, str]:
    """What ``finetune`` would do with the same arguments: the samples and classes of the first repetition, for each
    fraction of the labels what is trained on, how long and how often, and how much of the network each mode trains.
    Labels of points are looked at as for a fit. Nothing is trained or written."""
    setup = Setup.of(source, runs, config, device, looked=looked)
    parts, steps = setup.parts(0), setup.steps()
    names = ", ".join(setup.classes[:8]) + (", …" if len(setup.classes) > 8 else "")
    told = {"task": config.task.name, "classes": f"{len(setup.classes)} ({names})"}
    counts = {share: setup.repeats(share) for share in config.label_fractions}
    labelled = {share: setup.labelled(share, 0) for share in config.label_fractions}
    for share, own in labelled.items():
        drawn = f"{counts[share]} draws" if counts[share] > 1 else "once"
        told[f"labels, {100 * share:g} %"] = f"{_labels(own)}; {steps:,} steps, {drawn}"
    drawn = (
        "" if any(entry.split in ("val", "test") for entry in setup.entries) else ", drawn: the data have no test part"
    )
    told["test on"] = f"{len(parts.test):,} samples{drawn}"
    told |= setup.task.counted()
    modes, fits = len(config.modes), sum(counts.values())
    told["fits"] = f"{modes * fits:,} ({modes} modes × {fits} draws of labels)"
    for mode in config.modes:
        model = setup.model(mode, config.seed, runs[0])
        for own in labelled.values():
            check_batch(model.train(), len(own.train), config)
        every = sum(p.numel() for p in model.parameters())
        told[f"trained, {mode}"] = f"{count_parameters(model):,} of {every:,} parameters"
    return told


def _labels(parts: Parts) -> str:
    """What the labels are for."""
    if parts.val:
        return f"{len(parts.train):,}, and {len(parts.val):,} to choose the epoch by"
    why = f"under {FEW}: " if len(parts.train) < FEW else ""
    return f"{len(parts.train):,} ({why}the last weights count)"
