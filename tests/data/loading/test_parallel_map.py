"""Many files, several processes: what is interrupted stops soon and leaves nothing half done."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from st_ssl.core.errors import WorkerError
from st_ssl.data.loading.parallel_map import AHEAD, parallel_map
from st_ssl.data.packs.video_index import read_index
from tests.data.loading.work import die_at_first, die_of_five, nap, one_over
from tests.runs import ROOT, write_video
from tests.waiting import LONG, PATIENCE, alive, until

SOON = 100.0  # seconds: two, and many for a busy machine; what is not interrupted takes hours


def test_results_come_as_they_are_finished() -> None:
    results = parallel_map(nap, [30.0, 0.0, 0.01, 0.02], 2, "naps", progress=False)
    assert [next(results) for _ in range(3)] == [(0.0, 0.0), (0.01, 0.01), (0.02, 0.02)]
    begun = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - begun < 30


def test_processes_end_with_this_one_whatever_start_method_was_chosen() -> None:
    code = """
import multiprocessing
from st_ssl.data.loading.parallel_map import parallel_map
from tests.data.loading.work import die_of_five
if __name__ == "__main__":
    multiprocessing.set_start_method("forkserver")
    print(sorted(result for _, result in parallel_map(die_of_five, range(8), 2, "", 0, False, -1)))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment) == b"[-1, 0, 1, 2, 3, 4, 6, 7]\n"


def test_no_item_is_lost_where_a_process_dies_while_the_caller_is_busy() -> None:
    found = []
    for item, result in parallel_map(die_of_five, range(40), 2, "", 0, False, -1):
        found.append((item, result))
        if len(found) < 6:
            time.sleep(0.1)  # it dies in here, not while its results are waited for
    assert sorted(found) == [(n, -1 if n == 5 else n) for n in range(40)]


def test_a_process_that_died_once_is_forgiven(tmp_path: Path) -> None:
    found = dict(parallel_map(die_at_first, [tmp_path / str(n) for n in range(4)], 2, "", 0, False, "died"))
    assert set(found.values()) == {"lived"} and len(found) == 4


def test_where_nothing_stands_for_a_crash_it_is_an_error() -> None:
    with pytest.raises(WorkerError, match=r"worked on 5 died: fewer workers need less memory"):
        list(parallel_map(die_of_five, range(8), 2, "", progress=False))


def test_few_are_begun_behind_one_that_takes_long() -> None:
    results = parallel_map(nap, [1.0, *[0.0] * 100], 2, "naps", progress=False)
    order = [seconds for seconds, _ in results]
    assert order.index(1.0) <= AHEAD * 2 - 1
    assert len(order) == 101


def test_an_error_of_the_work_is_raised_here() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        list(parallel_map(one_over, [1, 0, 2], 2, "", progress=False))
    assert "in one_over" in caught.value.__notes__[0]


def test_only_its_own_processes_are_stopped() -> None:
    results = parallel_map(nap, [0.0] * 100, 2, "", progress=False)
    next(results)
    other = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(LONG,))
    other.start()
    try:
        results.close()  # type: ignore[attr-defined]
        assert other.is_alive()
    finally:
        other.kill()
        other.join()


SCRIPT = """
import sys
from pathlib import Path
from st_ssl.data.loading.parallel_map import parallel_map
from tests.data.loading.work import hang
for _ in parallel_map(hang, [Path(sys.argv[1])] * 8, 2, "", progress=False):
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
    until(lambda: not alive(-process.pid))
    return took, said


@pytest.mark.parametrize("whole_group", [True, False])
def test_what_has_begun_is_ended(tmp_path: Path, whole_group: bool) -> None:
    process = start("-c", SCRIPT, tmp_path)
    until(lambda: len(list(tmp_path.iterdir())) == 2, process)
    took, said = interrupt(process, whole_group)
    assert took < SOON
    assert said.endswith(b"KeyboardInterrupt\n")
    assert not any(alive(int(path.name)) for path in tmp_path.iterdir())


def test_what_has_begun_ends_with_a_caller_that_is_killed(tmp_path: Path) -> None:
    process = start("-c", SCRIPT, tmp_path)
    until(lambda: len(list(tmp_path.iterdir())) == 2, process)
    process.kill()
    process.communicate(timeout=PATIENCE)
    until(lambda: not any(alive(int(path.name)) for path in tmp_path.iterdir()))


PREPARE = """
import sys, time
from st_ssl.cli import guarded
from st_ssl.cli.prepare import main
from st_ssl.data.packs import file_index as records
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
        # Once something is written: Python loses a Ctrl-C that comes while it forks the first workers.
        until(lambda: any(path.stat().st_size for path in output.glob(".shard-*.partial")), process)
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
