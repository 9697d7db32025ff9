"""Workers: the plain torch ``DataLoader`` over one long run of steps, without pauses between epochs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from st_ssl.data.base import Batch


def _start_worker(worker: int) -> None:
    torch.set_num_threads(1)
    # The parent decides when to stop: it catches both signals, and a forked worker would inherit its handlers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.setpgid(0, 0)  # a signal to the whole group (torchrun, schedulers) must not take the workers from the parent


def build_loader(
    dataset: Dataset[Any],
    batches: Iterable[list[Any]],
    collate: Callable[[list[Any]], Batch],
    num_workers: int,
    pin_memory: bool = False,
    prefetch: int = 2,
) -> DataLoader[Any]:
    """A loader whose batches are those of ``batches``, in that order for any ``num_workers``, each of which works up to
    ``prefetch`` batches ahead."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        prefetch_factor=prefetch if num_workers else None,
    )
