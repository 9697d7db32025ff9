"""Tests over several processes without a GPU: gloo ranks on one machine, results and tracebacks brought home."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.forked import server


def run_ranks(fn: Callable[..., Any], world_size: int, tmp_path: Path, *args: Any) -> list[Any]:
    """What ``fn(rank, world_size, *args)`` returned on each of ``world_size`` gloo processes, by rank.

    ``fn`` is a module-level function that returns tensors or plain containers of tensors, numbers and strings. It runs
    on one thread, inside an initialised process group. The first rank that raises ends the others, and its traceback
    is part of the ``torch.multiprocessing.ProcessRaisedException`` raised here.
    """
    server()
    folder = Path(tempfile.mkdtemp(prefix="ranks-", dir=tmp_path))
    mp.start_processes(_run_rank, args=(fn, world_size, folder, args), nprocs=world_size, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world_size)]


def _run_rank(rank: int, fn: Callable[..., Any], world_size: int, folder: Path, args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    store = f"file://{(folder / 'rendezvous').resolve()}"
    dist.init_process_group("gloo", store, timeout=timedelta(seconds=120), rank=rank, world_size=world_size)
    torch.save(fn(rank, world_size, *args), folder / f"{rank}.pt")
    dist.barrier()  # a rank that is done must not close its sockets while another still talks to it
    dist.destroy_process_group()
