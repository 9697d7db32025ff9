"""Many files, several processes: what is interrupted stops soon and leaves nothing half done."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from st_ssl.data.loading.parallel_map import parallel_map
from st_ssl.data.packs.video_index import read_index
from tests.data.loading.work import die_of_five, square
from tests.runs import ROOT, write_video
from tests.waiting import LONG, PATIENCE, alive, until

SOON = 100.0  # seconds: two, and many for a busy machine; what is not interrupted takes hours


def test_items_may_be_made_as_they_are_needed() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    results = parallel_map(square, items(), 2, "squares", progress=False, count=100)
    assert next(results) in {n * n for n in range(20)}
    assert len(made) < 20
    assert len([*results]) == 99


def test_no_item_is_lost_where_a_process_dies_while_the_caller_is_busy() -> None:
    found = []
    args = (iter(range(40)), 2, "", 0, False, lambda number: -number, 40)
    for result in parallel_map(die_of_five, *args):
        found.append(result)
        if len(found) < 6:
            time.sleep(0.3)  # the pool breaks in here, not while its results are waited for
    assert sorted(found) == sorted({*range(40), -5} - {5})


def test_only_its_own_processes_are_stopped() -> None:
    results = parallel_map(square, range(100), 2, "", progress=False)
    next(results)
    other = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(LONG,))
    other.start()
    try:
        results.close()  # type: ignore[attr-defined]
        assert other.is_alive()
    finally:
        other.kill()
        other.join()


IDLE = """
import os, time
from st_ssl.data.loading import parallel_map as parallel
parallel._settle(os.getppid())
def work(item):
    print("works", flush=True)
    time.sleep(item)
try:
    parallel._interruptible(work, {seconds})
except KeyboardInterrupt:
    pass
print("idle", flush=True)
time.sleep(1_000)
"""


@pytest.mark.parametrize(("seconds", "said"), [(0, b"works\nidle\n"), (LONG, b"works\n")])
def test_a_process_that_is_told_to_stop_and_nothing_more_ends(seconds: int, said: bytes) -> None:
    """As a pool does with the others when one has died, since Python 3.12."""
    code, environment = IDLE.format(seconds=seconds), os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(len(said)) == said
        process.terminate()
        assert process.wait(timeout=PATIENCE) == -signal.SIGALRM


SCRIPT = """
import sys
from pathlib import Path
from st_ssl.data.loading import parallel_map as parallel
from tests.data.loading import work
if sys.argv[1] != "hang":
    parallel._PATIENCE = 200  # on a busy machine what is told to stop may need longer than what hangs is left
for _ in parallel.parallel_map(getattr(work, sys.argv[1]), [Path(sys.argv[2])] * 8, 2, "", progress=False):
    pass
"""


def start(*arguments: object) -> subprocess.Popen[bytes]:
    """Python in a session of its own that minds Ctrl-C even where these tests run in the background."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def interrupt(process: subprocess.Popen[bytes], whole_group: bool) -> tuple[float, bytes]:
    """Ctrl-C, which a terminal sends to all processes, others to one: seconds to the end, and what it said then. None
    of its processes may live on."""
    begun = time.monotonic()
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    took = time.monotonic() - begun
    until(lambda: not alive(-process.pid))  # Python's own tracker of shared memory ends a moment later
    return took, said


@pytest.mark.parametrize("whole_group", [True, False])
@pytest.mark.parametrize("work", ["crawl", "hang", "tidy_slowly", "swallow"])
def test_what_has_begun_is_interrupted(tmp_path: Path, work: str, whole_group: bool) -> None:
    process = start("-c", SCRIPT, work, tmp_path)
    until(lambda: len(list(tmp_path.iterdir())) == 2, process)
    took, said = interrupt(process, whole_group)
    assert took < SOON
    assert said.endswith(b"KeyboardInterrupt\n")
    assert len(list(tmp_path.iterdir())) == (2 if work == "hang" else 0)  # what is killed cannot tidy up


PREPARE = """
import sys, time
from st_ssl.cli import guarded
from st_ssl.cli.prepare import main
from st_ssl.data.loading import parallel_map as parallel
from st_ssl.data.packs import file_index as records
parallel._PATIENCE = 200
def half(*arguments, plain=records.parallel_map):
    for number, result in enumerate(plain(*arguments)):
        if number == 1500:
            time.sleep(1_000)
        yield result
records.parallel_map = half
sys.exit(guarded(main))
"""


@pytest.mark.parametrize("whole_group", [True, False])
@pytest.mark.parametrize("step", ["index", "verify", "pack"])
def test_preparing_data_stops_soon_and_leaves_nothing_half_written(
    tmp_path: Path, step: str, whole_group: bool
) -> None:
    videos, output = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    write_video(videos / "0.mp4", 0)
    for number in range(1, 3000):
        os.link(videos / "0.mp4", videos / f"{number}.mp4")
    target = output if step == "pack" else output / "list.jsonl"
    process = start("-c", PREPARE, step, videos, "--output", target, "--workers", 2)
    if step == "pack":
        until(lambda: list(output.glob(".shard-*.partial")), process)
    else:
        until(lambda: target.is_file() and target.stat().st_size, process)
    took, said = interrupt(process, whole_group)
    assert took < SOON
    assert process.returncode == 130
    assert said == b"interrupted\n"
    if step == "pack":
        assert os.listdir(output) == ["pack.json"]
    else:
        assert os.listdir(output) == ["list.jsonl"]
        assert 0 < len(read_index(output / "list.jsonl")) < 3000
        assert (output / "list.jsonl").read_bytes().endswith(b"\n")
