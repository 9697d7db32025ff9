"""Cores, memory, shared memory, open files, disk and home of machines that are made up."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from st_ssl.cli.doctor import cgroups, machine, speed
from tests.cli.findings import one


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V1 = {
    "proc/self/cgroup": "4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n0::/\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "2147483648\n",  # the outer part of the path is not in the container
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
}
V2 = {
    "proc/self/cgroup": "0::/user/run\n",
    "sys/fs/cgroup/user/run/memory.max": "max\n",
    "sys/fs/cgroup/user/memory.max": "2147483648\n",
    "sys/fs/cgroup/user/run/cpu.max": "50000 100000\n",
    "sys/fs/cgroup/user/cpu.max": "max 100000\n",
}
NONE = {"proc/self/cgroup": "4:memory:/\n0::/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}


@pytest.mark.parametrize(("files", "limited"), [(V1, True), (V2, True), (NONE, False), ({}, False)])
def test_limits_of_containers_count(files: dict[str, str], limited: bool, tmp_path: Path) -> None:
    root = tree(tmp_path, files)
    assert cgroups.memory_limit(root) == (2 << 30 if limited else None)
    assert (cgroups.usable_cores(root) == 0.5) == limited
    assert cgroups.usable_cores(root) > 0


def test_workers_are_those_of_a_run() -> None:
    from st_ssl.data.points.dataset import PointDataConfig
    from st_ssl.data.video.dataset import VideoDataConfig

    assert VideoDataConfig().num_workers == PointDataConfig().num_workers == machine.default_workers()


def test_more_workers_than_cores_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 1.5)
    monkeypatch.setattr(machine, "memory_limit", lambda: 1 << 30)
    cores, memory = one(machine.check_cores(2)), one(machine.check_memory(2))
    assert (cores.level, memory.level) == ("yellow", "yellow")
    assert cores.mend == "python tools/pretrain.py configs/quickstart/video.yaml data.num_workers=1"
    assert memory.text.startswith("1.0 GiB")
    monkeypatch.setattr(machine, "memory_limit", lambda: None)
    assert one(machine.check_cores(1)).level == "green"


def test_small_shared_memory_says_how_much_it_should_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enough = (1 << 40, 0, 1 << 40)
    usage = type("Usage", (), {"free": 64 << 20})
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: usage)
    finding = one(machine.check_shared_memory(2, tmp_path))
    assert finding.level == "yellow"
    assert finding.text.startswith("64 MiB free: sliding windows want 294 MiB (2 workers")
    assert "size=1G" in finding.mend or "--shm-size=1g" in finding.mend
    usage.free = enough[2]  # type: ignore[attr-defined]
    assert one(machine.check_shared_memory(2, tmp_path)).level == "green"


@pytest.mark.parametrize(
    ("limits", "level", "mend"),
    [((256, 4096), "yellow", "ulimit -n 4096"), ((1024, 4096), "green", ""), ((256, 256), "yellow", "prlimit")],
)
def test_open_files(limits: tuple[int, int], level: str, mend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits)
    finding = one(machine.check_open_files())
    assert finding.level == level
    assert mend in finding.mend


@pytest.mark.parametrize(("free", "level"), [(1 << 20, "red"), (1 << 30, "yellow"), (1 << 40, "green")])
def test_room_on_the_disk(free: int, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": free}))
    assert next(iter(machine.check_disk(tmp_path))).level == level


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "access", lambda path, mode: False)
    assert next(iter(machine.check_disk(tmp_path))).level == "red"
    home = next(iter(machine.check_home()))
    assert (home.level, home.mend) == ("yellow", 'export HOME="$(mktemp -d)"')
    assert one(speed.check_disk_speed(tmp_path)).level == "yellow"


def test_the_disk_is_measured_and_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.match(r"writes [\d,]+ MB/s, reads [\d,]+ MB/s, 2 MiB", one(speed.check_disk_speed(tmp_path, 2)).text)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(speed, "measure", lambda folder, blocks: (300.0, 5.0))
    assert one(speed.check_disk_speed(tmp_path, 2)).level == "yellow"


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert one(machine.check_compiler()).level == "yellow"
