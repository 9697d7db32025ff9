"""Cores, memory, shared memory, open files, disk and home of machines that are made up."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any

import pytest

from st_ssl.cli import doctor
from st_ssl.cli.doctor import machine, speed
from st_ssl.cli.doctor.findings import Finding
from tests.cli.findings import one


def test_more_workers_than_cores_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 1.5)
    monkeypatch.setattr(machine, "memory_limit", lambda: 1 << 29)
    cores, memory = one(machine.check_cores(2)), one(machine.check_memory())
    assert (cores.level, memory.level) == ("yellow", "yellow")
    assert cores.mend == "st-ssl pretrain configs/quickstart/video.yaml data.num_workers=1"
    assert memory.text.startswith("512 MiB by the limit of this container or job, of ")
    monkeypatch.setattr(machine, "memory_limit", lambda: None)
    assert (one(machine.check_cores(1)).level, one(machine.check_memory()).level) == ("green", "green")


def test_small_shared_memory_says_what_for_and_how_much_it_should_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enough = (1 << 40, 0, 1 << 40)
    usage = type("Usage", (), {"free": 64 << 20})
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: usage)
    finding = one(machine.check_shared_memory(tmp_path))
    assert finding.level == "yellow"
    assert finding.text == "64 MiB free: too little for NCCL between several GPUs; nothing else wants more"
    assert "size=1G" in finding.mend or "--shm-size=1g" in finding.mend
    usage.free = enough[2]  # type: ignore[attr-defined]
    assert one(machine.check_shared_memory(tmp_path)).level == "green"


def test_without_locks_one_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(method: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(machine.multiprocessing, "get_context", none)
    finding = one(machine.check_shared_memory(tmp_path))
    assert finding.level == "yellow"
    assert "No space left on device" in finding.text


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


def test_the_disk_is_that_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []

    def look(folder: Path, *rest: object) -> list[Finding]:
        seen.append(folder)
        return [Finding("Machine", "disk", "green", "")]

    monkeypatch.setattr(doctor, "look", look)
    monkeypatch.setattr("sys.argv", ["st-ssl doctor"])
    monkeypatch.chdir(tmp_path)
    assert doctor.main() == 0
    (tmp_path / "runs").mkdir()  # as in a container, where nothing else can be written to
    assert doctor.main() == 0
    assert seen == [tmp_path, tmp_path / "runs"]


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: Any) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(machine.tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(machine.os, "access", lambda path, mode: False)
    disk = next(iter(machine.check_disk(tmp_path)))
    assert (disk.level, disk.text.rpartition(": ")[2]) == ("red", "Disk quota exceeded")
    home = next(iter(machine.check_home()))
    assert (home.level, home.mend) == ("yellow", 'export HOME="$(mktemp -d)"')
    slow = one(speed.check_disk_speed(tmp_path))
    assert (slow.level, "not measured: Disk quota exceeded" in slow.text) == ("yellow", True)


def test_the_disk_is_measured_and_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.match(r"writes [\d,]+ MB/s, reads [\d,]+ MB/s, 2 MiB", one(speed.check_disk_speed(tmp_path, 2)).text)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(speed, "measure", lambda folder, blocks: (300.0, 5.0))
    assert one(speed.check_disk_speed(tmp_path, 2)).level == "yellow"


@pytest.mark.parametrize(("gpu", "variable", "usual"), [(False, "CXX", "g++"), (True, "CC", "clang")])
def test_the_compiler_is_the_one_that_runs_take(
    gpu: bool, variable: str, usual: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    (tmp_path / "clang++").touch(0o755)  # which torch does not look for
    (tmp_path / "Python.h").touch()
    absent = one(machine.check_compiler(gpu))
    assert (absent.level, f"{usual})" in absent.text) == ("yellow", True)
    (tmp_path / usual).touch(0o755)
    assert one(machine.check_compiler(gpu)).level == "green"
    monkeypatch.setenv(variable, "")
    assert f"a compiler ({variable}=)" in one(machine.check_compiler(gpu)).text
    monkeypatch.delenv(variable)
    (tmp_path / "Python.h").unlink()
    assert "Python.h" in one(machine.check_compiler(gpu)).text
