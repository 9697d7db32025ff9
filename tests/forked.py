"""Processes forked from a server that has imported torch and the package once: a start takes a tenth of a second."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.util import Finalize
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).parents[1]


@cache
def server() -> ForkServerContext:
    """Where processes come from; the first call starts the server. ``torch.multiprocessing`` with ``forkserver`` then
    uses it too. What processes see of the environment is that of the first call."""
    multiprocessing.set_forkserver_preload(["tests.warm"])
    with patch.dict(os.environ, PYTHONPATH=str(ROOT)):
        forkserver.ensure_running()
    return multiprocessing.get_context("forkserver")


class Forked:
    """``python script arguments``, begun; stdout and stderr go to ``folder``."""

    def __init__(self, script: Path, arguments: list[str], environment: dict[str, str], folder: Path) -> None:
        self.said, self.complained = folder / "stdout", folder / "stderr"
        streams = (self.said, self.complained)
        self.process = server().Process(target=_be_script, args=(script, arguments, environment, streams))
        self.process.start()
        Finalize(None, self.process.kill, exitpriority=0)  # else a failed test would wait for it at the end

    def poll(self) -> int | None:
        """The exit code, minus a signal for one that ended it; None while it runs."""
        return self.process.exitcode

    def kill(self) -> int:
        """End it at once: the exit code."""
        self.process.kill()
        self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode

    def wait(self, patience: float) -> int:
        """The exit code; whoever takes more than ``patience`` seconds is ended."""
        self.process.join(patience)
        code = self.process.exitcode
        if code is None:
            self.kill()
        assert code is not None, f"not within {patience:g} s:\n{self.said.read_text()}\n{self.complained.read_text()}"
        return code


def _be_script(script: Path, arguments: list[str], environment: dict[str, str], streams: tuple[Path, Path]) -> None:
    for number, file in enumerate(streams, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    multiprocessing.set_start_method(None, force=True)  # as in a process of its own
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
