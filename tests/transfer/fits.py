"""Fits of tiny tasks on tiny clouds, for the tests of how they are made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from st_ssl.encoders.base import load_encoder, random_encoder, save_encoder
from st_ssl.transfer.fitting.finetune import FinetuneConfig
from st_ssl.transfer.fitting.finetune_model import Tuned, tuned
from st_ssl.transfer.fitting.fit_config import Mode
from st_ssl.transfer.fitting.label_fractions import Parts
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
    parts = task.parts(source.entries(), val_share, 0)
    feed = Feed(source, task, INPUT, CPU)
    task.learn_classes(parts, feed.look)
    return task, feed, parts


def network(run: Path, task: Task, mode: Mode = "full", config: FinetuneConfig | None = None) -> Tuned:
    """The encoder in ``run`` with a new head, the same every time."""
    encoder = load_encoder(run)
    torch.manual_seed(0)
    head = task.head(encoder)
    config = config or settings({"name": "classify"})
    return tuned(encoder, head, mode, config.last_blocks, config.lora)
