"""Where st_ssl or what it needs is not installed, a command ends in one line that says what installs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from st_ssl.cli import COMMANDS, guarded
from tests.runs import ROOT

INSTALL = f"pip install -e '{ROOT}[all]'"


def bare(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python without the packages of its environment, called far from the checkout."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "ST_SSL_TRACEBACK")}
    command = [sys.executable, "-S", *map(str, arguments)]
    return subprocess.run(
        command, cwd="/", env=kept | environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"doctor"}))
def test_a_tool_without_st_ssl_says_what_installs_it(command: str) -> None:
    done = bare("-P", ROOT / "tools" / f"{command}.py", "--help")  # -P: its own folder is not looked in
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: st_ssl is not installed in this Python: ") and done.stderr.count("\n") == 1
    assert done.stderr.endswith(f"{INSTALL}\n")


@pytest.mark.parametrize(
    "call", [[ROOT / "tools" / "pretrain.py"], ["-m", "st_ssl", "pretrain"]], ids=["tool", "module"]
)
def test_a_package_that_is_not_installed_is_named(call: list[object]) -> None:
    done = bare(*call, "configs/quickstart/video.yaml", PYTHONPATH=str(ROOT))
    assert (done.returncode, done.stdout) == (1, "")
    line = done.stderr.splitlines()[-1]  # behind the one that says where the configuration is
    assert re.match(r"error: (pydantic|pyyaml) is not installed in this Python: ", line) and INSTALL in line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["st_ssl.cli.nothing", "numpy.nothing", "numbre", None])
def test_a_part_that_an_installed_package_lacks_and_a_mistake_of_ours_are_no_such_case(name: str | None) -> None:
    def command() -> int:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    with pytest.raises(ModuleNotFoundError):
        guarded(command)


def test_a_mistake_of_ours_keeps_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "st_ssl").mkdir()
    (tmp_path / "st_ssl" / "cli.py").write_text("import numbre\n")
    (tmp_path / "st_ssl" / "__init__.py").touch()
    done = bare(ROOT / "tools" / "pretrain.py", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1 and done.stderr.endswith("ModuleNotFoundError: No module named 'numbre'\n")
