"""Packages that crash, hang, chatter or lack a library are findings: fakes of them are imported in real processes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from st_ssl.cli.doctor import children, decoders, packages
from st_ssl.cli.doctor.children import Report, ask
from tests.waiting import PATIENCE, alive, until

TORCH = """
class Value:
    def __matmul__(self, other): return self
    def sum(self): return self
    def item(self): return {product}
def eye(*sizes, **options): return Value()
ones = eye
__version__ = "2.14.1+cu130"
class version: cuda, hip = "13.0", None
print("a library that has much to say")
"""


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is looked in for packages first."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # of one file twice within a second the old code would be run
    return tmp_path


def test_answers_come_through_what_libraries_print(fakes: Path) -> None:
    (fakes / "torch.py").write_text(TORCH.format(product=64))
    report = ask([["torch"]], [], 1, 60)["torch"]
    assert report == Report({"version": "2.14.1+cu130", "cuda": "13.0", "hip": None})
    (fakes / "torch.py").write_text(TORCH.format(product=63))
    report = ask([["torch"]], [], 1, 60)["torch"]
    assert (report.kind, report.error) == ("RuntimeError", "a product of matrices is wrong: 63, not 64")


def test_one_that_crashes_costs_itself_alone(fakes: Path) -> None:
    (fakes / "decord.py").write_text("import os, sys; print('bad wheel', file=sys.stderr, flush=True); os.abort()")
    (fakes / "torch.py").write_text(TORCH.format(product=64))
    reports = ask([["torch", "decord"], ["pyav"]], [], 1, 60)
    assert list(reports) == ["torch", "decord", "pyav"]
    assert reports["decord"] == Report(error="its process died of SIGABRT: bad wheel", kind="died")
    (finding,) = decoders.check_decord(reports)
    assert (finding.level, finding.text) == ("yellow", "its process died of SIGABRT: bad wheel")
    assert "pip install --force-reinstall 'decord>=" in finding.mend
    assert not reports["torch"].error
    assert reports["pyav"].facts["colours"]


def test_all_libraries_that_are_missing_are_told_at_once(fakes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (fakes / "open3d").mkdir()
    (fakes / "open3d" / "__init__.py").write_text("raise OSError('libGL.so.1: cannot open shared object file: None')")
    (fakes / "open3d" / "pybind.so").touch()
    (fakes / "ldd").write_text("#!/bin/sh\nprintf '\\tlibusb-1.0.so.0 => not found\\n\\tlibGL.so.1 => not found\\n'\n")
    (fakes / "ldd").chmod(0o755)
    monkeypatch.setenv("PATH", str(fakes), prepend=os.pathsep)
    (finding,) = packages.check_open3d(ask([["open3d"]], [], 1, 60))
    assert (finding.level, finding.text) == ("yellow", "libGL.so.1 and libusb-1.0.so.0 are missing")


def test_one_that_hangs_is_ended(fakes: Path) -> None:
    (fakes / "open3d.py").write_text("import time; time.sleep(1_000)")
    begin = time.monotonic()
    report = ask([["open3d"]], [], 1, 1.0)["open3d"]
    assert time.monotonic() - begin < 100
    assert report == Report(error="no answer in 1 s", kind="hung")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_what_hangs_ends_with_who_asked(how: signal.Signals, fakes: Path) -> None:
    (fakes / "open3d.py").write_text("import os, time; os.symlink(str(os.getpid()), 'pid'); time.sleep(1_000)")
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs behind ignores it\n"
    code += "from st_ssl.cli.doctor.children import ask; ask([['open3d', 'ffmpeg'], ['ffmpeg']], [], 1, 1_000)"
    asking = subprocess.Popen([sys.executable, "-c", code], cwd=fakes, stderr=subprocess.DEVNULL)
    until((fakes / "pid").is_symlink, asking)
    asking.send_signal(how)
    assert asking.wait(timeout=PATIENCE) == -how
    pid = int(os.readlink(fakes / "pid"))
    until(lambda: not alive(pid))


def test_where_no_process_can_be_started_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*command: Any, **options: Any) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(children.subprocess, "Popen", refuse)
    reports = ask([["torch", "ffmpeg"], ["pyav"]], [], 2, 60)
    assert list(reports) == ["torch", "ffmpeg", "pyav"]
    assert {report.kind for report in reports.values()} == {"refused"}
    assert next(packages.check_torch(reports)).mend == "ulimit -u"
    ffmpeg = next(decoders.check_ffmpeg(reports))
    assert (ffmpeg.level, "temporarily unavailable" in ffmpeg.text) == ("yellow", True)
    monkeypatch.undo()

    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    assert ask([["torch"]], [], 2, 60)["torch"].error == "not tried: can't start new thread"


def test_half_an_answer_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os, sys; print('{\"facts\": {', end='', flush=True); os.abort()"
    monkeypatch.setattr(children, "_CODE", code)
    assert ask([["torch"]], [], 1, 60)["torch"] == Report(error="its process died of SIGABRT", kind="died")


def test_what_is_not_installed_is_told_by_its_name(fakes: Path) -> None:
    (fakes / "sitecustomize.py").write_text(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('av', 'spconv', 'open3d'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    (fakes / "torch.py").write_text(TORCH.format(product=64))
    reports = ask([["pyav", "spconv", "open3d"]], [], 1, 60)
    assert [report.missing for report in reports.values()] == ["av", "spconv", "open3d"]


def test_libraries_of_ffmpeg_are_looked_for(fakes: Path) -> None:
    (fakes / "torchcodec").mkdir()
    for name in ("__init__.py", "libtorchcodec_core4.so", "libtorchcodec_core11.so"):
        (fakes / "torchcodec" / name).touch()
    facts = ask([["ffmpeg"]], [], 1, 60)["ffmpeg"].facts
    assert facts["takes"] == [4, 11]
    assert isinstance(facts["found"], list)
