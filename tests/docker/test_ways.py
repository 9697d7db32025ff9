"""The table of ways in which a bare machine can go wrong: what counts as right, and that it follows README.md."""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import ways
from root import Root, claim

from tests.runs import ROOT

README = (ROOT / "README.md").read_text()


def test_the_commands_are_those_of_the_readme() -> None:
    install, job, tests = ways.readme_commands(README)
    assert install == 'pip install -e ".[all]"'
    assert job.startswith("python tools/pretrain.py configs/") and tests.startswith("pytest")
    small = ways.spell_out("JOB data.reader=x", README, full=False)
    assert small.startswith(f"python {ways.HERE}/tools/pretrain.py {ways.HERE}/configs/")
    assert small.endswith(f"{ways.SMALL} data.reader=x")
    assert ways.SMALL not in ways.spell_out("JOB", README, full=True)
    with pytest.raises(ValueError, match=r"README.md: expected two lines"):
        ways.readme_commands("pip install st_ssl && st-ssl pretrain  # once")


def test_ways_have_names_and_patterns_of_their_own() -> None:
    assert len({way.name for way in ways.WAYS}) == len(ways.WAYS)
    for way in ways.WAYS:
        re.compile(way.sees)
        assert (way.code == 0) != way.sees.startswith("error") or not way.own, way.name


@pytest.mark.parametrize(
    ("code", "output", "wrong"),
    [
        (1, "data\nerror: no g++: install it\n", ""),
        (0, "error: no g++: install it\n", "exit code 0, expected 1"),
        (1, "error: no gcc\n", "nothing that matches 'no g..:'"),
        (1, "Traceback (most recent call last):\nerror: no g++: x\n", "a traceback"),
        (1, "error: no g++: x\nerror: and more\n", "2 lines of error"),
    ],
)
def test_one_line_of_error_and_nothing_else_is_right(code: int, output: str, wrong: str) -> None:
    line, found = ways.judge(ways.Way("compiler", "no compiler", "no g..:", 1), code, output)
    assert found == wrong
    assert not wrong or line


def test_a_fallback_is_told_and_ends_well() -> None:
    way = ways.Way("shm", "no room", "one process does all")
    assert ways.judge(way, 0, "UserWarning: one process does all\nreport\n") == (
        "UserWarning: one process does all",
        "",
    )
    assert ways.judge(way, 0, "report\n") == ("report", "nothing that matches 'one process does all'")


def test_the_table_is_markdown() -> None:
    assert ways.table([("way", "exit"), ("a|b", 1)]) == "| way | exit |\n| --- | --- |\n| a\\|b | 1 |"


def test_what_must_not_be_said_is_wrong() -> None:
    way = ways.Way("shm-docker", "64 MB", "report", never=ways.ONE_PROCESS)
    assert ways.judge(way, 0, "report\n") == ("report", "")
    assert ways.judge(way, 0, "no semaphores (x), one process does all the work\nreport\n")[1].startswith("'no sem")


def test_libraries_of_open3d_are_the_same_wherever_they_are_named() -> None:
    needed = set(ways.LIBRARIES.split())
    files = ("docker/Dockerfile", ".github/workflows/ci.yml", ".ci/run", "st_ssl/report/viewers.py")
    for name in files:
        found = [set(re.findall(r"[\w.+-]+", line)) for line in (ROOT / name).read_text().splitlines()]
        assert any(needed <= line for line in found), name


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_checkout_is_copied_without_what_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "CHECKOUT", tmp_path / "checkout")
    write(tmp_path / "checkout/new.py", "new")
    subprocess.run("git init -q && git add .", shell=True, check=True, cwd=tmp_path / "checkout")
    installed = Root(tmp_path / "installed")
    copied = installed.tree / ways.HERE.lstrip("/")
    write(copied / "removed.py", "old")
    ways.copy_checkout(installed)
    assert [path.name for path in copied.iterdir()] == ["new.py"]


def test_an_installation_is_made_anew_when_what_it_came_of_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = '[build-system]\n[project]\ndependencies = ["{}"]\n[tool.hatch]\n[tool.ruff]\nline-length = {}\n'
    write(tmp_path / "pyproject.toml", project.format("torch", 1))
    write(tmp_path / "README.md", README)
    write(tmp_path / "debian/recipe.json", "bookworm")
    ran: list[str] = []

    def run(root: Root, command: str, **options: object) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        claim(root.folder)
        return subprocess.CompletedProcess(command, 0, "")

    monkeypatch.setattr(Root, "run", run)
    monkeypatch.setattr(Root, "make", lambda folder, packages: Root(folder))
    monkeypatch.setattr(ways, "CHECKOUT", tmp_path)
    monkeypatch.setattr(ways, "copy_checkout", lambda installed: None)

    def made() -> bool:
        ran.clear()
        left = tmp_path / "installed/left"
        if (tmp_path / "installed").exists():
            left.touch()
        ways.install(tmp_path, {})
        assert left.exists() != any("pip install" in command for command in ran)
        return not left.exists()

    assert made() and not made()
    write(tmp_path / "pyproject.toml", project.format("torch", 2))
    assert not made()
    write(tmp_path / "pyproject.toml", project.format("jax", 2))
    assert made() and not made()
    os.utime(tmp_path / "debian/recipe.json", (0, 0))
    assert made()
    write(tmp_path / "debian/recipe.json", "trixie")
    assert made()


def test_a_way_that_there_is_not_names_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--work", str(tmp_path), "--only"]
    assert ways.arguments([*given, "memory", "disk"]).only == ["memory", "disk"]
    assert ways.arguments(given[:2]).only == [way.name for way in ways.WAYS]
    with pytest.raises(SystemExit, match="2"):
        ways.arguments([*given, "memory", "comipler"])
    assert "argument --only: comipler: no such way; did you mean compiler? (there are: venv," in capsys.readouterr().err


def test_two_tables_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt_all(asked: argparse.Namespace) -> int:
        with (asked.work / "lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return 2

    monkeypatch.setattr(ways, "arguments", lambda: argparse.Namespace(work=tmp_path / "work"))
    monkeypatch.setattr(ways, "attempt_all", attempt_all)
    assert ways.main() == 1
