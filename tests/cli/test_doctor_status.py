"""While doctor looks, a terminal shows at what; then the line is empty, and nothing else ever sees it."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from st_ssl.cli import doctor
from st_ssl.cli.doctor.children import ask
from st_ssl.cli.doctor.findings import Finding
from st_ssl.cli.doctor.status import CLEAR, Status
from tests.runs import ROOT


class Terminal(io.TextIOWrapper):
    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding)

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """What the line held, one after another."""
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode(self.encoding).split(CLEAR)[1:]


@pytest.fixture(autouse=True)
def any_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


def test_one_line_names_all_that_is_looked_at_and_is_empty_in_the_end() -> None:
    terminal = Terminal()
    status = Status(terminal)
    with pytest.raises(KeyError), status.at("torch"), status.at("open3d"):
        raise KeyError
    assert terminal.lines() == ["looking at torch …", "looking at torch, open3d …", "looking at torch …", ""]


def test_the_line_fits_and_can_be_written() -> None:
    terminal = Terminal("ascii")
    with Status(terminal).at("x" * 200):
        assert terminal.lines() == [f"looking at {'x' * 200}"[:79]]
    with Status(terminal).at("x"):
        assert terminal.lines()[-1] == "looking at x ?"


def test_what_is_no_terminal_stays_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    file, dumb = io.StringIO(), Terminal()
    with Status(file).at("torch"), Status().at("torch"):
        assert file.getvalue() == ""
    monkeypatch.setenv("TERM", "dumb")
    with Status(dumb).at("torch"):
        assert dumb.lines() == []


def test_each_probe_is_shown_while_it_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "open3d.py").write_text("raise ImportError('none')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    terminal = Terminal()
    assert ask([["ffmpeg", "open3d"]], [], 1, 120, Status(terminal))["open3d"].error == "none"
    assert terminal.lines() == ["looking at ffmpeg …", "", "looking at open3d …", ""]


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["page", "json"])
def test_json_is_for_programs(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()

    def look(folder: Path, workers: int, quick: bool, limit: float, status: Status) -> list[Finding]:
        with status.at("torch"):
            return [Finding("Machine", "disk", "green", "")]

    monkeypatch.setattr(doctor, "look", look)
    monkeypatch.setattr(sys, "argv", ["st-ssl doctor", *options])
    monkeypatch.setattr(sys, "stderr", terminal)
    assert doctor.main() == 0
    assert terminal.lines() == ([] if options else ["looking at torch …", ""])


def test_doctor_shows_it_on_a_terminal(tmp_path: Path) -> None:
    reader, writer = pty.openpty()
    command = [sys.executable, "-I", "-S", str(ROOT / "tools" / "doctor.py"), "--quick"]
    with (tmp_path / "page").open("w") as page:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=page, stderr=writer)
    os.close(writer)
    shown = b""
    with open(reader, "rb", buffering=0) as screen, suppress(OSError):  # of Linux, when nobody writes any more
        while part := screen.read(1024):
            shown += part
    assert process.wait() == 1
    lines = shown.decode(errors="replace").split(CLEAR)
    assert any("torch" in line for line in lines)  # beside others, in any order
    assert lines[-2].startswith("looking at driver ") and lines[-1] == ""
    assert b"looking at" not in (tmp_path / "page").read_bytes()
