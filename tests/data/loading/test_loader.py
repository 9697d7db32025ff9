"""Workers that hang or die cost the sample they were on, and nothing else."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from st_ssl.core.errors import DataError, MissingDependencyError, SampleError, WorkerError
from st_ssl.core.types import Entry
from st_ssl.data.base import Batch
from st_ssl.data.loading import child_process, loader
from st_ssl.data.loading import worker_process as workers
from st_ssl.data.loading.loader import build_loader
from st_ssl.data.loading.sample_order import SampleKey
from st_ssl.data.video import dataset as module
from tests.data.loading.disasters import (
    DISASTERS,
    Numbers,
    batches,
    crash,
    gather,
    hang,
    numbers,
    with_paths,
)
from tests.data.test_dataset import tensors


@pytest.mark.usefixtures("disasters")
@pytest.mark.parametrize("num_workers", [1, 3])
@pytest.mark.parametrize("kind", DISASTERS)
def test_a_disaster_costs_one_sample(entries: list[Entry], kind: str, num_workers: int) -> None:
    expected = batches(with_paths(entries, {3: "bad"}), 0)
    started = time.monotonic()
    found = batches(with_paths(entries, {3: kind}), num_workers)
    assert time.monotonic() - started < 120  # a decoder that hangs does so for much longer
    assert {(bad.path, bad.reason) for batch in found for bad in batch.bad} == {(kind, DISASTERS[kind][1])}
    assert any(3 in batch.wanted for batch in found)
    for batch, other in zip(found, expected, strict=True):  # the very same replacements, everything else untouched
        assert all(torch.equal(a, b) for a, b in zip(tensors(batch), tensors(other), strict=True))


@pytest.mark.usefixtures("disasters")
def test_several_disasters_in_a_batch_and_among_the_replacements(entries: list[Entry]) -> None:
    kinds = ["hang", "crash", "abort", "leave", "hang", "crash"]
    expected = batches(with_paths(entries, dict.fromkeys(range(6), "bad")), 0)
    found = batches(with_paths(entries, dict(enumerate(kinds))), 2)
    for batch, other in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(tensors(batch), tensors(other), strict=True))
    assert {bad.path for batch in found for bad in batch.bad} == set(kinds)


def test_a_single_crash_is_forgiven(entries: list[Entry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, open_video = batches(entries, 0), module.open_video

    def opened(path: str, backend: Any) -> Any:
        if path == entries[3].path and not (tmp_path / "crashed").exists():
            (tmp_path / "crashed").touch()
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out
        return open_video(path, backend)

    monkeypatch.setattr(module, "open_video", opened)
    found = batches(entries, 2)
    assert (tmp_path / "crashed").exists()
    for batch, other in zip(found, expected, strict=True):
        assert batch.bad == []
        assert all(torch.equal(a, b) for a, b in zip(tensors(batch), tensors(other), strict=True))


@pytest.mark.usefixtures("disasters")
def test_too_many_disasters_end_in_a_message(entries: list[Entry]) -> None:
    with pytest.raises(DataError, match=r"3 of 12 samples hung or crashed a worker(.|\n)*crash: decoder crashed"):
        batches(with_paths(entries, dict.fromkeys(range(12), "crash")), 2, max_lost=2)


def test_a_slow_sample_is_not_a_hung_one() -> None:
    def slow(index: int) -> None:
        time.sleep(0.4 if index == 5 else 0)

    assert [batch.indices.tolist() for batch in numbers(2, slow)] == [[2 * i, 2 * i + 1] for i in range(20)]


def test_a_machine_that_was_asleep_blames_nobody(
    entries: list[Entry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_video, monotonic = module.open_video, time.monotonic

    def opened(path: str, backend: Any) -> Any:
        if path == entries[3].path:
            time.sleep(0.2)
            (tmp_path / "asleep").touch()
            time.sleep(0.2)
        return open_video(path, backend)

    def clock() -> float:
        return monotonic() + (1000 if (tmp_path / "asleep").exists() else 0)

    monkeypatch.setattr(module, "open_video", opened)
    monkeypatch.setattr(loader, "time", SimpleNamespace(monotonic=clock))
    assert all(batch.bad == [] for batch in batches(entries, 2))
    assert (tmp_path / "asleep").exists()


def test_a_consumer_that_takes_its_time_loses_nothing() -> None:
    found = []
    for batch in numbers(2, count=6):
        time.sleep(0.25)  # the workers have long been done
        found.append(batch.indices.tolist())
    assert found == [[2 * i, 2 * i + 1] for i in range(6)]


class Makers(Dataset[int]):
    """Sample i is the process that makes it; every other one takes a moment."""

    def __getitem__(self, key: SampleKey) -> int:
        time.sleep(0.02 * (key[1] % 2))
        return os.getpid()


def test_a_worker_has_its_turn_even_where_others_are_idle() -> None:
    keys = [[(0, number)] for number in range(12)]
    found = [int(batch.indices) for batch in build_loader(Makers(), keys, gather, 2, in_turn=True)]
    assert found == found[:2] * 6 and len(set(found)) == 2


def test_workers_need_no_room_in_dev_shm(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(heap: Any, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("multiprocessing.heap.Heap.malloc", refuse)
    assert [batch.indices.tolist() for batch in numbers(2, count=4)] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_workers_that_die_outside_any_sample_are_reported() -> None:
    def fail(index: int) -> None:
        if index == 4:
            crash()

    found = numbers(2, fail)
    assert [next(found).indices.tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(RuntimeError, match=r"ended \(signal 11, SIGSEGV\) 3 times in a row, outside any sample"):
        next(found)


def first_ones_hang(folder: Path, count: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, of which the first ``count`` calls in workers hang."""
    parent = os.getpid()
    tickets = [folder / str(number) for number in range(count)]
    for ticket in tickets:
        ticket.touch()

    def called(*arguments: Any) -> Any:
        for ticket in tickets if os.getpid() != parent else []:
            with suppress(FileNotFoundError):  # another one has it
                ticket.unlink()
                hang()
        return function(*arguments)

    return called


@pytest.mark.timeout(150)
def test_a_worker_that_hangs_as_it_sends_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "send_handle", first_ones_hang(tmp_path, 1, workers.send_handle))
    assert [batch.indices.tolist() for batch in numbers(2, count=6)] == [[2 * i, 2 * i + 1] for i in range(6)]
    assert not list(tmp_path.iterdir())


def test_many_workers_that_hang_as_they_start_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        child_process, "ignore_interrupts", first_ones_hang(tmp_path, 3, child_process.ignore_interrupts)
    )
    assert [batch.indices.tolist() for batch in numbers(3, count=6)] == [[2 * i, 2 * i + 1] for i in range(6)]
    assert not list(tmp_path.iterdir())


def test_a_worker_that_hangs_again_and_again_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        child_process, "ignore_interrupts", first_ones_hang(tmp_path, 3, child_process.ignore_interrupts)
    )
    with pytest.raises(WorkerError, match=r"hung for 0\.2 s 3 times in a row, outside any sample"):
        next(numbers(1, timeout=0.2))


@pytest.mark.parametrize(
    "error", [KeyError("x"), MissingDependencyError("av", "video", "reading"), SampleError("a.mp4", "empty")]
)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_arrives_in_its_turn_and_as_itself(num_workers: int, error: Exception) -> None:
    def fail(index: int) -> None:
        if index == 7:
            raise error.with_traceback(None)

    found = numbers(num_workers, fail)
    assert [next(found).indices.tolist() for _ in range(3)] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(type(error)) as caught:
        next(found)
    assert str(caught.value) == str(error)
    if num_workers:
        assert "in fail" in caught.value.__notes__[0]


@pytest.fixture
def pinning(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pinning of memory that needs no GPU: the names of the threads in which it was done."""
    threads: list[str] = []

    def pin_memory(self: Batch) -> Batch:
        threads.append(threading.current_thread().name)
        return Batch(self.views, self.indices + 100, self.wanted, self.bad)

    monkeypatch.setattr(Batch, "pin_memory", pin_memory)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: threads.append(f"device {device}"))
    return threads


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_pinned_ahead_of_time_and_errors_keep_their_turn(num_workers: int, pinning: list[str]) -> None:
    def fail(index: int) -> None:
        if index == 7:
            raise SampleError("a.mp4", "empty")

    keys = [[(0, 2 * i), (0, 2 * i + 1)] for i in range(5)]
    found = iter(build_loader(Numbers(fail), keys, gather, num_workers, pin_memory=True))
    for step in range(3):
        assert next(found).indices.tolist() == [100 + 2 * step, 101 + 2 * step]
    with pytest.raises(SampleError, match="empty"):
        next(found)
    assert pinning[0] == "device 3"  # else a process of its own GPU would also take memory of the first one
    assert len(pinning) == 4
    assert threading.current_thread().name not in pinning
    healthy = build_loader(Numbers(), keys, gather, num_workers, pin_memory=True)
    assert [batch.indices.tolist() for batch in healthy] == [[100 + 2 * i, 101 + 2 * i] for i in range(5)]


def test_an_error_that_cannot_travel_is_told_in_words() -> None:
    class LocalError(Exception):
        pass

    def fail(index: int) -> None:
        raise LocalError("what happened")

    with pytest.raises(RuntimeError) as caught:
        next(numbers(1, fail))
    assert str(caught.value) == "what happened"
    assert "LocalError: what happened" in caught.value.__notes__[0]


def test_tensors_of_all_kinds_travel() -> None:
    kinds = [
        torch.rand(3, 5).t(),
        torch.tensor(7),
        torch.empty(0, 4),
        torch.arange(5, dtype=torch.uint8)[1:],
        torch.tensor([True, False]),
        torch.rand(2, 2, dtype=torch.float16),
    ]
    made = build_loader(Numbers(), [[(0, 0)]], lambda samples: {"a": [(t, "x") for t in kinds]}, 1)  # type: ignore[arg-type, return-value]
    found: Any = next(iter(made))
    for (tensor, text), expected in zip(found["a"], kinds, strict=True):
        assert text == "x"
        assert torch.equal(tensor, expected)
        assert tensor.dtype == expected.dtype
        tensor.zero_() if tensor.numel() else None  # it may be written to
