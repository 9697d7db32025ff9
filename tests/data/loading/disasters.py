"""What the tests of the loader share: decoders that hang or die, and small data sets."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from st_ssl.core.types import Entry
from st_ssl.data.base import Batch
from st_ssl.data.loading.loader import build_loader
from st_ssl.data.loading.sample_dataset import collate
from st_ssl.data.loading.sample_order import Order, SampleKey, StepSampler
from st_ssl.data.video import dataset as module
from st_ssl.data.video.dataset import video_dataset
from tests.data.test_dataset import VIEWS
from tests.waiting import LONG

TIMEOUT = 1.0  # seconds; a healthy sample takes some 20 ms where nothing else runs
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def hang() -> None:
    """As a native decoder in an endless loop: no Python code of the process runs any more."""
    ctypes.PyDLL(None).sleep(LONG)


def crash() -> None:
    faulthandler.disable()  # pytest's: it would tell of what is meant to happen
    os.kill(os.getpid(), signal.SIGSEGV)


def abort() -> None:
    faulthandler.disable()
    os.abort()


def leave() -> None:
    os._exit(0)


DISASTERS: dict[str, tuple[Callable[[], None], str]] = {
    "hang": (hang, f"decoder hung for {TIMEOUT:g} s"),
    "crash": (crash, "decoder crashed (signal 11, SIGSEGV)"),
    "abort": (abort, "decoder crashed (signal 6, SIGABRT)"),
    "leave": (leave, "decoder crashed (it ended its process with code 0)"),
}


def batches(entries: list[Entry], num_workers: int, steps: int = 6, **settings: Any) -> list[Batch]:
    dataset = video_dataset(entries, VIEWS, 3, lambda path: module.open_video(path, "auto"))
    sampler = StepSampler(Order(3, len(entries), 4), 0, steps)
    return list(build_loader(dataset, sampler, collate, num_workers, timeout=TIMEOUT, **settings))


def with_paths(entries: list[Entry], paths: dict[int, str]) -> list[Entry]:
    return [Entry(paths.get(number, entry.path)) for number, entry in enumerate(entries)]


class Numbers(Dataset[int]):
    """Sample i is i, unless ``fail`` does something else for it."""

    def __init__(self, fail: Callable[[int], None] = lambda index: None) -> None:
        self.fail = fail

    def __getitem__(self, key: SampleKey) -> int:
        self.fail(key[1])
        return key[1]


def gather(samples: list[int]) -> Batch:
    return Batch([], torch.tensor(samples), torch.empty(0, dtype=torch.int64), [])


def numbers(
    num_workers: int, fail: Callable[[int], None] = lambda index: None, count: int = 20, timeout: float = TIMEOUT
) -> Iterator[Batch]:
    keys = [[(0, 2 * i), (0, 2 * i + 1)] for i in range(count)]
    return iter(build_loader(Numbers(fail), keys, gather, num_workers, timeout=timeout))
