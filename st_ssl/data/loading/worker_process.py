"""A worker process of a loader: batches in, tensors out through shared memory that outlives the worker."""

from __future__ import annotations

import io
import mmap
import os
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler, recv_handle, send_handle
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from st_ssl.data.loading.child_process import Failure
from st_ssl.data.loading.worker_heartbeat import NOTHING, Board, Watched

_ALIGN = 64
_SIZE = 8  # bytes of a number


def work(
    connection: Connection, worker: int, dataset: Dataset[Any], collate: Callable[[list[Any]], Any], board: Board
) -> None:
    """The life of a worker: (number, keys) in, (number, batch or ``Failure``) out, until its parent ends it or ends."""
    torch.set_num_threads(1)
    if isinstance(dataset, Watched):
        dataset.watch(board, worker)
    while True:
        number, keys = connection.recv()
        board.move(worker, NOTHING)
        try:
            result = collate([dataset[key] for key in keys])
        except Exception as error:
            result = Failure.of(error)
        send(connection, number, result)
        board.move(worker, NOTHING)


class _Pickler(ForkingPickler):
    """Leaves what tensors hold to a callback, as NumPy's arrays do."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        content = value.detach().contiguous().flatten().view(torch.uint8).numpy()
        return _tensor, (content, value.dtype, value.shape)


def _tensor(content: np.ndarray, dtype: torch.dtype, shape: torch.Size) -> Tensor:
    return torch.from_numpy(content).view(dtype).view(shape)


def send(connection: Connection, number: int, tree: Any) -> None:
    """``tree`` in memory of its own, first its tensors: once sent, it needs no sender. Only the handle of the memory is
    sent, which arrives as a whole or not at all, so that a sender who hangs or dies halfway holds up nobody."""
    buffers: list[Any] = []
    rest = io.BytesIO()
    _Pickler(rest, 5, True, buffers.append).dump((number, tree))
    parts = [*(buffer.raw() for buffer in buffers), rest.getbuffer()]
    spans, end = [], 0
    for part in parts:
        spans.append((end, end + part.nbytes))
        end += -(-part.nbytes // _ALIGN) * _ALIGN
    index = bytes(ForkingPickler.dumps(spans))
    tail = index + len(index).to_bytes(_SIZE)
    handle = _memory(end + len(tail))
    try:
        memory = mmap.mmap(handle, end + len(tail))
        for (first, last), part in zip(spans, parts, strict=True):
            memory[first:last] = part
        memory[end:] = tail
        send_handle(connection, handle, None)
    finally:
        os.close(handle)


def receive(connection: Connection) -> tuple[int, Any]:
    """What ``send`` sent. Raises ``EOFError`` or ``OSError`` where the sender is dead."""
    try:
        handle = recv_handle(connection)
    except RuntimeError as error:  # no handle came
        raise EOFError from error
    try:
        memory = memoryview(mmap.mmap(handle, 0))
    finally:
        os.close(handle)
    size = int.from_bytes(memory[-_SIZE:])
    spans = ForkingPickler.loads(memory[-_SIZE - size : -_SIZE])
    *buffers, rest = (memory[first:last] for first, last in spans)
    return ForkingPickler.loads(rest, buffers=buffers)


def _memory(size: int) -> int:
    """A handle of ``size`` bytes without a name: they are gone with the last process that holds them."""
    if hasattr(os, "memfd_create"):  # /dev/shm is small in containers
        handle = os.memfd_create("batch")
    else:
        with tempfile.TemporaryFile() as file:
            handle = os.dup(file.fileno())
    os.ftruncate(handle, size)
    return handle
