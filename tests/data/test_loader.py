"""Workers that hang or die cost the sample they were on, and nothing else; nothing of a loader outlives it."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from st_ssl.data import loader
from st_ssl.data.base import Batch
from st_ssl.data.loader import build_loader
from st_ssl.data.order import Order, SampleKey, StepSampler
from st_ssl.data.video import dataset as module
from st_ssl.data.video.dataset import VideoDataset, collate
from st_ssl.errors import DataError, MissingDependencyError, SampleError
from st_ssl.types import VideoEntry
from tests.data.test_dataset import VIEWS, tensors
from tests.data.test_readers import skip_without
from tests.runs import ROOT

TIMEOUT = 0.5
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def hang() -> None:
    """As a native decoder in an endless loop: no Python code of the process runs any more."""
    ctypes.PyDLL(None).sleep(1000)


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def leave() -> None:
    os._exit(0)


DISASTERS: dict[str, tuple[Callable[[], None], str]] = {
    "hang": (hang, "decoder hung for 0.5 s"),
    "crash": (crash, "decoder crashed (signal 11, SIGSEGV)"),
    "abort": (os.abort, "decoder crashed (signal 6, SIGABRT)"),
    "leave": (leave, "decoder crashed (it ended its process with code 0)"),
}


@pytest.fixture
def entries(videos: Path) -> list[VideoEntry]:
    return [VideoEntry(str(path)) for path in sorted(videos.iterdir())]


@pytest.fixture
def disasters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening the path ``hang`` hangs, and so on; what is called ``bad`` is merely broken."""
    open_video = module.open_video

    def opened(path: str, backend: Any) -> Any:
        if path in DISASTERS:
            DISASTERS[path][0]()
        if path == "bad":
            raise SampleError(path, "bad")
        return open_video(path, backend)

    monkeypatch.setattr(module, "open_video", opened)


def batches(entries: list[VideoEntry], num_workers: int, steps: int = 6, **settings: Any) -> list[Batch]:
    dataset = VideoDataset(entries, VIEWS, 3, lambda path: module.open_video(path, "auto"))
    sampler = StepSampler(Order(3, len(entries), 4), 0, steps)
    return list(build_loader(dataset, sampler, collate, num_workers, timeout=TIMEOUT, **settings))


def with_paths(entries: list[VideoEntry], paths: dict[int, str]) -> list[VideoEntry]:
    return [VideoEntry(paths.get(number, entry.path)) for number, entry in enumerate(entries)]


@pytest.mark.usefixtures("disasters")
@pytest.mark.parametrize("num_workers", [1, 3])
@pytest.mark.parametrize("kind", DISASTERS)
def test_a_disaster_costs_one_sample(entries: list[VideoEntry], kind: str, num_workers: int) -> None:
    expected = batches(with_paths(entries, {3: "bad"}), 0)
    started = time.monotonic()
    found = batches(with_paths(entries, {3: kind}), num_workers)
    assert time.monotonic() - started < 10
    assert {(bad.path, bad.reason) for batch in found for bad in batch.bad} == {(kind, DISASTERS[kind][1])}
    assert any(3 in batch.wanted for batch in found)
    for batch, other in zip(found, expected, strict=True):  # the very same replacements, everything else untouched
        assert all(torch.equal(a, b) for a, b in zip(tensors(batch), tensors(other), strict=True))


@pytest.mark.usefixtures("disasters")
def test_several_disasters_in_a_batch_and_among_the_replacements(entries: list[VideoEntry]) -> None:
    kinds = ["hang", "crash", "abort", "leave", "hang", "crash"]
    expected = batches(with_paths(entries, dict.fromkeys(range(6), "bad")), 0)
    found = batches(with_paths(entries, dict(enumerate(kinds))), 2)
    for batch, other in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(tensors(batch), tensors(other), strict=True))
    assert {bad.path for batch in found for bad in batch.bad} == set(kinds)


def test_a_single_crash_is_forgiven(entries: list[VideoEntry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_too_many_disasters_end_in_a_message(entries: list[VideoEntry]) -> None:
    with pytest.raises(DataError, match=r"3 of 12 samples hung or crashed the decoder(.|\n)*crash: decoder crashed"):
        batches(with_paths(entries, dict.fromkeys(range(12), "crash")), 2, max_lost=2)


class Numbers(Dataset[int]):
    """Sample i is i, unless ``fail`` does something else for it."""

    def __init__(self, fail: Callable[[int], None] = lambda index: None) -> None:
        self.fail = fail

    def __getitem__(self, key: SampleKey) -> int:
        self.fail(key[1])
        return key[1]


def gather(samples: list[int]) -> Batch:
    return Batch([], torch.tensor(samples), torch.empty(0, dtype=torch.int64), [])


def numbers(num_workers: int, fail: Callable[[int], None] = lambda index: None, count: int = 20) -> Iterator[Batch]:
    keys = [[(0, 2 * i), (0, 2 * i + 1)] for i in range(count)]
    return iter(build_loader(Numbers(fail), keys, gather, num_workers, timeout=TIMEOUT))


def test_a_slow_sample_is_not_a_hung_one() -> None:
    def slow(index: int) -> None:
        time.sleep(0.15 if index == 5 else 0)

    assert [batch.indices.tolist() for batch in numbers(2, slow)] == [[2 * i, 2 * i + 1] for i in range(20)]


def test_a_machine_that_was_asleep_blames_nobody(
    entries: list[VideoEntry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        time.sleep(0.3)  # the workers have long been done
        found.append(batch.indices.tolist())
    assert found == [[2 * i, 2 * i + 1] for i in range(6)]


def test_workers_that_die_outside_any_sample_are_reported() -> None:
    def fail(index: int) -> None:
        if index == 4:
            crash()

    found = numbers(2, fail)
    assert [next(found).indices.tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(RuntimeError, match=r"ended \(signal 11, SIGSEGV\) 3 times in a row, outside any sample"):
        next(found)


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


# -------------------------------------------------------------------- what is left behind


def children() -> set[int]:
    """Processes that this one has started and not yet buried."""
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


@linux
def test_no_process_and_no_file_is_left(entries: list[VideoEntry], disasters: None) -> None:
    list(numbers(2, count=2))
    gc.collect()
    before, files = children(), set(os.listdir("/proc/self/fd"))
    list(numbers(3))
    batches(with_paths(entries, {1: "crash", 2: "hang", 4: "abort"}), 2)
    halfway = numbers(2)
    next(halfway)
    assert len(children() - before) == 2
    del halfway
    gc.collect()
    assert children() == before
    assert len(os.listdir("/proc/self/fd")) <= len(files)


PARENT = """
import ctypes, os, sys, time
sys.path.insert(0, {root!r})
from tests.data.test_loader import hang, numbers

def fail(index):
    if index > 3:
        hang() if {hung} else time.sleep(0.01)

found = numbers(2, fail, count=10**6)
next(found)
print(*open(f"/proc/self/task/{{os.getpid()}}/children").read().split(), flush=True)
time.sleep(1000)
"""


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def assert_gone(workers: list[int]) -> None:
    end = time.monotonic() + 5
    while (left := [pid for pid in workers if alive(pid)]) and time.monotonic() < end:
        time.sleep(0.02)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


@linux
@pytest.mark.parametrize("hung", [False, True])
def test_workers_do_not_outlive_a_killed_parent(hung: bool) -> None:
    script = PARENT.format(root=str(ROOT), hung=hung)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2
    assert all(alive(pid) for pid in workers)
    process.kill()
    process.wait()
    assert_gone(workers)
    process.stdout.close()


@linux
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_parent_that_is_stopped_takes_its_workers_along(number: signal.Signals) -> None:
    script = PARENT.format(root=str(ROOT), hung=True)
    process = subprocess.Popen(
        [sys.executable, "-c", "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    workers = [int(pid) for pid in process.stdout.readline().split()]
    os.killpg(process.pid, number)
    process.wait(20)
    assert_gone(workers)
    _, err = process.communicate(timeout=20)
    assert err.count("Traceback") == (number == signal.SIGINT)  # the parent's, and none of a worker


def memory() -> float:
    """Resident memory of this process and its children in MiB, shared pages counted once."""
    total = 0
    for pid in (os.getpid(), *children()):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            total += int(line.split()[1]) if line.startswith("Pss:") else 0
    return total / 1024


class Large(Dataset[torch.Tensor]):
    def __getitem__(self, key: SampleKey) -> torch.Tensor:
        return torch.full((1 << 20,), key[1] % 256, dtype=torch.uint8)


@linux
def test_memory_does_not_grow_over_many_samples() -> None:
    keys = [[(0, 2 * i), (0, 2 * i + 1)] for i in range(200)]
    found = build_loader(Large(), keys, lambda samples: {"a": torch.stack(samples)}, 2)  # type: ignore[arg-type, return-value]
    sizes = []
    for number, batch in enumerate(found):
        assert int(batch["a"].max()) == (2 * number + 1) % 256  # type: ignore[index]
        if number % 20 == 0:
            sizes.append(memory())
    assert len(sizes) == 10
    assert max(sizes[2:]) < max(sizes[:2]) + 64  # of 360 MiB that have passed through


@linux
@pytest.mark.parametrize("backend", ["pyav", "torchcodec", "decord"])
def test_memory_does_not_grow_over_many_videos(made: Path, backend: str) -> None:
    skip_without(backend, made)
    sizes = []
    for _ in range(300):
        with module.open_video(made / "hevc.mp4", backend) as reader:
            next(iter(reader.frames([40])))
        sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20)
    assert max(sizes[100:]) < max(sizes[:100]) + 16
