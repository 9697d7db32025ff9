"""The page that doctor writes: aligned, in colour where it can be, each command once."""

from __future__ import annotations

import io

import pytest

from st_ssl.cli.doctor import page
from st_ssl.cli.doctor.findings import Finding, worst

SOME = [
    Finding("Video", "PyAV", "green", "17.0: decoded"),
    Finding("Video", "torchcodec", "yellow", "no FFmpeg " * 12, "apt-get install -y ffmpeg"),
    Finding("Packages", "torch", "red", "not installed", "pip install all"),
    Finding("Packages", "required", "red", "not installed", "pip install all"),
]


def test_the_page_is_aligned_and_gathers_each_command_once() -> None:
    lines = list(page.page(SOME, width=80, colour=False))
    assert lines[0] == "Video"
    assert lines[1] == "  ✓ PyAV        17.0: decoded"
    assert lines[2].startswith("  ! torchcodec  no FFmpeg no")
    assert lines[3].startswith("                FFmpeg no")
    assert max(map(len, lines)) <= 80
    assert "1 green, 1 yellow, 2 red" in lines
    assert lines[-4:] == [
        "  # torch (red), required (red)",
        "  pip install all",
        "  # torchcodec (yellow)",
        "  apt-get install -y ffmpeg",
    ]
    assert worst(SOME) == "red"
    assert worst(SOME[:2]) == "yellow"
    assert worst([]) == "green"


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("no_color", "encoding"), [("", "utf-8"), ("1", "utf-8"), ("1", "ascii")])
def test_colours_and_symbols_are_for_those_who_can_show_them(
    no_color: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    file = Terminal(io.BytesIO(), encoding=encoding)
    page.write_page([*SOME, Finding("Video", "x", "green", "320 × 240")], file)
    file.seek(0)
    text = file.read()
    assert ("\x1b[31m" in text) == (not no_color)
    assert ("✗" in text) == (encoding == "utf-8")
    assert ("X  torch" in text) == (encoding == "ascii")
    assert ("320 ? 240" in text) == (encoding == "ascii")
