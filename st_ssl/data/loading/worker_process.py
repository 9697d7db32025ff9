"""A worker process of a loader: batches in, tensors out through shared memory that outlives the worker."""

from __future__ import annotations

import mmap
import os
import signal
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler, recv_handle, send_handle
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from st_ssl.data.loading.child_process import end_with, ignore_interrupts, leave_garbage, own_streams
from st_ssl.data.loading.worker_heartbeat import NOTHING, Board, Watched

_ALIGN = 64
_SIZE = 8  # bytes at the end that tell the size of the tensors
_LISTEN = 2.0  # seconds between two looks at whether the parent still lives


@dataclass(frozen=True)
class Failure:
    """An error raised in a worker, to be raised again in the parent, and the worker's traceback."""

    error: Exception
    where: str


@dataclass(frozen=True)
class _Slot:
    """A tensor on its way: ``offset`` in bytes."""

    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]


def work(
    worker: int,
    dataset: Dataset[Any],
    collate: Callable[[list[Any]], Any],
    board: Board,
    connection: Connection,
    parent: int,
) -> None:
    """The life of a worker: (number, keys) in, (number, batch or ``Failure``) out, until its parent ends it or ends."""
    _settle(parent)
    if isinstance(dataset, Watched):
        dataset.watch(board, worker)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone
        while True:
            while not connection.poll(_LISTEN):
                if os.getppid() != parent:
                    return
            number, keys = connection.recv()
            board.move(worker, NOTHING)
            try:
                result = collate([dataset[key] for key in keys])
            except Exception as error:
                result = _failure(error)
            send(connection, number, result)
            board.move(worker, NOTHING)


def _settle(parent: int) -> None:
    # The parent decides when to stop: it catches both signals, and a forked worker would inherit its handlers.
    ignore_interrupts()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.setpgid(0, 0)  # a signal to the whole group (torchrun, schedulers) must not take the workers from the parent
    end_with(parent)  # where the parent is killed, even a decoder that hangs must not live on
    own_streams()
    leave_garbage()
    torch.set_num_threads(1)


def _failure(error: Exception) -> Failure:
    """``error`` as itself, or as a plain ``RuntimeError`` where it cannot travel."""
    where = "in a worker of the loader:\n" + "".join(traceback.format_exception(error))
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:
        return Failure(RuntimeError(str(error)), where)
    return Failure(error, where)


def send(connection: Connection, number: int, tree: Any) -> None:
    """``tree`` in memory of its own, first its tensors: once sent, it needs no sender. Only the handle of the memory is
    sent, which arrives as a whole or not at all, so that a sender who hangs or dies halfway holds up nobody."""
    slots: list[tuple[_Slot, Tensor]] = []
    size = 0

    def put(tensor: Tensor) -> _Slot:
        nonlocal size
        slot = _Slot(size, tensor.dtype, tuple(tensor.shape))
        slots.append((slot, tensor))
        size += -(-tensor.nbytes // _ALIGN) * _ALIGN
        return slot

    rest = bytes(ForkingPickler.dumps((number, _swap(tree, Tensor, put)))) + size.to_bytes(_SIZE)
    handle = _memory(size + len(rest))
    try:
        memory = mmap.mmap(handle, size + len(rest))
        for slot, tensor in slots:
            if tensor.numel():
                _view(memory, slot).copy_(tensor)
        memory[size:] = rest
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
        memory = mmap.mmap(handle, 0)
    finally:
        os.close(handle)
    size = int.from_bytes(memory[-_SIZE:])
    number, tree = ForkingPickler.loads(memory[size:-_SIZE])
    return number, _swap(tree, _Slot, lambda slot: _view(memory, slot))


def _memory(size: int) -> int:
    """A handle of ``size`` bytes without a name: they are gone with the last process that holds them."""
    if hasattr(os, "memfd_create"):  # /dev/shm is small in containers
        handle = os.memfd_create("batch")
    else:
        with tempfile.TemporaryFile() as file:
            handle = os.dup(file.fileno())
    os.ftruncate(handle, size)
    return handle


def _view(memory: mmap.mmap, slot: _Slot) -> Tensor:
    count = 1
    for side in slot.shape:
        count *= side
    if count == 0:
        return torch.empty(slot.shape, dtype=slot.dtype)
    return torch.frombuffer(memory, dtype=slot.dtype, count=count, offset=slot.offset).view(slot.shape)


def _swap(tree: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """``tree`` of dataclasses, lists, tuples and dicts, with ``change`` applied to all that is of ``kind``."""
    if isinstance(tree, kind):
        return change(tree)
    if isinstance(tree, dict):
        return {key: _swap(value, kind, change) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_swap(value, kind, change) for value in tree]
    if isinstance(tree, tuple):
        values = [_swap(value, kind, change) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else tuple(values)
    if is_dataclass(tree) and not isinstance(tree, type):
        pairs = [(field.name, getattr(tree, field.name)) for field in fields(tree)]
        changed = {name: new for name, old in pairs if (new := _swap(old, kind, change)) is not old}
        return replace(tree, **changed) if changed else tree
    return tree
