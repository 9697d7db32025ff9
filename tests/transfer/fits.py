"""Fits of tiny tasks on tiny clouds, for the tests of how they are made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from st_ssl.core.types import Entry
from st_ssl.encoders.base import load_encoder, random_encoder, save_encoder
from st_ssl.transfer.fitting import finetune_setup as planning
from st_ssl.transfer.fitting import fit as fitting
from st_ssl.transfer.fitting import label_fractions
from st_ssl.transfer.fitting.finetune_config import FinetuneConfig, Mode
from st_ssl.transfer.fitting.finetune_model import Tuned, tuned
from st_ssl.transfer.fitting.label_fractions import Parts, balanced
from st_ssl.transfer.fitting.task_loader import Feed
from st_ssl.transfer.tasks.base import TASKS, Task
from tests.transfer.clouds import INPUT, TinyEncoderConfig, TinySource, settings

CPU = torch.device("cpu")


def write_run(folder: Path, **changes: Any) -> Path:
    """The folder of a tiny encoder."""
    save_encoder(random_encoder(TinyEncoderConfig(**changes), INPUT, 7), folder)
    return folder


def prepared(config: FinetuneConfig, val_share: float = 0.25) -> tuple[Task, Feed, Parts]:
    """The task of ``config``, which knows its classes, its samples and their parts."""
    source = TinySource()
    task: Task = TASKS.build(config.task)
    parts = part_drawn(task, source.entries(), val_share)
    feed = Feed(source, task, INPUT, CPU)
    task.learn_classes(parts, feed.look)
    return task, feed, parts


def few(patch: pytest.MonkeyPatch, labels: int) -> None:
    """Under so many labels, in place of 200, nothing is chosen by a validation part."""
    for module in (fitting, label_fractions, planning):
        patch.setattr(module, "FEW", labels)


def part_drawn(task: Task, entries: Sequence[Entry], val_share: float) -> Parts:
    """The parts of ``entries`` with a validation part, however few labels there are."""
    parts = task.parts(entries, 0)
    val = balanced(parts.train, val_share, task.group, "val") if val_share else []
    return Parts([entry for entry in parts.train if entry not in val], val, parts.test)


def network(run: Path, task: Task, mode: Mode = "full", config: FinetuneConfig | None = None) -> Tuned:
    """The encoder in ``run`` with a new head, the same every time."""
    encoder = load_encoder(run)
    torch.manual_seed(0)
    head = task.head(encoder)
    config = config or settings({"name": "classify"})
    return tuned(encoder, head, mode, config.last_blocks, config.lora)
