"""Nothing of a loader outlives it, and its workers do not grow."""

from __future__ import annotations

import gc
import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from st_ssl.core.types import Entry
from st_ssl.data.loading import child_process
from st_ssl.data.loading.child_process import ignore_interrupts
from st_ssl.data.loading.loader import build_loader
from st_ssl.data.loading.sample_order import SampleKey
from st_ssl.data.video import dataset as module
from tests.data.loading.disasters import (
    batches,
    linux,
    numbers,
    with_paths,
)
from tests.data.made import skip_without
from tests.runs import ROOT
from tests.waiting import LONG, PATIENCE, alive, until


def children() -> set[int]:
    """Processes that this one has started and not yet buried."""
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


@linux
def test_no_process_and_no_file_is_left(entries: list[Entry], disasters: None) -> None:
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
    assert children() <= before
    assert len(os.listdir("/proc/self/fd")) <= len(files)


@linux
def test_where_memory_runs_out_workers_are_killed_before_the_process_that_can_tell() -> None:
    mine = int(Path("/proc/self/oom_score_adj").read_text())
    if mine == 1000:
        pytest.skip("this process would be killed first, and nobody can be before it")
    before = children()
    halfway = numbers(2)
    next(halfway)
    workers = children() - before
    assert len(workers) == 2
    scores = [Path(f"/proc/{pid}/oom_score_adj") for pid in workers]
    until(lambda: min(int(score.read_text()) for score in scores) > mine)  # the second may only just have begun


SCORED = """
import os
from pathlib import Path
from st_ssl.data.loading.child_process import end_with

score = Path("/proc/self/oom_score_adj")
score.write_text(str(max({given}, int(score.read_text()))))
print(score.read_text())
end_with(os.getppid())
print(score.read_text())
"""


@linux
@pytest.mark.parametrize("given", [300, 600, 1000])
def test_workers_are_killed_first_whatever_was_chosen_for_the_parent(given: int) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    said = subprocess.check_output([sys.executable, "-c", SCORED.format(given=given)], env=environment, text=True)
    own, after = map(int, said.split())
    assert own >= given and after == min(1000, own + 500)


PARENT = """
import ctypes, os, sys, time
sys.path.insert(0, {root!r})
from tests.data.loading.disasters import hang, numbers

def fail(index):
    if index > 3:
        hang() if {hung} else time.sleep(0.01)

found = numbers(2, fail, count=10**6)
next(found)
print(*open(f"/proc/self/task/{{os.getpid()}}/children").read().split(), flush=True)
time.sleep(1_000)
"""


def assert_gone(workers: list[int]) -> None:
    try:
        until(lambda: not any(map(alive, workers)))
    finally:
        for pid in filter(alive, workers):
            os.kill(pid, signal.SIGKILL)


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
    assert process.wait() == -signal.SIGKILL
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
    process.wait(PATIENCE)
    assert_gone(workers)
    _, err = process.communicate(timeout=PATIENCE)
    assert err.count("Traceback") == (number == signal.SIGINT)  # the parent's, and none of a worker


EXITING = """
import os, signal, sys
sys.path.insert(0, {root!r})
from tests.data.loading.disasters import hang, numbers

signal.signal(signal.SIGTERM, lambda number, frame: None)  # as a run does, and whoever is forked from it at first
fork, forked = os.fork, []

def fork_and_hang():
    forked.append(fork())
    if forked == [forked[0], 0]:
        hang()
    return forked[-1]

os.fork = fork_and_hang
found = numbers(2)
next(found)
print(*forked, flush=True)
"""


@linux
def test_a_process_that_ends_does_not_wait_for_a_worker_that_hangs_since_it_was_forked() -> None:
    script = EXITING.format(root=str(ROOT))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    forked = [int(pid) for pid in process.stdout.readline().split()]
    try:
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        assert_gone(forked)
    assert len(forked) >= 2


@linux
def test_an_interrupt_while_workers_start_ends_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def early() -> None:
        os.kill(os.getpid(), signal.SIGINT)  # in the worker, which has not settled yet
        ignore_interrupts()

    monkeypatch.setattr(child_process, "ignore_interrupts", early)
    (batch,) = build_loader(Inherited(), [[(0, 0)]], lambda samples: {"a": torch.stack(samples)}, 1)  # type: ignore[arg-type, return-value]
    assert int(batch["a"]) > 0  # type: ignore[index]


def memory() -> float:
    """Resident memory of this process and its children in MiB, shared pages counted once."""
    total = 0
    for pid in (os.getpid(), *children()):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            total += int(line.split()[1]) if line.startswith("Pss:") else 0
    return total / 1024


class Inherited(Dataset[torch.Tensor]):
    """How many objects a worker's collections leave alone."""

    def __getitem__(self, key: SampleKey) -> torch.Tensor:
        return torch.tensor(gc.get_freeze_count())


def test_what_workers_inherit_is_not_gone_through_and_so_not_copied() -> None:
    before = gc.get_freeze_count()
    (batch,) = build_loader(Inherited(), [[(0, 0)]], lambda samples: {"a": torch.stack(samples)}, 1)  # type: ignore[arg-type, return-value]
    assert int(batch["a"]) > len(gc.get_objects()) / 2  # type: ignore[index]
    assert gc.get_freeze_count() == before


class Decoder:
    """As FFmpeg's: freed in a forked process it waits for threads that are in its parent."""

    def __init__(self, made_in: int) -> None:
        self.made_in = made_in
        self.cycle = self

    def __del__(self) -> None:
        if os.getpid() != self.made_in:
            time.sleep(LONG)


def test_garbage_of_the_parent_holds_up_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    before, fork = gc.get_threshold(), os.fork

    def fork_beside_garbage() -> int:
        enabled = gc.isenabled()
        gc.disable()
        Decoder(os.getpid())
        gc.set_threshold(1, 1, 1)  # whoever collects garbage does so at once
        pid = fork()
        if enabled:
            gc.enable()
        if pid:
            gc.set_threshold(*before)
        return pid

    monkeypatch.setattr(os, "fork", fork_beside_garbage)
    (batch,) = build_loader(Inherited(), [[(0, 0)]], lambda samples: {"a": torch.stack(samples)}, 1)  # type: ignore[arg-type, return-value]
    assert int(batch["a"]) > 0  # type: ignore[index]
    assert gc.isenabled()


class Talking(Dataset[torch.Tensor]):
    def __getitem__(self, key: SampleKey) -> torch.Tensor:
        print("a warning")
        print("a warning", file=sys.stderr)
        return torch.tensor(1)


class Locked(io.StringIO):
    """As a console that a thread of the parent draws a progress bar to: no worker can write to it."""

    lock = threading.Lock()

    def write(self, text: str) -> int:
        with self.lock:
            return super().write(text)


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_worker_may_write_while_a_thread_of_the_parent_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, name, Locked())
    with Locked.lock:
        (batch,) = build_loader(Talking(), [[(0, 0)]], lambda samples: {"a": torch.stack(samples)}, 1, timeout=5)  # type: ignore[arg-type, return-value]
    assert int(batch["a"]) == 1  # type: ignore[index]


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
            next(iter(reader.read([40])))
        sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20)
    assert max(sizes[100:]) < max(sizes[:100]) + 16
