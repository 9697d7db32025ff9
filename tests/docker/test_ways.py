"""The table of ways in which a bare machine can go wrong: what counts as right, and that it follows README.md."""

from __future__ import annotations

import re

import pytest
import ways

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
