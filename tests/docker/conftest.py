"""The files of docker/bare run as scripts and import each other by their bare names: here alone, tests do so too."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.runs import ROOT

sys.path.insert(0, str(ROOT / "docker" / "bare"))
if TYPE_CHECKING:
    from root import Root

TOOLS = ("sh", "cat", "chmod", "id", "ls", "mkdir", "rm", "sleep", "touch", "true")


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Root:
    """A root with a shell, a few tools, their libraries and three users."""
    from root import Root

    made = Root(tmp_path_factory.mktemp("bare") / "shell")
    for tool in TOOLS:
        program = shutil.which(tool)
        assert program
        linked = subprocess.run(["ldd", program], capture_output=True, text=True).stdout.split()
        for file in [program, *(word for word in linked if word.startswith("/"))]:
            place = made.tree / (f"bin/{tool}" if file == program else file.lstrip("/"))
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(os.path.realpath(file), place)
    (made.tree / "etc").mkdir()
    (made.tree / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n_user:x:7:8::/home:/bin/sh\n")
    (made.tree / "etc/group").write_text("root:x:0:\nus:x:8:\nvideo:x:9:_user\n")
    (made.tree / "link").symlink_to("etc")
    (made.tree / "tmp").mkdir()
    (made.tree / "tmp").chmod(0o1777)
    return made
