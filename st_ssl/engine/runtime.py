"""The process a run lives in: its device, its place among other processes, and being asked to stop."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch
import torch.distributed as dist

from st_ssl.core.errors import ConfigError, MissingLibraryError
from st_ssl.core.limits import lacking_to_compile
from st_ssl.training import distributed

# M_MMAP_THRESHOLD, M_TRIM_THRESHOLD and M_TOP_PAD, in bytes, as malloc.h numbers them.
_MALLOC = {-3: 1 << 30, -1: (1 << 31) - 1, -2: 1 << 26}

# Seconds in which being told to stop once more is the same once more, and in which torchrun may pass it on: also a
# Ctrl-C that the terminal has already sent to all, and on a busy machine late.
_SAME, _PASSED_ON = 1.0, 10.0


class Preempted(BaseException):
    """The run was told to stop, has saved everything, and resumes when started again. Not an ``Exception``: it is no
    error, and nobody's who catches errors."""


@dataclass
class Runtime:
    """``device``, ``rank`` of ``world_size`` processes, whether torchrun started them, and whether somebody asked this
    process to stop."""

    device: torch.device
    rank: int = 0
    world_size: int = 1
    by_torchrun: bool = False
    stop_requested: bool = False
    _deferred: bool = False
    _asked: float = 0.0
    _passed_on: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    @contextmanager
    def deferred_stop(self) -> Iterator[None]:
        """While steps are made, being told to stop sets ``stop_requested``, for the step to end and be saved."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def _stop(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        since = now - self._asked
        if self.stop_requested and since <= (_PASSED_ON if self.by_torchrun else _SAME):
            by_hand = number == signal.SIGINT and since > _SAME and self._passed_on
            self._passed_on |= number == signal.SIGINT
            if not by_hand:
                return  # also on the way out, when all is saved and told
        if number == signal.SIGINT and (self.stop_requested or not self._deferred):
            raise KeyboardInterrupt  # twice by hand means at once
        if not self._deferred:
            raise Preempted("stopped where nothing needed to be saved")
        self._asked = now if not self.stop_requested else self._asked
        self.stop_requested = True


def _device(name: str, local_rank: int, key: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"{key}cuda: torch sees no CUDA device here; {key}cpu works everywhere")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def require_compiler(device: torch.device, asked_by: str) -> None:
    """Raise ``MissingLibraryError`` where torch.compile would find no compiler, or no headers of Python, once the first
    step is under way. ``asked_by``: what asked for it."""
    lacking = lacking_to_compile(gpu=device.type == "cuda")
    if lacking:
        raise MissingLibraryError(f"{asked_by} needs {' and '.join(lacking)}: apt-get install g++ python3-dev")


def keep_freed_memory() -> bool:
    """Have glibc keep the memory of freed tensors for the next ones, in this process and those forked from it; whether
    it does. As it is, it returns every large block and asks for a new one, whose pages the kernel fills with zeros
    first: a third of a step of the sparse U-Net on CPUs. Where ``MALLOC_`` variables say what is wanted, or with
    another C library, nothing is changed."""
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(option, size) for option, size in _MALLOC.items())


@contextmanager
def start_runtime(device: str, key: str = "engine.device=") -> Iterator[Runtime]:
    """Join the processes that ``torchrun`` started (NCCL on CUDA, gloo on CPU), or be a single one. Raises
    ``ConfigError`` for a ``device`` that is not there, with the ``key`` by which the user names one.

    Within the context SIGTERM raises ``Preempted`` and Ctrl-C ``KeyboardInterrupt``, except in ``deferred_stop``.
    """
    chosen = _device(device, int(os.environ.get("LOCAL_RANK", "0")), key)
    if chosen.type == "cpu":
        keep_freed_memory()
    by_torchrun = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    started = by_torchrun and not distributed.is_distributed()
    if started:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    runtime = Runtime(chosen, distributed.rank(), distributed.world_size(), by_torchrun)
    before = {number: signal.signal(number, runtime._stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield runtime
    finally:
        try:
            if started:
                dist.destroy_process_group()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
